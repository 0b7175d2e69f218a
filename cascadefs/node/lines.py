"""The lines of the faces on a node: what they propose goes to the leader, here or elsewhere, until it comes by.

In the thread of the network's loop; the lines themselves are used by their faces' threads (`storage.member.Line`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from cascadefs.node.links import Unreachable
from storage import wire
from storage.member import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from random import Random

    from cascadefs.node.links import Link
    from storage.member import Member
    from storage.member.line import Submission
    from storage.member.member import Post

__all__ = ["Lines"]

RESEND_S: Final = 1.0
"""A proposal that has not moved for so long is handed to the leader again."""


class Lines:
    """See the module."""

    def __init__(
        self,
        node: str,
        members: Mapping[int, Member],
        post: Post,
        mend: Callable[[Member, int], Awaitable[None]],
        link: Callable[[str], Link],
        random: Random,
    ) -> None:
        """No lines yet.

        Args:
            node: this node's name.
            members: the replicas here, by shard; more may come.
            post: the way to leaders elsewhere.
            mend: see `Mender.mend`.
            link: the one with another node.
            random: for the names of faces.
        """
        self._node = node
        self._members = members
        self._post = post
        self._mend = mend
        self._link = link
        self._random = random
        self._lines: dict[int, set[Line]] = {}

    def make(self, shard: int) -> Line:
        """A face's sequencer over the replica of a shard that is here; another thread may use it."""
        member = self._members[shard]
        token = trio.lowlevel.current_trio_token()

        def kick(line: Line) -> None:
            token.run_sync_soon(self._forward, line)

        def mend(address: int) -> None:
            trio.from_thread.run(self._mend, member, address, trio_token=token)

        def ask_index() -> int | None:
            return trio.from_thread.run(self._index_of_leader, member, trio_token=token)

        def new_client() -> int:
            return self._random.getrandbits(63) | 1

        line = Line(member, new_client(), kick, mend, ask_index, new_client)
        self._lines.setdefault(shard, set()).add(line)
        self.publish(shard)
        return line

    async def _index_of_leader(self, member: Member) -> int | None:
        """What a shard's leader has committed so far; None if it cannot say."""
        leader = member.epoch_message().leader
        if leader == self._node:
            return member.certain_index()
        if not leader:
            return None
        try:
            answer, parts = await self._link(leader).ask(
                lambda request: wire.AskIndex(request, member.shard)
            )
        except Unreachable:
            return None
        return None if answer.errno else int.from_bytes(parts[0], "little")

    def all(self) -> Iterable[Line]:
        """Of all faces here."""
        return [line for lines in self._lines.values() for line in lines]

    def publish(self, shard: int) -> None:
        """Tell a shard's faces how far it has come."""
        member = self._members[shard]
        for line in self._lines.get(shard, ()):
            line.publish(member.committed, member.frontier)

    def resend(self, shard: int | None = None) -> None:
        """Who leads, or how he is reached, may have changed: hand him everything that has not come by."""
        for line in self.all():
            if shard in (None, line.shard):
                line.sent = 0
                self._forward(line)

    def _forward(self, line: Line) -> None:
        """Hand a face's new proposals to the leader."""
        unsent = line.unsent()
        member = self._members[line.shard]
        leader = member.epoch_message().leader
        if not unsent or not leader:
            return
        line.sent = unsent[-1].number
        if leader == self._node:
            proposals = [(it.number, it.metadata, it.payload) for it in unsent]
            member.propose(line.client, proposals, max(it.after for it in unsent), self.told)
            member.pump()
            return
        for batch in _batches(unsent):
            payloads = [
                it.payload[0] if len(it.payload) == 1 else b"".join(it.payload) for it in batch
            ]
            message = wire.Propose(
                line.shard,
                line.client,
                [
                    (it.number, len(payload), it.metadata)
                    for it, payload in zip(batch, payloads, strict=True)
                ],
                max(it.after for it in batch),
            )
            buffers = wire.encode(message, [payload for payload in payloads if len(payload)])
            self._post(leader, buffers, sum(map(len, buffers)))

    async def run(self) -> None:
        """Send again what was dropped anywhere, until cancelled."""
        while True:
            await trio.sleep(RESEND_S)  # noqa: TID251  # A retry at the edge.
            for line in self.all():
                first = next(iter(list(line.outstanding)), 0)
                if first and first == line.stuck:
                    line.sent = 0
                    self._forward(line)
                line.stuck = first

    def told(self, message: wire.Message) -> None:
        """What a leader says to a proposer here; of epochs the authority says more."""
        if not isinstance(message, wire.Rejected | wire.Expecting):
            return
        for line in self._lines.get(message.shard, ()):
            if line.client != message.client:
                continue
            if isinstance(message, wire.Rejected):
                line.reject(message)
            elif line.sent:
                line.sent = 0
                # Later, for the leader here is telling this from within its own call.
                trio.lowlevel.current_trio_token().run_sync_soon(self._forward, line)


def _batches(unsent: Iterable[Submission]) -> Iterator[list[Submission]]:
    """What fits one message each; a single one always does."""
    batch: list[Submission] = []
    left = wire.PROPOSAL_BYTES
    for it in unsent:
        size = len(it.metadata) + sum(map(len, it.payload))
        if batch and (size > left or len(batch) == wire.PROPOSALS_MAX):
            yield batch
            batch, left = [], wire.PROPOSAL_BYTES
        batch.append(it)
        left -= size
    if batch:
        yield batch
