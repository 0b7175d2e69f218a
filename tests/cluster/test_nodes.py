"""Goal: nodes keep a shard between them whatever ends, and everybody who follows it sees the same.

Method: nodes in one process over the memory transport, on a clock that jumps (`tests.cluster.world`).
"""

import pytest
import trio

from storage import wire
from storage.sequencer import Rejected
from tests.cluster.world import Proposer


def texts(records):
    return [record.metadata for record in records]


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_three_nodes_begin_a_shard_and_keep_one_log(in_world, durability):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposers = [Proposer(node) for node in world.nodes.values()]
        for proposer in proposers:
            proposer.propose(50)
        for proposer in proposers:
            await proposer.wait()
        await world.wait_same()
        for proposer in proposers:
            await trio.sleep(1)
            assert texts(proposer.own()) == [b"m%d" % n for n in range(1, 51)]
            assert [r.index for r in proposer.seen] == list(range(1, len(proposer.seen) + 1))
            for record in proposer.own():
                assert proposer.payload(record) == b"p%d" % record.number
        assert proposers[0].seen == proposers[1].seen == proposers[2].seen
        assert len(proposers[0].seen) > 150
        assert all(
            node.members[0].frontier.index == len(proposers[0].seen)
            for node in world.nodes.values()
        )

    in_world(scenario, durability=durability)


@pytest.mark.parametrize("how", ["stop", "kill", "power_cut"])
def test_a_leader_that_ends_under_load_loses_nothing_and_doubles_nothing(in_world, how):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        survivors = [name for name in epoch.members if name != epoch.leader]
        proposers = [Proposer(world.nodes[name]) for name in survivors]
        for proposer in proposers:
            proposer.propose(20)
        await trio.sleep(0.001)
        for proposer in proposers:
            proposer.propose(20)
        await getattr(world, how)(epoch.leader)
        for proposer in proposers:
            proposer.propose(20)
        for proposer in proposers:
            await proposer.wait()
        assert world.epoch().epoch > epoch.epoch
        for proposer in proposers:
            assert texts(proposer.own()) == [b"m%d" % n for n in range(1, 61)]
        await world.start(epoch.leader)
        await world.wait_members()
        await world.wait_same()
        back = Proposer(world.nodes[epoch.leader])
        back.propose(1)
        await back.wait()
        for proposer in proposers:
            await trio.sleep(1)
            assert proposer.look() == back.look()

    in_world(scenario)


