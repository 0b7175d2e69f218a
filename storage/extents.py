"""Which log bytes make up a byte range: pieces of a chunk (committed) and the dirty map of a draft (not yet).

A *chunk* is `CHUNK_BYTES` of a file. Its row in the index is a sorted list of disjoint *pieces*, each saying that
`length` bytes from `start` (relative to the chunk) are found in the payload of the frame at `address`, from
`offset` on. What no piece covers is a hole and reads as zeros. Rows are values: an overwrite makes a new list, so
the row of every version stays readable by one look-up, whatever the length of the history.

A *draft* is the same idea for bytes not committed yet, at file offsets, where a source may also be memory.

Pure: no I/O, no clock. Does not know who stores the rows.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from sortedcontainers import SortedDict

from storage.limits import CHUNK_BYTES, PIECES_PER_CHUNK_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "DirtyMap",
    "Piece",
    "Span",
    "bytes_stored",
    "clip",
    "mergeable",
    "overlay",
    "overlay_all",
    "pack",
    "split_by_chunk",
    "unpack",
]

_PIECE = struct.Struct("<IIQI")

MANY = 4
"""Pieces laid over a row at once that are worth looking at together."""


class Piece(NamedTuple):
    """`length` bytes at `start` of a chunk are `offset` bytes into the payload of the frame at `address`."""

    start: int
    length: int
    address: int
    offset: int


def pack(pieces: Iterable[tuple[int, int, int, int]]) -> bytes:
    """A chunk's row: 20 bytes a piece, little endian (FORMAT, "Chunk rows")."""
    return b"".join([_PIECE.pack(*piece) for piece in pieces])


def unpack(row: bytes) -> list[tuple[int, int, int, int]]:
    """The pieces of a row, as plain tuples in `Piece` order."""
    return list(_PIECE.iter_unpack(row))


def bytes_stored(pieces: Iterable[tuple[int, int, int, int]]) -> int:
    """How many bytes the pieces cover; holes do not count."""
    return sum(piece[1] for piece in pieces)


def clip(pieces: list[tuple[int, int, int, int]], limit: int) -> list[tuple[int, int, int, int]]:
    """The pieces with everything at or after `limit` cut away."""
    if not pieces or pieces[-1][0] + pieces[-1][1] <= limit:
        return pieces
    return [
        (start, min(length, limit - start), address, offset)
        for start, length, address, offset in pieces
        if start < limit
    ]


