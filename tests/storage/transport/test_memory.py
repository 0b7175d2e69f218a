"""The faults of the transport in memory, which tests of everything above rely on.

Goal: each fault does what it says and nothing else. Method: on trio's mock clock, which jumps to where
something happens (each test names it: pytest-trio looks for it there).
"""

from __future__ import annotations

import pytest
import trio

from storage.transport import Broken, MemoryNetwork, Role
from tests.storage.transport.kinds import node, pause, take

SILENCE_S = 3


@pytest.fixture
async def world(nursery):
    network = MemoryNetwork()
    listener = await network.transport(node("n1")).listen(nursery, "n1")
    near = await network.transport(node("n2")).connect(nursery, "n1", role=Role.NODE)
    return network, near, await listener.accept()


async def test_what_is_swallowed_vanishes_and_is_noticed_where_it_is_missed(autojump_clock, world):
    network, near, far = world
    network.swallow("n2", "n1")
    await near.send([b"lost"])
    await far.send([b"found"])
    assert await take(near, 1) == [b"found"]
    start_s = trio.current_time()
    with pytest.raises(Broken, match="nothing heard for 3 s"):
        await far.receive()
    assert SILENCE_S <= trio.current_time() - start_s <= 1.5 * SILENCE_S
    with pytest.raises(Broken):
        await near.receive()


async def test_a_short_swallow_is_only_a_loss(autojump_clock, world):
    network, near, far = world
    network.swallow("n2", "n1")
    await near.send([b"lost"])
    await pause(1)
    network.mend()
    await near.send([b"found"])
    assert await take(far, 1) == [b"found"]
    await pause(100)
    assert near.broken() is None
    assert far.broken() is None


async def test_a_delay_keeps_the_order(autojump_clock, world):
    network, near, far = world
    network.delay("n2", "n1", 500)
    start_s = trio.current_time()
    await near.send([b"slow"])
    network.mend()
    await near.send([b"behind it"])
    assert await take(far, 2) == [b"slow", b"behind it"]
    assert trio.current_time() - start_s == pytest.approx(0.5)


async def test_severed_both_ends_break(autojump_clock, world):
    network, near, far = world
    network.sever("n1", "n2")
    for end in (near, far):
        with pytest.raises(Broken, match="reset"):
            await end.receive()
    assert not network.connections


async def test_a_close_that_is_not_heard_is_noticed_all_the_same(autojump_clock, world):
    network, near, far = world
    network.swallow("n2", "n1")
    near.close()
    await trio.lowlevel.checkpoint()
    assert far.broken() is None
    with pytest.raises(Broken, match="nothing heard"):
        await far.receive()


async def test_a_close_that_is_heard_late(autojump_clock, world):
    network, near, far = world
    network.swallow("n2", "n1")
    near.close()
    await pause(1)
    network.mend()
    with pytest.raises(Broken, match="gone without a word"):
        await far.receive()


async def test_dialling_what_is_refused_or_cut_off(autojump_clock, world, nursery):
    network, _, _ = world
    dialler = network.transport(node("n3"))
    network.refuse("n1")
    with pytest.raises(Broken, match="refused"):
        await dialler.connect(nursery, "n1", role=Role.NODE)
    network.mend()
    network.swallow("n1", "n3")
    with pytest.raises(Broken, match="no answer in 3 s"):
        await dialler.connect(nursery, "n1", role=Role.NODE)
    network.mend()
    await dialler.connect(nursery, "n1", role=Role.NODE)


async def test_an_address_is_listened_at_once(autojump_clock, world, nursery):
    network, _, _ = world
    with pytest.raises(OSError, match="in use"):
        await network.transport(node("n4")).listen(nursery, "n1")
