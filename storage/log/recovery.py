"""Finding the end of a log, and telling a tear from damage (FORMAT, "Recovery cases").

A power cut may keep or lose any write that was not synced, in any order. So behind a frame that never reached the
disk there may lie frames that did: that alone is no damage. What was synced, however, must be there. The durable
mark in the segment headers says up to where that is at least, and so decides: a hole above the mark is a tear,
whose tail is dropped; a hole below it with records behind is damage, which only an operator may cut off.

Here files are only read; `storage.log.repair` changes them.

Sources: ALICE and "All file systems are not created equal" (OSDI 2014) for legal crash states; "Protocol-aware
recovery" (FAST 2018) for telling crash from corruption.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.codec import ALIGNMENT_BYTES, BLOCK_BYTES, Slot
from storage.errors import Unusable
from storage.log.reader import Frame, Reader, Window
from storage.log.segments import Header, segment_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "QUARANTINE",
    "Damage",
    "End",
    "Recovery",
    "find_end",
    "report",
    "unsynced_from",
    "unusable",
]

QUARANTINE: Final = "quarantine"
"""Directory beside ``log/`` for what recovery takes out of the log and will not delete."""


class Damage(NamedTuple):
    """One place where bytes are not what was written."""

    segment: int
    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a log found."""

    end_index: int
    """Index of the last record; the one before the first of the log if there is none."""
    end_address: int
    """Where the next record goes."""
    durable_index: int
    """Records up to here were known to be synced before this opening. The truth may be higher."""
    bytes_dropped: int = 0
    """Bytes behind the end that belong to no record of the log: up to the last one that is not zero, per segment."""
    torn: bool = False
    """Something was written behind the end, or had been; it was dropped (or, read-only, ignored)."""
    broken: bool = False
    """Records that cannot have been lost by a power cut are missing in front of others; this is the prefix."""
    damage: tuple[Damage, ...] = ()
    frames_after_damage: int = 0
    """Intact records behind the end. They are moved to quarantine, never served."""
    durable_lost: int = 0
    """Records that had been synced and are gone or damaged: the disk broke its word. Not zero, tell someone."""
    resumed: bool = False
    """The scan began at the record the caller knew. If false, the caller's derived tables must be rebuilt."""
    sentences: tuple[str, ...] = ()
    """What people should know; none if the log ends cleanly and is whole."""


@dataclass(slots=True)
class End:
    """The end of a log as found, with what `repair` needs to know."""

    number: int
    offset: int
    next_index: int
    last: Frame | None
    slot: Slot
    """Header of the end segment, rebuilt if both copies were damaged."""
    known: int = 0
    """The durable mark."""
    unsynced_address: int | None = None
    """Address of the first record above the mark, if there is one."""
    ends: dict[int, int] = field(default_factory=dict)
    """Where the records end in the segments that were walked through, but for the last."""
    resumed: bool = False
    what: str | None = None
    """Why the scan stopped, if not at a clean end."""
    broken: bool = False
    frames_after: int = 0
    bytes_dropped: int = 0
    numbers_after: list[int] = field(default_factory=list)
    headers_damaged: list[int] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)

    @property
    def durable_lost(self) -> int:
        """Records below the mark that are not there."""
        return max(0, self.known - self.next_index + 1)


def find_end(
    reader: Reader,
    numbers: list[int],
    *,
    template: Slot,
    from_address: int | None,
    expected_index: int | None,
    checksum: int | None,
) -> End:
    """Walk the heads to the end of the log and judge what lies behind it. Reads only.

    The template is any header of this log, for rebuilding one that is damaged.

    Raises:
        Unusable: The start cannot be found, or a segment has a format version this program does not know.
        OSError: The disk could not be read.
    """
    hint = _known_frame(reader, numbers, from_address, expected_index, checksum)
    first = hint.address // reader.segment_bytes if hint else numbers[0]
    headers = {n: reader.segments.header(n) for n in numbers if n >= first}
    known = _mark(reader, headers)
    start = hint
    if hint and hint.index > known:
        # The caller's tables may have reached the disk when frames in front of this one did not.
        start = None
        first = unsynced_from(reader, [n for n in numbers if n <= first], known)
        headers = {n: reader.segments.header(n) for n in numbers if n >= first}
    end = _start(reader, first, headers, start, template)
    end.known = known
    foreign = _walk(reader, end, headers, hint)
    _judge(reader, end, headers, foreign=foreign)
    return end


