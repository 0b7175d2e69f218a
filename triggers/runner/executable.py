"""Runs of executables: scripts with a header and binaries with a side-car (docs/TRIGGERS.md 5).

The event's bytes are standard input and, to be mapped, descriptor 3; what it is about is in the environment; what lies
in `$CASCADE_OUT` at the end becomes the staged puts, below the binding's `emit` directory if it has one, if the exit
status is 0. 75 (EX_TEMPFAIL) means try again, 65 (EX_DATAERR) give up (sysexits(3)).

In bubblewrap where `sandbox` is strict; with the owner's rights and bounds only where it is normal.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from triggers.run import (
    CONTENT_BYTES_MAX,
    PIECE_BYTES,
    Done,
    Failed,
    FailureKind,
    Put,
    timestamp_text,
)
from triggers.runner.inputs import filled
from triggers.runner.spawner import NotStarted
from triggers.worker import bubblewrap
from triggers.worker.limits import devices, has_gpu
from triggers.worker.message import Limits, Spawn
from triggers.worker.sealed import Filling, growing, seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Content, Cut, Effect, Event, Run, Script, Span
    from triggers.runner.inputs import Inputs
    from triggers.runner.spawner import Process, Spawner

__all__ = ["Executables"]

EX_DATAERR, EX_TEMPFAIL = 65, 75
GRACE_SECONDS = 2
OUTPUT_BYTES_MAX = 64 * 1024
LAST_WORDS_MAX = 300
"""Characters of the last line of its output, told with the exit status."""

FILES_MAX = 10_000
"""Of one run's results."""

DATA_FD = 3


class Executables:
    """Runs executables, one process each. Their files are laid out once per version, below `directory`."""

    def __init__(
        self,
        spawner: Spawner,
        inputs: Inputs,
        directory: str,
        wall_ns: Callable[[], int],
        steady_ns: Callable[[], int],
    ) -> None:
        self._spawner = spawner
        self._inputs = inputs
        self._directory = directory
        self._wall_ns, self._steady_ns = wall_ns, steady_ns
        self._laid_out: dict[str, str] = {}
        self._running: dict[str, tuple[trio.CancelScope, list[FailureKind]]] = {}

    async def run(self, run: Run, cut: Cut, limits: Limits) -> Done | Failed:
        """One run. Cancelled, the process and all it started are killed."""
        if len(run.events) != 1:
            return Failed("load", "an executable takes one event at a time; leave `batch` out")
        bwrap = bubblewrap.find() if run.sandbox == "strict" else ""
        if bwrap is None:
            message = "bubblewrap is not installed (Debian: bubblewrap), so it is not run"
            return Failed("load", message)
        started_ns, started_steady_ns = self._wall_ns(), self._steady_ns()
        scratch = f"{self._directory}/{self._spawner.next_number()}"
        os.mkdir(scratch, 0o700)
        if os.getuid() == 0:
            os.chown(scratch, run.script.uid, run.script.gid)
        output_fd = growing("output")
        try:
            outcome = await self._execute(run, cut, limits, bwrap, scratch, output_fd)
            output = tail(output_fd)
            duration_ns = self._steady_ns() - started_steady_ns
            if isinstance(outcome, Failed):
                message = outcome.message + last_words(output)
                return Failed(
                    outcome.kind,
                    message,
                    output=output,
                    started_ns=started_ns,
                    duration_ns=duration_ns,
                )
            return Done(outcome, output=output, started_ns=started_ns, duration_ns=duration_ns)
        except (NotStarted, OSError) as error:  # not the script's doing
            return Failed("death", str(error), started_ns=started_ns)
        finally:
            os.close(output_fd)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(shutil.rmtree, scratch, True)

    def kill(self, run_id: str) -> bool:
        """Make a run end as "killed"; whether there was one."""
        running = self._running.get(run_id)
        if running is None:
            return False
        running[1].append("killed")
        running[0].cancel()
        return True

    def retire(self, script_id: str) -> None:
        """Forget a version's files."""
        directory = self._laid_out.pop(script_id, None)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    async def _execute(
        self, run: Run, cut: Cut, limits: Limits, bwrap: str, scratch: str, output_fd: int
    ) -> list[Effect] | Failed:
        """Staged effects of a run that succeeds."""
        script, (event,) = run.script, run.events
        watch = self._lay_out(script)
        seen = environment(run, event)
        if bwrap:
            command = bubblewrap.command(
                bwrap,
                watch,
                script.name,
                scratch,
                run.cut_directory,
                devices() if has_gpu() else [],
            )
            seen |= {"CASCADE_OUT": bubblewrap.OUT, "HOME": "/tmp"}
            seen |= {} if run.cut_directory is None else {"CASCADE_IN": bubblewrap.IN}
        else:
            command = [f"{watch}/{script.name}"]
            seen |= {"CASCADE_OUT": scratch, "HOME": scratch, "TMPDIR": scratch}
            seen |= {} if run.cut_directory is None else {"CASCADE_IN": run.cut_directory}
        with trio.move_on_after(run.timeout_ms / 1000) as filling:
            data_fd = await self._data(event, cut)
        if filling.cancelled_caught:
            return Failed("timeout", f"its {event.size} bytes were not read in {run.timeout_ms} ms")
        # Opened once more, because reading the one must not move the other.
        input_fd = os.open(f"/proc/self/fd/{data_fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            order = Spawn(
                self._spawner.next_number(),
                script.uid,
                script.gid,
                script.groups,
                run.sandbox,
                limits,
                [scratch],
                command,
                seen,
                [0, 1, 2, DATA_FD],
            )
            fds = [input_fd, output_fd, output_fd, data_fd]
            process = await self._spawner.spawn(order, fds)
        finally:
            os.close(input_fd)
            os.close(data_fd)
        failed = await self._wait(run, process)
        if failed is not None:
            return failed
        try:
            return await trio.to_thread.run_sync(collect, scratch, run.emit)
        except ValueError as error:
            return Failed("exception", str(error))

    async def _wait(self, run: Run, process: Process) -> Failed | None:
        """The end of a process; None if it succeeded."""
        scope, why = trio.CancelScope(), list[FailureKind]()
        scope.deadline = trio.current_time() + run.timeout_ms / 1000
        self._running[run.id] = (scope, why)
        try:
            with scope:
                await process.exited.wait()
            if not process.exited.is_set():
                await process.signal(signal.SIGTERM)
                with trio.move_on_after(GRACE_SECONDS):
                    await process.exited.wait()
                await process.signal(signal.SIGKILL)
                await process.exited.wait()
                if why:
                    return Failed("killed", "ended by request")
                return Failed("timeout", f"no end after {run.timeout_ms} ms")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await process.signal(signal.SIGKILL)
                await process.exited.wait()
            raise
        finally:
            del self._running[run.id]
        if process.exit.ran_out:
            return Failed("memory", "the kernel ended it: it used all its memory")
        return judged(process.exit.code, process.exit.signal)

    async def _data(self, event: Event, cut: Cut) -> int:
        """The event's bytes as sealed memory, too many of them as a file without a name; the caller closes it.

        Raises:
            OSError: no room, or what reading them raises.
        """

        def read(span: Span) -> Content | None:
            return cut.event_content(event, span=span)

        content = read((0, PIECE_BYTES))
        if content is None:
            return seal([], "content")
        if content.size <= CONTENT_BYTES_MAX:
            return await self._inputs.borrowed(content, read)
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        fd = await filled(
            Filling(content.size, os.open(self._directory, flags, 0o444)), content, read
        )
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def _lay_out(self, script: Script) -> str:
        """The directory with the version's files, for everybody to read and nobody to write."""
        directory = self._laid_out.get(script.id)
        if directory is None:
            directory = f"{self._directory}/script-{self._spawner.next_number()}"
            for path, data in script.files.items():
                target = f"{directory}/{path}"
                os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
                with open(target, "wb") as file:
                    file.write(data)
                os.chmod(target, 0o755 if path == script.name else 0o644)
            self._laid_out[script.id] = directory
        return directory


