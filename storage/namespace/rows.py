"""The tables of a namespace, and the few changes that several kinds of records share.

Key spaces (prefix: live / past; FORMAT, "Index"): ``I/i`` inode -> attributes, ``E/e`` directory + name -> binding,
``C/c`` inode + generation + chunk -> pieces, ``X/x`` inode + name -> extended attribute, ``L/l`` directory + label ->
timestamp. Plain rows: ``V`` directory + name + ~number -> a binding or tombstone of the past, by version number;
``K`` inode + content commit -> its timestamp, state and generation; ``S`` inode -> symbolic link target; ``J`` ~timestamp -> directories a
commit touched; ``N`` inode + directory + name -> nothing: the names an inode has or had; ``Q``
inode -> timestamp: pruned then and not swept yet; ``U`` inode -> nothing: made without a name, and got none yet. ``Z`` client -> number, timestamp: the sessions. ``R`` and ``D`` are those of `frames`, ``T`` those of `deliveries`, ``Y`` those of `forgetting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.attributes import Attributes, is_directory
from storage.limits import INODES_PER_SHARD
from storage.mvcc import VersionedMap
from storage.namespace.forgetting import Forgetting
from storage.namespace.keys import MAX, U64

if TYPE_CHECKING:
    from storage.namespace.counters import Counters
    from storage.table import Table

__all__ = ["Rows"]


class Rows:
    """The versioned maps over one table. Shared by the parts of one namespace and by nobody else."""

    def __init__(
        self,
        table: Table,
        counters: Counters,
        *,
        keep_past: bool,
        shard: int = 0,
        forgets: bool = False,
    ) -> None:
        self.shard = shard
        self._own = range(shard * INODES_PER_SHARD, (shard + 1) * INODES_PER_SHARD)
        self.table = table
        self.keep_past = keep_past
        self.counters = counters
        self.inodes = VersionedMap(table, b"I", b"i", keep_past)
        self.entries = VersionedMap(table, b"E", b"e", keep_past)
        self.chunks = VersionedMap(table, b"C", b"c", keep_past)
        self.xattrs = VersionedMap(table, b"X", b"x", keep_past)
        self.labels = VersionedMap(table, b"L", b"l", keep_past)
        self.forgetting = Forgetting(self, is_on=forgets)
        # The directories touched by the parts of the batch under way, in order; None outside of one.
        self.batched: dict[int, None] | None = None

    def is_own(self, inode: int) -> bool:
        """Whether a number is of this shard; another's stands here only for a directory that has its name here."""
        return inode in self._own

    def directory(self, inode: int) -> tuple[tuple[int, bytes] | None, Attributes | None]:
        """The row and attributes of a directory that still has a name; (None, None) for anything else."""
        row = self.inodes.get_row(U64.pack(inode))
        if row is None:
            return None, None
        attributes = Attributes.unpack(row[1])
        if not is_directory(attributes.mode) or attributes.nlink == 0:
            return None, None
        return row, attributes

    def remove(self, rows: VersionedMap, key: bytes, timestamp: int) -> None:
        """Delete what has no numbers of its own: without a past not even a tombstone need stay."""
        if self.keep_past:
            rows.delete(key, timestamp)
        else:
            rows.erase(key)

    def touch(
        self,
        inode: int,
        attributes: Attributes,
        row: tuple[int, bytes],
        timestamp: int,
        nlink: int = 0,
    ) -> None:
        """A directory's entries changed: its times move, and its link count with its subdirectories."""
        attributes.nlink += nlink
        attributes.mtime_ns = attributes.ctime_ns = timestamp * 1000
        self.inodes.replace(U64.pack(inode), timestamp, attributes.pack(), row)

    def touch_now(self, inode: int, timestamp: int, nlink: int = 0) -> None:
        """As `touch`, for a caller that has not looked."""
        row = self.inodes.get_row(U64.pack(inode))
        assert row is not None, "a directory that was just looked at exists"
        self.touch(inode, Attributes.unpack(row[1]), row, timestamp, nlink)

    def name(self, inode: int, key: bytes) -> None:
        """Note that an inode has a name, given as its `entry_key`."""
        self.table.put(b"N" + U64.pack(inode) + key, b"")

    def unname(self, inode: int, key: bytes) -> None:
        """A name of an inode ends: who keeps the past will want to know what it was called."""
        if not self.keep_past:
            self.table.delete(b"N" + U64.pack(inode) + key)

    def journal(self, timestamp: int, *directories: int) -> None:
        """Note which directories a commit touched, each once."""
        if self.batched is not None:
            self.batched.update(dict.fromkeys(directories))
        elif self.keep_past:
            self.table.put(
                b"J" + U64.pack(MAX - timestamp),
                b"".join(map(U64.pack, dict.fromkeys(directories))),
            )
