"""The driver of one shard: joins log, clock, index table and namespace, and keeps their order.

Theory of operation. A proposal is stamped, appended to the log (one system call: the bytes survive the death of this
process) and applied to the namespace, whose rows gather in the table's open transaction. The table is published now
and then (`publish`), together with the log position it has reached; after a crash the tail of the log behind that
position is applied again. So the index is never ahead of the log and never needs a sync of its own. Durability is
the log's: `wait_durable` shares one disk sync among everybody who waits (group commit).

Not for several threads at once: whoever calls holds the shard. Only `wait_durable` waits.

Does not know paths, permissions or file handles.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from storage import extents, record
from storage.errors import Corruption
from storage.limits import CHUNK_BYTES, PAYLOAD_BYTES_MAX
from storage.namespace import ROOT, Counters, Namespace, Outcome
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.attributes import Attributes
    from storage.clock import Clock, HybridClock
    from storage.extents import DirtyMap
    from storage.log import Log
    from storage.table import Table

__all__ = ["Position", "Shard"]

_POSITION_KEY = b"M\0position"
_COUNTERS_KEY = b"M\0counters"
_POSITION = struct.Struct("<QQQQQ")

RECORD_KIND = 1
"""The frame kind of a namespace record."""

PUBLISH_RECORDS_MAX = 2048
"""Records applied to an unpublished table: what a crash makes the next start apply again, some tens of ms."""

ZEROS = bytes(PAYLOAD_BYTES_MAX)


class Position(NamedTuple):
    """How far a table has come, stored in it: the last record applied, and of which store."""

    identity: int
    index: int  # type: ignore[assignment]  # the glossary's word; tuple.index is not wanted here
    address: int
    timestamp: int
    checksum: int

    @classmethod
    def load(cls, table: Table) -> Position | None:
        """What the table says; None for an empty one."""
        row = table.get(_POSITION_KEY)
        return cls(*_POSITION.unpack(row)) if row is not None else None


class Shard:
    """See the module. `recover` must be called once before anything else."""

    def __init__(
        self,
        identity: int,
        log: Log | VolatileLog,
        table: Table,
        clock: Clock,
        hybrid: HybridClock,
        *,
        keep_past: bool = True,
    ) -> None:
        self._identity = identity
        self.log = log
        self._table = table
        self._clock = clock
        self._hybrid = hybrid
        row = table.get(_COUNTERS_KEY)
        counters = Counters.unpack(row) if row is not None else Counters()
        self.namespace = Namespace(table, keep_past=keep_past, counters=counters)
        self._position = Position.load(table) or Position(identity, 0, 0, 0, 0)
        self._unpublished = 0
        self._sync_under_way: trio.Event | None = None

    # --- start and end -----------------------------------------------------------------------------------------

    def recover(self, progress: Callable[[int], None] | None = None) -> int:
        """Apply what the log holds and the table does not; how many records that was.

        Args:
            progress: called now and then with the number of records applied so far.

        Raises:
            Corruption: a record in the log is intact but makes no sense to this version.
        """
        position = self._position
        applied = 0
        start = position.address or None
        for frame in self.log.frames(start):
            if frame.index <= position.index:
                continue
            try:
                decoded = record.decode(frame.metadata)
            except msgspec.DecodeError as error:
                raise Corruption(
                    f"record {frame.index} of the log cannot be read by this version: {error}"
                ) from error
            self.namespace.apply(frame.timestamp, frame.address, decoded)
            self._advance(frame.index, frame.address, frame.timestamp, frame.checksum)
            applied += 1
            if progress is not None and applied % 1000 == 0:
                progress(applied)
        self._hybrid.observe(max(self._position.timestamp, self.log.last_timestamp))
        return applied

    def format(self, uid: int, gid: int, mode: int) -> None:
        """Give an empty store its root directory, as the first record of its log."""
        root = record.Create(0, b"", ROOT, mode, uid, gid)
        self._append(root, ())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever recorded here."""
        return self._position.index == 0

    def publish(self) -> None:
        """Let the table be seen by other processes and survive this one, up to the last record applied."""
        if self._unpublished:
            self._table.put(_POSITION_KEY, _POSITION.pack(*self._position))
            self._table.put(_COUNTERS_KEY, self.namespace.counters.pack())
            self._table.commit()
            self._unpublished = 0

    # --- changes -----------------------------------------------------------------------------------------------

    def propose(self, proposal: record.Record) -> Outcome:
        """Append and apply one record; on the disk only after `wait_durable`.

        Raises:
            OSError: the log could not take it (ENOSPC, EIO); nothing happened.
        """
        return self._append(proposal, ())

    def stage(self, inode: int, offset: int, data: bytes | memoryview) -> list[record.Extent]:
        """Append bytes of a draft ahead of its commit; the extents a Commit may name. Cut at chunk borders."""
        view = memoryview(data)
        staged = []
        for _, _, length, done in extents.split_by_chunk(offset, len(view)):
            metadata = record.encode(record.Write(inode, offset + done))
            address = self._log_append(metadata, (view[done : done + length],))
            staged.append((offset + done, length, address, 0))
        return staged

    def commit(
        self,
        inode: int,
        dirty: DirtyMap,
        size: int,
        keep: int | None,
        mtime_ns: int,
        changed_ns: int,
    ) -> Outcome:
        """Make a draft the next content of an inode (`record.Commit`); `dirty` is used up.

        Small drafts travel in the commit's own frame: one append. What is in memory beyond a frame is staged first.

        Raises:
            OSError: the log could not take it; nothing was committed and `dirty` still holds every byte.
        """
        if inode in self.namespace.overlong:
            self._widen(inode, dirty, size, keep)
        carried: list[memoryview] = []
        carried_bytes = 0
        inline = dirty.memory_bytes <= PAYLOAD_BYTES_MAX
        named: list[record.Extent] = []
        for span in dirty:
            if span.data is None:
                named.append((span.start, span.length, span.address, span.offset))
            elif inline:
                carried.append(span.view())
                named.append((span.start, span.length, record.SELF, carried_bytes))
                carried_bytes += span.length
            else:
                named.extend(self.stage(inode, span.start, span.view()))
        proposal = record.Commit(inode, size, keep, named, mtime_ns, changed_ns)
        return self._append(proposal, carried)

    def _widen(self, inode: int, dirty: DirtyMap, size: int, keep: int | None) -> None:
        """Write neighbours again together with the draft where a chunk's row has grown too long (`mergeable`)."""
        attributes = self.namespace.attributes(inode)
        if attributes is None:
            return
        limit = min(attributes.size if keep is None else keep, size)
        for chunk in self.namespace.take_overlong(inode, attributes.generation):
            pieces = self.namespace.pieces(inode, attributes.generation, chunk)
            window = extents.mergeable(pieces)
            if window is None:
                continue
            start = chunk * CHUNK_BYTES + window[0]
            end = min(chunk * CHUNK_BYTES + window[1], limit)
            if end <= start:
                continue
            old = memoryview(self.read(inode, attributes, None, start, end - start))
            for gap_start, gap_end in dirty.gaps(start, end):
                dirty.write(gap_start, bytes(old[gap_start - start : gap_end - start]))

    def _append(self, proposal: record.Record, payload: Sequence[bytes | memoryview]) -> Outcome:
        metadata = record.encode(proposal)
        timestamp = self._hybrid.tick(self._clock.now_ns())
        address = self.log.append(RECORD_KIND, timestamp, metadata, payload)
        # From here on the record is part of history: applying it may refuse, but must not raise.
        outcome = self.namespace.apply(timestamp, address, proposal)
        if self.namespace.released:
            self._release()
        self._advance(self.log.last_index, address, timestamp, self.log.last_checksum)
        return outcome

    def _log_append(self, metadata: bytes, payload: Sequence[bytes | memoryview]) -> int:
        timestamp = self._hybrid.tick(self._clock.now_ns())
        address = self.log.append(RECORD_KIND, timestamp, metadata, payload)
        self._advance(self.log.last_index, address, timestamp, self.log.last_checksum)
        return address

    def _advance(self, index: int, address: int, timestamp: int, checksum: int) -> None:
        self._position = Position(self._identity, index, address, timestamp, checksum)
        self._unpublished += 1
        if self._unpublished >= PUBLISH_RECORDS_MAX:
            self.publish()

    def _release(self) -> None:
        assert isinstance(self.log, VolatileLog), "only a volatile pool counts references"
        self.log.release(self.namespace.released)
        self.namespace.released.clear()

    def forget(self, inode: int) -> None:
        """An inode without names has no user left: a volatile pool drops it, a persistent one keeps history."""
        if isinstance(self.log, VolatileLog):
            self.namespace.forget(self._hybrid.tick(self._clock.now_ns()), inode)
            self._release()

    # --- reads -------------------------------------------------------------------------------------------------

    def read(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        offset: int,
        length: int,
    ) -> bytes | bytearray | memoryview:
        """Bytes of the content that `attributes` describe, now (`timestamp` None) or as of a timestamp.

        Shorter than asked at the end of the file; holes are zeros. One piece is handed out as the log has it, not
        copied; the result is to be read, not kept.

        Raises:
            Corruption: the stored bytes are not those that were written.
        """
        length = min(length, attributes.size - offset)
        if length <= 0:
            return b""
        parts: list[bytes | memoryview] = []
        for chunk, start, size, _ in extents.split_by_chunk(offset, length):
            pieces = self.namespace.pieces(inode, attributes.generation, chunk, timestamp)
            self._collect(pieces, start, start + size, parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _collect(
        self,
        pieces: list[tuple[int, int, int, int]],
        start: int,
        end: int,
        parts: list[bytes | memoryview],
    ) -> None:
        """Append the bytes [start, end) of one chunk to `parts`."""
        at = start
        for left, length, address, offset in pieces:
            right = left + length
            if right <= at:
                continue
            if left >= end:
                break
            if left > at:
                parts.append(ZEROS[: left - at])
                at = left
            take = min(right, end) - at
            parts.append(self.log.read(address, offset + at - left, take))
            at += take
        if at < end:
            parts.append(ZEROS[: end - at])

    # --- durability --------------------------------------------------------------------------------------------

    async def wait_durable(self, index: int | None = None) -> None:
        """Wait until the record at `index` (default: the last one) is on the disk.

        Cancellation leaves the sync running for whoever else waits; the record may or may not be durable.

        Raises:
            OSError: the disk refused; the log takes no more records (it cannot know what the disk kept).
        """
        target = self.log.last_index if index is None else index
        while self.log.durable_index < target:
            if self._sync_under_way is not None:
                await self._sync_under_way.wait()
                continue
            self._sync_under_way = trio.Event()
            try:
                await trio.to_thread.run_sync(self.log.sync)
            finally:
                self._sync_under_way.set()
                self._sync_under_way = None

    def close(self) -> None:
        """Publish, sync and close everything."""
        if self.log.durable_index < self.log.last_index:
            self.log.sync()
        self.publish()
        self._table.sync()
        self._table.close()
        self.log.close()
