"""Goal: every spelling of an instant names that instant to the microsecond, and what is no instant is refused.

Method: a table of spellings; `datetime` as the dumb twin for random instants, zones and truncations.
"""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadefs.vpath import Ago, Now, Time, format_time
from cascadefs.vpath.instant import CANON, DURATION, T, parse_time, timestamp_of

UTC = datetime.UTC
EPOCH = datetime.datetime.fromtimestamp(0, UTC)
PROPERTY = settings(database=None, deadline=None, max_examples=300)


def at(*fields, zone=UTC):
    return Time(
        (datetime.datetime(*fields, tzinfo=zone) - EPOCH) // datetime.timedelta(microseconds=1)
    )


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", Now()),
        ("-10m", Ago(600_000_000)),
        ("-1w2d3h4m5s", Ago(788_645_000_000)),
        # Truncated: the start of the interval
        ("2026", at(2026, 1, 1)),
        ("2026-11", at(2026, 11, 1)),
        ("2026-11-21", at(2026, 11, 21)),
        ("20261121", at(2026, 11, 21)),
        ("2026-11-21T10", at(2026, 11, 21, 10)),
        ("2026-11-21T10:05", at(2026, 11, 21, 10, 5)),
        ("2026-11-21T10:05:07", at(2026, 11, 21, 10, 5, 7)),
        # Each separator is optional by itself
        ("2026-11-21_10:05:07", at(2026, 11, 21, 10, 5, 7)),
        ("2026-11-21T1005", at(2026, 11, 21, 10, 5)),
        ("2026-11-21T10:0507", at(2026, 11, 21, 10, 5, 7)),
        ("20261121T10", at(2026, 11, 21, 10)),
        ("20261121T1005", at(2026, 11, 21, 10, 5)),
        ("20261121_100507", at(2026, 11, 21, 10, 5, 7)),
        ("20261121T10:05:07", at(2026, 11, 21, 10, 5, 7)),
        ("20261121T100507Z", at(2026, 11, 21, 10, 5, 7)),
        # Fractions: full stop and comma, never rounded up
        ("2026-11-21T10:05:07.25", at(2026, 11, 21, 10, 5, 7, 250_000)),
        ("2026-11-21T10:05:07,25Z", at(2026, 11, 21, 10, 5, 7, 250_000)),
        ("2026-11-21T10:05:07.000001", at(2026, 11, 21, 10, 5, 7, 1)),
        ("2026-11-21T10:05:07.123456999", at(2026, 11, 21, 10, 5, 7, 123_456)),
        ("1969-12-31T23:59:59.999999999", Time(-1)),
        # Zones, which only a time of day has
        ("2026-11-21T10:05Z", at(2026, 11, 21, 10, 5)),
        ("2026-11-21T10:05+01:00", at(2026, 11, 21, 9, 5)),
        ("2026-11-21T10:05+0130", at(2026, 11, 21, 8, 35)),
        ("2026-11-21T10:05-01", at(2026, 11, 21, 11, 5)),
        ("2026-11-21T10-01", at(2026, 11, 21, 11)),
        ("2026-11-21T10-00:00", at(2026, 11, 21, 10)),
        ("2026-01-01T00+23:59", at(2025, 12, 31, 0, 1)),
        ("2026-11-21T10:05:07.5-05:30", at(2026, 11, 21, 15, 35, 7, 500_000)),
        # DIGITS by length
        ("1763719200", Time(1763719200_000_000)),
        ("1763719200123", Time(1763719200_123_000)),
        ("1763719200123456", Time(1763719200_123_456)),
        ("1763719200123456999", Time(1763719200_123_456)),
        ("0000000000", Time(0)),
        ("9999999999", Time(9999999999_000_000)),
        ("20261121100507", at(2026, 11, 21, 10, 5, 7)),
        ("20261121100507123", at(2026, 11, 21, 10, 5, 7, 123_000)),
        # The ends of what can be printed, and the calendar
        ("0001", at(1, 1, 1)),
        ("9999-12-31T23:59:59.999999", at(9999, 12, 31, 23, 59, 59, 999_999)),
        ("9999-12-31T23:59:59.999999+01", at(9999, 12, 31, 22, 59, 59, 999_999)),
        ("2024-02-29", at(2024, 2, 29)),
        ("2000-02-29", at(2000, 2, 29)),
    ],
)
def test_a_spelling(text, instant):
    assert parse_time(text.encode()) == instant
    assert re.fullmatch(T, text.encode())


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2026-00",
            "2026-13",
            "2026-02-30",
            "2025-02-29",
            "1900-02-29",
            "2026-11-00",
            "0000",
            "0000-01-01",
        ),
        *(
            "2026-11-21T24",
            "2026-11-21T24:00:00",
            "2026-11-21T10:60",
            "2026-11-21T10:05:60",
            "2016-12-31T23:59:60Z",
        ),
        *(
            "2026-11-21T10+24",
            "2026-11-21T10+01:60",
            "0001-01-01T00+00:01",
            "9999-12-31T23:59-00:01",
        ),
        *("20260230", "20261301000000", "20261121240000", "20261121100060123"),
        *(
            "1",
            "12",
            "123",
            "20261",
            "202611",
            "2026112",
            "202611211",
            "17637192001",
            "176371920012",
        ),
        *("176371920012345", "176371920012345678", "17637192001234567890", "1" * 60),
    ],
)
def test_the_shape_of_a_time_but_no_such_instant(text):
    assert re.fullmatch(T, text.encode())
    with pytest.raises(ValueError, match=r"."):
        parse_time(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "Now",
            " now",
            "now ",
            "2026 ",
            "+2026",
            "2026-",
            "2026-1",
            "2026-1-1",
            "202611-21",
            "2026-1121",
        ),
        *(
            "2026T10",
            "2026-11T10",
            "2026-11-21Z",
            "2026-11-21+01:00",
            "2026-11-21T",
            "2026-11-21t10",
            "2026-11-21 10:00",
        ),
        *(
            "2026-11-21T1",
            "2026-11-21T10:",
            "2026-11-21T10:5",
            "2026-11-21T10:05:",
            "2026-11-21T10:05:07.",
        ),
        *(
            "2026-11-21T10.5",
            "2026-11-21T10:05.5",
            "2026-11-21T10:05:07.1234567890",
            "2026-11-21T10:05:07.5,5",
        ),
        *(
            "2026-11-21T10z",
            "2026-11-21T10ZZ",
            "2026-11-21T10+1",
            "2026-11-21T10+01:",
            "2026-11-21T10+01:0",
            "1763719200Z",
        ),
        *(
            "2026-W47-6",
            "2026-325",
            "-",
            "--1h",
            "-1",
            "-h",
            "-1H",
            "-1h1",
            "-1.5h",
            "- 1h",
            "-1y",
            "2026\n",
            "٢٠٢٦",
        ),
        "-" + "1" * 21 + "s",
    ],
)
def test_not_the_shape_of_a_time(text):
    assert not re.fullmatch(T, text.encode())
    with pytest.raises(ValueError, match=r"."):
        parse_time(text.encode())


