"""What is wrong with a data directory: all of it is read, and nothing is changed.

Theory of operation. The log is the truth, so it is read first and whole: every header, head and payload against its
checksum. Its records are applied once more, to a table in memory; whatever the index on the disk says otherwise is
damage of the index. Damaged payloads are traced to the files and versions that need them.

A *damage* is something that was promised and is not there: bytes that are not what was written, records that had been
synced and are gone, an index that answers wrongly. What a crash leaves by right (a torn append that nobody was
promised, an index to be built again) is a *remark*: the next start sees to it.

Memory: the table, some 500 bytes for each row of the index.

Sources: SEMANTICS 0; FORMAT, "Recovery cases"; fsck(8) for the verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import extents, record
from storage.errors import Corruption, Unusable
from storage.index import read_mark, why_not
from storage.log import Log
from storage.log.segments import Segments
from storage.namespace import ROOT, Namespace
from storage.sequencer import ENVELOPED, PLAIN, open_envelope
from storage.shard import Position
from storage.superblock import FORMAT_VERSION, Superblock
from storage.table import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.disk import Disk
    from storage.index import Index
    from storage.log import Frame
    from storage.table import Table

__all__ = ["Damage", "Inspection", "inspect", "superblock_from_log"]

DAMAGE_MAX: Final = 1000
"""Places of damage that are listed; more are counted."""

VERSIONS_MAX: Final = 20
"""Versions named for each place of damage."""

PROGRESS_RECORDS: Final = 1000

_ABOUT_ITSELF: Final = b"M\0"
_HOUSEKEEPING: Final = b"DQR"
"""Rows that the sweep changes without a record: what they count may differ and still be right."""
_PAST_CHUNKS: Final = b"c"
_CHUNKS: Final = (b"C", _PAST_CHUNKS)
_END: Final = b"\xff" * 9


class Damage(NamedTuple):
    """One thing that is not as it was promised."""

    where: str
    """``description``, ``log`` or ``index``."""
    what: str
    versions: list[str]
    """The files and versions that need it, as paths below the root; empty if none or not known."""


@dataclass
class Inspection:
    """What was found."""

    records: int = 0
    payload_bytes: int = 0
    """Read and right."""
    index_rows: int = 0
    """Compared and right."""
    damage: list[Damage] = field(default_factory=list)
    damage_count: int = 0
    """All of it; `damage` lists the first `DAMAGE_MAX`."""
    remarks: list[str] = field(default_factory=list)
    index_is_damaged: bool = False

    def add(self, where: str, what: str, versions: list[str] | None = None) -> None:
        """Note a damage."""
        self.damage_count += 1
        if len(self.damage) < DAMAGE_MAX:
            self.damage.append(Damage(where, what, versions or []))


def inspect(
    disk: Disk,
    index: Index | None,
    *,
    boot_id: str,
    shard: int | None = None,
    in_use: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Read everything and say what is wrong.

    Args:
        disk: the data directory, or that of a shard's replica on a node.
        index: None leaves it out.
        boot_id: of this boot; an index of another is not looked at, because the next start will not either.
        shard: None is a data directory; else the shard that this is a replica of. Records behind the last committed one
            count too: which those are, only the other members know.
        in_use: a daemon may be writing: what it appended lately may look torn, and is not looked at.
        progress: called with the number of records read so far, and of all.

    Raises:
        Unusable: there is no store at all.
        OSError: the disk could not be read.
    """
    found = Inspection()
    identity = _description(disk, found) if shard is None else _identity_of_replica(disk)
    # Before the log: one that is in use may go on meanwhile, and the index is never ahead of it.
    kept = _open_index(disk, index, identity, boot_id, found)
    try:
        try:
            log = Log.open(disk, identity, read_only=True)
        except Unusable as error:
            found.add("log", str(error))
            return found
        try:
            _judge_log(log, found, in_use=in_use)
            _read_all(log, shard or 0, kept, found, progress)
        finally:
            log.close()
    finally:
        if kept is not None:
            kept.table.close()
    return found


