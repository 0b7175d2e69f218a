"""Agreement: what is committed at an index is the same record for everybody, for ever; time and epochs only go up."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Agreement", "Committed"]


class Committed(NamedTuple):
    """A committed record, with all that replicas must agree on."""

    index: int
    epoch: int
    timestamp: int
    client: int
    number: int
    metadata: bytes


class Agreement:
    """Of one shard."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.known: dict[int, Committed] = {}

    def committed(self, who: str, record: Committed) -> None:
        """Somebody learned that a record is committed."""
        known = self.known.get(record.index)
        if known is None:
            self._must_fit(who, record)
            self.known[record.index] = record
        elif known != record:
            self._violated(f"{who} has {record}, others {known}")

    def _must_fit(self, who: str, record: Committed) -> None:
        before, behind = self.known.get(record.index - 1), self.known.get(record.index + 1)
        for earlier, later in ((before, record), (record, behind)):
            if earlier is None or later is None:
                continue
            if earlier.timestamp >= later.timestamp:
                self._violated(f"{who}: time goes back between {earlier} and {later}")
            if earlier.epoch > later.epoch:
                self._violated(f"{who}: the epoch goes back between {earlier} and {later}")

    def _violated(self, what: str) -> None:
        raise Violation("agreement", f"shard {self.shard}: {what}")
