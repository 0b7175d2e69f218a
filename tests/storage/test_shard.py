"""A shard keeps every byte of every version, pays for what changed only, and stays whole when disk or table refuse.

Method: random sessions of writes and truncations through a `DirtyMap`, against bytearrays, every old version read again
at the end; bytes of log counted; a log disk and a table that fail at each call of a workload, against the same workload
without faults; waiters for durability counted against syncs.
"""

from __future__ import annotations

import errno
import os
import threading
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import record
from storage.attributes import DIRECTORY, REGULAR
from storage.clock import HybridClock
from storage.disk import MemoryDisk
from storage.errors import Corruption, Reason
from storage.extents import DirtyMap
from storage.limits import CHUNK_BYTES, PAYLOAD_BYTES_MAX, PIECES_PER_CHUNK_MAX, SEGMENT_BYTES
from storage.log import Log
from storage.namespace import ROOT
from storage.shard import PUBLISH_RECORDS_MAX, Position, Shard
from storage.table import MemoryTable
from storage.volatile import VolatileLog

IDENTITY = 0xCA5CADE


class StoppedClock:
    """Never moves: the hybrid clock counts by itself then."""

    def now_ns(self) -> int:
        return 1_000_000_000


def make_shard(disk: MemoryDisk | None = None, table=None, segment_bytes=1 << 20) -> Shard:
    disk = disk or MemoryDisk()
    if disk.list("log"):
        log = Log.open(disk, IDENTITY)
    else:
        log = Log.create(disk, IDENTITY, segment_bytes=segment_bytes)
    shard = Shard(
        IDENTITY, log, MemoryTable() if table is None else table, StoppedClock(), HybridClock()
    )
    shard.recover()
    if shard.is_empty:
        shard.format(0, 0, 0o755)
    return shard


def make_volatile() -> Shard:
    log = VolatileLog()
    shard = Shard(0, log, MemoryTable(), StoppedClock(), HybridClock(), keep_past=False)
    shard.format(0, 0, 0o755)
    return shard


def create(shard: Shard, name: bytes, parent: int = ROOT) -> int:
    inode = shard.namespace.counters.next_inode
    assert shard.propose(record.Create(parent, name, inode, REGULAR, 0, 0)).reason is None
    return inode


def save(shard: Shard, inode: int, *writes: tuple[int, bytes], keep: int | None = None) -> None:
    """One session: bytes at offsets."""
    dirty = DirtyMap()
    size = shard.namespace.attributes(inode).size if keep is None else keep
    for at, data in writes:
        dirty.write(at, data)
        size = max(size, at + len(data))
    assert shard.commit(inode, dirty, size, keep, 0, 0).reason is None


def read(shard: Shard, inode: int, timestamp: int | None = None, at: int = 0, n=1 << 30) -> bytes:
    space = shard.namespace
    if timestamp is None:
        attributes = space.attributes(inode)
    else:
        attributes = space.attributes_at(inode, timestamp)[1]
    return bytes(shard.read(inode, attributes, timestamp, at, n))


def rows_of(table) -> list[tuple[bytes, bytes]]:
    return [row for row in table.scan(b"\0", b"\xff" * 9) if not row[0].startswith(b"M\0")]


# --- content ----------------------------------------------------------------------------------------------------------

