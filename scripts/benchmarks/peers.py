"""The peers: a plain directory of the disk, bindfs over one, and cascadefs; each with its own end.

All lie on the same disk. bindfs runs as it does by default: threads, names and attributes cached for a second, the
kernel checking permissions; so does cascadefs. Whatever happens, `stop` leaves nothing mounted and no process behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import machine

__all__ = ["Bindfs", "Cascade", "Disk", "PassthroughLl", "Peer", "difference", "remove"]

EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")

START_SECONDS_MAX = 600.0
"""For a mount to answer: the index of a million versions may have to be built."""

STOP_SECONDS_MAX = 120.0
"""For a daemon to be gone after its mount is."""


class Peer:
    """A place to work in; `root` answers between `start` and `stop`."""

    name: str

    def __init__(self, directory: Path, processor: int | None = None) -> None:
        """Everything lies below `directory`, made now."""
        self.directory = directory
        self.processor = processor
        self.root = directory / "root"
        self.pid: int | None = None
        self.root.mkdir(parents=True)

    def start(self) -> None:
        """Make `root` answer."""

    def stop(self) -> None:
        """Take everything down, however it stands; harmless when repeated."""

    def remount(self, *, cold: bool = False) -> None:
        """Nothing in the memory of the peer, nor in the kernel's of its mount; `cold`: the disk is not cached either.

        Cold is for few: it makes everybody on the machine read their programs again.
        """
        self.stop()
        if cold:
            machine.drop_caches(self.directory)
        self.start()

    def cpu_ns(self) -> int:
        """Processor time its process has used so far."""
        return machine.cpu_ns(self.pid) if self.pid is not None else 0

    def _stay(self) -> None:
        """In a new process, before it becomes a program: on one processor, if that was asked for."""
        if self.processor is not None:
            os.sched_setaffinity(0, {self.processor})

    def _take_down(self) -> None:
        """Unmount `root`, out of the tree at least, and wait for the process."""
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        for options in ([], [], [], ["-l" if command == ["umount"] else "-z"]):
            if not _is_mounted(self.root):
                break
            if subprocess.run([*command, *options, self.root], capture_output=True).returncode:
                time.sleep(0.2)
        if self.pid is not None:
            _wait_for_end(self.pid)
            self.pid = None


class Disk(Peer):
    """A plain directory."""

    name = "disk"


class Bindfs(Peer):
    """bindfs over a plain directory."""

    name = "bindfs"

    def start(self) -> None:
        """See `Peer.start`."""
        behind = self.directory / "behind"
        behind.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            self._command(behind),
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=self._stay,
        )
        self.pid = self._process.pid
        deadline = time.perf_counter() + START_SECONDS_MAX
        while not _is_mounted(self.root):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise RuntimeError(f"{self.name} did not mount")
            time.sleep(0.01)

    def _command(self, behind: Path) -> list[str | Path]:
        return ["bindfs", "-f", behind, self.root]

    def stop(self) -> None:
        """See `Peer.stop`."""
        self._take_down()


class PassthroughLl(Bindfs):
    """passthrough_ll, the low-level example of libfuse in C, over a plain directory.

    libfuse3-dev ships its source, which is compiled when first needed.
    """

    name = "passthrough_ll"

    def _command(self, behind: Path) -> list[str | Path]:
        program = self.directory / "passthrough_ll"
        if not program.exists():
            flags = subprocess.run(
                ["pkg-config", "--cflags", "--libs", "fuse3"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            source = EXAMPLES / "passthrough_ll.c"
            subprocess.run(["gcc", "-O2", "-w", "-o", program, source, *flags], check=True)
        return [program, "-f", "-o", f"source={behind}", self.root]

    @staticmethod
    def is_there() -> bool:
        """Whether its source is."""
        return (EXAMPLES / "passthrough_ll.c").exists()


class Cascade(Peer):
    """cascadefs with a store of its own, run as its users do: by the command line, in the background."""

    name = "cascadefs"

    command: ClassVar[list[str]] = [sys.executable, "-m", "cascadefs.cli"]
    """How it is called; another tree's, to compare the two."""

    options: ClassVar[list[str]] = []
    """More words for its ``mount``."""

    def __init__(self, directory: Path, processor: int | None = None) -> None:
        """See `Peer`."""
        super().__init__(directory, processor)
        self.data = directory / "data"

    def start(self) -> None:
        """See `Peer.start`."""
        subprocess.run(
            [*self.command, "mount", self.root, "--data", self.data, *self.options],
            check=True,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
            timeout=START_SECONDS_MAX,
            preexec_fn=self._stay,
        )
        self.pid = self.status()["pid"]

    def stop(self) -> None:
        """See `Peer.stop`."""
        if self.pid is None:  # Interrupted while it started: it may be about to mount.
            for pid in _with_argument(str(self.root)):
                os.kill(pid, signal.SIGTERM)
                _wait_for_end(pid)
        self._take_down()

    def kill(self) -> None:
        """End the daemon as a kill -9 does, and remove what is left of its mount."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        self._take_down()

    def status(self) -> dict[str, Any]:
        """What ``cascadefs status --json`` says, without starting a Python for it."""
        answer: dict[str, Any] = json.loads((self.root / ".cascade/status").read_text())
        return answer

    def requests(self) -> dict[str, int]:
        """Requests by opcode so far; asking for them makes some itself (see `asking`)."""
        counts: dict[str, int] = self.status()["requests"]
        return counts

    def asking(self) -> dict[str, int]:
        """The requests that one call of `requests` makes."""
        first, second = self.requests(), self.requests()
        return difference(second, first)


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What was added to counts between two readings."""
    names = (name for name in after if after[name] != before.get(name, 0))
    return {name: after[name] - before.get(name, 0) for name in names}


def _is_mounted(path: Path) -> bool:
    """By the table of mounts: the path itself may hang or be dead."""
    place = str(path).replace("\\", r"\134").replace(" ", r"\040")
    table = Path("/proc/self/mountinfo").read_text()
    return any(line.split(" ")[4] == place for line in table.splitlines())


def _wait_for_end(pid: int) -> None:
    """Until a process is gone, reaped if it is ours; killed if it will not go."""
    deadline = time.perf_counter() + STOP_SECONDS_MAX
    while _is_alive(pid):
        if time.perf_counter() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _with_argument(word: str) -> list[int]:
    """The processes that were started with a word no other program was given."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(word) in words and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def remove(directory: Path) -> None:
    """Delete a work directory, unless something is still mounted below it."""
    below = f" {directory}/"
    if not any(below in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        shutil.rmtree(directory, ignore_errors=True)
