"""What a case saw, under keys that say what was done: plain values that two file systems can be compared by.

A value never holds what may rightly differ between two trees: no inode number, device, absolute time or size of a directory.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

COARSE = 5
"""CLOCK_REALTIME_COARSE: what a kernel without finer stamps puts on a file."""

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Observation:
    """The record of one case on one tree. Keys are unique."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}

    def __call__(self, key: str, value: object) -> None:
        assert key not in self.seen, f"seen twice: {key}"
        self.seen[key] = value

    def call(self, key: str, function: Callable, *arguments: object, **named: object) -> str:
        """Make a call and note its outcome."""
        result = outcome(function, *arguments, **named)
        self(key, result)
        return result

    def looks(self, key: str, path: str | int) -> None:
        """Note what stat(2) shows."""
        self(key, shape(path))


def outcome(function: Callable, *arguments: object, **named: object) -> str:
    """What a call returned, or the name of its errno."""
    try:
        result = function(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "ok" if result is None else str(result)


def shape(path: str | int) -> str:
    """Type, mode, owner, links and size of a file, not followed; links and size not of directories."""
    try:
        status = os.lstat(path) if isinstance(path, str) else os.fstat(path)
    except OSError as error:
        return errno.errorcode[error.errno]
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    words = [kind, f"{stat.S_IMODE(status.st_mode):04o}", f"{status.st_uid}:{status.st_gid}"]
    words.append(f"nlink={status.st_nlink}")
    if kind != "directory":
        words.append(f"size={status.st_size}")
    if kind in ("char", "block"):
        words.append(f"rdev={os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    return " ".join(words)


def perm(path: str) -> str:
    """The mode bits."""
    return f"{stat.S_IMODE(os.lstat(path).st_mode):04o}"


def links(path: str) -> int:
    """The link count."""
    return os.lstat(path).st_nlink


def tick() -> None:
    """Let the clock that stamps files move on."""
    start = time.clock_gettime_ns(COARSE)
    while time.clock_gettime_ns(COARSE) == start:
        time.sleep(0.0005)


def moved(
    action: Callable[[], object], *paths: str | int, names: tuple[str, ...] = ("mtime", "ctime")
) -> dict[str, str]:
    """Which times of each path an action moves; with its outcome, under "result"."""
    before = [_times(path) for path in paths]
    tick()
    seen = {"result": outcome(action)}
    for path, old in zip(paths, before, strict=True):
        new = _times(path)
        if old is None or new is None:
            seen[str(path)] = "gone" if new is None else "new"
        else:
            moves = [name for name in names if new[name] != old[name]]
            seen[str(path)] = " ".join(
                name if new[name] > old[name] else f"{name} BACK" for name in moves
            )
    return seen


def _times(path: str | int) -> dict[str, int] | None:
    try:
        status = os.lstat(path) if isinstance(path, str) else os.fstat(path)
    except FileNotFoundError:
        return None
    return {name: getattr(status, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")}


def opened(path: str, flags: int, mode: int = 0o666) -> None:
    """open(2) and close(2)."""
    os.close(os.open(path, flags, mode))


def make(kind: str, path: str) -> None:
    """Make something of a kind, if it is one that can be made."""
    if kind == "file":
        opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "full":
        os.mkdir(path)
        os.mkdir(f"{path}/inside")
    elif kind == "symlink":
        os.symlink("nowhere", path)
    elif kind == "fifo":
        os.mkfifo(path, 0o644)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o644)
    elif kind == "char":
        os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3))
    elif kind == "block":
        os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(7, 200))
    else:
        assert kind == "absent", kind


def write(path: str, data: bytes = b"content") -> None:
    """Make or replace a file."""
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def read(path: str) -> bytes:
    """The content of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
