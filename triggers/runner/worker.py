"""One worker process, as the daemon sees it: runs in it, its questions answered, its end explained."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from storage.errors import Corruption, Refused
from triggers.allocation import BITS
from triggers.run import PIECE_BYTES, Done, Failed, FailureKind, LoadFailed
from triggers.worker.channel import Channel, Closed
from triggers.worker.message import (
    Answer,
    Ask,
    Cancel,
    Finished,
    FromWorker,
    Load,
    Loaded,
    NotLoaded,
    Start,
    decode_effects,
)
from triggers.worker.sealed import NotSealed, map_sealed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from triggers.run import Content, Cut, Run, Script, Span
    from triggers.runner.inputs import Inputs
    from triggers.runner.spawner import Process
    from triggers.worker.message import WireContent

__all__ = ["Worker"]

GRACE_SECONDS = 2
"""Between the request to end and SIGKILL."""

EAGER_BYTES_MAX = 1 << 20
"""An event's content up to this is sent with the run; more is sent when the handler looks at it."""

FRAMES_MAX = 4096
"""Of one answer: the store is held for some 20 us each."""

OUTPUT_BYTES_MAX = 64 * 1024

MODELS_MAX = 256
"""Of one run that are remembered."""


class Running:
    """A run in a worker."""

    def __init__(self, run: Run, cut: Cut, started_ns: int) -> None:
        self.run = run
        self.cut = cut
        self.started_ns = started_ns
        self.ended = trio.Event()
        self.outcome: Done | Failed | None = None
        self.scope = trio.CancelScope()
        self.why: FailureKind = "timeout"
        """What it means if the scope ends before the run."""


