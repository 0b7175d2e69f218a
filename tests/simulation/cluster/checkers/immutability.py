"""Immutability: what was once read at a time at or below the frontier is what everybody reads there, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.cluster.checkers.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.cluster.registers import State

__all__ = ["Immutability"]


class Immutability:
    """Of one shard."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.known: dict[tuple[str, int], tuple[State, str]] = {}

    def read(self, who: str, name: str, timestamp: int, state: State) -> None:
        """Somebody read a name as of a time."""
        known, first = self.known.setdefault((name, timestamp), (state, who))
        if known != state:
            raise Violation(
                "immutability",
                f"shard {self.shard}: {name}@{timestamp} was {known} for {first} and is {state} for {who}",
            )
