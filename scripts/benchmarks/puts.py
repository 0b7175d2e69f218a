"""Puts that commit when two replicas have them, over a connection of any transport: what each costs, and where.

The replicas are the node's own (`storage.member`), one in each process; nothing else of a node is there. Used by
`scripts/bench rdma`, and by a test that asserts the counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from storage import wire
from storage.disk import RealDisk
from storage.log import Log
from storage.member import Member
from storage.member.note import NoteFile
from storage.replication import Epoch, Note, Options, join
from storage.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.codec import Buffer
    from storage.transport import Connection

__all__ = ["LEADER", "MEMBERS", "Replica", "counts", "spent"]

LEADER, FOLLOWER = MEMBERS = ("near", "far")
SHARD: Final = 0
CLIENT: Final = 1


class SystemClock:
    """The machine's."""

    def now_ns(self) -> int:
        """See `storage.clock.Clock`."""
        return time.time_ns()  # noqa: TID251  # a node reads the wall clock here, too


class Replica:
    """One member of a shard of two, and its only connection."""

    def __init__(
        self, name: str, connection: Connection, directory: Path, *, durable: bool = False
    ) -> None:
        disk = RealDisk(directory)
        log = Log.create(disk, 1, shard=SHARD, epoch=0)
        self.connection = connection
        self.member = Member(
            SHARD,
            name,
            log,
            NoteFile(disk, bytes(16)),
            None,
            SystemClock(),
            time.monotonic_ns,
            self._post,
            options=Options(durable=durable),
            note=Note(0, True),
        )
        self.member.followers.add(self._heard)
        self._news = trio.Event()
        self._number = 0

    def _post(
        self, node: str, message: Sequence[Buffer], size_bytes: int, *, bulk: bool = False
    ) -> None:
        del node, size_bytes
        try:
            self.connection.send_nowait(message, bulk=bulk)
        except (trio.WouldBlock, Broken):
            return

    def _heard(self) -> None:
        self._news.set()

    async def serve(self) -> None:
        """As a node's session does, until the connection ends."""
        member = self.member
        peer = FOLLOWER if member.node == LEADER else LEADER
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run)
            member.adopt(Epoch(1, LEADER, MEMBERS))
            try:
                while True:
                    for data in await self.connection.receive():
                        message, parts = wire.decode(data)
                        if isinstance(message, wire.Peer):
                            member.step(peer, join(message.message, parts), message.places)
                    member.pump()
            except Broken:
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Give the log back."""
        self.member.close()

    async def ready(self) -> None:
        """Until the epoch's first frame is committed."""
        while not self.member.committed:
            await self._wait()

    async def _wait(self) -> None:
        self._news = trio.Event()
        await self._news.wait()

    async def put(self, count: int, payload: bytes, at_once: int) -> None:
        """As the leader: that many puts, so many on their way at most; all are committed when this returns."""
        member = self.member
        first = member.log.last_index
        told: list[wire.Message] = []
        sent = 0
        while True:
            done = max(0, member.committed - first)
            if done >= count:
                break
            room = min(at_once - (sent - done), count - sent)
            if room > 0:
                proposals = [
                    (self._number + 1 + number, b"put", (payload,)) for number in range(room)
                ]
                self._number += room
                sent += room
                member.propose(CLIENT, proposals, 0, told.append)
                member.pump()
                assert not told, told
            if max(0, member.committed - first) < count:
                await self._wait()


def counts(connection: Connection) -> dict[str, int]:
    """What the device (or the kernel) was asked for, and what was copied, so far."""
    told = getattr(connection, "status", dict)()
    counters = connection.counters
    found = {"messages": counters.sent_messages, "received": counters.received_messages}
    if "posts" not in told:
        return found | {"calls": counters.sent_calls + counters.received_calls}
    return found | {
        key: told[key] for key in ("posts", "doorbells", "copied_bytes", "arms", "wakes", "polls")
    }


def spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The difference."""
    return {key: value - before[key] for key, value in after.items()}
