"""The growing end of a log: append, roll over, sync.

One owner appends; one worker thread syncs, and any number of threads may ask to. What they share is published in one
order: a segment is listed as unsynced before a frame goes into it, and `last_index` moves after the frame is written.
So whoever reads `last_index` and then the list has every file that holds those frames.

States, and what moves between them:

| state | append | sync |
|---|---|---|
| open | one pwritev; on failure the end stays, and the head that may have been written is erased, on the disk | fdatasync of every unsynced segment, directory, mark |
| full (a roll-over failed) | as open: tries to roll over again | as open |
| refusing (a sync failed, or a failed append could not be erased) | raises EIO | raises EIO |
| closed | raises EIO | raises EIO |

Refusing is for good, until the log is opened again: after a failed fdatasync the kernel may have dropped the pages and
report success next time ("Can applications recover from fsync failures?", ATC 2020; PostgreSQL's fsyncgate).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from typing import TYPE_CHECKING, Final

from storage.codec import (
    BLOCK_BYTES,
    HEAD_BYTES,
    SLOT_OFFSETS,
    Buffer,
    Slot,
    checksum,
    checksum_of,
    encode_block,
    encode_head,
    encode_slot,
    frame_bytes,
)
from storage.log.condensed import write_plain
from storage.log.reader import frame_room
from storage.log.repair import write_header
from storage.log.segments import DIRECTORY, segment_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.disk import Disk, File
    from storage.log.condensed import Condensed
    from storage.log.reader import Frame

__all__ = ["Writer"]

BUFFERS_MAX: Final = 1000
"""Buffers in one write; IOV_MAX is 1024. More are joined first."""

_PADDING: Final = tuple(bytes(length) for length in range(8))


class Writer:
    """The end of one log, exclusively.

    Attributes:
        end_address: Where the next frame goes, if it fits there.
        last_index: Index of the last record appended.
        durable_index: Index of the last record known to be synced. Invariant: durable_index <= last_index. Only `cut`
            takes it back.
        last_timestamp: Timestamp of the last record, 0 if there is none.
        last_checksum: Head checksum of the last record appended or found, 0 if there is none.
        last_address: Its address, 0 if there is none.
        syncs: Rounds of `sync` that reached the disk.
    """

    def __init__(
        self,
        disk: Disk,
        slot: Slot,
        *,
        offset: int,
        last_index: int,
        last_timestamp: int,
        last_address: int,
        last_checksum: int,
    ) -> None:
        self._disk = disk
        self._slot = slot  # Header of the tail segment.
        self._tail = disk.open(segment_name(slot.number))
        self._base = slot.number * slot.segment_bytes
        self._offset = offset
        self.end_address = self._base + offset
        self._identity = slot.identity
        self._shard = slot.shard
        self._room = frame_room(slot.segment_bytes)
        # Whether the tail has its whole space: not if it was begun on a full disk.
        self._reserved = self._tail.size() >= slot.segment_bytes
        self.epoch = slot.epoch
        self.last_index = last_index
        self.last_timestamp = last_timestamp
        self.last_address = last_address
        self.last_checksum = last_checksum
        self.durable_index = last_index
        self.syncs = 0
        # The tail is always last. Only the owner appends to the list; only sync takes from its front.
        self._unsynced: list[tuple[File, Slot]] = [(self._tail, slot)]
        # Last segment whose directory entry is durable; only sync moves it.
        self._named = slot.number
        self._refusal: str | None = None
        self._closed = False
        # The owner may be in it when it syncs what it erased, and again in a simulation, where it is the worker too.
        self._syncing = threading.RLock()

    def append(
        self,
        kind: int,
        timestamp: int,
        metadata: bytes,
        payload: Sequence[Buffer] = (),
        *,
        left_out_checksum: int | None = None,
    ) -> int:
        """See `Log.append`; with a checksum, the payload is zeros in the place of what that one is of (`Log.adopt`)."""
        if self._refusal is not None:
            self._refuse()
        if not payload:
            payload_length, payload_checksum = 0, _EMPTY_CHECKSUM
        elif len(payload) == 1:
            payload_length, payload_checksum = len(payload[0]), checksum(payload[0])
        else:
            if len(payload) > BUFFERS_MAX:
                payload = [b"".join(payload)]
            payload_length, payload_checksum = sum(map(len, payload)), checksum_of(payload)
        if left_out_checksum is not None:
            payload_checksum = left_out_checksum
        size = frame_bytes(len(metadata), payload_length)
        if self._offset + size > self._room:
            self._roll(size, reserve=payload_length > 0)
        elif payload_length and not self._reserved:
            # Payloads are what fills a disk: they wait until the segment has its room again.
            self._tail.preallocate(self._slot.segment_bytes)
            self._reserved = True
        offset = self._offset
        address = self._base + offset
        index = self.last_index + 1
        head = encode_head(
            kind,
            self._shard,
            self.epoch,
            index,
            timestamp,
            metadata,
            payload_length,
            payload_checksum,
            identity=self._identity,
            address=address,
        )
        padding = _PADDING[size - len(head) - payload_length]
        buffers = [head, *payload, padding] if padding else [head, *payload]
        try:
            written = self._tail.pwritev(buffers, offset)
            if written != size:
                self._write_rest(buffers, offset, size, written)
        except OSError:
            self._erase(offset)
            raise
        self._offset = offset + size
        self.end_address = address + size
        self.last_timestamp = timestamp
        self.last_address = address
        self.last_checksum = int.from_bytes(head[HEAD_BYTES - 8 : HEAD_BYTES], "little")
        self.last_index = index  # Last: sync reads it from another thread.
        return address

    def reach(self, address: int, size: int) -> bool:
        """Have the next frame, of so many bytes, go to an address, beginning a segment if need be; False if it cannot."""
        if self._refusal is not None:
            self._refuse()
        following = self._base + self._slot.segment_bytes + BLOCK_BYTES
        if address == following and address != self.end_address:
            self._roll(size, reserve=False)
        return address == self.end_address and self._offset + size <= self._room

    def slot_of(self, number: int, first_index: int) -> Slot:
        """A header for a segment of this log whose own is damaged."""
        return self._slot._replace(number=number, first_index=first_index)

    def _write_rest(self, buffers: list[Buffer], offset: int, size: int, written: int) -> None:
        """Go on after a short write. It usually means no space, and the next call says so."""
        data = b"".join(buffers)
        assert len(data) == size  # Else a buffer has items larger than a byte.
        while written < size:
            count = self._tail.pwritev([data[written:]], offset + written)
            if not count:
                raise OSError(errno.EIO, "the disk accepts no bytes and gives no reason")
            written += count

    def _erase(self, offset: int) -> None:
        """Make sure a frame whose append failed is never found, though all of it that matters may be on disk.

        Synced, because the next frame goes to the same place: a power cut that lost both, and not what the failed
        append wrote, would bring back a record that was refused, and put later ones behind it.
        """
        # Not beside a sync: the kernel tells a failure to one of two who sync one descriptor, and it may be this one.
        with self._syncing:
            try:
                if self._tail.pwritev([bytes(HEAD_BYTES)], offset) == HEAD_BYTES:
                    self._tail.fdatasync()
                    return
            except OSError:
                pass
            self._refusal = "a write failed and what it left could not be erased"

    def _refuse(self) -> None:
        what = f"{self._refusal}; the log takes no more writes until it is opened again"
        raise OSError(errno.EIO, what)

    def _roll(self, size: int, *, reserve: bool) -> None:
        """Go on in a new segment. If that fails the log is as before, and the next append tries again.

        Where nothing has to be reserved and a full disk has no room for a whole segment, it grows as it is written to:
        otherwise nothing could be removed from a full disk, because removing is a record, too.
        """
        assert BLOCK_BYTES + size <= self._room  # limits.py: a frame fits a segment.
        slot = self._slot._replace(
            number=self._slot.number + 1,
            first_index=self.last_index + 1,
            durable_index=self.durable_index,
            epoch=self.epoch,
        )
        name = segment_name(slot.number)
        try:
            tail = self._disk.open(name, create=True)
            # It exists only if an earlier attempt failed and could not be cleared away.
            tail.truncate(0)
            reserved = True
            try:
                tail.preallocate(slot.segment_bytes)
            except OSError as error:
                if reserve or error.errno != errno.ENOSPC:
                    raise
                tail.truncate(0)  # What it may have got of the space.
                reserved = False
            if not self._reserved:
                self._tail.truncate(slot.segment_bytes)  # A hole: only a last segment may be short.
            written = tail.pwritev([encode_block(slot)], 0)
            if written != BLOCK_BYTES:
                raise OSError(errno.ENOSPC, f"no space for the header of {name}")
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.unlink(name)  # Give back what was reserved.
            raise
        self._unsynced.append((tail, slot))
        self._tail = tail
        self._slot = slot
        self._base = slot.number * slot.segment_bytes
        self._offset = BLOCK_BYTES
        self._reserved = reserved
        self.end_address = self._base + BLOCK_BYTES

    def sync(self) -> int:
        """See `Log.sync`."""
        target = self.last_index
        with self._syncing:
            if self._refusal is not None:
                self._refuse()
            if self.durable_index >= target:
                # A sync that began after our records were written covered them.
                return self.durable_index
            target = self.last_index  # Before the list: see the module's first paragraph.
            unsynced = list(self._unsynced)
            tail, slot = unsynced[-1]
            try:
                for file, _ in unsynced:
                    file.fdatasync()
                if slot.number > self._named:
                    self._disk.sync_directory(DIRECTORY)
            except OSError as error:
                self._refusal = f"a sync failed ({error})"
                raise
            if self._refusal is not None:
                self._refuse()
            del self._unsynced[: len(unsynced) - 1]
            self.syncs += 1
            self.durable_index = target
            self._named = slot.number
            self._mark(tail, slot, target)
            return target

    def cut(self, slot: Slot, offset: int, last: Frame | None, condensed: Condensed | None) -> None:
        """End the log behind a frame (None: without one), at an offset of the segment with this header. See `Log.truncate_after`.

        Segments go from the back and each for certain before the next, then the mark comes down, then the end is cut: a
        power cut between any two leaves a log that ends somewhere between here and where it did, and is whole.
        """
        with self._syncing:
            if self._refusal is not None:
                self._refuse()
            self._refusal = "what a cut was to drop may be back"
            for number in range(self._slot.number, slot.number, -1):
                self._disk.unlink(segment_name(number))
                self._disk.sync_directory(DIRECTORY)
            slot = slot._replace(durable_index=min(self.durable_index, last.index if last else 0))
            if condensed is not None:
                write_plain(self._disk, segment_name(slot.number), condensed, slot)
            tail = self._disk.open(segment_name(slot.number))
            write_header(tail, slot)
            tail.truncate(offset)
            self._reserved = _reserve(tail, slot.segment_bytes)
            tail.fdatasync()
            earlier = [(file, its) for file, its in self._unsynced if its.number < slot.number]
            self._unsynced = [*earlier, (tail, slot)]
            self._named = min(self._named, slot.number)
            self._tail, self._slot = tail, slot
            self._base = slot.number * slot.segment_bytes
            self._offset = offset
            self.end_address = self._base + offset
            self.durable_index = slot.durable_index
            self.last_index = last.index if last else slot.first_index - 1
            self.last_timestamp = last.timestamp if last else 0
            self.last_address = last.address if last else 0
            self.last_checksum = last.checksum if last else 0
            self.epoch = last.epoch if last else slot.epoch
            self._refusal = None

    def persist_mark(self) -> None:
        """Make everything durable, and that it is: the mark on the disk says so when this returns.

        Raises:
            OSError: as `sync`.
        """
        self.sync()
        with self._syncing:
            tail, slot = self._unsynced[-1]
            self._mark(tail, slot, self.durable_index)
            try:
                tail.fdatasync()
                if slot.number > self._named:
                    self._disk.sync_directory(DIRECTORY)
            except OSError as error:
                self._refusal = f"a sync failed ({error})"
                raise
            if self._refusal is not None:
                self._refuse()

    def _mark(self, file: File, slot: Slot, durable_index: int) -> None:
        """Note in the tail's second header copy what is durable; the next sync takes it along at no cost.

        If it cannot be written nothing is lost but knowledge: recovery then takes damage for a tear sooner.
        """
        with contextlib.suppress(OSError):
            copy = encode_slot(slot._replace(durable_index=durable_index))
            file.pwritev([copy], SLOT_OFFSETS[-1])

    def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        try:
            if self._refusal is None:
                self.sync()
                self._tail.fdatasync()  # The mark.
        finally:
            self._closed = True
            self._refusal = "the log is closed"
            for file, _ in self._unsynced:
                file.close()


def _reserve(file: File, size: int) -> bool:
    """Give a segment its whole space; False if the disk has none left."""
    try:
        file.preallocate(size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


_EMPTY_CHECKSUM: Final = checksum(b"")