def superblock_from_log(disk: Disk) -> Superblock | None:
    """The description as the segments of the log give it; None if none has a readable header."""
    segments = Segments(disk)
    for number in segments.numbers():
        slot = segments.header(number).slot
        if slot is not None:
            return Superblock(FORMAT_VERSION, f"{slot.identity:016x}", slot.segment_bytes)
    return None


def _identity_of_replica(disk: Disk) -> int:
    superblock = superblock_from_log(disk)
    if superblock is None:
        raise Unusable(f"{disk}: no segment of a log says what it belongs to")
    return superblock.identity_number


def _description(disk: Disk, found: Inspection) -> int:
    try:
        superblock = Superblock.load(disk)
        if superblock is not None:
            return superblock.identity_number
        why = "cascadefs.json is not there; repair makes it again from the log"
    except Unusable as error:
        why = str(error)
    superblock = superblock_from_log(disk)
    if superblock is None:
        raise Unusable(f"{disk}: there is no store here; name a data directory") from None
    found.add("description", why)
    return superblock.identity_number


def _judge_log(log: Log, found: Inspection, *, in_use: bool) -> None:
    recovery = log.recovery
    for damage in recovery.damage:
        found.add("log", f"segment {damage.segment:016x}, offset {damage.offset}: {damage.what}")
    if recovery.broken or recovery.durable_lost:
        found.damage[-1:] = [Damage("log", " ".join(recovery.sentences), [])]
    elif recovery.torn and not in_use:
        found.remarks.append(
            f"{recovery.bytes_dropped} bytes behind record {recovery.end_index} are an append that a crash cut; "
            "nobody was promised them, and the next start drops them"
        )


# --- The log --------------------------------------------------------------------------------------------------------


