"""The disk in memory that can lose power, for tests and simulation.

`MemoryDisk` keeps what programs see and what the platter has apart: it remembers every change not yet synced, and
`MemoryDisk.crash` builds any of the disks that a power cut could leave behind. A hook ahead of every call lets a test
refuse it or cut it short; `lose` is what a failed sync does to the bytes it was for, `rot` what age does, and
`capacity_bytes` what a small disk does.

Sources: "All file systems are not created equal" (OSDI 2014) for what a crash may reorder; "Can applications recover
from fsync failures?" (ATC 2020) for what a failed sync forgets.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from storage.codec import Buffer
    from storage.disk.contract import File

__all__ = ["SECTOR_BYTES", "MemoryDisk"]

SECTOR_BYTES = 512
"""What a disk writes or does not write as a whole."""


class _Inode:
    """The bytes of a file in memory: as programs see them, and as the platter has them."""

    def __init__(self, data: bytes = b"") -> None:
        self.live = bytearray(data)
        self.durable = bytearray(data)


class _Write(NamedTuple):
    inode: _Inode
    offset: int
    data: bytes


class _Resize(NamedTuple):
    inode: _Inode
    size: int


class _Name(NamedTuple):
    """A name appears."""

    name: str
    inode: _Inode


class _Rename(NamedTuple):
    source: str
    target: str


class _Unlink(NamedTuple):
    name: str


_Change = _Write | _Resize | _Name | _Rename | _Unlink


def _resized(data: bytearray, size: int) -> bytearray:
    """A new array, because one that is mapped somewhere cannot change its length."""
    return bytearray(data[:size].ljust(size, b"\0"))


def _write(data: bytearray, offset: int, new: Buffer) -> bytearray:
    end = offset + len(new)
    if end > len(data):
        data = _resized(data, end)
    data[offset:end] = new
    return data


class MemoryFile:
    """An open file of a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, name: str, inode: _Inode, *, write: bool) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._write = write
        self._open = True

    def _begin(self, call: str, *, write: bool = False) -> int | None:
        if not self._open or (write and not self._write):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)
        return self._disk.begin(call, self._name)

    def size(self) -> int:
        """See `File.size`."""
        return len(self._inode.live)

    def pread(self, length: int, offset: int) -> bytes:
        """See `File.pread`."""
        self._begin("pread")
        return bytes(self._inode.live[offset : offset + length])

    def data_ranges(self, offset: int) -> Sequence[tuple[int, int]]:
        """See `File.data_ranges`; to the byte, which no file system is."""
        self._begin("data_ranges")
        data = self._inode.live[offset:].rstrip(b"\0")
        start = len(data) - len(data.lstrip(b"\0"))
        return [(offset + start, offset + len(data))] if data else []

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `File.pwritev`."""
        limit = self._begin("pwritev", write=True)
        data = b"".join(buffers)[:limit]
        if offset + len(data) > self.size():
            room = self.size() - offset + self._disk.room()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._name)
            data = data[:room]
        self._disk.change(_Write(self._inode, offset, data))
        self._inode.live = _write(self._inode.live, offset, data)
        return len(data)

    def map(self) -> memoryview:
        """See `File.map`."""
        self._begin("map")
        return memoryview(self._inode.live).toreadonly()

    def fdatasync(self) -> None:
        """See `File.fdatasync`."""
        covered = self._disk.pending  # What is written from here on is the next sync's.
        try:
            self._begin("fdatasync")
        except OSError:
            self._disk.lose(self._inode)
            raise
        self._disk.sync_inode(self._inode, covered)

    def preallocate(self, size: int) -> None:
        """See `File.preallocate`."""
        self._begin("preallocate", write=True)
        if size > self.size():
            self._resize(size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        self._begin("truncate", write=True)
        self._resize(size)

    def _resize(self, size: int) -> None:
        if size - self.size() > self._disk.room():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._name)
        self._disk.change(_Resize(self._inode, size))
        self._inode.live = _resized(self._inode.live, size)

    def close(self) -> None:
        """See `File.close`."""
        self._open = False


class MemoryDisk:
    """The contract in memory, with every call counted, every call able to fail, and power that can be cut.

    Attributes:
        calls: How often each call was made, by its name (``"pwritev"``, ``"fdatasync"`` ...).
        before: Called with (call, name) ahead of each call. It may raise, as the disk would, or answer a number:
            a `File.pwritev` then writes only so many bytes.
        capacity_bytes: What all files together may hold; None for a disk without end.
        random: Decides which bytes of a failed sync reach the platter; without it none do.
    """

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.before: Callable[[str, str], int | None] | None = None
        self.capacity_bytes: int | None = None
        self.random: Random | None = None
        self._live: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self._directories = {"."}
        self._pending: list[_Change] = []  # Invariant: in the order made; all not yet durable.
        self._lock = threading.Lock()  # The log syncs on a worker thread while its owner appends.

    @property
    def pending(self) -> int:
        """Changes made and not yet durable."""
        return len(self._pending)

    def __str__(self) -> str:
        return "a disk in memory"

    def begin(self, call: str, name: str) -> int | None:
        """Count a call and let the test interfere."""
        self.calls[call] = self.calls.get(call, 0) + 1
        return self.before(call, name) if self.before else None

    def change(self, change: _Change) -> None:
        """Remember a change that a power cut may undo."""
        with self._lock:
            self._pending.append(change)

    def sync_inode(self, inode: _Inode, covered: int) -> None:
        """Make the bytes of one file durable that are among the first so many changes pending."""
        with self._lock:
            rest: list[_Change] = []
            for change in self._pending[:covered]:
                if isinstance(change, _Write | _Resize) and change.inode is inode:
                    self._apply(change)
                else:
                    rest.append(change)
            self._pending[:covered] = rest

    def lose(self, inode: _Inode) -> None:
        """A sync of a file failed: the kernel forgets that its bytes are not on the platter, and goes on showing them.

        No later sync brings them there. Sizes are the file system's own affair, and stay to be synced.
        """
        with self._lock:
            rest: list[_Change] = []
            for change in self._pending:
                if not isinstance(change, _Write) or change.inode is not inode:
                    rest.append(change)
                elif self.random is not None:
                    for part in _torn(change, self.random):
                        self._apply(part)
            self._pending = rest

    def room(self) -> int:
        """Bytes that files may still grow by."""
        if self.capacity_bytes is None:
            return 2**63
        return self.capacity_bytes - sum(len(inode.live) for inode in self._live.values())

    def rot(self, name: str, offset: int, mask: int) -> None:
        """Turn bits of a byte, for programs and on the platter."""
        inode = self._live[name]
        for data in (inode.live, inode.durable):
            if offset < len(data):
                data[offset] ^= mask

    def _apply(self, change: _Change) -> None:
        """Let a change reach the platter. One whose premise never did (a rename of a lost name) does nothing."""
        match change:
            case _Write(inode, offset, data):
                inode.durable = _write(inode.durable, offset, data)
            case _Resize(inode, size):
                inode.durable = _resized(inode.durable, size)
            case _Name(name, inode):
                self._durable[name] = inode
            case _Rename(source, target):
                if source in self._durable:
                    self._durable[target] = self._durable.pop(source)
            case _Unlink(name):
                self._durable.pop(name, None)

    def open(self, name: str, *, create: bool = False, write: bool = True) -> File:
        """See `Disk.open`."""
        self.begin("open", name)
        parent = _parent(name)
        absent = name not in self._live
        if parent not in self._directories or (absent and not create):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if absent:
            self.begin("create", name)
            self._live[name] = _Inode()
            self.change(_Name(name, self._live[name]))
        return MemoryFile(self, name, self._live[name], write=write)

    def list(self, directory: str) -> list[str]:
        """See `Disk.list`."""
        names = [name for name in self._live if _parent(name) == directory]
        inner = [name for name in self._directories if name != "." and _parent(name) == directory]
        return sorted(PurePosixPath(name).name for name in names + inner)

    def make_directory(self, directory: str) -> None:
        """See `Disk.make_directory`. Directories are durable at once: the log makes them once, before all else."""
        self.begin("make_directory", directory)
        if _parent(directory) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        self._directories.add(directory)

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        self.begin("rename", source)
        if source not in self._live or _parent(target) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        self._live[target] = self._live.pop(source)
        self.change(_Rename(source, target))

    def unlink(self, name: str) -> None:
        """See `Disk.unlink`."""
        self.begin("unlink", name)
        if name not in self._live:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        del self._live[name]
        self.change(_Unlink(name))

    def sync_directory(self, directory: str) -> None:
        """See `Disk.sync_directory`. A rename between directories becomes durable with either of them."""
        self.begin("sync_directory", directory)
        with self._lock:
            rest: list[_Change] = []
            for change in self._pending:
                if directory in _directories_of(change):
                    self._apply(change)
                else:
                    rest.append(change)
            self._pending = rest

    def crash(
        self, changes: int = 0, torn_bytes: int = 0, *, random: Random | None = None
    ) -> MemoryDisk:
        """The disk after a power cut; this one goes on unharmed.

        Everything synced is there. Of the rest, the first so many changes in the order made, and so many bytes of
        the write that comes next. With a random source instead, each change is kept, lost or (a write) torn to any
        of its 512-byte sectors, each on its own: what a disk without barriers may do.
        """
        twin = MemoryDisk()
        twin.capacity_bytes = self.capacity_bytes
        twin._directories = set(self._directories)
        copies: dict[int, _Inode] = {}

        def copy(inode: _Inode) -> _Inode:
            return copies.setdefault(id(inode), _Inode(bytes(inode.durable)))

        with self._lock:
            twin._durable = {name: copy(inode) for name, inode in self._durable.items()}
            for number, change in enumerate(self._pending):
                if isinstance(change, _Write | _Resize | _Name):
                    change = change._replace(inode=copy(change.inode))
                if random is not None:
                    for part in _torn(change, random):
                        twin._apply(part)
                elif number < changes:
                    twin._apply(change)
                elif number == changes and torn_bytes and isinstance(change, _Write):
                    twin._apply(change._replace(data=change.data[:torn_bytes]))
        for inode in copies.values():
            inode.live = bytearray(inode.durable)
        twin._live = dict(twin._durable)
        return twin


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _directories_of(change: _Change) -> set[str]:
    match change:
        case _Name(name, _) | _Unlink(name):
            return {_parent(name)}
        case _Rename(source, target):
            return {_parent(source), _parent(target)}
        case _:
            return set()


def _torn(change: _Change, random: Random) -> list[_Change]:
    """What is left of a change: it, nothing, or for a write some of its sectors."""
    fate = random.choice(("kept", "lost", "torn"))
    if fate == "torn" and isinstance(change, _Write):
        first = change.offset // SECTOR_BYTES * SECTOR_BYTES
        parts: list[_Change] = []
        for start in range(first, change.offset + len(change.data), SECTOR_BYTES):
            if random.random() < 0.5:
                begin = max(start, change.offset)
                data = change.data[begin - change.offset : start + SECTOR_BYTES - change.offset]
                parts.append(_Write(change.inode, begin, data))
        return parts
    return [] if fate == "lost" else [change]
