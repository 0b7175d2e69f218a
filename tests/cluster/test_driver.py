"""Goal: what the driver of a replica does around the core loses nothing and waits for nobody in vain, whatever fails beside it.

Method: nodes in one process, broken at the very place; then what clients and logs say.
"""

import trio

from tests.cluster.test_faces import NAMES, make, seen, start
from tests.cluster.world import Proposer


async def fail_leader(world):
    """The leader's log takes nothing more until it was opened again; all are members in the end."""
    epoch = world.epoch()
    world.leader().members[0].fail("a test")
    with trio.fail_after(60):
        while world.epoch().leader == epoch.leader:
            await trio.sleep(0.1)
    await world.wait_members()
    return epoch.leader


def test_a_leader_whose_log_was_opened_again_knows_how_far_its_clients_are(in_world, tmp_path):
    async def scenario(world):
        await start(world, tmp_path)
        await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 10)
        for name in NAMES:
            await seen(world, name, count=10)
        failed = {await fail_leader(world)}
        while world.epoch().leader not in failed:
            failed.add(await fail_leader(world))
        await make(proposer, 5)
        assert len(await seen(world, world.epoch().leader, count=15)) == 15
        await world.wait_same()

    in_world(scenario)
