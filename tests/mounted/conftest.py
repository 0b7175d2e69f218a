"""A mount for a test, through the command line as people use it, and taken away whatever became of it.

`mount` is fresh for the test; `make_mount` makes more, with options; `shared_mount` lives for the whole run, for tests
that keep to a directory of their own. Nothing here waits without a limit: a mount that does not go is cut off, then its
daemon is killed, because a mount that stays would hang the tests after it and whoever cleans up the directory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cascadefs.fuse import mountpoint

ROOT = Path(__file__).resolve().parents[2]
DOORS = [os.environ["CASCADEFS_DOOR"]] if "CASCADEFS_DOOR" in os.environ else ["kernel", "pyfuse3"]
"""Every test of a mount runs once through each of them; a module about one of them says so with a `door` of its own."""

COMMAND_SECONDS = 60.0
END_SECONDS = 30.0


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cascadefs.cli", *map(str, arguments)]


def environment(columns: int = 100) -> dict[str, str]:
    # COLUMNS: what a person sees does not depend on the terminal of whoever runs the tests.
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "NO_COLOR": "1"}


def cascadefs(
    *arguments: object, expect: int | None = 0, columns: int = 100
) -> subprocess.CompletedProcess[str]:
    """Run ``cascadefs`` to its end; None for any exit status."""
    done = subprocess.run(
        command_line(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=environment(columns),
    )
    if expect is not None:
        assert done.returncode == expect, f"{arguments}: {done.stdout}{done.stderr}"
    return done


def is_over(pid: int, seconds: float) -> bool:
    """Whether the process has ended, or ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(seconds * 1000))
    finally:
        os.close(descriptor)


@dataclass
class Mount:
    """A mountpoint and its data directory (None: volatile); `options` are given to every `mount` again."""

    path: Path
    data: Path | None
    options: tuple[str, ...] = ()
    door: str = "auto"
    pid: int = field(default=0, init=False)

    def mount(self, *options: str) -> None:
        """Mount, with more options this time."""
        where = ["--volatile"] if self.data is None else ["--data", self.data]
        cascadefs("mount", self.path, *where, "--door", self.door, *self.options, *options)
        self.find_daemon()

    def find_daemon(self) -> None:
        """Learn whose mount it is, after mounting by hand."""
        self.pid = json.loads((self.path / ".cascade/status").read_bytes())["pid"]

    def umount(self) -> None:
        """Unmount; everything is on the disk."""
        cascadefs("umount", self.path)
        assert is_over(self.pid, END_SECONDS)

    def remount(self, *options: str) -> None:
        """Unmount and mount again: nothing is remembered but what is on the disk."""
        self.umount()
        self.mount(*options)

    def kill(self) -> None:
        """The daemon dies without a word; the mountpoint is stale."""
        os.kill(self.pid, signal.SIGKILL)
        assert is_over(self.pid, END_SECONDS)

    def status(self) -> dict:
        """What ``cascadefs status --json`` says."""
        return json.loads(cascadefs("status", "--json", self.path).stdout)

    def is_mounted(self) -> bool:
        return mountpoint.mounted_at(self.path) is not None

    def log(self) -> str:
        """What the daemon has written so far."""
        return (self.data / "daemon.log").read_text() if self.data is not None else ""

    def tear_down(self) -> None:
        """Whatever state it is in: nothing mounted, nothing running."""
        while self.is_mounted():
            mountpoint.unmount(self.path, lazy=True)
        if not self.pid or is_over(self.pid, 1.0):
            return
        os.kill(self.pid, signal.SIGTERM)  # a lazily unmounted one may still have users
        if not is_over(self.pid, END_SECONDS):
            os.kill(self.pid, signal.SIGABRT)  # its faulthandler writes where every thread is
            if not is_over(self.pid, END_SECONDS):
                os.kill(self.pid, signal.SIGKILL)
            pytest.fail(f"the daemon of {self.path} did not end; its log:\n{self.log()}")


@contextlib.contextmanager
def mounts_below(directory: Path, door: str = "auto"):
    """A maker of mounts below a directory, through a door if the options name none, and their end."""
    made = []
    numbers = itertools.count(1)

    def make(*options: str, volatile: bool = False, mounted: bool = True) -> Mount:
        number = next(numbers)
        path = directory / f"mnt{number}"
        path.mkdir()
        mount = Mount(path, None if volatile else directory / f"data{number}", options, door)
        made.append(mount)
        if mounted:
            mount.mount()
        return mount

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [mount.tear_down() for mount in reversed(made)])
        yield make


@pytest.fixture(scope="session", params=DOORS)
def door(request) -> str:
    """The door that mounts come through."""
    return request.param


@pytest.fixture
def make_mount(tmp_path, door):
    """Make a mount: ``make_mount("--ro", volatile=False, mounted=True)``."""
    with mounts_below(tmp_path, door) as make:
        yield make


@pytest.fixture
def public_path():
    """A directory that every user can get to. `tmp_path` is not: pytest closes its root whenever another run begins."""
    path = Path(tempfile.mkdtemp(prefix="cascadefs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_public_mount(public_path):
    """As `make_mount`, where every user can get to."""
    with mounts_below(public_path) as make:
        yield make


@pytest.fixture
def mount(make_mount) -> Mount:
    """A fresh mount of a fresh data directory."""
    return make_mount()


@pytest.fixture(scope="session")
def shared_mount(tmp_path_factory, door):
    """One mount for the whole run, through each door."""
    with mounts_below(tmp_path_factory.mktemp("shared"), door) as make:
        yield make()