def environment(run: Run, event: Event) -> dict[str, str]:
    """What an executable is told."""
    told = {
        "PATH": event.path,
        "NAME": event.path.rpartition("/")[2],
        "VERSION": str(event.version),
        "TIME": timestamp_text(event.timestamp),
        "EVENT": event.id,
        "KIND": event.kind,
        "CUT": timestamp_text(run.timestamp),
        "HOPS": str(event.hops),
        "ATTEMPT": str(event.attempt),
        "RUN": run.id,
    } | {f"MATCH_{name}": value for name, value in event.groups.items()}
    seen = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return seen | {f"CASCADE_{name}": value for name, value in told.items()}


def judged(code: int | None, number: int) -> Failed | None:
    """What an exit means; None is success."""
    if code is None and number == 0:
        return Failed("death", "it died with the zygote")
    if code is None:
        return Failed("signal", f"died of {signal.Signals(number).name}")
    if code == 0:
        return None
    if code == EX_DATAERR:
        return Failed("reject", f"exit status {code} (EX_DATAERR)")
    if code == EX_TEMPFAIL:
        return Failed("retry", f"exit status {code} (EX_TEMPFAIL)")
    if code > 128:
        with suppress(ValueError):  # as shells and bubblewrap report a child's signal
            return Failed("signal", f"died of {signal.Signals(code - 128).name}")
    return Failed("exit", f"exit status {code}")


def collect(scratch: str, emit: str | None) -> list[Effect]:
    """Puts of all files below a directory that somebody untrusted wrote: no link is followed, nothing special read.

    Raises:
        ValueError: more than `FILES_MAX` files.
        OSError: they cannot be read.
    """
    prefix = "" if emit is None else f"{emit.strip('/')}/".lstrip("/")
    effects: list[Effect] = []
    for directory, _, names, directory_fd in os.fwalk(scratch, follow_symlinks=False):
        relative = os.path.relpath(directory, scratch)
        below = prefix if relative == "." else f"{prefix}{relative}/"
        for name in sorted(names):
            found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                continue
            if len(effects) == FILES_MAX:
                raise ValueError(f"more than {FILES_MAX} files in CASCADE_OUT")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(name, flags, dir_fd=directory_fd)
            with open(fd, "rb") as file:
                effects.append(Put(below + name, file.read(), found.st_mode & 0o777))
    return sorted(effects, key=lambda effect: effect.path)


def last_words(output: bytes) -> str:
    """The last line that was printed, behind a colon; nothing if there is none."""
    line = next((line for line in reversed(output.splitlines()) if line.strip()), b"")
    return f": {line.decode(errors='backslashreplace')[:LAST_WORDS_MAX]}" if line else ""


def tail(fd: int) -> bytes:
    """The end of what was written to a descriptor."""
    size = os.fstat(fd).st_size
    return os.pread(fd, OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX))
