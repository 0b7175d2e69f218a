"""Goal: the log of a volatile shard holds what lives and some newest heads, whatever was written over it; and is the same log to who
asks as one on a disk would be.

Method: a log, a table and what lets go, without a cluster: ten thousand times the same few files; then single frames.
"""

import pytest

from storage.errors import Corruption, Reason
from storage.log import Frame
from storage.member.memory import HEAD_OVERHEAD_BYTES, MemoryLog
from storage.member.releasing import DEAD_BYTES_MAX, DEAD_US, STAGED_US, Releasing
from storage.namespace import Namespace, forgetting
from storage.namespace.forgetting import NAMELESS_US, REMOVED_US
from storage.record import SELF, Batch, Commit, Create, Expect, Prune, Rename, Unlink, Write
from storage.sequencer import START, Place
from storage.snapshot import LIFE_ADDRESSES, LIFE_INDICES, Collector, Snapshot, Snapshotted
from storage.table import MemoryTable

IDENTITY = 77
FIRST = 100


class Replica:
    """A log and the face beside it, applied at once; time is what the test says."""

    def __init__(self, log=None):
        self.log = log or MemoryLog.begin(IDENTITY, 0)
        self.log.epoch = 1
        self.table = MemoryTable()
        self.space = Namespace(self.table, keep_past=False, forgets=True)
        self.releasing = Releasing(self.space, lambda: self.log)
        self.now_us = 10**15
        self.say(Create(0, b"", 1, 0o40755, 0, 0))

    def say(self, record, payload=b""):
        self.now_us += 10
        address = self.log.append(1, self.now_us, b"x" * 60, [payload] if payload else ())
        outcome = self.space.apply(self.now_us, address, record)
        self.releasing.applied(self.now_us, address, record, outcome)
        self.space.released.clear()
        return address, outcome

    def make(self, name, inode=FIRST):
        return self.say(Create(1, name, inode, 0o100644, 0, 0))

    def commit(self, inode, payload):
        extents = [(0, len(payload), SELF, 0)]
        return self.say(Commit(inode, len(payload), 0, extents, 0, 0), payload)

    def pass_us(self, microseconds):
        self.now_us += microseconds
        self.releasing.step(self.now_us)


