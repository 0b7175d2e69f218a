"""Progress: once all faults have ended, every client gets done what it asked for, within a bounded time."""

from __future__ import annotations

from tests.simulation.cluster.agenda import MILLISECOND
from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Progress"]


class Progress:
    """Of all clients.

    Args:
        bound_ns: How long after healing everything must be done.
    """

    def __init__(self, bound_ns: int) -> None:
        self.bound_ns = bound_ns
        self._waiting: dict[str, tuple[int, str]] = {}

    def began(self, who: str, now_ns: int, what: str) -> None:
        """Somebody waits for something."""
        self._waiting[who] = (now_ns, what)

    def ended(self, who: str) -> None:
        """It has it, or is no more."""
        self._waiting.pop(who, None)

    def at_rest(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def check(self, now_ns: int, healed_ns: int) -> None:
        """Nobody may have waited too long, counted from when faults ended or from when it began."""
        for who, (began_ns, what) in self._waiting.items():
            waited_ns = now_ns - max(healed_ns, began_ns)
            if waited_ns > self.bound_ns:
                raise Violation(
                    "progress",
                    f"{who} waits for {what}, {waited_ns // MILLISECOND} ms after healing",
                )