def test_a_zone_is_for_what_has_none():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert parse_time(b"2026-11-21", zone) == at(2026, 11, 20, 22)
    assert parse_time(b"20261121100000", zone) == at(2026, 11, 21, 8)
    assert parse_time(b"2026-11-21T10:00Z", zone) == at(2026, 11, 21, 10)
    assert parse_time(b"2026-11-21T10:00-01", zone) == at(2026, 11, 21, 11)
    assert parse_time(b"1763719200", zone) == Time(1763719200_000_000)


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (0, b"19700101T000000Z"),
        (-1, b"19691231T235959.999999Z"),
        (1, b"19700101T000000.000001Z"),
        (at(2026, 11, 21, 10).timestamp, b"20261121T100000Z"),
        (at(2026, 11, 21, 10, 0, 0, 123456).timestamp, b"20261121T100000.123456Z"),
        (at(2026, 11, 21, 10, 0, 0, 500000).timestamp, b"20261121T100000.500000Z"),
        (at(2026, 11, 21, 10, 0, 0, 1200).timestamp, b"20261121T100000.001200Z"),
        (at(1, 1, 1).timestamp, b"00010101T000000Z"),
        (at(9999, 12, 31, 23, 59, 59, 999_999).timestamp, b"99991231T235959.999999Z"),
    ],
)
def test_the_one_form_that_is_printed(timestamp, text):
    assert format_time(timestamp) == text
    assert parse_time(text) == Time(timestamp)


