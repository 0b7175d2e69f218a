"""An etcd that is away, forgets, lies or loses answers, and what an authority makes of it.

Goal: trouble with etcd is a state, not an exception in somebody's task; a lease is never believed longer than etcd keeps it; no view
has a gap. Method: the model of etcd on trio's jumping clock, so hours take no time.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import pytest
import trio

from storage.membership.contract import Change, Standing, Unavailable
from storage.membership.etcd import open_etcd
from storage.membership.gateway import Put
from storage.membership.keys import encode
from storage.membership.model import Bell, EtcdModel, ModelGateway
from storage.membership.values import Epoch, Presence, Recovered, Shard

ME = Presence("n1", 1, ("n1:1",))
TTL_S = 6


class World:
    """One model, an authority through a gateway that fails, and another through one that does not."""

    def __init__(self):
        self.model = EtcdModel()
        bell = Bell()
        self.gateway = ModelGateway(self.model, bell)
        self.sound = ModelGateway(self.model, bell)

    def until_ns(self):
        """When etcd itself will let the lease lapse."""
        return self.model.next_lapse_ns()


@asynccontextmanager
async def opened(world):
    async with (
        open_etcd(world.gateway, world.gateway.now_ns) as mine,
        open_etcd(world.sound, world.sound.now_ns) as other,
    ):
        await mine.read()
        await other.read()
        yield mine, other


async def test_a_lease_is_never_believed_longer_than_etcd_keeps_it(autojump_clock):
    world = World()
    async with opened(world) as (mine, _), mine.hold(ME, TTL_S) as lease:
        for _ in range(100):
            assert lease.until_ns <= world.until_ns()
            assert lease.until_ns > world.gateway.now_ns()
            await trio.sleep(0.7)


async def test_a_short_absence_costs_no_lease(autojump_clock):
    world = World()
    async with opened(world) as (mine, other), mine.hold(ME, TTL_S) as lease:
        for absence_s in (0.5, 1, 2, 3):
            world.gateway.go_away()
            await trio.sleep(absence_s)
            assert other.view.live == {"n1": ME}
            world.gateway.come_back()
            await trio.sleep(2)
            assert lease.until_ns > world.gateway.now_ns()
            assert other.view.live == {"n1": ME}


async def test_a_long_absence_lapses_and_is_taken_again(autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    world = World()
    async with opened(world) as (mine, other), mine.hold(ME, TTL_S) as lease:
        world.gateway.go_away()
        assert await mine.wait_standing(Standing.REACHED) is Standing.AWAY
        while other.view.live:
            assert lease.until_ns <= (world.until_ns() or world.gateway.now_ns())
            await other.wait_view(other.view.revision)
        assert lease.until_ns <= world.gateway.now_ns()
        await trio.sleep(3600)
        assert mine.view.live == {"n1": ME}, "the stale view stays as it was"
        world.gateway.come_back()
        assert await mine.wait_standing(Standing.AWAY) is Standing.REACHED
        while not other.view.live:
            await other.wait_view(other.view.revision)
        await trio.sleep(3)  # for the watch that broke to be opened again
        assert lease.until_ns > world.gateway.now_ns()
        assert mine.view == other.view
    told = [entry.getMessage() for entry in caplog.records if "membership" in entry.name]
    assert len(told) == 2, told
    assert told[0].startswith("etcd is away")
    assert told[1] == "etcd is back"


async def test_while_it_is_away_only_who_asks_is_told(autojump_clock):
    world = World()
    async with opened(world) as (mine, _):
        world.gateway.go_away()
        with pytest.raises(Unavailable) as told:
            await mine.change([Change(None, Shard(0, "root"))])
        assert not told.value.outcome_unknown
        with pytest.raises(Unavailable):
            await mine.read()
        with trio.move_on_after(1000) as scope:
            await mine.wait_view(mine.view.revision)
        assert scope.cancelled_caught
        world.gateway.come_back()
        await trio.sleep(3)
        assert await mine.change([Change(None, Shard(0, "root"))])


async def test_opening_and_holding_wait_for_an_etcd_that_is_away(autojump_clock):
    world = World()
    world.gateway.go_away()
    async with open_etcd(world.gateway, world.gateway.now_ns) as mine:
        assert mine.view.revision == 0
        assert await mine.wait_standing(Standing.UNKNOWN) is Standing.AWAY
        async with trio.open_nursery() as nursery:

            async def come_back():
                await trio.sleep(100)
                world.gateway.come_back()

            nursery.start_soon(come_back)
            async with mine.hold(ME, TTL_S):
                assert mine.view.live == {"n1": ME}
                assert mine.standing is Standing.REACHED


async def test_a_lost_answer_leaves_the_outcome_unknown(autojump_clock):
    world = World()
    async with opened(world) as (mine, other):
        world.gateway.losing_answers = True
        first = Epoch(0, 1, "n1", ("n1",))
        with pytest.raises(Unavailable) as told:
            await mine.change([Change(None, first)])
        assert told.value.outcome_unknown
        assert mine.standing is Standing.REACHED, "one lost answer is not an etcd that is away"
        world.gateway.losing_answers = False
        assert (await mine.read()).epochs[0] == first
        assert not await other.change([Change(None, first)])


async def test_broken_watches_leave_no_gap_and_nothing_twice(autojump_clock):
    world = World()
    async with opened(world) as (mine, other):
        seen = []

        async def follow(task_status):
            revision = mine.view.revision
            task_status.started()
            while True:
                view = await mine.wait_view(revision)
                seen.append(view)
                revision = view.revision

        async with trio.open_nursery() as nursery:
            await nursery.start(follow)
            for number in range(60):
                assert await other.change([Change(None, Shard(number, "root"))])
                if number % 7 == 0:
                    world.gateway.break_watches()
                if number % 10 == 0:
                    await trio.sleep(5)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert mine.view == other.view
        for view in seen:
            assert sorted(view.shards) == list(range(len(view.shards)))


async def test_what_was_compacted_away_is_read_whole(autojump_clock):
    world = World()
    async with opened(world) as (mine, other):
        await other.change([Change(None, Shard(0, "root")), Change(None, Shard(1, "root"))])
        await trio.sleep(1)
        world.gateway.go_away()
        await trio.sleep(1)
        await other.change([Change(Shard(0, "root"), None)])
        await other.change([Change(None, Shard(2, "root"))])
        world.model.compact()
        assert sorted(mine.view.shards) == [0, 1]
        world.gateway.come_back()
        await trio.sleep(10)
        assert sorted(mine.view.shards) == [1, 2]
        assert mine.view == other.view
        await other.change([Change(None, Shard(3, "root"))])
        await trio.sleep(1)
        assert sorted(mine.view.shards) == [1, 2, 3]


async def test_a_lease_that_somebody_revoked_is_not_believed_any_longer(autojump_clock):
    world = World()
    async with opened(world) as (mine, other), mine.hold(ME, 60) as lease:
        world.model.revoke(world.gateway.now_ns(), 1)
        await trio.sleep(21)  # it is to be renewed every 20 s, and then that is noticed
        assert other.view.live == {"n1": ME}
        assert lease.until_ns == world.until_ns()


async def test_a_presence_that_somebody_removed_is_put_back(autojump_clock):
    world = World()
    async with opened(world) as (mine, other), mine.hold(ME, TTL_S):
        world.model.transact(world.gateway.now_ns(), [], [Put("live/n1", None)])
        world.gateway.break_watches()
        await trio.sleep(TTL_S)
        assert other.view.live == {"n1": ME}
        world.model.revoke(world.gateway.now_ns(), 1)  # an operator revoked the lease itself
        await trio.sleep(TTL_S)
        assert other.view.live == {"n1": ME}


async def test_whose_name_was_taken_while_it_was_away_stays_aside_until_it_is_free(autojump_clock):
    world = World()
    async with opened(world) as (mine, other), mine.hold(ME, TTL_S) as lease:
        world.gateway.go_away()
        await trio.sleep(10 * TTL_S)
        newer = Presence("n1", 2, ("n1:2",))
        async with other.hold(newer, TTL_S):
            world.gateway.come_back()
            await trio.sleep(10 * TTL_S)
            assert other.view.live == {"n1": newer}
            assert lease.until_ns == 0
        await trio.sleep(2 * TTL_S)
        assert other.view.live == {"n1": ME}
        assert lease.until_ns > world.gateway.now_ns()


async def test_a_value_of_another_version_is_told_once_and_not_overwritten(autojump_clock, caplog):
    world = World()
    strange = [
        Put("shards/0", b'{"shard":0,"pool":"root","colour":"green"}'),
        Put("shards/1", b'{"shard":1,"pool":"no good name!"}'),
        Put("shards/2", b'{"shard":9,"pool":"root"}'),
        Put("shards/3", b"\xff\xfe"),
        Put("epochs/0", b'{"shard":0,"epoch":0,"leader":"n1","members":["n1"]}'),
        Put("epochs/1", b'{"shard":1,"epoch":1,"leader":"n1","members":[]}'),
        Put("elsewhere/0", b"{}"),
        Put("shards/4", b'{"shard":4,"pool":"root"}'),
    ]
    world.model.transact(0, [], strange)
    async with opened(world) as (mine, other):
        assert sorted(mine.view.shards) == [4]
        assert mine.view.epochs == {}
        assert not await mine.change([Change(None, Shard(0, "root"))])
        assert not await mine.change([Change(None, Epoch(0, 1, "n1", ("n1",)))])
        await other.change([Change(None, Shard(5, "root"))])
        await trio.sleep(10)
        assert sorted(mine.view.shards) == [4, 5]
    told = [entry.getMessage() for entry in caplog.records if "etcd holds" in entry.getMessage()]
    assert len(told) == 2 * 7, told  # each of the two authorities says each once


async def test_an_etcd_restored_from_an_older_copy_is_noticed_and_not_changed(
    autojump_clock, caplog
):
    world = World()
    async with opened(world) as (mine, other):
        await other.change([Change(None, Epoch(0, 1, "n1", ("n1",)))])
        older = world.model.copy()
        for epoch in range(1, 5):
            await other.change([Change(other.view.epochs[0], Epoch(0, epoch + 1, "n1", ("n1",)))])
        await trio.sleep(1)
        world.gateway.go_away()
        world.gateway._model = older
        await trio.sleep(10)
        world.gateway.come_back()
        await trio.sleep(10)
        assert mine.view.epochs[0].epoch == 5, "what is known stays"
        with pytest.raises(Unavailable, match="restored from an older copy"):
            await mine.change([Change(mine.view.epochs[0], Epoch(0, 6, "n1", ("n1",)))])
        assert older.read(0).items[0].raw.count(b'"epoch":1') == 1
    told = [entry.getMessage() for entry in caplog.records if "went back" in entry.getMessage()]
    assert len(told) == 1


async def test_an_etcd_that_was_brought_up_to_what_was_is_obeyed_again(autojump_clock, caplog):
    world = World()
    async with opened(world) as (mine, other):
        await other.change([Change(None, Epoch(0, 1, "n1", ("n1",)))])
        older = world.model.copy()
        await other.change([Change(other.view.epochs[0], Epoch(0, 2, "n1", ("n1",)))])
        await trio.sleep(1)
        world.gateway.go_away()
        older.etcd, older.revision = "e2", 1000  # Another one, that is further.
        world.gateway._model = older
        world.gateway.come_back()
        await trio.sleep(5)
        assert "went back: shard 0 was in epoch 2, and there it is in 1" in mine.trouble
        with pytest.raises(Unavailable, match="recover-authority"):
            await mine.read()
        before = mine.view
        epoch = before.epochs[0]
        older.transact(0, [], [Put("epochs/0", encode(epoch))])
        await trio.sleep(5)
        assert "it is etcd e2, and was e1" in mine.known.objection("e2", before)
        assert mine.trouble is not None
        older.transact(0, [], [Put("recovered", encode(Recovered(7)))])
        await trio.sleep(5)
        assert mine.trouble is None
        assert mine.view.revision == older.revision > before.revision
        assert await mine.change([Change(epoch, Epoch(0, 3, "n1", ("n1",)))])
        # A process that starts anew and has seen this objects to what was before.
        async with open_etcd(world.gateway, lambda: 0, mine.known) as again:
            assert (await again.read()).epochs[0].epoch == 3
            assert again.trouble is None
    assert "it is obeyed again" in caplog.text
