"""The bytes of the FUSE protocol: requests and replies (include/uapi/linux/fuse.h, 7.31 to 7.45). Pure.

A request is a 40-byte header and a body; a reply a 16-byte header and a body. Everything is in the machine's byte order.
Only what the kernel sends to a file system like ours is here: one without DAX or block devices.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cascadefs.filesystem import Stat, Usage

__all__ = [
    "NO_REPLY",
    "Header",
    "Opcode",
    "OpenFlag",
    "Reply",
    "pack_attributes",
    "pack_directory_entry",
    "pack_entry",
    "pack_open",
    "pack_statfs",
    "split_time",
]

NANOSECONDS: Final = 1_000_000_000

Header = tuple[int, int, int, int, int, int, int, int, int]
"""length, opcode, unique, node, uid, gid, pid, length of extensions / 8, padding."""

UNIQUE, UID, GID, PID = 2, 4, 5, 6
"""Where they are in a `Header`."""

Reply = bytes | bytearray | memoryview | int | None
"""A body; None for an empty one; a negative errno; or `NO_REPLY`."""

NO_REPLY: Final = 1
"""Nothing is answered now: the kernel expects nothing, or another thread answers later."""


class Opcode(enum.IntEnum):
    """What is asked."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OPCODES_MAX: Final = 64
"""Length of a table by opcode; the kernel knows none as large."""


class OpenFlag(enum.IntFlag):
    """How the kernel shall treat an open file (FOPEN_*)."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class SetattrField(enum.IntFlag):
    """Which fields of a SETATTR count (FATTR_*)."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    HANDLE = 1 << 6
    KILL_SUIDGID = 1 << 11


REQUEST_HEADER: Final = struct.Struct("=IIQQIIIHH")
REPLY_HEADER: Final = struct.Struct("=IiQ")

