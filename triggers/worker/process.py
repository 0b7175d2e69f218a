"""A worker: loads one version of one script, then runs its handlers, one channel its only tie to the world.

Theory of operation. The first message is the script. Then runs come; the first says who calls handlers in this worker:

    plain     one at a time, on the main thread, from a loop that reads the channel
    trio      interleaved, each a task; a watcher task reads the channel
    asyncio   the same with asyncio

A plain run is ended by SIGTERM, which raises `Terminated` in the handler, so that its `finally` blocks run; the worker
ends with it. A coroutine is cancelled, and the worker lives on. Whoever does not listen is killed two seconds later by
the daemon, with all of the process group.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from triggers import run as runs
from triggers.allocation import BITS, bits_of
from triggers.handler.context import Services
from triggers.handler.copies import Copies
from triggers.handler.device import find_device
from triggers.handler.importer import ScriptImporter
from triggers.handler.invocation import (
    OUTPUT_BYTES_MAX,
    Invocation,
    is_coroutine,
    one_line,
    shown,
)
from triggers.worker.channel import Channel, Closed
from triggers.worker.message import (
    Answer,
    Cancel,
    Finished,
    Load,
    Loaded,
    NotLoaded,
    Start,
    ToWorker,
    encode_effects,
)
from triggers.worker.remote import Desk, RemoteCut, content_of
from triggers.worker.sealed import seal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from triggers.handler.collector import Collector

__all__ = ["serve"]

_invocation: ContextVar[Invocation | None] = ContextVar("invocation", default=None)


class Terminated(BaseException):
    """SIGTERM, in a plain handler."""


class Worker:
    """One process; made after the fork and after the sandbox is shut."""

    def __init__(self, end: socket.socket, output_fd: int) -> None:
        self._channel: Channel[ToWorker] = Channel(end, ToWorker)
        self._output_fd = output_fd
        self._desk = Desk(self._channel)
        self._copies = Copies()
        self._device = functools.cache(find_device)
        self._services = Services(time.time_ns, time.monotonic_ns, self._device, self._copies)
        self._script: runs.Script | None = None
        self._collector: Collector | None = None
        self._cancels: dict[str, Callable[[], object]] = {}

    def serve(self) -> None:
        """Load, then run until the channel closes."""
        # A process that a handler forks is no worker: it shall not speak for this one.
        os.register_at_fork(after_in_child=self._channel.close)
        message, _ = self._channel.receive()
        assert isinstance(message, Load)
        self._load(message.script)
        message, fds = self._channel.receive()
        assert isinstance(message, Start)
        match message.mode:
            case "plain":
                self._serve_plain(message, fds)
            case "trio":
                self._serve_trio(message, fds)
            case "asyncio":
                asyncio.run(self._serve_asyncio(message, fds))

    def _load(self, script: runs.Script) -> None:
        self._script = script
        try:
            self._collector = ScriptImporter(script).collect()
        except BaseException as error:
            self._channel.send(NotLoaded(one_line(error), shown(error)))
            self._take_output()
            raise SystemExit(0) from None
        self._take_output()  # what loading printed is no run's
        handlers = self._collector.handlers
        coroutines = [name for name, handler in handlers.items() if is_coroutine(handler)]
        self._channel.send(Loaded(self._collector.tables, coroutines))

    # --- the three loops ----------------------------------------------------------------------------------------------

    def _serve_plain(self, message: Any, fds: list[int]) -> None:
        signal.signal(signal.SIGTERM, _terminate)
        while True:
            assert isinstance(message, Start)
            invocation, handler = self._prepare(message, fds)
            try:
                outcome = invocation.done(handler(*invocation.arguments))
            except Terminated:
                raise
            except BaseException as error:
                outcome = invocation.failed(error)
            sys.stdout.flush()
            sys.stderr.flush()
            self._finish(message.id, outcome, self._take_output())
            del invocation, handler, outcome
            message, fds = self._desk.next()

    def _serve_trio(self, message: Any, fds: list[int]) -> None:
        import trio

        async def one(start: Start, fds: list[int]) -> None:
            invocation, handler = self._prepare(start, fds)
            _invocation.set(invocation)
            outcome: runs.Done | runs.Failed | None = None
            try:
                with trio.CancelScope() as scope:
                    self._cancels[start.id] = scope.cancel
                    outcome = invocation.done(await handler(*invocation.arguments))
            except (trio.Cancelled, Closed):
                raise  # the worker ends
            except BaseException as error:
                outcome = invocation.failed(error)
            self._cancels.pop(start.id, None)
            self._finish(start.id, outcome or invocation.killed(), self._take_output())

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                self._interleave(lambda start, fds: nursery.start_soon(one, start, fds))
                self._pass_on(message, fds)
                while True:
                    await trio.lowlevel.wait_readable(self._channel.socket)
                    with suppress(BlockingIOError):  # a run that waited for an answer was quicker
                        self._pass_on(*self._channel.receive(wait=False))

        trio.run(main)

    async def _serve_asyncio(self, message: Any, fds: list[int]) -> None:
        loop = asyncio.get_running_loop()
        closed = loop.create_future()
        tasks: set[asyncio.Task[None]] = set()

        async def one(start: Start, fds: list[int]) -> None:
            invocation, handler = self._prepare(start, fds)
            _invocation.set(invocation)
            task = asyncio.current_task()
            assert task is not None
            self._cancels[start.id] = task.cancel
            try:
                outcome = invocation.done(await handler(*invocation.arguments))
            except asyncio.CancelledError:
                outcome = invocation.killed()
            except BaseException as error:
                outcome = invocation.failed(error)
            self._cancels.pop(start.id, None)
            self._finish(start.id, outcome, self._take_output())

        def begin(start: Start, fds: list[int]) -> None:
            task = loop.create_task(one(start, fds))
            tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and not closed.done():  # it could not be finished: the worker ends
                closed.set_exception(error)

        def readable() -> None:
            try:
                self._pass_on(*self._channel.receive(wait=False))
            except BlockingIOError:
                pass  # a run that waited for an answer was quicker
            except BaseException as error:
                loop.remove_reader(self._channel.socket)
                if not closed.done():
                    closed.set_exception(error)

        self._interleave(begin)
        self._pass_on(message, fds)
        loop.add_reader(self._channel.socket, readable)
        await closed

    def _interleave(self, begin: Callable[[Start, list[int]], None]) -> None:
        """From now on runs are begun by `begin`, and what they print is told apart by who prints."""

        def pass_on(message: Any, fds: list[int]) -> None:
            if isinstance(message, Start):
                begin(message, fds)
            elif isinstance(message, Cancel):
                cancel = self._cancels.get(message.run_id)
                if cancel is not None:
                    cancel()
            elif isinstance(message, Answer):
                self._desk.answered(message, fds)
            else:
                raise AssertionError(f"unexpected: {type(message).__name__}")

        self._pass_on = self._desk.pass_on = pass_on
        self._desk.thread = threading.get_ident()
        sys.stdout = sys.stderr = Output(self._output_fd)

    # --- one run ------------------------------------------------------------------------------------------------------

    def _prepare(self, start: Start, fds: list[int]) -> tuple[Invocation, Callable[..., Any]]:
        assert self._collector is not None
        assert self._script is not None
        first = None if start.content is None else content_of(start.content, fds)
        cut = RemoteCut(self._desk, start.id, first)
        cut.events = start.events
        run = runs.Run(
            start.id,
            self._script,
            start.handler,
            start.binding,
            start.events,
            start.timestamp,
            is_batch=start.is_batch,
            timeout_ms=start.timeout_ms,
            emit=start.emit,
            states=start.states,
            rank=start.rank,
        )
        if start.rank.world_size > 1:
            os.environ.update(surroundings(start.rank))
        handler = self._collector.handlers[start.handler]
        return Invocation(run, cut, self._services, is_async=is_coroutine(handler)), handler

    def _finish(self, run_id: str, outcome: runs.Done | runs.Failed, output: bytes) -> None:
        output = (outcome.output + output)[-OUTPUT_BYTES_MAX:]
        fds: list[int] = []
        if isinstance(outcome, runs.Done):
            wired, parts = encode_effects(outcome.effects)
            if parts:
                fds.append(seal(parts, "effects"))
                self._copies.made(sum(map(len, parts)))
            message = Finished(
                run_id,
                "",
                effects=wired,
                states=outcome.states,
                failed=outcome.failed,
                output=output,
                log=outcome.log,
                result=outcome.result,
                started_ns=outcome.started_ns,
                duration_ns=outcome.duration_ns,
                copies=self._copies.taken(),
                leftover=not self._cancels and has_children(),
                models=outcome.models,
                resident=self._resident() if outcome.models else None,
            )
        else:
            message = Finished(
                run_id,
                outcome.kind,
                outcome.message,
                outcome.traceback,
                outcome.after_ms,
                output=output,
                log=outcome.log,
                started_ns=outcome.started_ns,
                duration_ns=outcome.duration_ns,
                copies=self._copies.taken(),
                leftover=not self._cancels and has_children(),
            )
        try:
            self._channel.send(message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _resident(self) -> bytes:
        return bits_of(self._device().identities).to_bytes(BITS // 8, "little")

    def _take_output(self) -> bytes:
        """What was written to standard output and error by their descriptors since the last run."""
        size = os.fstat(self._output_fd).st_size
        if size == 0:
            return b""
        data = os.pread(self._output_fd, OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX))
        os.ftruncate(self._output_fd, 0)
        return data


class Output(io.TextIOBase):
    """Standard output of interleaved runs: what a run prints goes to that run."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, text: str) -> int:
        """Take text of whoever calls."""
        invocation = _invocation.get()
        if invocation is not None:
            invocation.print(text)
        else:
            os.write(self._fd, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        """The descriptor behind it, for processes that are started with it."""
        return self._fd

    def writable(self) -> bool:
        """It is."""
        return True


def serve(end: socket.socket, output_fd: int) -> NoReturn:
    """Be a worker until the daemon closes the channel; then end the process, without clean-up of the zygote's things."""
    code = 0
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    sys.stdout, sys.stderr = printing(1), printing(2)
    try:
        Worker(end, output_fd).serve()
    except (Closed, SystemExit):
        pass
    except Terminated:
        code = 128 + signal.SIGTERM
    except BaseExceptionGroup as group:  # trio's main nursery, when the channel closes
        if group.split(Closed)[1] is not None:
            sys.excepthook(type(group), group, group.__traceback__)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    finally:
        os._exit(code)


def surroundings(rank: runs.Rank) -> dict[str, str]:
    """What libraries of collectives look for in the environment (torch.distributed: "env://"; gloo, NCCL: the interface)."""
    return {
        "RANK": str(rank.number),
        "LOCAL_RANK": str(rank.number),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_WORLD_SIZE": str(rank.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(rank.port),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def has_children() -> bool:
    """Whether processes that a handler started are still there; this process adopts their orphans."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass  # ended, and nobody asked for it
    except ChildProcessError:
        return False
    return True


def printing(fd: int) -> io.TextIOWrapper:
    """A text stream over a descriptor, written at every line: a worker may be killed at any moment."""
    raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated
