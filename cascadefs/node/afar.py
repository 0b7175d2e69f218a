"""Shards that this node does not hold, as it follows them at nodes that do: for programs that ask it about them.

A face here needs a line (`storage.link.RemoteLine`); what carries that is the links there are with all nodes. A shard is followed at
its leader, or at another member while that says nothing; what is proposed goes to the leader, again and again until it
comes by. In the thread of the network's loop; lines are used by their faces' threads.
"""

from __future__ import annotations

import contextlib
import errno
import math
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cascadefs.node.links import Unreachable
from storage import wire
from storage.errors import Corruption
from storage.link.line import RemoteLine
from storage.link.payloads import Payloads
from storage.sequencer import Unavailable
from storage.snapshot import collect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from cascadefs.node.links import Links
    from storage.codec import Buffer
    from storage.link.line import Submission
    from storage.snapshot import Snapshot
    from storage.transport import Connection

    Apart = Callable[[Callable[[], bytes | memoryview]], bytes | memoryview]

__all__ = ["Afar"]

CACHE_BYTES: Final = 64 * 1024 * 1024
"""Of payloads fetched from other nodes."""

SILENCE_S: Final = 2.0
"""Whoever serves a shard and says nothing for so long is left for another: nodes tell of the frontier more often."""

RESEND_S: Final = 1.0
"""A proposal that has not moved for so long is handed to the leader again."""

LOOK_S: Final = 0.5
AGAIN_S: Final = 0.1


class _Followed:
    """How far a line is with the nodes that hold its shard."""

    def __init__(self, line: RemoteLine) -> None:
        self.line = line
        self.source = ""
        self.connection: Connection | None = None
        self.generation = -1
        self.heard_at = -math.inf
        self.silent: dict[str, float] = {}  # Until when they are not asked.
        self.told_taken = 0
        self.leading: Connection | None = None
        self.sent = self.first = 0
        self.sent_at = -math.inf
        self.news = trio.Event()


