"""The records that change what names mean: create, link, unlink, rename.

A change binds a name to an inode or ends a binding; whatever ends stays reachable by its version number (``V`` rows).

Sources: SEMANTICS 1; POSIX.1-2017 link(), rename(), unlink(), rmdir().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK, Attributes, is_directory
from storage.binding import CREATED, LINKED, MOVED, REMOVED, Binding, Tombstone
from storage.errors import Reason
from storage.limits import LINKS_MAX, NAME_BYTES_MAX
from storage.namespace.keys import MAX, ROOT, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome

if TYPE_CHECKING:
    from storage.namespace.events import Events
    from storage.namespace.questions import Questions
    from storage.namespace.quotas import Quotas
    from storage.namespace.rows import Rows
    from storage.record import Close, Create, CreateUnnamed, Detach, Link, Rename, Reserve, Unlink

__all__ = ["RENAME_EXCHANGE", "RENAME_NOREPLACE", "Names"]

RESERVED_MAX = 2**20
"""Inode numbers that one record sets aside: a shard has a million times as many."""

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Names:
    """Applies the records of names to the rows."""

    def __init__(self, rows: Rows, questions: Questions, events: Events, quotas: Quotas) -> None:
        self._rows = rows
        self._questions = questions
        self._events = events
        self._quotas = quotas
        self._table = rows.table
        self._keep_past = rows.keep_past
        self._inodes = rows.inodes
        self._entries = rows.entries
        self._counters = rows.counters

    def _create_root(self, timestamp: int, record: Create) -> Outcome:
        """An inode without a name here: the root, which has none, or a shard root, whose name is in another shard."""
        inode, parent = record.inode, 0 if record.inode == ROOT else record.parent
        if inode != ROOT and (not self._rows.is_own(inode) or self._rows.is_own(parent)):
            return REFUSED[Reason.MALFORMED]
        if self._inodes.get(U64.pack(inode)) is not None:
            return REFUSED[Reason.EXISTS]
        now_ns = timestamp * 1000
        mode, owner = DIRECTORY | record.mode, (record.uid, record.gid)
        root = Attributes(mode, *owner, 2, 0, 0, now_ns, now_ns, now_ns, 1, timestamp, 0, 0, parent)
        self._inodes.put(U64.pack(inode), timestamp, root.pack())
        self._counters.live_inodes += 1
        return DONE

    def create(self, timestamp: int, _address: int, record: Create) -> Outcome:
        """Apply the record."""
        name = record.name
        if record.inode == ROOT or not name:
            return self._create_root(timestamp, record)
        if len(name) > NAME_BYTES_MAX:
            return REFUSED[Reason.NAME_TOO_LONG]
        parent_key = U64.pack(record.parent)
        parent_row = self._inodes.get_row(parent_key)
        if parent_row is None:
            return REFUSED[Reason.ABSENT]
        parent = Attributes.unpack(parent_row[1])
        if not is_directory(parent.mode):
            return REFUSED[Reason.NOT_A_DIRECTORY]
        if parent.nlink == 0:
            return REFUSED[Reason.ABSENT]
        key = parent_key + name + b"\0"
        if self._entries.get(key) is not None:
            return REFUSED[Reason.EXISTS]
        inode, mode = record.inode, record.mode
        directory = is_directory(mode)
        if directory and parent.nlink >= LINKS_MAX:
            return REFUSED[Reason.TOO_MANY_LINKS]
        own = self._rows.is_own(inode)
        if not own and not directory:
            return REFUSED[Reason.CROSS_SHARD]
        if self._inodes.get(U64.pack(inode)) is not None:
            return REFUSED[Reason.MALFORMED]  # It is another's; numbers are given out once.
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
        self._inodes.insert(U64.pack(inode), timestamp, attributes.pack())
        if mode & TYPE_MASK == SYMLINK:
            self._table.put(b"S" + U64.pack(inode), record.target)
        self._rows.name(inode, key)
        binding = Binding(inode, first, 1, mode & TYPE_MASK, CREATED).pack()
        if dead is None:
            self._entries.insert(key, timestamp, binding)
        else:
            self._entries.replace(key, timestamp, binding, None)
        self._rows.touch(record.parent, parent, parent_row, timestamp, nlink=1 if directory else 0)
        self._rows.journal(timestamp, record.parent)
        if not own:
            return DONE  # It is counted where it lives.
        counters = self._counters
        counters.live_inodes += 1
        counters.live_bytes += attributes.size
        self._quotas.add(record.parent, attributes.size)
        if inode >= counters.next_inode:
            counters.next_inode = inode + 1
        return DONE

    def create_unnamed(self, timestamp: int, _address: int, record: CreateUnnamed) -> Outcome:
        """Apply the record. Until a name is linked, a ``U`` row says that nobody would miss the inode."""
        inode, now_ns = record.inode, timestamp * 1000
        key = U64.pack(inode)
        if record.mode & TYPE_MASK != REGULAR or self._inodes.get(key) is not None:
            return REFUSED[Reason.MALFORMED]
        if not self._rows.is_own(inode):
            return REFUSED[Reason.CROSS_SHARD]
        owner = record.mode, record.uid, record.gid
        attributes = Attributes(*owner, 0, 0, 0, now_ns, now_ns, now_ns, 0, 0, 0, 0, 0)
        self._inodes.insert(key, timestamp, attributes.pack())
        self._table.put(b"U" + key, b"")
        self._rows.forgetting.unnamed(inode, timestamp)
        self._counters.next_inode = max(self._counters.next_inode, inode + 1)
        return DONE

    def reserve(self, _timestamp: int, _address: int, record: Reserve) -> Outcome:
        """Apply the record: what it set aside ends at `counters.next_inode`."""
        if not 0 <= record.count <= RESERVED_MAX:
            return REFUSED[Reason.MALFORMED]
        self._counters.next_inode += record.count
        return DONE

    def link(self, timestamp: int, _address: int, record: Link) -> Outcome:
        """Apply the record."""
        parent_row, parent = self._rows.directory(record.parent)
        if parent_row is None or parent is None:
            return REFUSED[Reason.ABSENT]
        row = self._inodes.get_row(U64.pack(record.inode))
        if row is None:
            return REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if is_directory(attributes.mode):
            return REFUSED[Reason.NOT_PERMITTED]
        is_first = attributes.never_had_a_name
        if attributes.nlink == 0 and not is_first:
            return REFUSED[Reason.ABSENT]
        if attributes.nlink >= LINKS_MAX:
            return REFUSED[Reason.TOO_MANY_LINKS]
        if len(record.name) > NAME_BYTES_MAX:
            return REFUSED[Reason.NAME_TOO_LONG]
        if self._entries.get(entry_key(record.parent, record.name)) is not None:
            return REFUSED[Reason.EXISTS]
        cause = CREATED if is_first else LINKED
        self._bind(record.parent, record.name, timestamp, record.inode, attributes, cause)
        if is_first:
            self._table.delete(b"U" + U64.pack(record.inode))
            self._counters.live_inodes += 1
            self._counters.live_bytes += attributes.size
            self._quotas.add(record.parent, attributes.size)
        else:
            self._quotas.move(attributes.parent, record.parent, attributes.size)
        attributes.nlink += 1
        attributes.ctime_ns = timestamp * 1000
        attributes.parent = record.parent
        self._inodes.replace(U64.pack(record.inode), timestamp, attributes.pack(), row)
        self._rows.touch(record.parent, parent, parent_row, timestamp)
        self._rows.journal(timestamp, record.parent)
        return DONE

    def unlink(self, timestamp: int, _address: int, record: Unlink) -> Outcome:
        """Apply the record."""
        key = entry_key(record.parent, record.name)
        row = self._entries.get_row(key)
        if row is None:
            return REFUSED[Reason.ABSENT]
        binding = Binding.unpack(row[1])
        directory = is_directory(binding.mode)
        if directory and not record.directory:
            return REFUSED[Reason.IS_A_DIRECTORY]
        if record.directory and not directory:
            return REFUSED[Reason.NOT_A_DIRECTORY]
        if directory and not self._rows.is_own(binding.inode):
            return REFUSED[
                Reason.CROSS_SHARD
            ]  # Whether it is empty is known in its own shard: Close, Detach.
        if directory and self._questions.has_children(binding.inode):
            return REFUSED[Reason.NOT_EMPTY]
        self._remove(timestamp, record.parent, key, row, binding)
        return DONE

    def detach(self, timestamp: int, _address: int, record: Detach) -> Outcome:
        """Apply the record."""
        key = entry_key(record.parent, record.name)
        row = self._entries.get_row(key)
        if row is None or Binding.unpack(row[1]).inode != record.inode:
            return REFUSED[Reason.ABSENT]
        if self._rows.is_own(record.inode):
            return REFUSED[Reason.MALFORMED]
        self._remove(timestamp, record.parent, key, row, Binding.unpack(row[1]))
        return DONE

    def close(self, timestamp: int, _address: int, record: Close) -> Outcome:
        """Apply the record."""
        key = U64.pack(record.inode)
        row = self._inodes.get_row(key)
        if row is None:
            return REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if self._rows.is_own(attributes.parent) or record.inode == ROOT:
            return REFUSED[Reason.MALFORMED]
        if attributes.nlink == 0:
            return DONE
        if self._questions.has_children(record.inode):
            return REFUSED[Reason.NOT_EMPTY]
        self._drop_link(timestamp, record.inode)
        return DONE

    def _remove(
        self, timestamp: int, directory: int, key: bytes, row: tuple[int, bytes], binding: Binding
    ) -> None:
        """A name ends that may."""
        parent_row, parent = self._rows.directory(directory)
        assert parent_row is not None, "a bound entry's directory exists"
        assert parent is not None
        tombstone = Tombstone(self._questions.number_of(binding) + 1, REMOVED)
        self._unbind(key, timestamp, row, binding, tombstone)
        self._drop_link(timestamp, binding.inode)
        nlink = -1 if is_directory(binding.mode) else 0
        self._rows.touch(directory, parent, parent_row, timestamp, nlink)
        self._rows.journal(timestamp, directory)

    def rename(self, timestamp: int, _address: int, record: Rename) -> Outcome:
        """Apply the record."""
        source_key = entry_key(record.parent, record.name)
        source_row = self._entries.get_row(source_key)
        if source_row is None:
            return REFUSED[Reason.ABSENT]
        if len(record.new_name) > NAME_BYTES_MAX:
            return REFUSED[Reason.NAME_TOO_LONG]
        source = Binding.unpack(source_row[1])
        _, new_parent = self._rows.directory(record.new_parent)
        if new_parent is None:
            return REFUSED[Reason.ABSENT]
        if is_directory(source.mode) and self._questions.is_below(record.new_parent, source.inode):
            return REFUSED[Reason.MALFORMED]
        target = self._questions.binding(record.new_parent, record.new_name)
        if record.flags & RENAME_EXCHANGE:
            return self._exchange(timestamp, record, source_row, source, target)
        if target is not None:
            if record.flags & RENAME_NOREPLACE:
                return REFUSED[Reason.EXISTS]
            if target.inode == source.inode:
                return DONE  # POSIX rename(): two names of one file, nothing happens
            refusal = self._replaceable(source, target)
            if refusal is not None:
                return REFUSED[refusal]
        moved = is_directory(source.mode)
        if moved and self._region(record.parent) != self._region(record.new_parent):
            return REFUSED[Reason.CROSS_SHARD]
        if moved and not self._quotas.may_move(record.parent, record.new_parent):
            return REFUSED[Reason.CROSS_QUOTA]
        attributes = self._questions.attributes(source.inode)
        assert attributes is not None
        source_number = self._questions.number_of(source)
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
        self._rows.touch_now(record.parent, timestamp, nlink=-1 if moved else 0)
        self._rows.touch_now(
            record.new_parent, timestamp, nlink=1 if moved and not replaced_directory else 0
        )
        self._rows.journal(timestamp, record.parent, record.new_parent)
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
            return REFUSED[Reason.ABSENT]
        if is_directory(target.mode) and self._questions.is_below(record.parent, target.inode):
            return REFUSED[Reason.MALFORMED]
        if target.inode == source.inode:
            return DONE
        moved = is_directory(source.mode) or is_directory(target.mode)
        if moved and self._region(record.parent) != self._region(record.new_parent):
            return REFUSED[Reason.CROSS_SHARD]
        if moved and not self._quotas.may_move(record.parent, record.new_parent):
            return REFUSED[Reason.CROSS_QUOTA]
        here, there = (record.parent, record.name), (record.new_parent, record.new_name)
        for directory, name, inode, origin in (
            (*here, target.inode, there),
            (*there, source.inode, here),
        ):
            attributes = self._questions.attributes(inode)
            assert attributes is not None
            self._bind(directory, name, timestamp, inode, attributes, MOVED, origin)
            self._rehome(timestamp, inode, directory)
        shift = int(is_directory(target.mode)) - int(is_directory(source.mode))
        self._rows.touch_now(record.parent, timestamp, nlink=shift)
        self._rows.touch_now(record.new_parent, timestamp, nlink=-shift)
        self._rows.journal(timestamp, record.parent, record.new_parent)
        return DONE

    def _replaceable(self, source: Binding, target: Binding) -> Reason | None:
        if is_directory(target.mode):
            if not is_directory(source.mode):
                return Reason.IS_A_DIRECTORY
            if not self._rows.is_own(target.inode):
                return Reason.CROSS_SHARD
            if self._questions.has_children(target.inode):
                return Reason.NOT_EMPTY
        elif is_directory(source.mode):
            return Reason.NOT_A_DIRECTORY
        return None

    def _region(self, directory: int) -> int:
        """The root or shard root that a directory lies below without a border between.

        A directory never leaves its region. So no two renames in two shards can make a directory lie below itself, and
        within a region `is_below` sees the whole way.
        """
        while True:
            attributes = self._questions.attributes(directory)
            if attributes is None or not self._rows.is_own(attributes.parent) or directory == ROOT:
                return directory
            if attributes.parent == 0:
                return directory
            directory = attributes.parent

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
        key = entry_key(directory, name)
        old = self._entries.get_row(key)
        if old is not None:
            binding = Binding.unpack(old[1])
            number = self._questions.number_of(binding)
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
        if old is not None:
            self._rows.unname(binding.inode, key)
        self._rows.name(inode, key)
        if self._events.any and attributes.content:
            self._events.carry(key, new, attributes, timestamp)

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
                b"V" + key + U64.pack(MAX - tombstone.number),
                U64.pack(timestamp) + b"\0" + tombstone.pack(),
            )
        self._entries.delete(key, timestamp, tombstone.pack())
        self._rows.forgetting.removed(key, timestamp)
        self._rows.unname(binding.inode, key)

    def _remember(self, key: bytes, since: int, binding: Binding, last_number: int) -> None:
        """Keep a binding that ends reachable by number, unless it never had a version."""
        if self._keep_past and last_number >= binding.first:
            self._table.put(
                b"V" + key + U64.pack(MAX - binding.first),
                U64.pack(since) + b"\1" + binding.pack(),
            )

    def _drop_link(self, timestamp: int, inode: int) -> None:
        key = U64.pack(inode)
        row = self._inodes.get_row(key)
        assert row is not None, "a bound inode exists"
        attributes = Attributes.unpack(row[1])
        attributes.nlink = 0 if is_directory(attributes.mode) else attributes.nlink - 1
        attributes.ctime_ns = timestamp * 1000
        if attributes.nlink == 0 and self._rows.is_own(inode):
            self._counters.live_inodes -= 1
            self._counters.live_bytes -= attributes.size
            self._quotas.add(attributes.parent, -attributes.size)
        if attributes.nlink == 0:
            self._rows.forgetting.nameless(inode, timestamp, attributes.stored)
        self._inodes.replace(key, timestamp, attributes.pack(), row)

    def _rehome(self, timestamp: int, inode: int, directory: int) -> None:
        """Note that an inode's newest name lives in `directory`; its ctime moves."""
        key = U64.pack(inode)
        row = self._inodes.get_row(key)
        assert row is not None, "a bound inode exists"
        attributes = Attributes.unpack(row[1])
        if not is_directory(attributes.mode):
            self._quotas.move(attributes.parent, directory, attributes.size)
        attributes.parent = directory
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(key, timestamp, attributes.pack(), row)
