"""Requests about names: finding, making, removing and moving them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cascadefs.kernel.handler import Handlers, Kind, caller_of
from cascadefs.kernel.protocol import (
    FOUR_WORDS,
    NUMBER,
    NUMBERS,
    RENAME2,
    TWO_WORDS,
    Header,
    Opcode,
    Reply,
    pack_absence,
    pack_entry,
)
from storage.errors import Reason, Refused

if TYPE_CHECKING:
    from cascadefs.filesystem import Filesystem

__all__ = ["Names"]


class Names:
    """See the module."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem

    def handlers(self) -> Handlers:
        """By opcode."""
        return {
            Opcode.LOOKUP: (self.lookup, Kind.ASKS),
            Opcode.FORGET: (self.forget, Kind.TELLS),
            Opcode.BATCH_FORGET: (self.batch_forget, Kind.TELLS),
            Opcode.READLINK: (self.readlink, Kind.ASKS),
            Opcode.MKNOD: (self.mknod, Kind.CHANGES),
            Opcode.MKDIR: (self.mkdir, Kind.CHANGES),
            Opcode.SYMLINK: (self.symlink, Kind.CHANGES),
            Opcode.LINK: (self.link, Kind.CHANGES),
            Opcode.UNLINK: (self.unlink, Kind.CHANGES),
            Opcode.RMDIR: (self.rmdir, Kind.CHANGES),
            Opcode.RENAME: (self.rename, Kind.CHANGES),
            Opcode.RENAME2: (self.rename2, Kind.CHANGES),
        }

    def lookup(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.lookup`; absence is told to the kernel as something to remember, where it may be."""
        name = bytes(body[:-1])
        try:
            return pack_entry(self._filesystem.lookup(node, name, caller_of(header)))
        except Refused as refusal:
            if refusal.reason is not Reason.ABSENT:
                raise
        timeout_s = self._filesystem.negative_timeout_s(name)
        return pack_absence(timeout_s) if timeout_s else -errno.ENOENT

    def forget(self, node: int, body: memoryview, header: Header) -> Reply:
        """The kernel gives back references to a node."""
        self._filesystem.forget(node, NUMBER.unpack_from(body)[0])
        return None

    def batch_forget(self, node: int, body: memoryview, header: Header) -> Reply:
        """The same of several nodes."""
        count, _ = TWO_WORDS.unpack_from(body)
        pairs = body[TWO_WORDS.size : TWO_WORDS.size + count * NUMBERS.size]
        for forgotten, lookups in NUMBERS.iter_unpack(pairs):
            self._filesystem.forget(forgotten, lookups)
        return None

    def readlink(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.readlink`."""
        return self._filesystem.readlink(node)

    def mknod(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.mknod`."""
        mode, rdev, umask, _ = FOUR_WORDS.unpack_from(body)
        name = bytes(body[FOUR_WORDS.size : -1])
        return pack_entry(self._filesystem.mknod(node, name, mode, rdev, caller_of(header, umask)))

    def mkdir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.mkdir`."""
        mode, umask = TWO_WORDS.unpack_from(body)
        name = bytes(body[TWO_WORDS.size : -1])
        return pack_entry(self._filesystem.mkdir(node, name, mode, caller_of(header, umask)))

    def symlink(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.symlink`."""
        name, target, _ = bytes(body).split(b"\0", 2)
        return pack_entry(self._filesystem.symlink(node, name, target, caller_of(header)))

    def link(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.link`."""
        (number,) = NUMBER.unpack_from(body)
        name = bytes(body[NUMBER.size : -1])
        return pack_entry(self._filesystem.link(number, node, name, caller_of(header)))

    def unlink(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.unlink`."""
        self._filesystem.unlink(node, bytes(body[:-1]), caller_of(header))
        return None

    def rmdir(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.rmdir`."""
        self._filesystem.rmdir(node, bytes(body[:-1]), caller_of(header))
        return None

    def rename(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.rename`."""
        (new_parent,) = NUMBER.unpack_from(body)
        return self._rename(node, new_parent, 0, body[NUMBER.size :], header)

    def rename2(self, node: int, body: memoryview, header: Header) -> Reply:
        """The same with flags (RENAME_NOREPLACE, RENAME_EXCHANGE)."""
        new_parent, flags, _ = RENAME2.unpack_from(body)
        return self._rename(node, new_parent, flags, body[RENAME2.size :], header)

    def _rename(
        self, node: int, new_parent: int, flags: int, names: memoryview, header: Header
    ) -> Reply:
        name, new_name, _ = bytes(names).split(b"\0", 2)
        self._filesystem.rename(node, name, new_parent, new_name, flags, caller_of(header))
        return None
