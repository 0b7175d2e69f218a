"""A face of a shard shows what was committed, whoever proposed it and whatever became of the leader meanwhile.

Method: several faces on one order in memory, as if each were a mount, told to interleave, pause, repeat and reject; and
tables that fail under one of them. What all faces hold in the end is compared row for row.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from storage import record
from storage.attributes import DIRECTORY, REGULAR
from storage.cluster.turns import Turns
from storage.errors import Reason
from storage.extents import DirtyMap
from storage.limits import CHUNK_BYTES, PIECES_PER_CHUNK_MAX
from storage.namespace import ROOT
from storage.namespace.sessions import SESSION_US
from storage.sequencer import START, Astray, Place, Unavailable
from storage.snapshot import Snapshot
from storage.table import MemoryTable
from tests.storage.cluster.orders import TickingClock, make_face, make_orders

if TYPE_CHECKING:
    from storage.cluster.loopback import Order


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def order(clock) -> Order:
    return make_orders(1, clock)[0]


@pytest.fixture
def make(order, clock):
    return lambda **options: make_face(order, clock, **options)


def create(face, name: bytes, mode: int = REGULAR | 0o644) -> int:
    inode = face.allocate_inode()
    assert face.propose(record.Create(ROOT, name, inode, mode, 1, 2)).reason is None
    return inode


def save(face, inode: int, data: bytes, at: int = 0):
    dirty = DirtyMap()
    dirty.write(at, data)
    return face.commit(inode, dirty, at + len(data), None, 0, 0)


def contents(face, inode: int) -> bytes:
    attributes = face.namespace.attributes(inode)
    return bytes(face.read(inode, attributes, None, 0, attributes.size))


def rows(face) -> dict[bytes, bytes]:
    return {key: row for key, row in face._table.scan(b"", b"\xff" * 9) if key[:1] != b"M"}


def test_what_one_face_proposes_every_face_shows(make) -> None:
    one, two = make(), make()
    inode = create(one, b"f")
    assert save(one, inode, b"from one").reason is None
    assert two.namespace.binding(ROOT, b"f") is None, "nobody applied it there yet"
    assert two.catch_up()
    assert not two.catch_up()
    assert contents(two, inode) == b"from one"
    assert save(two, inode, b"from two").reason is None
    one.catch_up()
    assert contents(one, inode) == b"from two"
    assert rows(one) == rows(two)


def test_who_proposes_applies_what_came_before_and_hears_what_that_made_of_it(make) -> None:
    one, two = make(), make()
    create(one, b"f")
    inode = two.allocate_inode()
    outcome = two.propose(record.Create(ROOT, b"f", inode, REGULAR, 1, 2))
    assert outcome.reason is Reason.EXISTS
    assert two.namespace.binding(ROOT, b"f") is not None


def test_others_records_may_come_between_the_look_and_the_leap(order, make) -> None:
    one, two = make(), make()
    inode = create(two, b"f")
    one.catch_up()

    def meanwhile() -> None:
        order.append(record.encode(record.Unlink(ROOT, b"f")))

    order.meanwhile = meanwhile
    assert one.propose(record.Unlink(ROOT, b"f")).reason is Reason.ABSENT
    assert one.namespace.attributes(inode).nlink == 0


def test_inode_numbers_are_never_given_twice(make) -> None:
    faces = [make(), make(), make()]
    given = [face.allocate_inode() for _ in range(600) for face in faces]
    assert len(set(given)) == len(given)
    later = make()
    assert later.allocate_inode() > max(given)


@pytest.mark.parametrize("delay", [False, True])
def test_a_proposal_that_arrives_twice_has_one_effect(order, make, delay) -> None:
    order.repeats, order.delay = True, delay
    one, two = make(), make()
    inode = create(one, b"f")
    for number in range(5):
        assert save(one, inode, b"%d" % number).reason is None
    two.catch_up()
    assert one.namespace.head(ROOT, b"f") == 5
    assert rows(one) == rows(two)
    assert one.propose(record.Unlink(ROOT, b"f")).reason is None


def test_a_pause_is_only_a_pause(order, make) -> None:
    one, two = make(), make()
    inode = create(one, b"f")
    one.catch_up()
    order.pause()
    done: list[object] = []
    waiting = [
        threading.Thread(target=lambda face=face: done.append(save(face, inode, b"x").reason))
        for face in (one, two)
    ]
    for thread in waiting:
        thread.start()
    assert not done
    order.resume()
    for thread in waiting:
        thread.join()
    assert done == [None, None]
    one.catch_up()
    two.catch_up()
    assert one.namespace.head(ROOT, b"f") == two.namespace.head(ROOT, b"f") == 2
    assert rows(one) == rows(two)


def test_whoever_waits_is_told_when_nobody_will_answer(order, make) -> None:
    face = make()
    order.pause()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            face.propose(record.Reserve(0))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    face._sequencer.close()
    thread.join()
    assert isinstance(failed[0], Unavailable)
    assert failed[0].errno == errno.EIO
    with pytest.raises(Unavailable):
        face.propose(record.Reserve(0))


def test_what_the_leader_cannot_take_never_was(order, make) -> None:
    face = make()
    inode = create(face, b"f")
    order.is_full = True
    with pytest.raises(OSError, match="full") as caught:
        save(face, inode, b"too much")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="full"):
        face.stage(inode, 0, bytes(3 * CHUNK_BYTES))
    order.is_full = False
    assert save(face, inode, b"fits").reason is None
    assert contents(face, inode) == b"fits"
    assert face.namespace.head(ROOT, b"f") == 1


def test_a_late_copy_of_what_was_rejected_passes_for_nothing_else(order, make) -> None:
    face = make()
    inode = create(face, b"f")
    stale = record.encode(record.Create(ROOT, b"stale", face.allocate_inode(), REGULAR, 1, 2))
    client, number = order.records[-1].client, order.records[-1].number + 1

    def once_more() -> None:
        order.meanwhile = lambda: order.append(stale, (), client, number)

    order.is_full = True
    order.meanwhile = once_more
    with pytest.raises(OSError, match="full"):
        save(face, inode, b"too much")
    order.is_full = False
    face.catch_up()
    assert (order.records[-2].number, order.records[-2].metadata) == (number, stale)
    assert save(face, inode, b"fits").reason is None
    assert contents(face, inode) == b"fits"


def test_staged_bytes_are_read_before_and_after_the_commit_that_names_them(order, make) -> None:
    order.delay = True
    one, two = make(), make()
    inode = create(one, b"f")
    data = bytes(range(256)) * (12 * 1024 * 1024 // 256 // 2)
    dirty = DirtyMap()
    for extent in one.stage(inode, 100, data):
        dirty.place(*extent)
    spans = list(dirty)
    assert b"".join(bytes(one.log.read(s.address, s.offset, s.length)) for s in spans) == data
    assert one.commit(inode, dirty, 100 + len(data), None, 0, 0).reason is None
    two.catch_up()
    assert contents(two, inode) == bytes(100) + data


def test_bytes_written_again_beside_a_draft_are_never_older_than_what_others_wrote(
    order, make
) -> None:
    one = make()
    inode = create(one, b"f")
    assert save(one, inode, bytes(4096)).reason is None
    number = 0
    while inode not in one.namespace.overlong:
        number += 1
        dirty = DirtyMap()
        dirty.write(number * 3, b"a")
        assert one.commit(inode, dirty, 4096, None, 0, 0).reason is None
    assert number >= PIECES_PER_CHUNK_MAX // 2
    append = order.append

    def meanwhile() -> None:
        extents = [(0, 4096, record.SELF, 0)]
        append(record.encode(record.Commit(inode, 4096, None, extents, 0, 0)), [b"z" * 4096])

    order.meanwhile = meanwhile
    dirty = DirtyMap()
    dirty.write(1, b"b")
    assert one.commit(inode, dirty, 4096, None, 0, 0).reason is None
    assert contents(one, inode) == b"zb" + b"z" * 4094


class Failing(MemoryTable):
    """Fails at the so-many-th write from when it is told."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        super().__init__()
        self.left = -1

    def put(self, key: bytes, value: bytes) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.EIO, "planted")
        super().put(key, value)