@pytest.mark.parametrize(
    "timestamp",
    [at(1, 1, 1).timestamp - 1, at(9999, 12, 31, 23, 59, 59, 999_999).timestamp + 1, 2**80],
)
def test_what_has_no_year_is_not_printed(timestamp):
    with pytest.raises(ValueError, match="years"):
        format_time(timestamp)


def test_a_zone_may_overflow_the_calendar():
    class Odd(datetime.tzinfo):
        def utcoffset(self, when):
            raise OverflowError

    with pytest.raises(ValueError, match="years"):
        timestamp_of(datetime.datetime(9999, 12, 31, tzinfo=Odd()))
    with pytest.raises(AssertionError):
        timestamp_of(datetime.datetime(2026, 1, 1))


ZONES = st.integers(-1439, 1439).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
MOMENTS = st.datetimes(
    datetime.datetime(2, 1, 1), datetime.datetime(9998, 12, 31), timezones=ZONES | st.just(UTC)
)


def zone_text(when):
    sign = "-" if when.utcoffset() < datetime.timedelta(0) else "+"
    minutes = abs(when.utcoffset()) // datetime.timedelta(minutes=1)
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}"


@PROPERTY
@given(MOMENTS)
def test_isoformat_and_back(when):
    expected = Time((when - EPOCH) // datetime.timedelta(microseconds=1))
    iso = when.isoformat()
    assert parse_time(iso.encode()) == expected
    assert parse_time(iso.replace("T", "_").replace(".", ",").encode()) == expected
    clock = when.replace(tzinfo=None).isoformat()
    for zone in (zone_text(when), zone_text(when).replace(":", "")):
        assert parse_time((clock.replace(":", "") + zone).encode()) == expected
    assert parse_time(clock.encode(), when.tzinfo) == expected
    assert datetime.datetime.fromisoformat(format_time(expected.timestamp).decode()) == when


@PROPERTY
@given(MOMENTS, st.sampled_from([(4, 1), (7, 2), (10, 3), (13, 4), (16, 5), (19, 6)]))
def test_truncated_is_the_start(when, cut):
    length, fields = cut
    text = when.replace(tzinfo=None).isoformat()[:length]
    start = datetime.datetime(*(*when.timetuple()[:fields], 1, 1)[: max(fields, 3)], tzinfo=UTC)
    assert parse_time(text.encode()) == Time((start - EPOCH) // datetime.timedelta(microseconds=1))


@PROPERTY
@given(st.integers(0, 9_999_999_999_999_999_999))
def test_nanoseconds_round_down(ns):
    assert parse_time(b"%019d" % ns) == Time(ns // 1000)
    assert parse_time(b"%016d" % (ns // 10**3)) == Time(ns // 10**3)
    assert parse_time(b"%013d" % (ns // 10**6)) == Time(ns // 10**6 * 1000)
    assert parse_time(b"%010d" % (ns // 10**9)) == Time(ns // 10**9 * 1_000_000)


@PROPERTY
@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_printed_times_parse_back_and_are_exact(timestamp):
    text = format_time(timestamp)
    assert re.fullmatch(CANON, text)
    assert len(text) == (23 if timestamp % 1_000_000 else 16)
    assert parse_time(text) == Time(timestamp)


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("smhdw")), min_size=1))
def test_a_duration_is_the_sum_of_its_terms(terms):
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    text = "".join(f"{count}{letter}" for count, letter in terms).encode()
    total = sum((datetime.timedelta(**{unit[u]: n}) for n, u in terms), datetime.timedelta())
    assert re.fullmatch(DURATION, text)
    assert parse_time(b"-" + text) == Ago(total // datetime.timedelta(microseconds=1))


@settings(PROPERTY, max_examples=400)
@given(st.from_regex(T, fullmatch=True))
def test_what_has_the_shape_parses_or_is_refused(text):
    try:
        instant = parse_time(text)
    except ValueError:
        return
    if isinstance(instant, Time):
        assert parse_time(format_time(instant.timestamp)) == instant
