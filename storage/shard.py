"""The driver of one shard: joins log, clock, index table and namespace, and keeps their order.

This is the shard of a store of its own: what is proposed is ordered here, by appending it. One whose records are ordered
elsewhere is `storage.cluster.face`, which is this with another way of appending.

Theory of operation. A proposal is stamped, appended to the log (one system call: the bytes survive the death of this
process) and applied to the namespace, whose rows gather in the table's open transaction. The table is published now
and then (`publish`), together with the log position it has reached; after a crash the tail of the log behind that
position is applied again. So the index is never ahead of the log and never needs a sync of its own. Durability is
the log's: `wait_durable` shares one disk sync among everybody who waits (group commit).

Not for several threads at once: whoever calls holds the shard. Only `wait_durable` waits.

Does not know paths, permissions or file handles.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
import trio

from storage import extents, record
from storage.errors import Corruption, Reason
from storage.limits import CHUNK_BYTES, PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX
from storage.namespace import DONE, REFUSED, ROOT, Counters, Namespace, Outcome
from storage.sequencer import PLAIN
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from storage.attributes import Attributes
    from storage.clock import Clock, HybridClock
    from storage.distant import DistantLog
    from storage.extents import DirtyMap, Span
    from storage.log import Log
    from storage.table import Table

__all__ = ["Position", "Shard"]

_POSITION_KEY = b"M\0position"
_COUNTERS_KEY = b"M\0counters"
_ROWS_KEY = b"M\0rows"
_POSITION = struct.Struct("<QQQQQ")

ROWS_VERSION = b"2"
"""Of what rows there are: an index that lacks some is built again. 2: names of an inode."""

PUBLISH_RECORDS_MAX = 2048
"""Records applied to an unpublished table: what a crash makes the next start apply again, some tens of ms."""

WIDENED_CHUNKS_MAX = 64
"""Overlong chunks one commit writes again, beside one in sixteen of the spans it brings: bounds its memory."""

SPOT_SYNC_NS_MAX = 1_000_000
"""A disk this fast may be synced without leaving the caller's thread: nobody waits longer than for a large read."""

ZEROS = bytes(PAYLOAD_BYTES_MAX)

Stretch: TypeAlias = bytes | tuple[int, int, int]
"""Zeros, or (address, offset, length) in the log: what a stretch of a file consists of."""


class Position(NamedTuple):
    """How far a table has come, stored in it: the last record applied, and of which store."""

    identity: int
    index: int  # type: ignore[assignment]  # the glossary's word; tuple.index is not wanted here
    address: int
    timestamp: int
    checksum: int

    @classmethod
    def load(cls, table: Table) -> Position | None:
        """What the table says; None for an empty one.

        Raises:
            Corruption: its rows about itself are not what `Shard.publish` writes, or one is missing.
        """
        row, counters = table.get(_POSITION_KEY), table.get(_COUNTERS_KEY)
        if row is None and counters is None:
            return None
        if row is None or len(row) != _POSITION.size or not Counters.is_row(counters):
            raise Corruption("the index does not say how far it has come")
        if table.get(_ROWS_KEY) != ROWS_VERSION:
            raise Corruption("another version of this program made it, with other rows")
        return cls(*_POSITION.unpack(row))


