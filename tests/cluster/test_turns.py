"""Goal: on a node a shard without a leader keeps nobody waiting but who asks about that shard.

Method: the tables of a node over two shards in memory, of which one has no leader; programs' calls as a connection brings them.
"""

import threading
import time

import pytest
import trio

from cascadefs.client import calls
from cascadefs.node.faces import Faces
from cascadefs.node.programs import Programs
from storage.cluster.loopback import LoopbackSequencer
from storage.disk import MemoryDisk
from storage.extents import DirtyMap
from storage.index import LmdbIndex
from storage.limits import CHUNK_BYTES
from storage.membership.values import View
from storage.transport import Identity, IdMap, IdRange, Role
from tests.storage.cluster.orders import TickingClock, clients, make_face, make_orders

ROOT = IdMap((IdRange(0, 0, 1),))
PROGRAM = Identity("tree", Role.CLIENT, "program", ROOT, ROOT)
DIRECTORY = 0o40755


class Afar(LoopbackSequencer):
    """A line to a shard that other nodes hold: whoever reads lets others have the faces."""

    faces: Faces
    meanwhile = staticmethod(lambda: None)

    def has_heard(self):
        return True

    def read(self, address, offset, length):
        found = bytes(super().read(address, offset, length))

        def fetch():
            meanwhile, self.meanwhile = self.meanwhile, lambda: None
            meanwhile()
            return found

        return memoryview(self.faces.apart(fetch))


@pytest.fixture
def node(tmp_path):
    clock = TickingClock()
    orders = make_orders(2, clock)

    def index_of(shard):
        place = tmp_path / str(shard)
        place.mkdir()
        return LmdbIndex(place)

    disks = {shard: MemoryDisk() for shard in range(2)}
    faces = Faces(disks.__getitem__, index_of, clock, time.monotonic_ns, "boot")
    programs = Programs(faces, clock, View, tmp_path)
    lines = [order.sequencer(next(clients)) for order in orders]
    follower = threading.Thread(target=faces.follow)
    follower.start()
    for line in lines:
        faces.attach(line)
    programs.store._choose = lambda path: int(path[-1:])
    yield orders, programs
    for line in lines:
        line.close()
    faces.stop()
    follower.join()
    faces.close()


async def call(programs, asked, *buffers):
    answer, _ = await programs.call(PROGRAM, calls.encode(asked), buffers)
    return calls.decode_answer(answer)


def put(path):
    return calls.Write([calls.Put(path)], False)


def test_a_shard_without_a_leader_keeps_nobody_from_the_others(node):
    orders, programs = node
    told = []

    async def ask(asked, *buffers):
        told.append(await call(programs, asked, *buffers))

    async def main():
        for shard in range(2):
            assert isinstance(await call(programs, put(f"d{shard}/f"), b"x"), calls.Written)
        orders[1].pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                ask, calls.Get("d1/f")
            )  # waits for the leader to say what is committed
            nursery.start_soon(ask, calls.Instant())  # for the frontier, for two seconds
            nursery.start_soon(ask, put("d1/g"), b"x")
            with trio.fail_after(20):
                while programs.store.turns.resting < 2:
                    await trio.sleep(0.01)
                for number in range(20):
                    assert isinstance(
                        await call(programs, put("d0/f"), b"%d" % number), calls.Written
                    )
                    got = await call(programs, calls.Get("d0/f"))
                    assert got.version.number == number + 2
            assert not [one for one in told if isinstance(one, calls.Got | calls.Written)]
            orders[1].resume()
        kinds = sorted(type(one).__name__ for one in told)
        assert kinds in (["Failed", "Got", "Written"], ["Got", "Now", "Written"])

    trio.run(main)


@pytest.fixture
def afar(node):
    """A shard that other nodes hold, its line, and another face of it."""
    _, programs = node
    order = make_orders(3, TickingClock())[2]
    line = Afar(order, next(clients))
    line.faces = programs._faces
    order._faces.append(line)
    programs._faces.attach_afar(line)
    return line, make_face(order, TickingClock()), programs


BEFORE, AFTER = b"a" * 2 * CHUNK_BYTES, b"b" * 2 * CHUNK_BYTES


def test_a_version_is_read_whole_whatever_others_commit_between_its_pieces(afar):
    line, other, programs = afar

    async def main():
        assert isinstance(await call(programs, put("d2/f"), BEFORE), calls.Written)

        def replace():
            other.catch_up()
            inode = other.namespace.binding(directory, b"f").inode
            dirty = DirtyMap()
            for extent in other.stage(inode, 0, AFTER):
                dirty.place(*extent)
            assert other.commit(inode, dirty, len(AFTER), None, 0, 0).reason is None
            applied = other.applied_index
            with programs._faces.exclusive():
                programs._faces.wait(lambda: programs.store.faces[2].applied_index >= applied)

        directory = programs.store.binding(1, b"d2").inode
        line.meanwhile = replace
        answer, parts = await programs.call(PROGRAM, calls.encode(calls.Get("d2/f")), [])
        assert calls.decode_answer(answer).version.number == 1
        assert b"".join(parts) == BEFORE
        answer, parts = await programs.call(PROGRAM, calls.encode(calls.Get("d2/f")), [])
        assert calls.decode_answer(answer).version.number == 2
        assert b"".join(parts) == AFTER

    trio.run(main)


def test_who_reads_while_a_shard_comes_to_be_here_reads_on(afar):
    line, _, programs = afar

    def leave():
        with programs._faces.exclusive():
            programs._faces.leave_afar(2)

    async def main():
        assert isinstance(await call(programs, put("d2/f"), BEFORE), calls.Written)
        line.meanwhile = leave
        _, parts = await programs.call(PROGRAM, calls.encode(calls.Get("d2/f")), [])
        assert b"".join(parts) == BEFORE

    trio.run(main)


def test_who_signs_once_a_day_keeps_nobody_from_shards_that_have_a_leader(node):
    orders, programs = node

    async def main():
        for shard in range(2):
            assert isinstance(await call(programs, put(f"d{shard}/f"), b"x"), calls.Written)
        orders[1].pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, programs._faces.keep_sessions)
            with trio.fail_after(20):
                while not orders[1]._faces[0].pending:
                    await trio.sleep(0.01)
                assert isinstance(await call(programs, put("d0/f"), b"y"), calls.Written)
            orders[1].resume()

    trio.run(main)
