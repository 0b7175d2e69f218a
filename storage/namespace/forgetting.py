"""What a volatile shard of a cluster forgets by itself, by the records' own timestamps, so on every face alike.

Without a past an inode that has no name, and the tombstone of a name, are of use for a while only: to who has the file open, and for
version numbers to go on. Nobody can say when that is over for all mounts, so time does. An embedded store, which knows who has what open,
does the first itself (`Contents.forget`) and keeps the second.

What is kept for who has it open counts as much memory as what lives, so there is a most of that.

Rows, in three queues by when they are due: ``YI`` timestamp + inode -> bytes, of a name that ended; ``YU`` timestamp + inode, made without
one; ``YE`` timestamp + entry key -> timestamp of its tombstone. ``YB`` -> the bytes of all in the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.namespace.keys import U64

if TYPE_CHECKING:
    from storage.mvcc import VersionedMap
    from storage.namespace.contents import Contents
    from storage.namespace.rows import Rows

__all__ = ["NAMELESS_BYTES_MAX", "NAMELESS_US", "REMOVED_US", "UNNAMED_US", "Forgetting"]

NAMELESS_US: Final = 60_000_000
"""How long the file behind a name that ended is kept for who has it open ..."""

NAMELESS_BYTES_MAX: Final = 256 * 1024 * 1024
"""... if not more than that has come behind it."""

UNNAMED_US: Final = 3600 * 1_000_000
"""Likewise one that was made without a name, and got none."""

REMOVED_US: Final = 3600 * 1_000_000
"""How long a name that ended is remembered: made again later, its versions begin with 1."""

_NAMELESS: Final = b"YI"
_UNNAMED: Final = b"YU"
_REMOVED: Final = b"YE"
_HELD: Final = b"YB"
_QUEUES: Final = (_NAMELESS, _UNNAMED, _REMOVED)
_END: Final = U64.pack(2**64 - 1)

STEP_ROWS_MAX: Final = 256
"""Forgotten with one record at most."""


class Forgetting:
    """See the module. One for each namespace; does nothing unless `is_on`."""

    def __init__(self, rows: Rows, *, is_on: bool) -> None:
        self._table = rows.table
        self._entries: VersionedMap = rows.entries
        self.is_on = is_on
        self._next = 0
        """Until then nothing is to be forgotten, unless a name ends."""

    def restart(self) -> None:
        """The table is another than it was."""
        self._next = 0

    def nameless(self, inode: int, timestamp: int, stored: int) -> None:
        """An inode with so many bytes has no name any more."""
        if self.is_on:
            due = U64.pack(timestamp + NAMELESS_US)
            self._table.put(_NAMELESS + due + U64.pack(inode), U64.pack(stored))
            self._hold(stored)
            self._next = 0

    def unnamed(self, inode: int, timestamp: int) -> None:
        """An inode has no name yet."""
        if self.is_on:
            due_us = timestamp + UNNAMED_US
            self._table.put(_UNNAMED + U64.pack(due_us) + U64.pack(inode), b"")
            self._next = min(self._next, due_us)

    def removed(self, key: bytes, timestamp: int) -> None:
        """A name, given as its `entry_key`, left a tombstone."""
        if self.is_on:
            due_us = timestamp + REMOVED_US
            self._table.put(_REMOVED + U64.pack(due_us) + key, U64.pack(timestamp))
            self._next = min(self._next, due_us)

    def due(self) -> int | None:
        """From which timestamp on there is something to forget; None if there is nothing."""
        if not self.is_on:
            return None
        firsts = [self._table.first(queue, queue + _END) for queue in _QUEUES]
        dues = [U64.unpack_from(found[0], len(_NAMELESS))[0] for found in firsts if found]
        return min(dues, default=None)

    def step(self, timestamp: int, contents: Contents) -> None:
        """Forget what is due when a record with this timestamp is applied."""
        if timestamp <= self._next:
            return
        before = U64.pack(timestamp)
        left = STEP_ROWS_MAX
        while left and (found := self._table.first(_NAMELESS, _NAMELESS + _END)) is not None:
            row, value = found
            stored = U64.unpack(value)[0]
            if row[2:10] >= before and self._held() - stored <= NAMELESS_BYTES_MAX:
                break
            self._table.delete(row)
            self._hold(-stored)
            contents.forget(timestamp, U64.unpack_from(row, 10)[0])
            left -= 1
        while left and (found := self._table.first(_UNNAMED, _UNNAMED + before)) is not None:
            self._table.delete(found[0])
            contents.forget(timestamp, U64.unpack_from(found[0], 10)[0])
            left -= 1
        while left and (found := self._table.first(_REMOVED, _REMOVED + before)) is not None:
            row, value = found
            self._table.delete(row)
            dead = self._entries.tombstone(row[10:])
            if dead is not None and dead[0] == U64.unpack(value)[0]:
                self._entries.erase(row[10:])
            left -= 1
        # Of the table alone, so that all faces forget the same with a record: one that has just begun looks for itself.
        due_us = self.due() if left else 0
        self._next = 2**64 - 1 if due_us is None else due_us

    def _held(self) -> int:
        """Bytes of files that had a name, and are kept."""
        row = self._table.get(_HELD)
        held: int = U64.unpack(row)[0] if row is not None else 0
        return held

    def _hold(self, more: int) -> None:
        held = self._held() + more
        if held:
            self._table.put(_HELD, U64.pack(held))
        elif more:
            self._table.delete(_HELD)
