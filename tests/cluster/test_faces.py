"""Goal: each node's tables show what the shard's log says, go on where they were, and are made again when they cannot.

Method: nodes in one process with indexes in a directory of the test; files made by records, then asked of every face.
"""

import shutil

import pytest
import trio

from cascadefs.node.faces import Faces
from storage.index import LmdbIndex
from storage.record import Create, encode
from tests.cluster.world import Proposer, TrioClock, steady_ns

NAMES = ("n1", "n2", "n3")


def faces_of(world, directory, name):
    def index_of(shard):
        place = directory / name / str(shard)
        place.mkdir(parents=True, exist_ok=True)
        return LmdbIndex(place)

    return Faces(
        lambda shard: world.disk(name, shard),
        index_of,
        TrioClock(),
        steady_ns,
        f"boot{world.boots}",
    )


async def start(world, directory, *names):
    for name in names or NAMES:
        world.options["faces"] = faces_of(world, directory, name)
        await world.start(name)


async def make(proposer, count):
    for _ in range(count):
        proposer.number += 1
        name = b"f%d" % proposer.number
        record = Create(1, name, 100 + proposer.number, 0o100644, 0, 0)
        proposer.line.submit(proposer.number, encode(record), ())
    await proposer.wait()


async def seen(world, name, *, count, seconds=20):
    """The names in a node's root, when the face there has come so far."""
    faces = world.nodes[name].faces
    with trio.fail_after(seconds):
        while True:
            with faces.exclusive() as found:
                if 0 in found:
                    found[0].catch_up()
                    names = [child for child, _ in found[0].namespace.children(1)]
                    if len(names) >= count:
                        return names
            await trio.sleep(0.1)


async def stop(world, name, how):
    faces = world.nodes[name].faces
    if how == "stop":
        faces.close()
    else:
        with faces.exclusive() as found:
            for face in found.values():
                face.publish()
                face.close()
            found.clear()
    await getattr(world, how)(name)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_table_goes_on_where_it_was(in_world, tmp_path, how):
    async def scenario(world):
        await start(world, tmp_path)
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 50)
        for name in NAMES:
            assert len(await seen(world, name, count=50)) == 50
        victim = next(name for name in NAMES if name != epoch.leader)
        await stop(world, victim, how)
        await make(proposer, 10)
        await start(world, tmp_path, victim)
        await world.wait_seat_of(victim)
        # What the table had applied was committed, so it is known to be from the start.
        assert world.nodes[victim].members[0].replica.commit_index >= 50
        await world.wait_members()
        assert len(await seen(world, victim, count=60)) == 60
        await world.wait_same()

    in_world(scenario)


def test_a_table_that_is_gone_is_made_again_from_the_log(in_world, tmp_path):
    async def scenario(world):
        await start(world, tmp_path)
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 50)
        victim = next(name for name in NAMES if name != epoch.leader)
        await seen(world, victim, count=50)
        await stop(world, victim, "kill")
        shutil.rmtree(tmp_path / victim)
        world.disk(victim).unlink("index/boot")
        await start(world, tmp_path, victim)
        await world.wait_members()
        assert len(await seen(world, victim, count=50)) == 50

    in_world(scenario)


def test_a_wiped_node_has_its_table_back_when_it_is_filled(in_world, tmp_path):
    async def scenario(world):
        await start(world, tmp_path)
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 50)
        victim = next(name for name in NAMES if name != epoch.leader)
        await seen(world, victim, count=50)
        await stop(world, victim, "kill")
        world.wipe(
            victim
        )  # The log, the note and the mark; the table's files stay, and are not trusted.
        await start(world, tmp_path, victim)
        await world.wait_members()
        assert len(await seen(world, victim, count=50)) == 50
        await world.wait_same()

    in_world(scenario)
