"""Goal: a name means exactly what the grammar of SEMANTICS 2 says, and what is printed parses back.

Method: a table with a row for every example of SEMANTICS and every sharp edge; then names built from the grammar,
names printed by the formatters, and arbitrary bytes.
"""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadefs.vpath import (
    Ago,
    Condition,
    Deleted,
    Event,
    Historic,
    Malformed,
    Now,
    Tag,
    Time,
    Version,
    VersionBack,
    Versions,
    format_at,
    format_condition,
    format_time,
    format_version,
    parse,
    split_extension,
)
from cascadefs.vpath.component import _bare_spec, _keyed_spec

SECOND = 1_000_000
TEN = int(datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.UTC).timestamp()) * SECOND
HOUR = 3600 * SECOND

PROPERTY = settings(database=None, deadline=None, max_examples=200)

HISTORIC = [
    # SEMANTICS 0
    (b"cfg.yaml@v3", b"cfg.yaml", Version(3)),
    (b"cfg@v3.yaml", b"cfg.yaml", Version(3)),
    (b"cfg.yaml@t=2026-11-21T10:00", b"cfg.yaml", Time(TEN)),
    (b"cfg.yaml@20261121T100000Z", b"cfg.yaml", Time(TEN)),
    (b"cfg.yaml@-10m", b"cfg.yaml", Ago(600 * SECOND)),
    (b"cfg.yaml@t=1763719200", b"cfg.yaml", Time(1763719200 * SECOND)),
    (b"data@-1h", b"data", Ago(HOUR)),
    (b"cfg.yaml@@", b"cfg.yaml", Versions()),
    (b"data@tag-run7", b"data", Tag(b"run7")),
    # Versions
    (b"x@v12.csv.gz", b"x.csv.gz", Version(12)),
    (b"x.csv.gz@v12", b"x.csv.gz", Version(12)),
    (b"f@v0", b"f", Version(0)),
    (b"f@v-0", b"f", VersionBack(0)),
    (b"f@v-1.csv", b"f.csv", VersionBack(1)),
    (b"f@v" + b"9" * 20, b"f", Version(10**20 - 1)),
    (b"f@v1.", b"f.", Version(1)),
    (b"f@v1..", b"f..", Version(1)),
    (b"mod@v1.2.3", b"mod.2.3", Version(1)),
    (b"f@v3.a=b", b"f.a=b", Version(3)),
    (b"f@v3.t=b", b"f.t=b", Version(3)),
    (b"f@v3.a\nb\0", b"f.a\nb\0", Version(3)),
    # Stems
    (b"a@b@v3", b"a@b", Version(3)),
    (b"a@v2@v3", b"a@v2", Version(3)),
    (b"a@@v3", b"a@", Version(3)),
    (b"@@v3", b"@", Version(3)),
    (b"a@b.com@v3", b"a@b.com", Version(3)),
    (b"\xff\xfe\n@v3", b"\xff\xfe\n", Version(3)),
    (b" @v3", b" ", Version(3)),
    (b"n" * 255 + b"@v2", b"n" * 255, Version(2)),
    (b".@v3", b".", Version(3)),
    (b".@v3.csv", b"..csv", Version(3)),
    (b"...@v3", b"...", Version(3)),
    (b".bashrc@v3", b".bashrc", Version(3)),
    # The directory, its deleted names, and listings
    (b".@-1h", b".", Ago(HOUR)),
    (b".@20261121T100000Z", b".", Time(TEN)),
    (b".@deleted", b".", Deleted()),
    (b"dir@deleted", b"dir", Deleted()),
    (b"x@deleted.csv", b"x.csv", Deleted()),
    (b".@@", b".", Versions()),
    (b"dir@@", b"dir", Versions()),
    (b"a@@@", b"a@", Versions()),
    (b"@@@", b"@", Versions()),
    (b"a@v3@@", b"a@v3", Versions()),
    # Times, bare
    (b"f@20261121T100000.5Z", b"f", Time(TEN + 500_000)),
    (b"f@20261121T100000.123456Z.csv", b"f.csv", Time(TEN + 123_456)),
    (b"f@20261121T100000.123456999Z", b"f", Time(TEN + 123_456)),
    (b"f@20261121T100000.0Z", b"f", Time(TEN)),
    (b"f@20261121T100000Z.25", b"f.25", Time(TEN)),
    (b"gone@-90s", b"gone", Ago(90 * SECOND)),
    (b"f@-1h30m.csv", b"f.csv", Ago(90 * 60 * SECOND)),
    (b"f@-2d", b"f", Ago(48 * HOUR)),
    (b"f@-1w", b"f", Ago(7 * 24 * HOUR)),
    (b"f@-0s", b"f", Ago(0)),
    (b"f@-007s", b"f", Ago(7 * SECOND)),
    (b"f@-1s1m1s", b"f", Ago(62 * SECOND)),
    (b"f@-" + b"9" * 20 + b"w", b"f", Ago((10**20 - 1) * 7 * 24 * HOUR)),
    # Times, keyed: where the time ends and the extension begins
    (b"f@t=now", b"f", Now()),
    (b"f@t=now.csv", b"f.csv", Now()),
    (b"f@t=-10m", b"f", Ago(600 * SECOND)),
    (b"f@t=-1h30m.csv", b"f.csv", Ago(90 * 60 * SECOND)),
    (b"f@t=2026-11-21T10:00.csv", b"f.csv", Time(TEN)),
    (b"f@t=2026-11-21T10.csv", b"f.csv", Time(TEN)),
    (b"f@t=2026-11-21T10:00:00.csv", b"f.csv", Time(TEN)),
    (b"f@t=2026-11-21T10:00:00.25", b"f", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T10:00:00.25.csv", b"f.csv", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T10:00:00.25.5", b"f.5", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T10:00:00,25.csv", b"f.csv", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T10:00:00.25Z.csv", b"f.csv", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T11:00:00.25+01:00.csv", b"f.csv", Time(TEN + 250_000)),
    (b"f@t=2026-11-21T10:00:00.7z", b"f.7z", Time(TEN)),
    (b"f@t=2026-11-21T10:00:00.7Z", b"f", Time(TEN + 700_000)),
    (b"f@t=2026-11-21T10:00:00.123456789", b"f", Time(TEN + 123_456)),
    (b"f@t=2026-11-21T10:00:00.1234567890", b"f.1234567890", Time(TEN)),
    (b"f@t=2026-11-21T10:00.25", b"f.25", Time(TEN)),
    (b"f@t=2026-11-21T10.5", b"f.5", Time(TEN)),
    (b"f@t=1763719200.csv", b"f.csv", Time(1763719200 * SECOND)),
    (b"f@t=1763719200.25", b"f.25", Time(1763719200 * SECOND)),
    (b"f@t=2026-11-21T12:00+02", b"f", Time(TEN)),
    (b"f@t=20261121T100000Z.csv", b"f.csv", Time(TEN)),
    (b"data@t=2026", b"data", Time(1767225600 * SECOND)),
    # Event time
    (b"f@e=2026-11-21T10:00", b"f", Event(Time(TEN))),
    (b"f@e=2026-11-21T10:00.csv", b"f.csv", Event(Time(TEN))),
    (b"f@e=2026-11-21T10:00,t=2026-11-21T11:00", b"f", Event(Time(TEN), Time(TEN + HOUR))),
    (b"f@e=2026-11-21T10:00:00,25,t=now.csv", b"f.csv", Event(Time(TEN + 250_000), Now())),
    (b"f@e=2026-11-21T10:00:00.25,t=now.csv", b"f.csv", Event(Time(TEN + 250_000), Now())),
    (b"f@e=now,t=-10m", b"f", Event(Now(), Ago(600 * SECOND))),
    (b"f@e=-10m", b"f", Event(Ago(600 * SECOND))),
    (b"f@e20261121T100000Z", b"f", Event(Time(TEN))),
    (b"f@e20261121T100000.5Z.csv", b"f.csv", Event(Time(TEN + 500_000))),
    (b"f@e20261121T100000Z,20261121T110000Z", b"f", Event(Time(TEN), Time(TEN + HOUR))),
    (b"f@e20261121T100000Z,20261121T110000Z.csv", b"f.csv", Event(Time(TEN), Time(TEN + HOUR))),
    # To the letter: this dot is no fraction's, so it starts an extension, and an extension may hold commas.
    (b"f@e=2026-11-21T10:00.25,t=now", b"f.25,t=now", Event(Time(TEN))),
    # Tags and conditions
    (b"data@tag=rel1", b"data", Tag(b"rel1")),
    (b"cfg@tag-rel1.csv", b"cfg.csv", Tag(b"rel1")),
    (b"cfg@tag=a-b_c-9.csv", b"cfg.csv", Tag(b"a-b_c-9")),
    (b"d@tag-" + b"L" * 64, b"d", Tag(b"L" * 64)),
    (b"f@if=v12", b"f", Condition(12)),
    (b"f@if-v12", b"f", Condition(12)),
    (b"f@if=v0", b"f", Condition(0)),
    (b"f@if-v0.csv", b"f.csv", Condition(0)),
    (b"f@if=v12.csv", b"f.csv", Condition(12)),
]

LITERAL = [
    # SEMANTICS 2, "foreign trees", and 5
    *(b"icon@2x.png", b"react@18.2.0", b"python@3.12", b"@types", b"a@b.com", b"getty@tty1"),
    *(b"f@vx", b"f@2x"),
    *(b"", b".", b"..", b"plain", b"plain.csv", b"v3", b"t=now", b"\xff"),
    # An empty stem, or nothing after the sign
    *(
        b"@",
        b"@@",
        b"@v3",
        b"@v3.csv",
        b"@deleted",
        b"@t=now",
        b"@t=bad",
        b"@tag-rel1",
        b"f@",
        b"f@b@",
    ),
    # Nearly a listing
    *(b"file@@.csv", b"file@@x", b"@@.csv"),
    # Nobody is called "..", and a component holds no "/"
    *(b"..@v3", b"..@@", b"..@t=bad", b".@v3.", b".@t=now.", b".@t=bad."),
    *(b"a/b@v3", b"a@v3/b", b"a@v3.x/y", b"a@t=now/b", b"a@t=x/y", b"a/b@@"),
    # Versions: no sign, no leading zero, not more than 20 digits, ASCII digits, and nothing after but a dot
    *(b"f@v", b"f@v-", b"f@v.csv", b"f@v007", b"f@v00", b"f@v-01", b"f@v+1", b"f@v--1", b"f@v 1"),
    *(b"f@v" + b"9" * 21, b"f@V3", b"f@v3x", b"f@v3-", b"f@v3\n", b"f@v3,csv", "f@v٣".encode()),
    # CANON is exact, and of a day that there is
    *(b"f@20261121T100000", b"f@20261121t100000Z", b"f@20261121T100000z", b"f@20261121T1000Z"),
    *(b"f@20261121_100000Z", b"f@20261121T100000+00:00", b"f@20261121T100000.Z", b"f@20261121"),
    *(b"f@20261121T100000,5Z", b"f@20261121T100000.1234567890Z", b"f@2026-11-21T10:00:00Z"),
    *(b"f@20260230T100000Z", b"f@20261121T240000Z", b"f@20261121T100060Z", b"f@00000101T000000Z"),
    # Durations
    *(
        b"f@-",
        b"f@-10",
        b"f@-m",
        b"f@-10M",
        b"f@-10m5",
        b"f@10m",
        b"f@--10m",
        b"f@-1.5h",
        b"f@-1h ",
        b"f@-10y",
    ),
    b"f@-" + b"9" * 21 + b"s",
    # Event
    *(b"f@e", b"f@e2026", b"f@e20261121T100000Z,", b"f@e20261121T100000Z,t=20261121T110000Z"),
    *(b"f@e20260230T100000Z", b"f@e20261121T100000Z,20260230T110000Z", b"f@e-10m"),
    # Bare tags and conditions; keywords as plain words; case
    *(
        b"d@tag-",
        b"d@tag",
        b"d@tag-9",
        b"d@tag--a",
        b"d@tag-" + b"L" * 65,
        b"d@tag-a b",
        b"d@tagrel1",
    ),
    *(
        b"f@if",
        b"f@if-",
        b"f@if-12",
        b"f@if-v",
        b"f@if-v-1",
        b"f@if-v01",
        b"f@now",
        b"f@t",
        b"f@x=1",
    ),
    *(
        b"f@T=now",
        b"f@TAG=a",
        b"f@Deleted",
        b"f@deletedx",
        b"f@deleted=",
        b"f@=",
        b"f@=now",
        b"f@v=3",
    ),
]

MALFORMED = [
    (b"f@t=", b"f", b"t="),
    (b"f@t=.csv", b"f.csv", b"t="),
    (b"f@t=bogus", b"f", b"t=bogus"),
    (b"f@t=bogus.csv.gz", b"f.csv.gz", b"t=bogus"),
    (b"f@t=NOW", b"f", b"t=NOW"),
    (b"f@t=v3", b"f", b"t=v3"),
    (b"f@t==now", b"f", b"t==now"),
    (b"f@t=2026-02-30", b"f", b"t=2026-02-30"),
    (b"f@t=2026-02-30.csv", b"f.csv", b"t=2026-02-30"),
    (b"f@t=2026-02-30T10:00:00.25.csv", b"f.csv", b"t=2026-02-30T10:00:00.25"),
    (b"f@t=2026-11-21T10:00,25", b"f", b"t=2026-11-21T10:00,25"),
    (b"f@t=2026-11-21T10:00:60", b"f", b"t=2026-11-21T10:00:60"),
    (b"f@t=2026-11-21 10:00", b"f", b"t=2026-11-21 10:00"),
    (b"f@t=2026,t=2027", b"f", b"t=2026,t=2027"),
    (b"f@t=-5", b"f", b"t=-5"),
    (b"f@t=-" + b"9" * 21 + b"s", b"f", b"t=-" + b"9" * 21 + b"s"),
    (b"f@t=17637192001", b"f", b"t=17637192001"),
    (b"f@t=now\n", b"f", b"t=now\n"),
    (b"a@b@t=x", b"a@b", b"t=x"),
    (b".@t=x", b".", b"t=x"),
    (b"f@e=", b"f", b"e="),
    (b"f@e=mc2", b"f", b"e=mc2"),
    (b"f@e=2026,", b"f", b"e=2026,"),
    (b"f@e=2026,2027", b"f", b"e=2026,2027"),
    (b"f@e=2026,t=", b"f", b"e=2026,t="),
    (b"f@e=2026,t=2026-02-30.csv", b"f.csv", b"e=2026,t=2026-02-30"),
    (b"f@e=2026-13,t=2026", b"f", b"e=2026-13,t=2026"),
    (b"f@e=2026,e=2027", b"f", b"e=2026,e=2027"),
    (b"f@tag=", b"f", b"tag="),
    (b"f@tag=9", b"f", b"tag=9"),
    (b"f@tag=a b", b"f", b"tag=a b"),
    (b"f@tag=\xc3\xa9", b"f", b"tag=\xc3\xa9"),
    (b"f@tag=" + b"L" * 65, b"f", b"tag=" + b"L" * 65),
    (b"f@if=", b"f", b"if="),
    (b"f@if=12", b"f", b"if=12"),
    (b"f@if=v", b"f", b"if=v"),
    (b"f@if=v-1", b"f", b"if=v-1"),
    (b"f@if=v007", b"f", b"if=v007"),
    (b"f@if=v" + b"9" * 21 + b".csv", b"f.csv", b"if=v" + b"9" * 21),
]


@pytest.mark.parametrize(("component", "base", "spec"), HISTORIC)
def test_a_history_name(component, base, spec):
    assert parse(component) == Historic(base, spec)


@pytest.mark.parametrize("component", LITERAL)
def test_an_ordinary_name(component):
    assert parse(component) is None


@pytest.mark.parametrize(("component", "base", "text"), MALFORMED)
def test_a_malformed_value(component, base, text):
    found = parse(component)
    assert isinstance(found, Malformed)
    assert (found.base, found.text) == (base, text)
    assert found.why


@pytest.mark.parametrize(
    ("component", "why"),
    [
        (b"f@t=x", "t= takes a time"),
        (b"f@e=x", "e= takes a time, or a time and ,t= a time"),
        (b"f@tag=9", "tag= takes a letter, then at most 63 letters, digits, _ or -"),
        (b"f@if=12", "if= takes v and a version number"),
        (b"f@t=2026-02-30", "day is out of range for month"),
        (b"f@t=123456", "digits number 4, 8, 10, 13, 14, 16, 17 or 19"),
        (b"f@t=2026-11-21T10:00+24", "a zone is at most 23:59 from UTC"),
        (b"f@t=0001-01-01T00+01", "outside the years 1 to 9999"),
    ],
)
def test_a_malformed_value_says_why(component, why):
    assert parse(component).why == why


@pytest.mark.parametrize(
    "before", [b"t=", b"t=-", b"e=now,t=", b"if=v", b"t=2026-11-21T10:00:00.", b"v", b"-"]
)
def test_more_digits_than_python_turns_into_a_number(before):
    for after in (b"", b"s", b"Z"):
        found = parse(b"f@" + before + b"1" * 6000 + after)
        assert found is None or isinstance(found, Malformed) or found.spec == Time(TEN)


def test_values_are_values():
    assert {parse(b"f@v3"), parse(b"f@v3")} == {Historic(b"f", Version(3))}
    with pytest.raises(AttributeError):
        parse(b"f@v3").base = b"g"
    assert Version(3) != VersionBack(3) != Condition(3)


@pytest.mark.parametrize(
    ("base", "version", "at"),
    [
        (b"data", b"data@v3", b"data@20261121T100000Z"),
        (b".", b".@v3", b".@20261121T100000Z"),
        (b"cfg.yaml", b"cfg@v3.yaml", b"cfg@20261121T100000Z.yaml"),
        (b"x.csv.gz", b"x@v3.csv.gz", b"x@20261121T100000Z.csv.gz"),
        (b"x.7z", b"x@v3.7z", b"x@20261121T100000Z.7z"),
        (b"a.b.safetensors", b"a@v3.b.safetensors", b"a@20261121T100000Z.b.safetensors"),
        (
            b"report-2026.11.21.csv",
            b"report-2026.11.21@v3.csv",
            b"report-2026.11.21@20261121T100000Z.csv",
        ),
        (b"a.b.c.d", b"a.b@v3.c.d", b"a.b@20261121T100000Z.c.d"),
        (b"python3.12", b"python3.12@v3", b"python3.12@20261121T100000Z"),
        (b"lib.so.1.2", b"lib.so.1.2@v3", b"lib.so.1.2@20261121T100000Z"),
        (b".bashrc", b".bashrc@v3", b".bashrc@20261121T100000Z"),
        (b".config.json", b".config@v3.json", b".config@20261121T100000Z.json"),
        (b"..csv", b"..csv@v3", b"..csv@20261121T100000Z"),
        (b"a.", b"a.@v3", b"a.@20261121T100000Z"),
        (b"a..csv", b"a..csv@v3", b"a..csv@20261121T100000Z"),
        (b"a@b.com", b"a@b@v3.com", b"a@b@20261121T100000Z.com"),
        (b"a.b@c", b"a.b@c@v3", b"a.b@c@20261121T100000Z"),
        (b"a.c\n", b"a.c\n@v3", b"a.c\n@20261121T100000Z"),
        (b"n" * 251 + b".csv", b"n" * 251 + b"@v3.csv", b"n" * 251 + b"@20261121T100000Z.csv"),
    ],
)
def test_the_canonical_name_keeps_a_file_type_last(base, version, at):
    assert format_version(base, 3) == version
    assert format_at(base, TEN) == at
    assert parse(version) == Historic(base, Version(3))
    assert parse(at) == Historic(base, Time(TEN))


@pytest.mark.parametrize("base", [b"", b"..", b"a/b"])
def test_what_is_no_name_is_a_bug(base):
    with pytest.raises(AssertionError):
        format_version(base, 3)
    with pytest.raises(AssertionError):
        format_at(base, TEN)


@pytest.mark.parametrize("number", [-1, 10**20])
def test_what_is_no_version_is_a_bug(number):
    with pytest.raises(AssertionError):
        format_version(b"f", number)


def test_a_kind_the_matchers_do_not_have_is_a_bug():
    with pytest.raises(AssertionError):
        _bare_spec("other", b"")
    with pytest.raises(AssertionError):
        _keyed_spec(b"other", {"first": b""})


# Every legal name, and often one with the signs that could confuse.
NAMES = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.lists(
        st.sampled_from([b"a", b".", b"@", b"v3", b"csv", b"Z", b"7", b"=", b"t=", b"-1h"]),
        min_size=1,
    ).map(b"".join),
).filter(lambda name: name not in (b".", b"..") and b"/" not in name and len(name) <= 255)
BASES = NAMES | st.just(b".")
TIMESTAMPS = st.datetimes(timezones=st.just(datetime.UTC)).map(
    lambda when: (
        (when - datetime.datetime.fromtimestamp(0, datetime.UTC))
        // datetime.timedelta(microseconds=1)
    )
)
NUMBERS = st.integers(0, 2**64)


