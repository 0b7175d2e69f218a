"""A point in time as a name spells it: the T of the grammar, and CANON, the one form that is printed (SEMANTICS 2).

Text is matched twice. `T` says only what has the shape of a time, so that `component` can tell where a time ends and
an extension begins; `parse_time` then says which instant that is, or why there is none (month 13, 30 February,
second 60, eleven digits). Every `Time` lies in the years 1 to 9999, so every `Time` can be printed.

A truncated time is the start of its interval. Digits below the microsecond are dropped, that is rounded down, before
1970 as well: commits carry whole microseconds, so "newest commit <= T" has the same answer for both. There are no
leap seconds (POSIX time has no name for second 60) and no hour 24.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

__all__ = [
    "CANON",
    "DURATION",
    "Ago",
    "Instant",
    "Now",
    "T",
    "Time",
    "duration",
    "format_time",
    "moment",
    "parse_time",
    "timestamp_of",
]


@dataclass(frozen=True, slots=True)
class Time:
    """An absolute instant: microseconds since the epoch, UTC."""

    timestamp: int  # Invariant: within the years 1 to 9999; negative before 1970.


@dataclass(frozen=True, slots=True)
class Ago:
    """So long before now. The caller reads its own clock and rounds the result down to the whole second."""

    duration_us: int  # Invariant: >= 0. May reach before year 1 (`-99999999w`): ENOENT, as any T before the first.


@dataclass(frozen=True, slots=True)
class Now:
    """The newest instant that can no longer change: the stable frontier (SEMANTICS 8)."""


Instant = Time | Ago | Now

_MOMENT = (
    rb"(?P<date>\d{4}-\d\d-\d\d|\d{8})[T_]"
    rb"(?P<clock>\d\d(?::?\d\d(?::?\d\d(?:[.,](?P<fraction>\d{1,9}))?)?)?)"
    rb"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?"
)

CANON = rb"\d{8}T\d{6}(?:\.\d{1,9})?Z"
"""The shape of a canonical time, without groups. Exact: a zone other than Z, or none, is not CANON."""

DURATION = rb"(?:\d{1,20}[smhdw])+"
"""The shape of DUR, without groups. Any order, repeats add up; 20 digits are a bound, far above any clock."""

T = rb"(?:now|-%s|%s|\d{4}-\d\d(?:-\d\d)?|\d+)" % (
    DURATION,
    re.sub(rb"\?P<\w+>", b"?:", _MOMENT),
)
"""The shape of T, without groups. It takes a fraction before it leaves a dot to the extension."""

_MOMENT_MATCH = re.compile(_MOMENT).fullmatch
_DAY_MATCH = re.compile(rb"\d{4}-\d\d(?:-\d\d)?").fullmatch
_DIGITS_MATCH = re.compile(rb"\d+").fullmatch
_DURATION_MATCH = re.compile(DURATION).fullmatch
_DURATION_PARTS = re.compile(rb"(\d+)([smhdw])").findall

_UNIT_US = {
    b"s": 1_000_000,
    b"m": 60_000_000,
    b"h": 3_600_000_000,
    b"d": 86_400_000_000,
    b"w": 604_800_000_000,
}

# DIGITS by length: either a calendar time, or a count since the epoch as (multiply, divide) to microseconds.
_CALENDAR_DIGITS = frozenset({4, 8, 14, 17})
_EPOCH_DIGITS = {10: (1_000_000, 1), 13: (1_000, 1), 16: (1, 1), 19: (1, 1_000)}

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_FIRST = (datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND


def parse_time(text: bytes, zone: datetime.tzinfo = datetime.UTC) -> Instant:
    """The instant that the whole of `text`, a T of the grammar, names.

    `zone` is where a calendar time without a zone of its own is; the grammar says UTC.

    Raises:
        ValueError: there is no such instant; the message is for people.
    """
    if text == b"now":
        return Now()
    if text.startswith(b"-"):
        return Ago(duration(text[1:]))
    if _DIGITS_MATCH(text):
        return Time(_digits(text, zone))
    if _DAY_MATCH(text):
        return Time(_calendar(text.replace(b"-", b""), b"", zone))
    return Time(moment(text, zone))


def moment(text: bytes, zone: datetime.tzinfo = datetime.UTC) -> int:
    """The timestamp of a date with a time of day, in any of the grammar's spellings; CANON is one of them.

    Raises:
        ValueError: it has not that shape, or there is no such instant.
    """
    match = _MOMENT_MATCH(text)
    if match is None:
        raise ValueError("not a time")
    date, clock, fraction, offset = match.groups()
    if fraction is not None:
        clock = clock[: -1 - len(fraction)]
    digits = date.replace(b"-", b"") + clock.replace(b":", b"")
    return _calendar(digits, fraction or b"", zone if offset is None else _zone(offset))


def duration(text: bytes) -> int:
    """The microseconds of a DUR, such as `1h30m`.

    Raises:
        ValueError: it is not a DUR.
    """
    if not _DURATION_MATCH(text):
        raise ValueError("not a duration (90s, 1h30m, 2d)")
    return sum(int(count) * _UNIT_US[unit] for count, unit in _DURATION_PARTS(text))


def timestamp_of(when: datetime.datetime) -> int:
    """The timestamp of an aware `when`; in a zone's repeated hour, `fold` says which one.

    Raises:
        ValueError: in UTC it is outside the years 1 to 9999.
    """
    assert when.tzinfo is not None
    try:
        timestamp = (when - _EPOCH) // _MICROSECOND
    except OverflowError as error:
        raise ValueError("outside the years 1 to 9999") from error
    if not _FIRST <= timestamp <= _LAST:
        raise ValueError("outside the years 1 to 9999")
    return timestamp


def format_time(timestamp: int) -> bytes:
    """CANON: `20261121T100000Z`, with six digits of a fraction, or none when it is zero.

    Never fewer: commit times printed one below the other sort as text as they do in time.

    Raises:
        ValueError: outside the years 1 to 9999, which no `Time` is, but the result of subtracting an `Ago` may be.
    """
    if not _FIRST <= timestamp <= _LAST:
        raise ValueError("outside the years 1 to 9999")
    when = _EPOCH + timestamp * _MICROSECOND
    # Not strftime: its %Y does not pad years below 1000 on Linux.
    text = (
        f"{when.year:04}{when.month:02}{when.day:02}T{when.hour:02}{when.minute:02}{when.second:02}"
    )
    fraction = f".{when.microsecond:06}" if when.microsecond else ""
    return f"{text}{fraction}Z".encode("ascii")


def _digits(text: bytes, zone: datetime.tzinfo) -> int:
    """The timestamp of DIGITS, which their number explains."""
    if len(text) in _CALENDAR_DIGITS:
        return _calendar(text[:14], text[14:], zone)
    if len(text) not in _EPOCH_DIGITS:
        raise ValueError("digits number 4, 8, 10, 13, 14, 16, 17 or 19")
    multiply, divide = _EPOCH_DIGITS[len(text)]
    return int(text) * multiply // divide


def _calendar(digits: bytes, fraction: bytes, zone: datetime.tzinfo) -> int:
    """The timestamp of YYYY[MM[DD[HH[MM[SS]]]]] in `zone`; what is missing is at its start."""
    assert len(digits) in (4, 6, 8, 10, 12, 14)
    when = datetime.datetime(
        year=int(digits[:4]),
        month=int(digits[4:6] or b"1"),
        day=int(digits[6:8] or b"1"),
        hour=int(digits[8:10] or b"0"),
        minute=int(digits[10:12] or b"0"),
        second=int(digits[12:14] or b"0"),
        microsecond=int(fraction[:6].ljust(6, b"0")),
        tzinfo=zone,
    )
    return timestamp_of(when)


def _zone(text: bytes) -> datetime.tzinfo:
    """The zone that `Z`, `+01:00`, `+0100` or `+01` names."""
    if text == b"Z":
        return datetime.UTC
    digits = text[1:].replace(b":", b"")
    hours, minutes = int(digits[:2]), int(digits[2:] or b"0")
    if hours > 23 or minutes > 59:
        raise ValueError("a zone is at most 23:59 from UTC")
    offset = datetime.timedelta(hours=hours, minutes=minutes)
    return datetime.timezone(-offset if text.startswith(b"-") else offset)
