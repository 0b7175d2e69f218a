"""Making the files of a log agree with what recovery found.

Nothing stays behind the end, headers are whole, and all that is kept is durable before a mark says so. An intact
record, or the bytes of one that had been durable, is never deleted but moved below ``quarantine/``.

Any step may be the last, by a power cut or an error. What is behind the end goes first, from the back, and the end
segment is cut last: so opening again finds the same end, and what it still has to do.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from storage.codec import (
    BLOCK_BYTES,
    CONDENSED_VERSION,
    FORMAT_VERSION,
    SLOT_OFFSETS,
    Slot,
    encode_slot,
)
from storage.log.condensed import write_plain
from storage.log.recovery import QUARANTINE, End, unsynced_from
from storage.log.segments import DIRECTORY, segment_name

if TYPE_CHECKING:
    from storage.disk import File
    from storage.log.reader import Reader

__all__ = ["repair", "write_header", "write_whole"]

COPY_BYTES: Final = 1024 * 1024


def repair(reader: Reader, end: End) -> None:
    """Make the files say what was found.

    Raises:
        OSError: The disk refused. Nothing in front of the end is harmed; open again to go on.
    """
    disk = reader.segments.disk
    if end.what is not None:
        keep = end.broken or end.frames_after or end.durable_lost
        if keep:
            disk.make_directory(QUARANTINE)
            disk.sync_directory(".")
            _save_tail(reader, end)
        for number in reversed(end.numbers_after):
            if keep:
                disk.rename(segment_name(number), _free_name(reader, f"{number:016x}.seg"))
            else:
                disk.unlink(segment_name(number))
        disk.sync_directory(DIRECTORY)
        if keep:
            disk.sync_directory(QUARANTINE)
    for number in end.headers_damaged:
        if number != end.number:
            _rewrite_header(reader, end, number)
    _finish_tail(reader, end)
    reader.forget()


def _free_name(reader: Reader, name: str) -> str:
    taken = reader.segments.disk.list(QUARANTINE)
    candidate, attempt = name, 1
    while candidate in taken:
        attempt += 1
        candidate = f"{name}.{attempt}"
    return f"{QUARANTINE}/{candidate}"


def _save_tail(reader: Reader, end: End) -> None:
    """Copy what lies behind the end of its segment; durable before anything is cut."""
    disk = reader.segments.disk
    length = reader.data_end(end.number, end.offset) - end.offset
    if not length:
        return
    source = reader.segments.file(end.number)
    name = _free_name(reader, f"{end.number:016x}.{end.offset:08x}.tail")
    target = disk.open(name, create=True)
    for start in range(0, length, COPY_BYTES):
        data = source.pread(min(COPY_BYTES, length - start), end.offset + start)
        write_whole(target, data, start)
    target.fdatasync()
    target.close()
    disk.sync_directory(QUARANTINE)


def write_header(file: File, slot: Slot) -> None:
    """Write both copies of a header, one after the other, so that one is whole whatever happens."""
    copy = encode_slot(slot)
    for offset in reversed(SLOT_OFFSETS):
        write_whole(file, copy, offset)
        file.fdatasync()


def _rewrite_header(reader: Reader, end: End, number: int) -> None:
    first_index = reader.first_index(number)
    assert first_index is not None  # The walk came through this segment.
    # The mark must be true now, and must not lie above the end: appended records will take those indexes again.
    mark = min(end.known, end.next_index - 1)
    is_condensed = reader.segments.condensed(number) is not None
    version = CONDENSED_VERSION if is_condensed else FORMAT_VERSION
    file = reader.segments.disk.open(segment_name(number))
    slot = end.slot._replace(
        number=number, first_index=first_index, durable_index=mark, version=version
    )
    write_header(file, slot)
    file.close()


def _finish_tail(reader: Reader, end: End) -> None:
    """Cut the end segment, make all that is kept durable, and only then say so in the mark."""
    disk = reader.segments.disk
    condensed = reader.segments.condensed(end.number)
    if condensed is not None:
        # What lay behind it is lost: it is the last segment once more, and will be written to. All of it was durable
        # when it was condensed. It has to say so from the start: above the mark, zeros for a payload are a torn record.
        slot = end.slot._replace(durable_index=end.next_index - 1)
        write_plain(disk, segment_name(end.number), condensed, slot)
        reader.exchanged(end.number)
    tail = disk.open(segment_name(end.number))
    if end.what is not None:
        tail.truncate(end.offset)
    try:
        tail.preallocate(reader.segment_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Reading goes on, and so does removing; the writer asks for the space again before it takes a payload.
    if end.unsynced_address is not None:
        _write_again(reader, end, end.unsynced_address)
    tail.fdatasync()
    # The process before us may have died with any of this unsynced, also in front of where the scan began.
    numbers = [number for number in reader.segments.numbers() if number <= end.number]
    for number in range(unsynced_from(reader, numbers, end.known), end.number):
        disk.open(segment_name(number)).fdatasync()
    disk.sync_directory(DIRECTORY)
    write_header(tail, end.slot._replace(durable_index=end.next_index - 1))
    tail.close()


def _write_again(reader: Reader, end: End, address: int) -> None:
    """Write what is kept and was not synced once more, as it is.

    A sync may have failed before us. The kernel then shows those bytes and does not know any more that they are not on
    the disk: a later fdatasync succeeds without them ("Can applications recover from fsync failures?", ATC 2020).
    """
    number, offset = divmod(address, reader.segment_bytes)
    for at in range(number, end.number + 1):
        # Where the first record of a segment was not synced, its header was not either.
        low = offset if at == number and offset > BLOCK_BYTES else 0
        if reader.segments.condensed(at) is not None:
            continue  # It was synced before it got its name.
        source = reader.segments.file(at)
        target = reader.segments.disk.open(segment_name(at))
        limit = end.offset if at == end.number else end.ends[at]
        # Zeros as well: what lies under them on the disk may be of an append that failed.
        for start in range(low, limit, COPY_BYTES):
            write_whole(target, source.pread(min(COPY_BYTES, limit - start), start), start)
        target.close()


def write_whole(file: File, data: bytes, offset: int) -> None:
    """Write all bytes, however many calls it takes."""
    while data:
        written = file.pwritev([data], offset)
        data, offset = data[written:], offset + written