def overlay(
    pieces: list[tuple[int, int, int, int]], new: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """The pieces with `new` laid over them: sorted, disjoint, neighbours that continue each other joined."""
    if not pieces:
        return [new]
    start, length, _, _ = new
    end = start + length
    if pieces[-1][0] + pieces[-1][1] <= start:
        result = [*pieces, new]
    else:
        result = []
        tail = []
        for piece in pieces:
            left, size, address, offset = piece
            right = left + size
            if right <= start:
                result.append(piece)
            elif left >= end:
                tail.append(piece)
            else:
                if left < start:
                    result.append((left, start - left, address, offset))
                if right > end:
                    tail.append((end, right - end, address, offset + end - left))
        result.append(new)
        result.extend(tail)
    return _joined(result)


def overlay_all(
    pieces: list[tuple[int, int, int, int]], added: list[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """As `overlay` of each in order. Many that ascend without touching the same bytes take one pass over the row, not one each."""
    if len(added) < MANY or any(one[0] + one[1] > two[0] for one, two in pairwise(added)):
        for piece in added:
            pieces = overlay(pieces, piece)
        return pieces
    kept = []
    passed = 0
    for left, length, address, offset in pieces:
        right = left + length
        while passed < len(added) and added[passed][0] + added[passed][1] <= left:
            passed += 1
        at = passed
        while at < len(added) and added[at][0] < right:
            start, size, _, _ = added[at]
            if left < start:
                kept.append((left, start - left, address, offset))
            offset += start + size - left
            left = start + size
            at += 1
        if left < right:
            kept.append((left, right - left, address, offset))
    return _joined(sorted([*kept, *added]))


def _joined(pieces: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Join neighbours that are also neighbours in the same frame (a range cut in two and never overwritten)."""
    result = [pieces[0]]
    for piece in pieces[1:]:
        last = result[-1]
        if piece[2] == last[2] and piece[0] == last[0] + last[1] and piece[3] == last[3] + last[1]:
            result[-1] = (last[0], last[1] + piece[1], last[2], last[3])
        else:
            result.append(piece)
    return result


def mergeable(pieces: list[tuple[int, int, int, int]]) -> tuple[int, int] | None:
    """The byte range of a chunk worth writing again as one piece, or None while the row is short enough.

    Among the runs of neighbours without a hole, a quarter of the bound long or more, of which the largest is at most
    half: the one that costs the fewest bytes for each piece it saves. So pieces grow in tiers, as in a log-structured
    merge tree: a chunk filled by 2,600 appends of 100 bytes is written again 2.7 times over, by 13,000 of 20 bytes
    4.0 times (16 neighbours of the fewest bytes, whatever their sizes: 22 and 103 times). A row of scattered pieces
    with holes between is left alone until it is sixteen times too long, then filled whole.
    """
    count = len(pieces)
    if count <= PIECES_PER_CHUNK_MAX:
        return None
    if count > 16 * PIECES_PER_CHUNK_MAX:
        return pieces[0][0], pieces[-1][0] + pieces[-1][1]
    least = PIECES_PER_CHUNK_MAX // 4
    best: tuple[int, int] | None = None
    best_cost = float(CHUNK_BYTES)
    for first in range(count - least + 1):
        start = end = pieces[first][0]
        largest = 0
        for saved in range(count - first):
            left, length, _, _ = pieces[first + saved]
            if left != end:
                break
            end += length
            largest = max(largest, length)
            if (
                saved + 1 >= least
                and largest * 2 <= end - start
                and end - start < best_cost * saved
            ):
                best, best_cost = (start, end), (end - start) / saved
    return best


def split_by_chunk(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a byte range at chunk borders: (chunk, start in the chunk, length, distance from `offset`)."""
    done = 0
    while done < length:
        chunk, start = divmod(offset + done, CHUNK_BYTES)
        size = min(CHUNK_BYTES - start, length - done)
        yield chunk, start, size, done
        done += size


class Span:
    """A dirty range of a draft: `length` bytes at file offset `start`, from memory or from the log.

    `data` is bytes, bytearray or memoryview of which bytes `offset .. offset + length` count; None means the
    payload of the frame at `address` from `offset` on.
    """

    __slots__ = ("address", "data", "length", "offset", "start")

    def __init__(
        self,
        start: int,
        length: int,
        data: bytes | bytearray | memoryview | None,
        address: int,
        offset: int,
    ) -> None:
        self.start = start
        self.length = length
        self.data = data
        self.address = address
        self.offset = offset

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.length

    def part(self, start: int, end: int) -> Span:
        """The piece of this span between two file offsets inside it, sharing its source."""
        assert self.start <= start < end <= self.end
        return Span(start, end - start, self.data, self.address, self.offset + start - self.start)

    def view(self) -> memoryview:
        """The bytes of a span in memory, not copied. Valid until the next write to the draft."""
        assert self.data is not None
        return memoryview(self.data)[self.offset : self.offset + self.length]


class DirtyMap:
    """The dirty ranges of one draft: sorted, disjoint.

    Small writes that continue each other are gathered in one buffer up to a chunk, so a program that writes a file in
    4 KiB steps leaves one span per chunk. `memory_bytes` counts what is held in memory, so the owner can bound it.
    """

    __slots__ = ("_last", "_spans", "memory_bytes")

    def __init__(self) -> None:
        # A plain dict while there is one span: most drafts never have a second, and an ordered one costs 5 us.
        self._spans: Any = {}
        # The span written last: where the next small write most likely goes.
        self._last: Span | None = None
        self.memory_bytes = 0

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans.values())

    @property
    def span_bytes(self) -> int:
        """How many bytes are dirty; walks the map only where it is short, else answers its reach."""
        if len(self._spans) <= 64:
            return sum(span.length for span in self._spans.values())
        last: Span = self._spans.peekitem(-1)[1]
        return last.end

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Lay bytes over the map; `data` is kept, not copied, where it starts a new span."""
        length = len(data)
        assert length > 0
        last = self._last
        if (
            last is not None
            and last.start + last.length == offset
            and type(last.data) is bytearray
            and last.offset + last.length == len(last.data)
            and last.length + length <= CHUNK_BYTES
            and not self._overlapping(offset, offset + length)
        ):
            try:
                last.data += data
            except BufferError:
                pass  # somebody still looks at the buffer (`Span.view`): begin a new one
            else:
                last.length += length
                self.memory_bytes += length
                return
        source = bytearray(data) if length < CHUNK_BYTES // 4 else data
        self._insert(Span(offset, length, source, 0, 0))
        self.memory_bytes += length

    def place(self, offset: int, length: int, address: int, payload_offset: int) -> None:
        """Say that a range now lives in the log (staged, or shared with another version)."""
        self._insert(Span(offset, length, None, address, payload_offset))

    def cut(self, size: int) -> None:
        """Forget everything at or after `size`."""
        for span in self._overlapping(size, 2**62):
            self._drop(span)
            if span.start < size:
                self._add(span.part(span.start, size))
        self._last = None

    def shift(self, by: int) -> None:
        """Have everything lie `by` bytes further on, or back."""
        spans = list(self)
        self._spans = {}
        for span in spans:
            span.start += by
            assert span.start >= 0
            self._keep(span)

    def overlapping(self, start: int, end: int) -> list[Span]:
        """The parts of the map inside [start, end), in order."""
        if end <= start:
            return []
        return [
            span.part(max(span.start, start), min(span.end, end))
            for span in self._overlapping(start, end)
        ]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges inside [start, end) that no span covers."""
        found = []
        at = start
        for span in self._overlapping(start, end):
            if span.start > at:
                found.append((at, span.start))
            at = max(at, span.end)
        if at < end:
            found.append((at, end))
        return found

    def _overlapping(self, start: int, end: int) -> list[Span]:
        spans = self._spans
        if type(spans) is dict:
            return [span for span in spans.values() if span.start < end and span.end > start]
        found = []
        at = spans.bisect_right(start) - 1
        if at >= 0:
            before: Span = spans.peekitem(at)[1]
            if before.start + before.length > start:
                found.append(before)
        for key in spans.irange(start, end, inclusive=(False, False)):
            found.append(spans[key])
        return found

    def _insert(self, new: Span) -> None:
        end = new.start + new.length
        for span in self._overlapping(new.start, end):
            self._drop(span)
            if span.start < new.start:
                self._add(span.part(span.start, new.start))
            if span.end > end:
                self._add(span.part(end, span.end))
        self._keep(new)
        self._last = new

    def _keep(self, span: Span) -> None:
        if self._spans and type(self._spans) is dict:
            self._spans = SortedDict(self._spans)
        self._spans[span.start] = span

    def _add(self, span: Span) -> None:
        self._keep(span)
        if span.data is not None:
            self.memory_bytes += span.length

    def _drop(self, span: Span) -> None:
        del self._spans[span.start]
        if span.data is not None:
            self.memory_bytes -= span.length
        if self._last is span:
            self._last = None
