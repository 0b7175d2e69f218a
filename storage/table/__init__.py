"""Ordered key-value tables: bytes to bytes, in one key space, published in atomic commits.

A table is where derived state lives (DESIGN 4, "index"): what a shard would otherwise rebuild from
its log. It has no columns and no second key space; rooms above divide the one key space by leading
bytes. `MemoryTable` serves volatile pools, simulation and tests; `LmdbTable` serves persistent
pools, and other processes of the node read it while the daemon writes. Both pass one contract suite
(``tests/storage/table``).

A table belongs to one thread at a time, which may be another for every call: whoever holds the shard. `Table` says what callers
may rely on; what only one implementation promises stands in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from storage.table.lmdb import LmdbTable
from storage.table.memory import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LmdbTable", "MemoryTable", "Table"]


class Table(Protocol):
    """One ordered key space, keys compared as unsigned bytes.

    Keys are 1 to `limits.KEY_BYTES_MAX` bytes; values are any bytes, empty ones included. Ranges
    are half open: ``start <= key < stop``. What is returned is immutable and stays valid after
    later writes. A write is visible to reads of the same object at once, and to nobody else before
    `commit`.

    Every method may raise OSError (the disk) or `Corruption` (the bytes on it). After either one
    from a `put`, `delete`, `keep`, `undo` or `commit`, or from any method while changes are noted, call
    `abandon` before anything else: the table is then as the last successful commit left it, and notes
    nothing.
    """

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of ``key``, whether or not it had one."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove ``key``; one that is absent stays so."""
        ...

    def first(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """The row with the smallest key in the range."""
        ...

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """The row with the greatest key in the range."""
        ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the range, ascending.

        Must not be held across a `put`, `delete`, `commit` or `abandon`: what it would yield then
        is undefined. Other reads in between are fine.
        """
        ...

    def row_count(self) -> int:
        """How many rows there are, by the table's own books: a walk that finds another number met damage."""
        ...

    def note(self) -> None:
        """Note from here on what rows were before they change, until `keep` or `undo`."""
        ...

    def keep(self) -> None:
        """Note no more; what changed stays."""
        ...

    def undo(self) -> None:
        """Make every row what it was at `note`, and note no more."""
        ...

    def commit(self) -> None:
        """Publish everything since the last commit, as one: other processes see all of it, and kill
        -9 spares it."""
        ...

    def sync(self) -> None:
        """Commit, and bring all that was ever committed to the disk: then a power cut spares it
        too."""
        ...

    def abandon(self) -> None:
        """Forget everything since the last commit."""
        ...

    def close(self) -> None:
        """Forget everything since the last commit and let go of the table; again is harmless."""
        ...
