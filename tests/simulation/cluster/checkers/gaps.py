"""Gap freedom: whoever follows a shard gets every record, once, in order."""

from __future__ import annotations

from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Gaps"]


class Gaps:
    """Of one shard. A follower that starts over with an empty state is a new one."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._last: dict[str, int] = {}

    def followed(self, who: str, index: int) -> None:
        """A follower was given a record."""
        last = self._last.get(who, 0)
        if index != last + 1:
            raise Violation("gaps", f"shard {self.shard}: {who} was given {index} behind {last}")
        self._last[who] = index
