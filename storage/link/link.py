"""The connections of a process without replicas to the nodes of a cluster, and what goes over them.

Theory of operation. One trio loop, in whatever thread; everything else here is called in it, but for `line` and what a line calls. A
node is dialled as long as it is wanted: while nothing is known, those that were configured; afterwards the leader of each shard
that is followed, and the member it is followed at. Each says who leads what (`wire.Epoch`, `wire.Placement`); the
greatest epoch heard of counts.

A shard is followed at its leader, or at another member while there is none or it cannot be reached: any of them has every committed record. When a connection breaks, or what
comes does not go on where it ended, it is followed elsewhere from the last record that came. Proposals go to the
leader, all that have not come by, in order: again after a new epoch, a new connection, `Expecting`, or a silence. So
nobody above notices more than a pause.

Sources: DESIGN 7; `storage.wire`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from storage import wire
from storage.errors import Corruption
from storage.link.line import RemoteLine, Submission
from storage.link.locks import Locks
from storage.link.payloads import Payloads
from storage.membership.values import View
from storage.sequencer import Unavailable
from storage.snapshot import Snapshot, collect
from storage.transport import Broken, Rejected, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from storage.codec import Buffer
    from storage.transport import Connection, Transport

__all__ = ["Link", "Tuning"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How patient a link is, in seconds, and how much it keeps."""

    redial_s: float = 0.1
    """Before a node that could not be reached is dialled again; doubled each time, up to the next."""

    redial_max_s: float = 2.0
    resend_s: float = 1.0
    """A proposal that has not moved for so long is handed to the leader again."""

    silence_s: float = 2.0
    """Whoever serves a subscription and says nothing for so long is left for another member: nodes tell of the frontier more often."""

    read_s: float = 3.0
    """How long one member may take to send a payload, before another is asked."""

    survey_s: float = 10.0
    """Between two questions to each node how much room it has."""

    cache_bytes: int = 64 * 1024 * 1024
    """Of payloads."""


READS_MAX: Final = 64
"""Questions of one connection that are not answered yet."""

SNAPSHOT: Final = -1

CLOSED_LOOK_SECONDS: Final = 0.5
"""Between two looks of who waits for a payload whether anybody will bring it."""

_log = logging.getLogger("cascadefs.link")


class _Node:
    """A node, and the connection to it if there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: tuple[str, ...] = ()
        self.connection: Connection | None = None
        self.scope: trio.CancelScope | None = None
        self.questions: dict[int, _Question] = {}
        self.space = (0, 0, 0)


class _Told(msgspec.Struct):
    """What is of interest in a node's status."""

    space_bytes: tuple[int, int, int] = (0, 0, 0)


class _Question:
    """A payload that was asked for."""

    __slots__ = ("answer", "done", "part")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: wire.Answer | None = None
        self.part: memoryview | None = None


class _Reading:
    """Somebody in another thread waits for a payload; with length 0, for the index that is certain, or for a `SNAPSHOT`."""

    __slots__ = ("address", "done", "found", "length", "line", "offset")

    def __init__(self, line: RemoteLine, address: int, offset: int, length: int) -> None:
        self.line = line
        self.address = address
        self.offset = offset
        self.length = length
        self.done = threading.Event()
        self.found: memoryview | Snapshot | BaseException | None = None


class _Telling:
    """Somebody in another thread waits for a node to execute a call."""

    __slots__ = ("answer", "arguments", "done", "shard")

    def __init__(self, shard: int, arguments: msgspec.Raw) -> None:
        self.shard = shard
        self.arguments = arguments
        self.done = threading.Event()
        self.answer: bytes | None = None


class _Shard:
    """What the link knows of a shard, and how far it is with its line."""

    def __init__(self, line: RemoteLine) -> None:
        self.line = line
        self.epoch = 0
        self.leader = ""
        self.members: tuple[str, ...] = ()
        # Where it is followed, over which connection, and which following of the line's that serves.
        self.source: Connection | None = None
        self.generation = -1
        self.heard_at = -math.inf
        self.avoided: dict[
            str, float
        ] = {}  # Members that did not serve, and until when they are not asked.
        self.leading: Connection | None = None
        self.sent = 0
        self.sent_at = -math.inf
        self.first = 0
        self.told_taken = 0
        self.told_frontier = 0
        self.told_durable = 0
        self.news = trio.Event()