@pytest.mark.parametrize("at", range(1, 20))
def test_after_a_failure_of_the_table_the_stream_is_followed_again(make, at) -> None:
    table = Failing()
    one, two = make(table=table), make()
    inode = create(one, b"f")
    one.publish()
    create(two, b"g")
    table.left = at
    assert save(one, inode, b"first").reason is None
    assert one.propose(record.SetXattr(inode, b"user.x", b"y")).reason is None
    assert create(one, b"h") > 0
    two.catch_up()
    assert rows(one) == rows(two)
    assert one.allocate_inode() not in {inode, *range(two._inodes.start - 3, two._inodes.stop)}


def test_a_record_that_cannot_be_applied_stops_the_face_and_says_so(make) -> None:
    table = Failing()
    one, two = make(table=table), make()
    create(two, b"f")
    broken = one.namespace.apply

    def apply(timestamp, address, said):
        if isinstance(said, record.Create) and said.name == b"g":
            raise ValueError("planted")
        return broken(timestamp, address, said)

    one.namespace.apply = apply
    create(two, b"g")
    for _ in range(2):
        with pytest.raises(OSError, match="planted"):
            one.catch_up()
    one.namespace.apply = broken
    one.catch_up()
    assert rows(one) == rows(two)


def test_each_record_is_told_once_and_those_of_others_as_such(make) -> None:
    table = Failing()
    one, two = make(table=table), make()
    heard: list[record.Record] = []
    foreign: list[record.Record] = []
    one.listener = lambda timestamp, address, said: heard.append(said)
    one.on_others = lambda timestamp, said: foreign.append(said)
    one.publish()
    inode = create(one, b"f")
    two_inode = create(two, b"g")
    two.propose(record.Unlink(ROOT, b"nothing"))
    table.left = 3
    save(one, inode, b"x")
    names = [said.name for said in heard if isinstance(said, record.Create)]
    assert names == [b"f", b"g"]
    assert sum(isinstance(said, record.Commit) for said in heard) == 1
    assert [type(said) for said in foreign] == [record.Reserve, record.Create]
    assert foreign[1].inode == two_inode


