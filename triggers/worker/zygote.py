"""The process that forks workers: started once by the daemon, single-threaded, with everything imported.

A fork of it is a worker in a millisecond, and shares its memory; a fresh Python with NumPy takes a hundred. The daemon
itself is never forked: it has threads and locks. CUDA is touched only after the fork.

Theory of operation. It reads orders (`Spawn`, `Signal`) from its socket and reports what ends (`Exited`). It adopts
orphans, so nothing that a script starts is left behind: when a leader has ended, its whole process group is killed
while the leader's number is still taken, and only then is it reaped. When its own socket closes, the daemon is gone: it
kills everybody and ends. Workers die with it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from typing import NoReturn

from triggers.worker import process, sandbox
from triggers.worker.cgroup import Cgroups, enter
from triggers.worker.channel import Channel, Closed
from triggers.worker.message import Exited, NotLoaded, Ready, Signal, Spawn, Spawned, ToZygote
from triggers.worker.network import Network, Networks
from triggers.worker.reach import make_reachable
from triggers.worker.seccomp import PROGRAM_FD

__all__ = ["Zygote"]

PRELOADED = (
    "numpy",
    "numpy.lib.format",
    "trio",
    "asyncio",
    "json",
    "dataclasses",
    "typing",
    "encodings.idna",
)
"""What workers probably need; what is not installed is left out. Must start no thread."""

END_SECONDS = 2


class Zygote:
    """The loop."""

    def __init__(self, end: socket.socket, cgroup: str, mountpoint: str) -> None:
        self._channel: Channel[ToZygote] = Channel(end, ToZygote)
        self._leaders: set[int] = set()
        self._cgroups = Cgroups(cgroup)
        self._networks = Networks()
        self._mountpoint = mountpoint
        self._wakeup, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = wake

    def serve(self) -> None:
        """Prepare, report, and take orders until the daemon closes the socket."""
        sandbox.adopt_orphans()
        self._confinement = sandbox.probe()
        reached = make_reachable(self._mountpoint)
        problems = [*self._confinement.problems, *reached, *self._cgroups.problems]
        for name in PRELOADED:
            with suppress(ImportError):
                importlib.import_module(name)
        assert len(os.listdir("/proc/self/task")) == 1, "a module of PRELOADED starts threads"
        gc.collect()
        gc.freeze()  # so that the workers' collectors leave the shared pages alone
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        abi = self._confinement.landlock_version
        self._channel.send(Ready(abi, bool(self._confinement.filters), problems))
        poll = select.poll()
        poll.register(self._channel.socket, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wakeup:
                    os.read(self._wakeup, 4096)
                    self._reap()
                else:
                    self._obey(*self._channel.receive())

    def end(self) -> None:
        """Kill everybody, and wait for their end, but not for ever: somebody may hang in the kernel."""
        signal.alarm(END_SECONDS)
        for pid in self._leaders:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            self._cgroups.kill(pid)
        with suppress(ChildProcessError):
            while True:
                self._cgroups.release(os.wait()[0])

    def _obey(self, order: ToZygote, fds: list[int]) -> None:
        match order:
            case Spawn():
                try:
                    network = self._networks.get(order.network)
                    group = self._cgroups.make(order.number, order.limits)
                    pid = os.fork()
                except OSError as error:
                    self._networks.let_go(order.network)
                    self._channel.send(Spawned(order.number, 0, f"fork: {error}"))
                else:
                    if pid == 0:
                        self._be(order, group, network, fds)
                    self._leaders.add(pid)
                    self._networks.hold(pid, order.network)
                    self._cgroups.hold(pid, group)
                    self._channel.send(Spawned(order.number, pid))
                finally:
                    for fd in fds:
                        os.close(fd)
            case Signal(pid, number):
                if pid in self._leaders:  # not reaped yet, so the number means this one
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, number)
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)  # should it not have made its group yet
                    if number == signal.SIGKILL:
                        self._cgroups.kill(pid)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                ended = None
            if ended is None:
                self._cgroups.clean()
                return
            pid = ended.si_pid
            if pid not in self._leaders:
                os.waitpid(pid, 0)
                continue
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            self._leaders.discard(pid)
            self._networks.release(pid)
            ran_out = self._cgroups.release(pid)
            exited = os.WIFEXITED(status)
            self._channel.send(
                Exited(
                    pid,
                    os.WEXITSTATUS(status) if exited else None,
                    0 if exited else os.WTERMSIG(status),
                    usage.ru_maxrss * 1024,
                    ran_out,
                )
            )

    # --- in the child -------------------------------------------------------------------------------------------------

    def _be(self, spawn: Spawn, group: str, network: Network | None, fds: list[int]) -> NoReturn:
        try:
            enter(group)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            os.close(self._wakeup)
            os.close(self._wake)
            if spawn.command:
                self._be_command(spawn, fds)
            else:
                self._be_worker(spawn, network, fds)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(70)  # EX_SOFTWARE

    def _be_worker(self, spawn: Spawn, network: Network | None, fds: list[int]) -> NoReturn:
        end, output_fd = socket.socket(fileno=fds[0]), fds[1]
        os.environ.clear()
        os.environ.update(spawn.environment)
        tempfile.tempdir = None  # what the zygote found is not this one's
        try:
            sandbox.become(spawn, network)
            self._networks.close()
            sandbox.confine(spawn, self._confinement)
        except (OSError, ValueError) as error:
            Channel[ToZygote](end, ToZygote).send(NotLoaded(f"not started: {error}", ""))
            os._exit(69)  # EX_UNAVAILABLE
        process.serve(end, output_fd)

    def _be_command(self, spawn: Spawn, fds: list[int]) -> NoReturn:
        numbers, program = spawn.fds, self._confinement.filters.get("command")
        if program is not None:
            filter_fd = os.memfd_create("seccomp", 0)
            os.write(filter_fd, program)
            os.lseek(filter_fd, 0, os.SEEK_SET)
            fds = [*fds, filter_fd]
            numbers = [*numbers, PROGRAM_FD]
        # Out of the way first: a target number may be another's source.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds]
        for fd, number in zip(high, numbers, strict=True):
            os.dup2(fd, number, inheritable=True)
        try:
            sandbox.become(spawn)
            os.execve(spawn.command[0], spawn.command, spawn.environment)
        except (OSError, ValueError) as error:
            os.write(2, f"not started: {error}\n".encode())
            os._exit(69)  # EX_UNAVAILABLE


def main() -> None:
    """Serve on the socket that is standard input.

    Arguments: a directory that is removed at the end, because the daemon may not live to do it; the directory of control
    groups, or empty; where the store is mounted, or empty.
    """
    zygote = Zygote(socket.socket(fileno=os.dup(0)), *sys.argv[2:4])
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    try:
        zygote.serve()
    except Closed:  # the daemon has ended
        zygote.end()
        shutil.rmtree(sys.argv[1], ignore_errors=True)
    except BaseException:
        zygote.end()
        raise


if __name__ == "__main__":
    main()
