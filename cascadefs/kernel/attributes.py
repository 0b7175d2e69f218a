"""Requests about attributes: what stat(2) shows, extended ones, and totals."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cascadefs.filesystem import Changes
from cascadefs.kernel.handler import Handlers, Kind, caller_of
from cascadefs.kernel.protocol import (
    NANOSECONDS,
    SETATTR,
    TWO_WORDS,
    Header,
    Opcode,
    Reply,
    SetattrField,
    pack_getattr,
    pack_statfs,
    pack_statx,
    pack_written,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem import Filesystem

__all__ = ["Attributes"]

_MODE, _UID, _GID, _SIZE = (
    int(SetattrField.MODE),
    int(SetattrField.UID),
    int(SetattrField.GID),
    int(SetattrField.SIZE),
)
_ATIME, _MTIME, _HANDLE, _KILL_SUIDGID = (
    int(SetattrField.ATIME),
    int(SetattrField.MTIME),
    int(SetattrField.HANDLE),
    int(SetattrField.KILL_SUIDGID),
)


class Attributes:
    """See the module. `wrote` is told of a handle that changed a size, and by which process."""

    def __init__(self, filesystem: Filesystem, wrote: Callable[[int, Header], None]) -> None:
        self._filesystem = filesystem
        self._wrote = wrote

    def handlers(self) -> Handlers:
        """By opcode."""
        return {
            Opcode.GETATTR: (self.getattr, Kind.ASKS),
            Opcode.STATX: (self.statx, Kind.ASKS),
            Opcode.SETATTR: (self.setattr, Kind.CHANGES),
            Opcode.GETXATTR: (self.getxattr, Kind.ASKS),
            Opcode.LISTXATTR: (self.listxattr, Kind.ASKS),
            Opcode.SETXATTR: (self.setxattr, Kind.REVEALS),
            Opcode.REMOVEXATTR: (self.removexattr, Kind.CHANGES),
            Opcode.STATFS: (self.statfs, Kind.ASKS),
        }

    def getattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.getattr`."""
        return pack_getattr(self._filesystem.getattr(node))

    def statx(self, node: int, body: memoryview, header: Header) -> Reply:
        """The same with the time of birth, where it is known."""
        stat = self._filesystem.getattr(node)
        return pack_statx(stat, self._filesystem.birth_ns(node))

    def setattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.setattr`."""
        (
            valid,
            _,
            handle,
            size,
            _,
            atime_s,
            mtime_s,
            _,
            atime_ns,
            mtime_ns,
            _,
            mode,
            _,
            uid,
            gid,
            _,
        ) = SETATTR.unpack_from(body)
        changes = Changes(
            mode=mode & 0o7777 if valid & _MODE else None,
            uid=uid if valid & _UID else None,
            gid=gid if valid & _GID else None,
            size=size if valid & _SIZE else None,
            atime_ns=atime_s * NANOSECONDS + atime_ns if valid & _ATIME else None,
            mtime_ns=mtime_s * NANOSECONDS + mtime_ns if valid & _MTIME else None,
            ends_set_id=bool(valid & _KILL_SUIDGID),
        )
        through = handle if valid & _HANDLE else None
        stat = self._filesystem.setattr(node, changes, through, caller_of(header))
        if through is not None and valid & _SIZE:
            self._wrote(through, header)
        return pack_getattr(stat)

    def getxattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.getxattr`."""
        room_bytes, _ = TWO_WORDS.unpack_from(body)
        name = bytes(body[TWO_WORDS.size : -1])
        return _fitting(self._filesystem.getxattr(node, name, caller_of(header)), room_bytes)

    def listxattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.listxattr`."""
        room_bytes, _ = TWO_WORDS.unpack_from(body)
        names = self._filesystem.listxattr(node, caller_of(header))
        return _fitting(b"".join(name + b"\0" for name in names), room_bytes)

    def setxattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.setxattr`."""
        size, flags = TWO_WORDS.unpack_from(body)
        name, _, value = bytes(body[TWO_WORDS.size :]).partition(b"\0")
        self._filesystem.setxattr(node, name, value[:size], flags, caller_of(header))
        return None

    def removexattr(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.removexattr`."""
        self._filesystem.removexattr(node, bytes(body[:-1]), caller_of(header))
        return None

    def statfs(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.statfs`."""
        return pack_statfs(self._filesystem.statfs())


def _fitting(value: bytes, room_bytes: int) -> Reply:
    """A value for a caller with room for so many bytes; its length for one with none (getxattr(2))."""
    if not room_bytes:
        return pack_written(len(value))
    return value if len(value) <= room_bytes else -errno.ERANGE
