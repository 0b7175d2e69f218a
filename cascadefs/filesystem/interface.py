"""What the doors and the file system say to each other: plain values, no FUSE types.

Times are nanoseconds since the epoch, sizes bytes, timeouts seconds, names bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.attributes import REGULAR, TYPE_MASK, Attributes

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = [
    "FOREVER_S",
    "Caller",
    "Changes",
    "FilesystemOptions",
    "Opened",
    "Stat",
    "Usage",
    "may",
]

FOREVER_S = 10 * 365 * 86_400.0
"""Kernel cache timeout of what never changes, or is invalidated when it does."""

READ, WRITE, SEARCH = 4, 2, 1


def _no_groups() -> frozenset[int]:
    return frozenset()


@dataclass(slots=True)
class Caller:
    """Who asks. `groups` is asked for only where it matters: reading it costs a system call."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0
    groups: Callable[[], frozenset[int]] = _no_groups


@dataclass(slots=True)
class Changes:
    """What setattr asks for; None leaves a field as it is.

    `ends_set_id`: whoever asks changes the content, and has no right to leave set-user-id and set-group-id bits.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ends_set_id: bool = False


@dataclass(slots=True)
class Stat:
    """What stat(2) shows of a node, and how long the kernel may believe it. `number` is node id and st_ino."""

    number: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    entry_timeout_s: float = FOREVER_S
    attribute_timeout_s: float = FOREVER_S

    @classmethod
    def of(cls, number: int, attributes: Attributes) -> Stat:
        """The stat of stored attributes."""
        return cls(
            number,
            attributes.mode,
            attributes.nlink,
            attributes.uid,
            attributes.gid,
            attributes.rdev,
            attributes.size,
            attributes.stored + 511 >> 9,
            attributes.atime_ns,
            attributes.mtime_ns,
            attributes.ctime_ns,
        )


@dataclass(slots=True)
class Opened:
    """An open file for the door: the handle to name it by, and how the kernel shall cache it."""

    handle: int
    keep_cache: bool = True
    direct_io: bool = False


@dataclass(slots=True)
class Usage:
    """What statfs(2) shows; `block_bytes` is the unit of the block counts."""

    block_bytes: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    name_bytes_max: int


@dataclass(frozen=True, slots=True)
class FilesystemOptions:
    """How a mount behaves. `autocommit_s`: a draft of a file that stays open becomes a version after so long."""

    read_only: bool = False
    autocommit_s: float = 5.0
    control_name: bytes = b".cascade"


def may(attributes: Attributes, caller: Caller, want: int) -> bool:
    """Whether mode bits allow `caller` what `want` (READ | WRITE | SEARCH) asks (POSIX file access permissions)."""
    mode = attributes.mode
    if caller.uid == 0:
        executable = want & SEARCH == 0 or mode & 0o111 != 0 or mode & TYPE_MASK != REGULAR
        return executable
    if caller.uid == attributes.uid:
        granted = mode >> 6
    elif caller.gid == attributes.gid or attributes.gid in caller.groups():
        granted = mode >> 3
    else:
        granted = mode
    return granted & want == want
