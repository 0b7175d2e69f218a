"""What was done for whom: one record does all or nothing, twice is once, and the log read again gives the same rows.

Method: a shard over a disk in memory; each record by its own rules, then a second shard from the same log.
"""

from __future__ import annotations

from random import Random

import pytest

from storage import record
from storage.disk import MemoryDisk
from storage.errors import Reason
from storage.namespace import ROOT
from storage.namespace.deliveries import FINISH_DEAD, FINISH_DONE, FINISH_SKIPPED
from storage.store import LocalStore
from storage.table import MemoryTable

REGULAR = 0o100644


class Clock:
    value = 1_795_255_200_000_000_000

    def now_ns(self) -> int:
        self.value += 1_000_000
        return self.value


class Index:
    """Every start builds it again."""

    def open(self):
        return MemoryTable()

    renew = view = open


def opened(disk: MemoryDisk) -> LocalStore:
    return LocalStore.open_on(
        disk, Index(), Clock(), Random(1), boot_id="boot", segment_bytes=1024 * 1024
    )


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def store(disk) -> LocalStore:
    store = opened(disk)
    assert store.propose(record.Adopt(1)).reason is None
    consumers = [(b"one", b"definition", 0, 0)]
    assert store.propose(record.Activate(ROOT, b"script", consumers)).reason is None
    return store


def finish(store: LocalStore, *events, low=(0, 0), verdict=FINISH_DONE, epoch=1, **more):
    proposal = record.Finish(ROOT, b"one", epoch, list(events), verdict, low, **more)
    return store.propose(proposal).reason


def rows(store: LocalStore) -> dict[str, object]:
    deliveries = store.deliveries
    return {
        "consumers": [(base, name, repr(one)) for base, name, one in deliveries.consumers()],
        "definitions": deliveries.definitions(ROOT, b"one"),
        "done": deliveries.done(ROOT, b"one"),
        "rearmed": deliveries.rearmed(ROOT, b"one"),
        "letters": deliveries.letters(ROOT, b"one"),
        "attempts": {k: repr(v) for k, v in deliveries.attempts(ROOT, b"one").items()},
        "state": deliveries.state(ROOT, b"one", "key"),
        "epoch": deliveries.epoch(),
        "children": sorted(name for name, _ in store.children(ROOT)),
    }


def test_effects_and_done_are_one(store):
    make = record.Create(ROOT, b"out", store.allocate_inode(), REGULAR, 0, 0)
    assert finish(store, (10, 0), records=[make], states=[("key", b"1")]) is None
    assert store.binding(ROOT, b"out") is not None
    assert store.deliveries.done(ROOT, b"one") == [(10, 0)]
    assert store.deliveries.state(ROOT, b"one", "key") == b"1"
    again = record.Create(ROOT, b"twice", store.allocate_inode(), REGULAR, 0, 0)
    assert finish(store, (11, 0), (10, 0), records=[again], states=[("key", b"2")]) is (
        Reason.CONDITION_FAILED
    )
    assert store.binding(ROOT, b"twice") is None
    assert store.deliveries.done(ROOT, b"one") == [(10, 0)]
    assert store.deliveries.state(ROOT, b"one", "key") == b"1"


def test_the_mark_takes_up_what_is_done_below_it(store):
    for at in (10, 12, 14):
        assert finish(store, (at, 0)) is None
    assert finish(store, (11, 0), low=(12, 80)) is None
    assert store.deliveries.done(ROOT, b"one") == [(14, 0)]
    consumer = store.deliveries.consumer(ROOT, b"one")
    assert (consumer.low_timestamp, consumer.low_address, consumer.done) == (12, 80, 4)
    for at in (10, 11, 12, 5):
        assert finish(store, (at, 0)) is Reason.CONDITION_FAILED
    assert finish(store, (13, 0), low=(3, 8)) is None  # a mark never goes back
    assert store.deliveries.consumer(ROOT, b"one").low_timestamp == 12


def test_an_old_epoch_and_an_unknown_consumer_are_refused(store):
    assert store.propose(record.Adopt(2)).reason is None
    assert store.propose(record.Adopt(2)).reason is Reason.CONDITION_FAILED
    assert finish(store, (10, 0), epoch=1) is Reason.CONDITION_FAILED
    assert store.propose(
        record.Attempt(ROOT, b"one", 1, [(10, 0)], 1, 5, b"")
    ).reason is Reason.CONDITION_FAILED  # fmt: skip
    assert store.propose(record.Advance(1, [(ROOT, b"one", 9, 9)])).reason is (
        Reason.CONDITION_FAILED
    )
    nobody = record.Finish(ROOT, b"nobody", 2, [(10, 0)], FINISH_DONE, (0, 0))
    assert store.propose(nobody).reason is Reason.CONDITION_FAILED
    assert finish(store, (10, 0), epoch=2) is None


@pytest.mark.parametrize(("number", "expected"), [(0, None), (1, Reason.CONDITION_FAILED)])
def test_a_condition_on_a_name_that_is_not_there(store, number, expected):
    assert finish(store, (10, 0), conditions=[(ROOT, b"f", number)]) is expected


