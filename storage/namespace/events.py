"""Event time: when what a version tells of happened, where its writer said so (SEMANTICS 3).

A version whose writer said nothing happened when it was committed, and leaves no row here. For the others:

    W  inode  content                         ->  event time
    G  entry  09  number                      ->  event time, number of the newest version before it without one
    G  entry  08  ~event time  ~timestamp     ->  number
    G  entry  01 to 07  the first bytes of ~event time  ->  the earliest timestamp below

So the newest version of the greatest event time <= T is one seek among the ``08`` rows. Among what was known at a
timestamp, the rows above them, a tree of eight levels over the bytes of the event time, tell which branches held anything
then: at most some hundreds of rows are looked at, however long the history is. The ``W`` rows are for renames and links,
by which a content becomes a version of another entry.

Event times are microseconds since 1970, signed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from storage.binding import Binding, Tombstone
from storage.errors import Reason
from storage.namespace.keys import CONTENT_KEY, MAX, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome

if TYPE_CHECKING:
    from storage.attributes import Attributes
    from storage.namespace.questions import Questions
    from storage.namespace.rows import Rows
    from storage.record import Event

__all__ = ["Events"]

_VERSION, _LEAF = b"\x09", b"\x08"
_VERSION_ROW = struct.Struct(">qQ")
_EVENT = struct.Struct(">q")
_END = b"\xff" * 17
"""Behind every row that begins with the key it is appended to."""


class Events:
    """Applies `Event`, and answers what happened when. Without a past nothing is noted."""

    def __init__(self, rows: Rows, questions: Questions) -> None:
        self._table = rows.table
        self._keep_past = rows.keep_past
        self._entries = rows.entries
        self._questions = questions
        self.any = rows.keep_past and self._table.first(b"W", b"X") is not None
        """Whether there is anything to carry along when a name is bound."""

    # --- records -----------------------------------------------------------------------------------------------

    def event(self, timestamp: int, _address: int, record: Event) -> Outcome:
        """Apply the record: to the newest content of a file, as a version of each of its names."""
        attributes = self._questions.attributes(record.inode)
        if attributes is None:
            return REFUSED[Reason.ABSENT]
        if not attributes.content or not -(2**63) <= record.event_us < 2**63:
            return REFUSED[Reason.MALFORMED]
        if not self._keep_past:
            return DONE
        self.any = True
        key = b"W" + CONTENT_KEY.pack(record.inode, attributes.content)
        self._table.put(key, _EVENT.pack(record.event_us))
        for directory, name in self._questions.names_at(record.inode):
            number = self._questions.head(directory, name)
            self._note(entry_key(directory, name), number, record.event_us, timestamp)
        return DONE

    def carry(self, key: bytes, binding: Binding, attributes: Attributes, timestamp: int) -> None:
        """A name, given as its `entry_key`, was bound: what its first version tells of happened when it did before."""
        row = self._table.get(b"W" + CONTENT_KEY.pack(binding.inode, attributes.content))
        if row is not None:
            self._note(key, binding.first, _EVENT.unpack(row)[0], timestamp)

    def forget(self, key: bytes, inodes: list[int]) -> None:
        """Leave no trace of an entry, given as its `entry_key`, and of the contents of inodes."""
        self._erase(b"G" + key, b"G" + key + _END)
        for inode in inodes:
            self._erase(b"W" + U64.pack(inode), b"W" + U64.pack(inode + 1))

    def _note(self, key: bytes, number: int, event_us: int, timestamp: int) -> None:
        base = b"G" + key
        before = self._table.get(base + _VERSION + U64.pack(number - 1))
        plain = number - 1 if before is None else _VERSION_ROW.unpack(before)[1]
        self._table.put(base + _VERSION + U64.pack(number), _VERSION_ROW.pack(event_us, plain))
        place = _descending(event_us)
        leaf = base + _LEAF + place + U64.pack(MAX - timestamp)
        self._table.put(leaf, U64.pack(number))
        for length in range(7, 0, -1):
            branch = base + bytes((length,)) + place[:length]
            if self._table.get(branch) is not None:
                break  # And so are those above it; timestamps increase, so theirs are the earliest.
            self._table.put(branch, U64.pack(timestamp))

    def _erase(self, start: bytes, stop: bytes) -> None:
        while (found := self._table.first(start, stop)) is not None:
            self._table.delete(found[0])

    # --- questions ---------------------------------------------------------------------------------------------

    def event_of(self, directory: int, name: bytes, number: int) -> int | None:
        """The event time that was said of a version; None if none was."""
        row = self._table.get(b"G" + entry_key(directory, name) + _VERSION + U64.pack(number))
        return _VERSION_ROW.unpack(row)[0] if row is not None else None

    def version_by_event(
        self, directory: int, name: bytes, event_us: int, known: int | None = None
    ) -> int | None:
        """The number of the version of the greatest event time <= `event_us`, the higher one of two alike.

        Args:
            directory: of the entry.
            name: of the entry.
            event_us: may lie in the future.
            known: only versions committed at or before this timestamp count; None: all.

        Tombstones are among them, at the time of their commit. None if there is none.
        """
        key = entry_key(directory, name)
        last = MAX if known is None else known
        if last < 0:
            return None
        said = self._said(b"G" + key, event_us, last)
        plain = self._plain(directory, name, key, min(event_us, last))
        found = max((version for version in (said, plain) if version is not None), default=None)
        return found[1] if found is not None else None

    def _plain(
        self, directory: int, name: bytes, key: bytes, timestamp: int
    ) -> tuple[int, int] | None:
        """(when, number) of the newest version as of a timestamp of which no event time was said."""
        row = self._entries.at_row(key, timestamp) if timestamp >= 0 else None
        if row is None:
            return None
        if row.value is None:
            assert row.tombstone is not None
            number = Tombstone.unpack(row.tombstone).number
        else:
            binding = Binding.unpack(row.value)
            then = self._questions.attributes_at(binding.inode, timestamp)
            assert then is not None, "a bound inode has attributes"
            number = binding.version_of(then[1].content)
        said = self._table.get(b"G" + key + _VERSION + U64.pack(number)) if number > 0 else None
        if said is not None:
            number = _VERSION_ROW.unpack(said)[1]
        version = self._questions.version(directory, name, number)
        return (version.timestamp, number) if version is not None else None

    def _said(self, base: bytes, event_us: int, known: int) -> tuple[int, int] | None:
        """(event time, number) of the newest version of the greatest event time that was said, and known."""
        bound = _descending(event_us)
        newest = self._table.first(base + _LEAF + bound, base + _LEAF + _END)
        if newest is None:
            return None
        place = newest[0][-16:-8]
        return self._leaf(base, place, known) or self._below(base, b"", bound, known)

    def _below(
        self, base: bytes, prefix: bytes, bound: bytes, known: int
    ) -> tuple[int, int] | None:
        """The first leaf at or behind `bound`, among those that begin with `prefix`, that was known."""
        length = len(prefix) + 1
        start = max(prefix, bound[:length])
        if length == len(bound):
            return self._leaves(base, prefix, start, known)
        level = base + bytes((length,))
        for row_key, row in self._table.scan(level + start, level + prefix + _END):
            if U64.unpack(row)[0] <= known:
                found = self._below(base, row_key[-length:], bound, known)
                if found is not None:
                    return found
        return None

    def _leaves(
        self, base: bytes, prefix: bytes, start: bytes, known: int
    ) -> tuple[int, int] | None:
        level = base + _LEAF
        while (row := self._table.first(level + start, level + prefix + _END)) is not None:
            place = row[0][-16:-8]
            found = self._leaf(base, place, known)
            if found is not None:
                return found
            start = place + b"\xff" * 9
        return None

    def _leaf(self, base: bytes, place: bytes, known: int) -> tuple[int, int] | None:
        """The newest version at one event time that was known."""
        leaf = base + _LEAF + place
        row = self._table.first(leaf + U64.pack(MAX - known), leaf + b"\xff" * 9)
        if row is None:
            return None
        event_us = MAX - U64.unpack(place)[0] - 2**63
        return event_us, U64.unpack(row[1])[0]


def _descending(event_us: int) -> bytes:
    """An event time as bytes that sort the other way round."""
    event_us = min(max(event_us, -(2**63)), 2**63 - 1)
    return U64.pack(MAX - (event_us + 2**63))
