"""The door without a mount: the file system layer over a store on a simulated disk, in this process.

What the kernel does for a program `tests.semantics.conftest.Tree` does here; this adds what a model needs: whole
pictures, the times of commits, and ends of every kind. A kill keeps the disk as programs saw it and the index as it was
last published; a power cut keeps of the disk what was synced and some of the rest, and no index.

`small_limits` makes chunks, frames and drafts a few dozen bytes long, so that a file of 200 bytes has borders,
is staged, merged and cut like one of a megabyte.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from cascadefs.filesystem import Caller, Changes, Filesystem, FilesystemOptions
from storage.disk import MemoryDisk
from storage.store import LocalStore
from storage.table import MemoryTable
from tests.model.comparison import Seen
from tests.model.pair import AUTOCOMMIT_S
from tests.model.reference import DIRECTORY, FILE, LINK, LINKS_FOLLOWED_MAX, Look
from tests.semantics.conftest import Descriptor, FakeClock, Tree, as_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL_LIMITS = {
    "CHUNK_BYTES": 64,
    "PAYLOAD_BYTES_MAX": 64,
    "PIECES_PER_CHUNK_MAX": 8,
    "PUBLISH_RECORDS_MAX": 10,
    "STAGE_BYTES_MIN": 48,
    "DRAFT_MEMORY_BYTES_MAX": 128,
    "SHARED_BYTES_MAX": 100,
    "LISTING_BATCH": 2,
}
SEGMENT_BYTES = 64 * 1024
KINDS = {modes.S_IFREG: FILE, modes.S_IFDIR: DIRECTORY, modes.S_IFLNK: LINK}


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    """Every module that knows one of the limits has the small one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(("storage.", "cascadefs.filesystem.")):
                for limit, value in SMALL_LIMITS.items():
                    if hasattr(module, limit):
                        patch.setattr(module, limit, value)
        yield


class KeptTable(MemoryTable):
    """A table that leaves behind what it last published."""

    def __init__(self, index: MemoryIndex) -> None:
        super().__init__()
        self._index = index
        for key, value in index.rows:
            self.put(key, value)
        super().commit()

    def commit(self) -> None:
        super().commit()
        self._index.rows = list(self.scan(b"\0", b"\xff" * 512))


class MemoryIndex:
    """The place of a table in memory: what a process leaves there the next one finds."""

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, bytes]] = []

    def open(self) -> KeptTable:
        return KeptTable(self)

    def renew(self) -> KeptTable:
        self.rows = []
        return KeptTable(self)

    view = open


