"""The log of one shard: append, sync, read, recover (FORMAT, "Data directory" to "Recovery cases").

A sequence of records, index 1, 2, 3 ... without gap, in segment files of equal size. A record is framed as head,
metadata and payload; its address is where its frame starts, counted over all segments, and never changes. The log
knows how to keep bytes and their order. It does not know what they mean, who may write them or who else has them.

Theory of operation. An append is one pwritev into the tail segment: when it returns the kernel has the bytes, so they
survive the end of this process, not of the machine. `Log.sync` makes them survive that too, all that were appended when
it began; callers that ask while one is running share the next. After it, the tail's header says up to which index
everything is durable; recovery needs that to tell a power cut from damage. Heads are enough to replay; payloads are
verified when they are read, once.

Threads: one owner appends. `sync` runs on a worker thread; `read`, `frame` and `frames` anywhere.

Rooms: `segments` (files and headers), `reader`, `writer`, `walk` (which record follows which), `epochs` (which they are of),
`condensed` (segments that lost payloads), `recovery` (finds the end), `repair` (acts on it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from storage.codec import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    HEAD_BYTES,
    Buffer,
    Slot,
    checksum,
    encode_block,
)
from storage.errors import Corruption, Unusable
from storage.limits import SEGMENT_BYTES
from storage.log.condensed import condensed_size, gaps_of, write_condensed
from storage.log.epochs import Epochs
from storage.log.reader import Frame, Reader, Window, frame_room
from storage.log.recovery import (
    QUARANTINE,
    Damage,
    End,
    Recovery,
    find_end,
    report,
    unusable,
)
from storage.log.repair import repair, write_whole
from storage.log.segments import DIRECTORY, Segments, segment_name
from storage.log.walk import Walk
from storage.log.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.disk import Disk

__all__ = ["QUARANTINE", "Condensation", "Damage", "Frame", "Log", "Recovery"]


class Condensation(NamedTuple):
    """What rewriting a segment won and cost."""

    number: int
    bytes_won: int
    bytes_written: int


class Log:
    """One shard's log on a disk. Made by `create` or `open`.

    Attributes:
        recovery: What opening found.
        identity: The 64-bit identity of the store.
        shard: The shard whose log this is.
        segment_bytes: Size of a segment, fixed at creation.
    """

    is_volatile: Final = False

    def __init__(
        self, reader: Reader, writer: Writer | None, recovery: Recovery, last: Frame | None
    ) -> None:
        """Use `create` or `open`."""
        self.recovery = recovery
        self.identity = reader.identity
        self.shard = reader.shard
        self.segment_bytes = reader.segment_bytes
        self._reader = reader
        self._writer = writer
        self._last = last  # As opened; a read-only log keeps this end.
        self._walk = Walk(reader, lambda: self.last_index, lambda: self.end_address)
        self._epochs = Epochs(reader, self._walk)
        self._left_out_bytes: int | None = None
        self.left_out: set[int] = set()
        """Addresses of records adopted without their payloads, in segments that were not condensed since (`adopt`)."""

    @classmethod
    def create(
        cls,
        disk: Disk,
        identity: int,
        *,
        shard: int = 0,
        epoch: int = 1,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Log:
        """Begin an empty log; when this returns it is durable, and before that there is none.

        Raises:
            Unusable: There is a log already.
            OSError: The disk refused; there is still no log.
        """
        assert 0 <= identity < 2**64
        assert frame_room(segment_bytes) > BLOCK_BYTES
        if Segments(disk).numbers():
            raise Unusable(
                f"{DIRECTORY}/ holds a log already; open it, or choose an empty data directory"
            )
        disk.make_directory(DIRECTORY)
        disk.sync_directory(".")
        slot = Slot(identity, shard, epoch, 0, segment_bytes, first_index=1, durable_index=0)
        name = segment_name(0)
        file = disk.open(name + ".new", create=True)
        file.truncate(0)
        file.preallocate(segment_bytes)
        write_whole(file, encode_block(slot), 0)
        file.fdatasync()
        file.close()
        disk.rename(name + ".new", name)
        disk.sync_directory(DIRECTORY)
        return cls.open(disk, identity)

    @classmethod
    def open(
        cls,
        disk: Disk,
        identity: int,
        *,
        from_address: int | None = None,
        expected_index: int | None = None,
        checksum: int | None = None,
        read_only: bool = False,
        keep_prefix: bool = False,
        found: Callable[[Recovery], None] = lambda recovery: None,
    ) -> Log:
        """Find the end of a log, and unless read-only make the files agree with it.

        The scan starts behind the record at from_address, if that is still the one with the expected index and head
        checksum (`Recovery.resumed` says so), else at the first segment. It reads heads, and payloads only above the
        durable mark, plus the last one. Afterwards, unless read-only, everything up to the end is durable.

        Args:
            disk: The data directory.
            identity: The store's; segments of another are refused.
            from_address: Address of the last record the caller's tables know.
            expected_index: Its index.
            checksum: Its head checksum.
            read_only: Change nothing, whatever else is asked; serve what is in front of any damage.
            keep_prefix: The operator's word: move damage and all behind it to ``quarantine/`` and go on.
            found: Told what was found before anything is changed: afterwards nothing on the disk may tell of what is lost.

        Raises:
            Unusable: There is no log, it is another store's, a newer format, or damaged in the middle. Nothing
                was changed; the message says what to do.
            OSError: The disk refused. No record was lost; open again.
        """
        template = _geometry(disk, identity)
        segments = Segments(disk, template.segment_bytes)
        reader = Reader(segments, identity, template.shard)
        end = find_end(
            reader,
            segments.numbers(),
            template=template,
            from_address=from_address,
            expected_index=expected_index,
            checksum=checksum,
        )
        recovery = report(reader, end)
        if read_only:
            return cls(reader, None, recovery, end.last)
        if recovery.broken and not keep_prefix:
            raise unusable(recovery)
        found(recovery)
        repair(reader, end)
        return cls(reader, _writer(disk, end), recovery, end.last)

    @property
    def last_index(self) -> int:
        """Index of the last record; the one before the first if there is none."""
        return self._writer.last_index if self._writer else self.recovery.end_index

    @property
    def last_timestamp(self) -> int:
        """Timestamp of the last record, 0 if there is none."""
        if self._writer:
            return self._writer.last_timestamp
        return self._last.timestamp if self._last else 0

    @property
    def last_address(self) -> int:
        """Address of the last record, 0 if there is none. With index and checksum, what `open` can start from."""
        if self._writer:
            return self._writer.last_address
        return self._last.address if self._last else 0

    @property
    def last_checksum(self) -> int:
        """Head checksum of the last record, 0 if there is none."""
        if self._writer:
            return self._writer.last_checksum
        return self._last.checksum if self._last else 0

    @property
    def durable_index(self) -> int:
        """Records up to this one survive a power cut. Never goes back while open."""
        if self._writer:
            return self._writer.durable_index
        return min(self.recovery.durable_index, self.recovery.end_index)

    @property
    def first_address(self) -> int:
        """Where the first record is, or will be."""
        return self._walk.first_number * self.segment_bytes + BLOCK_BYTES

    @property
    def end_address(self) -> int:
        """Where the next frame goes, or would if it fits its segment."""
        return self._writer.end_address if self._writer else self.recovery.end_address

    @property
    def syncs(self) -> int:
        """Rounds of `sync` that reached the disk, for counting group commit."""
        return self._writer.syncs if self._writer else 0

    @property
    def epoch(self) -> int:
        """Stamped on what is appended."""
        assert self._writer is not None
        return self._writer.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        assert self._writer is not None
        assert epoch >= self._writer.epoch
        self._writer.epoch = epoch

    def append(
        self, kind: int, timestamp: int, metadata: bytes, payload: Sequence[Buffer] = ()
    ) -> int:
        """Add a record and answer its address. The kernel has the bytes on return, the disk after `sync`.

        Only the owner may call this. Buffers are not kept. Measured (CPU time, ext4, a machine of
        two shared cores): 4.4 us with 80 bytes of metadata and 4 KiB of payload, 2.1 us without payload, 50 us with
        256 KiB, of which most is the kernel copying.

        Raises:
            OSError: The record is not in the log, now or after reopening, and the log goes on as if it had not been
                tried; the next append takes the same index. EIO with a message of ours: a sync or a repair
                failed before, and nothing more is taken until the log is opened again.
        """
        assert self._writer is not None  # Opened read-only.
        address = self._writer.append(kind, timestamp, metadata, payload)
        self._epochs.appended(self._writer.last_index, self._writer.epoch)
        return address

    def adopt(self, frame: Frame, payload: Sequence[Buffer] | None) -> None:
        """Append a record as another log of this identity and shard has it: at the same address, byte for byte.

        So what names addresses is right on every replica. Only the owner may call this.

        Args:
            frame: as the other log knows it; index and address are the next ones here.
            payload: None if it was left out there (condensed). Zeros then stand in its place, as if the record's
                segment were condensed here; `left_out` says so until it is.

        Raises:
            Corruption: index or address are not the next ones, or head or payload are not what they say; as before.
            OSError: as `append`.
        """
        assert self._writer is not None  # Opened read-only.
        writer = self._writer
        if frame.index != writer.last_index + 1:
            what = f"record {frame.index} does not follow record {writer.last_index}"
            raise self._reader.corruption(frame.address, what)
        writer.epoch = frame.epoch  # Ahead of a new segment, whose header has it, too.
        if not writer.reach(frame.address, frame.size_bytes):
            what = f"record {frame.index} cannot stand here: the log ends at {writer.end_address}"
            raise self._reader.corruption(frame.address, what)
        left_out = payload is None
        if payload is None:
            payload = [bytes(frame.payload_length)] if frame.payload_length else ()
        writer.append(
            frame.kind,
            frame.timestamp,
            frame.metadata,
            payload,
            left_out_checksum=frame.payload_checksum if left_out else None,
        )
        if writer.last_checksum != frame.checksum:
            self.truncate_after(frame.index - 1)
            what = f"record {frame.index} arrived as something else than it says it is"
            raise self._reader.corruption(frame.address, what)
        if left_out and frame.payload_length:
            self.left_out.add(frame.address)
        self._epochs.appended(frame.index, frame.epoch)

    def truncate_after(self, index: int) -> None:
        """Drop the records behind an index for good: they are off the disk when this returns, whatever comes next.

        For what another epoch overruled; never below what was committed. Nobody may be reading the dropped ones. Blocks: a
        sync or three, and one for each segment dropped. Only the owner may call this. It ends an empty segment, too, that a
        failed append has left.

        Raises:
            OSError: the disk refused. The log takes nothing more until it is opened again, and ends then somewhere between
                the index and where it ended.
            Corruption: the record at the index, or one in front of it in its segment, is damaged; nothing was done.
        """
        assert self._writer is not None  # Opened read-only.
        assert self._walk.first_index(self._walk.first_number) - 1 <= index <= self.last_index
        last: Frame | None = None
        number, offset = self._walk.first_number, BLOCK_BYTES
        if index >= self._walk.first_index(self._walk.first_number):
            last = self._reader.frame(self._walk.locate(index))
            number, offset = divmod(last.address, self.segment_bytes)
            offset += last.size_bytes
        if number * self.segment_bytes + offset == self.end_address:
            return
        slot = self._reader.segments.header(number).slot or self._writer.slot_of(
            number, self._walk.first_index(number)
        )
        condensed = self._reader.segments.condensed(number)
        self._writer.cut(slot, offset, last, condensed)
        self._reader.forget()
        self._left_out_bytes = None
        self.left_out = {address for address in self.left_out if address < self.end_address}
        self._epochs.truncated_after(index)

    def epochs(self) -> list[tuple[int, int]]:
        """(first index, epoch) of each run of records with one epoch, ascending.

        The first time headers of all segments are read, and the heads of segments that hold a change of epoch; from then
        on it is kept as records come and go.

        Raises:
            Corruption: a head on the way is damaged.
        """
        return self._epochs.runs(self.last_address)

    def payload(self, frame: Frame) -> bytes | None:
        """The whole payload of a record, verified; None if it was left out of a condensed segment.

        Raises:
            Corruption: it is not what was written.
            OSError: the disk could not be read.
        """
        return self._reader.whole_payload(frame, self.left_out)

    def raw(self, address: int) -> bytes:
        """A record as it lies in the log, head, metadata and payload without padding; for `put_back` elsewhere.

        Raises:
            Corruption: it is not what was written, or its payload was left out.
            OSError: the disk could not be read.
        """
        frame = self.frame(address)
        payload = self.payload(frame)
        if payload is None:
            what = f"the payload of record {frame.index} was let go"
            raise self._reader.corruption(address, what)
        return self._reader.head(frame) + payload

    def is_left_out(self, address: int) -> bool:
        """Whether the record at an address is whole but for its payload, which was let go.

        Raises:
            Corruption, OSError: as `payload`.
        """
        return self.payload(self.frame(address)) is None

    def put_back(self, address: int, raw: bytes) -> Frame:
        """Write a record that is damaged here over itself, as another replica has it; durable on return.

        Any thread, while nobody appends there: not for the record appended last.

        Raises:
            Corruption: what was given is not that record of this log, whole. Nothing was done.
            OSError: the disk refused; the record may be as damaged as before.
        """
        frame = self._reader.decode(raw, 0, address)
        payload_at = HEAD_BYTES + len(frame.metadata) if frame is not None else 0
        if (
            frame is None
            or len(raw) != payload_at + frame.payload_length
            or checksum(raw[payload_at:]) != frame.payload_checksum
        ):
            raise self._reader.corruption(address, "this is not the record to put back here")
        number, offset = divmod(address, self.segment_bytes)
        file = self._reader.segments.disk.open(segment_name(number))
        condensed = self._reader.segments.condensed(number)
        at: int | None = offset
        if condensed is not None:
            at = condensed.place(offset, len(raw))
            if at is None:
                raise self._reader.corruption(address, "its payload was let go here")
        assert at is not None
        write_whole(file, raw, at)
        file.fdatasync()
        file.close()
        self._reader.exchanged(number)
        return frame

    def sync(self) -> int:
        """Make every record appended before the call durable; answers `durable_index`.

        Blocks; call it on a worker thread. Callers at the same time share: who waits while one runs is covered by the
        next. Abandoning it (a cancelled waiter) changes nothing: the sync runs to its end.

        Raises:
            OSError: What was not durable may never be. The log refuses all writes until opened again.
        """
        assert self._writer is not None  # Opened read-only.
        return self._writer.sync()

    def read(self, address: int, offset: int, length: int) -> memoryview | bytes:
        """Bytes of the payload of the record at an address.

        From 64 KiB on a slice of a read-only mapping, which stays valid, and keeps the segment mapped, as long as it
        is held. The first touch verifies head and whole payload. Measured as for `append`: 4 KiB 8.0 us the first
        time and 3.7 us again; 256 KiB 23 us the first time and 0.8 us again, as nothing is copied.

        Raises:
            Corruption: They are not what was written, or the range is not inside; names shard, segment, offset.
            OSError: The disk could not be read.
        """
        return self._reader.read(address, offset, length)

    def frame(self, address: int) -> Frame:
        """The record at an address, its head and metadata verified.

        Raises:
            Corruption: There is no intact head there.
        """
        return self._reader.frame(address)

    def verify(self, frame: Frame) -> bool:
        """Whether a record's payload is what was written; reads all of it, from the disk or the kernel's memory."""
        return frame.address in self.left_out or self._reader.payload(frame) is not None

    def frames(self, address: int | None = None, index: int = 1) -> Iterator[Frame]:
        """Records in order: from the one at an address, or, without it, from an index, to the end of the log.

        What is appended meanwhile is included. An address may also be one `next_address` gave.

        Raises:
            Corruption: A head on the way is damaged. Iteration ends; what was yielded is right.
        """
        return self._walk.frames(address, index)

    def next_address(self, frame: Frame) -> int:
        """Where the record after a frame is; after the last one, `end_address`."""
        return self._walk.next_address(frame)

    def segment_behind(self, index: int) -> tuple[int, int] | None:
        """(index, address) of the first record of the first segment that begins behind a record; None if none does.

        For who reads on behind a head that is damaged: inside its segment nothing more can be found in order.
        """
        return self._walk.segment_behind(index)

    def sealed(self) -> range:
        """The numbers of the segments nothing is appended to any more and whose records are all durable."""
        stop = self._walk.tail_number
        while (
            stop > self._walk.first_number and self._walk.first_index(stop) - 1 > self.durable_index
        ):
            stop -= 1
        return range(self._walk.first_number, stop)

    def segment_size(self, number: int) -> int:
        """Bytes a segment takes on the disk: fewer than `segment_bytes` if it is condensed."""
        condensed = self._reader.segments.condensed(number)
        return condensed.physical_bytes if condensed is not None else self.segment_bytes

    @property
    def taken_bytes(self) -> int:
        """Bytes the log takes on the disk, less what its last segment has reserved and not written.

        Kept as it changes; the first time every segment is asked, 11 us each; 0.14 us from then on.
        """
        if self._left_out_bytes is None:
            self._left_out_bytes = sum(
                self.segment_bytes - self._size_of_any(number)
                for number in range(self._walk.first_number, self._walk.tail_number)
            )
        return (
            self.end_address - self._walk.first_number * self.segment_bytes - self._left_out_bytes
        )

    def _size_of_any(self, number: int) -> int:
        """`segment_size`, also of a segment that is damaged or missing: as if it were whole."""
        try:
            return self.segment_size(number)
        except (OSError, Corruption):
            return self.segment_bytes

    def condense(self, number: int, dead: frozenset[int], worth_bytes: int) -> Condensation | None:
        """Write a sealed segment again without the payloads of dead frames; every address stays good.

        Blocks, for as long as a segment takes to copy and sync; call it on a worker thread. All that was appended
        becomes durable first, because what makes a frame dead must not be forgotten by a power cut that spares this.
        Abandoning it changes nothing: it runs to its end.

        Args:
            number: of the segment.
            dead: addresses of frames whose payloads nobody will ask for again.
            worth_bytes: what has to be won at least.

        Returns:
            What it cost and won; None if it was not worth it, or the segment is damaged and is left as it is.

        Raises:
            OSError: the disk refused, perhaps for want of space; the segment is as it was.
        """
        assert self._writer is not None  # Opened read-only.
        assert number in self.sealed()
        segments = self._reader.segments
        header = segments.header(number)
        following = self._reader.first_index(number + 1)
        if header.slot is None or header.damaged_offset is not None or following is None:
            return None
        source = segments.file(number)
        base = number * self.segment_bytes
        frames = self._frames_of(number, following)
        if frames is None:
            return None
        gaps, data_end = gaps_of(frames, base, source, dead | self.left_out)
        before = self.segment_size(number)
        after = condensed_size(gaps, data_end)
        if before - after < max(worth_bytes, 1):
            return None
        self._writer.persist_mark()
        size = write_condensed(
            segments.disk, segment_name(number), source, header.slot, gaps, data_end
        )
        assert size == after
        self._reader.exchanged(number)
        # A copy to walk through: the owner, on its thread, may adopt another meanwhile.
        self.left_out -= {
            address for address in list(self.left_out) if address // self.segment_bytes == number
        }
        if self._left_out_bytes is not None:
            self._left_out_bytes += before - size
        return Condensation(number, before - size, size)

    def _frames_of(self, number: int, following: int) -> list[Frame] | None:
        """All frames of a segment, the next of which begins with that index; None if one is damaged."""
        window, at = Window(self._reader), number * self.segment_bytes + BLOCK_BYTES
        expected, frames = self._walk.first_index(number), []
        while expected < following:
            frame = window.frame(at)
            if frame is None or frame.index != expected:
                return None
            frames.append(frame)
            expected, at = expected + 1, at + frame.size_bytes
        return frames

    def close(self) -> None:
        """Sync, note that in the mark, and give back descriptors. Harmless when repeated; views stay valid.

        Raises:
            OSError: The last sync failed; the log is closed all the same.
        """
        try:
            if self._writer:
                self._writer.close()
        finally:
            self._reader.segments.clear()


def _geometry(disk: Disk, identity: int) -> Slot:
    """A header of this log, the newest that is whole: for the segment size, shard and epoch."""
    segments = Segments(disk)
    numbers = segments.numbers()
    if not numbers:
        raise Unusable(f"{DIRECTORY}/ holds no log; create one, or give the right data directory")
    foreign: Slot | None = None
    for number in reversed(numbers):
        slot = segments.header(number).slot
        if slot is not None and slot.identity == identity:
            return slot._replace(version=FORMAT_VERSION)
        foreign = foreign or slot
    if foreign is not None:
        raise Unusable(
            f"{DIRECTORY}/ belongs to store {foreign.identity:016x}, not {identity:016x}; give the right data directory"
        )
    raise Unusable(
        f"no segment in {DIRECTORY}/ has a readable header (of {len(numbers)}); put one back from a copy"
    )


def _writer(disk: Disk, end: End) -> Writer:
    last = end.last
    writer = Writer(
        disk,
        end.slot,
        offset=end.offset,
        last_index=end.next_index - 1,
        last_timestamp=last.timestamp if last else 0,
        last_address=last.address if last else 0,
        last_checksum=last.checksum if last else 0,
    )
    writer.epoch = max(writer.epoch, last.epoch if last else 0)
    return writer
