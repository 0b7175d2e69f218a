"""What files hold: commits laid over what was, in rows of pieces, one row a chunk.

A truncation to nothing touches no row: the inode's generation goes up, and rows of the next content have a new prefix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from storage import extents
from storage.attributes import REGULAR, TYPE_MASK, Attributes
from storage.errors import Reason
from storage.limits import CHUNK_BYTES, FILE_BYTES_MAX, PIECES_PER_CHUNK_MAX
from storage.namespace.keys import CHUNK_KEY, CONTENT_KEY, CONTENT_ROW, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome
from storage.namespace.questions import KEPT
from storage.record import SELF

if TYPE_CHECKING:
    from storage.namespace.frames import Frames
    from storage.namespace.questions import Questions
    from storage.namespace.quotas import Quotas
    from storage.namespace.rows import Rows
    from storage.record import Commit

__all__ = ["Contents"]

Pieces: TypeAlias = list[tuple[int, int, int, int]]
"""The pieces of a chunk (`storage.extents`)."""

OVERLONG_MAX = 4096
"""Inodes remembered to have an overlong row: found again by the next commit to them, so all may be forgotten."""


class Contents:
    """Applies commits to the rows.

    Attributes:
        overlong: Chunks whose rows have grown long, by inode, for the next commit to shorten: forgotten at a
            restart, found again.
        released: Without a past, frames that nothing refers to any more; the owner of the payloads takes them.
    """

    def __init__(self, rows: Rows, questions: Questions, frames: Frames, quotas: Quotas) -> None:
        self._rows = rows
        self._frames = frames
        self._quotas = quotas
        self._questions = questions
        self._table = rows.table
        self._keep_past = rows.keep_past
        self._inodes = rows.inodes
        self._entries = rows.entries
        self._chunks = rows.chunks
        self._xattrs = rows.xattrs
        self._labels = rows.labels
        self._counters = rows.counters
        self.overlong: dict[int, set[tuple[int, int]]] = {}
        # Without a past nothing but the live pieces refers to a frame: count them, so payloads can be let go.
        self._references: dict[int, int] = {}
        self.released: list[int] = []
        self._counted: list[tuple[Pieces, Pieces]] | None = None
        self._released_before = 0

    def recount(self) -> None:
        """The table is another than it was: count its live pieces."""
        assert not self._keep_past
        self._references.clear()
        self.released.clear()
        self.overlong.clear()
        self._counted = None
        for _, _, row in self._chunks.scan(b""):
            self._count([], extents.unpack(row))

    def note(self) -> None:
        """Note from here on what is counted, until `keep` or `undo`."""
        self._counted = []
        self._released_before = len(self.released)

    def keep(self) -> None:
        """Note no more."""
        self._counted = None

    def undo(self) -> None:
        """Count back what was counted since `note`: what nobody refers to now is what came since then."""
        assert self._counted is not None
        counted, self._counted = self._counted, None
        del self.released[self._released_before :]  # What was forgotten before stays so.
        for old, new in reversed(counted):
            self._count(new, old)

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

    def commit(self, timestamp: int, address: int, record: Commit) -> Outcome:
        """Apply the record."""
        inode = record.inode
        key = U64.pack(inode)
        row = self._inodes.get_row(key)
        if row is None:
            return REFUSED[Reason.ABSENT]
        attributes = Attributes.unpack(row[1])
        if attributes.mode & TYPE_MASK != REGULAR:
            return REFUSED[Reason.MALFORMED]
        if not attributes.nlink and self._questions.content_state(inode, attributes.content):
            return REFUSED[Reason.ABSENT]  # Nothing is left to lay it over.
        if record.size > FILE_BYTES_MAX:
            return REFUSED[Reason.TOO_LARGE]
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
                b"K" + CONTENT_KEY.pack(inode, attributes.content),
                CONTENT_ROW.pack(attributes.content_timestamp, KEPT, before),
            )
        if attributes.nlink:
            self._counters.live_bytes += record.size - attributes.size
            self._quotas.add(attributes.parent, record.size - attributes.size)
        attributes.content += 1
        attributes.content_timestamp = timestamp
        attributes.size = record.size
        attributes.mtime_ns = record.mtime_ns
        attributes.ctime_ns = max(attributes.ctime_ns, record.changed_ns)
        self._inodes.replace(key, timestamp, attributes.pack(), row)
        self._rows.journal(timestamp, attributes.parent)
        return DONE

    def _cut(self, timestamp: int, inode: int, attributes: Attributes, keep: int) -> None:
        """Drop the bytes from `keep` on. To nothing is the common case and touches no row: a new generation."""
        if keep == 0:
            if not self._keep_past:
                for chunk, pieces in list(self._questions.chunks(inode, attributes.generation)):
                    self._put_chunk(timestamp, inode, attributes, chunk, pieces, [])
            attributes.generation += 1
            attributes.stored = 0
            return
        border, within = divmod(keep, CHUNK_BYTES)
        for chunk, pieces in list(
            self._questions.chunks(inode, attributes.generation, None, border - 1)
        ):
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
        is_own = self._rows.batched is None
        for offset, length, place, payload_offset in record.extents:
            at = address if place == SELF else place
            is_own = is_own and place == SELF
            for chunk, start, size, done in extents.split_by_chunk(offset, length):
                piece = (start, size, at, payload_offset + done)
                by_chunk.setdefault(chunk, []).append(piece)
        # The common commit has one frame in one chunk, which is what a frame without a count has.
        is_plain = not self._keep_past or (is_own and len(by_chunk) == 1)
        counted: dict[int, int] | None = None if is_plain else {}
        for chunk, added in by_chunk.items():
            old = [] if fresh else self._questions.pieces(inode, attributes.generation, chunk)
            new = extents.overlay_all(old, added)
            self._put_chunk(timestamp, inode, attributes, chunk, old, new, fresh=fresh)
            if counted is not None:
                for held in {piece[2] for piece in new} - {piece[2] for piece in old}:
                    counted[held] = counted.get(held, 0) + 1
        if counted is not None:
            for held, holders in counted.items():
                self._frames.named(held, holders, is_own=held == address)

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
        key = CHUNK_KEY.pack(inode, attributes.generation, chunk)
        if new:
            put = self._chunks.insert if fresh else self._chunks.put
            put(key, timestamp, extents.pack(new))
            if len(new) > PIECES_PER_CHUNK_MAX:
                if len(self.overlong) >= OVERLONG_MAX:
                    self.overlong.clear()
                self.overlong.setdefault(inode, set()).add((attributes.generation, chunk))
        elif old:
            self._rows.remove(self._chunks, key, timestamp)
        attributes.stored += extents.bytes_stored(new) - extents.bytes_stored(old)
        if not self._keep_past:
            self._count(old, new)

    def _count(self, old: Pieces, new: Pieces) -> None:
        references = self._references
        if self._counted is not None:
            self._counted.append((old, new))
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
        attributes = self._questions.attributes(inode)
        if attributes is None or attributes.nlink:
            return
        if attributes.stored:
            self._cut(timestamp, inode, attributes, 0)
        key = U64.pack(inode)
        # All that is filed under the number, tombstones too: it never comes back, so nobody will ask.
        for name in self._questions.xattrs(inode):
            self._xattrs.erase(entry_key(inode, name))
        for label, _ in self._questions.labels(inode):
            self._labels.erase(entry_key(inode, label))
        for name in [name for name, _, _ in self._questions.deleted(inode)]:
            self._entries.erase(entry_key(inode, name))
        self._table.delete(b"S" + key)
        self._table.delete(b"U" + key)
        self._inodes.erase(key)
        self.overlong.pop(inode, None)
