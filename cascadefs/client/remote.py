"""A store elsewhere: calls are carried to a node, or to the daemon of a mount on this machine, and executed there.

A thread of its own holds one connection. When that breaks, the next address is dialled and all that was not answered is
asked again: questions can be, and writes are numbered, so that one that was done is answered and not repeated. Whoever
waits sees a pause. A child of fork(2) has a connection of its own.

Nobody is asked anything before it has named an instant that is final: a node that can do that has all that was committed before, and so
is not behind what another has answered us already. Where no node can, one without its leader answers questions, as of what it has, and
writes wait. A question that stays without an answer for long is asked elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import trio

from cascadefs.client import calls
from storage import wire
from storage.transport import Broken, Rejected, Role

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from storage.transport import Connection, Transport
    from triggers.run import Buffer

__all__ = ["Remote"]

PATIENCE_SECONDS = 60.0
"""Without any connection: longer than a cluster takes to choose another leader, or a daemon to start again."""

PAUSE_SECONDS = 0.1
"""Between dialling all addresses in vain and dialling them again."""

INSTANT_SECONDS = 5.0
"""For a node to name a final instant."""

DIAL_SECONDS = 1.0
"""How long the node that leads may take to answer, before one that does is asked instead."""

SILENT_SECONDS = 5.0
"""Without an answer, a question is asked of another node; the next time after twice as long."""

WRITTEN_BYTES_PER_SECOND = 50_000_000
"""At which a node writes what was sent ahead, at least: another one would only have to be sent all of it again."""

UNSURE_SECONDS = 10.0
"""How long writes wait for a node to be up to date; one shard that nobody leads is no reason to hold up all others."""

LOOK_SECONDS = 1.0

PIECE_BYTES = 8 * 1024 * 1024
"""Of one message of what is sent ahead; a write with more than this has its bytes sent ahead."""

WRITE_BYTES_MAX = 16 * 1024 * 1024
"""Of a message; what `calls` puts beside it has room in the rest of `MESSAGE_BYTES_MAX`."""

SMALL_BYTES = 64 * 1024
"""Up to this, bytes go with the write all the same."""

SENDINGS_MAX = 5
"""Of one write, while nodes are lost one after another."""

_Result = tuple[calls.Answer, "Sequence[Buffer]"]


@dataclass(slots=True)
class _Question:
    """Asked, and not answered yet."""

    message: list[Buffer]
    is_write: bool
    patience_s: float
    is_once: bool = False
    """Asked again it may be done again: rather nobody knows."""
    was_sent: bool = False
    since: float = 0.0
    began: float = 0.0
    """Since when nobody has had the shard that is asked about."""
    answer: queue.SimpleQueue[_Result | OSError] = field(default_factory=queue.SimpleQueue)


class Remote:
    """See `client.Executor`. Any thread may ask; writes of several threads are done one after the other."""

    def __init__(
        self,
        transport: Transport,
        addresses: Sequence[str],
        random: Random,
        *,
        patience_s: float = PATIENCE_SECONDS,
    ) -> None:
        """Dial nobody yet: the first call does.

        Args:
            transport: how to dial; with our identity in it.
            addresses: of nodes of one cluster, dialled in turns.
            random: for the number this client is known by; not seeded, where the process may fork: children draw another.
            patience_s: how long a call waits while nobody can be reached.
        """
        self._transport = transport
        self._addresses = deque(addresses)
        self._random = random
        self._patience_s = patience_s
        self._begin()
        _remotes.add(self)

    def _begin(self) -> None:
        """Be a client of its own, connected with nobody; also after a fork(2), in the child.

        The parent's connection stays the parent's: its thread is not here, and two must not talk into one socket. Locks of
        threads that are not here would stay taken for ever.
        """
        self._client = self._random.getrandbits(63) + 1
        self._numbers = 0
        self._requests = itertools.count(1)
        self._open: dict[int, _Question] = {}
        self._connection: Connection | None = None
        self._is_current = False  # The node we are connected with has named a final instant.
        self._leader: list[str] = []  # Where the node last asked says that changes have a hop less.
        self._left = ""  # Whose connection ended last.
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.CancelScope | None = None
        self._is_over = False
        self._started = threading.Event()
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    # --- whoever asks ----------------------------------------------------------------------------------------------

    def execute(self, call: calls.Call, buffers: Sequence[Buffer]) -> _Result:
        """See `client.Executor`.

        Raises:
            OSError: ETIMEDOUT where nobody could be reached for as long as we wait; EACCES where we are not let in.
        """
        if not isinstance(call, calls.Write | calls.WriteEach):
            return self._ask(call, buffers)
        if call.client:
            return self._write(call, buffers)
        with self._writing:
            first = self._numbers + 1
            self._numbers += 1 if isinstance(call, calls.Write) else len(call.parts)
            numbered = msgspec.structs.replace(call, client=self._client, number=first)
            return self._write(numbered, buffers)

    def _write(self, call: calls.Write | calls.WriteEach, buffers: Sequence[Buffer]) -> _Result:
        """Ask for it; what no message holds is sent ahead, again where the node that has it is lost."""
        if isinstance(call, calls.WriteEach) or sum(map(len, buffers)) <= PIECE_BYTES:
            return self._ask(call, buffers)
        for _ in range(SENDINGS_MAX):
            result = self._ask_for_sent(call, buffers)
            if not isinstance(result[0], calls.Failed) or result[0].errno != errno.ENOBUFS:
                break
        return result

    def _ask_for_sent(self, call: calls.Write, buffers: Sequence[Buffer]) -> _Result:
        data = iter(buffers)
        parts: list[calls.Part] = []
        rest: list[Buffer] = []
        for part in call.parts:
            if isinstance(part, calls.Put | calls.Append | calls.Add):
                rest.append(next(data))
            if isinstance(part, calls.Put | calls.Append) and len(rest[-1]) > SMALL_BYTES:
                view = memoryview(rest.pop()).cast("B")
                upload = self._random.getrandbits(62) + 1
                for offset in range(0, len(view), PIECE_BYTES):
                    piece = view[offset : offset + PIECE_BYTES]
                    result = self._ask(calls.Send(upload, offset), [piece])
                    if isinstance(result[0], calls.Failed):
                        return result
                part = msgspec.structs.replace(part, upload=upload, length=len(view))
            parts.append(part)
        length = sum(map(len, buffers))
        return self._ask(msgspec.structs.replace(call, parts=parts), rest, length)

    def _ask(self, call: calls.Call, buffers: Sequence[Buffer], length: int = 0) -> _Result:
        """The answer, waited for; `length`: bytes that it is about and that were sent ahead."""
        if len(buffers) > wire.PARTS_MAX or sum(map(len, buffers)) > WRITE_BYTES_MAX:
            raise OSError(
                errno.E2BIG,
                f"more at one instant than a connection carries: {wire.PARTS_MAX} changes,"
                f" {WRITE_BYTES_MAX >> 20} MiB of files shorter than {SMALL_BYTES >> 10} KiB; make several batches",
            )
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="cascadefs link", daemon=True
                )
                self._thread.start()
        self._started.wait()
        assert self._token is not None
        request = next(self._requests)
        asked = wire.Call(request, "call", msgspec.Raw(calls.encode(call)))
        question = _Question(
            wire.encode(asked, buffers),
            isinstance(call, calls.Write | calls.WriteEach),
            SILENT_SECONDS + length / WRITTEN_BYTES_PER_SECOND,
            isinstance(call, calls.Order) and call.what == "command",
        )
        try:
            self._token.run_sync_soon(self._send, request, question)
        except trio.RunFinishedError:
            raise _closed() from None
        result = question.answer.get()
        if isinstance(result, OSError):
            raise result
        return result

    def close(self) -> None:
        """Hang up. What is being asked fails with ENOTCONN."""
        if self._thread is not None and self._token is not None and self._stop is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.cancel)
            self._thread.join()

    # --- the link's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        trio.run(self._keep)

    async def _keep(self) -> None:
        """Connect, carry, and connect again, until closed."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            with trio.CancelScope() as self._stop:
                self._started.set()
                while True:
                    await self._carry()
        finally:
            self._is_over = True
            self._fail(_closed())

    async def _carry(self) -> None:
        """One connection, from dialling to its end."""
        async with trio.open_nursery() as nursery:
            connection = await self._connected(nursery)
            try:
                nursery.start_soon(self._hurry, connection)
                self._connection = connection
                for request, question in list(self._open.items()):
                    self._send(request, question)
                while True:
                    for data in await connection.receive():
                        self._take(data)
            except (Broken, wire.Malformed) as error:
                connection.close(str(error))
            finally:
                self._connection = None
                nursery.cancel_scope.cancel()
        self._left = self._addresses[0]
        self._addresses.rotate(-1)

    async def _connected(self, nursery: trio.Nursery) -> Connection:
        """A connection with a node that is up to date, or with any if none is; whoever waits for longer than we bear is told so."""
        began = trio.current_time()
        is_any_good = False
        while True:
            trouble: Broken | None = None
            behind = 0
            for address in tuple(self._addresses):
                try:
                    connection = await self._transport.connect(nursery, address, role=Role.NODE)
                    await connection.send(wire.encode(wire.Hello()))
                    self._is_current = await self._names_instant(connection)
                    if self._is_current:
                        at_leader = await self._at_leader(nursery, address)
                        if at_leader is None:
                            return connection
                        connection.close("a change has a hop less elsewhere")
                        return at_leader
                    if is_any_good:
                        return connection
                    behind += 1
                    connection.close("another node may be up to date")
                except Rejected as error:
                    self._fail(OSError(errno.EACCES, str(error)))
                    trouble = error
                except (Broken, wire.Malformed) as error:
                    trouble = Broken(str(error))
                self._addresses.rotate(-1)
            is_any_good = behind > 0
            if not behind and trio.current_time() - began >= self._patience_s:
                self._fail(OSError(errno.ETIMEDOUT, f"nobody answers: {trouble}"))
                began = trio.current_time()
            await trio.sleep(PAUSE_SECONDS)  # noqa: TID251  a retry

    async def _at_leader(self, nursery: trio.Nursery, address: str) -> Connection | None:
        """A connection with the node that leads all shards, as the one at `address` says; None: stay there.

        Not with one whose connection just ended, nor with one we were not given: who leads may be known late, or elsewhere.
        """
        known = [one for one in self._leader if one in self._addresses]
        if not known or address in known or self._left in known:
            return None
        connection: Connection | None = None
        try:
            with trio.move_on_after(DIAL_SECONDS):
                connection = await self._transport.connect(nursery, known[0], role=Role.NODE)
                await connection.send(wire.encode(wire.Hello()))
                if await self._names_instant(connection):
                    self._addresses.rotate(-self._addresses.index(known[0]))
                    return connection
        except (Broken, wire.Malformed):
            pass  # Where we are is as good, a hop further.
        if connection is not None:
            connection.close("another node is near enough")
        return None

    async def _names_instant(self, connection: Connection) -> bool:
        """Whether a node has everything that was committed before; nothing else is asked of it yet."""
        await connection.send(_INSTANT)
        with trio.move_on_after(INSTANT_SECONDS):
            while True:
                for data in await connection.receive():
                    message, parts = wire.decode(data)
                    if isinstance(message, wire.Refusal):
                        raise Rejected(message.why)
                    if isinstance(message, wire.Answer):
                        if message.errno:
                            raise Broken(message.why)  # It has no tree yet.
                        answer = calls.decode_answer(parts[0])
                        self._leader = answer.leader if isinstance(answer, calls.Now) else []
                        return isinstance(answer, calls.Now)
        return False

    async def _hurry(self, connection: Connection) -> None:
        """Ask a node that is behind whether it still is, and leave one that does not answer."""
        began = trio.current_time()
        while True:
            await trio.sleep(LOOK_SECONDS)  # noqa: TID251  nobody tells
            now = trio.current_time()
            if not self._is_current:
                with contextlib.suppress(trio.WouldBlock, Broken):
                    connection.send_nowait(_INSTANT)
                if now - began > UNSURE_SECONDS:
                    self._go_on()
            for question in self._open.values():
                if now - question.since > question.patience_s:
                    question.patience_s *= 2
                    connection.close("it does not answer; another node may")
                    return

    def _send(self, request: int, question: _Question) -> None:
        if self._is_over:  # Asked just before the loop ended.
            question.answer.put(_closed())
            return
        if question.is_once and question.was_sent:
            self._open.pop(request, None)
            why = "the node was lost before it answered; look whether it is done"
            question.answer.put(OSError(errno.EIO, why))
            return
        self._open[request] = question
        question.since = trio.current_time()
        if self._connection is not None and (self._is_current or not question.is_write):
            try:
                self._connection.send_nowait(question.message)
                question.was_sent = True
            except trio.WouldBlock:
                # More is under way than a connection holds: all of it is asked again on the next one.
                self._connection.close("too much was asked at once")
            except Broken:
                pass  # asked again on the next connection
            except ValueError as error:
                del self._open[request]
                why = f"{error}: change fewer files at a time"
                question.answer.put(OSError(errno.EMSGSIZE, why))

    def _take(self, data: memoryview) -> None:
        message, parts = wire.decode(data)
        match message:
            case wire.Answer(request=request) if request in self._open:
                if message.errno == errno.EAGAIN:  # The node cannot execute anything now.
                    raise Broken(message.why)
                question = self._open[request]
                answer = None if message.errno else calls.decode_answer(parts[0])
                if answer is not None and calls.is_elsewhere(answer):
                    # Another node may have what this one has not, or not yet.
                    question.began = question.began or trio.current_time()
                    if trio.current_time() - question.began < self._patience_s:
                        raise Broken("a shard is not on that node")
                del self._open[request]
                if answer is None:
                    question.answer.put(OSError(message.errno, message.why))
                else:
                    question.answer.put((answer, parts[1:]))
            case wire.Answer(request=0) if not self._is_current and _is_instant(message, parts):
                self._go_on()
            case wire.Refusal(why=why):
                self._fail(OSError(errno.EACCES, why))
            case _:
                pass  # Welcome, and what is told to everybody

    def _go_on(self) -> None:
        """Writes wait no longer."""
        self._is_current = True
        for request, question in list(self._open.items()):
            if question.is_write:
                self._send(request, question)

    def _fail(self, error: OSError) -> None:
        """Tell all who wait."""
        waiting, self._open = self._open, {}
        for question in waiting.values():
            question.answer.put(error)


_remotes: weakref.WeakSet[Remote] = weakref.WeakSet()
"""All of this process, which a child of fork(2) must begin anew."""


def _begin_all() -> None:
    for remote in list(_remotes):
        remote._begin()


os.register_at_fork(after_in_child=_begin_all)

_INSTANT = wire.encode(wire.Call(0, "call", msgspec.Raw(calls.encode(calls.Instant()))))


def _closed() -> OSError:
    return OSError(errno.ENOTCONN, "the connection to the store was closed")


def _is_instant(answer: wire.Answer, parts: Sequence[memoryview]) -> bool:
    return not answer.errno and isinstance(calls.decode_answer(parts[0]), calls.Now)