BORDERS = [0, 1, 4095, 4096, 65_536, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5]
PLACE = st.builds(lambda border, more: border + more, st.sampled_from(BORDERS), st.integers(0, 50))
WIDTH = st.one_of(st.integers(1, 100), st.sampled_from([4096, 65_536, CHUNK_BYTES, 300_000]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACE, WIDTH),
        st.tuples(st.just("stage"), PLACE, WIDTH),
        st.tuples(st.just("truncate"), PLACE, st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


class Session:
    """A draft, as a file system keeps one, and its twin."""

    def __init__(self, shard: Shard, inode: int, content: bytes) -> None:
        self.shard, self.inode = shard, inode
        self.twin = bytearray(content)
        self.size = len(content)
        self.keep: int | None = None
        self.dirty = DirtyMap()

    def write(self, at: int, data: bytes, *, stage: bool) -> None:
        if stage:
            for extent in self.shard.stage(self.inode, at, data):
                self.dirty.place(*extent)
        else:
            self.dirty.write(at, data)
        self.size = max(self.size, at + len(data))
        self.twin.extend(bytes(max(0, at - len(self.twin))))
        self.twin[at : at + len(data)] = data

    def truncate(self, size: int) -> None:
        if size < self.size:
            self.dirty.cut(size)
            self.keep = size if self.keep is None else min(self.keep, size)
        self.size = size
        del self.twin[size:]
        self.twin.extend(bytes(size - len(self.twin)))

    def commit(self) -> bytes:
        outcome = self.shard.commit(self.inode, self.dirty, self.size, self.keep, 0, 0)
        assert outcome.reason is None
        return bytes(self.twin)


def read_ranges(shard: Shard, inode: int, timestamp: int, ranges) -> bytes:
    attributes = shard.namespace.attributes_at(inode, timestamp)[1]
    return shard.read_ranges(inode, attributes, timestamp, ranges)


@pytest.mark.slow
@settings(max_examples=60)
@given(STEPS, st.integers(0, 1 << 30), st.booleans())
def test_every_version_reads_as_it_was_written(steps, seed, volatile) -> None:
    random = Random(seed)
    shard = make_volatile() if volatile else make_shard()
    inode = create(shard, b"f")
    versions = [b""]
    session = Session(shard, inode, b"")
    for what, at, width in [*steps, ("commit", 0, 0)]:
        match what:
            case "write" | "stage":
                session.write(at, random.randbytes(width), stage=what == "stage")
            case "truncate":
                session.truncate(at)
            case "commit":
                versions.append(session.commit())
                assert read(shard, inode) == versions[-1]
                session = Session(shard, inode, versions[-1])
    if volatile:
        check_bounded(shard, len(versions[-1]))
        return
    check_versions(shard, inode, versions)
    shard.close()
    check_versions(make_shard(shard_disk(shard)), inode, versions)  # from the log alone


def shard_disk(shard: Shard) -> MemoryDisk:
    return shard.log._reader.segments.disk  # the disk below, for opening it again


def check_versions(shard: Shard, inode: int, versions: list[bytes]) -> None:
    random = Random(len(versions))
    for number, expected in enumerate(versions[1:], start=1):
        version = shard.namespace.version(ROOT, b"f", number)
        assert read(shard, inode, version.timestamp) == expected
        at = random.randrange(len(expected) + 1)
        n = random.randrange(1, 70_000)
        assert read(shard, inode, version.timestamp, at, n) == expected[at : at + n]
        assert read(shard, inode, version.timestamp, len(expected) + 5) == b""
        ends = sorted(random.sample(range(len(expected) + 1), min(8, len(expected) // 2 * 2)))
        ranges = list(zip(ends[::2], ends[1::2], strict=True))
        found = read_ranges(shard, inode, version.timestamp, ranges)
        assert found == b"".join(expected[start:end] for start, end in ranges)


def check_bounded(shard: Shard, live: int) -> None:
    """A frame lives while a piece of it does, so at worst a frame for each piece."""
    rows = shard.namespace.chunks(2, shard.namespace.attributes(2).generation)
    addresses = {piece[2] for _, pieces in rows for piece in pieces}
    assert set(shard.log._payloads) == addresses
    assert shard.log.payload_bytes == sum(len(p) for p in shard.log._payloads.values())


@pytest.mark.parametrize(("size", "frames"), [(PAYLOAD_BYTES_MAX, 1), (PAYLOAD_BYTES_MAX + 1, 3)])
def test_what_fits_a_frame_travels_with_its_commit(size, frames) -> None:
    shard = make_shard()
    inode = create(shard, b"f")
    before = shard.log.last_index
    data = Random(1).randbytes(size)
    save(shard, inode, (0, data))
    assert shard.log.last_index - before == frames
    assert read(shard, inode) == data


def test_a_small_change_of_a_large_file_costs_a_small_change() -> None:
    shard = make_shard(segment_bytes=SEGMENT_BYTES)
    inode = create(shard, b"f")
    twin = bytearray(Random(1).randbytes(8 << 20))
    save(shard, inode, (0, bytes(twin)))
    random = Random(2)
    costs = []
    for _ in range(20):
        at = random.randrange(0, len(twin) - 4096)
        data = random.randbytes(4096)
        before = shard.log.end_address
        save(shard, inode, (at, data))
        twin[at : at + 4096] = data
        costs.append(shard.log.end_address - before)
    assert max(costs) <= 4096 + 128
    assert read(shard, inode) == twin


def test_appending_a_little_costs_a_little_however_often() -> None:
    shard = make_shard(segment_bytes=SEGMENT_BYTES)
    inode = create(shard, b"f")
    before = shard.log.end_address
    twin = b""
    longest = 0
    for number in range(3000):
        data = b"%099d\n" % number
        save(shard, inode, (len(twin), data))
        twin += data
        rows = shard.namespace.chunks(inode, 0)
        longest = max(longest, *(len(pieces) for _, pieces in rows))
    assert read(shard, inode) == twin
    assert longest <= PIECES_PER_CHUNK_MAX + 1
    cost = (shard.log.end_address - before) / 3000
    assert cost <= 100 + 100 + 300  # the bytes, the frame around them, and what was written again
    version = shard.namespace.version(ROOT, b"f", 1234)
    assert read(shard, inode, version.timestamp) == twin[:123_400]


def test_a_session_that_failed_does_not_bring_back_what_changed_beside_it(monkeypatch) -> None:
    shard = make_shard()
    inode = create(shard, b"f")
    for number in range(PIECES_PER_CHUNK_MAX + 1):
        save(shard, inode, (2 * number, b"%02d" % number))
    assert inode in shard.namespace.overlong
    dirty, size = DirtyMap(), shard.namespace.attributes(inode).size
    dirty.write(0, b"XX")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(shard.log, "append", full)
        with pytest.raises(OSError, match="full"):
            shard.commit(inode, dirty, size, None, 0, 0)
    save(shard, inode, (10, b"YYYY"))
    assert shard.commit(inode, dirty, size, None, 0, 0).reason is None
    assert read(shard, inode, n=16) == b"XX01020304YYYY07"


def test_a_session_over_many_long_rows_writes_some_again_and_the_rest_later() -> None:
    shard = make_shard(segment_bytes=SEGMENT_BYTES)
    inode = create(shard, b"f")
    chunks = 150
    save(shard, inode, (0, bytes(chunks * CHUNK_BYTES)))
    for number in range(17):
        dirty = [(c * CHUNK_BYTES + number * 8192, b"x" * 10) for c in range(chunks)]
        save(shard, inode, *dirty)
    assert len(shard.namespace.overlong[inode]) == chunks
    dirty = DirtyMap()
    dirty.write(0, b"y")
    shard.commit(inode, dirty, chunks * CHUNK_BYTES, None, 0, 0)
    assert dirty.memory_bytes == 1
    assert len(shard.namespace.overlong[inode]) == chunks - 64
    save(shard, inode, (0, b"y"))
    save(shard, inode, (0, b"y"))
    assert inode not in shard.namespace.overlong
    data = read(shard, inode)
    assert data.count(b"x" * 10) == 17 * chunks - 1 + (data[:10] == b"x" * 10)


def test_old_bytes_that_are_damaged_do_not_stand_in_the_way_of_new_ones() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    inode = create(shard, b"f")
    addresses = []
    for number in range(PIECES_PER_CHUNK_MAX + 2):
        addresses.append(shard.log.end_address)
        save(shard, inode, (number * 10, b"0123456789"))
        if number == 3:
            hurt = disk.open("log/" + disk.list("log")[0])
            hurt.pwritev([b"?"], shard.log.end_address - 9)
    save(shard, inode, (1000, b"on"))
    assert read(shard, inode, at=1000) == b"on"
    with pytest.raises(Corruption, match=r"payload of record 6\b"):
        read(shard, inode)


# --- a table that fails -----------------------------------------------------------------------------------------------


class FaultyTable(MemoryTable):
    """Refuses the n-th write or publication."""

    def __init__(self, nth: int, calls: tuple[str, ...]) -> None:
        super().__init__()
        self.left = nth
        self.faulty = calls
        self.hits = 0

    def strike(self, call: str) -> None:
        if call in self.faulty:
            self.left -= 1
            if self.left == 0:
                self.hits += 1
                self.abandon()  # as LMDB: what fails is forgotten, and other calls may go wrong too
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def put(self, key: bytes, value: bytes) -> None:
        self.strike("put")
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self.strike("delete")
        super().delete(key)

    def commit(self) -> None:
        self.strike("commit")
        super().commit()


def work(shard: Shard) -> None:
    """A bit of everything, published now and then."""
    a, b = create(shard, b"a"), create(shard, b"b")
    shard.propose(record.Create(ROOT, b"d", 4, DIRECTORY, 0, 0))
    shard.namespace.counters.next_inode = 5
    save(shard, a, (0, b"one"))
    shard.publish()
    save(shard, b, (0, b"x" * 1000), (5000, b"y"))
    assert shard.propose(record.Link(ROOT, b"a", b)).reason is Reason.EXISTS
    shard.propose(record.Rename(ROOT, b"a", 4, b"moved"))
    shard.publish()
    shard.propose(record.SetXattr(a, b"user.x", b"1"))
    shard.propose(record.Batch([record.Unlink(ROOT, b"b"), record.SetAttributes(a, mode=0)]))
    shard.publish()
    save(shard, a, (2, b"more"))


@pytest.mark.parametrize("calls", [("put", "delete"), ("commit",)])
def test_a_table_that_fails_once_loses_nothing(calls) -> None:
    clean = MemoryTable()
    whole = make_shard(table=clean)
    work(whole)
    points = 0
    for nth in range(1, 1000):
        table = FaultyTable(nth, calls)
        shard = make_shard(table=table)
        work(shard)
        if not table.hits:
            break
        points += 1
        assert rows_of(table) == rows_of(clean), f"fault {nth}"
        assert shard.namespace.counters.pack() == whole.namespace.counters.pack()
        assert read(shard, 2) == b"onmore"
        table.left = 0
        shard.publish()
        assert shard.index_trouble is None
        assert Position.load(table).index == shard.log.last_index
    assert points == (3 if calls == ("commit",) else points)
    assert points >= 3


def test_a_table_that_goes_on_failing_stops_the_shard_and_says_so() -> None:
    class Dead(FaultyTable):
        dead = False

        def put(self, key: bytes, value: bytes) -> None:
            if self.dead:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().put(key, value)

    table = Dead(0, ())
    disk = MemoryDisk()
    shard = make_shard(disk, table)
    create(shard, b"before")
    shard.publish()
    table.dead = True
    create_another = record.Create(ROOT, b"n", 9, REGULAR, 0, 0)
    for _ in range(2):
        with pytest.raises(OSError, match="could not be brought up to the log"):
            shard.propose(create_another)
    with pytest.raises(OSError, match="could not be brought up to the log"):
        shard.stage(2, 0, b"bytes")
    shard.publish()
    table.dead = False
    create(shard, b"after")  # It is brought up by whoever comes next.
    assert shard.namespace.binding(ROOT, b"n").inode == 9
    again = make_shard(disk)
    assert again.namespace.binding(ROOT, b"before").inode == 2
    assert again.namespace.binding(ROOT, b"n").inode == 9  # in the log, as the message allows


def test_a_record_that_is_in_the_log_comes_into_the_index_whatever_breaks() -> None:
    """No memory, or a bug, between the append and the rows: the record stands, and nothing is left out for ever."""

    class Short(FaultyTable):
        short = 0

        def put(self, key: bytes, value: bytes) -> None:
            self.short -= 1
            if self.short == 0:
                raise MemoryError
            super().put(key, value)

    for nth in range(1, 9):
        table = Short(0, ())
        shard = make_shard(MemoryDisk(), table)
        table.short = nth
        create(shard, b"n")
        table.short = 0
        assert shard.namespace.binding(ROOT, b"n").inode == 2
        shard.publish()
        built = make_shard(shard.log._reader.segments.disk)
        for key, row in built._table.scan(b"\0", b"\xff"):
            if not key.startswith(b"M\0"):
                assert table.get(key) == row


def test_a_table_that_cannot_be_published_is_not_asked_at_every_record() -> None:
    table = FaultyTable(1, ("commit",))
    shard = make_shard(table=table)
    for number in range(PUBLISH_RECORDS_MAX):
        shard.propose(record.Create(ROOT, b"%d" % number, 10 + number, REGULAR, 0, 0))
    assert table.hits == 1
    assert "No space" in shard.index_trouble
    calls = table.left
    for number in range(PUBLISH_RECORDS_MAX - 10):
        shard.propose(record.SetAttributes(10 + number, mode=0))
    assert table.left == calls
    assert shard.namespace.counters.live_inodes == PUBLISH_RECORDS_MAX + 1
    shard.publish()
    assert Position.load(table).index == shard.log.last_index


# --- a disk that fails ------------------------------------------------------------------------------------------------


def failing(disk: MemoryDisk, code: int, call: str, *, times: int = 1) -> None:
    left = [times]

    def before(found: str, _name: str) -> None:
        if found == call and left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))

    disk.before = before


def test_a_full_disk_refuses_and_nothing_is_half_done() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    inode = create(shard, b"f")
    save(shard, inode, (0, b"before"))
    rows = rows_of(shard._table)
    dirty = DirtyMap()
    dirty.write(0, b"after")
    failing(disk, errno.ENOSPC, "pwritev", times=3)
    with pytest.raises(OSError, match="No space"):
        shard.commit(inode, dirty, 6, None, 0, 0)
    assert rows_of(shard._table) == rows
    assert dirty.memory_bytes == 5
    disk.before = None
    dirty.write(5, b"!")  # the draft lives on
    # The writer erased what it may have left, or refuses: either way a later open finds what was promised.
    again = make_shard(disk)
    assert read(again, inode) == b"before"
    assert again.commit(inode, dirty, 6, None, 0, 0).reason is None
    assert read(again, inode) == b"after!"


def test_after_relief_the_same_shard_goes_on() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    inode = create(shard, b"f")
    dirty = DirtyMap()
    dirty.write(0, b"bytes")
    failing(disk, errno.ENOSPC, "pwritev")  # the erasing of what it left succeeds
    with pytest.raises(OSError, match="No space"):
        shard.commit(inode, dirty, 5, None, 0, 0)
    assert shard.commit(inode, dirty, 5, None, 0, 0).reason is None
    assert read(shard, inode) == b"bytes"
    assert shard.namespace.head(ROOT, b"f") == 1


async def test_a_sync_that_fails_is_never_taken_for_one_that_did_not() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    await shard.wait_durable()
    inode = create(shard, b"f")
    failing(disk, errno.EIO, "fdatasync")
    with pytest.raises(OSError, match="Input/output"):
        await shard.wait_durable()
    for _ in range(2):
        with pytest.raises(OSError, match="a sync failed"):
            await shard.wait_durable()
        with pytest.raises(OSError, match="a sync failed"):
            save(shard, inode, (0, b"x"))
    assert shard.namespace.head(ROOT, b"f") == 0


@pytest.mark.parametrize("sync_ms", [0, 5])
async def test_who_syncs_alone_on_a_fast_disk_is_served_on_the_spot(sync_ms) -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    clock = StoppedClock()
    shard._clock = clock
    here = threading.get_ident()
    threads = []

    def before(call: str, _name: str) -> None:
        if call == "fdatasync":
            threads.append(threading.get_ident() == here)
            at = clock.now_ns() + sync_ms * 1_000_000
            clock.now_ns = lambda: at

    disk.before = before
    for number, who in enumerate((7, 7, 7, 8, 8, 0, 0, 7)):
        create(shard, b"%d" % number)
        await shard.wait_durable(who=who)
        assert shard.log.durable_index == shard.log.last_index
    fast = sync_ms == 0  # 7 and 8 each alone from their second time on; 0 is nobody in particular
    assert threads == [False, fast, fast, False, fast, False, False, False]


async def test_waiters_share_syncs() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    await shard.wait_durable()
    inode = create(shard, b"f")
    gate = threading.Event()
    entered = threading.Event()

    def before(call: str, _name: str) -> None:
        if call == "fdatasync":
            entered.set()
            gate.wait()

    disk.before = before
    before_syncs = shard.log.syncs
    done = []

    async def save_and_wait(number: int) -> None:
        save(shard, inode, (0, b"%d" % number))
        index = shard.log.last_index
        await shard.wait_durable(index)
        assert shard.log.durable_index >= index
        done.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save_and_wait, 0)
        await trio.to_thread.run_sync(entered.wait)
        for number in range(1, 50):
            nursery.start_soon(save_and_wait, number)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        gate.set()
    assert len(done) == 50
    assert (
        shard.log.syncs - before_syncs == 2
    )  # the one under way, and one for all who came meanwhile


async def test_a_waiter_that_is_cancelled_harms_nobody() -> None:
    disk = MemoryDisk()
    shard = make_shard(disk)
    create(shard, b"f")
    gate, entered = threading.Event(), threading.Event()

    def before(call: str, _name: str) -> None:
        if call == "fdatasync":
            entered.set()
            gate.wait()

    disk.before = before
    waited = []

    async def wait() -> None:
        await shard.wait_durable()
        waited.append(1)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await shard.wait_durable()

        nursery.start_soon(cancelled)
        await trio.to_thread.run_sync(entered.wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        gate.set()
    assert waited == [1]
    assert shard.log.durable_index == shard.log.last_index


# --- a volatile pool --------------------------------------------------------------------------------------------------


def test_a_volatile_pool_holds_what_lives_and_nothing_else() -> None:
    shard = make_volatile()
    inode = create(shard, b"f")
    for number in range(1000):
        save(shard, inode, (0, b"%04d" % number * 25_000), keep=0)
    assert read(shard, inode) == b"0999" * 25_000
    assert shard.log.payload_bytes == 100_000
    assert shard.namespace.head(ROOT, b"f") == 1000
    assert shard.namespace.version(ROOT, b"f", 999) is None
    assert len(rows_of(shard._table)) < 10


def test_a_volatile_pool_lets_go_of_what_was_staged_for_nothing() -> None:
    shard = make_volatile()
    inode = create(shard, b"f")
    session = Session(shard, inode, b"")
    for _ in range(50):
        session.write(0, b"z" * 100_000, stage=True)  # a draft overwritten again and again
    session.commit()
    assert shard.log.payload_bytes == 100_000
    session = Session(shard, inode, b"z" * 100_000)
    session.write(0, b"q" * 100_000, stage=True)
    shard.propose(record.Unlink(ROOT, b"f"))
    shard.forget(inode)
    assert shard.log.payload_bytes == 0


def test_numbers_go_on_in_a_volatile_pool_and_rows_do_not() -> None:
    shard = make_volatile()
    rows = None
    for number in range(100):
        assert shard.namespace.head(ROOT, b"f") == 2 * number
        inode = create(shard, b"f")
        save(shard, inode, (0, b"x" * 1000), (CHUNK_BYTES, b"x"))
        shard.propose(record.Unlink(ROOT, b"f"))
        shard.forget(inode)
        rows = rows or len(rows_of(shard._table))
        assert len(rows_of(shard._table)) == rows
    assert shard.log.payload_bytes == 0
