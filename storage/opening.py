"""Opening a store: what lies on the disk becomes a shard that is up to its log.

The log is the truth. What is found beside it, the description of the store and the index, is taken if it fits, made
again if it does not, and what was done is said in a sentence each. Knows disks and indexes as contracts, so that the
whole of it runs on a simulated disk as it does on a directory.

Sources: ARCHITECTURE, "What survives what"; FORMAT, "Data directory".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage.clock import HybridClock
from storage.errors import Corruption, Unusable
from storage.index import CLEAN, read_mark, why_not, write_mark
from storage.limits import PRUNED_CONTENTS_MAX
from storage.log import Log
from storage.log.segments import Segments
from storage.record import Drop
from storage.shard import Position, Shard
from storage.superblock import FORMAT_VERSION, Superblock
from storage.table import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.clock import Clock
    from storage.disk import Disk
    from storage.index import Index
    from storage.table import Table

    Progress = Callable[[int, int], None]
    """Called with the number of records applied so far, and of all there are to apply."""

__all__ = ["Opened", "mark_clean", "open_for_reading", "open_for_writing"]


class Opened(NamedTuple):
    """A store that is ready for use."""

    shard: Shard
    table: Table
    hybrid: HybridClock
    findings: list[str]
    """What opening found and did; none after a clean stop."""


def open_for_writing(
    disk: Disk,
    index: Index,
    clock: Clock,
    random: Random,
    *,
    boot_id: str,
    owner: tuple[int, int],
    recover: bool,
    segment_bytes: int,
    progress: Progress | None,
) -> Opened:
    """See `LocalStore.open`; the caller has the directory to itself."""
    superblock = Superblock.load(disk) or _make(disk, random, segment_bytes)
    disk.sync_directory(".")  # What an earlier start made here may have been seen by us only.
    identity = superblock.identity_number
    hybrid = HybridClock()
    findings: list[str] = []
    table, position = _open_index(disk, index, identity, boot_id, findings)
    try:
        log = _open_log(disk, identity, position, read_only=False, recover=recover)
        findings.extend(log.recovery.sentences)
        if position is not None and not log.recovery.resumed:
            findings.append("the index does not fit the log and is built again from it")
            table, position = _renewed(index, table), None
        # On the disk before the first change: a power cut must not find an index that says it was closed.
        write_mark(disk, boot_id.encode())
        try:
            shard = Shard(identity, log, table, clock, hybrid)
            applied = shard.recover(progress)
        except Corruption as error:
            if position is None:
                raise
            findings.append(f"the index is damaged ({error}); it is built again from the log")
            table, position = _renewed(index, table), None
            write_mark(disk, boot_id.encode())
            shard = Shard(identity, log, table, clock, hybrid)
            applied = shard.recover(progress)
        if applied and position is not None:
            findings.append(f"applied {applied} records the index had not seen")
        elif applied:
            findings.append(f"built the index from {applied} records of the log")
        if shard.is_empty:
            shard.format(*owner, 0o755)
        _drop_unnamed(shard)
        shard.publish()
    except BaseException:
        table.close()
        raise
    return Opened(shard, table, hybrid, findings)


def _drop_unnamed(shard: Shard) -> None:
    """Forget the files that were made without a name and never got one: with a process their last user ended."""
    unnamed = shard.namespace.unnamed()
    for start in range(0, len(unnamed), PRUNED_CONTENTS_MAX):
        shard.propose(Drop(0, b"", unnamed[start : start + PRUNED_CONTENTS_MAX]))


def open_for_reading(
    disk: Disk, index: Index, clock: Clock, *, boot_id: str, progress: Progress | None
) -> Opened:
    """The store as it is, nothing written: an index that cannot be used as it is, is made in memory."""
    superblock = Superblock.load(disk)
    if superblock is None:
        raise Unusable(f"{disk}: there is no store here; mount it without --ro to make one")
    identity = superblock.identity_number
    findings: list[str] = []
    table, position = _view_index(disk, index, identity, boot_id)
    try:
        log = _open_log(disk, identity, position, read_only=True, recover=False)
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
            raise Unusable(f"{disk}: there is nothing to show; mount it without --ro first")
    except BaseException:
        table.close()
        raise
    return Opened(shard, table, hybrid, findings)


def mark_clean(disk: Disk) -> None:
    """Say that the index can be taken as it is under any boot; log and table were synced."""
    write_mark(disk, CLEAN)


def _make(disk: Disk, random: Random, segment_bytes: int) -> Superblock:
    """A new store's log, then its description: with the description there, all of it is."""
    segments = Segments(disk)
    numbers = segments.numbers()
    slot = segments.header(0).slot if numbers == [0] else None
    if slot is not None and not Log.open(disk, slot.identity, read_only=True).last_index:
        # The making was cut short between the two. Opening makes the log durable, before anything says that it is.
        Log.open(disk, slot.identity).close()
        superblock = Superblock(FORMAT_VERSION, f"{slot.identity:016x}", slot.segment_bytes)
    elif numbers:
        raise Unusable(
            f"{disk}: there is a log but no cascadefs.json; make it again from the log with: "
            f"cascadefs repair {disk}; or restore that file from a copy, or name an empty directory"
        )
    else:
        superblock = Superblock(FORMAT_VERSION, f"{random.getrandbits(64):016x}", segment_bytes)
        Log.create(disk, superblock.identity_number, segment_bytes=segment_bytes).close()
    superblock.write(disk)
    return superblock


def _open_index(
    disk: Disk, index: Index, identity: int, boot_id: str, findings: list[str]
) -> tuple[Table, Position | None]:
    """The index table, emptied unless it can be trusted, and how far it has come."""
    mark = read_mark(disk)
    if mark is None:  # Never made, or taken away.
        return index.renew(), None
    table: Table | None = None
    why = why_not(mark, boot_id)
    if why is None:
        try:
            table = index.open()
            position = Position.load(table)
            if position is None or position.identity == identity:
                return table, position
            why = "the index belongs to another store"
        except Corruption as error:
            why = f"the index is damaged ({error})"
    findings.append(f"{why}; it is built again from the log")
    return _renewed(index, table), None


def _renewed(index: Index, table: Table | None) -> Table:
    if table is not None:
        table.close()
    return index.renew()


def _view_index(
    disk: Disk, index: Index, identity: int, boot_id: str
) -> tuple[Table, Position | None]:
    """The index table for reading, if it can be trusted, and how far it has come; else one in memory."""
    mark = read_mark(disk)
    table: Table | None = None
    if mark is not None and why_not(mark, boot_id) is None:
        try:
            table = index.view()
            position = Position.load(table)
            if position is not None and position.identity == identity:
                return table, position
        except (Corruption, OSError):
            pass
    if table is not None:
        table.close()
    return MemoryTable(), None


def _open_log(
    disk: Disk, identity: int, position: Position | None, *, read_only: bool, recover: bool
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
