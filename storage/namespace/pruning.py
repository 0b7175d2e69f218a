"""The records that let history go, and the sweep that gives back what nothing shows any more.

A `Prune` record only marks contents (``K`` rows): from then on they are refused, wherever they are asked for, and their
records stay known. The rows of pieces that only they showed are then dropped by `Sweep`, a bounded number at a time.
The sweep is no record: nobody can see what it drops, so every holder of a log may do it when it likes, and an index
built again from the log does it again. ``Q`` rows remember which inodes wait for it.

Sources: SEMANTICS 7.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from storage.attributes import REGULAR, TYPE_MASK
from storage.binding import Binding
from storage.errors import Reason
from storage.limits import PRUNED_CONTENTS_MAX
from storage.namespace.keys import CHUNK_KEY, CONTENT_KEY, CONTENT_ROW, MAX, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome
from storage.namespace.questions import KEPT, PRUNED, PURGED

if TYPE_CHECKING:
    from storage.attributes import Attributes
    from storage.mvcc import Row
    from storage.namespace.events import Events
    from storage.namespace.frames import Frames
    from storage.namespace.questions import Questions
    from storage.namespace.rows import Rows
    from storage.record import Drop, Prune

__all__ = ["Pruning", "Sweep"]


class Pruning:
    """Applies the records of retention to the rows."""

    def __init__(self, rows: Rows, questions: Questions, events: Events) -> None:
        self._rows = rows
        self._questions = questions
        self._events = events
        self._table = rows.table

    def prune(self, timestamp: int, _address: int, record: Prune) -> Outcome:
        """Apply the record. The newest content of a file that has a name is never pruned."""
        attributes = self._questions.attributes(record.inode)
        if attributes is None:
            return REFUSED[Reason.ABSENT]
        newest = attributes.content - 1 if attributes.nlink else attributes.content
        count = sum(last - first + 1 for first, last in record.contents)
        bounded = all(1 <= first <= last <= newest for first, last in record.contents)
        if attributes.mode & TYPE_MASK != REGULAR or not bounded or count > PRUNED_CONTENTS_MAX:
            return REFUSED[Reason.MALFORMED]
        for first, last in record.contents:
            for content in range(first, last + 1):
                self._mark(record.inode, attributes, content, PURGED if record.purged else PRUNED)
        self._await_sweep(record.inode, timestamp)
        return DONE

    def _mark(self, inode: int, attributes: Attributes, content: int, state: int) -> None:
        key = b"K" + CONTENT_KEY.pack(inode, content)
        row = self._table.get(key)
        if row is None:
            assert content == attributes.content, "only the newest content has no row of its own"
            row = CONTENT_ROW.pack(attributes.content_timestamp, KEPT, attributes.generation)
        timestamp, before, generation = CONTENT_ROW.unpack(row)
        if before == KEPT:
            self._rows.counters.pruned_contents += 1
        self._table.put(key, CONTENT_ROW.pack(timestamp, max(before, state), generation))

    def _await_sweep(self, inode: int, timestamp: int) -> None:
        self._table.put(b"Q" + U64.pack(inode), U64.pack(timestamp))

    def drop(self, timestamp: int, _address: int, record: Drop) -> Outcome:
        """Apply the record: only to a name that is gone, and to inodes that have no name."""
        rows = self._rows
        key = entry_key(record.directory, record.name)
        if rows.entries.get(key) is not None or len(record.inodes) > PRUNED_CONTENTS_MAX:
            return REFUSED[Reason.MALFORMED]
        for inode in record.inodes:
            attributes = self._questions.attributes(inode)
            if attributes is None or attributes.nlink:
                return REFUSED[Reason.MALFORMED]
        for row in list(rows.entries.history(key)):
            if row.value is not None:
                self._table.delete(b"N" + U64.pack(Binding.unpack(row.value).inode) + key)
        rows.entries.erase(key)
        self._erase_range(b"V" + key, b"V" + key + b"\xff" * 9)
        self._events.forget(key, record.inodes)
        for inode in record.inodes:
            number = U64.pack(inode)
            rows.inodes.erase(number)
            for name in self._questions.xattrs(inode):
                rows.xattrs.erase(entry_key(inode, name))
            for letter in (b"K", b"N"):
                self._erase_range(letter + number, letter + U64.pack(inode + 1))
            self._table.delete(b"S" + number)
            self._table.delete(b"U" + number)
            self._await_sweep(inode, timestamp)
        return DONE

    def _erase_range(self, start: bytes, stop: bytes) -> None:
        while (found := self._table.first(start, stop)) is not None:
            self._table.delete(found[0])


class Sweep:
    """Drops rows of pieces that no content shows, and lets go of the frames they held."""

    def __init__(self, rows: Rows, questions: Questions, frames: Frames) -> None:
        self._rows = rows
        self._questions = questions
        self._frames = frames
        self._table = rows.table
        self._inode: _Inode | None = None

    def step(self, rows_max: int) -> bool:
        """Look at so many rows; False when there is nothing left to sweep."""
        while rows_max > 0:
            if self._inode is None:
                self._inode = self._next()
                if self._inode is None:
                    return False
            rows_max -= self._sweep(self._inode, rows_max)
        return True

    def _next(self) -> _Inode | None:
        found = self._table.first(b"Q", b"R")
        if found is None:
            return None
        inode = U64.unpack_from(found[0], 1)[0]
        return _Inode(inode, found[1], self._questions)

    def _sweep(self, state: _Inode, rows_max: int) -> int:
        """Go on with one inode; how many rows were looked at, at least one."""
        if not state.is_listed:
            return state.list_contents(self._questions, rows_max)
        chunks = self._rows.chunks
        if state.key is None or state.behind is None:
            state.key = chunks.next_key(U64.pack(state.inode), state.key or b"")
        if state.key is None:
            row = b"Q" + U64.pack(state.inode)
            if self._table.get(row) == state.asked:
                self._table.delete(row)
            self._inode = None
            return 1
        generation = CHUNK_KEY.unpack(state.key)[1]
        instants = state.instants.get(generation, [])
        horizon = state.horizon if generation >= state.generation else None
        dropped, state.behind, looked = chunks.thin(
            state.key, instants, horizon, state.behind, rows_max
        )
        for gone in dropped:
            self._frames.dropped(gone, U64.unpack(state.asked)[0])
        return max(looked, 1)

    def restart(self) -> None:
        """The table was abandoned or another owner changed it: begin the inode under way again."""
        self._inode = None


class _Inode:
    """How far the sweep of one inode is, and what its contents still show."""

    def __init__(self, inode: int, asked: bytes, questions: Questions) -> None:
        self.inode = inode
        self.asked = asked
        self.key: bytes | None = None
        self.behind: Row | None = None
        self.instants: dict[int, list[int]] = {}
        self.is_listed = False
        self._listed = 0  # The content looked at last.
        # What is committed from now on is in no list of instants: it is spared by its time.
        self.horizon: int | None = None
        self.generation = MAX
        self._newest = questions.attributes(inode)
        if self._newest is None:
            return
        # A file without a name may be open still, and be written to as long as its newest content is kept.
        self._is_newest_kept = not questions.content_state(inode, self._newest.content)
        if self._newest.nlink or self._is_newest_kept:
            self.horizon = self._newest.content_timestamp
            self.generation = self._newest.generation

    def list_contents(self, questions: Questions, rows_max: int) -> int:
        """Go on finding out what is still shown; how many rows were looked at, at least one."""
        newest, looked = self._newest, 0
        if newest is not None:
            behind = questions.contents(self.inode, self._listed, newest.content)
            for content, timestamp, state, generation in islice(behind, rows_max):
                self._listed = content
                looked += 1
                if state == KEPT:
                    self.instants.setdefault(generation, []).append(timestamp)
        self.is_listed = looked < rows_max
        if self.is_listed and newest is not None and newest.content and self._is_newest_kept:
            self.instants.setdefault(newest.generation, []).append(newest.content_timestamp)
        return max(looked, 1)
