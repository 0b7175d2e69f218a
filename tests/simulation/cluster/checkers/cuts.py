"""Consistent cuts: a read of several shards at one time shows what happened up to that time, all of it, nothing else.

The writer puts its tick k on a name of each shard in turn, each put after the one before was committed. So at any time the
values along the chain never rise, and first and last differ by one at most; and since the stamp of each put is known, what
a read at T must show is known exactly. At the time that ended a tick that is one tick, everywhere.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence

from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Cuts"]


class Cuts:
    """Of one writer, over its names in the order it puts them."""

    def __init__(self, length: int) -> None:
        self._stamps: list[list[int]] = [[] for _ in range(length)]

    def written(self, position: int, tick: int, timestamp: int) -> None:
        """A put was committed, and the writer knows its stamp."""
        stamps = self._stamps[position]
        if len(stamps) != tick - 1:
            raise Violation("cuts", f"tick {tick} behind {len(stamps)} on name {position}")
        for other, there in enumerate(self._stamps):
            if there and there[-1] >= timestamp:
                raise Violation(
                    "cuts",
                    f"tick {tick} on name {position} at {timestamp}, after one on name {other} at {there[-1]}",
                )
        stamps.append(timestamp)

    def ends(self) -> list[int]:
        """The stamps that ended ticks."""
        return self._stamps[-1]

    def read(self, who: str, timestamp: int, values: Sequence[int]) -> None:
        """What somebody saw as of a time, one value a name."""
        falling = all(a >= b for a, b in itertools.pairwise(values))
        if not falling or values[0] - values[-1] > 1:
            raise Violation("cuts", f"{who} sees {list(values)} at {timestamp}")
        for position, (stamps, value) in enumerate(zip(self._stamps, values, strict=True)):
            known = bisect_right(stamps, timestamp)
            # The last put may be committed and its writer not know.
            if value != known and not (known == len(stamps) and value == known + 1):
                raise Violation(
                    "cuts",
                    f"{who} sees tick {value} on name {position} at {timestamp}, not {known}",
                )
