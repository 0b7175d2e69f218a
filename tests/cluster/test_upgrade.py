"""Goal: nodes are upgraded one after the other under load, and nobody notices; what an older node does not understand it refuses in words.

Method: the fleet, of which a node is replaced by one whose messages and presence have fields that the others do not know
(`tests.cluster.newer`), and back, while programs append and put. Refusals are looked at over the memory transport.
"""

import signal
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from storage import wire
from storage.membership.http import open_gateway
from storage.transport import Broken, Role
from tests.cluster.load import Load
from tests.cluster.test_programs import client_of

NEWER = (sys.executable, "-P", str(Path(__file__).parent / "newer.py"))


def kept(fleet, name):
    """What the authority has of a node that lives."""

    async def read():
        async with open_gateway(fleet.endpoints, "/cascadefs/") as gateway:
            return await gateway.read()

    return next(item.raw.decode() for item in trio.run(read).items if item.key == f"live/{name}")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_nodes_are_upgraded_one_after_the_other_under_load(fleet):
    load = Load(fleet, "upgrade", programs=2)
    older = fleet.cascadefs
    said = {each: len(fleet.log(each)) for each in fleet.names}  # By other tests' doing.
    name = fleet.leader(0)
    load.start()
    try:
        fleet.cascadefs = NEWER
        assert fleet.kill(name, signal.SIGTERM) == 0
        fleet.start(name)
        assert "a version to come" in kept(fleet, name)
        load.go_on()
        fleet.wait_well()
        with client_of(fleet, [name]) as store:
            store.put("upgrade0/by-the-newer", "one")
        load.go_on()
        fleet.cascadefs = older
        assert fleet.kill(name, signal.SIGTERM) == 0
        fleet.start(name)
        load.go_on()
        load.stop()
    finally:
        fleet.cascadefs = older
        load.end()
    with fleet.program() as store:
        assert load.check(store) > 30
        assert store.get("upgrade0/by-the-newer") == b"one"
    fleet.check_logs()
    for each in fleet.names:
        assert "ERROR" not in fleet.log(each)[said[each] :], fleet.log(each)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (
            wire.Hello(wire.VERSION + 1),
            f"protocol {wire.VERSION + 1}; this node speaks {wire.VERSION}",
        ),
        (["a message to come", 1], "not a message of this protocol"),
        (wire.Propose(0, 7, [(1, 0, b"\xc1")], 0), "a proposal that is no record"),
    ],
)
def test_what_a_node_does_not_understand_it_refuses_in_words(in_world, said, refused):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        observer = await world.observer(epoch.leader, role=Role.MOUNT)
        if isinstance(said, list):
            head = msgspec.msgpack.encode(said)
            await observer.connection.send([wire._START.pack(len(head), 0), head])
        else:
            await observer.say(said)
        await observer.until(lambda: observer.of(wire.Refusal) and observer.of(Broken))
        assert refused in observer.of(wire.Refusal)[0].why

    in_world(scenario)


def test_fields_that_a_node_does_not_know_are_let_be(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        observer = await world.observer(epoch.leader, role=Role.MOUNT)
        for message in (wire.Hello(), wire.Subscribe(0, 0, 0, 0), wire.AskIndex(5, 0)):
            plain = msgspec.msgpack.decode(wire.encode(message)[1])
            head = msgspec.msgpack.encode([*plain, {"a field": "to come"}])
            await observer.connection.send([wire._START.pack(len(head), 0), head])
        await observer.until(lambda: observer.of(wire.Answer) and observer.of(wire.Records))
        assert not observer.of(wire.Answer)[0].errno
        assert not observer.of(wire.Refusal)

    in_world(scenario)
