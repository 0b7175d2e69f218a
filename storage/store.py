"""The Store: what the file system, the triggers and a server need of the versioned tree, and the embedded one.

`Store` is the contract. Queries and changes are plain calls where nothing waits; `wait_durable` is a coroutine.
`LocalStore` keeps one shard in a data directory of its own, or in memory for a volatile pool.

A snapshot is a timestamp in microseconds. `settle` makes one final: after it, nothing can commit at or before it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from storage import opening, stream
from storage.clock import Clock, HybridClock
from storage.disk import RealDisk
from storage.distant import DistantLog
from storage.errors import Unusable
from storage.index import LmdbIndex
from storage.limits import SEGMENT_BYTES
from storage.log import Log
from storage.namespace import ROOT
from storage.retention import Retention
from storage.scrub import IndexScrub, Scrub
from storage.shard import Shard
from storage.superblock import DirectoryLock
from storage.table import MemoryTable
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from random import Random

    from storage.attributes import Attributes
    from storage.binding import Binding, Tombstone
    from storage.disk import Disk
    from storage.extents import DirtyMap
    from storage.index import Index
    from storage.namespace import Counters, Outcome, Version
    from storage.namespace.deliveries import Deliveries
    from storage.record import Expect, Extent, Part, Record
    from storage.stream import Committed

__all__ = ["LocalStore", "Store"]

SPARE_SEGMENTS = 2
"""The room below which a disk counts as full: for the next segment, and for one being written again."""


class Accounts(Protocol):
    """`storage.namespace.quotas.Quotas`, as far as one may ask."""

    @property
    def some(self) -> bool:
        """Whether there are any."""
        ...

    def room(self, directory: int) -> int | None:
        """See `Quotas`."""
        ...

    def account(self, inode: int) -> tuple[int, int]:
        """See `Quotas`."""
        ...

    def accounts(self, directory: int) -> tuple[int, ...]:
        """See `Quotas`."""
        ...


class Keeping(Protocol):
    """`storage.retention.Retention`, as far as the file system asks and is asked."""

    pinned: Callable[[], set[tuple[int, int]]]
    in_use: Callable[[], set[int]] | None

    def ask(self, *, dry: bool) -> None:
        """See `Retention`."""
        ...

    def purge(self, inode: int, content: int) -> Outcome:
        """See `Retention`."""
        ...

    def history_bytes(self, directory: int) -> int | None:
        """See `Retention`."""
        ...

    def is_held(self, inode: int) -> bool:
        """See `Retention`."""
        ...


class Store(Protocol):
    """A versioned tree. Inode numbers, names (bytes) and timestamps (microseconds) are all it speaks of."""

    @property
    def keeps_past(self) -> bool:
        """Whether what was is kept; if not, frames belong to the inode they were written for."""
        ...

    def keeps_past_of(self, inode: int) -> bool:
        """Whether the past of what lives where an inode does is kept."""
        ...

    @property
    def has_others(self) -> bool:
        """Whether others change what is here, too; if not, nothing comes here but by proposing it."""
        ...

    def attributes(self, inode: int) -> Attributes | None:
        """See `Namespace`."""
        ...

    def attributes_row(self, inode: int) -> tuple[int, Attributes] | None:
        """See `Namespace`."""
        ...

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """See `Namespace`."""
        ...

    def binding(self, directory: int, name: bytes) -> Binding | None:
        """See `Namespace`."""
        ...

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """See `Namespace`."""
        ...

    def known(self, directory: int, name: bytes) -> bool:
        """See `Namespace`."""
        ...

    def children(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, Binding]]:
        """See `Namespace`."""
        ...

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """See `Namespace`."""
        ...

    def deleted(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, int, Tombstone]]:
        """See `Namespace`."""
        ...

    def head(self, directory: int, name: bytes) -> int:
        """See `Namespace`."""
        ...

    def version(self, directory: int, name: bytes, number: int) -> Version | None:
        """See `Namespace`."""
        ...

    def content_timestamp(self, inode: int, content: int) -> int | None:
        """See `Namespace`."""
        ...

    def content_state(self, inode: int, content: int) -> int:
        """See `Namespace`."""
        ...

    def keeps_instant(self, directory: int, timestamp: int) -> bool:
        """See `Retention`."""
        ...

    def kept_instants(self, directory: int, commits: list[int], count_max: int) -> list[int]:
        """See `Retention.instants`."""
        ...

    def chunks(
        self, inode: int, generation: int, timestamp: int | None = None, after: int = -1
    ) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
        """See `Namespace`."""
        ...

    def xattr(self, inode: int, name: bytes, timestamp: int | None = None) -> bytes | None:
        """See `Namespace`."""
        ...

    def xattrs(self, inode: int, timestamp: int | None = None) -> list[bytes]:
        """See `Namespace`."""
        ...

    def target(self, inode: int) -> bytes | None:
        """See `Namespace`."""
        ...

    def label(self, directory: int, label: bytes) -> int | None:
        """See `Namespace`."""
        ...

    def labels(self, directory: int) -> list[tuple[bytes, int]]:
        """See `Namespace`."""
        ...

    def journal(self, before: int = ...) -> Iterator[tuple[int, list[int]]]:
        """See `Namespace`."""
        ...

    def is_below(self, inode: int, directory: int) -> bool:
        """See `Namespace`."""
        ...

    def holds(self, record: Expect) -> bool:
        """See `storage.namespace.conditions`."""
        ...

    def request_done(self, directory: int, client: int) -> tuple[int, int]:
        """See `Sessions.done`: in the shard where a directory lives."""
        ...

    def event_of(self, directory: int, name: bytes, number: int) -> int | None:
        """See `storage.namespace.events`."""
        ...

    def version_by_event(
        self, directory: int, name: bytes, event_us: int, known: int | None = None
    ) -> int | None:
        """See `storage.namespace.events`."""
        ...

    def read(
        self, inode: int, attributes: Attributes, timestamp: int | None, offset: int, length: int
    ) -> bytes | bytearray | memoryview:
        """Bytes of a content; `Corruption` if they are not what was written."""
        ...

    def read_ranges(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        ranges: Sequence[tuple[int, int]],
    ) -> bytes:
        """Several ranges of a content, joined; see `Shard`."""
        ...

    def read_staged(self, inode: int, address: int, offset: int, length: int) -> bytes | memoryview:
        """Bytes that `stage` stored for an inode."""
        ...

    def names_at(self, inode: int, timestamp: int | None = None) -> list[tuple[int, bytes]]:
        """See `Namespace`."""
        ...

    def entry_at(
        self, directory: int, name: bytes, timestamp: int
    ) -> tuple[int, Binding | None, Tombstone | None] | None:
        """See `Namespace`."""
        ...

    @property
    def deliveries(self) -> Deliveries:
        """What followers of the commits have done: questions only."""
        ...

    @property
    def quotas(self) -> Accounts:
        """What directories may hold: questions only."""
        ...

    @property
    def retention(self) -> Keeping:
        """What is kept of history."""
        ...

    @property
    def counters(self) -> Counters:
        """Totals, for statfs and status."""
        ...

    @property
    def held_bytes(self) -> int:
        """What the store holds, history too."""
        ...

    def space(self) -> tuple[int, int, int]:
        """(bytes in all, free, free to users) of the disks below."""
        ...

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        ...

    def listen(self, listener: Callable[[int, int, Record], None] | None) -> None:
        """Have (timestamp, address, record) told of each record once it is applied; one listener, or none."""
        ...

    def committed(self, address: int = 0, after: int = 0) -> Iterator[Committed]:
        """See `storage.stream`."""
        ...

    def committed_at(self, address: int) -> Committed:
        """See `storage.stream`."""
        ...

    def address_of_time(self, timestamp: int) -> int:
        """See `storage.stream`."""
        ...

    @property
    def shards(self) -> Sequence[int]:
        """The shards that are here, in order."""
        ...

    def view(self, shard: int) -> Store:
        """The same store as a follower of one shard sees it: places, listeners and deliveries are those of this shard."""
        ...

    def shard_of(self, inode: int) -> int:
        """Where an inode lives. Bytes are shared, and names linked and moved, within a shard only."""
        ...

    def is_top(self, directory: int, timestamp: int) -> bool:
        """Whether a follower of the commits asks for nothing above a directory: the root, or where its shard begins."""
        ...

    def provenance_of(self, inode: int, timestamp: int) -> bytes | None:
        """What is kept of the run that made the content an inode has since then; None if it was not a run."""
        ...

    def propose(self, proposal: Record, payload: Sequence[bytes | memoryview] = ()) -> Outcome:
        """Record a change, with the bytes it speaks of; visible to every later query when it returns."""
        ...

    def begin(
        self,
        proposal: Record,
        payload: Sequence[bytes | memoryview],
        done: Callable[[Outcome | OSError], None],
    ) -> None:
        """As `propose`, but `done` is told the outcome, with the store held, perhaps before this returns.

        `done` must not raise or propose. `payload` must not change before.
        """
        ...

    def stage(self, inode: int, offset: int, data: bytes | memoryview) -> list[Extent]:
        """Store bytes of a draft ahead of its commit."""
        ...

    def commit(
        self,
        inode: int,
        dirty: DirtyMap,
        size: int,
        keep: int | None,
        mtime_ns: int,
        changed_ns: int,
        before: Sequence[Part] = (),
        after: Sequence[Part] = (),
    ) -> Outcome:
        """Make a draft the next content, together with the changes `before` and `after` it, or all of it not."""
        ...

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let others have the store until a condition holds that one of them makes true, and tells of."""
        ...

    def tell(self) -> None:
        """Whoever waits (`wait`) is to look again."""
        ...

    def refresh(self, inode: int) -> bool:
        """Before an open: meet what others have committed about an inode and its names until now.

        False where there are no others: nothing comes here but by proposing it.
        """
        ...

    def allocate_inode(self, directory: int = ROOT, name: bytes = b"", mode: int = 0) -> int:
        """A number no inode has had, for what will be made in a directory.

        Of a directory about to be made, name and mode say where it will live: the number decides.
        """
        ...

    def forget(self, inode: int) -> None:
        """An unlinked inode has no user left."""
        ...

    def now(self) -> int:
        """The present as a timestamp: after the last commit, and final (see `settle`)."""
        ...

    def settle(self, timestamp: int) -> bool:
        """Make a timestamp final; False while it lies in the future."""
        ...

    def publish(self) -> None:
        """Let other processes of this node see the index as it is now."""
        ...

    def unsynced(self) -> bool:
        """Whether something committed is not on the disk yet."""
        ...

    async def wait_durable(self, who: int = 0) -> None:
        """Wait until everything committed so far is on the disk; `who` (an inode) waits, 0: nobody in particular."""
        ...