@PROPERTY
@given(BASES, NUMBERS)
def test_a_printed_version_parses_back(base, number):
    assert parse(format_version(base, number)) == Historic(base, Version(number))
    assert parse(format_condition(base, number)) == Historic(base, Condition(number))


@PROPERTY
@given(BASES, TIMESTAMPS)
def test_a_printed_instant_parses_back(base, timestamp):
    assert parse(format_at(base, timestamp)) == Historic(base, Time(timestamp))


@PROPERTY
@given(BASES)
def test_a_split_name_is_the_name(base):
    stem, extension = split_extension(base)
    assert stem + extension == base
    assert stem
    assert not extension or extension.startswith(b".")
    assert b"@" not in extension


CANONS = TIMESTAMPS.map(lambda timestamp: (format_time(timestamp), Time(timestamp)))
AGOS = st.integers(0, 10**9).map(lambda seconds: (b"-%ds" % seconds, Ago(seconds * SECOND)))
INSTANTS = CANONS | AGOS | st.just((b"now", Now()))
LABELS = st.from_regex(rb"\A[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
SPECS = st.one_of(
    NUMBERS.map(lambda n: (b"v%d" % n, Version(n))),
    NUMBERS.map(lambda n: (b"v-%d" % n, VersionBack(n))),
    CANONS,
    AGOS,
    INSTANTS.map(lambda t: (b"t=" + t[0], t[1])),
    INSTANTS.map(lambda e: (b"e=" + e[0], Event(e[1]))),
    st.tuples(INSTANTS, INSTANTS).map(
        lambda p: (b"e=" + p[0][0] + b",t=" + p[1][0], Event(p[0][1], p[1][1]))
    ),
    CANONS.map(lambda e: (b"e" + e[0], Event(e[1]))),
    st.tuples(CANONS, CANONS).map(
        lambda p: (b"e" + p[0][0] + b"," + p[1][0], Event(p[0][1], p[1][1]))
    ),
    LABELS.map(lambda label: (b"tag=" + label, Tag(label))),
    LABELS.map(lambda label: (b"tag-" + label, Tag(label))),
    NUMBERS.map(lambda n: (b"if=v%d" % n, Condition(n))),
    NUMBERS.map(lambda n: (b"if-v%d" % n, Condition(n))),
    st.just((b"deleted", Deleted())),
)
EXTENSIONS = st.just(b"") | st.binary(max_size=20).filter(lambda b: not {64, 47} & set(b)).map(
    b".".__add__
)


@PROPERTY
@given(BASES, SPECS, EXTENSIONS)
def test_whatever_the_grammar_derives_is_read_so(stem, said, extension):
    text, spec = said
    expected = None if stem + extension == b".." else Historic(stem + extension, spec)
    assert parse(stem + b"@" + text + extension) == expected


@PROPERTY
@given(BASES)
def test_every_name_has_a_listing(base):
    assert parse(base + b"@@") == Historic(base, Versions())


# Pieces of grammar in disorder reach far more of the parser than bytes alone do.
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            b"@ @@ . .. , - + : = / v v- v12 t= e= tag= tag- if= if-v now deleted 2026 -11 -21 T _ 10 :00 .25 ,25 Z "
            b"+01:00 20261121T100000Z 1h 30m ,t= 9999 0000 e20261121T100000Z 99999999999999999999".split()
        ),
    ),
    max_size=14,
).map(b"".join)


@settings(PROPERTY, max_examples=1500)
@given(PIECES)
def test_no_bytes_make_it_raise(component):
    found = parse(component)
    if found is None:
        return
    stem, _, text = component.rpartition(b"@")
    assert found.base not in (b"", b"..")
    assert b"/" not in found.base
    if isinstance(found, Malformed):
        assert text.startswith((b"t=", b"e=", b"tag=", b"if="))
        assert stem + b"@" + found.text + found.base.removeprefix(stem) == component
    elif not isinstance(found.spec, Versions):
        assert component.endswith(found.base.removeprefix(stem))
        assert found.base.startswith(stem)


@PROPERTY
@given(st.binary(max_size=300).filter(lambda name: b"@" not in name))
def test_a_name_without_the_sign_is_ordinary(name):
    assert parse(name) is None