def test_a_condition_on_a_version(store):
    inode = store.allocate_inode()
    store.propose(record.Create(ROOT, b"f", inode, REGULAR, 0, 0))
    for _ in range(3):
        store.propose(record.Commit(inode, 0, 0, [], 0, 0))
    assert finish(store, (10, 0), conditions=[(ROOT, b"f", 2)]) is Reason.CONDITION_FAILED
    assert finish(store, (10, 0), conditions=[(ROOT, b"f", 3)]) is None
    store.propose(record.Unlink(ROOT, b"f"))
    assert finish(store, (11, 0), conditions=[(ROOT, b"f", 4)]) is Reason.CONDITION_FAILED
    assert finish(store, (11, 0), conditions=[(ROOT, b"f", 0)]) is None


def test_attempts_letters_and_doing_it_again(store):
    assert store.propose(record.Attempt(ROOT, b"one", 1, [(10, 0)], 2, 77, b"why")).reason is None
    (attempted,) = store.deliveries.attempts(ROOT, b"one").values()
    assert (attempted.attempts, attempted.not_before_ms, attempted.failure) == (2, 77, b"why")
    assert finish(store, (10, 0), low=(20, 8), verdict=FINISH_DEAD, letter=b"letter") is None
    assert store.deliveries.attempts(ROOT, b"one") == {}
    assert store.deliveries.letter(ROOT, b"one", (10, 0)) == b"letter"
    assert finish(store, (10, 0)) is Reason.CONDITION_FAILED
    assert store.propose(record.Rearm(ROOT, b"one", [(10, 0)], again=True)).reason is None
    assert store.deliveries.rearmed(ROOT, b"one") == {(10, 0): (b"letter", False)}
    assert store.propose(record.Rearm(ROOT, b"one", [(10, 0)], again=True)).reason is Reason.ABSENT
    assert finish(store, (10, 0)) is None  # though the mark is above it
    assert store.deliveries.rearmed(ROOT, b"one") == {}
    assert finish(store, (10, 0)) is Reason.CONDITION_FAILED
    consumer = store.deliveries.consumer(ROOT, b"one")
    assert (consumer.done, consumer.dead, consumer.retries) == (1, 1, 1)


def test_doing_it_again_as_it_was(store):
    assert finish(store, (10, 0), verdict=FINISH_DEAD, letter=b"letter") is None
    again = record.Rearm(ROOT, b"one", [(10, 0)], again=True, as_was=True)
    assert store.propose(again).reason is None
    assert store.deliveries.rearmed(ROOT, b"one") == {(10, 0): (b"letter", True)}
    assert finish(store, (10, 0), verdict=FINISH_DEAD, letter=b"letter 2") is None
    assert store.deliveries.letter(ROOT, b"one", (10, 0)) == b"letter 2"


def test_forgetting_a_letter(store):
    assert finish(store, (10, 0), verdict=FINISH_DEAD, letter=b"letter") is None
    assert store.propose(record.Rearm(ROOT, b"one", [(10, 0)], again=False)).reason is None
    assert store.deliveries.letters(ROOT, b"one") == []
    assert finish(store, (10, 0)) is Reason.CONDITION_FAILED


def test_an_owner_has_the_consumers_it_said_last(store):
    store.propose(record.Activate(ROOT, b"other", [(b"two", b"x", 5, 8)]))
    store.propose(record.Activate(ROOT, b"script", [(b"three", b"y", 0, 0)]))
    active = {name: one.active for _, name, one in store.deliveries.consumers(ROOT)}
    assert active == {b"one": False, b"two": True, b"three": True}
    assert [row for _, row in store.deliveries.definitions(ROOT, b"one")] == [b"", b"definition"]
    assert finish(store, (10, 0)) is None  # what is pending stays so
    store.propose(record.Activate(ROOT, b"script", [(b"one", b"again", 99, 99)]))
    assert store.deliveries.consumer(ROOT, b"one").low_timestamp == 0  # it goes on where it was
    assert store.propose(record.Activate(12345, b"s", [])).reason is Reason.ABSENT


def test_the_log_read_again_gives_the_same(store, disk):
    inode = store.allocate_inode()
    finish(store, (10, 0), records=[record.Create(ROOT, b"a", inode, REGULAR, 0, 0)])
    finish(store, (10, 0))
    finish(store, (11, 0), verdict=FINISH_SKIPPED)
    finish(store, (12, 0), verdict=FINISH_DEAD, letter=b"l")
    finish(store, (13, 1), verdict=FINISH_DEAD, letter=b"m", states=[("key", b"s")])
    store.propose(record.Rearm(ROOT, b"one", [(12, 0)], again=True))
    store.propose(record.Attempt(ROOT, b"one", 1, [(14, 0)], 1, 5, b"x"))
    store.propose(record.Advance(1, [(ROOT, b"one", 11, 80)]))
    before = rows(store)
    assert rows(opened(disk)) == before


def test_the_stream_gives_each_record_once_from_any_place(store):
    told = []
    store.listen(lambda timestamp, address, one: told.append((timestamp, address, one)))
    for at in range(10, 40):
        finish(store, (at, 0))
    store.listen(None)
    finish(store, (50, 0))
    assert [tuple(one) for one in store.committed()][-31:-1] == told
    timestamp, address, one = told[17]
    assert store.committed_at(address) == (timestamp, address, one)
    assert [tuple(x) for x in store.committed(address)][: len(told) - 17] == told[17:]
    assert [tuple(x) for x in store.committed(address, timestamp)][: len(told) - 18] == told[18:]
    assert store.address_of_time(timestamp) <= address
    found = next(store.committed(store.address_of_time(timestamp), timestamp))
    assert tuple(found) == told[18]
