"""The search for the first bad one of a row of states that were good and became bad. Pure.

A state that cannot be judged is passed over for its neighbours; those left between the last good one and the first bad
one when nothing can be judged any more are `between`.
"""

from __future__ import annotations

__all__ = ["Halving"]


class Halving:
    """Known: `good` is good and `bad` is bad; every state between them is one or the other, or cannot be judged."""

    def __init__(self, good: int, bad: int) -> None:
        assert good < bad
        self.good = good
        self.bad = bad
        self.runs = 2  # Of the two ends.
        self._skipped: set[int] = set()

    @property
    def between(self) -> list[int]:
        """Those that could not be judged and may be the first bad one."""
        return [index for index in sorted(self._skipped) if self.good < index < self.bad]

    @property
    def next(self) -> int | None:
        """Which one to judge next: the middle, or the nearest to it that has not been skipped; None at the end."""
        low, high = self.good + 1, self.bad - 1
        middle = (low + high) // 2
        for distance in range(high - low + 1):
            for index in (middle + distance, middle - distance):
                if low <= index <= high and index not in self._skipped:
                    return index
        return None

    def judge(self, index: int, verdict: bool | None) -> None:
        """Take note: True is good, False bad, None neither."""
        assert self.good < index < self.bad
        self.runs += 1
        if verdict is None:
            self._skipped.add(index)
        elif verdict:
            self.good = index
        else:
            self.bad = index
