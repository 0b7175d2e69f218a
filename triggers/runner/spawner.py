"""The daemon's side of the zygote: starts it when first needed, orders processes, hears of their end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from triggers.worker.channel import Channel, Closed, pair
from triggers.worker.message import Exited, FromZygote, Ready, Signal, Spawn, Spawned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

__all__ = ["NotStarted", "Process", "Spawner"]

ROOT = str(Path(__file__).resolve().parents[2])
"""Where the zygote finds this package."""

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
PASSED_ON_PREFIXES = ("CUDA_", "NVIDIA_")


class NotStarted(Exception):
    """A process was not started; the message says why."""


class Process:
    """A process that the zygote started, and leads a group of its own."""

    def __init__(self, spawner: Spawner, pid: int) -> None:
        self.pid = pid
        self.exited = trio.Event()
        self.exit = Exited(pid, None, 0, 0)
        """Valid once `exited` is set; neither code nor signal: the zygote was lost with it."""
        self._spawner = spawner

    async def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens if it has ended."""
        if not self.exited.is_set():
            await self._spawner.order(Signal(self.pid, number))


class Spawner:
    """One zygote, and another if it dies. `forks` counts the processes started."""

    def __init__(
        self, nursery: trio.Nursery, directory: str, cgroup: str = "", mountpoint: str = ""
    ) -> None:
        """Start processes that use files below `directory`, which is gone when the zygote ends; and see that mount."""
        self.ready: Ready | None = None
        self.forks = 0
        self._nursery = nursery
        self._directory = directory
        self._cgroup = cgroup
        self._mountpoint = mountpoint
        self._channel: Channel[FromZygote] | None = None
        self._starting = trio.Lock()
        self._is_closed = False
        self._number = 0
        self._waiting: dict[int, tuple[trio.Event, list[Spawned]]] = {}
        self._processes: dict[int, Process] = {}
        self.zygote: trio.Process | None = None

    async def start(self) -> Ready:
        """What the machine can do; the zygote is up then.

        Raises:
            NotStarted: it does not come up.
        """
        async with self._starting:
            if self._is_closed:
                raise NotStarted("the pool is closed")
            if self._channel is None or self.ready is None:
                await self._start()
            assert self.ready is not None
            return self.ready

    async def _start(self) -> None:
        ours, theirs = pair()
        ours.setblocking(False)
        channel: Channel[FromZygote] = Channel(ours, FromZygote)
        program = ["-P", "-s", "-m", "triggers.worker.zygote", self._directory]
        program += [self._cgroup, self._mountpoint]
        with theirs:
            zygote = self.zygote = await trio.lowlevel.open_process(
                [sys.executable, *program],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment() | {"PYTHONPATH": ROOT},
                cwd="/",
            )
        try:
            await trio.lowlevel.wait_readable(ours)
            message, _ = channel.receive()
        except BaseException as error:
            channel.close()  # which ends it
            with trio.CancelScope(shield=True):
                await zygote.wait()
            if isinstance(error, Closed):
                raise NotStarted("the zygote does not start; its complaint is above") from error
            raise
        assert isinstance(message, Ready)
        self._channel, self.ready = channel, message
        self._nursery.start_soon(self._listen, channel, zygote)

    async def spawn(self, order: Spawn, fds: Sequence[int]) -> Process:
        """Start a process. Cancelled, it may have started: it then ends with the zygote at the latest.

        Raises:
            NotStarted: the zygote cannot, or is gone.
        """
        await self.start()
        number = order.number
        ended, answers = self._waiting[number] = (trio.Event(), [])
        try:
            await self.order(order, fds)
            await ended.wait()
        finally:
            del self._waiting[number]
        if not answers:
            raise NotStarted("the zygote is gone")
        if answers[0].error:
            raise NotStarted(answers[0].error)
        self.forks += 1
        return self._processes[answers[0].pid]

    def next_number(self) -> int:
        """A number for the next order."""
        self._number += 1
        return self._number

    async def order(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send an order; nothing happens if the zygote is gone, whoever waits hears of it."""
        while self._channel is not None:
            try:
                return self._channel.send(message, fds)
            except BlockingIOError:
                with suppress(trio.ClosedResourceError):  # then there is none to send to
                    await trio.lowlevel.wait_writable(self._channel.socket)
            except Closed:
                return

    async def close(self) -> None:
        """End the zygote, and every process with it; none is started any more."""
        async with self._starting:  # half a zygote cannot be ended
            self._is_closed = True
        if self._channel is not None:
            self._channel.socket.shutdown(socket.SHUT_RDWR)
        if self.zygote is not None:
            await self.zygote.wait()

    async def _listen(self, channel: Channel[FromZygote], zygote: trio.Process) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(channel.socket)
                with suppress(BlockingIOError):
                    self._hear(channel.receive()[0])
        except Closed:
            pass
        finally:
            self._channel = None
            trio.lowlevel.notify_closing(channel.socket)
            channel.close()
            for process in self._processes.values():  # they die with their zygote
                process.exited.set()
            self._processes.clear()
            for ended, _ in self._waiting.values():
                ended.set()
            with trio.CancelScope(shield=True):
                await zygote.wait()

    def _hear(self, message: FromZygote) -> None:
        match message:
            case Spawned(number, pid, error):
                if not error:
                    self._processes[pid] = Process(self, pid)
                waiting = self._waiting.get(number)
                if waiting is not None:
                    waiting[1].append(message)
                    waiting[0].set()
            case Exited(pid):
                process = self._processes.pop(pid)
                process.exit = message
                process.exited.set()
            case Ready():
                raise AssertionError("ready twice")


def environment() -> dict[str, str]:
    """What workers may see of the daemon's environment. One thread for linear algebra: a fork keeps no threads."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {"PATH": "/usr/local/bin:/usr/bin:/bin"} | passed | dict.fromkeys(threads, "1")
