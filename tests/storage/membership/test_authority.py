"""One contract for every authority: in memory, on a model of etcd, on a real etcd.

Goal: whoever is written against `Authority` finds the same behaviour whatever is behind it. Method: the same checks on
three implementations; "two" are two processes' authorities over one store. Waiting is for events, with the test's own time limit.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio

from storage import limits
from storage.membership.contract import Change, Standing
from storage.membership.etcd import open_etcd
from storage.membership.http import open_gateway
from storage.membership.model import Bell, EtcdModel, ModelGateway
from storage.membership.static import StaticAuthority
from storage.membership.values import Cluster, Epoch, Node, Pool, Presence, Shard
from tests.etcd import Etcd

CLUSTER = Cluster("0123456789abcdef", 1_700_000_000_000_000)
POOL = Pool("root", "/", replicas=3, labels=("ssd",))
NODE = Node("n1", ("10.0.0.1:7400", "[fe80::1]:7400"), ("ssd",))
EPOCH = Epoch(0, 1, "n1", ("n1", "n2"))
prefixes = count()


def presence(name: str = "n1", incarnation: int = 1, address: str = "10.0.0.1:7400") -> Presence:
    return Presence(name, incarnation, (address,))


@pytest.fixture(scope="module")
def real_etcd(tmp_path_factory):
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture(params=["static", "model", "etcd"])
def two(request):
    """Opens two authorities on one new and empty store."""
    if request.param == "static":

        @asynccontextmanager
        async def opened():
            authority = StaticAuthority()
            yield authority, authority

    elif request.param == "model":

        @asynccontextmanager
        async def opened():
            model = EtcdModel()
            bell = Bell()
            gateways = ModelGateway(model, bell), ModelGateway(model, bell)
            async with (
                open_etcd(gateways[0], gateways[0].now_ns) as first,
                open_etcd(gateways[1], gateways[1].now_ns) as second,
            ):
                yield first, second

    else:
        etcd = request.getfixturevalue("real_etcd")
        prefix = f"/test{next(prefixes)}/"

        @asynccontextmanager
        async def opened():
            async with (
                open_gateway(etcd.endpoints, prefix) as one,
                open_gateway(etcd.endpoints, prefix) as other,
                open_etcd(one, time.monotonic_ns) as first,
                open_etcd(other, time.monotonic_ns) as second,
            ):
                yield first, second

    return opened


async def wait_for(authority, condition):
    """The first view for which the condition holds."""
    view = authority.view
    while not condition(view):
        view = await authority.wait_view(view.revision)
    return view


async def test_what_is_put_is_seen_by_both_and_as_it_was(two):
    async with two() as (first, second):
        values = [CLUSTER, POOL, Shard(0, "root"), Shard(1, "root", ("n1",)), NODE, EPOCH]
        assert await first.change([Change(None, value) for value in values])
        seen = await wait_for(second, lambda view: view.cluster is not None)
        for view in (first.view, seen, await second.read()):
            assert view.cluster == CLUSTER
            assert view.pools == {"root": POOL}
            assert view.shards == {0: Shard(0, "root"), 1: Shard(1, "root", ("n1",))}
            assert view.nodes == {"n1": NODE}
            assert view.epochs == {0: EPOCH}
            assert view.live == {}


async def test_a_change_is_in_the_view_when_it_returns(two):
    async with two() as (first, _):
        await first.read()
        for epoch in range(1, 20):
            old = first.view.epochs.get(0)
            new = Epoch(0, epoch, "n1", ("n1",))
            assert await first.change([Change(old, new)])
            assert first.view.epochs[0] == new


async def test_of_two_who_try_the_same_epoch_one_wins_and_the_other_sees_it(two):
    async with two() as (first, second):
        await first.change([Change(None, EPOCH)])
        await wait_for(second, lambda view: 0 in view.epochs)
        won = []

        async def attempt(authority, name):
            new = Epoch(0, 2, name, (name,))
            if await authority.change([Change(EPOCH, new)]):
                won.append(new)
            else:
                assert authority.view.epochs[0].epoch == 2
                assert authority.view.epochs[0].leader != name

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, first, "n1")
            nursery.start_soon(attempt, second, "n2")
        assert len(won) == 1
        assert (await first.read()).epochs[0] == won[0]
        assert (await second.read()).epochs[0] == won[0]


async def test_a_transaction_is_made_whole_or_not_at_all(two):
    async with two() as (first, _):
        await first.change([Change(None, POOL)])
        assert not await first.change([Change(None, NODE), Change(None, POOL)])
        assert (await first.read()).nodes == {}
        assert not await first.change([Change(None, NODE), Change(Shard(3, "root"), None)])
        assert (await first.read()).nodes == {}
        assert await first.change([Change(None, NODE), Change(POOL, None)])
        assert (await first.read()).nodes == {"n1": NODE}
        assert first.view.pools == {}


async def test_as_many_changes_as_are_allowed_at_once(two):
    async with two() as (first, _):
        changes = [Change(None, Shard(number, "root")) for number in range(limits.CHANGES_MAX)]
        assert await first.change(changes)
        assert len(first.view.shards) == limits.CHANGES_MAX


async def test_old_must_be_what_stands_there(two):
    async with two() as (first, _):
        assert not await first.change([Change(Shard(0, "root"), Shard(0, "root", ("n1",)))])
        assert await first.change([Change(None, Shard(0, "root"))])
        assert not await first.change([Change(None, Shard(0, "other"))])
        assert not await first.change(
            [Change(Shard(0, "root", ("n2",)), Shard(0, "root", ("n1",)))]
        )
        assert first.view.shards[0] == Shard(0, "root")
        assert await first.change([Change(Shard(0, "root"), Shard(0, "root", ("n1",)))])
        assert await first.change([Change(Shard(0, "root", ("n1",)), None)])
        assert await first.change([Change(None, Shard(0, "root"))])


async def test_epochs_go_up_by_one_and_changes_are_of_one_key(two):
    async with two() as (first, _):
        for bad in (
            [],
            [Change(None, None)],
            [Change(None, Epoch(0, 2, "n1", ("n1",)))],
            [Change(EPOCH, Epoch(0, 3, "n1", ("n1",)))],
            [Change(EPOCH, Epoch(1, 2, "n1", ("n1",)))],
            [Change(EPOCH, None)],
            [Change(None, Epoch(0, 1, "n2", ("n1",)))],
            [Change(None, Epoch(0, 1, "n1", ("n1", "n1")))],
            [Change(POOL, NODE)],
            [Change(None, POOL), Change(None, POOL)],
        ):
            with pytest.raises(AssertionError):
                await first.change(bad)


async def test_revisions_and_views_go_forward_only(two):
    async with two() as (first, second):
        seen = []

        async def follow():
            revision = 0
            while True:
                view = await second.wait_view(revision)
                seen.append(view)
                revision = view.revision
                if 19 in view.shards:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for number in range(20):
                assert await first.change([Change(None, Shard(number, "root"))])
        revisions = [view.revision for view in seen]
        assert revisions == sorted(set(revisions))
        for view in seen:
            assert sorted(view.shards) == list(range(len(view.shards)))  # no gap, ever


async def test_a_held_presence_is_seen_until_it_is_left(two):
    async with two() as (first, second):
        async with first.hold(presence(), 5) as lease:
            assert first.view.live == {"n1": presence()}
            assert lease.until_ns > 0
            await wait_for(second, lambda view: view.live == {"n1": presence()})
            elsewhere = presence(address="10.0.0.9:7400")
            await lease.change_presence(elsewhere)
            await wait_for(second, lambda view: view.live == {"n1": elsewhere})
        await wait_for(second, lambda view: not view.live)


async def test_the_newest_start_of_a_node_is_the_node(two):
    async with two() as (first, second), first.hold(presence(incarnation=7), 5) as old:
        assert old.until_ns > 0
        async with second.hold(presence(incarnation=3), 5) as new:
            view = await wait_for(first, lambda view: view.live["n1"].incarnation == 3)
            assert view.live == {"n1": presence(incarnation=3)}
            assert old.until_ns == 0
            assert new.until_ns > 0
            await old.change_presence(presence(incarnation=7, address="n1:2"))
        view = await wait_for(first, lambda view: view.live != {"n1": presence(incarnation=3)})
        # The newer one's end is not the old one's: that still runs, and may be the node again.
        assert view.live in ({}, {"n1": presence(incarnation=7, address="n1:2")})


async def test_the_standing_is_reached_as_soon_as_it_was_read(two):
    async with two() as (first, _):
        assert await first.wait_standing(Standing.UNKNOWN) is Standing.REACHED
        await first.read()
        assert first.standing is Standing.REACHED
        with trio.move_on_after(0.01) as scope:
            await first.wait_standing(Standing.REACHED)
        assert scope.cancelled_caught


async def test_a_cancelled_wait_leaves_nothing_behind(two):
    async with two() as (first, _):
        await first.read()
        with trio.move_on_after(0.01) as scope:
            await first.wait_view(first.view.revision)
        assert scope.cancelled_caught
        assert await first.change([Change(None, POOL)])
        assert first.view.pools == {"root": POOL}