def _mark(reader: Reader, headers: dict[int, Header]) -> int:
    """The durable mark: the highest index a header of ours says was synced."""
    ours = (h.slot for n, h in headers.items() if h.slot is not None and _ours(reader, n, h))
    return max((slot.durable_index for slot in ours), default=0)


def unsynced_from(reader: Reader, numbers: list[int], known: int) -> int:
    """The first of some segments, ascending, that may hold records above the mark."""
    for number in reversed(numbers):
        first_index = reader.first_index(number)
        if first_index is not None and first_index <= known + 1:
            return number
    return numbers[0]


def _known_frame(
    reader: Reader,
    numbers: list[int],
    address: int | None,
    index: int | None,
    checksum: int | None,
) -> Frame | None:
    """The frame a caller remembers, if it is still that very frame."""
    if address is None or address // reader.segment_bytes not in numbers:
        return None
    frame = reader.peek(address)
    if frame is None or index not in (None, frame.index):
        return None
    return frame if checksum in (None, frame.checksum) else None


def _ours(reader: Reader, number: int, header: Header) -> bool:
    """A header that can be of this segment of this log; one that is not whole can."""
    slot = header.slot
    return slot is None or (
        slot.identity == reader.identity
        and slot.shard == reader.shard
        and slot.number == number
        and slot.segment_bytes == reader.segment_bytes
    )


def _start(
    reader: Reader, first: int, headers: dict[int, Header], start: Frame | None, template: Slot
) -> End:
    if not _ours(reader, first, headers[first]):
        raise Unusable(
            f"{segment_name(first)} belongs to another store, shard or place; put the right one back from a copy"
        )
    first_index = reader.first_index(first)
    if first_index is None:
        raise Unusable(
            f"the header of {segment_name(first)}, the first segment, is damaged in both copies and no intact "
            "record follows it; put the segment back from a copy"
        )
    slot = template._replace(number=first, first_index=first_index)
    offset, next_index = BLOCK_BYTES, first_index
    if start:
        offset = start.address % reader.segment_bytes + start.size_bytes
        next_index = start.index + 1
    return End(first, offset, next_index, start, slot, resumed=start is not None)


def _walk(reader: Reader, end: End, headers: dict[int, Header], hint: Frame | None) -> bool:
    """Advance end over every intact record in order; answers whether a segment of another log stopped it."""
    window = Window(reader)
    start = end.last
    _note_header(reader, end, end.number, headers[end.number])
    while True:
        address = end.number * reader.segment_bytes + end.offset
        frame = window.frame(address)
        if frame is not None and frame.index == end.next_index:
            # Above the mark a payload may not have reached the disk: such a record never was committed.
            if frame.index > end.known and reader.payload(frame) is None:
                end.what = f"the payload of record {frame.index} is torn"
                break
            if frame.index == end.known + 1:
                end.unsynced_address = frame.address
            end.last = frame
            end.resumed = end.resumed or frame == hint
            end.next_index += 1
            end.offset += frame.size_bytes
            continue
        following = end.number + 1
        if following not in headers:
            break
        if not _ours(reader, following, headers[following]):
            end.what = f"{segment_name(following)} belongs to another store, shard or place"
            return True
        if reader.first_index(following) != end.next_index:
            break
        end.ends[end.number] = end.offset
        end.number, end.offset = following, BLOCK_BYTES
        end.slot = end.slot._replace(number=following, first_index=end.next_index)
        _note_header(reader, end, following, headers[following])
    last = end.last
    if (
        last is not None
        and last is not start
        and last.index <= end.known
        and reader.payload(last) is None
    ):
        offset = last.address % reader.segment_bytes
        number = last.address // reader.segment_bytes
        what = f"the payload of record {last.index} is damaged; reading it will fail"
        end.damage.append(Damage(number, offset, what))
    return False


def _note_header(reader: Reader, end: End, number: int, header: Header) -> None:
    """Take the epoch of a segment the walk enters, and note what is wrong with its header and size."""
    if header.slot:
        end.slot = end.slot._replace(epoch=header.slot.epoch)
    if header.damaged_offset is not None:
        what = (
            "both copies of the header are damaged"
            if header.slot is None
            else "a copy of the header is damaged"
        )
        end.damage.append(Damage(number, header.damaged_offset, what))
        end.headers_damaged.append(number)
    size = reader.segments.file(number).size()
    if size < reader.segment_bytes:
        what = f"the file ends here and not after {reader.segment_bytes} bytes"
        end.damage.append(Damage(number, size, what))


