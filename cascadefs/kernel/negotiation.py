"""INIT: the kernel says what it can do, we say what of it we want. Pure.

Wanted, and why:

- ATOMIC_O_TRUNC: open(O_TRUNC) is one request, so one write session, not a truncation before it.
- PARALLEL_DIROPS: look-ups in one directory need not wait for each other.
- DO_READDIRPLUS with READDIRPLUS_AUTO: `ls -l` gets attributes with the names, plain `ls` and `find` only names.
- EXPLICIT_INVAL_DATA: pages are dropped when we say so, not whenever mtime moved: all writes come through this kernel,
  and where content changes otherwise (`user.cascade.restore`) it is told.
- CACHE_SYMLINKS: targets never change.
- MAX_PAGES: requests of 1 MiB.
- ABORT_ERROR: read(2) then says ECONNABORTED, so an abort does not look like an unmount.
- HANDLE_KILLPRIV_V2: without it the kernel asks for `security.capability` before every write(2); with it once a file, and
  whoever changes a file ends its set-user-id bits here (`cascadefs.filesystem.privileges`).
- PASSTHROUGH: `backing`. It needs a stacking depth of 1, and no writeback cache.
- POSIX_LOCKS, FLOCK_LOCKS, on a mount of a cluster: `locks`. On others the kernel keeps locks itself, which for one mount is all
  there is to do.

Not wanted, and why:

- WRITEBACK_CACHE: mtime and O_APPEND would be the kernel's, a version would not know of its last writes, and
  passthrough would be refused.
- NO_OPENDIR_SUPPORT, NO_OPEN_SUPPORT: opening is where the past asks for permissions of now (SEMANTICS 4), and where a
  listing's places are kept.
- POSIX_ACL: bits that are stored and not enforced would be the worst answer.
- HANDLE_KILLPRIV: its second version says who may keep the bits; this one does not.
- SETXATTR_EXT: only ACLs need it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_WRITE_BYTES", "Agreement", "InitFlag", "TooOld", "negotiate"]

MAX_WRITE_BYTES: Final = 1024 * 1024
"""The largest WRITE, and READ: 256 pages, the kernel's own limit unless an administrator raised it."""

MAX_BACKGROUND: Final = 64
"""Requests nobody waits for (read-ahead, asynchronous I/O) the kernel may have under way."""

CONGESTION: Final = 48
"""From so many on the kernel takes us for busy; three quarters, as the kernel itself chooses."""

MAJOR: Final = 7
MINOR_MIN: Final = 31
"""Linux 5.4. Below, fields we rely on are missing."""
MINOR_MAX: Final = 45

_INIT = struct.Struct("=IIIII")
_INIT_SHORT = struct.Struct("=IIII")
_INIT_REPLY = struct.Struct("=IIIIHHIIHHIIH22x")
assert _INIT_REPLY.size == 64


class InitFlag(enum.IntFlag):
    """The capabilities this door speaks of."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37


WANTED: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
)


LOCKS: Final = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS


class TooOld(Exception):
    """The kernel's protocol is older than we can speak."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides now go by."""

    minor: int
    flags: InitFlag
    read_ahead_bytes: int

    @property
    def passthrough(self) -> bool:
        """Whether files may be registered for passthrough."""
        return bool(self.flags & InitFlag.PASSTHROUGH)

    def describe(self) -> dict[str, object]:
        """For status."""
        names = [flag.name.lower() for flag in self.flags if flag.name is not None]
        return {"protocol": f"{MAJOR}.{self.minor}", "capabilities": names}


def negotiate(
    body: memoryview | bytes, *, passthrough: bool, locks: bool = False
) -> tuple[Agreement | None, bytes]:
    """Answer an INIT.

    Args:
        body: of the request.
        passthrough: whether we would register files, which takes privilege.
        locks: whether we are to be asked for locks.

    Returns:
        The agreement and the reply's body; None where the kernel is to greet again with our major version.

    Raises:
        TooOld: there is nothing to agree on.
    """
    major, minor, read_ahead_bytes, low = _INIT_SHORT.unpack_from(body)
    if major > MAJOR:
        return None, _reply(MINOR_MAX, read_ahead_bytes, 0)
    if (major, minor) < (MAJOR, MINOR_MIN):
        raise TooOld(f"the kernel speaks FUSE {major}.{minor}, {MAJOR}.{MINOR_MIN} is needed")
    offered = low
    if low & InitFlag.INIT_EXT:
        offered |= _INIT.unpack_from(body)[4] << 32
    wanted = WANTED | (InitFlag.PASSTHROUGH if passthrough else 0)
    wanted |= LOCKS if locks else 0
    agreed = InitFlag(offered & wanted)
    minor = min(minor, MINOR_MAX)
    return Agreement(minor, agreed, read_ahead_bytes), _reply(minor, read_ahead_bytes, int(agreed))


def _reply(minor: int, read_ahead_bytes: int, flags: int) -> bytes:
    return _INIT_REPLY.pack(
        MAJOR,
        minor,
        read_ahead_bytes,
        flags & 0xFFFFFFFF,
        MAX_BACKGROUND,
        CONGESTION,
        MAX_WRITE_BYTES,
        1,  # nanoseconds: how fine our times are
        MAX_WRITE_BYTES // 4096,
        0,
        flags >> 32,
        1 if flags & InitFlag.PASSTHROUGH else 0,
        0,
    )
