"""All checkers of a simulated cluster in one place: who sees something says it once, and all that care are told."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tests.simulation.cluster.checkers.agreement import Agreement, Committed
from tests.simulation.cluster.checkers.cuts import Cuts
from tests.simulation.cluster.checkers.durability import Durability
from tests.simulation.cluster.checkers.frontier import Frontier
from tests.simulation.cluster.checkers.gaps import Gaps
from tests.simulation.cluster.checkers.immutability import Immutability
from tests.simulation.cluster.checkers.linearizability import Linearizability
from tests.simulation.cluster.checkers.progress import Progress
from tests.simulation.cluster.checkers.requests import Requests

if TYPE_CHECKING:
    from tests.simulation.cluster.checkers.linearizability import Call
    from tests.simulation.cluster.registers import State

__all__ = ["Checks"]


class Checks:
    """See the module.

    Args:
        shards: Their numbers.
        progress_bound_ns: How long after healing everything must be done.
    """

    def __init__(
        self,
        shards: Sequence[int],
        progress_bound_ns: int,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.agreement = {shard: Agreement(shard) for shard in shards}
        self.durability = {shard: Durability(shard) for shard in shards}
        self.gaps = {shard: Gaps(shard) for shard in shards}
        self.frontier = {shard: Frontier(shard) for shard in shards}
        self.immutability = {shard: Immutability(shard) for shard in shards}
        self.requests = {shard: Requests(shard) for shard in shards}
        self.linearizability = {shard: Linearizability(shard) for shard in shards}
        self.cuts = Cuts(len(shards))
        self.progress = Progress(progress_bound_ns)
        self._history = hashlib.blake2b(digest_size=8)

    def committed(self, who: str, shard: int, record: Committed, held: Mapping[str, bool]) -> None:
        """A node holds that a record is committed; of each member of its epoch, whether that has it."""
        agreement = self.agreement[shard]
        first = record.index not in agreement.known
        agreement.committed(who, record)
        if first:
            self.counts["records committed"] += 1
            self._history.update(f"{shard} {record}".encode())
            self.durability[shard].committed(record, held)
            self.frontier[shard].committed(record.index, record.timestamp)
            if record.client:
                self.requests[shard].committed(record.index, record.client, record.number)

    def followed(self, who: str, shard: int, record: Committed) -> None:
        """A follower was given a record and applies it."""
        self.gaps[shard].followed(who, record.index)
        self.agreement[shard].committed(who, record)

    def published(self, who: str, shard: int, timestamp: int, index: int) -> None:
        """Somebody was told a frontier."""
        self.frontier[shard].published(who, timestamp, index)

    def read(self, who: str, shard: int, name: str, timestamp: int, state: State) -> None:
        """Somebody read the past."""
        self.counts["reads of the past"] += 1
        self.immutability[shard].read(who, name, timestamp, state)

    def called(self, shard: int, call: Call) -> None:
        """A call of a client has returned, or will never."""
        self.counts["calls answered" if call.answer is not None else "calls unheard"] += 1
        self._history.update(f"{shard} {call}".encode())
        self.linearizability[shard].called(call)

    def digest(self) -> str:
        """Of the whole history: what was committed and answered, in the order it became known."""
        return self._history.hexdigest()
