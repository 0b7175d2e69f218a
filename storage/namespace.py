"""The state machine of one shard: inodes, entries, content and their whole past.

Theory of operation. `apply(timestamp, address, record)` executes one log record and is total and deterministic: a
refusal is an `Outcome`, has no effect and leaves no trace but the record in the log. State lives in versioned maps
over an ordered table (`storage.mvcc`), so every query exists twice: as it is now, and as of a timestamp. A snapshot
is therefore nothing but a timestamp; timestamps strictly increase within a shard.

Key spaces (prefix: live / past; FORMAT, "Index"): ``I/i`` inode -> attributes, ``E/e`` directory + name -> binding,
``C/c`` inode + generation + chunk -> pieces, ``X/x`` inode + name -> extended attribute, ``L/l`` directory + label ->
timestamp. Plain rows: ``V`` directory + name + ~number -> a binding or tombstone of the past, by version number;
``K`` inode + content commit -> its timestamp; ``S`` inode -> symbolic link target; ``J`` ~timestamp -> directories a
commit touched.

Does not know the log (addresses are opaque), paths, permissions, drafts or who asks.

Sources: DESIGN 4; SEMANTICS 1; POSIX.1-2017 link(), rename(), unlink(), rmdir().
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from storage import extents
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK, Attributes, is_directory
from storage.binding import CREATED, LINKED, MOVED, REMOVED, Binding, Tombstone
from storage.errors import Reason
from storage.limits import (
    CHUNK_BYTES,
    FILE_BYTES_MAX,
    LINKS_MAX,
    NAME_BYTES_MAX,
    PIECES_PER_CHUNK_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from storage.mvcc import VersionedMap
from storage.record import (
    SELF,
    Batch,
    Commit,
    Create,
    Label,
    Link,
    Record,
    Rename,
    SetAttributes,
    SetXattr,
    Unlabel,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.table import Table

__all__ = ["DONE", "ROOT", "Counters", "Namespace", "Outcome", "Version"]

ROOT = 1
"""The root directory's inode number, which is also FUSE's."""

_U64 = struct.Struct(">Q")
_CHUNK_KEY = struct.Struct(">QII")
_CONTENT_KEY = struct.Struct(">QQ")
_MAX = 2**64 - 1

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
XATTR_CREATE = 1
XATTR_REPLACE = 2


class Outcome(NamedTuple):
    """What became of a record: `reason` is None if it took effect."""

    reason: Reason | None


DONE = Outcome(None)
_REFUSED = {reason: Outcome(reason) for reason in Reason}


class Version(NamedTuple):
    """One version of an entry: content of an inode as of `timestamp`, or the moment the name ended."""

    number: int
    timestamp: int
    binding: Binding | None
    tombstone: Tombstone | None


class Counters:
    """Totals the namespace keeps as it goes, so that statfs and numbering cost nothing."""

    __slots__ = ("live_bytes", "live_inodes", "next_inode")
    _ROW = struct.Struct("<QqQ")

    def __init__(
        self, next_inode: int = ROOT + 1, live_bytes: int = 0, live_inodes: int = 0
    ) -> None:
        self.next_inode = next_inode
        self.live_bytes = live_bytes
        self.live_inodes = live_inodes

    def pack(self) -> bytes:
        """The row."""
        return self._ROW.pack(self.next_inode, self.live_bytes, self.live_inodes)

    @classmethod
    def is_row(cls, row: bytes | None) -> bool:
        """Whether bytes can be a row at all; None cannot."""
        return row is not None and len(row) == cls._ROW.size

    @classmethod
    def unpack(cls, row: bytes) -> Counters:
        """The counters of a row."""
        return cls(*cls._ROW.unpack(row))


class Namespace:
    """See the module. One owner at a time; nothing here waits."""

    def __init__(
        self, table: Table, *, keep_past: bool = True, counters: Counters | None = None
    ) -> None:
        self._table = table
        self._keep_past = keep_past
        self._inodes = VersionedMap(table, b"I", b"i", keep_past)
        self._entries = VersionedMap(table, b"E", b"e", keep_past)
        self._chunks = VersionedMap(table, b"C", b"c", keep_past)
        self._xattrs = VersionedMap(table, b"X", b"x", keep_past)
        self._labels = VersionedMap(table, b"L", b"l", keep_past)
        self.counters = counters or Counters()
        # Chunks whose rows have grown long, for the next commit to shorten: forgotten at a restart, found again.
        self.overlong: dict[int, set[tuple[int, int]]] = {}
        # The directories touched by the parts of the batch under way, in order; None outside of one.
        self._batched: dict[int, None] | None = None
        # Without a past nothing but the live pieces refers to a frame: count them, so payloads can be let go.
        self._references: dict[int, int] = {}
        self.released: list[int] = []
        self._handlers: dict[type, Callable[[int, int, Any], Outcome]] = {
            Create: self._create,
            Link: self._link,
            Unlink: self._unlink,
            Rename: self._rename,
            SetAttributes: self._set_attributes,
            SetXattr: self._set_xattr,
            Write: self._write,
            Commit: self._commit,
            Label: self._label,
            Unlabel: self._unlabel,
            Batch: self._batch,
        }

    def apply(self, timestamp: int, address: int, record: Record) -> Outcome:
        """Execute a record that stands in the log at `address` with `timestamp`."""
        return self._handlers[type(record)](timestamp, address, record)

    # --- queries -----------------------------------------------------------------------------------------------

    def attributes(self, inode: int) -> Attributes | None:
        """The attributes of an inode now, also while it has no name left."""
        row = self._inodes.get(_U64.pack(inode))
        return Attributes.unpack(row) if row is not None else None

    def attributes_row(self, inode: int) -> tuple[int, Attributes] | None:
        """(since when, attributes) now."""
        row = self._inodes.get_row(_U64.pack(inode))
        return (row[0], Attributes.unpack(row[1])) if row is not None else None

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """(since when, attributes) as of a timestamp; None before the inode was made."""
        row = self._inodes.at(_U64.pack(inode), timestamp)
        return (row[0], Attributes.unpack(row[1])) if row is not None else None

    def binding(self, directory: int, name: bytes) -> Binding | None:
        """What a name means now."""
        row = self._entries.get(_entry_key(directory, name))
        return Binding.unpack(row) if row is not None else None

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """What a name meant as of a timestamp."""
        row = self._entries.at(_entry_key(directory, name), timestamp)
        return Binding.unpack(row[1]) if row is not None else None

    def known(self, directory: int, name: bytes) -> bool:
        """Whether the name means or ever meant anything here, so `name@...` is history and not a literal."""
        return self._entries.known(_entry_key(directory, name))

    def children(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, Binding]]:
        """The entries of a directory now, by name, behind the name `after`. Not to be held across an apply."""
        prefix = _U64.pack(directory)
        for key, _, row in self._entries.scan(prefix, _after_key(prefix, after)):
            yield key[8:-1], Binding.unpack(row)

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """The entries of a directory as of a timestamp, in the same order."""
        prefix = _U64.pack(directory)
        for key, _, row in self._entries.scan_at(prefix, timestamp, _after_key(prefix, after)):
            yield key[8:-1], Binding.unpack(row)

    def deleted(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, int, Tombstone]]:
        """The names that mean nothing now but did: (name, when they ended, tombstone)."""
        prefix = _U64.pack(directory)
        for key, since, row in self._entries.scan_dead(prefix, _after_key(prefix, after)):
            yield key[8:-1], since, Tombstone.unpack(row)

    def head(self, directory: int, name: bytes) -> int:
        """The newest version number of an entry, tombstones counted; 0 if there is none."""
        key = _entry_key(directory, name)
        row = self._entries.get(key)
        if row is None:
            dead = self._entries.tombstone(key)
            return Tombstone.unpack(dead[1]).number if dead is not None else 0
        return self._number(Binding.unpack(row))

    def version(self, directory: int, name: bytes, number: int) -> Version | None:
        """Version `number` of an entry by two ordered look-ups, whatever the length of its history."""
        if number < 1:
            return None
        key = _entry_key(directory, name)
        live = self._entries.get_row(key)
        if live is not None:
            binding = Binding.unpack(live[1])
            if number >= binding.first:
                if number > self._number(binding):
                    return None
                return self._version_of_binding(number, live[0], binding)
        elif not self._keep_past:
            return None
        found = self._table.first(b"V" + key + _U64.pack(_MAX - number), b"V" + key + b"\xff" * 9)
        if found is None:
            return None
        since, is_binding, row = _U64.unpack_from(found[1])[0], found[1][8], found[1][9:]
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
        row = self._table.get(b"K" + _CONTENT_KEY.pack(inode, content))
        return _U64.unpack(row)[0] if row is not None else None

    def pieces(
        self, inode: int, generation: int, chunk: int, timestamp: int | None = None
    ) -> list[tuple[int, int, int, int]]:
        """The pieces of one chunk now, or as of a timestamp; empty for a hole."""
        key = _CHUNK_KEY.pack(inode, generation, chunk)
        if timestamp is None:
            row = self._chunks.get(key)
            return extents.unpack(row) if row is not None else []
        found = self._chunks.at(key, timestamp)
        return extents.unpack(found[1]) if found is not None else []

    def chunks(
        self, inode: int, generation: int, timestamp: int | None = None, after: int = -1
    ) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
        """The chunks of a content that have pieces, in order, behind chunk `after`."""
        prefix = _CHUNK_KEY.pack(inode, generation, 0)[:12]
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
        key = _entry_key(inode, name)
        if timestamp is None:
            return self._xattrs.get(key)
        row = self._xattrs.at(key, timestamp)
        return row[1] if row is not None else None

    def xattrs(self, inode: int, timestamp: int | None = None) -> list[bytes]:
        """The names of the extended attributes now or as of a timestamp."""
        prefix = _U64.pack(inode)
        rows = (
            self._xattrs.scan(prefix)
            if timestamp is None
            else self._xattrs.scan_at(prefix, timestamp)
        )
        return [key[8:-1] for key, _, _ in rows]

    def target(self, inode: int) -> bytes | None:
        """A symbolic link's target; it never changes."""
        return self._table.get(b"S" + _U64.pack(inode))

    def label(self, directory: int, label: bytes) -> int | None:
        """The instant a label names."""
        row = self._labels.get(_entry_key(directory, label))
        return _U64.unpack(row)[0] if row is not None else None

    def labels(self, directory: int) -> list[tuple[bytes, int]]:
        """The labels of a directory and their instants."""
        rows = self._labels.scan(_U64.pack(directory))
        return [(key[8:-1], _U64.unpack(row)[0]) for key, _, row in rows]

    def journal(self, before: int = _MAX) -> Iterator[tuple[int, list[int]]]:
        """Commits newest first, those at or before a timestamp: (timestamp, directories touched)."""
        for key, row in self._table.scan(b"J" + _U64.pack(_MAX - before), b"K"):
            yield _MAX - _U64.unpack_from(key, 1)[0], [n for (n,) in _U64.iter_unpack(row)]

    def take_overlong(self, inode: int, generation: int, count_max: int) -> list[int]:
        """The first chunks of a content whose rows are too long; they are no longer remembered as such."""
        found = sorted(chunk for of, chunk in self.overlong.pop(inode, ()) if of == generation)
        if len(found) > count_max:
            self.overlong[inode] = {(generation, chunk) for chunk in found[count_max:]}
        return found[:count_max]

    def refers(self, address: int) -> bool:
        """Whether a live piece lies in that frame; only where no past is kept."""
        assert not self._keep_past
        return address in self._references

    def is_below(self, inode: int, directory: int) -> bool:
        """Whether a directory is, or lies below, another one now."""
        while inode != directory:
            attributes = self.attributes(inode)
            if attributes is None or inode == ROOT or attributes.parent == 0:
                return False
            inode = attributes.parent
        return True

    # --- records -----------------------------------------------------------------------------------------------

    def _create_root(self, timestamp: int, record: Create) -> Outcome:
        """The first record of every store: the one inode without a name."""
        if self._inodes.get(_U64.pack(ROOT)) is not None:
            return _REFUSED[Reason.EXISTS]
        now_ns = timestamp * 1000
        mode, uid, gid = DIRECTORY | record.mode, record.uid, record.gid
        root = Attributes(mode, uid, gid, 2, 0, 0, now_ns, now_ns, now_ns, 1, timestamp, 0, 0, 0)
        self._inodes.put(_U64.pack(ROOT), timestamp, root.pack())
        self.counters.live_inodes = 1
        return DONE

    def _create(self, timestamp: int, _address: int, record: Create) -> Outcome:
        name = record.name
        if record.inode == ROOT:
            return self._create_root(timestamp, record)
        if len(name) > NAME_BYTES_MAX:
            return _REFUSED[Reason.NAME_TOO_LONG]
        parent_key = _U64.pack(record.parent)
        parent_row = self._inodes.get_row(parent_key)
        if parent_row is None:
            return _REFUSED[Reason.ABSENT]
        parent = Attributes.unpack(parent_row[1])
        if not is_directory(parent.mode):
            return _REFUSED[Reason.NOT_A_DIRECTORY]
        if parent.nlink == 0:
            return _REFUSED[Reason.ABSENT]
        key = parent_key + name + b"\0"
        if self._entries.get(key) is not None:
            return _REFUSED[Reason.EXISTS]
        inode, mode = record.inode, record.mode
        directory = is_directory(mode)
        if directory and parent.nlink >= LINKS_MAX:
            return _REFUSED[Reason.TOO_MANY_LINKS]
        dead = self._entries.tombstone_of_absent(key)
        first = Tombstone.unpack(dead[1]).number + 1 if dead is not None else 1
        now_ns = timestamp * 1000
        content = 0 if mode & TYPE_MASK == REGULAR else 1
        attributes = Attributes(
            mode,
            record.uid,
            record.gid,
            2 if directory else 1,
            len(record.target),
            0,
            now_ns,
            now_ns,
            now_ns,
            content,
            timestamp if content else 0,
            0,
            record.rdev,
            record.parent,
        )
        self._inodes.insert(_U64.pack(inode), timestamp, attributes.pack())
        if mode & TYPE_MASK == SYMLINK:
            self._table.put(b"S" + _U64.pack(inode), record.target)
        binding = Binding(inode, first, 1, mode & TYPE_MASK, CREATED).pack()
        if dead is None:
            self._entries.insert(key, timestamp, binding)
        else:
            self._entries.replace(key, timestamp, binding, None)
        self._touch(record.parent, parent, parent_row, timestamp, nlink=1 if directory else 0)
        self._journal(timestamp, record.parent)
        counters = self.counters
        counters.live_inodes += 1
        counters.live_bytes += attributes.size
        if inode >= counters.next_inode:
            counters.next_inode = inode + 1
        return DONE

    def _link(self, timestamp: int, _address: int, record: Link) -> Outcome:
        parent_row, parent = self._directory(record.parent)
        if parent_row is None or parent is None:
            return _REFUSED[Reason.ABSENT]
        row = self._inodes.get_row(_U64.pack(record.inode))
        if row is None:
            return _REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if is_directory(attributes.mode):
            return _REFUSED[Reason.NOT_PERMITTED]
        if attributes.nlink == 0:
            return _REFUSED[Reason.ABSENT]
        if attributes.nlink >= LINKS_MAX:
            return _REFUSED[Reason.TOO_MANY_LINKS]
        if len(record.name) > NAME_BYTES_MAX:
            return _REFUSED[Reason.NAME_TOO_LONG]
        if self._entries.get(_entry_key(record.parent, record.name)) is not None:
            return _REFUSED[Reason.EXISTS]
        self._bind(record.parent, record.name, timestamp, record.inode, attributes, LINKED)
        attributes.nlink += 1
        attributes.ctime_ns = timestamp * 1000
        attributes.parent = record.parent
        self._inodes.replace(_U64.pack(record.inode), timestamp, attributes.pack(), row)
        self._touch(record.parent, parent, parent_row, timestamp)
        self._journal(timestamp, record.parent)
        return DONE

    def _unlink(self, timestamp: int, _address: int, record: Unlink) -> Outcome:
        key = _entry_key(record.parent, record.name)
        row = self._entries.get_row(key)
        if row is None:
            return _REFUSED[Reason.ABSENT]
        binding = Binding.unpack(row[1])
        directory = is_directory(binding.mode)
        if directory and not record.directory:
            return _REFUSED[Reason.IS_A_DIRECTORY]
        if record.directory and not directory:
            return _REFUSED[Reason.NOT_A_DIRECTORY]
        if directory and self._has_children(binding.inode):
            return _REFUSED[Reason.NOT_EMPTY]
        parent_row, parent = self._directory(record.parent)
        assert parent_row is not None, "a bound entry's directory exists"
        assert parent is not None
        tombstone = Tombstone(self._number(binding) + 1, REMOVED)
        self._unbind(key, timestamp, row, binding, tombstone)
        self._drop_link(timestamp, binding.inode)
        self._touch(record.parent, parent, parent_row, timestamp, nlink=-1 if directory else 0)
        self._journal(timestamp, record.parent)
        return DONE

    def _rename(self, timestamp: int, _address: int, record: Rename) -> Outcome:
        source_key = _entry_key(record.parent, record.name)
        source_row = self._entries.get_row(source_key)
        if source_row is None:
            return _REFUSED[Reason.ABSENT]
        if len(record.new_name) > NAME_BYTES_MAX:
            return _REFUSED[Reason.NAME_TOO_LONG]
        source = Binding.unpack(source_row[1])
        _, new_parent = self._directory(record.new_parent)
        if new_parent is None:
            return _REFUSED[Reason.ABSENT]
        if is_directory(source.mode) and self.is_below(record.new_parent, source.inode):
            return _REFUSED[Reason.MALFORMED]
        target = self.binding(record.new_parent, record.new_name)
        if record.flags & RENAME_EXCHANGE:
            return self._exchange(timestamp, record, source_row, source, target)
        if target is not None:
            if record.flags & RENAME_NOREPLACE:
                return _REFUSED[Reason.EXISTS]
            if target.inode == source.inode:
                return DONE  # POSIX rename(): two names of one file, nothing happens
            refusal = self._replaceable(source, target)
            if refusal is not None:
                return _REFUSED[refusal]
        moved = is_directory(source.mode)
        attributes = self.attributes(source.inode)
        assert attributes is not None
        source_number = self._number(source)
        self._bind(
            record.new_parent,
            record.new_name,
            timestamp,
            source.inode,
            attributes,
            MOVED,
            (record.parent, record.name),
        )
        if target is not None:
            self._drop_link(timestamp, target.inode)
        tombstone = Tombstone(source_number + 1, MOVED, record.new_parent, record.new_name)
        self._unbind(source_key, timestamp, source_row, source, tombstone)
        self._rehome(timestamp, source.inode, record.new_parent)
        replaced_directory = target is not None and moved
        self._touch_now(record.parent, timestamp, nlink=-1 if moved else 0)
        self._touch_now(
            record.new_parent, timestamp, nlink=1 if moved and not replaced_directory else 0
        )
        self._journal(timestamp, record.parent, record.new_parent)
        return DONE

    def _exchange(
        self,
        timestamp: int,
        record: Rename,
        source_row: tuple[int, bytes],
        source: Binding,
        target: Binding | None,
    ) -> Outcome:
        if target is None:
            return _REFUSED[Reason.ABSENT]
        if is_directory(target.mode) and self.is_below(record.parent, target.inode):
            return _REFUSED[Reason.MALFORMED]
        if target.inode == source.inode:
            return DONE
        for directory, name, inode, origin in (
            (record.parent, record.name, target.inode, (record.new_parent, record.new_name)),
            (record.new_parent, record.new_name, source.inode, (record.parent, record.name)),
        ):
            attributes = self.attributes(inode)
            assert attributes is not None
            self._bind(directory, name, timestamp, inode, attributes, MOVED, origin)
            self._rehome(timestamp, inode, directory)
        shift = int(is_directory(target.mode)) - int(is_directory(source.mode))
        self._touch_now(record.parent, timestamp, nlink=shift)
        self._touch_now(record.new_parent, timestamp, nlink=-shift)
        self._journal(timestamp, record.parent, record.new_parent)
        return DONE

    def _set_attributes(self, timestamp: int, _address: int, record: SetAttributes) -> Outcome:
        key = _U64.pack(record.inode)
        row = self._inodes.get_row(key)
        if row is None:
            return _REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if record.mode is not None:
            attributes.mode = attributes.mode & TYPE_MASK | record.mode & 0o7777
        if record.uid is not None:
            attributes.uid = record.uid
        if record.gid is not None:
            attributes.gid = record.gid
        if record.atime_ns is not None:
            attributes.atime_ns = record.atime_ns
        if record.mtime_ns is not None:
            attributes.mtime_ns = record.mtime_ns
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(key, timestamp, attributes.pack(), row)
        self._journal(timestamp, attributes.parent or record.inode)
        return DONE

    def _set_xattr(self, timestamp: int, _address: int, record: SetXattr) -> Outcome:
        if len(record.name) > XATTR_NAME_BYTES_MAX:
            return _REFUSED[Reason.NAME_TOO_LONG]
        if record.value is not None and len(record.value) > XATTR_VALUE_BYTES_MAX:
            return _REFUSED[Reason.ARGUMENT_TOO_LARGE]
        row = self._inodes.get_row(_U64.pack(record.inode))
        if row is None:
            return _REFUSED[Reason.ABSENT]
        key = _entry_key(record.inode, record.name)
        exists = self._xattrs.get(key) is not None
        if exists and record.flags & XATTR_CREATE:
            return _REFUSED[Reason.ATTRIBUTE_EXISTS]
        if not exists and (record.value is None or record.flags & XATTR_REPLACE):
            return _REFUSED[Reason.NO_SUCH_ATTRIBUTE]
        if record.value is None:
            self._remove(self._xattrs, key, timestamp)
        else:
            self._xattrs.put(key, timestamp, record.value)
        attributes = Attributes.unpack(row[1])
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(_U64.pack(record.inode), timestamp, attributes.pack(), row)
        self._journal(timestamp, attributes.parent or record.inode)
        return DONE

    def _write(self, _timestamp: int, _address: int, _record: Write) -> Outcome:
        return DONE

    def _commit(self, timestamp: int, address: int, record: Commit) -> Outcome:
        inode = record.inode
        key = _U64.pack(inode)
        row = self._inodes.get_row(key)
        if row is None:
            return _REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if attributes.mode & TYPE_MASK != REGULAR:
            return _REFUSED[Reason.MALFORMED]
        if record.size > FILE_BYTES_MAX:
            return _REFUSED[Reason.TOO_LARGE]
        keep = record.keep
        if record.size < attributes.size:
            keep = record.size if keep is None else min(keep, record.size)
        before = attributes.generation
        if keep is not None and attributes.stored:
            self._cut(timestamp, inode, attributes, keep)
        if record.extents:
            fresh = attributes.content == 0 or attributes.generation != before
            self._lay(timestamp, address, inode, attributes, record, fresh=fresh)
        if self._keep_past and attributes.content:
            self._table.put(
                b"K" + _CONTENT_KEY.pack(inode, attributes.content),
                _U64.pack(attributes.content_timestamp),
            )
        self.counters.live_bytes += record.size - attributes.size if attributes.nlink else 0
        attributes.content += 1
        attributes.content_timestamp = timestamp
        attributes.size = record.size
        attributes.mtime_ns = record.mtime_ns
        attributes.ctime_ns = max(attributes.ctime_ns, record.changed_ns)
        self._inodes.replace(key, timestamp, attributes.pack(), row)
        self._journal(timestamp, attributes.parent)
        return DONE

    def _cut(self, timestamp: int, inode: int, attributes: Attributes, keep: int) -> None:
        """Drop the bytes from `keep` on. To nothing is the common case and touches no row: a new generation."""
        if keep == 0:
            if not self._keep_past:
                for chunk, pieces in list(self.chunks(inode, attributes.generation)):
                    self._put_chunk(timestamp, inode, attributes, chunk, pieces, [])
            attributes.generation += 1
            attributes.stored = 0
            return
        border, within = divmod(keep, CHUNK_BYTES)
        for chunk, pieces in list(self.chunks(inode, attributes.generation, None, border - 1)):
            kept = extents.clip(pieces, within) if chunk == border else []
            self._put_chunk(timestamp, inode, attributes, chunk, pieces, kept)

    def _lay(
        self,
        timestamp: int,
        address: int,
        inode: int,
        attributes: Attributes,
        record: Commit,
        *,
        fresh: bool,
    ) -> None:
        """Overlay the extents; `fresh`: this generation never had a chunk row, so there is nothing to look up."""
        by_chunk: dict[int, list[tuple[int, int, int, int]]] = {}
        for offset, length, place, payload_offset in record.extents:
            at = address if place == SELF else place
            for chunk, start, size, done in extents.split_by_chunk(offset, length):
                piece = (start, size, at, payload_offset + done)
                by_chunk.setdefault(chunk, []).append(piece)
        for chunk, added in by_chunk.items():
            old = [] if fresh else self.pieces(inode, attributes.generation, chunk)
            new = old
            for piece in added:
                new = extents.overlay(new, piece)
            self._put_chunk(timestamp, inode, attributes, chunk, old, new, fresh=fresh)

    def _put_chunk(
        self,
        timestamp: int,
        inode: int,
        attributes: Attributes,
        chunk: int,
        old: list[tuple[int, int, int, int]],
        new: list[tuple[int, int, int, int]],
        *,
        fresh: bool = False,
    ) -> None:
        key = _CHUNK_KEY.pack(inode, attributes.generation, chunk)
        if new:
            put = self._chunks.insert if fresh else self._chunks.put
            put(key, timestamp, extents.pack(new))
            if len(new) > PIECES_PER_CHUNK_MAX:
                self.overlong.setdefault(inode, set()).add((attributes.generation, chunk))
        elif old:
            self._remove(self._chunks, key, timestamp)
        attributes.stored += extents.bytes_stored(new) - extents.bytes_stored(old)
        if not self._keep_past:
            self._count(old, new)

    def _count(
        self, old: list[tuple[int, int, int, int]], new: list[tuple[int, int, int, int]]
    ) -> None:
        references = self._references
        for _, _, address, _ in new:
            references[address] = references.get(address, 0) + 1
        for _, _, address, _ in old:
            references[address] -= 1
            if not references[address]:
                del references[address]
                self.released.append(address)

    def forget(self, timestamp: int, inode: int) -> None:
        """Drop an inode that has no name and no user left; only where no past is kept (not a record)."""
        assert not self._keep_past
        attributes = self.attributes(inode)
        if attributes is None or attributes.nlink:
            return
        if attributes.stored:
            self._cut(timestamp, inode, attributes, 0)
        key = _U64.pack(inode)
        # All that is filed under the number, tombstones too: it never comes back, so nobody will ask.
        for name in self.xattrs(inode):
            self._xattrs.erase(_entry_key(inode, name))
        for label, _ in self.labels(inode):
            self._labels.erase(_entry_key(inode, label))
        for name in [name for name, _, _ in self.deleted(inode)]:
            self._entries.erase(_entry_key(inode, name))
        self._table.delete(b"S" + key)
        self._inodes.erase(key)
        self.overlong.pop(inode, None)

    def _label(self, timestamp: int, _address: int, record: Label) -> Outcome:
        _, directory = self._directory(record.directory)
        if directory is None:
            return _REFUSED[Reason.ABSENT]
        if len(record.label) > NAME_BYTES_MAX:
            return _REFUSED[Reason.NAME_TOO_LONG]
        key = _entry_key(record.directory, record.label)
        if self._labels.get(key) is not None:
            return _REFUSED[Reason.EXISTS]
        self._labels.put(key, timestamp, _U64.pack(record.timestamp))
        return DONE

    def _unlabel(self, timestamp: int, _address: int, record: Unlabel) -> Outcome:
        key = _entry_key(record.directory, record.label)
        if self._labels.get(key) is None:
            return _REFUSED[Reason.ABSENT]
        self._remove(self._labels, key, timestamp)
        return DONE

    def _batch(self, timestamp: int, address: int, record: Batch) -> Outcome:
        # One timestamp is one journal row: it has to name the directories of every part.
        touched = self._batched = {}
        outcome = DONE
        try:
            for part in record.records:
                outcome = self._handlers[type(part)](timestamp, address, part)
                if outcome.reason is not None:
                    break
        finally:
            self._batched = None
        if touched:
            self._journal(timestamp, *touched)
        return outcome

    # --- parts of records --------------------------------------------------------------------------------------

    def _directory(self, inode: int) -> tuple[tuple[int, bytes] | None, Attributes | None]:
        """The row and attributes of a directory that still has a name; (None, None) for anything else."""
        row = self._inodes.get_row(_U64.pack(inode))
        if row is None:
            return None, None
        attributes = Attributes.unpack(row[1])
        if not is_directory(attributes.mode) or attributes.nlink == 0:
            return None, None
        return row, attributes

    def _remove(self, rows: VersionedMap, key: bytes, timestamp: int) -> None:
        """Delete what has no numbers of its own: without a past not even a tombstone need stay."""
        if self._keep_past:
            rows.delete(key, timestamp)
        else:
            rows.erase(key)

    def _has_children(self, directory: int) -> bool:
        return next(self.children(directory), None) is not None

    def _replaceable(self, source: Binding, target: Binding) -> Reason | None:
        if is_directory(target.mode):
            if not is_directory(source.mode):
                return Reason.IS_A_DIRECTORY
            if self._has_children(target.inode):
                return Reason.NOT_EMPTY
        elif is_directory(source.mode):
            return Reason.NOT_A_DIRECTORY
        return None

    def _number(self, binding: Binding) -> int:
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

    def _bind(
        self,
        directory: int,
        name: bytes,
        timestamp: int,
        inode: int,
        attributes: Attributes,
        cause: int,
        origin: tuple[int, bytes] = (0, b""),
    ) -> None:
        """Make a name mean an inode from the entry's next number on, whatever it meant before."""
        key = _entry_key(directory, name)
        old = self._entries.get_row(key)
        if old is not None:
            binding = Binding.unpack(old[1])
            number = self._number(binding)
            self._remember(key, old[0], binding, number)
        else:
            dead = self._entries.tombstone(key)
            number = Tombstone.unpack(dead[1]).number if dead is not None else 0
        new = Binding(
            inode,
            number + 1,
            max(attributes.content, 1),
            attributes.mode & TYPE_MASK,
            cause,
            *origin,
        )
        self._entries.replace(key, timestamp, new.pack(), old)

    def _unbind(
        self,
        key: bytes,
        timestamp: int,
        row: tuple[int, bytes],
        binding: Binding,
        tombstone: Tombstone,
    ) -> None:
        self._remember(key, row[0], binding, tombstone.number - 1)
        if self._keep_past:
            self._table.put(
                b"V" + key + _U64.pack(_MAX - tombstone.number),
                _U64.pack(timestamp) + b"\0" + tombstone.pack(),
            )
        self._entries.delete(key, timestamp, tombstone.pack())

    def _remember(self, key: bytes, since: int, binding: Binding, last_number: int) -> None:
        """Keep a binding that ends reachable by number, unless it never had a version."""
        if self._keep_past and last_number >= binding.first:
            self._table.put(
                b"V" + key + _U64.pack(_MAX - binding.first),
                _U64.pack(since) + b"\1" + binding.pack(),
            )

    def _drop_link(self, timestamp: int, inode: int) -> None:
        key = _U64.pack(inode)
        row = self._inodes.get_row(key)
        assert row is not None, "a bound inode exists"
        attributes = Attributes.unpack(row[1])
        attributes.nlink = 0 if is_directory(attributes.mode) else attributes.nlink - 1
        attributes.ctime_ns = timestamp * 1000
        if attributes.nlink == 0:
            self.counters.live_inodes -= 1
            self.counters.live_bytes -= attributes.size
        self._inodes.replace(key, timestamp, attributes.pack(), row)

    def _rehome(self, timestamp: int, inode: int, directory: int) -> None:
        """Note that an inode's newest name lives in `directory`; its ctime moves."""
        key = _U64.pack(inode)
        row = self._inodes.get_row(key)
        assert row is not None, "a bound inode exists"
        attributes = Attributes.unpack(row[1])
        attributes.parent = directory
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(key, timestamp, attributes.pack(), row)

    def _touch(
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
        self._inodes.replace(_U64.pack(inode), timestamp, attributes.pack(), row)

    def _touch_now(self, inode: int, timestamp: int, nlink: int = 0) -> None:
        row = self._inodes.get_row(_U64.pack(inode))
        assert row is not None, "a directory that was just looked at exists"
        self._touch(inode, Attributes.unpack(row[1]), row, timestamp, nlink)

    def _journal(self, timestamp: int, *directories: int) -> None:
        """Note which directories a commit touched, each once."""
        if self._batched is not None:
            self._batched.update(dict.fromkeys(directories))
        elif self._keep_past:
            self._table.put(
                b"J" + _U64.pack(_MAX - timestamp),
                b"".join(map(_U64.pack, dict.fromkeys(directories))),
            )


def _entry_key(inode: int, name: bytes) -> bytes:
    """Keys are prefix-free: names hold no NUL (POSIX), so the terminator ends every one of them."""
    return _U64.pack(inode) + name + b"\0"


def _after_key(prefix: bytes, after: bytes) -> bytes:
    return prefix + after + b"\0" if after else b""
