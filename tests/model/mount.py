"""The door of a mount: the same calls by system calls, from this process and from another one.

Every example has a directory of its own, which is the reference's root; the mount is shared. A kill is `kill -9` and a
mount in the place of the dead one. Drafts become versions by close and fsync only (`--autocommit` is an hour), so that
nothing here depends on how long anything takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import stat as modes
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.model.comparison import Seen
from tests.model.reference import DIRECTORY, FILE, LINK, Look
from tests.mounted.conftest import END_SECONDS, is_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted.conftest import Mount
    from tests.mounted.program import Actor

OPTIONS = ("--autocommit", "3600")
KINDS = {modes.S_IFREG: FILE, modes.S_IFDIR: DIRECTORY, modes.S_IFLNK: LINK}
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)


def _called(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class File(NamedTuple):
    """An open file of a process: 0 is this one."""

    process: int
    descriptor: int


class Here:
    """This process, spoken to like another one."""

    def ask(self, code: str) -> object:
        return eval(code, {"os": os})


class MountDoor:
    """See the module."""

    has_exact_times = False

    def __init__(self, mount: Mount, name: str, other: Actor) -> None:
        self.mount = mount
        self.root = mount.path / name
        self.prefix = f"{name}/"
        self._umask = os.umask(0)
        self.root.mkdir(mode=0o755)
        self._files: set[File] = set()
        # The other one is there before: starting a process closes, in it, every descriptor of this one: a version.
        self._processes: tuple[Here | Actor, ...] = (Here(), other)
        other.do("os.umask(0)")

    def close_all(self) -> None:
        """Let go of everything; the mount stays."""
        self._drop_files()
        os.umask(self._umask)

    def _drop_files(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                self._ask(file.process, f"os.close({file.descriptor})")
        self._files.clear()

    def _ask(self, process: int, code: str) -> object:
        return self._processes[process].ask(code)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else str(self.root)

    # --- names -------------------------------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._path(path), mode)

    def mknod(self, path: str) -> None:
        os.mknod(self._path(path), modes.S_IFREG | 0o644)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._path(path))

    def link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        paths = self._path(old).encode(), self._path(new).encode()
        _called(libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], flags))

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self._path(path), ns=(mtime_ns, mtime_ns))

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self._path(path), name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._path(path), name)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._path(path), name)

    # --- open files --------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, process: int) -> File:
        descriptor = self._ask(process, f"os.open({self._path(path)!r}, {flags}, 0o644)")
        assert isinstance(descriptor, int)
        file = File(process, descriptor)
        if self._ask(process, f"os.fstat({descriptor}).st_mode & 0o170000") == modes.S_IFDIR:
            self._ask(process, f"os.close({descriptor})")
            raise OSError(errno.EISDIR, "opened as a directory")
        self._files.add(file)
        return file

    def close(self, file: File) -> None:
        self._files.discard(file)
        self._ask(file.process, f"os.close({file.descriptor})")

    def close_duplicate(self, file: File) -> None:
        self._ask(file.process, f"os.close(os.dup({file.descriptor}))")

    def fsync(self, file: File) -> None:
        self._ask(file.process, f"os.fsync({file.descriptor})")

    def read(self, file: File, offset: int, length: int) -> bytes:
        return self._ask(file.process, f"os.pread({file.descriptor}, {length}, {offset})")

    def write(self, file: File, offset: int, data: bytes) -> None:
        written = self._ask(file.process, f"os.pwrite({file.descriptor}, {data!r}, {offset})")
        assert written == len(data)

    def ftruncate(self, file: File, size: int) -> None:
        self._ask(file.process, f"os.ftruncate({file.descriptor}, {size})")

    def allocate(self, file: File, offset: int, length: int, mode: int) -> None:
        assert file.process == 0, "only asked of files of this process"
        _called(libc.fallocate(file.descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))

    def copy(self, source: File, at: int, target: File, offset: int, length: int) -> int:
        assert source.process == target.process == 0, "only asked of files of this process"
        return os.copy_file_range(source.descriptor, target.descriptor, length, at, offset)

    def seek(self, file: File, offset: int, *, data: bool) -> int | None:
        whence = "os.SEEK_DATA" if data else "os.SEEK_HOLE"
        try:
            return self._ask(file.process, f"os.lseek({file.descriptor}, {offset}, {whence})")
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise

    # --- pictures ----------------------------------------------------------------------------------------------

    def picture(self, path: str) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        self._photograph(self._path(path), "", found)
        return found

    def _photograph(self, path: str, at: str, found: dict[str, Seen]) -> None:
        status = os.lstat(path)
        kind = KINDS[modes.S_IFMT(status.st_mode)]
        data = b""
        if kind == FILE:
            with open(path, "rb") as file:
                data = file.read()
        elif kind == LINK:
            data = os.readlink(path).encode()
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        look = Look(
            kind,
            status.st_mode & 0o7777,
            status.st_nlink,
            data,
            tuple(sorted(xattrs)),
            status.st_mtime_ns,
        )
        found[at] = Seen(status.st_ino, look, status.st_size)
        if kind == DIRECTORY:
            for name in os.listdir(path):
                self._photograph(f"{path}/{name}", f"{at}/{name}" if at else name, found)

    def ls(self, path: str) -> list[str]:
        return os.listdir(self._path(path))

    def cat(self, path: str) -> bytes:
        with open(self._path(path), "rb") as file:
            return file.read()

    def cat_absolute(self, path: str) -> bytes:
        """A file by its path from the root of the mount."""
        return (self.mount.path / path).read_bytes()

    # --- time, and ends ----------------------------------------------------------------------------------------

    def commit_times(self) -> list[int]:
        return []

    def pauses(self) -> list[Callable[[], None]]:
        return [partial(time.sleep, 0.05)] * 100

    def now(self) -> int:
        text = os.getxattr(self.root, "user.cascade.stable_time").decode().removesuffix("Z")
        whole, _, fraction = text.partition(".")
        seconds = datetime.strptime(whole, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
        return int(seconds) * 10**6 + int(fraction.ljust(6, "0"))

    def clock_us(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000

    def restart(self) -> None:
        """SIGTERM while files are open: every draft becomes a version."""
        os.kill(self.mount.pid, signal.SIGTERM)
        assert is_over(self.mount.pid, END_SECONDS)
        self._again()

    def kill(self) -> None:
        self.mount.kill()
        self._again()

    def _again(self) -> None:
        self._drop_files()
        self.mount.mount()

    def map_and_write(
        self, file: File, start: int, writes: list[tuple[int, bytes]], *, sync: bool
    ) -> None:
        """Store bytes through a shared mapping from `start` (a page) on; `sync`: msync(2) before it goes."""
        size = os.fstat(file.descriptor).st_size
        with mmap.mmap(file.descriptor, size - start, offset=start) as mapped:
            for offset, data in writes:
                mapped[offset - start : offset - start + len(data)] = data
            if sync:
                mapped.flush()
