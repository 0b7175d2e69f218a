"""Executes the calls of programs on a store that others use too: a mount's, a node's.

As whom: a client's certificate says, or the kernel about the socket it came by. A call that may wait for the store runs on a
worker thread; where requests of a mount are answered in trio's own thread, calls are, too.

Source: FORMAT, "Calls of programs"; SEMANTICS, "Programs".
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio

from cascadefs.client import calls
from cascadefs.client.operations import Operations, apart, together
from cascadefs.client.uploads import Uploads
from cascadefs.client.writing import ATTEMPTS_MAX
from cascadefs.errnos import ERRNO
from storage import wire
from storage.errors import Reason
from storage.transport import Broken
from triggers.access import Identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from storage.clock import Clock
    from storage.record import Part
    from storage.store import Store
    from storage.transport import Connection, IdMap, Listener
    from storage.transport import Identity as Peer
    from triggers.run import Buffer

__all__ = ["CALLS_MAX", "Service", "user_of"]

CALLS_MAX = 64
"""Executed or waiting for the disk at a time, of all connections: threads, and payloads held for them."""

CONNECTION_CALLS_MAX = 16
"""Of these, of one connection: what it asks beyond that waits in the connection."""

_Results: TypeAlias = "Sequence[calls.Written | calls.Failed | None]"

_log = logging.getLogger(__name__)


class Service:
    """See the module."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        exclusive: Callable[[], AbstractContextManager[None]],
        directory: Path,
        *,
        applied: Callable[[Sequence[Part]], None],
        reserved: Callable[[int, bytes], bool],
        threaded: bool = True,
    ) -> None:
        """Nothing is executed yet.

        Args:
            store: what is asked.
            clock: for modification times.
            exclusive: holds the store while it is entered.
            directory: on whose disk that is kept which is sent ahead of writes.
            applied: told, with the store held, what was changed.
            reserved: whether a name in a directory would be taken for history.
            threaded: whether entering `exclusive` may wait, and must not happen in trio's thread.
        """
        self._store = store
        self._clock = clock
        self._exclusive = exclusive
        self._applied = applied
        self._reserved = reserved
        self._limiter = trio.CapacityLimiter(CALLS_MAX) if threaded else None
        self._uploads = Uploads(directory)
        self._busy: set[str] = set()  # paths of writes that are on their way
        self._free = threading.Condition()
        self.leader: Callable[[], list[str]] = list
        """The addresses of the node that leads all shards, if it is one."""
        self.order: Callable[[Identity, calls.Order], Awaitable[calls.Answer]] | None = None
        """Has what is asked of scripts done where they run; None: they have files for that here."""
        self.executed = 0
        """Calls answered since the start."""

    async def execute(
        self, who: Identity, arguments: bytes | msgspec.Raw, parts: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Buffer]]:
        """Execute an encoded call for a user; the encoded answer, and the bytes beside it.

        Cancelled: a write that has begun is made, and nobody is told.

        Raises:
            msgspec.DecodeError: what came is no call.
        """
        call = calls.decode_call(arguments)
        answer: calls.Answer
        buffers: Sequence[Buffer] = ()
        if isinstance(call, calls.Order) and self.order is not None:
            answer = await self.order(who, call)
        elif self._limiter is None:
            answer, buffers = self._execute(who, call, parts)
        else:
            answer, buffers = await trio.to_thread.run_sync(
                self._execute, who, call, parts, limiter=self._limiter
            )
        is_written = isinstance(answer, calls.Written | calls.WrittenEach)
        if isinstance(call, calls.Write | calls.WriteEach) and call.durable and is_written:
            try:
                await self._store.wait_durable()
            except OSError as error:
                answer = calls.Failed(error.errno or errno.EIO, error.strerror or str(error))
        if isinstance(answer, calls.Now):
            answer = calls.Now(answer.timestamp, self.leader())
        self.executed += 1
        try:
            return calls.encode(answer), buffers
        except UnicodeEncodeError as error:
            name = error.object.encode(errors="backslashreplace").decode()
            why = f"{name}: is no UTF-8, which a connection cannot tell of; a mount shows it, and can rename it"
            return calls.encode(calls.Failed(errno.EILSEQ, why)), ()

    def _execute(
        self, who: Identity, call: calls.Call, parts: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        if isinstance(call, calls.Send):
            return self._receive(who, call, parts), ()
        operations = Operations(self._store, self._clock, who, self._reserved, self._applied)
        if isinstance(call, calls.Write) and any(calls.is_sent_ahead(part) for part in call.parts):
            return self._write_sent_ahead(operations, who, call, parts), ()
        return self._do(operations, call, parts)

    def _do(
        self, operations: Operations, call: calls.Call, parts: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        if isinstance(call, calls.Write) and self._limiter is not None:
            return self._write(operations, call, parts), ()
        if isinstance(call, calls.WriteEach) and self._limiter is not None:
            return self._write_each(operations, call, parts), ()
        with self._exclusive():
            return operations.execute(call, parts)

    def _receive(self, who: Identity, call: calls.Send, parts: Sequence[Buffer]) -> calls.Answer:
        try:
            return calls.Sent(self._uploads.receive(who.uid, call.upload, call.offset, parts))
        except OSError as error:
            return calls.Failed(error.errno or errno.EIO, error.strerror or str(error))

    def _write_sent_ahead(
        self, operations: Operations, who: Identity, call: calls.Write, parts: Sequence[Buffer]
    ) -> calls.Answer:
        """A write some of whose bytes were sent ahead, perhaps to a node that is not this one."""
        rest = iter(parts)
        buffers: list[Buffer] = []
        for part in call.parts:
            if calls.is_sent_ahead(part):
                try:
                    found = self._uploads.take(who.uid, part.upload, part.length)
                except OSError as error:  # No memory to map it.
                    return calls.Failed(error.errno or errno.EIO, error.strerror or str(error))
                if found is None:
                    with self._exclusive():
                        done = operations.repeated(call)
                    return done or calls.Failed(errno.ENOBUFS, "what was sent ahead is not here")
                buffers.append(found)
            elif isinstance(part, calls.Put | calls.Append | calls.Add):
                buffers.extend(itertools.islice(rest, 1))
        answer, _ = self._do(operations, call, [*buffers, *rest])
        for part in call.parts:
            if calls.is_sent_ahead(part):
                self._uploads.drop(who.uid, part.upload)
        return answer

    def _write_each(
        self, operations: Operations, call: calls.WriteEach, parts: Sequence[Buffer]
    ) -> calls.Answer:
        """All at once, several as one record: the store is let go while they are on their way."""
        try:
            writes = list(apart(call, parts))
        except ValueError as error:
            return calls.Failed(errno.EINVAL, str(error))
        results: list[calls.Written | calls.Failed | None] = [None] * len(writes)
        answered: queue.SimpleQueue[tuple[list[int], _Results | None]] = queue.SimpleQueue()

        def begin(places: list[int]) -> int:
            """Begin writes as one record if they can be; as how many records they are."""
            if len(places) > 1 and operations.begin_together(
                [writes[place] for place in places],
                lambda found: answered.put((places, found)),
            ):
                return 1
            return begin_alone(places)

        def begin_alone(places: list[int]) -> int:
            for place in places:
                operations.begin(*writes[place], partial(answer, place))
            return len(places)

        def answer(place: int, found: calls.Answer | None) -> None:
            assert found is None or isinstance(found, calls.Written | calls.Failed)
            answered.put(([place], [found]))

        with self._alone({part.path for part in call.parts}):
            with self._exclusive():
                under_way = sum(map(begin, together(writes, operations.shard_of)))
            while under_way:
                places, found = answered.get()
                under_way -= 1
                if found is None:
                    with self._exclusive():
                        under_way += begin_alone(places)
                    continue
                for place, one in zip(places, found, strict=True):
                    results[place] = one
        return calls.WrittenEach(results)

    @contextlib.contextmanager
    def _alone(self, paths: set[str]) -> Iterator[None]:
        """Have no other write of these paths on its way: one of two would have begun in vain."""
        with self._free:
            self._free.wait_for(lambda: not paths & self._busy)
            self._busy |= paths
        try:
            yield
        finally:
            with self._free:
                self._busy -= paths
                self._free.notify_all()

    def _write(
        self, operations: Operations, call: calls.Write, parts: Sequence[Buffer]
    ) -> calls.Answer:
        answers: queue.SimpleQueue[calls.Answer | None] = queue.SimpleQueue()
        with self._alone({part.path for part in call.parts}):
            for _ in range(ATTEMPTS_MAX):
                with self._exclusive():
                    operations.begin(call, parts, answers.put)
                answer = answers.get()
                if answer is not None:
                    return answer
        return calls.Failed(ERRNO[Reason.CONDITION_FAILED], "others were always faster")

    # --- connections that bring nothing but calls --------------------------------------------------------------------

    async def serve(self, listener: Listener, node: str) -> None:
        """Answer all who come, as the node of that name, until cancelled or the listener is closed; then the service is over."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        connection = await listener.accept()
                    except Broken:
                        return
                    nursery.start_soon(self._attend, connection, node)
        finally:
            self._uploads.close()

    async def _attend(self, connection: Connection, node: str) -> None:
        room = trio.Semaphore(CONNECTION_CALLS_MAX)
        try:
            async with connection, trio.open_nursery() as nursery:
                while True:
                    for data in await connection.receive():
                        message, parts = wire.decode(data)
                        match message:
                            case wire.Hello(version=wire.VERSION):
                                await connection.send(wire.encode(wire.Welcome(wire.VERSION, node)))
                            case wire.Call():
                                await room.acquire()
                                nursery.start_soon(self._answer, connection, message, parts, room)
                            case _:
                                raise wire.Malformed("nothing but calls is answered here")
        except* Broken:
            pass
        except* wire.Malformed as group:
            why = str(group.exceptions[0])
            _log.warning("%s: hung up: %s", connection.peer, why)
            connection.close(why)

    async def _answer(
        self,
        connection: Connection,
        message: wire.Call,
        parts: Sequence[memoryview],
        room: trio.Semaphore,
    ) -> None:
        try:
            answer, buffers = await self.execute(user_of(connection.peer), message.arguments, parts)
            await connection.send(wire.encode(wire.Answer(message.request), [answer, *buffers]))
        except msgspec.DecodeError as error:
            await connection.send(
                wire.encode(wire.Answer(message.request, errno.EPROTO, f"not a call: {error}"))
            )
        except ValueError as error:
            why = f"more than one answer holds: {error}"
            await connection.send(wire.encode(wire.Answer(message.request, errno.EMSGSIZE, why)))
        finally:
            room.release()


def user_of(peer: Peer) -> Identity:
    """The user a peer speaks for: the first it may, and all groups it may speak for one by one."""
    uid = _first(peer.uids)
    groups = [one.target for one in peer.gids.ranges if one.count == 1]
    return Identity(uid, _first(peer.gids), tuple(groups))


def _first(numbers: IdMap) -> int:
    return numbers.ranges[0].target if numbers.ranges else NOBODY


NOBODY = 65534
"""Whom a peer speaks for that may speak for no user."""
