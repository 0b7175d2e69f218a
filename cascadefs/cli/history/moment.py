"""When: from what a person types, or a path asks for, to one fixed instant that is not in the future.

An instant that is fixed once stays the same for every path it is put into; a relative one would mean another moment
at each lookup (SEMANTICS 2, "relative").
"""

from __future__ import annotations

import datetime
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascadefs.cli.history.refusal import Refusal
from cascadefs.vpath import (
    Ago,
    Instant,
    Now,
    Tag,
    Time,
    Version,
    VersionBack,
    format_time,
    parse_instant,
)

if TYPE_CHECKING:
    from cascadefs.cli.history.place import Place

__all__ = ["Moment", "attribute", "canonical", "pinned", "resolved"]

_SECOND_US = 1_000_000

# What getxattr answers where there is no such attribute, or no such thing at all.
_NONE_SUCH = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class Moment:
    """The present of one command: its clock, read once, and the zone of whoever typed it."""

    now_us: int
    zone: datetime.tzinfo

    def timestamp(self, when: str, place: Place) -> int:
        """The instant that `when` names for `place`.

        Raises:
            Refusal: it names none, or one to come.
        """
        try:
            instant = parse_instant(when, self.zone, self.now_us)
        except ValueError as error:
            remedy = "say 'yesterday 10:00', '10 minutes ago', 2026-11-21T10:00 or now"
            raise Refusal("time", str(error), remedy) from error
        return self.of(instant, place, when)

    def of_event(self, when: str) -> int:
        """The instant that `when` names, which may be one to come.

        Raises:
            Refusal: it names none.
        """
        try:
            instant = parse_instant(when, self.zone, self.now_us)
        except ValueError as error:
            raise Refusal(
                "time", str(error), "say 2026-11-21T10:00 or 'yesterday 10:00'"
            ) from error
        match instant:
            case Now():
                return self.now_us
            case Ago(duration_us=duration_us):
                return (self.now_us - duration_us) // _SECOND_US * _SECOND_US
            case Time(timestamp=timestamp):
                return timestamp

    def of(self, instant: Instant, place: Place, when: str) -> int:
        """The timestamp of `instant`; `now` is the newest on the place's mount that cannot change any more."""
        match instant:
            case Now():
                return self._frontier(place)
            case Ago(duration_us=duration_us):
                timestamp = (self.now_us - duration_us) // _SECOND_US * _SECOND_US
            case Time(timestamp=timestamp):
                pass
        try:
            text = format_time(timestamp).decode("ascii")
        except ValueError as error:
            raise Refusal("time", f"{when!r}: {error}") from error
        # The mount's own clock may be ahead of this one, if that was set back.
        if timestamp > self.now_us and timestamp > self._frontier(place):
            why = f"{when!r} is {text}, which is in the future"
            raise Refusal("time", why, "times without a zone are local; add Z for UTC")
        return timestamp

    def _frontier(self, place: Place) -> int:
        path = place.directory + b".@t=now"
        return resolved(path) or self.now_us


def canonical(timestamp: int) -> str:
    """A timestamp as it is printed everywhere: UTC, to the microsecond if it has any."""
    return format_time(timestamp).decode("ascii")


def attribute(path: bytes, name: str) -> bytes | None:
    """The value of `user.cascade.NAME` of `path` itself; None where there is none."""
    try:
        return os.getxattr(path, f"user.cascade.{name}", follow_symlinks=False)
    except OSError as error:
        if error.errno in _NONE_SUCH:
            return None
        raise


def pinned(place: Place, moment: Moment) -> Place:
    """`place` with a specification that means the same at every lookup, as far as it has one."""
    match place.spec:
        case Ago() | Now():
            return place.at(moment.of(place.spec, place, place.spelled.decode("utf-8", "replace")))
        case Tag():
            timestamp = resolved(place.path)
            return place if timestamp is None else place.at(timestamp)
        case VersionBack():
            number = attribute(place.path, "version")
            return place if number is None else place.version(int(number))
        case Time(timestamp=timestamp):
            return place.at(timestamp)
        case Version(number=number):
            return place.version(number)
    return place


def resolved(path: bytes) -> int | None:
    """The instant that the file system took a path to mean."""
    text = attribute(path, "resolved_time")
    if text is None:
        return None
    instant = parse_instant(text.decode("ascii"), datetime.UTC, now_us=0)
    assert isinstance(instant, Time)
    return instant.timestamp
