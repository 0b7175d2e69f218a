"""One connection with a peer, served to its end: messages in, answers and pushed records out.

Who may say what is by role, and that is in the peer's certificate: nodes everything, mounts what an observer and proposer
needs, clients operations and questions. A peer that says anything else, or what is no message, is cut off. What a
peer has asked and is not answered yet is bounded; above, nothing more is received from it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cascadefs.node.ward import ward_of
from storage import record, wire
from storage.errors import Corruption
from storage.limits import SHARDS_MAX
from storage.member import MemoryLog, Subscription
from storage.replication import Malformed, join
from storage.sequencer import Place
from storage.transport import Broken, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascadefs.node.node import Node
    from cascadefs.node.ward import Ward
    from storage.codec import Buffer
    from storage.member import Member
    from storage.transport import Connection

__all__ = ["Session"]

ANSWERING_MAX: Final = 64
"""Questions of one peer that are being answered at the same time."""

ERRANDS_MAX: Final = 1024
"""Of another node that are done here at the same time. They take as long as they like, so nothing else waits for their end."""

REFUSAL_S: Final = 1.0
"""How long who is cut off may take to hear why."""

_OBSERVER: Final = (
    wire.Hello,
    wire.Subscribe,
    wire.Unsubscribe,
    wire.Taken,
    wire.Propose,
    wire.AskFrontier,
    wire.WaitDurable,
    wire.ReadPayload,
    wire.ReadSnapshot,
    wire.Ask,
    wire.AskIndex,
    wire.Lock,
    wire.CancelLock,
    wire.ClaimLocks,
    wire.KeepLocks,
)

ALLOWED: Final[dict[Role, tuple[type, ...]]] = {
    Role.NODE: (
        *_OBSERVER,
        wire.Welcome,
        wire.Placement,
        wire.Records,
        wire.Stranger,
        wire.Epoch,
        wire.Expecting,
        wire.Rejected,
        wire.ReadFrame,
        wire.Answer,
        wire.Call,
        wire.Peer,
        wire.Behind,
        wire.LockHolders,
        wire.LockHoldersKnown,
    ),
    Role.MOUNT: (*_OBSERVER, wire.Call),
    Role.CLIENT: (wire.Hello, wire.Call, wire.Ask),
}
"""What each role may say."""

_log = logging.getLogger("cascadefs.node")


class Session:
    """See the module. In the thread of the network's loop."""

    def __init__(self, node: Node, connection: Connection) -> None:
        self._node = node
        self._connection = connection
        self._allowed = ALLOWED[connection.peer.role]
        self._subscriptions: dict[int, Subscription] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._answering = trio.Semaphore(ANSWERING_MAX)
        self._errands = 0
        self._touched: set[Member] = set()
        self._ward = ward_of(connection.peer, node.faces)

    async def run(self) -> None:
        """Serve until the connection is no more; never raises for what a peer does."""
        connection = self._connection
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._push_placement)
                while True:
                    for data in await connection.receive():
                        message, parts = wire.decode(data)
                        if not isinstance(message, self._allowed):
                            raise wire.Malformed(
                                f"a {connection.peer.role.value} may not say {type(message).__name__}"
                            )
                        await self._take(nursery, message, parts)
                    for member in self._touched:
                        member.pump()
                    self._touched.clear()
        except* Broken:
            pass
        except* (wire.Malformed, Malformed) as errors:
            why = str(errors.exceptions[0])
            _log.error("%s at %s is cut off: %s", connection.peer, connection.address, why)
            with trio.move_on_after(REFUSAL_S), contextlib.suppress(Broken):
                await self._refuse(why)
        finally:
            connection.close("the session ended")
            self._node.locks.gone(connection)

    def answer(self, message: wire.Message, parts: Sequence[Buffer] = ()) -> None:
        """Say something small, or drop it if the queue is full: who waits for it asks again."""
        with contextlib.suppress(trio.WouldBlock, Broken):
            self._connection.send_nowait(wire.encode(message, parts))

    async def _take(
        self, nursery: trio.Nursery, message: wire.Message, parts: list[memoryview]
    ) -> None:
        node = self._node
        match message:
            case wire.Peer(shard=shard):
                self._step(shard, message, parts)
            case wire.Propose(shard=shard):
                if self._ward is None:
                    self._propose(shard, message, parts)
                else:
                    await self._propose_some(self._ward, message, parts)
            case wire.Taken(shard=shard, index=index):
                if shard in self._subscriptions:
                    self._subscriptions[shard].taken(index)
            case wire.Call(request=request) if self._connection.peer.role is Role.NODE:
                if self._errands < ERRANDS_MAX:
                    self._errands += 1
                    nursery.start_soon(self._do_errand, message, parts)
                else:
                    self.answer(wire.Answer(request, errno.EAGAIN, "too many errands"))
            case wire.Behind(shard=shard):
                self._lag(message)
            case (
                wire.ReadPayload()
                | wire.ReadFrame()
                | wire.ReadSnapshot()
                | wire.Ask()
                | wire.Call()
            ):
                await self._answering.acquire()
                nursery.start_soon(self._answer, message, parts)
            case wire.AskIndex(request=request, shard=shard):
                self._tell_index(request, shard)
            case (
                wire.Lock()
                | wire.CancelLock()
                | wire.ClaimLocks()
                | wire.KeepLocks()
                | wire.LockHolders()
                | wire.LockHoldersKnown()
            ):
                node.locks.take(self._connection, message)
            case wire.Answer():
                node.links.get(self._connection.peer.name).answered(message, parts)
            case wire.Subscribe(shard=shard):
                self._subscribe(nursery, message)
            case wire.Unsubscribe(shard=shard):
                self._unsubscribe(shard)
            case wire.AskFrontier(shard=shard, timestamp=timestamp):
                member = node.members.get(shard)
                if member is not None:
                    member.ask_frontier(timestamp)
            case wire.Hello(version=version):
                if version != wire.VERSION:
                    await self._refuse(f"protocol {version}; this node speaks {wire.VERSION}")
                self.answer(wire.Welcome(wire.VERSION, node.name))
            case wire.Records() | wire.Stranger():
                node.afar.take(self._connection, message)
            case wire.Epoch() | wire.Expecting() | wire.Rejected():
                node.lines.told(message)
                node.afar.told(message)
            case _:
                pass  # A frontier or a durable mark is pushed anyway; the rest is for observers.

    def _lag(self, message: wire.Behind) -> None:
        """A leader has let go of what a replica here lacks."""
        member = self._node.members.get(message.shard)
        epoch = member.replica.epoch if member is not None else None
        if member is None or epoch is None or not isinstance(member.log, MemoryLog):
            return
        if (epoch.number, epoch.leader) == (message.epoch, self._connection.peer.name):
            member.behind.set()

    async def _refuse(self, why: str) -> None:
        await self._connection.send(wire.encode(wire.Refusal(why)))
        await self._connection.aclose()
        raise Broken(why)

    def _tell_index(self, request: int, shard: int) -> None:
        member = self._node.members.get(shard)
        index = member.certain_index() if member is not None else None
        if index is None:
            self.answer(wire.Answer(request, errno.EAGAIN, "this node does not lead the shard"))
        else:
            self.answer(wire.Answer(request), [index.to_bytes(8, "little")])

    def _step(self, shard: int, message: wire.Peer, parts: list[memoryview]) -> None:
        member = self._node.members.get(shard)
        if member is not None:
            said = join(message.message, parts)
            member.step(self._connection.peer.name, said, message.places)
            self._touched.add(member)

    def _propose(self, shard: int, message: wire.Propose, parts: list[memoryview]) -> None:
        member = self._node.members.get(shard)
        if member is None:
            self.answer(self._node.epoch_of(shard))
            return
        if self._connection.peer.role is Role.MOUNT:
            for _, _, metadata in message.proposals:
                _check_record(metadata)
        rest = iter(parts)
        proposals = [
            (number, metadata, (next(rest),) if length else ())
            for number, length, metadata in message.proposals
        ]
        member.propose(message.client, proposals, message.after, self.answer)
        self._touched.add(member)

    async def _propose_some(
        self, ward: Ward, message: wire.Propose, parts: list[memoryview]
    ) -> None:
        """What a mount proposes that may not change everything."""
        member = self._node.members.get(message.shard)
        if member is None:
            self.answer(self._node.epoch_of(message.shard))
            return
        try:
            await ward.pass_on(message, parts, member, partial(self._propose, message.shard))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise wire.Malformed(f"a proposal that is no record: {error}") from error
        except (OSError, Corruption) as error:  # The table; the mount proposes again.
            _log.error("what %s proposes cannot be looked at: %s", self._connection.peer, error)

    # --- observers ---

    def _subscribe(self, nursery: trio.Nursery, message: wire.Subscribe) -> None:
        if not 0 <= message.shard < SHARDS_MAX:
            raise wire.Malformed(f"there is no shard {message.shard}")
        self._unsubscribe(message.shard)
        scope = self._scopes[message.shard] = trio.CancelScope()
        nursery.start_soon(self._push, message, scope)

    async def _push(self, message: wire.Subscribe, scope: trio.CancelScope) -> None:
        shard = message.shard
        with scope:
            if shard not in self._node.members:
                # It may come, or never: the asker is told who has it, and may ask there.
                self.answer(self._node.epoch_of(shard))
            member = await self._node.wait_seat(shard)
            place = Place(message.index, message.address, message.checksum)
            subscription = Subscription(
                self._connection,
                member,
                place,
                lambda address: self._node.mender.mend(member, address),
            )
            self._subscriptions[shard] = subscription
            try:
                await subscription.run()
            except Broken:
                raise
            except (Corruption, OSError) as error:
                _log.error("an observer cannot be served: %s", error)
                self._connection.close(f"records are damaged here: {error}")

    def _unsubscribe(self, shard: int) -> None:
        self._subscriptions.pop(shard, None)
        if shard in self._scopes:
            self._scopes.pop(shard).cancel()

    async def _push_placement(self) -> None:
        authority = self._node.authority
        if self._connection.peer.role is not Role.MOUNT:
            return
        view = authority.view
        while True:
            message = wire.Placement(view.revision, self._node.encode_view(view))
            await self._connection.send(wire.encode(message))
            view = await authority.wait_view(view.revision)

    # --- questions ---

    async def _answer(self, message: wire.Message, parts: list[memoryview]) -> None:
        try:
            await self._answer_or_fail(message, parts)
        finally:
            self._answering.release()

    async def _do_errand(self, message: wire.Call, parts: list[memoryview]) -> None:
        try:
            await self._answer_or_fail(message, parts)
        finally:
            self._errands -= 1

    async def _answer_or_fail(self, message: wire.Message, parts: list[memoryview]) -> None:
        try:
            match message:
                case wire.ReadPayload():
                    await self._read(message)
                case wire.ReadFrame():
                    await self._read_frame(message)
                case wire.ReadSnapshot():
                    await self._read_snapshot(message)
                case wire.Ask(request=request, what=what):
                    await self._tell(request, what)
                case wire.Call(request=request):
                    await self._call(request, message, parts)
        except Broken:
            raise
        except Exception as error:  # Whatever one peer asks, the others' node goes on.
            _log.exception("%s asked what cannot be answered", self._connection.peer)
            assert isinstance(
                message,
                wire.ReadPayload | wire.ReadFrame | wire.ReadSnapshot | wire.Ask | wire.Call,
            )
            await self._fail(message.request, errno.EIO, f"{type(error).__name__}: {error}")

    async def _tell(self, request: int, what: str) -> None:
        """Answer about the node itself; about its authority only an operator, who may look at everything."""
        peer = self._connection.peer
        if what == "time":
            told = msgspec.json.encode({"time_us": self._node.time_us()})
        elif what != "authority":
            told = await self._node.status_json()
        elif peer.role is Role.CLIENT and peer.uids.translate(0) == 0:
            told = msgspec.json.encode(self._node.told())
        else:
            await self._fail(request, errno.EPERM, "that is told to operators alone")
            return
        await self._connection.send(wire.encode(wire.Answer(request), [told]))

    async def _call(self, request: int, message: wire.Call, parts: list[memoryview]) -> None:
        node, peer = self._node, self._connection.peer
        if not node.is_seen:
            await self._fail(request, errno.EAGAIN, "this node waits for its authority")
            return
        if (node.errands if peer.role is Role.NODE else node.call) is None:
            await self._fail(request, errno.EOPNOTSUPP, "this node executes no operations")
            return
        try:
            if peer.role is Role.NODE:
                assert node.errands is not None
                answer, buffers = await node.errands(peer, message.operation, parts)
            else:
                assert node.call is not None
                answer, buffers = await node.call(peer, message.arguments, parts)
        except msgspec.DecodeError as error:
            await self._fail(request, errno.EPROTO, f"not a call: {error}")
            return
        except OSError as error:
            await self._fail(request, error.errno or errno.EIO, error.strerror or str(error))
            return
        try:
            await self._connection.send(wire.encode(wire.Answer(request), [answer, *buffers]))
        except ValueError as error:
            await self._fail(request, errno.EMSGSIZE, f"more than one answer holds: {error}")

    async def _read(self, message: wire.ReadPayload) -> None:
        member = self._node.members.get(message.shard)
        if member is None or not member.is_committed(message.address):
            await self._fail(message.request, errno.ENOENT, "there is no such record here")
            return

        def read() -> memoryview | bytes:
            return member.log.read(message.address, message.offset, message.length)

        try:
            found = await self._mended(member, message.address, read)
        except (OSError, Corruption) as error:
            await self._fail(message.request, errno.EIO, str(error))
            return
        await self._connection.send(wire.encode(wire.Answer(message.request), [found]), bulk=True)

    async def _mended(
        self, member: Member, address: int, read: Callable[[], memoryview | bytes]
    ) -> memoryview | bytes:
        """Read on a worker thread, and once more when another member has put back what is damaged."""
        try:
            return await trio.to_thread.run_sync(read)
        except (Corruption, OSError):
            await self._node.mender.mend(member, address)
            return await trio.to_thread.run_sync(read)

    async def _read_frame(self, message: wire.ReadFrame) -> None:
        member = self._node.members.get(message.shard)
        if member is None:
            await self._fail(message.request, errno.ENOENT, "the shard is not here")
            return
        try:
            if await trio.to_thread.run_sync(member.log.is_left_out, message.address):
                await self._fail(message.request, errno.ENODATA, "its payload was let go")
                return
            raw = await trio.to_thread.run_sync(member.log.raw, message.address)
        except (OSError, Corruption) as error:
            await self._fail(message.request, errno.EIO, str(error))
            return
        await self._connection.send(wire.encode(wire.Answer(message.request), [raw]), bulk=True)

    async def _read_snapshot(self, message: wire.ReadSnapshot) -> None:
        snapshots = self._node.snapshots
        found = await snapshots.piece(message) if snapshots is not None else errno.EAGAIN
        if isinstance(found, int):
            await self._fail(message.request, found, "no such snapshot is here")
            return
        await self._connection.send(wire.encode(wire.Answer(message.request), [found]), bulk=True)

    async def _fail(self, request: int, number: int, why: str) -> None:
        await self._connection.send(wire.encode(wire.Answer(request, number, why)))


def _check_record(metadata: bytes) -> None:
    """What this version cannot read must not come into the log: every face would stop there. Measured: 0.5 us.

    Raises:
        wire.Malformed: it is no record.
    """
    try:
        record.decode(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wire.Malformed(f"a proposal that is no record: {error}") from error
