"""What a volatile shard of a cluster forgets by itself, by the records' own timestamps, so on every face alike.

Without a past an inode that has no name, and the tombstone of a name, are of use for a while only: to who has the file open, and for
version numbers to go on. Nobody can say when that is over for all mounts, so time does. An embedded store, which knows who has what open,
does the first itself (`Contents.forget`) and keeps the second.

Rows: ``Y`` due timestamp + ``I`` inode, or ``Y`` due timestamp + ``E`` entry key -> timestamp of its tombstone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.namespace.keys import U64

if TYPE_CHECKING:
    from storage.mvcc import VersionedMap
    from storage.namespace.contents import Contents
    from storage.namespace.rows import Rows

__all__ = ["NAMELESS_US", "REMOVED_US", "UNNAMED_US", "Forgetting"]

NAMELESS_US: Final = 60_000_000
"""How long the file behind a name that ended is kept for who has it open."""

UNNAMED_US: Final = 3600 * 1_000_000
"""Likewise one that was made without a name, and got none."""

REMOVED_US: Final = 3600 * 1_000_000
"""How long a name that ended is remembered: made again later, its versions begin with 1."""

STEP_ROWS_MAX: Final = 256
"""Forgotten with one record at most."""


class Forgetting:
    """See the module. One for each namespace; does nothing unless `is_on`."""

    def __init__(self, rows: Rows, *, is_on: bool) -> None:
        self._table = rows.table
        self._entries: VersionedMap = rows.entries
        self.is_on = is_on

    def nameless(self, inode: int, timestamp: int, after_us: int = NAMELESS_US) -> None:
        """An inode has no name any more, or not yet."""
        if self.is_on:
            self._table.put(b"Y" + U64.pack(timestamp + after_us) + b"I" + U64.pack(inode), b"")

    def removed(self, key: bytes, timestamp: int) -> None:
        """A name, given as its `entry_key`, left a tombstone."""
        if self.is_on:
            due = U64.pack(timestamp + REMOVED_US)
            self._table.put(b"Y" + due + b"E" + key, U64.pack(timestamp))

    def due(self) -> int | None:
        """From which timestamp on there is something to forget; None if there is nothing."""
        if not self.is_on:
            return None
        found = self._table.first(b"Y", b"Z")
        return U64.unpack_from(found[0], 1)[0] if found is not None else None

    def step(self, timestamp: int, contents: Contents) -> None:
        """Forget what is due when a record with this timestamp is applied."""
        for _ in range(STEP_ROWS_MAX):
            found = self._table.first(b"Y", b"Y" + U64.pack(timestamp))
            if found is None:
                return
            row, value = found
            self._table.delete(row)
            if row[9:10] == b"I":
                contents.forget(timestamp, U64.unpack_from(row, 10)[0])
                continue
            dead = self._entries.tombstone(row[10:])
            if dead is not None and dead[0] == U64.unpack(value)[0]:
                self._entries.erase(row[10:])
