"""The Store: what the file system, the triggers and a server need of the versioned tree, and the embedded one.

`Store` is the contract. Queries and changes are plain calls where nothing waits; `wait_durable` is a coroutine.
`LocalStore` keeps one shard in a data directory of its own, or in memory for a volatile pool.

A snapshot is a timestamp in microseconds. `settle` makes one final: after it, nothing can commit at or before it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Protocol

from storage.clock import Clock, HybridClock
from storage.disk import RealDisk
from storage.errors import Corruption, Unusable
from storage.limits import SEGMENT_BYTES
from storage.log import Log
from storage.log.segments import Segments
from storage.shard import Position, Shard
from storage.superblock import FORMAT_VERSION, DirectoryLock, Superblock
from storage.table import LmdbTable, MemoryTable, Table
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

    from storage.attributes import Attributes
    from storage.binding import Binding, Tombstone
    from storage.extents import DirtyMap
    from storage.namespace import Counters, Outcome, Version
    from storage.record import Extent, Record

__all__ = ["LocalStore", "Store"]

_BOOT_KEY = b"M\0boot"
_CLEAN = b"clean"


class Store(Protocol):
    """A versioned tree. Inode numbers, names (bytes) and timestamps (microseconds) are all it speaks of."""

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

    def read(
        self, inode: int, attributes: Attributes, timestamp: int | None, offset: int, length: int
    ) -> bytes | bytearray | memoryview:
        """Bytes of a content; `Corruption` if they are not what was written."""
        ...

    def read_staged(self, address: int, offset: int, length: int) -> bytes | memoryview:
        """Bytes that `stage` stored."""
        ...

    def propose(self, proposal: Record) -> Outcome:
        """Record a change; visible to every later query when it returns."""
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
    ) -> Outcome:
        """Make a draft the next content."""
        ...

    def allocate_inode(self) -> int:
        """A number no inode has had."""
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
        shard: Shard,
        clock: Clock,
        hybrid: HybridClock,
        table: Table,
        *,
        lock: DirectoryLock | None = None,
        directory: Path | None = None,
        read_only: bool = False,
        findings: list[str] | None = None,
    ) -> None:
        self._shard = shard
        self._clock = clock
        self._hybrid = hybrid
        self._table = table
        self._lock = lock
        self._read_only = read_only
        self.directory = directory
        self.recovery: list[str] = findings or []
        """What opening found and did, a sentence each; empty after a clean stop."""
        # The queries are the namespace's own: bound here so that a look-up costs one call, not two.
        namespace = shard.namespace
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
        self.read = shard.read
        self.read_staged = shard.log.read
        self.propose = shard.propose
        self.stage = shard.stage
        self.commit = shard.commit
        self.forget = shard.forget
        self.publish = shard.publish

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
        progress: Callable[[int], None] | None = None,
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
            progress: called with the number of records applied, every thousand of them.

        Raises:
            Unusable: somebody else has it open, its format is unknown, or the log is damaged and `recover` not given.
        """
        if read_only:
            DirectoryLock.check(directory)
            return cls._open_for_reading(directory, clock, boot_id, progress)
        directory.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        try:
            return cls._open_locked(
                directory,
                clock,
                random,
                lock,
                boot_id=boot_id,
                owner=owner,
                recover=recover,
                segment_bytes=segment_bytes,
                progress=progress,
            )
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_locked(
        cls,
        directory: Path,
        clock: Clock,
        random: Random,
        lock: DirectoryLock,
        *,
        boot_id: str,
        owner: tuple[int, int],
        recover: bool,
        segment_bytes: int,
        progress: Callable[[int], None] | None,
    ) -> LocalStore:
        disk = RealDisk(directory)
        superblock = Superblock.load(directory) or cls._make(directory, disk, random, segment_bytes)
        identity = superblock.identity_number
        hybrid = HybridClock()
        findings: list[str] = []
        table, position = cls._open_index(directory, identity, boot_id, findings)
        try:
            log = cls._open_log(disk, identity, position, read_only=False, recover=recover)
            findings.extend(log.recovery.sentences)
            if position is not None and not log.recovery.resumed:
                findings.append("the index does not fit the log and is built again from it")
                table, position = cls._empty_index(directory, table), None
            try:
                shard, applied = cls._start(identity, log, table, clock, hybrid, boot_id, progress)
            except Corruption as error:
                if position is None:
                    raise
                findings.append(f"the index is damaged ({error}); it is built again from the log")
                table, position = cls._empty_index(directory, table), None
                shard, applied = cls._start(identity, log, table, clock, hybrid, boot_id, progress)
            if applied and position is not None:
                findings.append(f"applied {applied} records the index had not seen")
            elif applied:
                findings.append(f"built the index from {applied} records of the log")
            if shard.is_empty:
                shard.format(*owner, 0o755)
            shard.publish()
        except BaseException:
            table.close()
            raise
        return cls(shard, clock, hybrid, table, lock=lock, directory=directory, findings=findings)

    @staticmethod
    def _make(directory: Path, disk: RealDisk, random: Random, segment_bytes: int) -> Superblock:
        """A new store's log, then its description: with the description there, all of it is."""
        segments = Segments(disk)
        numbers = segments.numbers()
        slot = segments.header(0).slot if numbers == [0] else None
        if slot is not None and not Log.open(disk, slot.identity, read_only=True).last_index:
            # The making was cut short between the two.
            superblock = Superblock(FORMAT_VERSION, f"{slot.identity:016x}", slot.segment_bytes)
        elif numbers:
            raise Unusable(
                f"{directory}: there is a log but no cascadefs.json; restore that file from a "
                f"copy, or name an empty directory"
            )
        else:
            superblock = Superblock(FORMAT_VERSION, f"{random.getrandbits(64):016x}", segment_bytes)
            Log.create(disk, superblock.identity_number, segment_bytes=segment_bytes).close()
        superblock.write(directory)
        return superblock

    @staticmethod
    def _start(
        identity: int,
        log: Log,
        table: LmdbTable,
        clock: Clock,
        hybrid: HybridClock,
        boot_id: str,
        progress: Callable[[int], None] | None,
    ) -> tuple[Shard, int]:
        """The shard, its table brought up to the log, and by how many records."""
        # On the disk before the first change: a power cut must not find an index that says it was closed.
        table.put(_BOOT_KEY, boot_id.encode())
        table.sync()
        shard = Shard(identity, log, table, clock, hybrid)
        return shard, shard.recover(progress)

    @classmethod
    def _open_for_reading(
        cls,
        directory: Path,
        clock: Clock,
        boot_id: str,
        progress: Callable[[int], None] | None,
    ) -> LocalStore:
        """The store as it is, nothing written: an index that cannot be used as it is, is made in memory."""
        superblock = Superblock.load(directory)
        if superblock is None:
            raise Unusable(
                f"{directory}: there is no store here; mount it without --ro to make one"
            )
        identity = superblock.identity_number
        findings: list[str] = []
        table, position = cls._view_index(directory, identity, boot_id)
        try:
            disk = RealDisk(directory)
            log = cls._open_log(disk, identity, position, read_only=True, recover=False)
            findings.extend(log.recovery.sentences)
            fits = log.recovery.resumed and position is not None
            if not fits or (position is not None and position.index != log.last_index):
                table.close()
                table = MemoryTable()
            hybrid = HybridClock()
            shard = Shard(identity, log, table, clock, hybrid)
            applied = shard.recover(progress)
            if applied:
                findings.append(f"built an index in memory from {applied} records of the log")
            if shard.is_empty:
                raise Unusable(
                    f"{directory}: there is nothing to show; mount it without --ro first"
                )
        except BaseException:
            table.close()
            raise
        return cls(
            shard, clock, hybrid, table, directory=directory, read_only=True, findings=findings
        )

    @classmethod
    def _open_index(
        cls, directory: Path, identity: int, boot_id: str, findings: list[str]
    ) -> tuple[LmdbTable, Position | None]:
        """The index table, emptied unless it can be trusted, and how far it has come."""
        path = directory / "index"
        path.mkdir(exist_ok=True)
        table: LmdbTable | None = None
        try:
            table = LmdbTable(path / "index.lmdb")
            position = Position.load(table)
            why = _why_not(table, position, identity, boot_id)
            if why is None:
                return table, position
        except Corruption as error:
            why = f"the index is damaged ({error})"
        findings.append(f"{why}; it is built again from the log")
        return cls._empty_index(directory, table), None

    @staticmethod
    def _empty_index(directory: Path, table: LmdbTable | None) -> LmdbTable:
        """A new table in the place of one that is of no use."""
        if table is not None:
            table.close()
        path = directory / "index"
        shutil.rmtree(path)
        path.mkdir()
        return LmdbTable(path / "index.lmdb")

    @staticmethod
    def _view_index(
        directory: Path, identity: int, boot_id: str
    ) -> tuple[LmdbTable | MemoryTable, Position | None]:
        """The index table for reading, if it can be trusted, and how far it has come; else one in memory."""
        table: LmdbTable | None = None
        try:
            table = LmdbTable(directory / "index" / "index.lmdb", read_only=True)
            position = Position.load(table)
            if position and _why_not(table, position, identity, boot_id) is None:
                return table, position
        except (Corruption, OSError):
            pass
        if table is not None:
            table.close()
        return MemoryTable(), None

    @staticmethod
    def _open_log(
        disk: RealDisk,
        identity: int,
        position: Position | None,
        read_only: bool,
        recover: bool,
    ) -> Log:
        """The log, scanned from the index's position on if that still lies on it."""
        return Log.open(
            disk,
            identity,
            from_address=position.address if position is not None else None,
            expected_index=position.index if position is not None else None,
            checksum=position.checksum if position is not None else None,
            read_only=read_only,
            keep_prefix=recover,
        )

    @classmethod
    def open_volatile(cls, clock: Clock, *, owner: tuple[int, int] = (0, 0)) -> LocalStore:
        """A store in memory that keeps the newest content only and forgets everything when closed."""
        table = MemoryTable()
        hybrid = HybridClock()
        shard = Shard(0, VolatileLog(), table, clock, hybrid, keep_past=False)
        shard.format(*owner, 0o755)
        return cls(shard, clock, hybrid, table)

    # --- the rest of the contract ------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals, for statfs and status."""
        return self._shard.namespace.counters

    def allocate_inode(self) -> int:
        """See `Store`."""
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
            "recovery": self.recovery,
            "index_trouble": self._shard.index_trouble,
        }

    def close(self) -> None:
        """Everything to the disk; the next start finds a clean store.

        Raises:
            OSError: not everything could be saved; closed all the same, and the next start sees to it.
        """
        leaves = self.directory is not None and not self._read_only
        try:
            self._shard.close((_BOOT_KEY, _CLEAN) if leaves else None)
        finally:
            if self._lock is not None:
                self._lock.release()


def _why_not(table: Table, position: Position | None, identity: int, boot_id: str) -> str | None:
    """Why a table cannot be trusted; None if it can, as an empty one can."""
    if position is None:
        return None
    if position.identity != identity:
        return "the index belongs to another store"
    if table.get(_BOOT_KEY) not in (_CLEAN, boot_id.encode()):
        return "the machine went down without a clean stop"
    return None