def test_ten_thousand_overwrites_leave_what_lives():
    replica = Replica()
    for file in range(10):
        replica.make(b"%d" % file, FIRST + file)
    rows = replica.table.row_count()
    for turn in range(10_000):
        replica.commit(FIRST + turn % 10, b"%06d" % turn * 700)
        replica.log.trim(replica.log.last_index - 100)
        if turn % 100 == 0:
            replica.pass_us(DEAD_US // 2)
    replica.pass_us(DEAD_US + 1)
    log = replica.log
    assert log.payload_bytes == 10 * 6 * 700
    assert log.heads_count == 100
    assert log.taken_bytes == 10 * 6 * 700 + 100 * (HEAD_OVERHEAD_BYTES + 60)
    assert replica.table.row_count() == rows + 10, "a row for the chunk of each file"


def test_dead_bytes_are_bounded_however_quickly_they_come():
    replica = Replica()
    replica.make(b"a")
    for _ in range(DEAD_BYTES_MAX // 200_000 + 50):
        replica.commit(FIRST, b"x" * 200_000)
    assert replica.log.payload_bytes <= DEAD_BYTES_MAX + 2 * 200_000


def test_what_was_replaced_can_be_read_for_a_moment():
    replica = Replica()
    replica.make(b"a")
    address, _ = replica.commit(FIRST, b"one")
    replica.commit(FIRST, b"two")
    replica.pass_us(DEAD_US - 100)
    assert bytes(replica.log.read(address, 0, 3)) == b"one"
    replica.pass_us(1000)
    with pytest.raises(Corruption, match="let go"):
        replica.log.read(address, 0, 3)


def test_a_draft_keeps_what_it_staged_until_it_is_named_or_a_day_is_over():
    replica = Replica()
    replica.make(b"a")
    staged, _ = replica.say(Write(FIRST, 0), b"draft")
    other, _ = replica.say(Write(FIRST, 5), b"never")
    replica.pass_us(3600 * 10**6)
    assert replica.log.holds(staged)
    assert replica.releasing.staged == {staged, other}
    replica.say(Commit(FIRST, 5, 0, [(0, 5, staged, 0)], 0, 0))
    assert replica.releasing.staged == {other}
    replica.pass_us(STAGED_US)
    assert replica.log.holds(staged)
    assert not replica.log.holds(other)


def test_bytes_of_a_refused_record_are_dead():
    replica = Replica()
    replica.make(b"a")
    record = Batch([Expect(1, b"a", 7, FIRST), Commit(FIRST, 3, 0, [(0, 3, SELF, 0)], 0, 0)])
    address, outcome = replica.say(record, b"abc")
    assert outcome.reason is not None
    replica.pass_us(DEAD_US + 1)
    assert not replica.log.holds(address)


def test_a_record_that_is_refused_lets_go_of_what_was_due_all_the_same():
    replica = Replica()
    replica.make(b"a")
    replica.commit(FIRST, b"one")
    replica.say(Unlink(1, b"a", False))
    replica.make(b"b", FIRST + 1)
    replica.pass_us(NAMELESS_US)
    _, outcome = replica.say(
        Batch([Create(1, b"c", FIRST + 2, 0o100644, 0, 0), Expect(1, b"b", 7, FIRST)])
    )
    assert outcome.reason is not None
    assert replica.space.attributes(FIRST) is None
    replica.pass_us(DEAD_US + 1)
    assert not replica.log.payload_bytes


def test_a_file_without_a_name_is_forgotten_after_a_while_and_its_name_later():
    replica = Replica()
    rows = replica.table.row_count()
    replica.make(b"a")
    replica.commit(FIRST, b"one")
    replica.say(Unlink(1, b"a", False))
    replica.pass_us(NAMELESS_US - 1000)
    replica.make(b"b", FIRST + 1)
    assert replica.space.attributes(FIRST) is not None
    assert replica.space.head(1, b"a") == 2, "numbers go on"
    replica.pass_us(2000)
    replica.say(Unlink(1, b"b", False))
    assert replica.space.attributes(FIRST) is None
    replica.pass_us(REMOVED_US + NAMELESS_US)
    replica.say(Write(FIRST, 0))
    assert replica.space.head(1, b"a") == 0
    assert replica.table.row_count() == rows
    assert not replica.log.payload_bytes


def test_of_files_that_were_replaced_by_others_not_more_is_kept_than_so_many_bytes(monkeypatch):
    monkeypatch.setattr(forgetting, "NAMELESS_BYTES_MAX", 10_000)
    replica = Replica()
    rows = replica.table.row_count()
    for file in range(50):
        replica.make(b"new", FIRST + file)
        replica.commit(FIRST + file, b"%04d" % file * 1000)
        replica.say(Rename(1, b"new", 1, b"a"))
        replica.pass_us(DEAD_US + 1)
        assert replica.log.payload_bytes <= 4000 + 10_000 + 2 * 4000
        for kept in (file - 2, file - 1, file):
            assert kept < 0 or replica.space.attributes(FIRST + kept) is not None
    replica.say(Unlink(1, b"a", False))
    replica.make(b"huge", FIRST + 60)
    replica.commit(FIRST + 60, b"x" * 20_000)
    replica.say(Unlink(1, b"huge", False))
    replica.say(Write(FIRST + 60, 0))
    assert replica.space.attributes(FIRST + 60) is not None, "nothing has come behind it"
    assert replica.space.attributes(FIRST + 49) is None
    replica.pass_us(REMOVED_US + NAMELESS_US)
    replica.say(Write(FIRST + 60, 0))
    assert replica.table.row_count() == rows
    replica.pass_us(DEAD_US + 1)
    assert not replica.log.payload_bytes


def test_whoever_begins_with_a_table_forgets_the_same_with_each_record(monkeypatch):
    monkeypatch.setattr(forgetting, "STEP_ROWS_MAX", 3)
    one, two = Replica(), Replica()
    for file in range(20):
        one.make(b"%d" % file, FIRST + file)
        one.commit(FIRST + file, b"x" * 100)
    one.say(Batch([Unlink(1, b"%d" % file, False) for file in range(20)]))
    monkeypatch.setattr(forgetting, "NAMELESS_BYTES_MAX", 500)
    for _ in range(10):
        two.table.load(one.table.rows())
        two.space.counters.restore(one.space.counters.pack())
        two.space.reload()
        two.now_us = one.now_us
        one.say(Write(1, 0))
        two.say(Write(1, 0))
        assert sorted(two.table.rows()) == sorted(one.table.rows())
    assert [one.space.attributes(FIRST + 20 - back) is None for back in (7, 6, 5)] == [
        True,
        False,
        False,
    ]


def test_what_is_about_a_past_is_refused():
    replica = Replica()
    replica.make(b"a")
    assert replica.say(Prune(FIRST, 1))[1].reason is Reason.UNSUPPORTED


def snapshot_of(replica, *, index):
    frame = next(replica.log.frames(index=index))
    place = Place(frame.index, frame.address, frame.checksum)
    return Snapshot(place, frame.timestamp, replica.log.epochs(), [], replica.log.held())


def test_a_log_behind_a_snapshot_goes_on_as_the_one_it_was_made_of():
    one = Replica()
    one.make(b"a")
    address, _ = one.commit(FIRST, b"kept")
    two = MemoryLog.install(IDENTITY, 0, snapshot_of(one, index=one.log.last_index))
    one.log.epoch = 2
    one.commit(FIRST, b"next")
    frame = next(one.log.frames(index=one.log.last_index))
    two.adopt(frame, [b"next"])
    for what in ("last_index", "last_address", "last_checksum", "end_address", "last_timestamp"):
        assert getattr(two, what) == getattr(one.log, what)
    assert two.epochs() == one.log.epochs()
    assert bytes(two.read(address, 0, 4)) == b"kept"
    assert [found.index for found in two.frames()] == [frame.index]
    two.truncate_after(frame.index - 1)
    assert (two.last_index, two.last_address) == (two.base.index, two.base.address)
    assert two.end_address == frame.address


def test_what_is_not_the_next_record_is_not_adopted():
    one = Replica()
    address, _ = one.make(b"a")
    frame = one.log.frame(address)
    two = MemoryLog.begin(IDENTITY, 0)
    for wrong in (
        frame,
        frame._replace(index=1, address=8),
        Frame(1, 1, 1, 5, b"m", 0, 1024, 0, 12345),
    ):
        with pytest.raises(Corruption):
            two.adopt(wrong, ())
    assert two.last_index == 0
    assert list(two.frames()) == []


def test_nothing_of_another_life_is_taken_for_this_one():
    one, two = MemoryLog.begin(IDENTITY, 0), MemoryLog.begin_life(IDENTITY, 0, 5)
    assert (two.base.index, two.base.address) == (5 * LIFE_INDICES, 5 * LIFE_ADDRESSES)
    assert two.epochs() == [(two.base.index, 4)]
    assert one.base == START
    many = MemoryLog.begin_life(IDENTITY, 0, 65_536 * 3)
    many.epoch = 65_536 * 3
    address = many.append(1, 10**15, b"m", [b"bytes"])
    assert bytes(many.read(address, 0, 5)) == b"bytes"
    assert many.last_index == 65_536 * 3 * LIFE_INDICES + 1
    with pytest.raises(Corruption):
        two.frame(1024)


def test_a_snapshot_comes_in_pieces_and_whole():
    rows = [(b"key%d" % i, bytes(300_000)) for i in range(30)]
    payloads = [(8 * i, b"%d" % i * 500_000) for i in range(9)]
    whole = Snapshot(Place(1, 2, 3), 4, [(1, 1)], rows, payloads)
    given = Snapshotted(9, whole)
    collector = Collector()
    for at in range(given.count(payloads=True)):
        assert (collector.number, collector.at) == (9 if at else 0, at)
        data = given.piece(at, payloads=True)
        assert len(data) < 3 * 2**20
        found = collector.take(data)
    assert found == whole
    with pytest.raises(IndexError):
        given.piece(given.count(payloads=True), payloads=True)
    assert given.count(payloads=False) < given.count(payloads=True)
    # What comes of another snapshot begins anew.
    collector = Collector()
    collector.take(Snapshotted(8, whole).piece(0, payloads=False))
    collector.take(given.piece(0, payloads=False))
    assert (collector.number, collector.at) == (9, 1)
