"""Everything one can ask of the tree: as it is now, and as of a timestamp."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from storage import extents
from storage.attributes import Attributes
from storage.binding import Binding, Tombstone
from storage.namespace.keys import (
    CHUNK_KEY,
    CONTENT_KEY,
    CONTENT_ROW,
    MAX,
    ROOT,
    U64,
    after_key,
    entry_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.mvcc import Row
    from storage.namespace.rows import Rows

__all__ = ["KEPT", "PRUNED", "PURGED", "Questions", "Version"]

KEPT, PRUNED, PURGED = 0, 1, 2
"""What became of a content; gone by retention, or because somebody asked for it by name."""


class Version(NamedTuple):
    """One version of an entry: content of an inode as of `timestamp`, or the moment the name ended."""

    number: int
    timestamp: int
    binding: Binding | None
    tombstone: Tombstone | None


class Questions:
    """Look-ups over the rows; nothing here changes them."""

    def __init__(self, rows: Rows) -> None:
        self._table = rows.table
        self._keep_past = rows.keep_past
        self._inodes = rows.inodes
        self._entries = rows.entries
        self._chunks = rows.chunks
        self._xattrs = rows.xattrs
        self._labels = rows.labels

    def attributes(self, inode: int) -> Attributes | None:
        """The attributes of an inode now, also while it has no name left."""
        row = self._inodes.get(U64.pack(inode))
        return Attributes.unpack(row) if row is not None else None

    def attributes_row(self, inode: int) -> tuple[int, Attributes] | None:
        """(since when, attributes) now."""
        row = self._inodes.get_row(U64.pack(inode))
        return (row[0], Attributes.unpack(row[1])) if row is not None else None

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """(since when, attributes) as of a timestamp; None before the inode was made."""
        row = self._inodes.at(U64.pack(inode), timestamp)
        return (row[0], Attributes.unpack(row[1])) if row is not None else None

    def binding(self, directory: int, name: bytes) -> Binding | None:
        """What a name means now."""
        row = self._entries.get(entry_key(directory, name))
        return Binding.unpack(row) if row is not None else None

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """What a name meant as of a timestamp."""
        row = self._entries.at(entry_key(directory, name), timestamp)
        return Binding.unpack(row[1]) if row is not None else None

    def known(self, directory: int, name: bytes) -> bool:
        """Whether the name means or ever meant anything here, so `name@...` is history and not a literal."""
        return self._entries.known(entry_key(directory, name))

    def children(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, Binding]]:
        """The entries of a directory now, by name, behind the name `after`. Not to be held across an apply."""
        prefix = U64.pack(directory)
        for key, _, row in self._entries.scan(prefix, after_key(prefix, after)):
            yield key[8:-1], Binding.unpack(row)

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """The entries of a directory as of a timestamp, in the same order."""
        prefix = U64.pack(directory)
        for key, _, row in self._entries.scan_at(prefix, timestamp, after_key(prefix, after)):
            yield key[8:-1], Binding.unpack(row)

    def deleted(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, int, Tombstone]]:
        """The names that mean nothing now but did: (name, when they ended, tombstone)."""
        prefix = U64.pack(directory)
        for key, since, row in self._entries.scan_dead(prefix, after_key(prefix, after)):
            yield key[8:-1], since, Tombstone.unpack(row)

    def head(self, directory: int, name: bytes) -> int:
        """The newest version number of an entry, tombstones counted; 0 if there is none."""
        key = entry_key(directory, name)
        row = self._entries.get(key)
        if row is None:
            dead = self._entries.tombstone(key)
            return Tombstone.unpack(dead[1]).number if dead is not None else 0
        return self.number_of(Binding.unpack(row))

    def version(self, directory: int, name: bytes, number: int) -> Version | None:
        """Version `number` of an entry by two ordered look-ups, whatever the length of its history."""
        if number < 1:
            return None
        key = entry_key(directory, name)
        live = self._entries.get_row(key)
        if live is not None:
            binding = Binding.unpack(live[1])
            if number >= binding.first:
                if number > self.number_of(binding):
                    return None
                return self._version_of_binding(number, live[0], binding)
        elif not self._keep_past:
            return None
        found = self._table.first(b"V" + key + U64.pack(MAX - number), b"V" + key + b"\xff" * 9)
        if found is None:
            return None
        since, is_binding, row = U64.unpack_from(found[1])[0], found[1][8], found[1][9:]
        if is_binding:
            return self._version_of_binding(number, since, Binding.unpack(row))
        tombstone = Tombstone.unpack(row)
        return Version(number, since, None, tombstone) if tombstone.number == number else None

    def content_timestamp(self, inode: int, content: int) -> int | None:
        """When content commit `content` of an inode was made; None if there is none such."""
        attributes = self.attributes(inode)
        if attributes is None or not 1 <= content <= attributes.content:
            return None
        if content == attributes.content:
            return attributes.content_timestamp
        row = self._table.get(b"K" + CONTENT_KEY.pack(inode, content))
        return CONTENT_ROW.unpack(row)[0] if row is not None else None

    def content_state(self, inode: int, content: int) -> int:
        """`KEPT`, or why a content is gone: `PRUNED` or `PURGED`. Its record is known all the same."""
        row = self._table.get(b"K" + CONTENT_KEY.pack(inode, content))
        if row is not None:
            state: int = CONTENT_ROW.unpack(row)[1]
            return state
        # The newest content has no row of its own; nor has what was forgotten with its only name.
        return KEPT if self._inodes.get(U64.pack(inode)) is not None else PRUNED

    def contents(self, inode: int, after: int, before: int) -> Iterator[tuple[int, int, int, int]]:
        """The contents between two of an inode, oldest first: (content, timestamp, state, generation)."""
        start, stop = CONTENT_KEY.pack(inode, after + 1), CONTENT_KEY.pack(inode, before)
        for key, row in self._table.scan(b"K" + start, b"K" + stop):
            yield CONTENT_KEY.unpack_from(key, 1)[1], *CONTENT_ROW.unpack(row)

    def pieces(
        self, inode: int, generation: int, chunk: int, timestamp: int | None = None
    ) -> list[tuple[int, int, int, int]]:
        """The pieces of one chunk now, or as of a timestamp; empty for a hole."""
        key = CHUNK_KEY.pack(inode, generation, chunk)
        if timestamp is None:
            row = self._chunks.get(key)
            return extents.unpack(row) if row is not None else []
        found = self._chunks.at(key, timestamp)
        return extents.unpack(found[1]) if found is not None else []

    def chunks(
        self, inode: int, generation: int, timestamp: int | None = None, after: int = -1
    ) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
        """The chunks of a content that have pieces, in order, behind chunk `after`."""
        prefix = CHUNK_KEY.pack(inode, generation, 0)[:12]
        start = prefix + after.to_bytes(4, "big") if after >= 0 else b""
        rows = (
            self._chunks.scan(prefix, start)
            if timestamp is None
            else self._chunks.scan_at(prefix, timestamp, start)
        )
        for key, _, row in rows:
            yield int.from_bytes(key[12:], "big"), extents.unpack(row)

    def xattr(self, inode: int, name: bytes, timestamp: int | None = None) -> bytes | None:
        """One extended attribute now or as of a timestamp."""
        key = entry_key(inode, name)
        if timestamp is None:
            return self._xattrs.get(key)
        row = self._xattrs.at(key, timestamp)
        return row[1] if row is not None else None

    def xattrs(self, inode: int, timestamp: int | None = None) -> list[bytes]:
        """The names of the extended attributes now or as of a timestamp."""
        prefix = U64.pack(inode)
        rows = (
            self._xattrs.scan(prefix)
            if timestamp is None
            else self._xattrs.scan_at(prefix, timestamp)
        )
        return [key[8:-1] for key, _, _ in rows]

    def target(self, inode: int) -> bytes | None:
        """A symbolic link's target; it never changes."""
        return self._table.get(b"S" + U64.pack(inode))

    def label(self, directory: int, label: bytes) -> int | None:
        """The instant a label names."""
        row = self._labels.get(entry_key(directory, label))
        return U64.unpack(row)[0] if row is not None else None

    def unnamed(self) -> list[int]:
        """The inodes that were made without a name and got none yet."""
        return [U64.unpack_from(key, 1)[0] for key, _ in self._table.scan(b"U", b"V")]

    def labels(self, directory: int) -> list[tuple[bytes, int]]:
        """The labels of a directory and their instants."""
        rows = self._labels.scan(U64.pack(directory))
        return [(key[8:-1], U64.unpack(row)[0]) for key, _, row in rows]

    def all_labels(self) -> Iterator[tuple[int, bytes, int]]:
        """(directory, label, instant) of every label there is."""
        for key, _, row in self._labels.scan(b""):
            yield U64.unpack_from(key)[0], key[8:-1], U64.unpack(row)[0]

    def has_policies(self) -> bool:
        """Whether any directory says how long its history is kept, or how much of it."""
        return self._table.first(b"P", b"Q") is not None

    def has_budgets(self) -> bool:
        """Whether any directory says how much its history may hold. Costs a row for each that says anything."""
        return any(len(key) > 1 + U64.size for key, _ in self._table.scan(b"P", b"Q"))

    def next_inode(self, after: bytes = b"") -> bytes | None:
        """The key of the least inode number behind `after`, of those that are or ever were."""
        return self._inodes.next_key(b"", after)

    def next_chunk(self, inode: int, after: bytes = b"") -> bytes | None:
        """The least `CHUNK_KEY` of an inode behind `after`."""
        return self._chunks.next_key(U64.pack(inode), after)

    def chunk_history(self, key: bytes, before: int | None = None) -> Iterator[Row]:
        """What a chunk was, newest first, before a timestamp if given. Not to be held across an apply."""
        return self._chunks.history(key, before)

    def next_entry(self, after: bytes = b"") -> bytes | None:
        """The least `entry_key` behind `after` of a name that means or ever meant anything."""
        return self._entries.next_key(b"", after)

    def only_life(self, directory: int, name: bytes) -> tuple[int, int, Binding] | None:
        """(start, end, binding) of a name that meant something once and does not now; None for any other."""
        rows = list(islice(self._entries.history(entry_key(directory, name)), 3))
        if len(rows) != 2 or rows[0].tombstone is None or rows[1].value is None:
            return None
        binding = Binding.unpack(rows[1].value)
        return (rows[1].timestamp, rows[0].timestamp, binding) if binding.first == 1 else None

    def journal(self, before: int = MAX) -> Iterator[tuple[int, list[int]]]:
        """Commits newest first, those at or before a timestamp: (timestamp, directories touched)."""
        for key, row in self._table.scan(b"J" + U64.pack(MAX - before), b"K"):
            yield MAX - U64.unpack_from(key, 1)[0], [n for (n,) in U64.iter_unpack(row)]

    def is_below(self, inode: int, directory: int) -> bool:
        """Whether a directory is, or lies below, another one now."""
        while inode != directory:
            attributes = self.attributes(inode)
            if attributes is None or inode == ROOT or attributes.parent == 0:
                return False
            inode = attributes.parent
        return True

    def names(self, inode: int) -> list[tuple[int, bytes]]:
        """(directory, name) of each name an inode has or ever had, in the order of the rows."""
        prefix = b"N" + U64.pack(inode)
        rows = self._table.scan(prefix, prefix + b"\xff" * 9)
        return [(U64.unpack_from(key, 9)[0], key[17:-1]) for key, _ in rows]

    def names_at(self, inode: int, timestamp: int | None = None) -> list[tuple[int, bytes]]:
        """(directory, name) of each name an inode has, now or as of a timestamp, in the order of the rows.

        Costs a look-up for each name it ever had.
        """
        had = self.names(inode)
        found = []
        for directory, name in had:
            binding = (
                self.binding(directory, name)
                if timestamp is None
                else self.binding_at(directory, name, timestamp)
            )
            if binding is not None and binding.inode == inode:
                found.append((directory, name))
        return found

    def entry_at(
        self, directory: int, name: bytes, timestamp: int
    ) -> tuple[int, Binding | None, Tombstone | None] | None:
        """(since when, binding, tombstone) of a name as of a timestamp, one of the two None; None if it never was."""
        row = self._entries.at_row(entry_key(directory, name), timestamp)
        if row is None:
            return None
        if row.value is not None:
            return row.timestamp, Binding.unpack(row.value), None
        assert row.tombstone is not None
        return row.timestamp, None, Tombstone.unpack(row.tombstone)

    def number_of(self, binding: Binding) -> int:
        """The newest version number under a live binding."""
        attributes = self.attributes(binding.inode)
        assert attributes is not None, "a bound inode exists"
        return binding.version_of(attributes.content)

    def _version_of_binding(self, number: int, since: int, binding: Binding) -> Version | None:
        content = binding.base + number - binding.first
        committed = self.content_timestamp(binding.inode, content)
        if committed is None:
            return None
        return Version(number, max(since, committed), binding, None)

    def has_children(self, directory: int) -> bool:
        """Whether a directory has an entry now."""
        return next(self.children(directory), None) is not None
