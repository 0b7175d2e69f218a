"""A point in time as a person types it: any T of the grammar, or a few words of English (SEMANTICS 11).

    now | today [CLOCK] | yesterday [CLOCK] | [N] UNIT ago | [N] (day|week)[s] ago CLOCK
    UNIT  = second, minute, hour, day or week, with or without an s          no N = 1
    CLOCK = H[H]:MM[:SS]

Words are for people, so they are local where names are UTC: a day begins at midnight in the given zone, and a T
without a zone is in it too (give UTC to have the grammar as it is written). A date and its time may be parted by a
space. A day without a clock is its start; `2 days ago` without one is 48 hours ago, whatever the clocks did between.
A local time that a zone skips counts as if it had not; of one that it repeats, the first is meant.
"""

from __future__ import annotations

import datetime
import re

from cascadefs.vpath.instant import Ago, Instant, Time, duration, parse_time, timestamp_of

__all__ = ["parse_instant"]

_CLOCK = r"(?: (?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d))?)?"
_DAY_MATCH = re.compile(rf"(?P<day>today|yesterday){_CLOCK}", re.ASCII).fullmatch
_AGO_MATCH = re.compile(
    rf"(?:(?P<count>\d{{1,20}}) )?(?P<unit>second|minute|hour|day|week)s? ago{_CLOCK}", re.ASCII
).fullmatch
_SPACED_SUB = re.compile(r"^(\d{4}-\d\d-\d\d|\d{8}) (?=\d)", re.ASCII).sub

_UNIT_DAYS = {"day": 1, "week": 7}


def parse_instant(text: str, zone: datetime.tzinfo, now_us: int) -> Instant:
    """The instant that `text` names, for somebody in `zone` at `now_us`.

    Raises:
        ValueError: it names none; the message is for people.
    """
    words = " ".join(text.split())
    phrase = words.lower()
    if match := _DAY_MATCH(phrase):
        return _day(0 if match["day"] == "today" else 1, match, zone, now_us)
    if match := _AGO_MATCH(phrase):
        return _ago(match, zone, now_us)
    try:
        return parse_time(_SPACED_SUB(r"\1T", words).encode("ascii"), zone)
    except ValueError as error:  # Also UnicodeEncodeError.
        raise ValueError(f"{text!r}: {_why(error)}") from error


def _why(error: ValueError) -> str:
    return "not a time" if isinstance(error, UnicodeError) else str(error)


def _ago(match: re.Match[str], zone: datetime.tzinfo, now_us: int) -> Instant:
    count, unit = int(match["count"] or "1"), match["unit"]
    if match["hour"] is None:
        return Ago(duration(b"%d%s" % (count, unit[0].encode("ascii"))))
    if unit not in _UNIT_DAYS:
        raise ValueError(f"{match[0]!r}: a time of day follows days or weeks only")
    return _day(count * _UNIT_DAYS[unit], match, zone, now_us)


def _day(days_back: int, match: re.Match[str], zone: datetime.tzinfo, now_us: int) -> Time:
    """The clock of `match`, or the start, of the day so many before today in `zone`."""
    try:
        utc = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(
            microseconds=now_us
        )
        date = utc.astimezone(zone).date() - datetime.timedelta(days=days_back)
        clock = datetime.time(
            int(match["hour"] or "0"), int(match["minute"] or "0"), int(match["second"] or "0")
        )
        return Time(timestamp_of(datetime.datetime.combine(date, clock, tzinfo=zone)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{match[0]!r}: {error}") from error