class LocalStore:
    """The embedded store: one shard, no other service. Made by `open` or `open_volatile`."""

    def __init__(
        self,
        opened: opening.Opened,
        clock: Clock,
        *,
        disk: Disk | None = None,
        lock: DirectoryLock | None = None,
        directory: Path | None = None,
        read_only: bool = False,
    ) -> None:
        shard = opened.shard
        self._shard = shard
        assert not isinstance(shard.log, DistantLog), "its records are ordered here"
        self._log: Log | VolatileLog = shard.log
        self._clock = clock
        self._hybrid = opened.hybrid
        self._table = opened.table
        self._disk = disk
        self._lock = lock
        self._read_only = read_only
        self.scrub = Scrub(shard.log) if isinstance(shard.log, Log) else None
        """Reads the log again, if somebody drives it; on one worker thread at a time."""
        self.index_scrub = IndexScrub(opened.table)
        """Likewise for the index; where nobody else calls."""
        self.directory = directory
        self.recovery: list[str] = opened.findings
        """What opening found and did, a sentence each; empty after a clean stop."""
        # The queries are the namespace's own: bound here so that a look-up costs one call, not two.
        namespace = shard.namespace
        self.keeps_past = keeps_past = namespace.keeps_past
        self.keeps_past_of = lambda inode: keeps_past
        self.has_others = False
        self.attributes = namespace.attributes
        self.attributes_row = namespace.attributes_row
        self.attributes_at = namespace.attributes_at
        self.binding = namespace.binding
        self.binding_at = namespace.binding_at
        self.known = namespace.known
        self.children = namespace.children
        self.children_at = namespace.children_at
        self.deleted = namespace.deleted
        self.head = namespace.head
        self.version = namespace.version
        self.content_timestamp = namespace.content_timestamp
        self.chunks = namespace.chunks
        self.xattr = namespace.xattr
        self.xattrs = namespace.xattrs
        self.target = namespace.target
        self.label = namespace.label
        self.labels = namespace.labels
        self.journal = namespace.journal
        self.is_below = namespace.is_below
        self.holds = namespace.conditions.holds
        self.event_of = namespace.events.event_of
        self.version_by_event = namespace.events.version_by_event
        self.names_at = namespace.names_at
        self.entry_at = namespace.entry_at
        self.read = shard.read
        self.read_ranges = shard.read_ranges
        self.propose = shard.propose
        self.stage = shard.stage
        self.commit = shard.commit
        self.forget = shard.forget
        self.publish = shard.publish
        self.content_state = namespace.content_state
        self.quotas = namespace.quotas
        self.retention = Retention(shard, clock)
        self.retention.is_full = self._is_full
        self.keeps_instant = self.retention.keeps_instant
        self.kept_instants = self.retention.instants

    # --- opening -----------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: Path,
        clock: Clock,
        random: Random,
        *,
        boot_id: str,
        owner: tuple[int, int] = (0, 0),
        read_only: bool = False,
        recover: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        progress: Callable[[int, int], None] | None = None,
    ) -> LocalStore:
        """Open the store in `directory`, made if there is none.

        Args:
            directory: holds this store and nothing else.
            clock: the wall clock, for timestamps.
            random: for the identity of a new store.
            boot_id: tells this boot of the machine from others: after a power cut the index is rebuilt.
            owner: (uid, gid) of the root directory of a new store.
            read_only: change nothing at all, not even to repair.
            recover: keep what lies before damage in the log, and move what lies behind it aside.
            segment_bytes: of a new store's log.
            progress: called with the number of records applied, and of all there are to apply, every thousand.

        Raises:
            Unusable: somebody else has it open, its format is unknown, or the log is damaged and `recover` not given.
        """
        if read_only:
            DirectoryLock.check(directory)
            if not directory.is_dir():
                raise Unusable(
                    f"{directory}: there is no store here; mount it without --ro to make one"
                )
            opened = opening.open_for_reading(
                RealDisk(directory), LmdbIndex(directory), clock, boot_id=boot_id, progress=progress
            )
            return cls(opened, clock, disk=RealDisk(directory), directory=directory, read_only=True)
        directory.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        try:
            return cls.open_on(
                RealDisk(directory),
                LmdbIndex(directory),
                clock,
                random,
                boot_id=boot_id,
                owner=owner,
                recover=recover,
                segment_bytes=segment_bytes,
                progress=progress,
                lock=lock,
                directory=directory,
            )
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_on(
        cls,
        disk: Disk,
        index: Index,
        clock: Clock,
        random: Random,
        *,
        boot_id: str,
        owner: tuple[int, int] = (0, 0),
        recover: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        progress: Callable[[int, int], None] | None = None,
        lock: DirectoryLock | None = None,
        directory: Path | None = None,
    ) -> LocalStore:
        """As `open`, on any disk that is the caller's alone: a simulated one, or a directory that is locked."""
        opened = opening.open_for_writing(
            disk,
            index,
            clock,
            random,
            boot_id=boot_id,
            owner=owner,
            recover=recover,
            segment_bytes=segment_bytes,
            progress=progress,
        )
        return cls(opened, clock, disk=disk, lock=lock, directory=directory)

    @classmethod
    def open_volatile(cls, clock: Clock, *, owner: tuple[int, int] = (0, 0)) -> LocalStore:
        """A store in memory that keeps the newest content only and forgets everything when closed."""
        table = MemoryTable()
        hybrid = HybridClock()
        shard = Shard(0, VolatileLog(), table, clock, hybrid, keep_past=False)
        shard.format(*owner, 0o755)
        return cls(opening.Opened(shard, table, hybrid, []), clock)

    # --- following -------------------------------------------------------------------------------------------------

    @property
    def deliveries(self) -> Deliveries:
        """See `Store`."""
        return self._shard.namespace.deliveries

    def listen(self, listener: Callable[[int, int, Record], None] | None) -> None:
        """See `Store`."""
        self._shard.listener = listener

    def committed(self, address: int = 0, after: int = 0) -> Iterator[Committed]:
        """See `Store`."""
        return stream.committed(self._log, address, after)

    def committed_at(self, address: int) -> Committed:
        """See `Store`."""
        return stream.committed_at(self._log, address)

    def address_of_time(self, timestamp: int) -> int:
        """See `Store`. A volatile log keeps no records to find."""
        log = self._log
        return 0 if isinstance(log, VolatileLog) else stream.address_of_time(log, timestamp)

    def begin(
        self,
        proposal: Record,
        payload: Sequence[bytes | memoryview],
        done: Callable[[Outcome | OSError], None],
    ) -> None:
        """See `Store`."""
        done(self.propose(proposal, payload))

    def request_done(self, directory: int, client: int) -> tuple[int, int]:
        """See `Store`."""
        del directory
        return self._shard.namespace.sessions.done(client)

    # --- the rest of the contract ------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals, for statfs and status."""
        return self._shard.namespace.counters

    def read_staged(self, inode: int, address: int, offset: int, length: int) -> bytes | memoryview:
        """See `Store`."""
        del inode
        return self._shard.log.read(address, offset, length)

    @property
    def shards(self) -> Sequence[int]:
        """See `Store`."""
        return (0,)

    def view(self, shard: int) -> Store:
        """See `Store`."""
        assert shard == 0
        return self

    def shard_of(self, inode: int) -> int:
        """See `Store`."""
        del inode
        return 0

    def wait(self, condition: Callable[[], bool]) -> None:
        """See `Store`."""
        assert condition(), "nobody else has the store who could make it true"

    def tell(self) -> None:
        """See `Store`."""

    def refresh(self, inode: int) -> bool:
        """See `Store`."""
        del inode
        return False

    def is_top(self, directory: int, timestamp: int) -> bool:
        """See `Store`."""
        del timestamp
        return directory == ROOT

    def provenance_of(self, inode: int, timestamp: int) -> bytes | None:
        """See `Store`."""
        del inode
        address = self.deliveries.finish_address(timestamp)
        return None if address is None else stream.provenance_at(self._log, address)

    def allocate_inode(self, directory: int = ROOT, name: bytes = b"", mode: int = 0) -> int:
        """See `Store`."""
        del directory, name, mode
        counters = self._shard.namespace.counters
        inode = counters.next_inode
        counters.next_inode = inode + 1
        return inode

    def now(self) -> int:
        """See `Store`."""
        now_us = max(self._clock.now_ns() // 1000, self._hybrid.last_us)
        self._hybrid.observe(now_us)
        return now_us

    def settle(self, timestamp: int) -> bool:
        """See `Store`. Embedded, the frontier is the clock itself: nothing to wait for."""
        if timestamp > max(self._clock.now_ns() // 1000, self._hybrid.last_us):
            return False
        self._hybrid.observe(timestamp)
        return True

    def unsynced(self) -> bool:
        """See `Store`."""
        if self._read_only:
            return False
        return self._shard.log.durable_index < self._shard.log.last_index

    async def wait_durable(self, who: int = 0) -> None:
        """See `Store`."""
        if not self._read_only:
            await self._shard.wait_durable(who=who)

    def space(self) -> tuple[int, int, int]:
        """(bytes in all, free, free to users) of the disk below; memory's for a volatile store."""
        if self.directory is None:
            pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return pages, free, free
        usage = os.statvfs(self.directory)
        return (
            usage.f_blocks * usage.f_frsize,
            usage.f_bfree * usage.f_frsize,
            usage.f_bavail * usage.f_frsize,
        )

    @property
    def held_bytes(self) -> int:
        """What the store holds: everything now and of the past that is not given back yet, as it lies on the disk."""
        return self._shard.log.taken_bytes

    def _is_full(self) -> bool:
        """Whether the disk has no room for a few segments more: time to let go of more than the policies ask for."""
        if self.directory is None or isinstance(self._log, VolatileLog):
            return False
        return self.space()[2] < SPARE_SEGMENTS * self._log.segment_bytes

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        log = self._shard.log
        counters = self.counters
        return {
            "directory": str(self.directory) if self.directory is not None else None,
            "records": log.last_index,
            "records_durable": log.durable_index,
            "syncs": log.syncs,
            "log_bytes": log.end_address,
            "last_commit_us": self._hybrid.last_us,
            "live_inodes": counters.live_inodes,
            "live_bytes": counters.live_bytes,
            "retention": self.retention.status(),
            "recovery": self.recovery,
            "index_trouble": self._shard.index_trouble,
            "scrub": self.scrub.status() if self.scrub is not None else None,
            "index_scrub": self.index_scrub.status(),
        }

    def close(self) -> None:
        """Everything to the disk; the next start finds a clean store.

        Raises:
            OSError: not everything could be saved; closed all the same, and the next start sees to it.
        """
        keep = self._disk is not None and not self._read_only
        try:
            if self._shard.close(keep=keep) and self._disk is not None:
                opening.mark_clean(self._disk)
        finally:
            if self._lock is not None:
                self._lock.release()
