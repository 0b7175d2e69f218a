"""Files as the log needs them: a contract, the real one, and one in memory that can lose power.

The contract is small and synchronous. Nothing is durable until it was synced: the bytes and size of a file by
`File.fdatasync`, its name by `Disk.sync_directory` of the directory it is in. `MemoryDisk` keeps to the letter of
that: it remembers every change not yet synced, and `MemoryDisk.crash` builds any of the disks a power cut could
leave behind. Both pass one contract suite (``tests/storage/test_disk.py``).

Names are relative to the disk's own directory, ``/`` between parts. This room knows no format and decides nothing;
an `OSError` of the system goes to the caller as it is.

Sources: open(2), pwritev(2), fdatasync(2), posix_fallocate(3), rename(2); "All file systems are not created
equal" (OSDI 2014) for what a crash may reorder.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from storage.codec import Buffer

__all__ = ["SECTOR_BYTES", "Disk", "File", "MemoryDisk", "RealDisk"]

SECTOR_BYTES = 512
"""What a disk writes or does not write as a whole."""


class File(Protocol):
    """An open file. Closed by `close` or with its last reference, so a cache may drop one that is being read."""

    def size(self) -> int:
        """Length in bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to length bytes from an offset; fewer only at the end of the file."""

    def data_ranges(self, offset: int) -> Sequence[tuple[int, int]]:
        """Ranges (start, end) at or behind an offset outside which all bytes are zero, ascending.

        Preallocated space never written is left out, where the file system knows it: no need to read it.
        """

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write buffers end to end in one call; answers how many bytes, which may be fewer than asked.

        Raises:
            OSError: The bytes at the offset are then any mixture of old and new.
        """

    def map(self) -> memoryview:
        """The file's bytes, read-only and without a copy. Later writes inside the size at the call show through.

        The view stays valid after `close`, but not across a `truncate` to less than its length.
        """

    def fdatasync(self) -> None:
        """Make all bytes written before the call, and the size, durable.

        Raises:
            OSError: What was not yet durable may never be, and a later success says nothing about it (fsyncgate).
        """

    def preallocate(self, size: int) -> None:
        """Grow the file to a size with zeros, with space reserved where the file system can."""

    def truncate(self, size: int) -> None:
        """Set the size; growth shows zeros."""

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""


class Disk(Protocol):
    """A directory that belongs to us alone."""

    def open(self, name: str, *, create: bool = False, write: bool = True) -> File:
        """Open a file, making an empty one first if asked and it is absent.

        Raises:
            FileNotFoundError: It is absent and create was not asked, or its directory is absent.
        """

    def list(self, directory: str) -> list[str]:
        """Names in a directory, without their directory, sorted; none if the directory is absent."""

    def make_directory(self, directory: str) -> None:
        """Make a directory if it is absent; its parent must exist."""

    def rename(self, source: str, target: str) -> None:
        """Move a file, atomically, over an existing one if there is one."""

    def unlink(self, name: str) -> None:
        """Remove a name; open files and maps keep their bytes.

        Raises:
            FileNotFoundError: It is absent.
        """

    def sync_directory(self, directory: str) -> None:
        """Make the names created, renamed or removed in a directory durable."""


class RealFile:
    """A descriptor of the system."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self) -> int:
        """See `File.size`."""
        return os.fstat(self._descriptor).st_size

    def pread(self, length: int, offset: int) -> bytes:
        """See `File.pread`."""
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        # Linux reads regular files whole except near 2 GiB, but POSIX does not promise it.
        return data + self.pread(length - len(data), offset + len(data))

    def data_ranges(self, offset: int) -> Sequence[tuple[int, int]]:
        """See `File.data_ranges`; lseek(2) SEEK_DATA and SEEK_HOLE. Nobody uses the position they move.

        All ranges are found before the caller reads any, because reading (and reading ahead) a hole puts zeros in the
        page cache, which ext4 then calls data. Opening a 64 MiB segment: 0.1 ms, against 60 ms reading it whole.
        """
        ranges: list[tuple[int, int]] = []
        try:
            while True:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                offset = os.lseek(self._descriptor, start, os.SEEK_HOLE)
                ranges.append((start, offset))
        except OSError as error:
            if error.errno == errno.ENXIO:  # No more data.
                return ranges
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return [(offset, self.size())]
            raise

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `File.pwritev`."""
        return os.pwritev(self._descriptor, buffers, offset)

    def map(self) -> memoryview:
        """See `File.map`. The mapping lives as long as the view or a slice of it, and holds a descriptor of its own."""
        if not self.size():
            return memoryview(b"")
        return memoryview(mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ))

    def fdatasync(self) -> None:
        """See `File.fdatasync`."""
        os.fdatasync(self._descriptor)

    def preallocate(self, size: int) -> None:
        """See `File.preallocate`; where the file system cannot reserve (EOPNOTSUPP, EINVAL) the file only grows."""
        if size <= self.size():
            return
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            os.ftruncate(self._descriptor, size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """See `File.close`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


class RealDisk:
    """A directory of the system; made, with its parents, if absent. Files are for their owner only."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.path.abspath(directory)
        os.makedirs(self._directory, mode=0o700, exist_ok=True)

    def __repr__(self) -> str:
        return f"RealDisk({self._directory!r})"

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def open(self, name: str, *, create: bool = False, write: bool = True) -> File:
        """See `Disk.open`."""
        flags = os.O_RDWR if write else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        return RealFile(os.open(self._path(name), flags | os.O_CLOEXEC, 0o600))

    def list(self, directory: str) -> list[str]:
        """See `Disk.list`."""
        try:
            return sorted(os.listdir(self._path(directory)))
        except FileNotFoundError:
            return []

    def make_directory(self, directory: str) -> None:
        """See `Disk.make_directory`."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path(directory), 0o700)

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        os.rename(self._path(source), self._path(target))

    def unlink(self, name: str) -> None:
        """See `Disk.unlink`."""
        os.unlink(self._path(name))

    def sync_directory(self, directory: str) -> None:
        """See `Disk.sync_directory`."""
        descriptor = os.open(self._path(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
        self._disk.change(_Write(self._inode, offset, data))
        self._inode.live = _write(self._inode.live, offset, data)
        return len(data)

    def map(self) -> memoryview:
        """See `File.map`."""
        self._begin("map")
        return memoryview(self._inode.live).toreadonly()

    def fdatasync(self) -> None:
        """See `File.fdatasync`."""
        self._begin("fdatasync")
        self._disk.sync_inode(self._inode)

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
    """

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.before: Callable[[str, str], int | None] | None = None
        self._live: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self._directories = {"."}
        self._pending: list[_Change] = []  # Invariant: in the order made; all not yet durable.
        self._lock = threading.Lock()  # The log syncs on a worker thread while its owner appends.

    @property
    def pending(self) -> int:
        """Changes made and not yet durable."""
        return len(self._pending)

    def begin(self, call: str, name: str) -> int | None:
        """Count a call and let the test interfere."""
        self.calls[call] = self.calls.get(call, 0) + 1
        return self.before(call, name) if self.before else None

    def change(self, change: _Change) -> None:
        """Remember a change that a power cut may undo."""
        with self._lock:
            self._pending.append(change)

    def sync_inode(self, inode: _Inode) -> None:
        """Make the bytes of one file durable."""
        with self._lock:
            rest: list[_Change] = []
            for change in self._pending:
                if isinstance(change, _Write | _Resize) and change.inode is inode:
                    self._apply(change)
                else:
                    rest.append(change)
            self._pending = rest

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
