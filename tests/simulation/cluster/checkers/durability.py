"""Acknowledged is durable: what a client saw committed is with every member, and is there at the end.

Two sides of one promise. At the moment somebody first learns that a record is committed, every member of the epoch
that committed it must hold it: in memory, or on the platter, as the pool demands. And at the end, whatever happened that the
promise covers, every member still has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tests.simulation.cluster.checkers.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.cluster.checkers.agreement import Committed

__all__ = ["Durability"]


class Durability:
    """Of one shard."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.acknowledged: dict[int, Committed] = {}

    def committed(self, record: Committed, held: Mapping[str, bool]) -> None:
        """A record is known to be committed; of each member of the epoch, whether it holds it as the pool demands."""
        if record.index in self.acknowledged:
            return
        self._must_hold(f"{record} is committed", held)
        self.acknowledged[record.index] = record

    def on_disks(self, who: str, index: int, held: Mapping[str, bool]) -> None:
        """Somebody holds that everything up to an index is on the disks; of each member of its epoch, whether it is."""
        self._must_hold(f"{who} holds that {index} is on all disks", held)

    def _must_hold(self, what: str, held: Mapping[str, bool]) -> None:
        missing = sorted(name for name, holds in held.items() if not holds)
        if missing:
            self._violated(f"{what}, and {', '.join(missing)} may yet lose it")

    def remain(self, who: str, log: Sequence[Committed]) -> None:
        """At the end: what a member has, from index 1."""
        for index, record in self.acknowledged.items():
            if index > len(log):
                self._violated(f"{who} has lost {record}: its log ends at {len(log)}")
            if log[index - 1] != record:
                self._violated(f"{who} has {log[index - 1]} in the place of {record}")

    def _violated(self, what: str) -> None:
        raise Violation("durability", f"shard {self.shard}: {what}")
