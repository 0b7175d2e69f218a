"""What a replica keeps beside its log: a promise about stamps, and whether its log may be trusted to be whole.

A file of two slots, written in turns, so that one is whole whatever happens; the whole one with the higher count
holds. 64 bytes each (FORMAT, "Cluster"), little endian:

    magic 8, count u64, bound_us u64, in_sync u8, zero 7, boot id 16, zero 8, XXH3 u64 of the 56 before

The boot id is the machine's boot in which it was written: a log whose records are committed once they are in memory
may have lost some when the machine has booted since.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, Protocol

from storage.codec import checksum
from storage.replication import Note

if TYPE_CHECKING:
    from storage.disk import Disk, File

__all__ = ["MemoryNote", "NoteFile", "Notes"]

_NAME: Final = "note"
_MAGIC: Final = b"cascnote"
_SLOT = struct.Struct("<8sQQB7x16s8x")
_SLOT_BYTES: Final = _SLOT.size + 8
_OFFSETS: Final = (0, 512)
assert _SLOT_BYTES == 64


class Notes(Protocol):
    """Where a note is kept."""

    found: Note | None
    is_of_this_boot: bool

    def keep(self, note: Note, *, durable: bool) -> None:
        """See `NoteFile`."""
        ...

    def close(self) -> None:
        """See `NoteFile`."""
        ...


class MemoryNote:
    """The note of a replica whose log is in memory, too: it lives as long."""

    def __init__(self) -> None:
        self.found: Note | None = None
        self.is_of_this_boot = True

    def keep(self, note: Note, *, durable: bool) -> None:
        """See `NoteFile`."""
        del durable
        self.found = note

    def close(self) -> None:
        """Nothing to give back."""


class NoteFile:
    """The note of one replica, on its disk."""

    def __init__(self, disk: Disk, boot_id: bytes) -> None:
        """Open it, or find that there is none.

        Args:
            disk: of the shard.
            boot_id: of the machine, 16 bytes.
        """
        assert len(boot_id) == 16
        self._disk = disk
        self._boot_id = boot_id
        self._file: File | None = None
        self._count = 0
        self.found: Note | None = None
        """What was kept last; None if nothing whole is there."""
        self.is_of_this_boot = False
        """Whether it was kept since the machine booted."""
        try:
            self._file = disk.open(_NAME)
        except FileNotFoundError:
            return
        for offset in _OFFSETS:
            self._read(self._file.pread(_SLOT_BYTES, offset))

    def _read(self, slot: bytes) -> None:
        if len(slot) != _SLOT_BYTES or checksum(slot[:-8]) != int.from_bytes(slot[-8:], "little"):
            return
        magic, count, bound_us, in_sync, boot_id = _SLOT.unpack(slot[:-8])
        if magic == _MAGIC and count > self._count:
            self._count = count
            self.found = Note(bound_us, bool(in_sync))
            self.is_of_this_boot = boot_id == self._boot_id

    def keep(self, note: Note, *, durable: bool) -> None:
        """Write it; with `durable`, on the disk when this returns. Blocks.

        Raises:
            OSError: the disk refused; the one before still holds.
        """
        if self._file is None:
            self._file = self._disk.open(_NAME, create=True)
            self._file.preallocate(_OFFSETS[-1] + _SLOT_BYTES)
            if durable:
                self._disk.sync_directory(".")
        slot = _SLOT.pack(_MAGIC, self._count + 1, note.bound_us, note.in_sync, self._boot_id)
        slot += checksum(slot).to_bytes(8, "little")
        if self._file.pwritev([slot], _OFFSETS[(self._count + 1) % 2]) != _SLOT_BYTES:
            raise OSError(errno.ENOSPC, "no space for the note of a replica")
        if durable:
            self._file.fdatasync()
        self._count += 1
        self.found, self.is_of_this_boot = note, True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file is not None:
            self._file.close()
