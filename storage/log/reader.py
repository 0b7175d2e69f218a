"""Frames out of segments: their heads in order, their payloads at random.

A head is verified whenever it is read. A payload is verified whole the first time this process touches it and then
remembered as good, in a bounded set. That first read goes through ``pread`` also where the answer will be a slice of
a mapping, because a bad sector is then an `OSError` and not a SIGBUS that ends the process.

Several threads may read at once, and while another appends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from storage.codec import (
    ALIGNMENT_BYTES,
    BLOCK_BYTES,
    FRAME_MAGIC,
    HEAD_BYTES,
    checksum,
    decode_head,
    decode_metadata,
    frame_bytes,
)
from storage.errors import Corruption
from storage.log.segments import Recent, Segments

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

__all__ = ["Frame", "Reader", "Window", "frame_room"]

ZERO_COPY_BYTES: Final = 64 * 1024
"""From this length on a read answers a slice of a mapping. Below, one pread is cheaper than a page fault per page."""

FIRST_TOUCH_BYTES: Final = 8192
"""Read at once with a head not met before: a 4 KiB payload then costs one call."""

WINDOW_BYTES: Final = 4096
"""Read at once while walking heads: one page, which the kernel reads anyway."""

VERIFIED_FRAMES_MAX: Final = 65_536
"""Frames remembered as good, about 10 MiB. When full, all are forgotten: the price is verifying again."""

FIRST_INDEXES_MAX: Final = 16_384
"""Segments whose first index is remembered: a terabyte of log."""

SEARCH_BYTES: Final = 1024 * 1024
"""Read at once while looking for lost frames."""


class Frame(NamedTuple):
    """A record in the log, its payload left where it is."""

    kind: int
    epoch: int
    index: int  # type: ignore[assignment]  # the glossary's word; tuple.index is not wanted here
    timestamp: int
    metadata: bytes
    payload_length: int
    address: int
    payload_checksum: int
    checksum: int
    """Of head and metadata: with index and address, the name of this very record (`Log.open`)."""

    @property
    def size_bytes(self) -> int:
        """Bytes occupied in the log."""
        return frame_bytes(len(self.metadata), self.payload_length)


def frame_room(segment_bytes: int) -> int:
    """Where frames of a segment must end: 8 bytes early, so that the address after a frame is in its segment."""
    return segment_bytes - ALIGNMENT_BYTES


class Reader:
    """Reads one log. Knows one store's identity and shard; everything else found in the files is not a frame."""

    def __init__(self, segments: Segments, identity: int, shard: int) -> None:
        self.segments = segments
        self.identity = identity
        self.shard = shard
        self.segment_bytes = segments.segment_bytes
        self._verified: dict[
            int, tuple[int, int]
        ] = {}  # address -> (payload offset in segment, length)
        self._first_indexes: Recent[int, int | None] = Recent(
            FIRST_INDEXES_MAX, self._read_first_index
        )

    def decode(self, data: bytes, position: int, address: int) -> Frame | None:
        """The frame of an address from bytes that hold its head and metadata; None if it is not one of ours."""
        head = decode_head(data, position)
        if head is None or head.shard != self.shard:
            return None
        end = address % self.segment_bytes + frame_bytes(head.metadata_length, head.payload_length)
        if end > frame_room(self.segment_bytes):
            return None
        metadata = decode_metadata(head, data, position, identity=self.identity, address=address)
        if metadata is None:
            return None
        return Frame(
            head.kind,
            head.epoch,
            head.index,
            head.timestamp,
            metadata,
            head.payload_length,
            address,
            head.payload_checksum,
            head.head_checksum,
        )

    def peek(self, address: int) -> Frame | None:
        """The frame at an address, or None if there is no intact head of this log."""
        return Window(self).frame(address)

    def frame(self, address: int) -> Frame:
        """The frame at an address; `Corruption` if there is no intact head of this log."""
        frame = self.peek(address)
        if frame is None:
            raise self.corruption(address, "there is no intact record head of this log here")
        return frame

    def corruption(self, address: int, what: str) -> Corruption:
        """The exception that names the place."""
        number, offset = divmod(address, self.segment_bytes)
        return Corruption(f"shard {self.shard}, segment {number:016x}, offset {offset}: {what}")

    def payload(self, frame: Frame) -> bytes | None:
        """The whole payload of a frame, or None if it is not what was written; zeros if it was left out."""
        if not frame.payload_length:
            return b"" if frame.payload_checksum == checksum(b"") else None
        number, offset = divmod(frame.address, self.segment_bytes)
        start = offset + HEAD_BYTES + len(frame.metadata)
        data = self.segments.file(number).pread(frame.payload_length, start)
        if self._is_left_out(number, start):
            return data
        if len(data) != frame.payload_length or checksum(data) != frame.payload_checksum:
            return None
        return data

    def whole_payload(self, frame: Frame, left_out: Container[int]) -> bytes | None:
        """See `Log.payload`."""
        number, offset = divmod(frame.address, self.segment_bytes)
        start = offset + HEAD_BYTES + len(frame.metadata)
        if frame.payload_length and (frame.address in left_out or self._is_left_out(number, start)):
            return None
        payload = self.payload(frame)
        if payload is None:
            what = f"the payload of record {frame.index} is not what was written"
            raise self.corruption(frame.address, what)
        return payload

    def head(self, frame: Frame) -> bytes:
        """Head and metadata of a frame, as they lie there."""
        number, offset = divmod(frame.address, self.segment_bytes)
        return self.segments.file(number).pread(HEAD_BYTES + len(frame.metadata), offset)

    def _is_left_out(self, number: int, start: int) -> bool:
        condensed = self.segments.condensed(number)
        return condensed is not None and condensed.is_gap(start)

    def read(self, address: int, offset: int, length: int) -> memoryview | bytes:
        """See `Log.read`."""
        assert offset >= 0
        assert length >= 0
        place = self._verified.get(address)
        if place is None:
            place, payload = self._verify(address)
            self._check_range(address, offset, length, place[1])
            if length < ZERO_COPY_BYTES:
                return payload[offset : offset + length]
        self._check_range(address, offset, length, place[1])
        number = address // self.segment_bytes
        start = place[0] + offset
        if length >= ZERO_COPY_BYTES:
            return self._slice(number, start, length, address)
        data = self.segments.file(number).pread(length, start)
        if len(data) != length:
            raise self.corruption(address, "the segment ends inside this record")
        return data

    def _check_range(self, address: int, offset: int, length: int, payload_length: int) -> None:
        # The caller's offsets come from a derived table, which may be damaged: not a bug, so not an assert.
        if offset + length > payload_length:
            what = f"bytes {offset} to {offset + length} asked of a payload of {payload_length}"
            raise self.corruption(address, what)

    def _slice(self, number: int, start: int, length: int, address: int) -> memoryview:
        view = self.segments.slice(number, start, length)
        if len(view) != length:  # Mapped by a reading process before the segment had its full size.
            self.segments.forget(number)
            view = self.segments.slice(number, start, length)
        if len(view) != length:
            raise self.corruption(address, "the segment ends inside this record")
        return view

    def _verify(self, address: int) -> tuple[tuple[int, int], bytes]:
        """Check head and payload of a frame and remember it as good; answers its place and its payload."""
        window = Window(self, FIRST_TOUCH_BYTES)
        frame = window.frame(address)
        if frame is None:
            raise self.corruption(address, "there is no intact record head of this log here")
        start = address % self.segment_bytes + HEAD_BYTES + len(frame.metadata)
        if frame.payload_length and self._is_left_out(address // self.segment_bytes, start):
            what = f"the payload of record {frame.index} was let go; nothing should ask for it"
            raise self.corruption(address, what)
        payload: bytes | None = window.bytes_at(start, frame.payload_length)
        if payload is None:
            payload = self.payload(frame)
        elif checksum(payload) != frame.payload_checksum:
            payload = None
        if payload is None:
            what = f"the payload of record {frame.index} is not what was written"
            raise self.corruption(address, what)
        if len(self._verified) >= VERIFIED_FRAMES_MAX:
            self._verified.clear()
        place = (start, frame.payload_length)
        self._verified[address] = place
        return place, payload

    def first_index(self, number: int) -> int | None:
        """Index of the first frame of a segment, or the one it would have; None if neither header nor frame tell."""
        index = self._first_indexes.get(number)
        if index is None:
            self._first_indexes.forget(number)  # It may be in the making.
        return index

    def exchanged(self, number: int) -> None:
        """The file of a segment was replaced by another that holds the same records, payloads aside."""
        self.segments.forget(number)
        base = number * self.segment_bytes
        for address in [a for a in list(self._verified) if base <= a < base + self.segment_bytes]:
            self._verified.pop(address, None)

    def forget(self) -> None:
        """Forget all that was read, because recovery changed files."""
        self._first_indexes.clear()
        self._verified.clear()
        self.segments.clear()

    def _read_first_index(self, number: int) -> int | None:
        slot = self.segments.header(number).slot
        if slot is not None:
            return slot.first_index
        # The checksum of a frame covers its address, hence number and size of its segment: as good as a header.
        frame = self.peek(number * self.segment_bytes + BLOCK_BYTES)
        return frame.index if frame is not None else None

    def find_frame(self, number: int, offset: int) -> Frame | None:
        """The first intact head of this log at or behind an offset of a segment."""
        window = Window(self)
        for start, data in self._chunks(number, offset):
            position = data.find(FRAME_MAGIC)
            while position >= 0:
                frame = window.frame(number * self.segment_bytes + start + position)
                if frame is not None:
                    return frame
                position = data.find(FRAME_MAGIC, position + 1)
        return None

    def data_end(self, number: int, offset: int) -> int:
        """The offset behind the last nonzero byte of a segment, at least the given one."""
        end = offset
        for start, data in self._chunks(number, offset):
            if used := len(data.rstrip(b"\0")):
                end = start + used
        return end

    def _chunks(self, number: int, offset: int) -> Iterator[tuple[int, bytes]]:
        """All that may not be zero behind an aligned offset, each chunk from an aligned offset.

        So no magic of a frame straddles two.
        """
        file = self.segments.file(number)
        for start, end in file.data_ranges(offset):
            at = start // ALIGNMENT_BYTES * ALIGNMENT_BYTES
            while at < end:
                data = file.pread(min(SEARCH_BYTES, end - at), at)
                if not data:
                    break  # Cut off meanwhile.
                yield at, data
                at += SEARCH_BYTES


class Window:
    """The bytes read last, so that walking small frames does not cost a call each. For one thread."""

    def __init__(self, reader: Reader, window_bytes: int = WINDOW_BYTES) -> None:
        self._reader = reader
        self._window_bytes = window_bytes
        self._number = -1
        self._start = 0
        self._data = b""

    def frame(self, address: int) -> Frame | None:
        """The frame at an address, or None if there is no intact head of this log.

        A head seen in bytes read earlier that does not verify is read afresh, because it may have been written since.
        """
        number, offset = divmod(address, self._reader.segment_bytes)
        if offset < BLOCK_BYTES or offset % ALIGNMENT_BYTES:
            return None
        if number == self._number and self._start <= offset < self._start + len(self._data):
            frame = self._reader.decode(self._data, offset - self._start, address)
            if frame is not None:
                return frame
        if not self._fill(number, offset, self._window_bytes):
            return None
        head = decode_head(self._data)
        if head is not None and HEAD_BYTES + head.metadata_length > len(self._data):
            self._fill(number, offset, HEAD_BYTES + head.metadata_length)
        return self._reader.decode(self._data, 0, address)

    def _fill(self, number: int, offset: int, length: int) -> bool:
        try:
            data = self._reader.segments.file(number).pread(length, offset)
        except FileNotFoundError:
            return False
        self._number, self._start, self._data = number, offset, data
        return True

    def bytes_at(self, offset: int, length: int) -> bytes | None:
        """Bytes of the segment read last, if they were read with it."""
        position = offset - self._start
        if position < 0 or position + length > len(self._data):
            return None
        return self._data[position : position + length]