def test_a_table_goes_on_where_it_was_and_one_of_another_shard_is_refused(order, clock) -> None:
    table = MemoryTable()
    one = make_face(order, clock, table=table)
    create(one, b"f")
    one.publish()
    two = make_face(order, clock)
    create(two, b"g")
    again = make_face(order, clock, table=table)
    assert again.namespace.binding(ROOT, b"g") is not None
    assert rows(again) == rows(two)
    other = make_orders(1, TickingClock(5))[0]
    for _ in range(20):
        other.append(record.encode(record.Reserve(0)))
    again.publish()
    with pytest.raises(Astray):
        make_face(other, clock, table=table)


def test_records_of_the_replication_only_take_an_index(order, make) -> None:
    face = make()
    order.append(b"")
    inode = create(face, b"f")
    order.append(b"")
    assert face.catch_up()
    assert face.applied_index == len(order.records)
    assert contents(face, inode) == b""


def test_a_session_is_forgotten_when_nobody_used_it_and_another_begins(order, clock, make) -> None:
    one = make()
    create(one, b"f")
    client = one._sequencer.client
    clock.at += (SESSION_US - 10_000_000) * 1000
    two = make()
    create(two, b"g")
    assert two.namespace.sessions.last(client) == 2
    clock.at += 20_000_000 * 1000
    three = make()
    create(three, b"h")
    assert three.namespace.sessions.last(client) == 0
    two.catch_up()
    assert rows(two) == rows(three)


def test_a_new_client_does_not_look_at_all_others(order, clock, make, monkeypatch) -> None:
    face = make()
    create(face, b"f")
    looks = []
    scan = MemoryTable.scan
    monkeypatch.setattr(MemoryTable, "scan", lambda *words: looks.append(words[1]) or scan(*words))

    def once(*clients, then=()):
        parts = [record.Once(client, 1) for client in clients]
        return face.propose(record.Batch([*parts, *then])).reason

    assert [once(client) for client in range(100, 110)] == [None] * 10
    assert looks.count(b"Z") == 0, "at the first one it was found that nobody is old"
    clock.at += (SESSION_US + 10_000_000) * 1000
    # What is undone was not forgotten, and is looked for again.
    assert once(200, then=[record.Unlink(ROOT, b"none")]) is Reason.ABSENT
    assert face.namespace.sessions.last(100) == 1
    assert once(201) is None
    assert face.namespace.sessions.last(100) == 0