_ATTRIBUTES = struct.Struct("=QQQqqqIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ENTRY_WITH_ATTRIBUTES = struct.Struct(_ENTRY.format + _ATTRIBUTES.format[1:])
_ATTRIBUTES_REPLY = struct.Struct("=QII")
_OPEN_REPLY = struct.Struct("=QII")
_STATFS = struct.Struct("=QQQQQIIII24x")
_DIRECTORY_ENTRY = struct.Struct("=QQII")
_STATX_REPLY = struct.Struct("=QII16x")
_STATX = struct.Struct("=IIQIIIHHQQQQqIiqIiqIiqIiIIII112x")

assert REQUEST_HEADER.size == 40
assert _ATTRIBUTES.size == 88
assert _STATX_REPLY.size + _STATX.size == 288

TWO_WORDS: Final = struct.Struct("=II")
FOUR_WORDS: Final = struct.Struct("=IIII")
NUMBER: Final = struct.Struct("=Q")
NUMBERS: Final = struct.Struct("=QQ")
SETATTR: Final = struct.Struct("=IIQQQqqqIIIIIIII")
RENAME2: Final = struct.Struct("=QII")
READ: Final = struct.Struct("=QQIIQII")
WRITE: Final = READ
FLUSH: Final = struct.Struct("=QIIQ")
RELEASE: Final = struct.Struct("=QIIQ")

RELEASE_UNLOCK: Final = 1 << 1
"""FUSE_RELEASE_FLOCK_UNLOCK of a RELEASE: the open file may have a lock of flock(2)."""

FSYNC: Final = struct.Struct("=QII")
LSEEK: Final = struct.Struct("=QqII")
FALLOCATE: Final = struct.Struct("=QQQII")
COPY_FILE_RANGE: Final = struct.Struct("=QQQQQQQ")
POLL: Final = struct.Struct("=QQII")
LOCK: Final = struct.Struct("=QQQQIIII")
"""struct fuse_lk_in: handle, owner, start, end, type, process, flags."""
LOCK_REPLY: Final = struct.Struct("=QQII")
"""struct fuse_lk_out: start, end, type, process."""

POLL_SCHEDULE_NOTIFY: Final = 1 << 0
"""Of a POLL: somebody waits, and is to be told when the answer may be another (`notification.poll`)."""

STATX_BASIC: Final = 0x7FF
STATX_BTIME: Final = 0x800

FSYNC_DATA_ONLY: Final = 1

_ZEROS = bytes(8)
_BLOCK_BYTES = 4096
_DIRECTORY_ENTRY_ALIGNMENT = 8
_ENTRY_BYTES = _ENTRY.size + _ATTRIBUTES.size


@functools.lru_cache(maxsize=16)
def split_time(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds of a timeout."""
    whole = int(seconds)
    return whole, int((seconds - whole) * NANOSECONDS)


def pack_attributes(stat: Stat) -> bytes:
    """struct fuse_attr."""
    atime_s, atime_ns = divmod(stat.atime_ns, NANOSECONDS)
    mtime_s, mtime_ns = divmod(stat.mtime_ns, NANOSECONDS)
    ctime_s, ctime_ns = divmod(stat.ctime_ns, NANOSECONDS)
    return _ATTRIBUTES.pack(
        stat.number,
        stat.size,
        stat.blocks,
        atime_s,
        mtime_s,
        ctime_s,
        atime_ns,
        mtime_ns,
        ctime_ns,
        stat.mode,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.rdev & 0xFFFFFFFF,
        _BLOCK_BYTES,
        0,
    )


def pack_entry(stat: Stat) -> bytes:
    """struct fuse_entry_out: a name was found or made."""
    number = stat.number
    entry_s, entry_ns = split_time(stat.entry_timeout_s)
    attributes_s, attributes_ns = split_time(stat.attribute_timeout_s)
    atime_s, atime_ns = divmod(stat.atime_ns, NANOSECONDS)
    mtime_s, mtime_ns = divmod(stat.mtime_ns, NANOSECONDS)
    ctime_s, ctime_ns = divmod(stat.ctime_ns, NANOSECONDS)
    # In one piece, as `pack_attributes` packs the second half: the most frequent answer, and the bulk of a listing.
    return _ENTRY_WITH_ATTRIBUTES.pack(
        number,
        0,
        entry_s,
        attributes_s,
        entry_ns,
        attributes_ns,
        number,
        stat.size,
        stat.blocks,
        atime_s,
        mtime_s,
        ctime_s,
        atime_ns,
        mtime_ns,
        ctime_ns,
        stat.mode,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.rdev & 0xFFFFFFFF,
        _BLOCK_BYTES,
        0,
    )


def pack_absence(timeout_s: float) -> bytes:
    """struct fuse_entry_out saying that there is no such name, which may be remembered for so long."""
    seconds, nanoseconds = split_time(timeout_s)
    return _ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0) + bytes(_ATTRIBUTES.size)


def pack_getattr(stat: Stat) -> bytes:
    """struct fuse_attr_out."""
    seconds, nanoseconds = split_time(stat.attribute_timeout_s)
    return _ATTRIBUTES_REPLY.pack(seconds, nanoseconds, 0) + pack_attributes(stat)


def pack_statx(stat: Stat, birth_ns: int | None) -> bytes:
    """struct fuse_statx_out; `birth_ns` is None where it is not known."""
    seconds, nanoseconds = split_time(stat.attribute_timeout_s)
    rdev = stat.rdev
    return _STATX_REPLY.pack(seconds, nanoseconds, 0) + _STATX.pack(
        STATX_BASIC | (STATX_BTIME if birth_ns is not None else 0),
        _BLOCK_BYTES,
        0,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.mode,
        0,
        stat.number,
        stat.size,
        stat.blocks,
        0,
        *divmod(stat.atime_ns, NANOSECONDS),
        0,
        *divmod(birth_ns or 0, NANOSECONDS),
        0,
        *divmod(stat.ctime_ns, NANOSECONDS),
        0,
        *divmod(stat.mtime_ns, NANOSECONDS),
        0,
        rdev >> 8 & 0xFFF,
        rdev & 0xFF | rdev >> 12 & 0xFFF00,
        0,
        0,
    )


def pack_open(handle: int, flags: int, backing: int = 0) -> bytes:
    """struct fuse_open_out; `flags` are `OpenFlag`s, `backing` the id of a file registered for passthrough."""
    return _OPEN_REPLY.pack(handle, flags, backing)


def pack_written(length: int) -> bytes:
    """struct fuse_write_out; also what getxattr and listxattr answer when asked for a size."""
    return TWO_WORDS.pack(length, 0)


def pack_statfs(usage: Usage) -> bytes:
    """struct fuse_statfs_out."""
    return _STATFS.pack(
        usage.blocks,
        usage.blocks_free,
        usage.blocks_available,
        usage.files,
        usage.files_free,
        usage.block_bytes,
        usage.name_bytes_max,
        usage.block_bytes,
        0,
    )


def directory_entry_bytes(name: bytes) -> int:
    """What an entry takes in a READDIR reply."""
    return _DIRECTORY_ENTRY.size + len(name) + (-len(name) % _DIRECTORY_ENTRY_ALIGNMENT)


def pack_directory_entry(name: bytes, number: int, mode: int, next_offset: int) -> bytes:
    """struct fuse_dirent: one entry of a READDIR reply."""
    padding = _ZEROS[: -len(name) % _DIRECTORY_ENTRY_ALIGNMENT]
    return _DIRECTORY_ENTRY.pack(number, next_offset, len(name), mode >> 12 & 0xF) + name + padding


def directory_entry_plus_bytes(name: bytes) -> int:
    """What an entry takes in a READDIRPLUS reply."""
    return _ENTRY_BYTES + directory_entry_bytes(name)


NO_ENTRY: Final = bytes(_ENTRY_BYTES)
"""In front of an entry in a READDIRPLUS reply that tells nothing but the entry: the kernel takes no reference."""
