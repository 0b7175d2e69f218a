"""Which segments of the log are worth writing again, and doing it (`Log.condense`).

A segment is worth it when a third of what it takes on the disk is dead: then at most two bytes are written for each one
won, and no more than half as much again is kept as somebody can ask for. A full disk asks for less: there everything
that wins a block is worth it, most won first.

Frames that a draft in memory refers to are spared, whatever the counts say: it may be about to name them. Those that were
staged, that no content named, and that no draft refers to (its file was removed before its close, its condition lost)
are as dead as others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from storage.distant import DistantLog
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.log import Condensation, Log
    from storage.shard import Shard

__all__ = ["Bounds", "Cleaning", "Job"]

WORTH: Final = 1 / 3
"""Of what a segment takes, dead: the least for which it is written again."""

WORTH_BYTES_MIN: Final = 4096

ABANDONED_BYTES: Final = 128 * 1024
"""What a staged frame whose draft is no more is taken to hold: between 64 KiB and 256, and nobody noted it."""

CHOSEN_MAX: Final = 64
"""Segments looked at in a step."""

FRAMES_MAX: Final = 1024
"""Frames found in a step before it ends: drafts of gigabytes have as many in every few segments."""


class Job(NamedTuple):
    """A segment to write again, without the payloads of these frames."""

    number: int
    dead: frozenset[int]
    worth_bytes: int


class Bounds(NamedTuple):
    """What may be let go where drafts are others', and nobody knows which of them live."""

    dead_before: int
    """Timestamp: frames that died since are spared, a draft may still share them."""
    abandoned_below: int
    """Address: what was staged behind it and never named is spared."""
    settled_below: int
    """Address: segments that reach behind it are left alone."""


class Cleaning:
    """Goes round the sealed segments. `choose` and `finish` on the owner's thread, `run` on any."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._frames = shard.namespace.frames
        self.bounds: Callable[[], Bounds] | None = None
        """Asked before each choice; None: whoever chooses knows all drafts (`in_use`), or those of earlier processes."""
        # What was staged before and never named belonged to a draft of a process that is no more.
        self._abandoned_below = shard.abandoned_below
        self._next = 0
        # What was not worth it, and how much of it was dead then: looked at again when that is more.
        self._refused: dict[int, int] = {}
        self.bytes_won = 0
        """Since the start, as are the next two."""
        self.bytes_written = 0
        self.segments = 0

    def choose(
        self,
        in_use: Callable[[], set[int]] | None,
        *,
        pressed: bool = False,
        thorough: bool = False,
    ) -> Job | None:
        """The next segment that is worth it among some; None if none of those is.

        Args:
            in_use: the addresses that drafts refer to; None where nobody knows, and only what was staged before this
                start is taken for abandoned.
            pressed: the disk is full.
            thorough: look at all of them, 5 us each.
        """
        log = self._near()
        if log is None:
            return None
        sealed = log.sealed()
        bounds = self.bounds() if self.bounds is not None else None
        if bounds is not None:
            sealed = range(
                sealed.start, min(sealed.stop, bounds.settled_below // log.segment_bytes)
            )
        if not sealed:
            return None
        if not sealed[0] <= self._next < sealed.stop:
            self._next = sealed[0]
        # One thread stages, commits and asks: what no draft refers to now, none will.
        abandoned_below = (
            self._abandoned_below if in_use is None else sealed.stop * log.segment_bytes
        )
        before = None
        if bounds is not None:
            before, _, _ = bounds
            abandoned_below = bounds.abandoned_below
        used: set[int] | None = None
        looked = 0
        for _ in range(len(sealed) if thorough else min(CHOSEN_MAX, len(sealed))):
            number = self._next
            self._next = number + 1 if number + 1 < sealed.stop else sealed[0]
            start = number * log.segment_bytes
            stop = start + log.segment_bytes
            found = dict(self._frames.dead(start, stop, before))
            abandoned = list(self._frames.unnamed(start, min(stop, abandoned_below)))
            if not found and not abandoned:
                continue
            if used is None:
                used = in_use() if in_use is not None else set()
            looked += len(found) + len(abandoned)
            found |= dict.fromkeys(abandoned, ABANDONED_BYTES)
            dead = {address: length for address, length in found.items() if address not in used}
            size = log.segment_size(number)
            worth = WORTH_BYTES_MIN if pressed else int(size * WORTH)
            if sum(dead.values()) >= worth and len(dead) > self._refused.get(number, 0):
                self._refused[number] = len(dead)
                return Job(number, frozenset(dead), worth // 2)
            if looked > FRAMES_MAX and not thorough:
                break
        return None

    def run(self, job: Job) -> Condensation | None:
        """Write the segment again; blocks.

        Raises:
            OSError: as `Log.condense`.
        """
        log = self._near()
        assert log is not None, "a job is of a log that is here"
        return log.condense(job.number, job.dead, job.worth_bytes)

    def _near(self) -> Log | None:
        """The log, if it is in this process: of a replica, another one after that began anew."""
        log = self._shard.log
        if isinstance(log, DistantLog):
            return log.near
        return None if isinstance(log, VolatileLog) else log

    def finish(self, job: Job, done: Condensation | None) -> None:
        """Forget the dead frames of a segment that was written again."""
        if done is None:
            return
        self._shard.forget_frames(job.dead)
        self._refused.pop(job.number, None)
        self.segments += 1
        self.bytes_won += done.bytes_won
        self.bytes_written += done.bytes_written