def test_the_frontier_is_waited_for_and_then_given_up(order, clock, make) -> None:
    face, other = make(), make()
    create(other, b"f")
    now_us = clock.now_ns() // 1000
    assert face.settle(now_us, 0.05)
    assert face.namespace.binding(ROOT, b"f") is not None, "all up to then is applied"
    order.pause()
    assert not face.settle(now_us + 10, 0.02)
    order.resume()
    clock.at += 10**9
    assert face.settle(now_us + 10, 0.05)
    assert create(other, b"g")
    other.catch_up()
    assert other.applied_timestamp > now_us + 10, "what comes after it is later"


def test_who_waits_while_a_volatile_shard_begins_anew_is_not_taken_for_who_asks_afterwards(
    order, clock
) -> None:
    table = MemoryTable()
    face = make_face(order, clock, table=table, memory=table)
    sequencer, lock, failures = face._sequencer, threading.Lock(), []
    face.turns = Turns(lock, always=True)

    def begin_anew() -> Snapshot:
        last = order.records[-1]
        sequencer.client, sequencer.pending = 1000, []
        place = Place(last.index, last.address, last.checksum)
        return Snapshot(place, last.timestamp, [], [], [])

    def wait() -> None:
        with lock:
            try:
                face.propose(record.Unlink(ROOT, b"lost"))
            except OSError as error:
                failures.append(error.errno)

    order.pause()
    has_news = threading.Event()
    sequencer.begin_anew, sequencer.wait_more = begin_anew, lambda index, timeout_s: has_news.wait()
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while not face.turns.resting:
        threading.Event().wait(0.001)
    told: list[object] = []
    with lock:
        sequencer.follow(Place(99, 5, 5))
        has_news.set()
        assert face.catch_up()
        face.begin(record.Unlink(ROOT, b"afterwards"), (), told.append)
    waiting.join(10)
    assert failures == [errno.ESTALE]
    assert not told
    order.resume()
    with lock:
        face.catch_up()
    assert [outcome.reason for outcome in told] == [Reason.ABSENT]
    assert not face.has_proposed


def test_others_have_a_volatile_shard_while_one_fetches_it_anew(order, clock) -> None:
    table = MemoryTable()
    face = make_face(order, clock, table=table, memory=table)
    create(face, b"f")
    sequencer, lock, reasons = face._sequencer, threading.Lock(), []
    face.turns = Turns(lock, always=True)
    fetches, has_come = threading.Event(), threading.Event()

    def begin_anew() -> Snapshot:
        fetches.set()
        assert has_come.wait(10)
        last = order.records[-1]
        sequencer.client = 1000
        return Snapshot(Place(last.index, last.address, last.checksum), last.timestamp, [], [], [])

    def follow() -> None:
        with lock:
            face.catch_up()

    def propose() -> None:
        with lock:
            reasons.append(face.propose(record.Unlink(ROOT, b"f")).reason)

    sequencer.begin_anew = begin_anew
    sequencer.follow(Place(99, 5, 5))
    threads = [threading.Thread(target=call, daemon=True) for call in (follow, propose)]
    threads[0].start()
    assert fetches.wait(10)
    assert lock.acquire(timeout=10), "somebody holds the shard and waits"
    assert face.namespace.binding(ROOT, b"f") is not None
    assert not face.catch_up()
    assert face.is_waiting, "nobody need look"
    lock.release()
    threads[1].start()
    while face.turns.resting < 2:
        threading.Event().wait(0.001)
    assert not sequencer.pending
    has_come.set()
    for thread in threads:
        thread.join(10)
    assert reasons == [Reason.ABSENT], "the shard has begun anew, empty"
    assert not face.is_waiting