def _judge(reader: Reader, end: End, headers: dict[int, Header], *, foreign: bool) -> None:
    """Say whether what is behind the end is nothing, a tear or damage."""
    end.numbers_after = [number for number in headers if number > end.number]
    data_end = reader.data_end(end.number, end.offset)
    end.bytes_dropped = data_end - end.offset
    if end.bytes_dropped:
        end.frames_after = _count(reader, end.number, end.offset, end.next_index)
    overlap = False
    for number in end.numbers_after:
        end.bytes_dropped += reader.data_end(number, BLOCK_BYTES) - BLOCK_BYTES
        if _ours(reader, number, headers[number]):
            end.frames_after += _count(reader, number, BLOCK_BYTES, end.next_index)
            overlap = overlap or _overlaps(reader, end, number)
    if end.what is None:
        end.what = _why(end, headers, overlap=overlap)
    end.broken = foreign or overlap or bool(end.frames_after and end.durable_lost)
    if end.broken or end.durable_lost:
        end.damage.append(
            Damage(end.number, end.offset, end.what or f"record {end.next_index} is missing")
        )


def _overlaps(reader: Reader, end: End, number: int) -> bool:
    """Whether a segment behind the end begins before it.

    Not so where a roll-over failed and could not be cleared away: what came next may have fitted into the end segment.
    """
    first_index = reader.first_index(number)
    if first_index is None or first_index >= end.next_index:
        return False
    is_left_over = (
        number == end.number + 1
        and first_index >= end.slot.first_index
        and reader.find_frame(number, BLOCK_BYTES) is None
    )
    return not is_left_over


def _count(reader: Reader, number: int, offset: int, next_index: int) -> int:
    """Intact records of this log behind an offset that come after the one missing there."""
    count = 0
    while (frame := reader.find_frame(number, offset)) is not None:
        count += frame.index > next_index
        offset = frame.address % reader.segment_bytes + max(frame.size_bytes, ALIGNMENT_BYTES)
    return count


def _why(end: End, headers: dict[int, Header], *, overlap: bool) -> str | None:
    following = end.number + 1
    if overlap:
        return f"segments behind record {end.next_index - 1} begin with records before it"
    if end.numbers_after and following not in headers:
        return f"{segment_name(following)} is missing"
    if end.bytes_dropped or end.numbers_after:
        return f"record {end.next_index} is damaged or was never written whole"
    if end.durable_lost:
        return f"record {end.next_index} is missing"
    return None


def report(reader: Reader, end: End) -> Recovery:
    """What was found, for programs and for people."""
    torn = end.what is not None and not end.broken
    recovery = Recovery(
        end_index=end.next_index - 1,
        end_address=end.number * reader.segment_bytes + end.offset,
        durable_index=end.known,
        bytes_dropped=end.bytes_dropped,
        torn=torn,
        broken=end.broken,
        damage=tuple(end.damage),
        frames_after_damage=end.frames_after,
        durable_lost=end.durable_lost,
        resumed=end.resumed,
    )
    return replace(recovery, sentences=tuple(_sentences(reader, end, recovery)))


def _sentences(reader: Reader, end: End, recovery: Recovery) -> Iterator[str]:
    if end.what is not None:
        yield (
            f"The log of shard {reader.shard} ends with record {recovery.end_index}, at segment "
            f"{end.number:016x}, offset {end.offset}: {end.what}."
        )
        yield (
            f"{end.bytes_dropped} bytes behind it are not part of the log, among them "
            f"{end.frames_after} intact records."
        )
        if end.durable_lost:
            yield (
                f"{end.durable_lost} of the missing records had been synced: the disk lost or damaged them."
            )
        elif not end.broken:
            yield "None of what is missing is known to have been synced."
    for segment, offset, what in end.damage:
        if what != end.what:
            yield f"Segment {segment:016x} of shard {reader.shard}, offset {offset}: {what}."


def unusable(recovery: Recovery) -> Unusable:
    """The refusal to write behind damage, with the remedy."""
    found = " ".join(recovery.sentences)
    return Unusable(
        f"the log is damaged. {found} Put the damaged segments back from a copy; or open read-only "
        "to serve what is in front of the damage; or start once with --recover, which keeps that "
        f"and moves the rest to {QUARANTINE}/."
    )
