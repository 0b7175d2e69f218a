"""Goal: who follows a shard over the wire gets every committed record once and in order, and nobody more than is his.

Method: connections of the memory transport to nodes in this process; each role and each message that is not for it.
"""

import msgspec
import pytest
import trio

from storage import wire
from storage.membership.values import View
from storage.record import Unlink, encode
from storage.sequencer import SUBMITTED_MAX
from storage.transport import Broken, Role
from tests.cluster.world import Proposer


def test_an_observer_of_any_member_gets_everything_and_goes_on_where_it_was(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(40)
        await proposer.wait()
        for name in epoch.members:
            await follow(world, name, proposer, epoch)

    async def follow(world, name, proposer, epoch):
        observer = await world.observer(name, name=f"m-{name}")
        await observer.say(wire.Hello())
        await observer.say(wire.Subscribe(0, 0, 0, 0))
        await observer.until(lambda: len(observer.records()) == len(proposer.look()))
        assert observer.records() == proposer.seen
        assert observer.of(wire.Welcome) == [wire.Welcome(wire.VERSION, name)]
        assert observer.of(wire.Epoch)[0].leader == epoch.leader
        placement = observer.of(wire.Placement)[-1]
        view = msgspec.msgpack.decode(placement.map, type=View)
        assert (view.epochs, view.pools) == (
            world.authority.view.epochs,
            world.authority.view.pools,
        )
        at = proposer.seen[17]
        await observer.say(wire.Subscribe(0, at.index, at.address, at.checksum))
        observer.heard.clear()
        proposer.propose(5)
        await proposer.wait()
        await observer.until(lambda: len(observer.records()) == len(proposer.look()) - 18)
        assert observer.records() == proposer.seen[18:]
        frontier = observer.of(wire.Records)[-1]
        await trio.sleep(2)
        later = observer.of(wire.Records)[-1]
        assert later.frontier > frontier.frontier
        assert later.frontier_index == proposer.seen[-1].index

    in_world(scenario)


def test_an_observer_whose_state_is_of_something_else_is_told(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(9)
        await proposer.wait()
        at = proposer.own()[4]
        observer = await world.observer("n1")
        for wrong in (
            wire.Subscribe(0, at.index, at.address, at.checksum ^ 1),
            wire.Subscribe(0, at.index, at.address + 8, at.checksum),
            wire.Subscribe(0, at.index + 1, at.address, at.checksum),
        ):
            observer.heard.clear()
            await observer.say(wrong)
            await observer.until(lambda: observer.of(wire.Stranger))
            assert observer.records() == []

    in_world(scenario)


def test_what_an_observer_has_not_taken_is_bounded(in_world, monkeypatch):
    monkeypatch.setattr(wire, "WINDOW_BYTES", 20_000)
    monkeypatch.setattr(wire, "BATCH_BYTES", 5_000)

    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        for _ in range(20):
            proposer.propose(SUBMITTED_MAX)
            await proposer.wait()
        observer = await world.observer("n1")
        await observer.say(wire.Subscribe(0, 0, 0, 0))
        await trio.sleep(5)
        first = len(observer.records())
        assert 0 < first < len(proposer.look()) / 2
        while len(observer.records()) < len(proposer.look()):
            had = len(observer.records())
            await observer.say(wire.Taken(0, observer.records()[-1].index))
            await observer.until(lambda had=had: len(observer.records()) > had)
        assert observer.records() == proposer.seen

    in_world(scenario)


def said(text):
    """A record that says it."""
    return encode(Unlink(1, text))


def test_a_mount_proposes_to_the_leader_and_reads_payloads_anywhere(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        leader, other = epoch.leader, next(n for n in epoch.members if n != epoch.leader)
        mount = await world.observer(leader)
        await mount.say(wire.Subscribe(0, 0, 0, 0))
        reader = await world.observer(other, name="m2")
        await reader.say(wire.Subscribe(0, 0, 0, 0))

        def mine():
            return [r for r in mount.records() if r.client == 99]

        proposals = [(1, 3, said(b"one")), (2, 0, said(b"two")), (3, 5, said(b"three"))]
        await mount.say(wire.Propose(0, 99, proposals, 0), [b"abc", b"defgh"])
        await mount.until(lambda: len(mine()) == 3)
        await mount.say(wire.Propose(0, 99, proposals, 0), [b"abc", b"defgh"])  # Again: dropped.
        await mount.say(wire.Propose(0, 99, [(6, 0, said(b"six"))], 0))  # A gap.
        await mount.until(lambda: mount.of(wire.Expecting))
        far = mine()[-1].timestamp + 30_000_000
        await mount.say(wire.Propose(0, 99, [(4, 0, said(b"four"))], far))
        await mount.until(lambda: len(mine()) == 4)
        assert [r.metadata for r in mine()] == [
            said(text) for text in (b"one", b"two", b"three", b"four")
        ]
        assert mine()[-1].timestamp > far
        await reader.until(lambda: [r for r in reader.records() if r.client == 99] == mine())
        for request, (record, payload) in enumerate(
            zip(mine(), (b"abc", b"", b"defgh", b""), strict=True)
        ):
            await reader.say(wire.ReadPayload(request, 0, record.address, 0, len(payload)))
            await reader.until(
                lambda n=request: any(a.request == n for a in reader.of(wire.Answer))
            )
            parts = next(
                p for m, p in reader.heard if isinstance(m, wire.Answer) and m.request == request
            )
            assert bytes(parts[0]) == payload
        end = world.nodes[other].members[0].log.end_address
        for request, address in ((20, end), (21, end + 10**9), (22, mine()[0].address + 8)):
            await reader.say(wire.ReadPayload(request, 0, address, 0, 1))
            await reader.until(
                lambda n=request: any(a.request == n and a.errno for a in reader.of(wire.Answer))
            )
        await reader.say(wire.Propose(0, 98, [(1, 0, said(b"x"))], 0))  # Not the leader.
        await reader.until(lambda: len(reader.of(wire.Epoch)) > 1)
        assert reader.of(wire.Epoch)[-1].leader == leader
        await reader.say(wire.Ask(77, "status"))
        await reader.until(lambda: any(a.request == 77 for a in reader.of(wire.Answer)))
        status = msgspec.json.decode(reader.heard[-1][1][0])
        assert (status["node"], status["shards"][0]["role"]) == (other, "follower")

    in_world(scenario)


PLACE = wire.Peer(0, msgspec.Raw(b"\x91\x05"))


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (Role.CLIENT, wire.Subscribe(0, 0, 0, 0)),
        (Role.CLIENT, wire.Propose(0, 1, [(1, 0, b"x")])),
        (Role.CLIENT, wire.ReadPayload(1, 0, 1024, 0, 1)),
        (Role.CLIENT, wire.ReadFrame(1, 0, 1024)),
        (Role.CLIENT, PLACE),
        (Role.MOUNT, wire.ReadFrame(1, 0, 1024)),
        (Role.MOUNT, PLACE),
        (Role.NODE, wire.Peer(0, msgspec.Raw(b"\xc1"))),
    ],
)
def test_who_says_what_is_not_for_him_is_cut_off(in_world, role, message):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        observer = await world.observer("n1", role=role, name="rogue")
        await observer.say(message)
        await observer.until(lambda: observer.of(Broken))
        proposer = Proposer(world.leader())
        proposer.propose(3)
        await proposer.wait()
        assert not observer.of(wire.Records)

    in_world(scenario)


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_cut_off_and_changes_nothing(in_world, seed):
    from random import Random

    async def scenario(world):
        await world.start()
        await world.wait_members()
        random = Random(seed)
        proposer = Proposer(world.leader())
        good = [
            wire.encode(wire.Propose(0, 5, [(1, 3, b"one")], 0), [b"abc"]),
            wire.encode(wire.Subscribe(0, 1, 1024, 3)),
            wire.encode(wire.ReadPayload(1, 0, 1024, 0, 10)),
        ]
        for number in range(40):
            observer = await world.observer("n1", name=f"rogue{number}")
            data = bytearray(b"".join(random.choice(good)))
            for _ in range(random.randrange(1, 6)):
                data[random.randrange(len(data))] = random.randrange(256)
            del data[random.choice([len(data), random.randrange(len(data))]) :]
            try:
                await observer.connection.send([bytes(data)])
                await trio.sleep(0.1)
            except Broken:
                pass
            observer.connection.close()
        proposer.propose(3)
        await proposer.wait()
        await world.wait_same()

    in_world(scenario)
