"""The frontier: for nobody does it go back, and nothing is ever committed at or below it that was not part of it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Frontier"]


class Frontier:
    """Of one shard. A published frontier is a timestamp and the index up to which it speaks."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._of: dict[str, tuple[int, int]] = {}
        self._published: list[
            tuple[int, int]
        ] = []  # By time; only those that say more than the others.
        self._committed: list[tuple[int, int]] = []  # (timestamp, index), by time.

    def published(self, who: str, timestamp: int, index: int) -> None:
        """Somebody holds that no record behind `index` has or will have a timestamp up to `timestamp`."""
        before = self._of.get(who, (0, 0))
        if before == (timestamp, index):
            return
        if timestamp < before[0]:
            self._violated(f"for {who} it goes back from {before} to {(timestamp, index)}")
        self._of[who] = (timestamp, index)
        behind = bisect_right(self._committed, (timestamp, 2**63))
        if behind and self._committed[behind - 1][1] > index:
            at, which = self._committed[behind - 1]
            self._violated(f"{who} has {(timestamp, index)}, and {which} was committed at {at}")
        insort(self._published, (timestamp, index))

    def committed(self, index: int, timestamp: int) -> None:
        """A record is known to be committed, for the first time."""
        at = bisect_left(self._published, (timestamp, -1))
        for bound, last in self._published[at:]:
            if index > last:
                self._violated(f"{index} is committed at {timestamp}, below {(bound, last)}")
        insort(self._committed, (timestamp, index))

    def _violated(self, what: str) -> None:
        raise Violation("frontier", f"shard {self.shard}: {what}")