def test_a_place_that_is_ahead_of_the_log_is_astray(order) -> None:
    sequencer = order.sequencer(77)
    sequencer.follow(Place(99, 5, 5))
    with pytest.raises(Astray):
        sequencer.take(0.0)
    sequencer.follow(START)
    assert [one.index for one in sequencer.take(0.0)] == [1]


def test_many_faces_and_threads_end_with_the_same_rows(order, clock) -> None:
    faces = [make_face(order, clock) for _ in range(3)]
    failures: list[BaseException] = []

    def work(face, mine: int) -> None:
        try:
            for number in range(30):
                name = b"%d" % (number % 7)
                inode = face.allocate_inode()
                face.propose(record.Create(ROOT, name, inode, REGULAR, mine, 0))
                binding = face.namespace.binding(ROOT, name)
                if binding is not None:
                    save(face, binding.inode, b"%d of %d" % (number, mine))
                if number % 3 == mine:
                    face.propose(record.Unlink(ROOT, name))
                face.propose(
                    record.Create(ROOT, b"d%d" % mine, face.allocate_inode(), DIRECTORY, 0, 0)
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(face, n)) for n, face in enumerate(faces)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for face in faces:
        face.catch_up()
    assert rows(faces[0]) == rows(faces[1]) == rows(faces[2])
    assert faces[0].namespace.counters.pack() == faces[1].namespace.counters.pack()


def test_what_is_begun_is_told_when_it_is_applied(order, make) -> None:
    face, other = make(), make()
    inodes = [face.allocate_inode() for _ in range(3)]
    told: list = []
    order.pause()
    for number, (name, inode) in enumerate(zip((b"a", b"b", b"a"), inodes, strict=True)):
        face.begin(
            record.Create(ROOT, name, inode, REGULAR | 0o644, 1, 2),
            (),
            lambda outcome, number=number: told.append((number, outcome.reason)),
        )
    assert told == []
    order.resume()
    while len(told) < 3:
        face.wait_and_apply(1.0)
    assert told == [(0, None), (1, None), (2, Reason.EXISTS)]
    other.catch_up()
    assert other.namespace.binding(ROOT, b"b").inode == inodes[1]


def test_what_is_begun_and_cannot_be_is_told_so(order, make) -> None:
    face = make()
    inode = face.allocate_inode()
    told: list = []
    order.is_full = True
    face.begin(record.Create(ROOT, b"a", inode, REGULAR | 0o644, 1, 2), (b"x",), told.append)
    while not told:
        face.wait_and_apply(1.0)
    assert told[0].errno == errno.ENOSPC
    order.is_full = False
    assert face.propose(record.Create(ROOT, b"a", inode, REGULAR | 0o644, 1, 2)).reason is None
    order.pause()
    face.begin(record.Unlink(ROOT, b"a"), (), told.append)
    face.close()
    assert isinstance(told[1], Unavailable)


def test_what_one_record_cannot_hold_is_refused_and_nobody_is_asked(order, make) -> None:
    face = make()
    commit = record.Commit(
        face.allocate_inode(), 1 << 40, None, [(1 << 39, 1, 1 << 39, 1 << 20)] * 700_000, 0, 0
    )
    order.pause()
    told: list = []
    face.begin(commit, (), told.append)
    assert face.propose(commit).reason is told[0].reason is Reason.ARGUMENT_TOO_LARGE
    order.resume()


def test_who_lets_go_hears_of_what_another_has_applied_meanwhile(order, make) -> None:
    face, lock = make(), threading.Lock()
    face.turns = turns = Turns(lock)
    inode, outcomes, wait_more = face.allocate_inode(), [], face.wait_more

    def overtaken(index: int, timeout_s: float) -> None:
        with lock:
            face.catch_up()  # By somebody who follows beside: nothing is left to take.
        wait_more(index, timeout_s)

    def propose() -> None:
        with lock, turns.letting_go():
            outcomes.append(face.propose(record.Create(ROOT, b"f", inode, REGULAR, 1, 2)))

    face.wait_more = overtaken
    proposer = threading.Thread(target=propose, daemon=True)
    proposer.start()
    proposer.join(30)
    assert [outcome.reason for outcome in outcomes] == [None]
