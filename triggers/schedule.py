"""Whose turn it is: deficit round robin over bindings, so that a storm on one does not starve the others.

Each turn gives a binding a quantum of run time; it may start a run when its credit covers what its runs have lately
taken. Cheap bindings so run often and dear ones seldom, and each gets the same share of the workers. Only who may have
something is in the ring, so a turn costs nothing for all the others.

Source: Shreedhar and Varghese, "Efficient fair queuing using deficit round robin" (1995).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

__all__ = ["Schedule"]

QUANTUM_MS = 10.0
COST_MS_MIN, COST_MS_MAX = 1.0, 1000.0
"""What a run counts as: nothing is free, and a slow one must not wait for hundreds of rounds."""

SMOOTHING = 0.2
"""Weight of the newest run in the average."""


class _Share:
    __slots__ = ("cost_ms", "credit_ms")

    def __init__(self) -> None:
        self.cost_ms = COST_MS_MIN
        self.credit_ms = 0.0


class Schedule:
    """A ring of those who may have something to run."""

    def __init__(self) -> None:
        self._shares: dict[Hashable, _Share] = {}
        self._ring: list[Hashable] = []
        self._present: set[Hashable] = set()
        self._at = 0

    def __iter__(self) -> Iterator[Hashable]:
        """Those who take part."""
        return iter(self._ring)

    def add(self, who: Hashable) -> None:
        """Take part from now on; harmless when repeated."""
        if who not in self._present:
            self._shares.setdefault(who, _Share())
            self._present.add(who)
            self._ring.append(who)

    def remove(self, who: Hashable) -> None:
        """Take part no more."""
        self._shares.pop(who, None)
        if who in self._present:
            self._leave(self._ring.index(who))

    def _leave(self, position: int) -> None:
        self._present.discard(self._ring.pop(position))
        self._at -= 1 if position < self._at else 0

    def ran(self, who: Hashable, duration_ms: float) -> None:
        """A run took so long."""
        share = self._shares.get(who)
        if share is not None:
            cost = min(max(duration_ms, COST_MS_MIN), COST_MS_MAX)
            share.cost_ms += SMOOTHING * (cost - share.cost_ms)

    def next(self, start: Callable[[Hashable], bool | None]) -> Hashable | None:
        """Whoever started something; None if nobody had anything.

        Args:
            start: called for those whose turn it is, until one answers True. One that has nothing loses its credit,
                as in the source: nobody saves up while idle. None: nothing, and nothing before the next `add`.
        """
        idle = 0
        while idle < len(self._ring):
            self._at %= len(self._ring)
            who = self._ring[self._at]
            share = self._shares[who]
            if share.credit_ms < share.cost_ms:
                # A whole round in one step: the dearest waits COST_MS_MAX / QUANTUM_MS rounds.
                share.credit_ms += QUANTUM_MS
                if share.credit_ms < share.cost_ms:
                    self._at += 1
                    continue
            did = start(who)
            if did:
                share.credit_ms -= share.cost_ms
                if share.credit_ms < share.cost_ms:
                    self._at += 1
                return who
            share.credit_ms = 0.0
            if did is None:
                self._leave(self._at)
                continue
            self._at += 1
            idle += 1
        return None
