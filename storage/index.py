"""Where a store keeps its table, and from when on what lies there can be trusted (FORMAT, "Index").

The table is not synced while it is used: a kill leaves it whole, because the kernel has its pages, and a power cut
leaves anything. The two look alike afterwards, except that the machine has another boot id. So the boot in which the
table was opened is noted before its first change, in a file of its own: what a power cut made of the table must not be
asked about itself (LMDB, opened on pages that are lost or old, ends the process).

Sources: LMDB's lmdb.h on MDB_NOSYNC; proc(5), random/boot_id.
"""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING, Final, Protocol

from storage.table import LmdbTable

if TYPE_CHECKING:
    from pathlib import Path

    from storage.disk import Disk, File
    from storage.table import Table

__all__ = ["CLEAN", "Index", "LmdbIndex", "read_mark", "why_not", "write_mark"]

CLEAN: Final = b"clean"
"""The mark of a table that was synced and closed."""

_DIRECTORY: Final = "index"
_MARK: Final = f"{_DIRECTORY}/boot"
_MARK_BYTES_MAX: Final = 128


class Index(Protocol):
    """The place of one store's table."""

    def open(self) -> Table:
        """The table, made if there is none. `Corruption` if it is not sound, as far as opening can tell."""
        ...

    def renew(self) -> Table:
        """An empty table in the place of whatever is there; the old one is closed, or was never opened."""
        ...

    def view(self) -> Table:
        """The table for reading, nothing written; `OSError` or `Corruption` if there is none to read."""
        ...


class LmdbIndex:
    """`Index` below a data directory of the system."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _DIRECTORY

    def open(self) -> LmdbTable:
        """See `Index.open`."""
        self._path.mkdir(exist_ok=True)
        return LmdbTable(self._path / "index.lmdb")

    def renew(self) -> LmdbTable:
        """See `Index.renew`."""
        if self._path.exists():
            shutil.rmtree(self._path)
        return self.open()

    def view(self) -> LmdbTable:
        """See `Index.view`."""
        return LmdbTable(self._path / "index.lmdb", read_only=True)


def read_mark(disk: Disk) -> bytes | None:
    """`CLEAN`, or the boot in which the table was opened; None if nothing says so."""
    try:
        file = disk.open(_MARK, write=False)
    except FileNotFoundError:
        return None
    mark = file.pread(_MARK_BYTES_MAX, 0)
    file.close()
    return mark or None


def write_mark(disk: Disk, mark: bytes) -> None:
    """Note it, on the disk when this returns; whole, or not at all, or as something that trusts no table.

    Where the disk is full the old mark is overwritten, which takes no room: a full store must open, or nothing could be
    removed from it.

    Raises:
        OSError: the mark is what it was, or this one, or neither.
    """
    assert 0 < len(mark) <= _MARK_BYTES_MAX
    try:
        _replace_mark(disk, mark)
    except OSError as error:
        if error.errno != errno.ENOSPC or read_mark(disk) is None:
            raise
        file = disk.open(_MARK)
        _write_whole(file, mark)
        file.truncate(len(mark))
        file.fdatasync()
        file.close()


def _replace_mark(disk: Disk, mark: bytes) -> None:
    disk.make_directory(_DIRECTORY)
    file = disk.open(_MARK + ".new", create=True)
    file.truncate(0)
    _write_whole(file, mark)
    file.fdatasync()
    file.close()
    disk.rename(_MARK + ".new", _MARK)
    disk.sync_directory(_DIRECTORY)


def _write_whole(file: File, mark: bytes) -> None:
    if file.pwritev([mark], 0) != len(mark):
        raise OSError(errno.ENOSPC, "the boot mark of the index was not written whole")


def why_not(mark: bytes, boot_id: str) -> str | None:
    """Why a table with that mark cannot be trusted; None if it can."""
    if mark in (CLEAN, boot_id.encode()):
        return None
    return "the machine went down without a clean stop"
