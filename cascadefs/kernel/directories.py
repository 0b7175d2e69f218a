"""Requests about open directories.

Listings of live directories are kept by the kernel (FOPEN_CACHE_DIR): it drops them itself when a name in them comes or
goes through it, and nothing else changes them on a single mount: history is never listed. Made-up directories and those
of the past are asked for each time; the latter never change, but who may read them may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.kernel.handler import Handlers, Kind, Later, caller_of
from cascadefs.kernel.protocol import (
    FSYNC,
    NO_ENTRY,
    NO_REPLY,
    NUMBER,
    READ,
    UNIQUE,
    Header,
    Opcode,
    OpenFlag,
    Reply,
    directory_entry_bytes,
    directory_entry_plus_bytes,
    pack_directory_entry,
    pack_entry,
    pack_open,
)
from storage.limits import RECORD_INODE_MAX

if TYPE_CHECKING:
    from cascadefs.filesystem import Filesystem

__all__ = ["Directories"]

_CACHED = int(OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE)
_DOTS = frozenset({b".", b".."})


class Directories:
    """See the module."""

    def __init__(self, filesystem: Filesystem, later: Later) -> None:
        self._filesystem = filesystem
        self._later = later

    def handlers(self) -> Handlers:
        """By opcode."""
        return {
            Opcode.OPENDIR: (self.opendir, Kind.ASKS),
            Opcode.READDIR: (self.readdir, Kind.ASKS),
            Opcode.READDIRPLUS: (self.readdirplus, Kind.ASKS),
            Opcode.RELEASEDIR: (self.releasedir, Kind.ASKS),
            Opcode.FSYNCDIR: (self.fsyncdir, Kind.ASKS),
        }

    def opendir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.opendir`."""
        handle = self._filesystem.opendir(node, caller_of(header))
        return pack_open(handle, _CACHED if node < RECORD_INODE_MAX else 0)

    def readdir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.readdir`; names only, so the kernel takes no references."""
        handle, offset, room_bytes, *_ = READ.unpack_from(body)
        parts = []
        for name, stat, next_offset in self._filesystem.readdir(handle, offset):
            room_bytes -= directory_entry_bytes(name)
            if room_bytes < 0:
                break
            parts.append(pack_directory_entry(name, stat.number, stat.mode, next_offset))
        return b"".join(parts)

    def readdirplus(self, node: int, body: memoryview, header: Header) -> Reply:
        """The same with attributes: each entry but the dots is one look-up of its node."""
        handle, offset, room_bytes, *_ = READ.unpack_from(body)
        filesystem = self._filesystem
        parts: list[bytes] = []
        remembered: list[int] = []
        try:
            for name, stat, next_offset in filesystem.readdir(handle, offset):
                room_bytes -= directory_entry_plus_bytes(name)
                if room_bytes < 0:
                    break
                if name in _DOTS:
                    parts.append(NO_ENTRY)
                else:
                    filesystem.remember(stat.number)
                    remembered.append(stat.number)
                    parts.append(pack_entry(stat))
                parts.append(pack_directory_entry(name, stat.number, stat.mode, next_offset))
        except BaseException:
            # Nothing of this reply is sent, so the kernel will not forget these.
            for number in remembered:
                filesystem.forget(number, 1)
            raise
        return b"".join(parts)

    def releasedir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.releasedir`."""
        self._filesystem.releasedir(NUMBER.unpack_from(body)[0])
        return None

    def fsyncdir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.fsync_directory`: names are recorded when they are made, so only the disk is waited for."""
        FSYNC.unpack_from(body)
        self._later(header[UNIQUE], None)
        return NO_REPLY