class Layer(Tree):
    """See the module."""

    prefix = ""
    has_exact_times = True

    def __init__(self, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.clock = FakeClock()
        self.clock.time_ns += 500_000_000  # no whole second falls between two records of one call
        self.caller = Caller(0, 0)
        self.disk = MemoryDisk()
        self.index = MemoryIndex()
        self.boots = 1
        self._segment_bytes = segment_bytes
        self._last_us = 0
        self._start()
        trio.run(self.fs.sync)  # the root is there whatever happens

    def _start(self) -> None:
        self.store = LocalStore.open_on(
            self.disk,
            self.index,
            self.clock,
            Random(1),
            boot_id=f"boot {self.boots}",
            segment_bytes=self._segment_bytes,
            directory=Path("/"),  # where `statfs` asks for room; a store without one is volatile
        )
        self.fs = Filesystem(self.store, self.clock, FilesystemOptions(autocommit_s=AUTOCOMMIT_S))

    # --- what Tree leaves to the kernel ------------------------------------------------------------------------

    def open(self, path: str, flags: int = os.O_RDONLY, process: int = 0) -> Descriptor:
        del process
        links = 0
        while flags & os.O_CREAT and not flags & os.O_EXCL and self._is_link(path):
            links += 1
            if links > LINKS_FOLLOWED_MAX:
                raise OSError(errno.ELOOP, "the kernel")
            path = "/".join([*path.split("/")[:-1], self.readlink(path).decode()])
        if self._is_directory(path) and not (flags & os.O_CREAT and flags & os.O_EXCL):
            raise OSError(errno.EISDIR, "the kernel")
        with self._refusals():
            return super().open(path, flags)

    @contextlib.contextmanager
    def _parent(self, path: str | bytes):
        with super()._parent(path) as (stat, name):
            if not modes.S_ISDIR(stat.mode):
                raise OSError(errno.ENOTDIR, "the kernel")
            yield stat, name

    def _is_link(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return modes.S_ISLNK(self.stat(path).mode)
        return False

    def _is_directory(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return modes.S_ISDIR(self.stat(path, follow=True).mode)
        return False

    def read(self, file: Descriptor, offset: int = 0, length: int = 2**30) -> bytes:
        with self._refusals():
            return bytes(self.fs.read(file.handle, offset, length))

    def write(self, file: Descriptor, offset: int, data: bytes) -> None:
        super().write(file, data, None if file.flags & os.O_APPEND else offset)

    def utime(self, path: str, mtime_ns: int) -> None:
        super().utime(path, mtime_ns, mtime_ns)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        super().mkdir(path, mode)

    def mknod(self, path: str) -> None:
        super().mknod(path, modes.S_IFREG | 0o644)

    def symlink(self, target: str, path: str) -> None:
        super().symlink(target, path)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        with self._walk(as_bytes(path), follow=True) as stat:
            self.fs.setxattr(stat.number, name.encode(), value, flags, self.caller)

    def removexattr(self, path: str, name: str) -> None:
        with self._walk(as_bytes(path), follow=True) as stat:
            self.fs.removexattr(stat.number, name.encode(), self.caller)

    def ftruncate(self, file: Descriptor, size: int) -> None:
        with self._refusals():
            self.fs.setattr(file.number, Changes(size=size), file.handle, self.caller)

    def allocate(self, file: Descriptor, offset: int, length: int, mode: int) -> None:
        with self._refusals():
            self.fs.ranges.allocate(file.handle, offset, length, mode)

    def copy(
        self, source: Descriptor, at: int, target: Descriptor, offset: int, length: int
    ) -> int:
        with self._refusals():
            return self.fs.ranges.copy(source.handle, at, target.handle, offset, length)

    def seek(self, file: Descriptor, offset: int, *, data: bool) -> int | None:
        return self.fs.ranges.seek(file.handle, offset, data=data)

    # --- pictures ----------------------------------------------------------------------------------------------

    def picture(self, path: str) -> dict[str, Seen]:
        """Everything at and below a path, by the path relative to it."""
        found: dict[str, Seen] = {}
        with self._walk(as_bytes(path), follow=False) as stat:
            self._photograph(stat, "", found)
        return found

    def _photograph(self, stat, at: str, found: dict[str, Seen]) -> None:
        fs, number, kind = self.fs, stat.number, KINDS[modes.S_IFMT(stat.mode)]
        data = b""
        if kind == FILE:
            handle = fs.open(number, os.O_RDONLY, self.caller).handle
            data = bytes(fs.read(handle, 0, 2**30))
            fs.flush(handle)
            fs.release(handle)
        elif kind == LINK:
            data = fs.readlink(number)
        xattrs = [
            (n.decode(), fs.getxattr(number, n, self.caller))
            for n in fs.listxattr(number, self.caller)
        ]
        look = Look(
            kind, stat.mode & 0o7777, stat.nlink, data, tuple(sorted(xattrs)), stat.mtime_ns
        )
        found[at] = Seen(number, look, stat.size)
        if kind == DIRECTORY:
            handle = fs.opendir(number, self.caller)
            listed = [(n, entry) for n, entry, _ in fs.readdir(handle, 0) if n not in (b".", b"..")]
            fs.releasedir(handle)
            for name, entry in listed:
                child = fs.lookup(number, name, self.caller)
                assert (entry.number, entry.mode, entry.size) == (
                    child.number,
                    child.mode,
                    child.size,
                )
                self._photograph(child, f"{at}/{name.decode()}" if at else name.decode(), found)
                fs.forget(child.number, 1)

    cat_absolute = Tree.cat

    # --- time, and ends ----------------------------------------------------------------------------------------

    def commit_times(self) -> list[int]:
        times = []
        for time, _ in self.store.journal():
            if time <= self._last_us:
                break
            times.append(time)
        if times:
            self._last_us = times[0]
        return times[::-1]

    def pauses(self) -> list[Callable[[], None]]:
        return []

    def now(self) -> int:
        """The timestamp given out last."""
        return self.store.status()["last_commit_us"]

    def clock_us(self) -> int:
        return self.clock.now_ns() // 1000

    def wait(self, seconds: float) -> None:
        self.clock.time_ns += int(seconds * 1e9)
        self.fs.housekeep(self.clock.now_ns())

    def restart(self) -> None:
        self.fs.commit_all()
        self.store.close()
        self._start()

    def kill(self) -> None:
        self._start()

    def power_cut(self, seed: int) -> int:
        """The last instant that survived."""
        random = Random(seed)
        if seed % 2:
            self.disk = self.disk.crash(random=random)
        else:
            changes = random.randrange(self.disk.pending + 1)
            self.disk = self.disk.crash(changes, random.randrange(512))
        self.boots += 1
        self.clock.time_ns += 10**9
        self._start()
        self._last_us = self.now()
        return self._last_us

    def check_nothing_is_held(self, open_files: int) -> None:
        """Every look-up was given back."""
        status = self.fs.status()
        assert status["open_files"] == open_files
        assert status["nodes"] <= status["open_files"] + status["drafts"] + 1
