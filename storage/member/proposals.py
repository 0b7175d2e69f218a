"""Proposals on their way into the core: in the order they came, held here while it has enough on its way.

Bounded: what comes above is dropped, and comes again, because who proposes sends until it comes by.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from storage import wire
from storage.replication import Role, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.codec import Buffer
    from storage.replication import Replica

__all__ = ["Answers", "Proposals"]

COUNT_MAX: Final = 4096
BYTES_MAX: Final = 64 * 1024 * 1024


class Answers(Protocol):
    """Where word to a proposer goes."""

    def __call__(self, message: wire.Message) -> None:
        """Send, or drop. Never waits."""
        ...


class _Proposal(NamedTuple):
    client: int
    number: int
    metadata: bytes
    payload: Sequence[Buffer]
    after: int
    answer: Answers | None

    @property
    def size_bytes(self) -> int:
        return len(self.metadata) + sum(map(len, self.payload))


class Proposals:
    """See the module."""

    def __init__(self, shard: int, node: str, epoch: Callable[[], wire.Epoch]) -> None:
        """None yet.

        Args:
            shard: whose they are.
            node: this one's name.
            epoch: who leads, as a proposer is told it.
        """
        self.is_full = False
        """There is no room for payloads: what brings one is rejected. Set by who watches the disk, or memory."""
        self.what = "disk"
        """What has no room then, for people."""
        self._shard = shard
        self._node = node
        self._epoch = epoch
        self._waiting: deque[_Proposal] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()
        self._bytes = 0

    def add(
        self,
        client: int,
        proposals: Sequence[tuple[int, bytes, Sequence[Buffer]]],
        after: int,
        answer: Answers | None,
    ) -> None:
        """See `Member.propose`."""
        for number, metadata, payload in proposals:
            it = _Proposal(client, number, metadata, payload, after, answer)
            if len(self._waiting) >= COUNT_MAX or self._bytes + it.size_bytes > BYTES_MAX:
                return
            self._waiting.append(it)
            self._bytes += it.size_bytes

    def offer(self, replica: Replica, now_ns: int) -> None:
        """Hand the core what it takes."""
        while self._waiting:
            it = self._waiting[0]
            if self._must_reject(replica, it):
                why = f"the {self.what} of node {self._node} is full"
                rejected = wire.Rejected(self._shard, it.client, it.number, errno.ENOSPC, why)
                self._send_back(it, rejected)
                continue
            match replica.propose(now_ns, it.client, it.number, it.metadata, it.payload, it.after):
                case Verdict.FULL | Verdict.PAUSED:
                    return
                case Verdict.EARLY:
                    self._send_back(it, wire.Expecting(self._shard, it.client))
                case Verdict.NOT_LEADING:
                    self._send_all_elsewhere()
                case Verdict.TAKEN | Verdict.KNOWN | Verdict.AHEAD:
                    self._waiting.popleft()
                    self._bytes -= it.size_bytes

    def _must_reject(self, replica: Replica, it: _Proposal) -> bool:
        """Whether there is no room for a proposal that is not in the log yet."""
        return (
            self.is_full
            and bool(it.payload)
            and replica.role is Role.LEADER
            and it.number > replica.last_number(it.client)
        )

    def _send_back(self, it: _Proposal, message: wire.Message) -> None:
        """Tell a client what became of a proposal, and drop it and all that follows of that client."""
        if it.answer is not None:
            it.answer(message)
        self._waiting = deque(other for other in self._waiting if other.client != it.client)
        self._bytes = sum(other.size_bytes for other in self._waiting)

    def _send_all_elsewhere(self) -> None:
        epoch = self._epoch()
        for answer in {it.answer for it in self._waiting if it.answer is not None}:
            answer(epoch)
        self.clear()
