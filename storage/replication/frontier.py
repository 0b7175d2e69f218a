"""Promises about time: what a member will never stamp again, and what a leader may publish because all promised it.

A leader proposes candidates: moments it has left behind with its own stamps. A member notes them, and a leader it ever
becomes stamps above. Once all members of the epoch noted a candidate, and all frames below it are committed, it is
published: whoever leads next is one of them, so nothing at or below it can come any more.
"""

from __future__ import annotations

from collections import deque

from storage.replication.options import CANDIDATES_MAX
from storage.replication.ready import Frontier

__all__ = ["Bound", "Candidates", "Published"]


class Published:
    """What a replica knows to be promised by all members. Neither goes back, whoever leads.

    Attributes:
        frontier: Its index is committed here, too.
        durable_index: Frames up to here are on the disks of all who were members when it was said.
    """

    def __init__(self) -> None:
        self.frontier = Frontier(0, 0)
        self.durable_index = 0

    def publish(self, frontier: Frontier) -> None:
        """All members promised this."""
        if frontier.timestamp_us > self.frontier.timestamp_us:
            assert frontier.index >= self.frontier.index
            self.frontier = frontier


class Bound:
    """A member's own promise. It outlives the process by a bound ahead of it, which is written now and then.

    Invariant: what was acknowledged, `noted_us`, never exceeds what is kept.

    Attributes:
        highest_us: The greatest candidate seen: what a leader made of this member stamps above.
        wanted_us: The bound to keep.
    """

    def __init__(self, kept_us: int, ahead_us: int) -> None:
        self.highest_us = self.wanted_us = self._kept_us = kept_us
        self._ahead_us = ahead_us

    @property
    def noted_us(self) -> int:
        """What may be acknowledged."""
        return min(self.highest_us, self._kept_us)

    def note(self, candidate_us: int) -> None:
        """Promise this, and see to it early that the bound kept stays ahead."""
        if candidate_us > self.highest_us:
            self.highest_us = candidate_us
            if candidate_us > self.wanted_us - self._ahead_us // 2:
                self.wanted_us = candidate_us + self._ahead_us

    def kept(self, bound_us: int) -> None:
        """That bound is kept now."""
        self._kept_us = max(self._kept_us, bound_us)


class Candidates:
    """A leader's candidates that are not published yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Frontier] = deque()
        self.last_us = 0

    def put(self, timestamp_us: int, index: int) -> None:
        """All that is stamped at or below has an index up to this one, and nothing will be any more."""
        assert timestamp_us >= self.last_us
        if timestamp_us == self.last_us:
            return
        self.last_us = timestamp_us
        if len(self._waiting) >= CANDIDATES_MAX:
            self._waiting.pop()  # The last moves on; the first stays, so something is always published.
        self._waiting.append(Frontier(timestamp_us, index))

    def take(self, noted_us: int, commit_index: int) -> Frontier | None:
        """The newest that everybody noted and whose frames are committed; it and older ones are forgotten."""
        newest = None
        waiting = self._waiting
        while waiting and waiting[0].timestamp_us <= noted_us and waiting[0].index <= commit_index:
            newest = waiting.popleft()
        return newest
