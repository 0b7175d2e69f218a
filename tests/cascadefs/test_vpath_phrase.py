"""Goal: what a person types at a command line is understood in their zone, and what is not is refused in words.

Method: a table, at a fixed now, in UTC, at a fixed offset and in a zone with summer time.
"""

from __future__ import annotations

import contextlib
import datetime
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadefs.vpath import Ago, Now, Time, parse_instant

UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=5))
SECOND = 1_000_000


def us(*fields, zone=UTC):
    epoch = datetime.datetime.fromtimestamp(0, UTC)
    return (datetime.datetime(*fields, tzinfo=zone) - epoch) // datetime.timedelta(microseconds=1)


NOW = us(2026, 11, 21, 21, 30, 15, 123)  # In EAST it is the 22nd already.


@pytest.mark.parametrize(
    ("text", "zone", "instant"),
    [
        ("now", UTC, Now()),
        ("10 minutes ago", UTC, Ago(600 * SECOND)),
        ("minute ago", UTC, Ago(60 * SECOND)),
        ("1 hour ago", EAST, Ago(3600 * SECOND)),
        ("90 seconds ago", UTC, Ago(90 * SECOND)),
        ("2 days ago", EAST, Ago(172_800 * SECOND)),
        ("3 weeks ago", UTC, Ago(1_814_400 * SECOND)),
        ("today", UTC, Time(us(2026, 11, 21))),
        ("today", EAST, Time(us(2026, 11, 21, 19))),
        ("yesterday", UTC, Time(us(2026, 11, 20))),
        ("yesterday 10:00", UTC, Time(us(2026, 11, 20, 10))),
        ("yesterday 10:00", EAST, Time(us(2026, 11, 21, 5))),
        ("today 9:05:07", UTC, Time(us(2026, 11, 21, 9, 5, 7))),
        ("2 days ago 10:00", UTC, Time(us(2026, 11, 19, 10))),
        ("1 week ago 10:00", EAST, Time(us(2026, 11, 15, 5))),
        ("  Yesterday   10:00 ", UTC, Time(us(2026, 11, 20, 10))),
        # The T of the grammar; what has no zone is local
        ("-10m", UTC, Ago(600 * SECOND)),
        ("2026-11-21T10:00", UTC, Time(us(2026, 11, 21, 10))),
        ("2026-11-21T10:00", EAST, Time(us(2026, 11, 21, 5))),
        ("2026-11-21 10:00", EAST, Time(us(2026, 11, 21, 5))),
        ("2026-11-21 10:00+01:00", EAST, Time(us(2026, 11, 21, 9))),
        ("20261121 1000Z", EAST, Time(us(2026, 11, 21, 10))),
        ("20261121T100000Z", EAST, Time(us(2026, 11, 21, 10))),
        ("2026", EAST, Time(us(2025, 12, 31, 19))),
        ("1763719200", EAST, Time(1763719200 * SECOND)),
    ],
)
def test_a_phrase(text, zone, instant):
    assert parse_instant(text, zone, NOW) == instant


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "tomorrow",
            "last monday",
            "now 10:00",
            "today 10",
            "today 25:00",
            "today 10:60",
            "today 10:00:60",
        ),
        *(
            "yesterday 10:00Z",
            "yesterday at 10:00",
            "10 minutes",
            "10 minutes ago 10:00",
            "minutes ago 10:00",
        ),
        *(
            "ten minutes ago",
            "-1 days ago",
            "1.5 hours ago",
            "1 month ago",
            "1" * 21 + " days ago",
            "٣ days ago",
        ),
        *(
            "NOW",
            "2026-02-30",
            "2026-11-21  T10",
            "2026 10:00",
            "t=2026",
            "v3",
            "yesterdaytoday",
            "é",
            "\ud800",
        ),
        *("9999999 days ago 10:00", "99999999999999999999 weeks ago 10:00"),
    ],
)
def test_what_is_no_phrase(text):
    with pytest.raises(ValueError, match=r".: ."):
        parse_instant(text, UTC, NOW)


def test_a_now_that_is_no_date():
    assert parse_instant("now", UTC, 2**80) == Now()
    with pytest.raises(ValueError, match="today"):
        parse_instant("today", UTC, 2**80)


def test_days_have_the_length_the_zone_gives_them():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    monday = us(2026, 3, 30, 10, zone=berlin)  # Clocks went forward on Sunday, 29 March 2026.
    assert parse_instant("2 days ago 10:00", berlin, monday) == Time(monday - 47 * 3600 * SECOND)
    assert parse_instant("2 days ago", berlin, monday) == Ago(48 * 3600 * SECOND)
    assert parse_instant("yesterday", berlin, monday) == Time(us(2026, 3, 28, 23))
    # A skipped time counts on from before; of a repeated one the first is meant.
    assert parse_instant("2026-03-29 02:30", berlin, monday) == Time(us(2026, 3, 29, 1, 30))
    assert parse_instant("2026-10-25 02:30", berlin, monday) == Time(us(2026, 10, 25, 0, 30))


@settings(database=None, deadline=None, max_examples=300)
@given(
    st.text(max_size=40) | st.text("0123456789 :-agodysinhmwter", max_size=24),
    st.integers(0, 2**62),
)
def test_no_text_makes_it_raise_anything_else(text, now_us):
    with contextlib.suppress(ValueError):
        parse_instant(text, EAST, now_us)