class Link:
    """See the module. `run` once; `line` from any thread while it runs."""

    def __init__(
        self,
        transport: Transport,
        addresses: Sequence[str],
        random: Random,
        *,
        tuning: Tuning | None = None,
    ) -> None:
        """Nothing is dialled before `run`.

        Args:
            transport: with our own identity.
            addresses: of some nodes; they tell of the others.
            random: for clients' numbers, and jitter.
            tuning: see there.
        """
        self.tuning = tuning or Tuning()
        self.payloads = Payloads(self.tuning.cache_bytes)
        self.locks = Locks(random, self._soon)
        self.view = View()
        self.on_view: Callable[[View], None] | None = None
        """Called by the link's thread with each new view; must not wait."""
        self.apart: Callable[[Callable[[], memoryview]], memoryview] = lambda call: call()
        """How who reads a payload waits for a member; set once, at first."""
        self._transport = transport
        self._addresses = tuple(addresses)
        self._random = random
        self._nodes: dict[str, _Node] = {}
        self._shards: dict[int, _Shard] = {}
        self._requests = itertools.count(1)
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._why = "no node was reached yet"

    # --- from any thread -----------------------------------------------------------------------------------------

    @property
    def why(self) -> str:
        """What went wrong last with a node, for people."""
        return self._why

    def status(self) -> dict[str, object]:
        """Which nodes are reached, JSON-able."""
        return {name: node.connection is not None for name, node in sorted(self._nodes.items())}

    def line(self, shard: int, identity: int) -> RemoteLine:
        """A sequencer for a shard's face; one for each shard."""
        line = RemoteLine(
            shard,
            identity,
            self._new_client(),
            self.payloads,
            kick=self._kick,
            fetch=self._fetch_apart,
            ask_index=self._ask_index,
            fetch_snapshot=self._fetch_snapshot,
            new_client=self._new_client,
        )
        self._soon(self._add, line)
        return line

    def _new_client(self) -> int:
        return self._random.getrandbits(63) + 1

    def _soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Have the link's thread call something; it may have ended."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call, *arguments)

    def _kick(self, line: RemoteLine) -> None:
        self._soon(self._look, line)

    def _fetch_apart(self, line: RemoteLine, address: int, offset: int, length: int) -> memoryview:
        return self.apart(lambda: self._fetch(line, address, offset, length))

    def _fetch(self, line: RemoteLine, address: int, offset: int, length: int) -> memoryview:
        found = self._wait(_Reading(line, address, offset, length))
        assert isinstance(found, memoryview)
        return found

    def _fetch_snapshot(self, line: RemoteLine) -> Snapshot:
        found = self._wait(_Reading(line, 0, 0, SNAPSHOT))
        assert isinstance(found, Snapshot)
        return found

    def _wait(self, reading: _Reading) -> memoryview | Snapshot:
        line = reading.line
        self._soon(self._begin_reading, reading)
        while not reading.done.wait(CLOSED_LOOK_SECONDS):
            if line.closed is not None:
                raise Unavailable(line.closed)
        if isinstance(reading.found, BaseException):
            raise reading.found
        if reading.found is None:
            raise Unavailable(line.closed or "the link to the cluster has ended")
        return reading.found

    def call(self, shard: int, arguments: bytes) -> bytes | None:
        """Have a node execute an operation for this process (`wire.Call`): that which leads a shard, or else any.

        Waits for `Tuning.read_s` at most; None: nobody is reached, executes anything now, or answered in time.
        """
        telling = _Telling(shard, msgspec.Raw(arguments))
        self._soon(self._begin_telling, telling)
        telling.done.wait(self.tuning.read_s + 1)
        return telling.answer

    def _begin_telling(self, telling: _Telling) -> None:
        if self._nursery is None:
            telling.done.set()
        else:
            self._nursery.start_soon(self._execute, telling)

    def _ask_index(self, line: RemoteLine) -> int:
        return int.from_bytes(self._fetch(line, 0, 0, 0), "little")

    def _begin_reading(self, reading: _Reading) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._read, reading)

    # --- the loop ------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; every line is closed then."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                for address in self._addresses:
                    nursery.start_soon(self._introduce, address)
                nursery.start_soon(self._survey)
                while True:
                    self._dial_wanted(nursery)
                    changed = self._changed
                    await changed.wait()
        finally:
            self._nursery = None
            self.locks.close()
            for shard in self._shards.values():
                shard.line.close("the link to the cluster has ended")

    def _add(self, line: RemoteLine) -> None:
        shard = self._shards[line.shard] = _Shard(line)
        self._learn(line.shard)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, shard)
        self._change()

    def _look(self, line: RemoteLine) -> None:
        shard = self._shards.get(line.shard)
        if shard is not None:
            shard.news.set()

    def _change(self) -> None:
        """Who is wanted, or reached, is another."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        for shard in self._shards.values():
            shard.news.set()

    # --- nodes ---------------------------------------------------------------------------------------------------

    async def _introduce(self, address: str) -> None:
        """Dial a configured address as long as no node is reached; whoever answers is a node like any other."""
        pause_s = self.tuning.redial_s
        while True:
            while any(node.connection is not None for node in self._nodes.values()):
                await self._changed.wait()
                pause_s = self.tuning.redial_s
            await self._converse(address, None)
            pause_s = await self._rest(pause_s)

    async def _rest(self, pause_s: float) -> float:
        """Between two attempts; how long before the one after the next."""
        await trio.sleep(pause_s * (0.5 + self._random.random()))  # noqa: TID251  a retry at the edge
        return min(2 * pause_s, self.tuning.redial_max_s)

    def _dial_wanted(self, nursery: trio.Nursery) -> None:
        wanted: set[str] = set()
        for shard in self._shards.values():
            wanted |= {shard.leader, *shard.members[:2]}
        for name in wanted - {""}:
            node = self._nodes.setdefault(name, _Node(name))
            if node.scope is None:
                node.scope = trio.CancelScope()
                nursery.start_soon(self._keep, node, node.scope)
        for name, node in self._nodes.items():
            if name not in wanted and node.scope is not None and self._shards:
                node.scope.cancel()
                node.scope = None

    async def _keep(self, node: _Node, scope: trio.CancelScope) -> None:
        """Be connected to a node as long as it is wanted."""
        pause_s = self.tuning.redial_s
        with scope:
            while True:
                known = self.view.live.get(node.name) or self.view.nodes.get(node.name)
                for address in known.addresses if known is not None else ():
                    if node.connection is None and await self._converse(address, node.name):
                        pause_s = self.tuning.redial_s
                pause_s = await self._rest(pause_s)

    async def _converse(self, address: str, name: str | None) -> bool:
        """Dial, and talk until the connection ends; whether there was one."""
        reached = False
        try:
            async with trio.open_nursery() as nursery:
                connection = await self._transport.connect(
                    nursery, address, role=Role.NODE, name=name
                )
                reached = True
                try:
                    await self._talk(connection)
                finally:
                    self._lost(connection)
                    connection.close("the link is done with it")
                    nursery.cancel_scope.cancel()
        except* (Broken, ValueError) as errors:
            self._why = str(errors.exceptions[0])
            if any(isinstance(error, Rejected) for error in errors.exceptions):
                _log.error("%s", self._why)
        return reached

    async def _talk(self, connection: Connection) -> None:
        node = self._nodes.setdefault(connection.peer.name, _Node(connection.peer.name))
        await connection.send(wire.encode(wire.Hello()))
        try:
            while True:
                for data in await connection.receive():
                    message, parts = wire.decode(data)
                    if isinstance(message, wire.Welcome):
                        if node.connection is not None:
                            return  # Another connection to it was quicker.
                        node.connection = connection
                        self._change()
                    self._take(node, connection, message, parts)
        except Broken as error:
            self._why = str(error)
        except wire.Malformed as error:
            self._why = f"{connection.peer}: {error}"
            _log.error("%s", self._why)

    def _lost(self, connection: Connection) -> None:
        node = self._nodes.get(connection.peer.name)
        if node is None or node.connection is not connection:
            return
        node.connection = None
        questions, node.questions = node.questions, {}
        for question in questions.values():
            question.done.set()
        for shard in self._shards.values():
            if shard.source is connection:
                shard.source = None
            if shard.leading is connection:
                shard.leading = None
        self._change()

    # --- what nodes say ------------------------------------------------------------------------------------------

    def _take(
        self,
        node: _Node,
        connection: Connection,
        message: wire.Message,
        parts: list[memoryview],
    ) -> None:
        match message:
            case wire.Records(shard=number):
                shard = self._shards.get(number)
                if shard is not None and shard.source is connection:
                    shard.heard_at = trio.current_time()
                    if not shard.line.receive(shard.generation, message):
                        shard.source = None
                        shard.news.set()
            case wire.Epoch(shard=number, epoch=epoch, leader=leader, members=members):
                self._hear(number, epoch, leader, tuple(members), node, connection)
            case wire.Placement(revision=revision, map=encoded):
                if revision > self.view.revision:
                    try:
                        self.view = msgspec.msgpack.decode(encoded, type=View)
                    except msgspec.DecodeError as error:
                        raise wire.Malformed(f"not a placement map: {error}") from error
                    for number in self._shards:
                        self._learn(number)
                    self._change()
                    if self.on_view is not None:
                        self.on_view(self.view)
            case wire.Answer(request=request):
                question = node.questions.pop(request, None)
                if question is not None:
                    question.answer, question.part = message, parts[0] if parts else None
                    question.done.set()
            case wire.Stranger(shard=number, index=index):
                shard = self._shards.get(number)
                if shard is not None and shard.source is connection:
                    why = f"shard {number} has no such record {index}"
                    shard.line.lose_track(shard.generation, why)
            case wire.Expecting(shard=number):
                shard = self._shards.get(number)
                if shard is not None and shard.leading is connection:
                    shard.sent = 0
                    shard.news.set()
            case wire.Rejected(shard=number, client=client, number=proposal):
                shard = self._shards.get(number)
                if shard is not None and client == shard.line.client:
                    shard.line.reject(proposal, message.errno, message.why)
                    shard.sent = min(shard.sent, proposal - 1)
            case wire.LockAnswer() | wire.LocksKept():
                self.locks.hear(connection, message, trio.current_time())
            case wire.Refusal(why=why):
                self._why = f"{connection.peer}: {why}"
                _log.error("%s", self._why)
            case _:
                pass

    def _learn(self, number: int) -> None:
        """What the view says of who leads a shard."""
        epoch, shard = self.view.epochs.get(number), self._shards[number]
        if epoch is not None and epoch.epoch > shard.epoch:
            shard.epoch, shard.leader, shard.members = epoch.epoch, epoch.leader, epoch.members
            shard.leading = None

    def _hear(
        self,
        number: int,
        epoch: int,
        leader: str,
        members: tuple[str, ...],
        node: _Node,
        connection: Connection,
    ) -> None:
        shard = self._shards.get(number)
        if shard is None:
            return
        if epoch > shard.epoch or (epoch == shard.epoch and leader and not shard.leader):
            shard.epoch, shard.leader, shard.members = epoch, leader, members
            shard.leading = None
            self._change()
        if shard.source is connection and members and node.name not in members:
            shard.source = None  # It does not hold the shard.
            shard.avoided[node.name] = trio.current_time() + self.tuning.silence_s
            shard.news.set()

    # --- one shard -----------------------------------------------------------------------------------------------

    async def _serve(self, shard: _Shard) -> None:
        """Follow a shard and hand over what is submitted to it, until its line is closed."""
        while shard.line.closed is None:
            shard.news = trio.Event()
            try:
                await self._follow(shard)
                await self._tell(shard)
                await self._propose(shard)
                self._attend_locks(shard)
            except Broken as error:
                self._why = str(error)  # Whoever receives on it notices, too.
                await self._rest(self.tuning.redial_s)
            with trio.move_on_after(min(self.tuning.resend_s, self.tuning.silence_s) / 2):
                await shard.news.wait()

    def _attend_locks(self, shard: _Shard) -> None:
        leader = self.view.live.get(shard.leader)
        self.locks.attend(
            shard.line.shard,
            self._connected(shard.leader),
            shard.epoch,
            knows=leader is None or leader.locks,
            now_s=trio.current_time(),
        )

    def _connected(self, name: str) -> Connection | None:
        node = self._nodes.get(name)
        return node.connection if node is not None else None

    async def _follow(self, shard: _Shard) -> None:
        """Be subscribed, at the right place."""
        now, line = trio.current_time(), shard.line
        if shard.source is not None and now - shard.heard_at > self.tuning.silence_s:
            shard.avoided[shard.source.peer.name] = now + self.tuning.silence_s
            shard.source = None
        if shard.source is not None and shard.generation == line.generation:
            return
        source = self._source_of(shard, now)
        if source is None:
            return
        shard.source, shard.heard_at = source, now
        shard.generation = line.generation
        place = line.received
        shard.told_taken = 0
        shard.told_frontier = shard.told_durable = 0
        await source.send(wire.encode(wire.Subscribe(line.shard, *place)))

    def _source_of(self, shard: _Shard, now: float) -> Connection | None:
        names = [shard.leader, *shard.members]
        willing = [name for name in names if shard.avoided.get(name, 0.0) <= now]
        for name in [*willing, *names]:
            connection = self._connected(name)
            if connection is not None:
                return connection
        return None

    async def _tell(self, shard: _Shard) -> None:
        """What the face has taken, and what it waits for."""
        source, line = shard.source, shard.line
        if source is None:
            return
        if line.taken_index > shard.told_taken:
            shard.told_taken = line.taken_index
            await source.send(wire.encode(wire.Taken(line.shard, shard.told_taken)))
        stable, _ = line.frontier()
        if line.wanted_frontier > stable:
            asked = wire.AskFrontier(line.shard, line.wanted_frontier)
            await (shard.leading or source).send(wire.encode(asked))
        if line.wanted_durable > max(line.durable_index(), shard.told_durable):
            shard.told_durable = line.wanted_durable
            await source.send(wire.encode(wire.WaitDurable(line.shard, shard.told_durable)))

    async def _propose(self, shard: _Shard) -> None:
        """Hand the leader what has not come by and was not sent to it yet."""
        line, now = shard.line, trio.current_time()
        leading = self._connected(shard.leader)
        if leading is None:
            return
        if leading is not shard.leading:
            shard.leading, shard.sent = leading, 0
        first = next(iter(list(line.outstanding)), 0)
        if first != shard.first:
            shard.first, shard.sent_at = first, now
        elif first and now - shard.sent_at > self.tuning.resend_s:
            shard.sent, shard.sent_at = 0, now
        waiting = line.unsent(shard.sent)
        while waiting and shard.leading is leading:
            batch, waiting = _cut(waiting)
            shard.sent = batch[-1].number
            message = wire.Propose(
                line.shard,
                line.client,
                [(one.number, len(one.payload), one.metadata) for one in batch],
                max(one.after for one in batch),
            )
            parts: list[Buffer] = [one.payload for one in batch if one.payload]
            await leading.send(wire.encode(message, parts))

    # --- payloads ------------------------------------------------------------------------------------------------

    async def _read(self, reading: _Reading) -> None:
        try:
            if reading.length == SNAPSHOT:
                reading.found = await self._snapshot(reading)
            else:
                find = self._found if reading.length else self._certain
                reading.found = await find(reading)
        except (Unavailable, Corruption) as error:
            reading.found = error
        finally:
            reading.done.set()

    async def _found(self, reading: _Reading) -> memoryview:
        """A payload from any member that is reached, one after the other, round after round until the line is closed."""
        line, address, length = reading.line, reading.address, reading.length
        shard = self._shards[line.shard]
        while True:
            damaged: str | None = None
            unreached = 0
            names = dict.fromkeys(
                [
                    *([shard.source.peer.name] if shard.source is not None else []),
                    shard.leader,
                    *shard.members,
                ]
            )
            for name in names:
                node = self._nodes.get(name)
                if node is None or node.connection is None or len(node.questions) >= READS_MAX:
                    unreached += 1
                    continue
                request = next(self._requests)
                question = await self._ask(
                    node,
                    wire.ReadPayload(request, line.shard, address, reading.offset, length),
                )
                if question.part is not None and len(question.part) == length:
                    return question.part
                if question.answer is None:
                    unreached += 1
                elif question.answer.errno == errno.EIO:
                    damaged = question.answer.why
            if line.closed is not None:
                raise Unavailable(line.closed)
            if damaged is not None and not unreached:
                raise Corruption(f"shard {line.shard}, {address}: {damaged}")
            await self._rest(self.tuning.redial_s)

    async def _snapshot(self, reading: _Reading) -> Snapshot:
        """The rows of a volatile shard, from any member that is reached, until the line is closed."""
        line = reading.line
        shard = self._shards[line.shard]
        while True:
            for name in dict.fromkeys([shard.leader, *shard.members]):
                node = self._nodes.get(name)
                if node is None or node.connection is None:
                    continue

                async def ask(
                    number: int, piece: int, node: _Node = node
                ) -> tuple[int, memoryview | None]:
                    if node.connection is None:
                        return errno.EAGAIN, None
                    request = next(self._requests)
                    asked = wire.ReadSnapshot(request, line.shard, number, piece, False)
                    question = await self._ask(node, asked)
                    answer = question.answer
                    return (errno.EAGAIN if answer is None else answer.errno), question.part

                found = await collect(ask)
                if found is not None:
                    return found
            if line.closed is not None:
                raise Unavailable(line.closed)
            await self._rest(self.tuning.redial_s)

    async def _certain(self, reading: _Reading) -> memoryview:
        """What the leader says everything committed is at or below; asked until there is one."""
        line = reading.line
        while True:
            node = self._nodes.get(self._shards[line.shard].leader)
            if node is not None and node.connection is not None:
                request = next(self._requests)
                question = await self._ask(node, wire.AskIndex(request, line.shard))
                if question.part is not None:
                    return question.part
            if line.closed is not None:
                raise Unavailable(line.closed)
            await self._rest(self.tuning.redial_s)

    async def _execute(self, telling: _Telling) -> None:
        try:
            known = self._shards.get(telling.shard)
            leader = known.leader if known is not None else ""
            names = [leader, *(name for name in self._nodes if name != leader)]
            node = next((self._nodes[name] for name in names if self._takes_calls(name)), None)
            if node is None or len(node.questions) >= READS_MAX:
                return
            message = wire.Call(next(self._requests), "call", telling.arguments)
            question = await self._ask(node, message)
            if question.part is not None:
                telling.answer = bytes(question.part)
        finally:
            telling.done.set()

    def _takes_calls(self, name: str) -> bool:
        live = self.view.live.get(name)
        return live is not None and live.orders and self._connected(name) is not None

    async def _survey(self) -> None:
        """Ask every node that is reached, now and then, how much room its disk has."""
        while True:
            for node in list(self._nodes.values()):
                if node.connection is not None:
                    question = await self._ask(node, wire.Ask(next(self._requests), "status"))
                    if question.part is not None:
                        with contextlib.suppress(msgspec.DecodeError):
                            node.space = msgspec.json.decode(question.part, type=_Told).space_bytes
            with trio.move_on_after(self.tuning.survey_s):
                await self._changed.wait()

    def space(self) -> tuple[int, int, int]:
        """(bytes in all, free, free to users) for contents: what the nodes' disks have, divided by the replicas of each."""
        known = [node.space for node in list(self._nodes.values()) if node.space[0]]
        pools = [pool.replicas for pool in self.view.pools.values()]
        replicas = max(1, min(max(pools, default=1), len(known)))
        if not known:
            return 0, 0, 0
        total, free, available = (sum(each) // replicas for each in zip(*known, strict=True))
        return total, free, available

    async def _ask(
        self,
        node: _Node,
        message: wire.ReadPayload | wire.ReadSnapshot | wire.AskIndex | wire.Ask | wire.Call,
    ) -> _Question:
        request, question = message.request, _Question()
        node.questions[request] = question
        assert node.connection is not None
        try:
            with trio.move_on_after(self.tuning.read_s):
                await node.connection.send(wire.encode(message))
                await question.done.wait()
        except Broken as error:
            self._why = str(error)
        finally:
            node.questions.pop(request, None)
        return question


def _cut(waiting: list[Submission]) -> tuple[list[Submission], list[Submission]]:
    """What fits one message, and the rest."""
    size = count = 0
    for one in waiting:
        size += len(one.payload) + len(one.metadata)
        if count and (size > wire.PROPOSAL_BYTES or count == wire.PROPOSALS_MAX):
            break
        count += 1
    return waiting[:count], waiting[count:]
