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
from storage.disk import MemoryDisk
from storage.index import LmdbIndex
from storage.membership.values import View
from storage.transport import Identity, IdMap, IdRange, Role
from tests.storage.cluster.orders import TickingClock, clients, make_orders

ROOT = IdMap((IdRange(0, 0, 1),))
PROGRAM = Identity("tree", Role.CLIENT, "program", ROOT, ROOT)
DIRECTORY = 0o40755


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
    programs = Programs(faces, clock, View)
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