class Afar:
    """See the module. `run` once."""

    def __init__(self, links: Links, epoch_of: Callable[[int], wire.Epoch], random: Random) -> None:
        """Nothing is followed yet.

        Args:
            links: with all other nodes.
            epoch_of: who leads a shard, and who holds it.
            random: for the names of faces.
        """
        self._links = links
        self._epoch_of = epoch_of
        self._random = random
        self._payloads = Payloads(CACHE_BYTES)
        self._shards: dict[int, _Followed] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Carry what lines say and are told, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def line(self, shard: int, identity: int, apart: Apart) -> RemoteLine:
        """A sequencer for the one face of a shard that is not here; `apart` lets others have the faces while it reads."""
        token = trio.lowlevel.current_trio_token()

        def kick(line: RemoteLine) -> None:
            token.run_sync_soon(self._look, line.shard)

        def wait(find: Callable[[], Awaitable[bytes | memoryview]]) -> bytes | memoryview:
            return trio.from_thread.run(find, trio_token=token)

        def fetch(line: RemoteLine, address: int, offset: int, length: int) -> memoryview:
            found = apart(lambda: wait(lambda: self._read(line, address, offset, length)))
            return memoryview(found)

        def ask_index(line: RemoteLine) -> int:
            return int.from_bytes(wait(lambda: self._index(line)), "little")

        def fetch_snapshot(line: RemoteLine) -> Snapshot:
            return trio.from_thread.run(self._snapshot, line, trio_token=token)

        def new_client() -> int:
            return self._random.getrandbits(63) | 1

        line = RemoteLine(
            shard,
            identity,
            new_client(),
            self._payloads,
            kick=kick,
            fetch=fetch,
            ask_index=ask_index,
            fetch_snapshot=fetch_snapshot,
            new_client=new_client,
        )
        followed = self._shards[shard] = _Followed(line)
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, followed)
        return line

    def close(self, shard: int | None = None) -> None:
        """Follow a shard no more, or none."""
        for number in [shard] if shard is not None else list(self._shards):
            followed = self._shards.pop(number, None)
            if followed is not None:
                followed.line.close("the node is stopping" if shard is None else "it is here now")
                followed.news.set()

    def _look(self, shard: int) -> None:
        if shard in self._shards:
            self._shards[shard].news.set()

    # --- what other nodes say ---

    def take(self, connection: Connection, message: wire.Records | wire.Stranger) -> None:
        """A node tells of a shard."""
        followed = self._shards.get(message.shard)
        if followed is None:
            return
        match message:
            case wire.Records() if connection is followed.connection:
                followed.heard_at = trio.current_time()
                if not followed.line.receive(followed.generation, message):
                    followed.connection = None
                    followed.news.set()
            case wire.Stranger(index=index) if connection is followed.connection:
                why = f"shard {message.shard} has no such record {index}"
                followed.line.lose_track(followed.generation, why)
            case _:
                pass  # Of a node that the shard was followed at before.

    def told(self, message: wire.Epoch | wire.Expecting | wire.Rejected) -> None:
        """What a leader says to who proposes; of epochs the authority says more."""
        followed = self._shards.get(message.shard)
        if followed is None:
            return
        match message:
            case wire.Expecting(client=followed.line.client):
                followed.sent = 0
            case wire.Rejected(client=followed.line.client, number=number):
                followed.line.reject(number, message.errno, message.why)
                followed.sent = min(followed.sent, number - 1)
            case _:
                pass
        followed.news.set()

    # --- one shard ---

    async def _serve(self, followed: _Followed) -> None:
        while followed.line.closed is None:
            followed.news = trio.Event()
            epoch = self._epoch_of(followed.line.shard)
            self._follow(followed, epoch)
            self._tell(followed, epoch)
            self._propose(followed, epoch)
            with trio.move_on_after(LOOK_S):
                await followed.news.wait()
        if followed.connection is not None:
            self._post(followed.source, wire.Unsubscribe(followed.line.shard))

    def _post(self, node: str, message: wire.Message, parts: Sequence[Buffer] = ()) -> None:
        buffers = wire.encode(message, parts)
        self._links.post(node, buffers, sum(map(len, buffers)))

    def _follow(self, followed: _Followed, epoch: wire.Epoch) -> None:
        now, line = trio.current_time(), followed.line
        if followed.connection is not None:
            if self._links.get(followed.source).connection is not followed.connection:
                followed.connection = None
            elif now - followed.heard_at > SILENCE_S or followed.source not in epoch.members:
                self._post(followed.source, wire.Unsubscribe(line.shard))
                followed.silent[followed.source] = now + SILENCE_S
                followed.connection = None
            elif followed.generation == line.generation:
                return
        names = [epoch.leader, *epoch.members]
        willing = [name for name in names if followed.silent.get(name, 0.0) <= now]
        for name in filter(None, [*willing, *names]):
            connection = self._links.get(name).connection
            if connection is not None:
                followed.source, followed.connection = name, connection
                followed.heard_at, followed.generation = now, line.generation
                followed.told_taken = 0
                self._post(name, wire.Subscribe(line.shard, *line.received))
                return

    def _tell(self, followed: _Followed, epoch: wire.Epoch) -> None:
        line = followed.line
        if followed.connection is None:
            return
        if line.taken_index > followed.told_taken:
            followed.told_taken = line.taken_index
            self._post(followed.source, wire.Taken(line.shard, followed.told_taken))
        if line.wanted_frontier > line.frontier()[0]:
            asked = wire.AskFrontier(line.shard, line.wanted_frontier)
            self._post(epoch.leader or followed.source, asked)

    def _propose(self, followed: _Followed, epoch: wire.Epoch) -> None:
        line, now = followed.line, trio.current_time()
        leading = self._links.get(epoch.leader).connection if epoch.leader else None
        if leading is None:
            return
        if leading is not followed.leading:
            followed.leading, followed.sent = leading, 0
        first = next(iter(list(line.outstanding)), 0)
        if first != followed.first:
            followed.first, followed.sent_at = first, now
        elif first and now - followed.sent_at > RESEND_S:
            followed.sent, followed.sent_at = 0, now
        for one in line.unsent(followed.sent):
            followed.sent = one.number
            self._post(epoch.leader, _proposal(line, one), [one.payload] if one.payload else [])

    # --- questions ---

    async def _index(self, line: RemoteLine) -> bytes:
        """What the leader says everything committed is at or below, asked until there is one that says so."""
        while True:
            leader = self._epoch_of(line.shard).leader
            if leader:
                try:
                    answer, parts = await self._links.get(leader).ask(
                        lambda request: wire.AskIndex(request, line.shard)
                    )
                except Unreachable:
                    pass
                else:
                    if not answer.errno:
                        return bytes(parts[0])
            await self._again(line)

    async def _snapshot(self, line: RemoteLine) -> Snapshot:
        """The rows of a volatile shard from any member, asked until one has them."""
        while True:
            epoch = self._epoch_of(line.shard)
            for name in dict.fromkeys(filter(None, [epoch.leader, *epoch.members])):

                async def ask(
                    number: int, piece: int, name: str = name
                ) -> tuple[int, bytes | memoryview | None]:
                    answer, parts = await self._links.get(name).ask(
                        lambda request: wire.ReadSnapshot(request, line.shard, number, piece, False)
                    )
                    return answer.errno, parts[0] if parts else None

                with contextlib.suppress(Unreachable):
                    found = await collect(ask)
                    if found is not None:
                        return found
            await self._again(line)

    async def _read(
        self, line: RemoteLine, address: int, offset: int, length: int
    ) -> memoryview | bytes:
        """A payload from any member, one after the other, round after round."""
        asked = wire.ReadPayload(0, line.shard, address, offset, length)
        while True:
            epoch = self._epoch_of(line.shard)
            damaged, unreached = "", 0
            for name in dict.fromkeys(filter(None, [epoch.leader, *epoch.members])):
                try:
                    answer, parts = await self._links.get(name).ask(
                        lambda request: msgspec.structs.replace(asked, request=request)
                    )
                except Unreachable:
                    unreached += 1
                    continue
                if not answer.errno and len(parts[0]) == length:
                    return parts[0]
                if answer.errno == errno.EIO:
                    damaged = answer.why
            if damaged and not unreached:
                raise Corruption(f"shard {line.shard}, {address}: {damaged}")
            await self._again(line)

    @staticmethod
    async def _again(line: RemoteLine) -> None:
        if line.closed is not None:
            raise Unavailable(line.closed)
        await trio.sleep(AGAIN_S)  # noqa: TID251  # A retry at the edge.


def _proposal(line: RemoteLine, one: Submission) -> wire.Propose:
    return wire.Propose(
        line.shard, line.client, [(one.number, len(one.payload), one.metadata)], one.after
    )
