"""Many shards are one tree: for whoever asks, for whoever changes something, and at every instant of the past.

Method: two or three stores over the same orders in memory, as if each were a mount; what one does is looked at through
another. The cut is tried with one writer that marks every shard with the same tick, and readers at random times.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from storage import record
from storage.attributes import DIRECTORY, REGULAR
from storage.cluster.store import ClusterStore
from storage.errors import Reason, Refused
from storage.extents import DirtyMap
from storage.namespace import ROOT, shard_of
from storage.namespace.keys import HOME_XATTR as HOME
from tests.storage.cluster.orders import TickingClock, make_orders, make_store

if TYPE_CHECKING:
    from storage.store import Store

SHARDS = 3


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def orders(clock):
    return make_orders(SHARDS, clock)


def by_letter(path: bytes) -> int | None:
    """Directories of the root live where their last digit says, others with their parent."""
    return None if b"/" in path or not path[-1:].isdigit() else int(path[-1:])


@pytest.fixture
def make(orders, clock):
    return lambda **options: make_store(orders, clock, **{"choose": by_letter} | options)


def create(store: ClusterStore, directory: int, name: bytes, mode: int = REGULAR | 0o644) -> int:
    inode = store.allocate_inode(directory, name, mode)
    outcome = store.propose(record.Create(directory, name, inode, mode, 1, 2))
    assert outcome.reason is None
    return inode


def mkdir(store: ClusterStore, directory: int, name: bytes) -> int:
    return create(store, directory, name, DIRECTORY | 0o755)


def save(store: ClusterStore, inode: int, data: bytes):
    dirty = DirtyMap()
    dirty.write(0, data)
    return store.commit(inode, dirty, len(data), 0, 0, 0)


def contents(store: ClusterStore, inode: int, timestamp: int | None = None) -> bytes:
    if timestamp is None:
        attributes = store.attributes(inode)
    else:
        _, attributes = store.attributes_at(inode, timestamp)
    return bytes(store.read(inode, attributes, timestamp, 0, attributes.size))


def tree(store: ClusterStore, directory: int = ROOT, timestamp: int | None = None) -> dict:
    entries = (
        store.children(directory) if timestamp is None else store.children_at(directory, timestamp)
    )
    return {
        name: tree(store, binding.inode, timestamp)
        if binding.mode == DIRECTORY
        else contents(store, binding.inode, timestamp)
        for name, binding in list(entries)
    }


def test_it_is_a_store(make) -> None:
    store: Store = make()
    assert store.attributes(ROOT) is not None


def test_a_directory_and_what_is_in_it_live_together(make) -> None:
    one, two = make(), make()
    d1, d2 = mkdir(one, ROOT, b"d1"), mkdir(one, ROOT, b"d2")
    below = mkdir(one, d1, b"below")
    f = create(one, below, b"f")
    save(one, f, b"here")
    g = create(one, d2, b"g")
    save(one, g, b"there")
    assert [shard_of(n) for n in (d1, d2, below, f, g)] == [1, 2, 1, 1, 2]
    two.catch_up()
    assert tree(two) == {b"d1": {b"below": {b"f": b"here"}}, b"d2": {b"g": b"there"}}
    assert two.attributes(ROOT).nlink == 4
    assert two.attributes(d1).nlink == 3
    assert two.attributes(d1).parent == ROOT
    assert two.path_of(below) == b"d1/below"
    assert two.names_at(d1) == [(ROOT, b"d1")]
    assert two.is_below(below, ROOT)
    assert two.is_below(below, d1)
    assert not two.is_below(below, d2)
    assert two.counters.live_inodes == 6
    assert two.counters.live_bytes == 9


def test_what_would_be_two_changes_is_none(make) -> None:
    store = make()
    d1, d2 = mkdir(store, ROOT, b"d1"), mkdir(store, ROOT, b"d2")
    f = create(store, d1, b"f")
    for proposal in (
        record.Rename(d1, b"f", d2, b"f"),
        record.Rename(d1, b"f", ROOT, b"f"),
        record.Link(d2, b"f", f),
        record.Create(d2, b"x", f + 100, REGULAR, 0, 0),
        record.Batch([record.Unlink(d1, b"f"), record.Unlink(d2, b"f")]),
        record.Batch([record.Create(ROOT, b"x", store.allocate_inode(d1), DIRECTORY, 0, 0)]),
        record.Batch([record.Unlink(ROOT, b"d1", directory=True)]),
        record.Rename(ROOT, b"d1", ROOT, b"d2"),
    ):
        assert store.propose(proposal).reason is Reason.CROSS_SHARD, proposal
    dirty = DirtyMap()
    dirty.write(0, b"x")
    outcome = store.commit(f, dirty, 1, None, 0, 0, before=[record.Expect(d2, b"f", 0, 0)])
    assert outcome.reason is Reason.CROSS_SHARD
    assert tree(store) == {b"d1": {b"f": b""}, b"d2": {}}


def test_a_shard_root_is_renamed_where_its_name_is_and_found_from_below(make) -> None:
    one, two = make(), make()
    d1 = mkdir(one, ROOT, b"d1")
    inner = mkdir(one, ROOT, b"inner")
    f = create(one, d1, b"f")
    before = one.now()
    assert one.propose(record.Rename(ROOT, b"d1", inner, b"moved")).reason is None
    two.catch_up()
    assert two.path_of(d1) == b"inner/moved"
    assert two.attributes(d1).parent == inner
    assert two.attributes_at(d1, before)[1].parent == ROOT
    assert two.attributes_row(d1)[1].parent == inner
    assert two.names_at(d1, before) == [(ROOT, b"d1")]
    assert two.is_below(f, inner)


def test_a_directory_stays_in_its_region_so_no_two_renames_can_make_a_ring(make) -> None:
    one, two = make(), make()
    a = mkdir(one, ROOT, b"a")
    one.propose(record.SetXattr(a, HOME, b"1"))
    b = mkdir(one, a, b"b")
    one.propose(record.SetXattr(b, HOME, b"2"))
    x = mkdir(one, b, b"x")
    one.propose(record.SetXattr(x, HOME, b"0"))
    c = mkdir(one, x, b"c")
    assert [shard_of(n) for n in (a, b, x, c)] == [0, 1, 2, 0]
    two.catch_up()
    # Both are of shard 0, whose table cannot see that c lies below a: the way leads through others.
    assert two.propose(record.Rename(ROOT, b"a", c, b"a")).reason is Reason.CROSS_SHARD
    f = create(two, c, b"f")
    assert two.propose(record.Rename(c, b"f", ROOT, b"f")).reason is None, "a file may"
    assert shard_of(f) == 0
    assert tree(two) == {b"a": {b"b": {b"x": {b"c": {}}}}, b"f": b""}


def test_a_shard_root_is_removed_when_it_is_empty_whoever_is_quick(make) -> None:
    one, two = make(), make()
    d1 = mkdir(one, ROOT, b"d1")
    two.catch_up()
    create(two, d1, b"f")
    assert one.propose(record.Unlink(ROOT, b"d1", directory=True)).reason is Reason.NOT_EMPTY
    assert one.propose(record.Unlink(d1, b"f")).reason is None
    assert one.propose(record.Unlink(ROOT, b"d1")).reason is Reason.IS_A_DIRECTORY
    then = one.now()
    assert one.propose(record.Unlink(ROOT, b"d1", directory=True)).reason is None
    # Two has not heard of it, and looks at a directory that is there.
    inode = two.allocate_inode(d1)
    assert two.propose(record.Create(d1, b"late", inode, REGULAR, 0, 0)).reason is Reason.ABSENT
    two.catch_up()
    assert tree(two) == {}
    assert tree(two, ROOT, then) == {b"d1": {}}
    assert two.counters.live_inodes == 1
    again = mkdir(two, ROOT, b"d1")
    assert again != d1
    assert two.head(ROOT, b"d1") == 3


@pytest.mark.parametrize("step", ["name", "close"])
def test_what_was_half_done_is_finished_by_whoever_meets_it(make, orders, step) -> None:
    one, two = make(), make()
    if step == "name":
        inode = one.allocate_inode(ROOT, b"d1", DIRECTORY | 0o755)
        root = record.Create(ROOT, b"", inode, DIRECTORY | 0o755, 0, 0)
        assert one.faces[1].propose(root).reason is None  # and then it is killed
        mkdir(two, ROOT, b"d1")
        assert tree(two) == {b"d1": {}}
        return
    d1 = mkdir(one, ROOT, b"d1")
    assert one.faces[1].propose(record.Close(d1)).reason is None  # and then it is killed
    two.catch_up()
    assert mkdir(two, ROOT, b"d1") != d1
    assert tree(two) == {b"d1": {}}
    d2 = mkdir(two, ROOT, b"d2")
    assert two.faces[2].propose(record.Close(d2)).reason is None
    assert two.propose(record.Unlink(ROOT, b"d2", directory=True)).reason is None
    assert tree(two) == {b"d1": {}}


def test_a_name_that_is_taken_leaves_no_home_behind(make) -> None:
    one, two = make(), make()
    mkdir(one, ROOT, b"d1")
    inode = two.allocate_inode(ROOT, b"d1", DIRECTORY | 0o755)
    outcome = two.propose(record.Create(ROOT, b"d1", inode, DIRECTORY | 0o755, 0, 0))
    assert outcome.reason is Reason.EXISTS
    assert two.attributes(inode).nlink == 0
    assert two.counters.live_inodes == 2


def test_who_says_so_chooses_the_home(make) -> None:
    store = make()
    d = mkdir(store, ROOT, b"d")
    store.propose(record.SetXattr(d, HOME, b"2"))
    assert shard_of(mkdir(store, d, b"x")) == 2
    for nonsense in (b"7", b"x", b"-1"):
        store.propose(record.SetXattr(d, HOME, nonsense))
        with pytest.raises(Refused):
            store.allocate_inode(d, b"y", DIRECTORY | 0o755)
    assert shard_of(store.allocate_inode(d, b"y", REGULAR)) == 0


def test_a_shard_that_is_not_here_yet_is_brought(orders, clock, make) -> None:
    from storage.clock import HybridClock
    from tests.storage.cluster.orders import make_face

    one = make()
    d1 = mkdir(one, ROOT, b"d1")
    create(one, d1, b"f")
    hybrid = HybridClock()
    found: list[int] = []

    def find(shard: int):
        found.append(shard)
        return make_face(orders[shard], clock, hybrid)

    two = ClusterStore([make_face(orders[0], clock, hybrid)], clock, hybrid, find=find)
    assert [name for name, _ in two.children(ROOT)] == [b"d1"]
    assert tree(two) == {b"d1": {b"f": b""}}
    assert found == [1]
    lonely = ClusterStore([make_face(orders[0], clock)], clock, HybridClock())
    with pytest.raises(OSError, match="shard 1"):
        lonely.attributes(d1)
    assert lonely.attributes(2**50) is None


def test_quotas_count_what_lives_with_their_directory(make) -> None:
    store = make()
    d = mkdir(store, ROOT, b"d")
    store.propose(record.SetXattr(d, HOME, b"1"))
    inside, elsewhere = create(store, d, b"f"), mkdir(store, d, b"x")
    store.propose(record.SetXattr(d, b"user.cascade.quota", b"1K"))
    save(store, inside, bytes(100))
    save(store, create(store, elsewhere, b"g"), bytes(1000))
    assert store.quotas.some
    assert store.quotas.account(d) == (100, 1024)
    assert store.quotas.room(d) == 924
    assert store.quotas.room(elsewhere) is None


def test_the_journal_is_that_of_all_shards_newest_first(make) -> None:
    store = make()
    directories = [mkdir(store, ROOT, b"d%d" % n) for n in range(SHARDS)]
    for directory in directories:
        create(store, directory, b"f")
    found = list(store.journal())
    assert [at for at, _ in found] == sorted((at for at, _ in found), reverse=True)
    assert [touched for _, touched in found][:3] == [[d] for d in reversed(directories)]


def test_what_follows_from_something_is_later_on_every_shard(orders, clock, make) -> None:
    one, two = make(), make()
    d1, d2 = mkdir(one, ROOT, b"d1"), mkdir(one, ROOT, b"d2")
    orders[1]._hybrid.observe(
        clock.at // 1000 + 5_000_000
    )  # Its leader's clock is five seconds ahead.
    create(one, d1, b"cause")
    two.catch_up()
    create(two, d2, b"effect")
    (cause,) = [at for at, _ in orders_of(orders[1], b"cause")]
    (effect,) = [at for at, _ in orders_of(orders[2], b"effect")]
    assert effect > cause


def orders_of(order, name: bytes) -> list[tuple[int, bytes]]:
    decoded = [(one.timestamp, record.decode(one.metadata)) for one in order.records]
    return [(at, said.name) for at, said in decoded if getattr(said, "name", b"") == name]


@pytest.mark.parametrize("seed", range(3))
def test_an_instant_is_one_cut_through_all_shards(orders, clock, make, seed) -> None:
    writer, reader = make(), make()
    files = [create(writer, mkdir(writer, ROOT, b"d%d" % shard), b"f") for shard in range(SHARDS)]
    random = Random(seed)
    ticks: list[int] = []
    for tick in range(60):
        for file in files:
            assert save(writer, file, b"%d" % tick).reason is None
        ticks.append(writer.now())
        if random.random() < 0.3:
            clock.at += random.randrange(10**7)
        at = random.choice(ticks)
        assert reader.settle(at)
        seen = {contents(reader, file, at) for file in files}
        assert seen == {b"%d" % ticks.index(at)}, "one tick only"
    first = tree(reader, ROOT, ticks[7])
    save(writer, files[0], b"later")
    reader.catch_up()
    assert tree(reader, ROOT, ticks[7]) == first


def test_a_time_that_a_shard_has_not_passed_is_not_answered(orders, clock, make) -> None:
    store = make()
    orders[2].pause()
    clock.at += 10**9
    for ask in (lambda: store.settle(clock.at // 1000), store.now):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.reason is Reason.NOT_STABLE_YET
    orders[2].resume()
    assert store.settle(clock.at // 1000)
    assert not store.settle(clock.at // 1000 + 10**9), "the future is nobody's"


async def test_durability_is_that_of_every_shard(make) -> None:
    store = make()
    mkdir(store, ROOT, b"d1")
    assert not store.unsynced()
    await store.wait_durable()
