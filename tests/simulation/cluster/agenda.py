"""What happens next: a heap on virtual time. Nothing in a simulated cluster waits for anything else.

Times are nanoseconds of true time, which no node knows. Two calls at the same time are made in the order they were
entered, so a run depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["MICROSECOND", "MILLISECOND", "SECOND", "Agenda"]

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class Agenda:
    """Calls to be made, by time.

    Attributes:
        now_ns: True time, from 0.
        made: Calls made so far: the events of the simulation.
    """

    __slots__ = ("_calls", "_entered", "made", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self.made = 0
        self._entered = 0
        self._calls: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: object) -> None:
        """Make a call in so many nanoseconds. There is no cancelling: who has ended must see that it has."""
        assert delay_ns >= 0
        self._entered = entered = self._entered + 1
        heappush(self._calls, (self.now_ns + delay_ns, entered, call, arguments))

    def run(self, until_ns: int) -> None:
        """Make all calls up to a time, and let it be that time."""
        calls = self._calls
        while calls and calls[0][0] <= until_ns:
            self.now_ns, _, call, arguments = heappop(calls)
            self.made += 1
            call(*arguments)
        self.now_ns = max(self.now_ns, until_ns)
