"""What a name means: bindings, tombstones, and how version numbers follow from them (DESIGN 4, SEMANTICS 1).

An *entry* is one (directory, name) with its history. A *binding* says: from version `first` on the name means
`inode`, whose content commit `base` is that version; so while bound, content commit c is version first + (c - base).
A *tombstone* takes one number. Numbers are dense and never used again, also across delete and create.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["CREATED", "LINKED", "MOVED", "REMOVED", "Binding", "Tombstone"]

_BINDING = struct.Struct("<QQQIBQ")
_TOMBSTONE = struct.Struct("<QBQ")

CREATED, LINKED, MOVED, REMOVED = 1, 2, 3, 4
"""Why a binding or tombstone came to be."""


class Binding(NamedTuple):
    """A name means an inode. `mode` holds the type bits (for readdir); origin is where a rename took it from."""

    inode: int
    first: int
    base: int
    mode: int
    cause: int
    origin_directory: int = 0
    origin_name: bytes = b""

    def pack(self) -> bytes:
        """The row."""
        return (
            _BINDING.pack(
                self.inode, self.first, self.base, self.mode, self.cause, self.origin_directory
            )
            + self.origin_name
        )

    @classmethod
    def unpack(cls, row: bytes) -> Binding:
        """The binding of a row."""
        inode, first, base, mode, cause, origin = _BINDING.unpack_from(row)
        return cls(inode, first, base, mode, cause, origin, row[_BINDING.size :])

    def version_of(self, content: int) -> int:
        """The version number a content commit has under this name; first - 1 while nothing was committed."""
        return self.first + content - self.base


class Tombstone(NamedTuple):
    """A name stopped meaning anything; `moved_*` says where a rename took it (directory 0: it was removed)."""

    number: int
    cause: int
    moved_directory: int = 0
    moved_name: bytes = b""

    def pack(self) -> bytes:
        """The row."""
        return _TOMBSTONE.pack(self.number, self.cause, self.moved_directory) + self.moved_name

    @classmethod
    def unpack(cls, row: bytes) -> Tombstone:
        """The tombstone of a row."""
        number, cause, directory = _TOMBSTONE.unpack_from(row)
        return cls(number, cause, directory, row[_TOMBSTONE.size :])
