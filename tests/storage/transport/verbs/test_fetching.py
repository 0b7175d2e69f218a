"""Long messages that nobody waits for are fetched, in their place, and copied once altogether.

Goal: the memory they lie in is never used again before they were read, nobody may read it who should not, and where it cannot be had they
are pushed. Method: the arithmetic with a model beside it; the rest on a real device, with the counts a connection keeps.
"""

from __future__ import annotations

import random
from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from storage.transport import Broken, Role
from storage.transport.landing import KEPT_BYTES_MAX, KEPT_MAX, Landings
from storage.transport.verbs import Unusable
from storage.transport.verbs.ring import Malformed, Offer
from storage.transport.verbs.stage import Stage
from tests.storage.transport.kinds import pause, take
from tests.storage.transport.verbs.fabrics import LOOPBACK, pair, transport

LONG = 200_000
CONTENT = random.Random(3).randbytes(1 << 20)


# --- Pure


@given(st.lists(st.one_of(st.integers(1, 5000), st.just(None)), max_size=200))
def test_what_is_staged_lies_apart_and_room_comes_back(steps):
    size = 8192
    stage = Stage(size)
    lying: deque[tuple[int, int]] = deque()
    for length in steps:
        if length is None:
            if lying:
                lying.popleft()
                stage.let_go()
            continue
        offset = stage.lay(length)
        if offset is None:
            assert lying, "an empty stage takes whatever is not longer"
            continue
        assert 0 <= offset <= size - length
        assert all(offset + length <= a or b <= offset for a, b in lying)
        lying.append((offset, offset + length))
    stage.let_go(len(lying))
    assert stage.used == 0
    assert stage.lay(size) == 0
    assert stage.lay(1) is None


def test_memory_is_used_again_once_nobody_looks_at_it():
    landings = Landings()
    first = landings.take(100_000)
    first[:3] = b"abc"
    kept = first[:3].toreadonly()
    del first
    second = landings.take(100_000)
    second[:3] = b"xyz"
    assert bytes(kept) == b"abc"
    assert landings.made == 2
    del kept, second
    for _ in range(50):
        landings.take(99_000)
    assert landings.made == 2


def test_not_more_memory_is_kept_than_said():
    forgotten: list[int] = []
    landings = Landings(lambda piece: forgotten.append(len(piece)))
    held = [landings.take(1 << 20) for _ in range(KEPT_MAX + 2)]
    assert len(forgotten) == 2
    landings.take(KEPT_BYTES_MAX // 2 + 1)
    assert len(forgotten) == 2  # what is longer than half is not kept in the first place
    del held


@pytest.mark.parametrize("data", [bytes(31), bytes(32), Offer(8, 1, 1 << 30, 0).encode()])
def test_an_offer_that_no_version_makes_is_refused(data):
    with pytest.raises(Malformed):
        Offer.decode(memoryview(data))


# --- On a device


@pytest.mark.rdma
async def test_a_long_message_is_fetched_in_its_place_and_copied_once_altogether():
    messages = [b"before", CONTENT[:LONG], b"between", CONTENT[5 : 5 + 70_000], b"behind"]
    async with pair() as (near, far):
        before, far_before = near.status(), far.status()
        for message in messages:
            await near.send([message[:2], message[2:]], bulk=True)
        assert await take(far, 5) == messages
        after, far_after = near.status(), far.status()
        assert after["offered"] == 2  # the short ones are pushed
        assert far_after["fetched_bytes"] == LONG + 70_000
        # One copy of each byte here, into the stage; there none but of what was pushed.
        assert after["copied_bytes"] - before["copied_bytes"] <= LONG + 70_000 + 2 * (20 + 2 * 32)
        assert far_after["copied_bytes"] - far_before["copied_bytes"] <= 20 + 2 * 32


@pytest.mark.rdma
async def test_more_than_fits_the_stage_is_pushed_and_all_keeps_its_order():
    messages = [CONTENT[n * 1000 : n * 1000 + LONG + n * 4096] for n in range(12)]
    async with pair({"fetch_bytes": 512 * 1024}) as (near, far):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                for message in messages:
                    await near.send([message], bulk=True)

            assert await take(far, len(messages)) == messages
        assert 2 <= near.status()["offered"] <= 12
        await near.send([CONTENT[:LONG]], bulk=True)
        await near.aclose()
        assert await take(far, 1) == [CONTENT[:LONG]]
        with pytest.raises(Broken):
            await far.receive()


@pytest.mark.rdma
async def test_who_cannot_fetch_is_pushed_to():
    async with pair(far_fabric={"fetch_bytes": 0}) as (near, far):
        await near.send([CONTENT[:LONG]], bulk=True)
        assert await take(far, 1) == [CONTENT[:LONG]]
        assert near.status()["offered"] == 0


@pytest.mark.rdma
async def test_what_is_received_stays_when_more_is_fetched():
    async with pair() as (near, far):
        kept = []
        for number in range(KEPT_MAX + 2):
            await near.send([bytes([number]) * LONG], bulk=True)
            kept += await far.receive()
        assert [bytes(message) for message in kept] == [
            bytes([number]) * LONG for number in range(KEPT_MAX + 2)
        ]


@pytest.mark.rdma
async def test_a_fenced_peer_cannot_fetch():
    async with pair() as (near, far):
        await near.send([CONTENT[:LONG]], bulk=True)
        await pause(0.1)  # the offer is there; nobody receives yet
        near.fence("a newer epoch")
        with pytest.raises(Broken), trio.fail_after(20):
            await far.receive()
        assert far.status()["fetched_bytes"] == 0


@pytest.mark.rdma
async def test_bytes_that_are_not_what_was_offered_break_the_connection():
    async with pair() as (near, far):
        await near.send([b"before"])
        await near.send([CONTENT[:LONG]], bulk=True)
        near._staging._view[100] ^= 1
        assert await take(far, 1) == [b"before"]
        with pytest.raises(Broken, match="offered"), trio.fail_after(20):
            await far.receive()


@pytest.mark.rdma
async def test_who_has_no_memory_for_long_messages_has_them_pushed_the_next_time(monkeypatch):
    own, other = transport("n1", 0), transport("n2", 1)
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        near = await other.connect(nursery, listener.address, role=Role.NODE)
        far = await listener.accept()

        def lend(memory, access=0):
            raise Unusable("this process may lock 8 MiB of memory in all")

        monkeypatch.setattr(far._endpoint, "lend", lend)
        await near.send([CONTENT[:LONG]], bulk=True)
        with pytest.raises(Broken, match="may lock"), trio.fail_after(20):
            await far.receive()
        near = await other.connect(nursery, listener.address, role=Role.NODE)
        far = await listener.accept()
        await near.send([CONTENT[:LONG]], bulk=True)
        assert await take(far, 1) == [CONTENT[:LONG]]
        assert near.status()["offered"] == 0
        nursery.cancel_scope.cancel()
    own.close()
    other.close()
