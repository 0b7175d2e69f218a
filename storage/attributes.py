"""An inode's attributes at one moment, and their row in the index (FORMAT, "Attribute rows")."""

from __future__ import annotations

import struct

import msgspec

__all__ = ["DIRECTORY", "REGULAR", "SYMLINK", "TYPE_MASK", "Attributes", "is_directory"]

_ROW = struct.Struct("<IIIIQQqqqQQIIQ")

TYPE_MASK = 0o170000
DIRECTORY = 0o040000
REGULAR = 0o100000
SYMLINK = 0o120000


class Attributes(msgspec.Struct, array_like=True, gc=False):
    """What stat(2) shows, and where the content is.

    `content` counts content commits (0: created, nothing committed yet); `content_timestamp` is that of the last
    one; `generation` tells apart the chunk rows before and after a truncation to nothing; `stored` is the bytes the
    content covers without holes; `parent` is the directory of the newest binding (for a directory: its only one).
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    stored: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    content: int
    content_timestamp: int
    generation: int
    rdev: int
    parent: int

    @property
    def never_had_a_name(self) -> bool:
        """Whether this is a file that was made without a name (O_TMPFILE) and got none yet: the root aside, only
        what has or had a name has a parent."""
        return self.nlink == 0 and self.parent == 0

    def pack(self) -> bytes:
        """The row."""
        return _ROW.pack(
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.size,
            self.stored,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self.content,
            self.content_timestamp,
            self.generation,
            self.rdev,
            self.parent,
        )

    @classmethod
    def unpack(cls, row: bytes) -> Attributes:
        """The attributes of a row, a fresh object the caller may change."""
        return cls(*_ROW.unpack(row))


def is_directory(mode: int) -> bool:
    """Whether the type bits of a mode say directory."""
    return mode & TYPE_MASK == DIRECTORY
