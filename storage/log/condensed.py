"""Condensed segments: files from which dead payloads were left out, and which read as if zeros were there.

A segment that lost most of its payloads is written again without them. Every frame keeps its index, its head and its
address: a table at the end of the file says which ranges of the segment are *gaps*, and `Condensed` answers reads at
the old offsets. So nothing outside this module knows: no row of the index changes, and the log can be replayed as ever.

The new file is complete and on the disk before it takes the old one's name, and readers of the old one keep that. A
crash leaves one or the other, and perhaps a file with another name, which is ignored and written over.

Layout (FORMAT, "Condensed segments"): the header block, with format version 2; what is not in gaps, from the first
frame to the last; the gaps; a footer. A plain segment ends in eight zero bytes, if it is not a short last one; a
condensed one in a magic.

Sources: the sparse files of ext4 and XFS, which give back whole blocks only; bitcask's merge for rewriting sealed files.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.codec import (
    BLOCK_BYTES,
    CONDENSED_VERSION,
    FORMAT_VERSION,
    HEAD_BYTES,
    SLOT_OFFSETS,
    Slot,
    UnknownVersion,
    checksum,
    decode_slot,
    encode_block,
)
from storage.errors import Corruption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from storage.codec import Buffer
    from storage.disk import Disk, File
    from storage.log.reader import Frame

__all__ = [
    "Condensed",
    "Gap",
    "condensed_size",
    "gaps_of",
    "write_condensed",
    "write_plain",
]

_MAGIC: Final = b"condense"
_FOOTER = struct.Struct("<QQQQ8s")
_GAP_ITEMS: Final = 2
_GAP_BYTES: Final = 8

COPY_BYTES: Final = 256 * 1024
"""Copied at once; a thread that copies lets others go on between two."""


class Gap(NamedTuple):
    """A range of a segment that reads as zeros and is not in its file; payload and padding of one frame."""

    start: int
    length: int


class Condensed:
    """A condensed segment, open for reading as the segment it was. A `File`, less what changes or maps files."""

    def __init__(self, file: File, name: str, segment_bytes: int, size: int) -> None:
        """Read the table.

        Raises:
            Corruption: the table is damaged.
        """
        self._file = file
        self.physical_bytes = size
        self._segment_bytes = segment_bytes
        footer = file.pread(_FOOTER.size, size - _FOOTER.size)
        count, at, self.data_end, found, _ = _FOOTER.unpack(footer)
        table = b""
        if at + count * _GAP_BYTES + _FOOTER.size == size:
            table = file.pread(size - _FOOTER.size - at, at)
        if (not table and count) or checksum(table + footer[:24]) != found:
            raise Corruption(
                f"{name}: its table of what was left out is damaged; put the file back from a copy"
            )
        numbers = array("I", table)
        self._starts = numbers[0::_GAP_ITEMS]
        self._lengths = numbers[1::_GAP_ITEMS]
        # What lies behind the last frame was never written.
        self._starts.append(self.data_end)
        self._lengths.append(segment_bytes - self.data_end)
        self._gone = array("Q", [0])
        for length in self._lengths:
            self._gone.append(self._gone[-1] + length)

    @staticmethod
    def is_at_end_of(file: File, size: int) -> bool:
        """Whether a file of that size is a condensed segment.

        A last segment may be short and end in a record's own bytes, which may be anything: where a copy of the header
        is whole, it decides.
        """
        if size < BLOCK_BYTES + _FOOTER.size:
            return False
        if file.pread(len(_MAGIC), size - len(_MAGIC)) != _MAGIC:
            return False
        block = file.pread(BLOCK_BYTES, 0)
        try:
            slots = [decode_slot(block, offset) for offset in SLOT_OFFSETS]
        except UnknownVersion:
            return False  # Whoever reads the header says so.
        versions = {slot.version for slot in slots if slot is not None}
        return not versions or CONDENSED_VERSION in versions

    def gaps(self) -> list[Gap]:
        """What was left out, ascending."""
        return [
            Gap(start, length)
            for start, length in zip(self._starts[:-1], self._lengths[:-1], strict=True)
        ]

    def is_gap(self, start: int) -> bool:
        """Whether the byte at an offset was left out."""
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and start < self._starts[place] + self._lengths[place]

    def place(self, start: int, length: int) -> int | None:
        """Where a range that is in no gap lies in the file; None if a gap is in the way."""
        place = bisect_right(self._starts, start)
        if place and start < self._starts[place - 1] + self._lengths[place - 1]:
            return None
        if place < len(self._starts) and start + length > self._starts[place]:
            return None
        return start - self._gone[place]

    def size(self) -> int:
        """The size of the segment."""
        return self._segment_bytes

    def pread(self, length: int, offset: int) -> bytes:
        """See `File`."""
        length = min(length, self._segment_bytes - offset)
        if length <= 0:
            return b""
        at = self.place(offset, length)
        if at is not None:
            return self._file.pread(length, at)
        parts = []
        end = offset + length
        for start, stop, is_gap in self._ranges(offset):
            take = min(stop, end) - start
            if take <= 0:
                break
            if is_gap:
                parts.append(bytes(take))
            else:
                found = self.place(start, take)
                assert found is not None, "between two gaps there is none"
                parts.append(self._file.pread(take, found))
        return b"".join(parts)

    def _ranges(self, offset: int) -> Iterator[tuple[int, int, bool]]:
        """(start, end, whether a gap) from an offset to the end of the segment."""
        place = max(bisect_right(self._starts, offset) - 1, 0)
        at = offset
        for start, length in zip(self._starts[place:], self._lengths[place:], strict=True):
            if start > at:
                yield at, start, False
                at = start
            if start + length > at:
                yield at, start + length, True
                at = start + length

    def data_ranges(self, offset: int) -> Sequence[tuple[int, int]]:
        """See `File`."""
        return [(start, end) for start, end, is_gap in self._ranges(offset) if not is_gap]

    def map(self) -> memoryview:
        """The bytes of the file as they lie there; `place` says what is where."""
        return self._file.map()

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """A condensed segment is not written to."""
        raise AssertionError(f"{len(buffers)} buffers for offset {offset} of a condensed segment")

    def fdatasync(self) -> None:
        """See `File`."""
        self._file.fdatasync()

    def preallocate(self, size: int) -> None:
        """A condensed segment does not grow."""
        raise AssertionError(f"a condensed segment asked to be {size} bytes long")

    def truncate(self, size: int) -> None:
        """A condensed segment is not cut."""
        raise AssertionError(f"a condensed segment asked to be {size} bytes long")

    def close(self) -> None:
        """See `File`."""
        self._file.close()


def gaps_of(
    frames: Iterable[Frame], base: int, source: File, dead: frozenset[int]
) -> tuple[list[Gap], int]:
    """The gaps of a segment, which begins at an address, without the payloads of dead frames; and where the last ends.

    What was left out of it before stays so.
    """
    left_out = {gap.start for gap in source.gaps()} if isinstance(source, Condensed) else set()
    gaps = []
    end = BLOCK_BYTES
    for frame in frames:
        end = frame.address - base + frame.size_bytes
        start = frame.address - base + HEAD_BYTES + len(frame.metadata)
        is_worth_it = frame.payload_length and end - start > _GAP_BYTES
        if is_worth_it and (frame.address in dead or start in left_out):
            gaps.append(Gap(start, end - start))
    return gaps, end


def condensed_size(gaps: list[Gap], data_end: int) -> int:
    """How long a condensed segment is."""
    gone = sum(gap.length for gap in gaps)
    return data_end - gone + len(gaps) * _GAP_BYTES + _FOOTER.size


def write_condensed(
    disk: Disk, name: str, source: File, slot: Slot, gaps: list[Gap], data_end: int
) -> int:
    """Put a condensed segment in the place of a segment, on the disk when this returns; its size.

    Raises:
        OSError: the disk refused, perhaps for want of space; the segment is as it was.
    """
    table = array("I", [number for gap in gaps for number in gap]).tobytes()

    def write(file: File) -> int:
        at = _append(file, encode_block(slot._replace(version=CONDENSED_VERSION)), 0)
        start = BLOCK_BYTES
        for gap in [*gaps, Gap(data_end, 0)]:
            at = _copy(source, file, start, gap.start, at)
            start = gap.start + gap.length
        footer = _FOOTER.pack(len(gaps), at, data_end, 0, _MAGIC)[:24]
        ending = table + footer + checksum(table + footer).to_bytes(8, "little") + _MAGIC
        return _append(file, ending, at)

    return _replace(disk, name, write)


def write_plain(disk: Disk, name: str, source: Condensed, slot: Slot) -> None:
    """Put a plain segment, with zeros for gaps, in the place of a condensed one.

    Raises:
        OSError: the disk refused; the segment is as it was.
    """

    def write(file: File) -> int:
        file.preallocate(source.size())
        _append(file, encode_block(slot._replace(version=FORMAT_VERSION)), 0)
        for start, end in source.data_ranges(BLOCK_BYTES):
            _copy(source, file, start, end, start)
        return source.size()

    _replace(disk, name, write)


def _replace(disk: Disk, name: str, write: Callable[[File], int]) -> int:
    new = name + ".new"
    try:
        file = disk.open(new, create=True)
        try:
            file.truncate(0)
            size = write(file)
            file.fdatasync()
        finally:
            file.close()
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(new)
        raise
    disk.rename(new, name)
    disk.sync_directory(name.rpartition("/")[0])
    return size


def _copy(source: File, target: File, start: int, end: int, at: int) -> int:
    """Copy a range; where the copy ends."""
    while start < end:
        data = source.pread(min(COPY_BYTES, end - start), start)
        assert data, "a segment is as long as it says"
        at = _append(target, data, at)
        start += len(data)
    return at


def _append(file: File, data: bytes, at: int) -> int:
    while data:
        written = file.pwritev([data], at)
        data, at = data[written:], at + written
    return at
