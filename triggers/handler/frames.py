"""Versions as data: which there are of the files a pattern matches, and the bytes of one when it is looked at.

What tensors and tables are made from, in a handler and in a program alike.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypeAlias

from triggers.run import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triggers.handler.copies import Copies
    from triggers.run import Cut

__all__ = ["CutFrames", "Frame", "Frames", "Instant", "instant_of"]

FRAMES_ASKED = 4096
"""At a time: the store is held for some 20 us each."""

Instant: TypeAlias = int | datetime | timedelta | str
"""Of a handler: microseconds since 1970, a datetime (UTC if it has no zone), or how long before the cut: a timedelta, or "-10m"."""


class Frames(Protocol):
    """Where versions come from; all at one cut, so asking twice gives the same."""

    def find(self, glob: str, since: int | None, until: int | None) -> Sequence[Frame]:
        """The versions with a timestamp from `since` to `until`, both included, of the files that are there at the cut."""
        ...

    def read(self, frame: Frame) -> memoryview:
        """The bytes of a version, read-only."""
        ...


class CutFrames:
    """`Frames` of a run: what is committed at its cut."""

    def __init__(self, cut: Cut, copies: Copies) -> None:
        self._cut = cut
        self._copies = copies

    def find(self, glob: str, since: int | None, until: int | None) -> Sequence[Frame]:
        """See `Frames`."""
        found: deque[Frame] = deque()
        while True:
            after = (found[-1].path, found[-1].version) if found else ("", 0)
            more = self._cut.scan(glob, since, until, after, FRAMES_ASKED)
            found.extend(more)
            if len(more) < FRAMES_ASKED:
                return tuple(found)

    def read(self, frame: Frame) -> memoryview:
        """See `Frames`.

        Raises:
            FileNotFoundError: it was let go since it was found.
        """
        content = self._cut.version(frame.path, frame.version)
        if content is None:
            raise FileNotFoundError(f"{frame.path}@v{frame.version} is there no more")
        return self._copies.joined(content.parts)


def instant_of(instant: Instant | None, cut: int) -> int | None:
    """The timestamp that a handler's word for an instant means; None: none.

    Raises:
        ValueError: it means none.
    """
    match instant:
        case None | int():
            return instant
        case datetime():
            aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
            return (aware - _EPOCH) // timedelta(microseconds=1)
        case timedelta():
            return cut - abs(instant) // timedelta(microseconds=1)
        case str() if instant.startswith("-"):
            from triggers.binding import (
                duration_ms,
            )  # brings libraries along that few handlers need

            return cut - duration_ms(instant[1:]) * 1000
    raise ValueError(
        f"{instant!r}: microseconds since 1970, a datetime, or how long before: '-10m'"
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
