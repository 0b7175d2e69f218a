"""A policy says what it says, keeps what a boundary shows, and a malformed one is told what is wrong with it.

Method: the grammar by example; the meaning against a dumb twin that asks, for every boundary in the window, which
version was there, instead of computing it.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.retention.policy import FOREVER_US, MalformedPolicy, parse

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_763_719_200 * SECOND  # 2025-11-21T10:00:00Z, a Friday


def test_the_example_of_the_contract():
    policy = parse(b"all:24h,hour:7d,day:90d,week:2y;min=3;max=10000;ephemeral=60s")
    assert [(w.name, w.length_us) for w in policy.windows] == [
        ("all", DAY),
        ("hour", 7 * DAY),
        ("day", 90 * DAY),
        ("week", 730 * DAY),
    ]
    assert (policy.versions_min, policy.versions_max) == (3, 10_000)
    assert policy.ephemeral_us == 60 * SECOND


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "a window is one of all:"),
        (b"hours:3d", "a window is one of all:"),
        (b"all", "a duration like 24h"),
        (b"all:24", "no duration"),
        (b"all:h", "no duration"),
        (b"all:1h,all:2h", "finer windows come first"),
        (b"day:9d,hour:99d", "finer windows come first"),
        (b"all:7d,hour:7d", "keeps nothing"),
        (b"all:forever,hour:7d", "keeps nothing"),
        (b"all:1h;min", "an option is"),
        (b"all:1h;keep=3", "an option is"),
        (b"all:1h;min=x", "a number from 0 on"),
        (b"all:1h;max=0", "a number from 1 on"),
        (b"all:1h;min=1;min=2", "given twice"),
        (b"all:1h;min=5;max=4", "less than min"),
        (b"all:1h;ephemeral=60", "no duration"),
        (b"all:1h\xff", "not ASCII"),
        (b"all:1h," + b"x" * 2000, "longer than"),
    ],
)
def test_what_is_malformed_and_why(text, says):
    with pytest.raises(MalformedPolicy, match=says):
        parse(text)


def test_durations_add_up_and_some_windows_never_end():
    assert parse(b"all:1h30m").windows[0].length_us == 90 * 60 * SECOND
    assert parse(b"all:1d,day:forever").windows[1].length_us == FOREVER_US


def test_weeks_begin_on_monday_and_days_at_midnight_utc():
    week, day = parse(b"week:2y").windows[0], parse(b"day:90d").windows[0]
    monday = 1_763_337_600 * SECOND  # 2025-11-17T00:00:00Z
    assert week.is_boundary(monday)
    assert day.is_boundary(monday)
    assert not week.is_boundary(monday + DAY)
    assert week.last_boundary(NOW) == monday
    assert day.last_boundary(NOW) == monday + 4 * DAY


def test_min_keeps_the_newest_and_max_ends_everything():
    policy = parse(b"all:1h;min=3;max=5")
    old = (NOW - 9 * DAY, NOW - 8 * DAY)
    assert [policy.why_kept(NOW, *old, rank) for rank in range(4)] == ["min"] * 3 + [None]
    new = (NOW - 60 * SECOND, NOW)
    assert [policy.why_kept(NOW, *new, rank) for rank in (3, 4, 5)] == ["all", "all", None]


WINDOWS = st.sampled_from(
    [b"all:3h,hour:1d", b"hour:2d", b"all:90m,hour:12h,day:9d", b"day:20d,week:60d", b"minute:2h"]
)
PERIODS = {"minute": 60 * SECOND, "hour": HOUR, "day": DAY, "week": 7 * DAY}


@given(WINDOWS, st.integers(0, 30 * DAY), st.integers(1, 3 * DAY))
@example(b"hour:2d", HOUR, HOUR)
@example(b"hour:2d", HOUR - 1, 1)
@example(b"all:3h,hour:1d", 4 * HOUR, 2 * HOUR)
def test_a_version_is_kept_if_an_instant_of_the_policy_shows_it(text, ago, length):
    policy = parse(text)
    start = NOW - ago - length
    end = NOW - ago

    def shown_at_a_boundary(window) -> bool:
        period = PERIODS[window.name]
        phase = 4 * DAY if window.name == "week" else 0
        first = (NOW - window.length_us - phase) // period - 1
        instants = (first + k for k in range(window.length_us // period + 3))
        kept = (n * period + phase for n in instants)
        return any(start <= at < end for at in kept if at >= NOW - window.length_us)

    expected = any(
        end > NOW - w.length_us if w.name == "all" else shown_at_a_boundary(w)
        for w in policy.windows
    )
    assert (policy.why_kept(NOW, start, end, 1) is not None) == expected


@given(WINDOWS, st.integers(0, 70 * DAY))
def test_a_kept_instant_shows_a_kept_version(text, ago):
    policy = parse(text)
    if policy.keeps_instant(NOW, NOW - ago):
        for start, end in ((NOW - ago, NOW - ago + 1), (NOW - ago - HOUR, NOW - ago + HOUR)):
            assert policy.why_kept(NOW, start, end, 1) is not None


@given(WINDOWS)
def test_the_listed_instants_are_kept_and_newest_first(text):
    policy = parse(text)
    listed = policy.instants(NOW, 50)
    assert listed == sorted(listed, reverse=True)
    assert all(policy.keeps_instant(NOW, at) for at in listed)
    assert len(listed) <= 50