class Worker:
    """A process that has loaded one script. `mode` is None until its first run."""

    def __init__(
        self,
        process: Process,
        end: socket.socket,
        output_fd: int,
        scratch: str,
        inputs: Inputs,
        wall_ns: Callable[[], int],
    ) -> None:
        end.setblocking(False)
        self.process = process
        self.scratch = scratch
        """The directory that it may write to."""
        self.mode: str | None = None
        self.loaded = Loaded([], [])
        self._has_loaded = trio.Event()
        self._load_answer: Loaded | NotLoaded = NotLoaded("", "")
        self.running: dict[str, Running] = {}
        self.promised = 0
        """Runs on their way here."""
        self.is_doomed = False
        """No more runs: it has been told to end, or cannot be trusted."""
        self.has_ended = False
        self.idle_since_ns = 0
        self.runs = 0
        self.resident = 0
        """Bitmap of the models that it holds."""
        self._channel: Channel[FromWorker] = Channel(end, FromWorker)
        self._output_fd = output_fd
        self._inputs = inputs
        self._wall_ns = wall_ns

    async def load(self, script: Script) -> None:
        """Have it import its script; before anything else.

        Raises:
            LoadFailed: it does not import, or the worker dies of it.
        """
        with suppress(Closed):  # then it has died, which `listen` sees
            await self._send(Load(script))
        await self._has_loaded.wait()
        match self._load_answer:
            case Loaded():
                self.loaded = self._load_answer
            case NotLoaded(text, traceback):
                raise LoadFailed(text, traceback)

    async def listen(self) -> None:
        """Answer questions and take results until the process has ended. A task for the worker's whole life."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._channel.socket)
                with suppress(BlockingIOError):
                    await self._hear(*self._channel.receive())
        except Closed:
            pass
        except (msgspec.MsgspecError, NotSealed, ValueError) as error:
            # A worker may say anything: its script runs in it. Then it is not to be trusted any more.
            for running in self.running.values():
                running.outcome = self._failed(running, "death", f"broke the protocol: {error}")
        if self.is_doomed:  # told to end, so let it
            with trio.move_on_after(GRACE_SECONDS):
                await self.process.exited.wait()
        self.is_doomed = True
        await self.process.signal(signal.SIGKILL)
        await self.process.exited.wait()
        if not self._has_loaded.is_set():
            self._load_answer = NotLoaded(f"loading: {self._explain().message}", self._output())
            self._has_loaded.set()
        for running in list(self.running.values()):
            if running.outcome is None:
                running.outcome = msgspec.structs.replace(
                    self._explain(), started_ns=running.started_ns, output=self._output().encode()
                )
            running.ended.set()
        self.has_ended = True
        trio.lowlevel.notify_closing(self._channel.socket)
        self._channel.close()
        os.close(self._output_fd)

    async def run(self, run: Run, cut: Cut, mode: str) -> Done | Failed:
        """One run. Cancelled, it is killed, and the worker with it unless the handler is a coroutine."""
        if self.has_ended:
            return self._explain()
        running = self.running[run.id] = Running(run, cut, self._wall_ns())
        self.mode = mode
        self.runs += 1
        try:
            content, fds = await self._first_content(run, cut)
            start = Start(
                run.id,
                run.handler or "",
                run.binding,
                run.events,
                run.timestamp,
                run.is_batch,
                run.timeout_ms,
                mode,
                run.emit,
                run.states,
                content,
                run.rank,
            )
            with suppress(Closed):  # then it has died, which `listen` sees
                await self._send(start, fds)
            running.scope.deadline = trio.current_time() + run.timeout_ms / 1000
            with running.scope:
                await running.ended.wait()
            if running.outcome is None:
                await self._end(running)
            outcome = running.outcome
            assert outcome is not None
            if not isinstance(outcome, Done) and outcome.kind == "memory":
                self.is_doomed = True  # who knows what else failed to get memory
            return outcome
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._abandon(running)
            raise
        finally:
            del self.running[run.id]

    def kill(self, run_id: str) -> bool:
        """Make a run end as "killed"; whether it runs here."""
        running = self.running.get(run_id)
        if running is None or running.ended.is_set():
            return False
        running.why = "killed"
        running.scope.cancel()
        return True

    def retire(self) -> None:
        """Have an idle worker end."""
        self.is_doomed = True
        with suppress(OSError):
            self._channel.socket.shutdown(2)

    # --- the end of runs ----------------------------------------------------------------------------------------------

    async def _end(self, running: Running) -> None:
        """Ask a run to end, then make it. Leaves its outcome set."""
        run = running.run
        failed = self._failed(running, running.why, REASONS[running.why].format(run.timeout_ms))
        if self.mode == "plain":
            self.is_doomed = True
            await self.process.signal(signal.SIGTERM)
        else:
            with suppress(Closed):
                await self._send(Cancel(run.id))
        with trio.move_on_after(GRACE_SECONDS):
            await running.ended.wait()
        if not running.ended.is_set():
            self.is_doomed = True
            await self.process.signal(signal.SIGKILL)
            await running.ended.wait()
        if running.outcome is not None:
            failed = msgspec.structs.replace(
                failed, output=running.outcome.output, log=running.outcome.log
            )
        running.outcome = failed

    async def _abandon(self, running: Running) -> None:
        if running.ended.is_set():
            return
        if len(self.running) == 1:
            self.is_doomed = True
            await self.process.signal(signal.SIGKILL)
        else:  # others' runs live on
            with suppress(Closed):
                await self._send(Cancel(running.run.id))

    def _explain(self) -> Failed:
        """Why the process has ended."""
        exit = self.process.exit
        if exit.ran_out:
            return Failed("memory", "the kernel ended the worker: it used all its memory")
        if exit.code is not None:
            return Failed("exit", f"the worker ended with status {exit.code}")
        if exit.signal == 0:
            return Failed("death", "the worker died with its zygote")
        name = signal.Signals(exit.signal).name
        if exit.signal == signal.SIGKILL:
            return Failed("death", f"the worker was killed ({name}), as when memory runs out")
        return Failed("signal", f"the worker died of {name}")

    def _failed(self, running: Running, kind: FailureKind, message: str) -> Failed:
        duration_ns = self._wall_ns() - running.started_ns
        return Failed(kind, message, started_ns=running.started_ns, duration_ns=duration_ns)

    def _output(self) -> str:
        size = os.fstat(self._output_fd).st_size
        data = os.pread(self._output_fd, OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX))
        return data.decode(errors="replace")

    # --- messages -----------------------------------------------------------------------------------------------------

    async def _first_content(self, run: Run, cut: Cut) -> tuple[WireContent | None, Sequence[int]]:
        event = run.events[0]
        if event.kind == "delete" or event.size > EAGER_BYTES_MAX:
            return None, []
        try:
            return await self._inputs.bring(lambda span: cut.event_content(event, span=span))
        except (OSError, ValueError, Corruption, Refused):
            return None, []  # the handler meets it where it looks

    async def _send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        held: list[int] = []
        try:
            while True:
                try:
                    return self._channel.send(message, held or fds)
                except BlockingIOError:
                    # While this waits, others ask, and the cache may close what it lent.
                    held = held or [os.dup(fd) for fd in fds]
                    await trio.lowlevel.wait_writable(self._channel.socket)
        except (trio.ClosedResourceError, OSError) as error:  # closed by us, because it has ended
            raise Closed from error
        finally:
            for fd in held:
                os.close(fd)

    async def _hear(self, message: FromWorker, fds: list[int]) -> None:
        try:
            match message:
                case Ask(run_id):
                    answer, sent = await self._answer(message, self.running.get(run_id))
                    await self._send(answer, sent)
                case Finished(run_id):
                    running = self.running.get(run_id)
                    if running is not None and not running.ended.is_set():
                        running.outcome = self._outcome(message, fds)
                        running.ended.set()
                case Loaded() | NotLoaded():
                    if self._has_loaded.is_set():
                        raise ValueError("loaded twice")
                    self._load_answer = message
                    self._has_loaded.set()
        finally:
            for fd in fds:
                os.close(fd)

    async def _content(self, ask: Ask, running: Running) -> tuple[Answer, Sequence[int]]:
        """The answer to a question for bytes: a whole content, or a piece of one."""

        def read(span: Span) -> Content | None:
            if running.ended.is_set():
                raise OSError(errno.ECANCELED, "the run has ended")
            match ask.call:
                case "get":
                    return running.cut.get(ask.path, latest=ask.latest, span=span)
                case "version":
                    return running.cut.version(ask.path, ask.number, span=span)
            return running.cut.event_content(running.run.events[ask.number], span=span)

        if ask.span is not None:
            first = max(ask.span[0], 0)
            span = (first, min(ask.span[1], first + PIECE_BYTES))
            return Answer(content=self._inputs.inline(read(span))), []
        content, fds = await self._inputs.bring(read, ask.held, running.run.memory_bytes)
        return Answer(content=content), fds

    async def _answer(self, ask: Ask, running: Running | None) -> tuple[Answer, Sequence[int]]:
        if running is None or running.ended.is_set():
            return Answer(error=("OSError", "the run has ended")), []
        cut = running.cut
        try:
            match ask.call:
                case "get" | "version" | "event_content":
                    return await self._content(ask, running)
                case "pull":
                    found = cut.pull(ask.path, ask.indices, ask.number, latest=ask.latest)
                    return Answer(content=self._inputs.inline(found)), []
                case "stat":
                    return Answer(stat=cut.stat(ask.path, latest=ask.latest)), []
                case "files":
                    return Answer(paths=cut.files(ask.path)), []
                case "history":
                    stats = cut.history(ask.path, since=ask.since, until=ask.until, limit=ask.limit)
                    return Answer(history=stats), []
                case "scan":
                    limit = min(ask.limit or FRAMES_MAX, FRAMES_MAX)
                    frames = cut.scan(ask.path, ask.since, ask.until, ask.after, limit)
                    return Answer(frames=frames), []
            return Answer(error=("ValueError", f"no such call: {ask.call}")), []
        except (Corruption, Refused) as error:
            return Answer(error=("OSError", str(error))), []
        except (OSError, ValueError, LookupError, ImportError) as error:  # NumPy, for a pull
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return Answer(error=(type(error).__name__, text)), []

    def _outcome(self, message: Finished, fds: list[int]) -> Done | Failed:
        self._inputs.copies.add(*message.copies)
        if message.leftover:
            self.is_doomed = True  # what a run starts ends with the run
        if message.kind:
            kind = msgspec.convert(message.kind, FailureKind)
            return Failed(
                kind,
                message.message,
                message.traceback,
                message.after_ms,
                message.output[-OUTPUT_BYTES_MAX:],
                message.log,
                message.started_ns,
                message.duration_ns,
            )
        if message.resident is not None:
            self.resident = int.from_bytes(message.resident[: BITS // 8], "little")
        memory = map_sealed(fds[0]) if fds else memoryview(b"")
        return Done(
            decode_effects(message.effects, memory),
            message.states,
            message.failed,
            message.output[-OUTPUT_BYTES_MAX:],
            message.log,
            message.result,
            message.started_ns,
            message.duration_ns,
            message.models[:MODELS_MAX],
        )


REASONS = {"timeout": "no end after {} ms", "killed": "ended by request"}