class Shard:
    """See the module. `recover` must be called once before anything else."""

    def __init__(
        self,
        identity: int,
        log: Log | VolatileLog | DistantLog,
        table: Table,
        clock: Clock,
        hybrid: HybridClock,
        *,
        keep_past: bool = True,
        forgets: bool = False,
        number: int = 0,
    ) -> None:
        self._identity = identity
        self.log = log
        self._table = table
        self._clock = clock
        self._hybrid = hybrid
        self.namespace = Namespace(table, keep_past=keep_past, shard=number, forgets=forgets)
        self._first_inode = self.namespace.counters.next_inode
        self._load()
        self.listener: Callable[[int, int, record.Record], None] | None = None
        """Told (timestamp, address, record) of each record once it is applied, refused ones too. Must not raise."""
        self._unpublished = 0
        self._publish_at = PUBLISH_RECORDS_MAX
        self._failure: str | None = None
        self.abandoned_below = log.end_address
        """What was staged in front of here and never named belonged to a draft of a process that is no more."""
        self.index_trouble: str | None = None
        """Why the table could last not be published; nothing is lost, but the next start has more to apply."""
        # Volatile pools: frames that drafts may refer to, by inode.
        self._staged: dict[int, list[int]] = {}
        self._sync_under_way: trio.Event | None = None
        self._sync_ns = SPOT_SYNC_NS_MAX + 1  # how long the last one took; not known yet
        self._synced_last = 0  # who waited for it

    def _load(self) -> None:
        """Take position and counters as the table was last published with."""
        counters = self.namespace.counters
        self._position = Position.load(self._table) or Position(self._identity, 0, 0, 0, 0)
        row = self._table.get(_COUNTERS_KEY)
        published = Counters.unpack(row) if row is not None else Counters(self._first_inode)
        counters.live_bytes = published.live_bytes
        counters.live_inodes = published.live_inodes
        counters.pruned_contents = published.pruned_contents
        counters.next_inode = self._next_inode(counters.next_inode, published.next_inode)

    def _next_inode(self, reached: int, published: int) -> int:
        """Numbers given out and not yet created with are not given out again."""
        return max(reached, published)

    # --- start and end -----------------------------------------------------------------------------------------

    def recover(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Apply what the log holds and the table does not; how many records that was.

        Args:
            progress: called now and then with the number of records applied so far, and of all there are to apply.

        Raises:
            Corruption: a record in the log is intact but makes no sense to this version.
        """
        applied = 0
        total = self.log.last_index - self._position.index
        for _ in self._apply_tail():
            applied += 1
            if progress is not None and applied % 1000 == 0:
                progress(applied, total)
            if self._unpublished >= PUBLISH_RECORDS_MAX:
                self._publish()
        self._hybrid.observe(max(self._position.timestamp, self.log.last_timestamp))
        return applied

    def _apply_tail(self) -> Iterator[Outcome]:
        """Apply the records behind the table's position, one at each step, and publish nothing."""
        start = self._position
        for frame in self.log.frames(start.address or None):
            if frame.index <= start.index:
                continue
            try:
                decoded = record.decode(frame.metadata)
            except msgspec.DecodeError as error:
                raise Corruption(
                    f"record {frame.index} of the log cannot be read by this version: {error}"
                ) from error
            try:
                outcome = self.namespace.apply(frame.timestamp, frame.address, decoded)
            except (OSError, MemoryError, Corruption):
                raise
            except Exception as error:  # Numbers that fit no field, pieces that fit no file.
                raise Corruption(
                    f"record {frame.index} of the log makes no sense to this version: {error!r}"
                ) from error
            self._reached(frame.index, frame.address, frame.timestamp, frame.checksum)
            yield outcome

    def format(self, uid: int, gid: int, mode: int) -> None:
        """Give an empty store its root directory, as the first record of its log."""
        root = record.Create(0, b"", ROOT, mode, uid, gid)
        self._append(root, ())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever recorded here."""
        return self._position.index == 0

    def publish(self) -> None:
        """Let the table be seen by other processes and survive this one, up to the last record applied.

        A table that cannot be written (a full disk) is no failure of the caller's: the log has every record, so the
        unpublished ones are applied again here and now, and `index_trouble` says why.

        Raises:
            OSError: that was not possible either; the shard takes no more records until it is.
        """
        if not self._unpublished or self._failure is not None:
            return
        try:
            self._publish()
        except Exception as error:
            self._start_over(error)

    def _publish(self) -> None:
        self._table.put(_POSITION_KEY, _POSITION.pack(*self._position))
        self._table.put(_ROWS_KEY, ROWS_VERSION)
        self._table.put(_COUNTERS_KEY, self.namespace.counters.pack())
        self._table.commit()
        self._unpublished = 0
        self._publish_at = PUBLISH_RECORDS_MAX
        self.index_trouble = None

    def _start_over(self, error: Exception) -> Outcome:
        """The table failed and forgets what was not published: apply the tail of the log again, publish later.

        Answers the outcome of the last record.
        """
        self.index_trouble = str(error) or type(error).__name__
        if isinstance(self.log, VolatileLog):
            self._failure = (
                f"the index is lost ({self.index_trouble}), and there is nothing to make it from"
            )
            raise OSError(errno.EIO, self._failure) from error
        outcome = DONE
        try:
            self._table.abandon()
            self.namespace.sweep.restart()
            self.namespace.quotas.reload()
            self.namespace.sessions.restart()
            self._load()
            self._unpublished = 0
            for outcome in self._apply_tail():  # noqa: B007  the last one is what the caller waits for
                pass
        except Exception as again:
            why = str(again) or type(again).__name__
            self._failure = f"the index could not be brought up to the log ({why})"
            raise OSError(errno.EIO, self._failure) from again
        # Every attempt costs a tail as long as this one: wait till twice as much has come together.
        self._publish_at = 2 * max(self._unpublished, PUBLISH_RECORDS_MAX)
        return outcome

    def _refuse_failed(self) -> None:
        """Try again to bring up an index that could not be; nothing is taken before."""
        if self._failure is not None:
            failure, self._failure = OSError(errno.EIO, self._failure), None
            self._start_over(failure)

    # --- changes -----------------------------------------------------------------------------------------------

    def propose(
        self, proposal: record.Record, payload: Sequence[bytes | memoryview] = ()
    ) -> Outcome:
        """Append and apply one record, with the bytes it speaks of; on the disk only after `wait_durable`.

        Raises:
            OSError: the log could not take it (ENOSPC, EIO) and nothing happened; or the index cannot be brought up to
                the log, the record may be history, and nothing more is taken until that works again.
        """
        return self._append(proposal, payload)

    def stage(self, inode: int, offset: int, data: bytes | memoryview) -> list[record.Extent]:
        """Append bytes of a draft ahead of its commit; the extents a Commit may name. Cut at chunk borders."""
        view = memoryview(data)
        staged = []
        for _, _, length, done in extents.split_by_chunk(offset, len(view)):
            proposal = record.Write(inode, offset + done)
            address = self._log_append(proposal, (view[done : done + length],))
            if isinstance(self.log, VolatileLog):
                self._staged.setdefault(inode, []).append(address)
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
        before: Sequence[record.Part] = (),
        after: Sequence[record.Part] = (),
    ) -> Outcome:
        """Make a draft the next content of an inode (`record.Commit`); `dirty` is used up.

        With changes `before` or `after` it, all are one `record.Batch`: an `Expect` in front, the `Create` of the
        inode, what the content tells of. Refused, it leaves `dirty` and the inode alone.

        Small drafts travel in the commit's own frame: one append. What is in memory beyond a frame is staged first.

        Raises:
            OSError: the log could not take it; nothing was committed and `dirty` still holds every byte.
        """
        spans: Iterable[Span] = dirty
        memory_bytes = dirty.memory_bytes
        if inode in self.namespace.overlong:
            # Not into the draft: should this fail, somebody else may change the neighbours before it is tried again.
            again = self._neighbours(inode, dirty, size, keep)
            spans = sorted([*dirty, *again], key=lambda span: span.start)
            memory_bytes += again.memory_bytes
        carried: list[memoryview] = []
        carried_bytes = 0
        inline = memory_bytes <= PAYLOAD_BYTES_MAX
        named: list[record.Extent] = []
        for span in spans:
            if span.data is None:
                named.append((span.start, span.length, span.address, span.offset))
            elif inline:
                carried.append(span.view())
                named.append((span.start, span.length, record.SELF, carried_bytes))
                carried_bytes += span.length
            else:
                named.extend(self.stage(inode, span.start, span.view()))
        commit = record.Commit(inode, size, keep, named, mtime_ns, changed_ns)
        proposal: record.Record = commit
        if before or after:
            proposal = record.Batch([*before, commit, *after])
        outcome = self._append(proposal, carried)
        if isinstance(self.log, VolatileLog) and outcome.reason is None:
            self._drop_staged(inode, self.log)
        return outcome

    def _drop_staged(self, inode: int, log: VolatileLog) -> None:
        """A draft is done with: what was staged for it and came into no content is nobody's."""
        staged = self._staged.pop(inode, [])
        log.release([address for address in staged if not self.namespace.refers(address)])

    def _neighbours(self, inode: int, dirty: DirtyMap, size: int, keep: int | None) -> DirtyMap:
        """What to write again together with a draft where a chunk's row has grown too long (`mergeable`)."""
        found = extents.DirtyMap()
        attributes = self.namespace.attributes(inode)
        if attributes is None:
            return found
        limit = min(attributes.size if keep is None else min(keep, attributes.size), size)
        count_max = WIDENED_CHUNKS_MAX + len(dirty) // 16
        for chunk in self.namespace.take_overlong(inode, attributes.generation, count_max):
            pieces = self.namespace.pieces(inode, attributes.generation, chunk)
            window = extents.mergeable(pieces)
            if window is None:
                continue
            start = chunk * CHUNK_BYTES + window[0]
            end = min(chunk * CHUNK_BYTES + window[1], limit)
            if end <= start:
                continue
            try:
                old = memoryview(self.read(inode, attributes, None, start, end - start))
            except (OSError, Corruption):
                continue  # Old bytes that cannot be read are no reason to refuse new ones.
            for gap_start, gap_end in dirty.gaps(start, end):
                found.write(gap_start, bytes(old[gap_start - start : gap_end - start]))
        return found

    def _append(self, proposal: record.Record, payload: Sequence[bytes | memoryview]) -> Outcome:
        if self._failure is not None:
            self._refuse_failed()
        metadata = record.encode(proposal)
        if len(metadata) > RECORD_BYTES_MAX:
            return REFUSED[Reason.ARGUMENT_TOO_LARGE]
        timestamp = self._hybrid.tick(self._clock.now_ns())
        log = self.log
        address = log.append(PLAIN, timestamp, metadata, payload)
        # From here on the record is part of history: applying it may refuse, and whatever the table says, it stands.
        try:
            outcome = self.namespace.apply(timestamp, address, proposal)
            if self.namespace.released:
                self._release()
            self._reached(log.last_index, address, timestamp, log.last_checksum)
        except Exception as error:  # Whatever it is, no memory or a bug: the record stands, and the index must have it.
            outcome = self._start_over(error)
        if self._unpublished >= self._publish_at:
            self.publish()
        if self.listener is not None:
            self.listener(timestamp, address, proposal)
        return outcome

    def _log_append(self, proposal: record.Write, payload: Sequence[bytes | memoryview]) -> int:
        """Append bytes that nobody sees yet; answers where."""
        self._refuse_failed()
        timestamp = self._hybrid.tick(self._clock.now_ns())
        address = self.log.append(PLAIN, timestamp, record.encode(proposal), payload)
        try:
            self.namespace.apply(timestamp, address, proposal)
            self._reached(self.log.last_index, address, timestamp, self.log.last_checksum)
        except Exception as error:
            self._start_over(error)
        if self._unpublished >= self._publish_at:
            self.publish()
        return address

    def sweep(self, rows_max: int) -> bool:
        """Give back rows that only pruned contents showed (`Sweep`); False when there are none left.

        Raises:
            OSError: as `publish`.
        """
        try:
            more = self.namespace.sweep.step(rows_max)
            # No record, but the table wants to be published, at the position it has.
            self._unpublished += more
        except Exception as error:
            self._start_over(error)
            return False
        if self._unpublished >= self._publish_at:
            self.publish()
        return more

    def forget_frames(self, addresses: Iterable[int]) -> None:
        """The payloads of dead frames are gone from the log."""
        try:
            for address in addresses:
                self.namespace.frames.forget(address)
            self._unpublished += 1
        except Exception as error:
            self._start_over(error)

    def _reached(self, index: int, address: int, timestamp: int, checksum: int) -> None:
        self._position = Position(self._identity, index, address, timestamp, checksum)
        self._unpublished += 1

    def _release(self) -> None:
        assert isinstance(self.log, VolatileLog), "only a volatile pool counts references"
        self.log.release(self.namespace.released)
        self.namespace.released.clear()

    def forget(self, inode: int) -> None:
        """An inode without names has no user left: a volatile pool drops it, a persistent one keeps history."""
        if isinstance(self.log, VolatileLog):
            self.namespace.forget(self._hybrid.tick(self._clock.now_ns()), inode)
            self._release()
            self._drop_staged(inode, self.log)

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
        found: list[Stretch] = []
        has_hole = False
        for chunk, start, size, _ in extents.split_by_chunk(offset, length):
            pieces = self.namespace.pieces(inode, attributes.generation, chunk, timestamp)
            has_hole |= self._collect(pieces, start, start + size, found)
        if has_hole and attributes.stored == attributes.size:
            # A row that damage made unfindable must not read as zeros.
            raise Corruption(f"the index has lost pieces of inode {inode}")
        parts = self._bytes_of(found)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_ranges(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        ranges: Sequence[tuple[int, int]],
    ) -> bytes:
        """Bytes of several ranges of a content, one behind the other; each row of the index is looked up once.

        Args:
            inode: whose content.
            attributes: of the content.
            timestamp: as of when; None: now.
            ranges: (offset, end) each, ascending, inside the content.

        Raises:
            Corruption: as `read`.
        """
        found: list[Stretch] = []
        has_hole = False
        known, pieces = -1, []
        for offset, end in ranges:
            assert offset < end <= attributes.size
            for chunk, start, size, _ in extents.split_by_chunk(offset, end - offset):
                if chunk != known:
                    pieces = self.namespace.pieces(inode, attributes.generation, chunk, timestamp)
                    known = chunk
                first = max(bisect_left(pieces, (start + 1,)) - 1, 0)
                has_hole |= self._collect(pieces[first:], start, start + size, found)
        if has_hole and attributes.stored == attributes.size:
            raise Corruption(f"the index has lost pieces of inode {inode}")
        return b"".join(self._bytes_of(found))

    def _collect(
        self,
        pieces: list[tuple[int, int, int, int]],
        start: int,
        end: int,
        found: list[Stretch],
    ) -> bool:
        """Append what the bytes [start, end) of one chunk are to `found`; whether some of them lie in a hole."""
        at = start
        has_hole = False
        for left, length, address, offset in pieces:
            right = left + length
            if right <= at:
                continue
            if left >= end:
                break
            if left > at:
                found.append(ZEROS[: left - at])
                at, has_hole = left, True
            take = min(right, end) - at
            found.append((address, offset + at - left, take))
            at += take
        if at < end:
            found.append(ZEROS[: end - at])
            has_hole = True
        return has_hole

    def _bytes_of(self, found: list[Stretch]) -> list[bytes | memoryview]:
        """Read the log, when all rows of the index have been: that may wait, and they change meanwhile."""
        read = self.log.read
        return [read(*one) if isinstance(one, tuple) else one for one in found]

    # --- durability --------------------------------------------------------------------------------------------

    async def wait_durable(self, index: int | None = None, who: int = 0) -> None:
        """Wait until the record at `index` (default: the last one) is on the disk.

        A sync runs on a worker thread, and whoever comes meanwhile shares the next. Going to the thread and back
        takes 200 us, twice what a fast disk takes to sync; so somebody who syncs again and again while nobody else
        does (`who`, an inode, is not 0 and the same as last time) is served on the spot, without a task switch, as
        long as the disk answers within `SPOT_SYNC_NS_MAX`.

        Cancellation leaves the sync running for whoever else waits; the record may or may not be durable.

        Raises:
            OSError: the disk refused; the log takes no more records (it cannot know what the disk kept).
        """
        target = self.log.last_index if index is None else index
        alone, self._synced_last = who and who == self._synced_last, who
        if alone and self._sync_ns <= SPOT_SYNC_NS_MAX and self._sync_under_way is None:
            if self.log.durable_index < target:
                self._sync()
            return
        while self.log.durable_index < target:
            if self._sync_under_way is not None:
                await self._sync_under_way.wait()
                continue
            self._sync_under_way = trio.Event()
            try:
                await trio.to_thread.run_sync(self._sync)
            finally:
                self._sync_under_way.set()
                self._sync_under_way = None

    def _sync(self) -> None:
        started_ns = self._clock.now_ns()
        self.log.sync()
        self._sync_ns = self._clock.now_ns() - started_ns

    def close(self, *, keep: bool = False) -> bool:
        """Close everything, also where it raises.

        Args:
            keep: bring all that was recorded to the disk first, index included. Not for what leaves nothing behind: a
                volatile pool, a read-only one.

        Returns:
            Whether the index on the disk has everything the log has.

        Raises:
            OSError: not everything could be saved.
        """
        whole = False
        try:
            if keep:
                self.log.sync()
                self.publish()
                if self._failure is None and not self._unpublished:
                    self._table.sync()
                    whole = True
        finally:
            try:
                self._table.close()
            finally:
                self.log.close()
        return whole
