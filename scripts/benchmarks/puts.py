"""Puts that commit when two replicas have them, over a connection of any transport: what each costs, and where.

The replicas are the node's own (`storage.member`), one in each process; nothing else of a node is there. Used by
`scripts/bench rdma`, and by a test that asserts the counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

import trio

from cascadefs.node.links import Link
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

__all__ = ["ALONE", "BOTH", "FOLLOWER", "LEADER", "Replica", "counts", "spent"]

LEADER, FOLLOWER = MEMBERS = ("near", "far")
ALONE, BOTH = Epoch(1, LEADER, (LEADER,)), Epoch(2, LEADER, MEMBERS)
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
        self._link = Link(FOLLOWER if name == LEADER else LEADER)
        self.number = 0  # of the last put
        self.member = Member(
            SHARD,
            name,
            log,
            NoteFile(disk, bytes(16)),
            None,
            SystemClock(),
            time.monotonic_ns,
            lambda node, message, size, *, bulk=False: self._link.post(message, size, bulk=bulk),
            # Counts are of what is sent once: a machine that stands still must not make it be sent again.
            options=Options(durable=durable, resend_ms=60_000, silence_ms=60_000),
            note=Note(0, True),
        )
        self.member.followers.add(self._heard)
        self._news = trio.Event()

    def _heard(self) -> None:
        self._news.set()

    async def serve(self, epoch: Epoch = BOTH) -> None:
        """As a node's session does, until the connection ends."""
        member = self.member
        link = self._link
        link.attach(self.connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run)
            nursery.start_soon(link.drain, self.connection)
            member.adopt(epoch)
            try:
                while True:
                    for data in await self.connection.receive():
                        message, parts = wire.decode(data)
                        if isinstance(message, wire.Peer):
                            member.step(link.name, join(message.message, parts), message.places)
                    member.pump()
            except Broken:
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Give the log back."""
        self.member.close()

    async def ready(self) -> None:
        """Until what the log holds is committed; at the begin, the epoch's first frame."""
        while not self.member.committed or self.member.committed < self.member.log.last_index:
            await self._wait()

    async def _wait(self) -> None:
        self._news = trio.Event()
        await self._news.wait()

    async def put(self, count: int, payload: bytes, at_once: int) -> None:
        """As the leader: that many puts, so many on their way at most; all are committed when this returns."""
        member = self.member
        first = member.log.last_index

        def refused(message: wire.Message, parts: Sequence[Buffer] = ()) -> None:
            raise RuntimeError(f"a put was not taken: {message}")

        sent = 0
        while (done := max(0, member.committed - first)) < count:
            room = min(at_once - (sent - done), count - sent)
            if room > 0:
                numbers = range(self.number + 1, self.number + 1 + room)
                member.propose(
                    CLIENT, [(number, b"put", (payload,)) for number in numbers], 0, refused
                )
                self.number += room
                sent += room
                member.pump()
            if member.committed - first < count:
                await self._wait()


def counts(connection: Connection) -> dict[str, int]:
    """What the device (or the kernel) was asked for, and what was copied, so far."""
    told = cast("dict[str, int]", connection.status())
    counters = connection.counters
    found = {"messages": counters.sent_messages, "received": counters.received_messages}
    if "posts" not in told:
        return found | {
            "sent_calls": counters.sent_calls,
            "received_calls": counters.received_calls,
        }
    return found | {
        key: told[key]
        for key in ("posts", "doorbells", "copied_bytes", "fetched_bytes", "arms", "wakes", "polls")
    }


def spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The difference."""
    return {key: value - before[key] for key, value in after.items()}