def test_a_leader_cut_off_from_the_others_drops_what_only_it_has(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        old = Proposer(world.leader())
        old.propose(5)
        await old.wait()
        others = [name for name in epoch.members if name != epoch.leader]
        world.cut_off(epoch.leader)
        old.propose(30)
        await trio.sleep(0.2)
        mark = world.leader().members[0]
        assert mark.log.last_index > mark.committed
        new = Proposer(world.nodes[others[0]])
        new.propose(10)
        await new.wait()
        assert epoch.leader not in world.epoch().members
        world.mend()
        await old.wait()  # They are proposed again, to the new leader.
        assert texts(old.own()) == [b"m%d" % n for n in range(1, 36)]
        await world.wait_members()
        await world.wait_same()
        assert world.nodes[epoch.leader].members[0].counts["cut"] >= 30

    in_world(scenario)


def test_a_wiped_node_is_filled_and_comes_back_by_itself(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(64, payload=b"x" * 50_000)
        await proposer.wait()
        victim = next(name for name in epoch.members if name != epoch.leader)
        await world.kill(victim)
        world.wipe(victim)
        proposer.propose(10)
        await proposer.wait()
        await world.start(victim)
        await world.wait_members()
        proposer.propose(10)
        await proposer.wait()
        await world.wait_same()

    in_world(scenario)


def test_what_a_filled_node_holds_of_condensed_segments_is_condensed_too(in_world):
    async def scenario(world):
        await world.start("n1")
        await world.wait_members("n1")
        proposer = Proposer(world.nodes["n1"])
        proposer.propose(60, payload=b"x" * 250_000)
        await proposer.wait()
        proposer.propose(30, payload=b"x" * 250_000)
        await proposer.wait()
        member = world.nodes["n1"].members[0]
        dead = frozenset(r.address for r in proposer.own() if r.number % 3)
        (sealed,) = member.log.sealed()
        assert member.log.condense(sealed, dead, 1)
        await world.start("n2", "n3")
        await world.wait_members()
        proposer.propose(5)
        await proposer.wait()
        log = world.nodes["n2"].members[0].log
        assert [f.address for f in log.frames()] == [f.address for f in member.log.frames()]
        kept = [r for r in proposer.own() if not r.number % 3]
        for record in kept:
            assert log.payload(log.frame(record.address)) is not None
        await trio.sleep(5)
        assert not log.left_out
        assert log.segment_size(sealed) == member.log.segment_size(sealed)

    in_world(scenario)


def test_members_that_lost_power_together_go_on_with_who_has_most(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(10)
        await proposer.wait()
        await trio.sleep(3)  # All three have synced by now.
        proposer.propose(10)
        await proposer.wait()
        for name in list(world.nodes):
            await world.power_cut(name)
        world.boots += 1
        await world.start()
        await world.wait_members(seconds=120)
        after = Proposer(world.leader())
        after.propose(1)
        await after.wait()
        await world.wait_same()
        client = proposer.line.client
        kept = [r.number for r in after.look() if r.client == client]
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) >= 10

    in_world(scenario, durability="memory")


def test_nodes_that_are_killed_together_lose_nothing(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(25)
        await proposer.wait()
        client = proposer.line.client
        for name in list(world.nodes):
            await world.kill(name)
        await world.start()
        await world.wait_members()
        after = Proposer(world.leader())
        after.propose(1)
        await after.wait()
        assert [r.number for r in after.look() if r.client == client] == list(range(1, 26))
        await world.wait_same()

    in_world(scenario, durability="memory")


def test_a_flipped_byte_is_put_back_by_scrub_and_by_who_reads_it(in_world):
    async def scenario(world):
        world.options.update(scrub_bytes_per_s=2**24, scrub_rest_s=5)
        await world.start()
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(20, payload=b"x" * 5000)
        await proposer.wait()
        victim = next(name for name in epoch.members if name != epoch.leader)
        node = world.nodes[victim]
        member = node.members[0]
        await world.wait_same()
        records = proposer.own()
        for record, where in ((records[3], 60), (records[7], 3000), (records[11], 10)):
            number, offset = divmod(record.address, member.log.segment_bytes)
            world.disk(victim).rot(f"log/{number:016x}.seg", offset + where, 0x10)
        observer = await world.observer(victim)
        await observer.say(wire.ReadPayload(7, 0, records[7].address, 10, 20))
        await observer.until(lambda: observer.of(wire.Answer))
        answer, parts = next(it for it in observer.heard if isinstance(it[0], wire.Answer))
        assert (answer.errno, bytes(parts[0])) == (0, b"x" * 20)
        with trio.fail_after(100):
            while node.mender.status(0)["mended"] < 3:
                await trio.sleep(1)
        await world.wait_same()

    in_world(scenario)


def test_a_member_whose_disk_is_full_is_left_out_and_comes_back_when_there_is_room(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(1)
        await proposer.wait()
        victim = next(name for name in epoch.members if name != epoch.leader)
        disk = world.disk(victim)
        disk.capacity_bytes = sum(disk.open(f"log/{n}").size() for n in disk.list("log")) + 1024
        world.room[victim] = False
        proposer.propose(60, payload=b"x" * 250_000)
        await proposer.wait()
        proposer.propose(60, payload=b"x" * 250_000)
        await proposer.wait()
        assert victim not in world.epoch().members
        await trio.sleep(60)
        assert victim not in world.epoch().members
        disk.capacity_bytes = None
        world.room[victim] = True
        await world.wait_members(seconds=200)
        await world.wait_same()

    in_world(scenario)


def test_a_full_disk_under_the_leader_refuses_payloads_and_nothing_else(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        for node in world.nodes.values():
            world.room[node.name] = False
        await trio.sleep(3)
        proposer = Proposer(next(n for n in world.nodes.values() if n is not world.leader()))
        proposer.propose(2, payload=b"")
        await proposer.wait()
        proposer.propose(2)
        await trio.sleep(1)
        with pytest.raises(Rejected, match="full") as rejected:
            proposer.look()
        assert rejected.value.number == 3
        proposer.number = 2
        proposer.propose(1, payload=b"")
        await proposer.wait()
        for node in world.nodes.values():
            world.room[node.name] = True
        await trio.sleep(3)
        proposer.propose(1)
        await proposer.wait()
        assert texts(proposer.own()) == [b"m%d" % n for n in range(1, 5)]

    in_world(scenario)


def test_a_shard_with_too_few_members_pauses_and_goes_on(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        gone = [name for name in epoch.members if name != epoch.leader]
        for name in gone:
            await world.kill(name)
        with trio.fail_after(60):
            while len(world.epoch().members) > 1:
                await trio.sleep(0.1)
        await trio.sleep(1)
        proposer = Proposer(world.leader())
        proposer.propose(3)
        await trio.sleep(30)
        assert proposer.own() == []
        await world.start(gone[0])
        await proposer.wait()

    in_world(scenario, replicas_min=2)


def test_how_long_ago_the_final_past_ends_is_said(in_world):
    """What `cluster status`, the page and operators call the lag of the frontier."""

    async def scenario(world):
        await world.start()
        await world.wait_members()

        def lags():
            return {
                name: node.members[0].status()["frontier_lag_ms"]
                for name, node in world.nodes.items()
            }

        await trio.sleep(5)
        assert all(0 <= lag < 1000 for lag in lags().values()), "an idle shard's past goes on"
        leader = world.leader().name
        others = [name for name in world.nodes if name != leader]
        for name in others:
            world.cut_off(name)
        before, lag = trio.current_time(), lags()[others[0]]
        await trio.sleep(7)
        passed_ms = (trio.current_time() - before) * 1000
        for name in others:
            assert lags()[name] >= passed_ms, "who hears nothing knows of nothing final"
        assert lags()[others[0]] - lag == pytest.approx(passed_ms, abs=1000)
        world.mend()
        await world.wait_members()
        await trio.sleep(5)
        assert all(0 <= lag < 1000 for lag in lags().values())

    in_world(scenario)
