"""A mount's link: whatever nodes come and go, a face sees every record once, in order, and its own take effect once.

Method: three real nodes over the memory transport in another thread; faces and stores here, on the real clock.
"""

from __future__ import annotations

import threading

import pytest

from storage import record, wire
from storage.attributes import REGULAR
from storage.extents import DirtyMap
from storage.limits import CHUNK_BYTES
from storage.link.line import RemoteLine
from storage.link.payloads import Payloads
from storage.namespace import ROOT
from storage.sequencer import START, Sequenced, Unavailable
from storage.table import MemoryTable
from tests.storage.link.conftest import WorldClock


def make(store, name: bytes) -> int:
    inode = store.allocate_inode(ROOT)
    assert store.propose(record.Create(ROOT, name, inode, REGULAR | 0o644, 1, 2)).reason is None
    return inode


def save(store, inode: int, data: bytes) -> None:
    dirty = DirtyMap()
    dirty.write(0, data)
    assert store.commit(inode, dirty, len(data), 0, 0, 0).reason is None


def contents(store, inode: int) -> bytes:
    attributes = store.attributes(inode)
    return bytes(store.read(inode, attributes, None, 0, attributes.size))


def wait_for(store, condition) -> None:
    """Follow until something is so."""
    for face in store.faces.values():
        while not condition():
            face._advance(0.05)


def test_what_one_mount_commits_another_reads(cluster) -> None:
    one, two = cluster.mount("m1"), cluster.mount("m2")
    inode = make(one, b"f")
    save(one, inode, b"small")
    wait_for(two, lambda: two.head(ROOT, b"f") == 1)
    assert contents(two, inode) == b"small"
    large = bytes(range(256)) * 8192  # 2 MiB, staged
    dirty = DirtyMap()
    for extent in two.stage(inode, 0, large):
        dirty.place(*extent)
    assert two.commit(inode, dirty, len(large), 0, 0, 0).reason is None
    wait_for(one, lambda: one.head(ROOT, b"f") == 2)
    assert contents(one, inode) == large
    two._clock = WorldClock(cluster.clock.offset_ns + 10**13)
    now = two.now()
    assert now <= one.now(), "a clock that is hours ahead is not believed"
    save(one, inode, b"later")
    assert two.settle(now)
    _, then = two.attributes_at(inode, now)
    assert bytes(two.read(inode, then, now, CHUNK_BYTES, 100)) == large[CHUNK_BYTES:][:100]


@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_node_that_dies_is_a_pause(cluster, victim) -> None:
    one = cluster.mount("m1")
    inode = make(one, b"f")
    epoch = cluster.world.epoch()
    others = [name for name in epoch.members if name != epoch.leader]
    name = epoch.leader if victim == "leader" else others[0]
    done: list[int] = []

    def write() -> None:
        for number in range(60):
            save(one, inode, b"%d" % number)
            done.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    while len(done) < 10:
        writer.join(0.01)
    cluster.run(cluster.world.kill, name)
    writer.join()
    assert done == list(range(60))
    assert one.head(ROOT, b"f") == 60, "each once"
    two = cluster.mount("m2")
    assert two.head(ROOT, b"f") == 60
    assert contents(two, inode) == b"59"


def test_reading_goes_on_at_another_member(cluster) -> None:
    one, two = cluster.mount("m1"), cluster.mount("m2")
    inode = make(one, b"f")
    save(one, inode, b"x" * 5000)
    wait_for(two, lambda: two.head(ROOT, b"f") == 1)
    source = two.faces[0]._sequencer._fetch.__self__._shards[0].source.peer.name
    cluster.run(cluster.world.kill, source)
    assert contents(two, inode) == b"x" * 5000


def test_a_table_goes_on_where_it_was(cluster) -> None:
    table = MemoryTable()
    link = cluster.link("m1")
    one = cluster.face(link, table=table)
    inode = one.allocate_inode()
    assert one.propose(record.Create(ROOT, b"f", inode, REGULAR, 1, 2)).reason is None
    one.publish()
    at = one.applied_index
    two = cluster.mount("m2")
    save(two, inode, b"meanwhile")
    again = cluster.face(cluster.link("m3"), table=table)
    assert again.applied_index > at
    assert again.namespace.head(ROOT, b"f") == 1


def test_a_pause_of_the_whole_cluster_ends_with_it_or_with_patience(cluster) -> None:
    one = cluster.mount("m1")
    inode = make(one, b"f")
    epoch = cluster.world.epoch()
    for name in epoch.members:
        cluster.run(cluster.world.stop, name)
    results: list[object] = []

    def write(text: bytes) -> None:
        try:
            save(one, inode, text)
            results.append("saved")
        except Unavailable:
            results.append("given up")

    writer = threading.Thread(target=write, args=(b"waited",))
    writer.start()
    writer.join(0.3)
    assert not results
    cluster.run(cluster.world.start)
    writer.join()
    assert results == ["saved"]
    assert contents(one, inode) == b"waited"
    for name in epoch.members:
        cluster.run(cluster.world.stop, name)
    writer = threading.Thread(target=write, args=(b"in vain",))
    writer.start()
    writer.join(0.2)
    one.faces[0]._sequencer.close()
    writer.join()
    assert results == ["saved", "given up"]


def test_a_line_is_not_waited_for_when_others_have_taken_what_came() -> None:
    line = RemoteLine(
        0,
        1,
        1,
        Payloads(1),
        kick=lambda line: None,
        fetch=lambda line, address, offset, length: memoryview(b""),
        ask_index=lambda line: 0,
        fetch_snapshot=lambda line: None,
        new_client=lambda: 2,
    )
    line.follow(START)
    came = Sequenced(1, 1, 4096, 1, 2, 1, b"x")
    line.receive(line.generation, wire.Records(0, [came], 0, 0, 1))
    assert line.take(0.0) == [came]
    waits = threading.Thread(target=line.wait_more, args=(0, 1000.0), daemon=True)
    waits.start()
    waits.join(30)
    assert not waits.is_alive()
    waits = threading.Thread(target=line.wait_more, args=(1, 1000.0), daemon=True)
    waits.start()
    line.receive(line.generation, wire.Records(0, [came._replace(index=2)], 0, 0, 2))
    waits.join(30)
    assert not waits.is_alive(), "there is more to take"