def _read_all(
    log: Log,
    shard: int,
    kept: _Kept | None,
    found: Inspection,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Every record, every payload; and the index, where it says it has come to."""
    table = MemoryTable()
    built = Namespace(table, shard=shard)
    damaged: dict[int, str] = {}
    total = log.last_index
    for frame in log.frames():
        if frame.index > total:
            break
        if log.verify(frame):
            found.payload_bytes += frame.payload_length
        else:
            number, offset = divmod(frame.address, log.segment_bytes)
            damaged[frame.address] = (
                f"segment {number:016x}, offset {offset}: the payload of record {frame.index} is not what was written"
            )
        try:
            _apply(frame, built)
        except MemoryError:
            raise
        except Exception as error:  # Whatever its words make of it: this is where it is said.
            found.add("log", f"record {frame.index} makes no sense to this version: {error!r}")
            return
        found.records += 1
        if kept is not None and frame.index == kept.position.index:
            _compare(kept, frame, table, built, found)
        if progress is not None and found.records % PROGRESS_RECORDS == 0:
            progress(found.records, total)
    if kept is not None and kept.position.index > total:
        found.index_is_damaged = True
        found.add("index", f"it is at record {kept.position.index}, and the log ends with {total}")
    affected = _versions_of(set(damaged), table, built) if damaged else {}
    for address, what in damaged.items():
        found.add("log", what, affected.get(address, []))


def _apply(frame: Frame, built: Namespace) -> None:
    if frame.kind not in (PLAIN, ENVELOPED):
        return  # The beginning of an epoch.
    client, number, metadata = open_envelope(frame.kind, frame.metadata)
    if built.sessions.accept(frame.timestamp, client, number):
        built.apply(frame.timestamp, frame.address, record.decode(metadata))


def _versions_of(addresses: set[int], table: Table, built: Namespace) -> dict[int, list[str]]:
    """The files and versions that have pieces in some frames."""
    inodes: dict[int, set[int]] = {}
    for letter in (b"C", b"c"):
        for key, row in table.scan(letter, letter + _END):
            pieces = row[8:] if letter == b"C" else row[1:] if row[:1] == b"\1" else b""
            for _, _, address, _ in extents.unpack(pieces):
                if address in addresses:
                    inodes.setdefault(address, set()).add(int.from_bytes(key[1:9], "big"))
    return {
        address: [name for inode in sorted(users) for name in _names_with(inode, address, built)][
            :VERSIONS_MAX
        ]
        for address, users in inodes.items()
    }


def _names_with(inode: int, address: int, built: Namespace) -> Iterator[str]:
    """The versions of an inode, by all its names, that have pieces in a frame; newest first."""
    for directory, name in built.names(inode):
        path = _path(directory, name, built)
        for number in range(built.head(directory, name), 0, -1):
            version = built.version(directory, name, number)
            if version is None or version.binding is None or version.binding.inode != inode:
                continue
            then = built.attributes_at(inode, version.timestamp)
            if then is not None and any(
                piece[2] == address
                for _, pieces in built.chunks(inode, then[1].generation, version.timestamp)
                for piece in pieces
            ):
                yield f"{path}@v{number}"


def _path(directory: int, name: bytes, built: Namespace) -> str:
    """The path of a name from the root as things are now; of what is gone, as far as it can be told."""
    parts = [name]
    while directory != ROOT:
        names = built.names(directory)
        if not names or len(parts) > 4096:
            parts.append(b"(inode %d)" % directory)
            break
        directory, above = names[-1]
        parts.append(above)
    return b"/".join(reversed(parts)).decode(errors="backslashreplace")


# --- The index ------------------------------------------------------------------------------------------------------


class _Kept(NamedTuple):
    """The index on the disk, and how far it has come."""

    table: Table
    position: Position


def _open_index(
    disk: Disk, index: Index | None, identity: int, boot_id: str, found: Inspection
) -> _Kept | None:
    if index is None:
        return None
    mark = read_mark(disk)
    why = "there is none" if mark is None else why_not(mark, boot_id)
    if why is not None:
        found.remarks.append(f"the index will be built again from the log at the next start: {why}")
        return None
    try:
        table = index.view()
    except FileNotFoundError:
        found.remarks.append(
            "the index will be built again from the log at the next start: it is not there"
        )
        return None
    except Corruption as error:
        _damaged(found, str(error))
        return None
    try:
        position = Position.load(table)
    except Corruption as error:
        table.close()
        _damaged(found, str(error))
        return None
    if position is not None and position.identity == identity:
        return _Kept(table, position)
    table.close()
    if position is not None:
        _damaged(found, "it belongs to another store")
    return None


def _damaged(found: Inspection, what: str) -> None:
    found.index_is_damaged = True
    found.add("index", what)


def _compare(kept: _Kept, frame: Frame, table: Table, built: Namespace, found: Inspection) -> None:
    """The index against what the log gives up to the record the index has come to."""
    if (kept.position.address, kept.position.checksum) != (frame.address, frame.checksum):
        _damaged(found, f"it does not fit the log: record {frame.index} is another one")
        return
    try:
        for key, ours, theirs in _differences(table, kept.table, found):
            if theirs is None and _may_be_swept(key, built):
                continue
            is_there = "is not there" if theirs is None else "is not what the log gives"
            more = "" if ours is not None else ", which is nothing"
            _damaged(found, f"the row {key.hex()} {is_there}{more}")
    except Corruption as error:
        _damaged(found, str(error))


def _may_be_swept(key: bytes, built: Namespace) -> bool:
    """Whether the sweep may have dropped a row that the log gives: of pieces, that only pruned versions showed."""
    if key[:1] not in _CHUNKS:
        return False
    inode, generation = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:13], "big")
    attributes = built.attributes(inode)
    if attributes is None:
        return True  # Forgotten with its only name.
    if not built.counters.pruned_contents:
        return False
    if key[:1] == _PAST_CHUNKS:
        return True
    return not attributes.nlink or generation != attributes.generation


def _differences(
    ours: Table, theirs: Table, found: Inspection
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Keys whose rows differ, with both rows; None where there is none."""
    left, right = _rows(ours), _rows(theirs)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield a[0], a[1], None
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            yield b[0], None, b[1]
            b = next(right, None)
        else:
            if a[1] == b[1]:
                found.index_rows += 1
            else:
                yield a[0], a[1], b[1]
            a, b = next(left, None), next(right, None)


def _rows(table: Table) -> Iterator[tuple[bytes, bytes]]:
    for key, row in table.scan(b"\0", _END):
        if not key.startswith(_ABOUT_ITSELF) and key[0] not in _HOUSEKEEPING:
            yield key, row
