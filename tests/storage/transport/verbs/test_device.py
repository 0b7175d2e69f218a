"""Verbs on a device: what they cost, what a fenced peer can still do, what a new site gets wrong, and that nothing is left behind.

Goal: what the contract does not say of RDMA. Method: both sides in this process, on two devices where there are two; counts are
the device's and the transport's own.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import trio
import trio.testing

from storage.transport import Broken, Rejected, Role
from storage.transport.verbs import Fabric, Unusable
from storage.transport.verbs.device import Device, device_names
from storage.transport.verbs.endpoint import RECEIVES_MAX, SENDS_MAX
from storage.transport.verbs.library import verbs
from storage.transport.verbs.outgoing import Push
from storage.transport.verbs.posting import Extended, Plain
from storage.transport.verbs.ring import DOORBELLS_MAX, RING_BYTES_MIN, Bell
from storage.transport.verbs.transport import VerbsTransport
from tests.storage.transport.kinds import pause, take
from tests.storage.transport.verbs.fabrics import LOOPBACK, control, pair, resources, transport

pytestmark = pytest.mark.rdma
HERE = Path(__file__).parent


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


# --- What it costs


async def test_a_batch_is_one_doorbell_and_a_payload_is_copied_once_a_side():
    messages = [content(64, number) for number in range(500)]
    async with pair() as (near, far):
        before, far_before = near.status(), far.status()
        for message in messages:
            await near.send([message])
        assert await take(far, 500) == messages
        after, far_after = near.status(), far.status()
    assert after["doorbells"] - before["doorbells"] == 1
    assert after["posts"] - before["posts"] == 1
    assert after["copied_bytes"] - before["copied_bytes"] == 500 * 64
    assert far_after["copied_bytes"] - far_before["copied_bytes"] == 500 * 64


async def test_a_long_message_is_copied_once_a_side():
    message = content(1_000_000, 1)
    async with pair({"ring_bytes": 1 << 20}, {"ring_bytes": 1 << 20}) as (near, far):
        before, far_before = near.status(), far.status()
        await near.send([message[:3], message[3:]])
        assert await take(far, 1) == [message]
        # But for the small buffer in front, which waited with the long one for its turn.
        assert near.status()["copied_bytes"] - before["copied_bytes"] == len(message) + 3
        assert far.status()["copied_bytes"] - far_before["copied_bytes"] == len(message)
        assert near.status()["doorbells"] - before["doorbells"] <= 5


async def test_credits_are_few_and_silent_while_the_receiver_keeps_up():
    async with pair() as (near, far):
        before = far.status()["posts"]
        for _ in range(64):
            await near.send([bytes(1016)])
            await take(far, 1)
        # 64 KiB and 64 doorbells have gone: a credit each quarter.
        assert far.status()["posts"] - before <= 6


async def test_the_smaller_ring_of_both_is_used():
    async with pair({"ring_bytes": 1 << 20}, {"ring_bytes": 1 << 17}) as (near, far):
        assert near.status()["ring_bytes"] == far.status()["ring_bytes"] == 1 << 17
        messages = [content(100_000, number) for number in range(5)]
        async with trio.open_nursery() as nursery:
            for message in messages:
                nursery.start_soon(near.send, [message])
                nursery.start_soon(far.send, [message])
                await trio.testing.wait_all_tasks_blocked()
            assert await take(far, 5) == messages
            assert await take(near, 5) == messages


async def test_doorbells_without_a_receiver_wait_for_credit():
    async with pair() as (near, far):
        for number in range(3 * DOORBELLS_MAX):
            await near.send([b"%d" % number])
            await pause(0)
            await trio.testing.wait_all_tasks_blocked()
        assert near.queued() > 0
        assert near.counters.sent_calls <= DOORBELLS_MAX + 2
        assert await take(far, 3 * DOORBELLS_MAX) == [b"%d" % n for n in range(3 * DOORBELLS_MAX)]
        assert near.queued() == 0


async def test_queues_that_nobody_empties_are_not_overrun(monkeypatch):
    """Neither side looks at completions for a while: the sender stops at what it was given room for, and nothing is lost."""
    messages = [b"%d" % number for number in range(1000)]
    async with pair() as (near, far):
        with monkeypatch.context() as patch:
            patch.setattr(near, "_poll", lambda: False)
            patch.setattr(far, "_poll", lambda: False)
            before = near._endpoint.posts
            for message in messages:
                await near.send([message])
                await trio.lowlevel.checkpoint()
            await pause(0.05)
            # Two of its doorbells went for the introduction.
            assert DOORBELLS_MAX - 2 <= near._endpoint.posts - before <= DOORBELLS_MAX
            assert near._endpoint.posts - near._endpoint.done <= SENDS_MAX
            assert near.queued()
        assert await take(far, len(messages)) == messages


@pytest.mark.parametrize("extended", [True, False])
async def test_work_requests_of_both_kinds(extended):
    """With the device's queue filled in place, and as drivers want it that cannot do that."""
    own, other = transport("n1", 0), transport("n2", 1)
    other.device.is_extended = extended
    messages = [content(size, size) for size in (0, 5, 60_000, 200_000, 70_000)]
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        near = await other.connect(nursery, listener.address, role=Role.NODE)
        far = await listener.accept()
        assert isinstance(near._endpoint._posting, Extended if extended else Plain)
        for _ in range(3):
            for message in messages:
                await near.send([message], bulk=len(message) > 100_000)
                await far.send([message], bulk=len(message) > 100_000)
                assert await take(far, 1) == await take(near, 1) == [message]
        nursery.cancel_scope.cancel()
    own.close()
    other.close()


async def test_a_ring_goes_around_many_times():
    sizes = random.Random(3)
    messages = deque(content(sizes.choice([0, 7, 64, 3000, 30_000]), n) for n in range(600))
    async with pair() as (near, far), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            for message in list(messages):
                await near.send([message])

        while messages:
            for message in await far.receive():
                assert message == messages.popleft()
        assert near.counters.sent_bytes > 50 * RING_BYTES_MIN


# --- Life


async def test_it_knows_how_it_is_connected():
    async with pair() as (near, far):
        status = near.status()
        assert status["transport"] == "verbs"
        assert status["device"] == far.status()["peer_device"]
        assert status["mtu_bytes"] in (256, 512, 1024, 2048, 4096)
        assert status["broken"] is None
        far.close("enough")
        with pytest.raises(Broken):
            await near.receive()
        assert near.status()["broken"]


async def test_the_queue_pair_gives_up_some_time():
    usual = {"retry_count": 3, "timeout_exponent": 14}
    async with pair(usual, usual) as (near, _):
        attributes, _ = near._endpoint._pair.query(
            verbs.IBV_QP_RETRY_CNT | verbs.IBV_QP_RNR_RETRY | verbs.IBV_QP_TIMEOUT
        )
        assert attributes.retry_cnt == 3
        assert attributes.rnr_retry < 7
        assert attributes.timeout == 14
        # Completions never find the queue full.
        assert near._endpoint._queue.cqe >= SENDS_MAX + RECEIVES_MAX


PEER = """
import sys
import trio
from storage.transport import Role
from tests.storage.transport.verbs.fabrics import transport

async def main():
    async with trio.open_nursery() as nursery:
        connection = await transport("n2", 1).connect(nursery, sys.argv[1], role=Role.NODE)
        number = 0
        while True:
            await connection.send([number.to_bytes(8, "little") * 25_000])
            number += 1

trio.run(main)
"""


async def test_a_peer_killed_in_mid_write_is_noticed_and_tears_no_message():
    before = resources()
    own = transport("n1", 0)
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        peer = subprocess.Popen([sys.executable, "-c", PEER, listener.address])  # noqa: ASYNC220  # short
        try:
            far = await listener.accept()
            expected = 0

            def check(messages):
                nonlocal expected
                for message in messages:
                    assert message == expected.to_bytes(8, "little") * 25_000
                    expected += 1

            while expected < 20:
                check(await far.receive())
            peer.send_signal(signal.SIGKILL)

            async def receive_all():
                while True:
                    check(await far.receive())

            with pytest.raises(Broken, match="node n2"):
                await receive_all()
        finally:
            peer.kill()
            peer.wait()
        nursery.cancel_scope.cancel()
    own.close()
    assert resources() == before


async def test_nothing_is_left_behind():
    async with pair() as (near, far):  # what is made once is made
        await near.send([b"x"])
        await take(far, 1)
    before = resources()
    for number in range(10):
        async with pair() as (near, far):
            await near.send([bytes(200_000)])
            if number % 5 == 0:
                await take(far, 1)
            elif number % 5 == 1:
                near.close()
            elif number % 5 == 2:
                far.fence("a test")
            elif number % 5 == 3:
                with trio.move_on_after(0.2):
                    await near.aclose()
    # And those that never came to be.
    own, other = transport("n1", 0), transport("n2", 1)
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        with pytest.raises(Rejected):
            await other.connect(nursery, listener.address, role=Role.MOUNT)
        for milliseconds in (1, 3, 5, 10, 20, 40):
            with trio.move_on_after(milliseconds / 1000):
                await other.connect(nursery, listener.address, role=Role.NODE)
        listener.close()
        nursery.cancel_scope.cancel()
    own.close()
    other.close()
    assert resources() == before


# --- Fencing


async def test_a_fenced_peers_late_write_fails_and_changes_nothing():
    async with pair() as (near, far):
        await near.send([b"in time"])
        assert await take(far, 1) == [b"in time"]
        before = bytes(far._endpoint.ring)
        far.fence("a new epoch")
        # Before the peer can hear of it, and past everything that stands between: its queue pair as it has it.
        near._endpoint.signal_next()
        near._endpoint.write(Push(((0, 4096),), Bell(False, False, 0)), near._its, 0)
        status = await completion(near)
        assert status in (verbs.IBV_WC_REM_ACCESS_ERR, verbs.IBV_WC_REM_INV_REQ_ERR)
        assert bytes(far._endpoint.ring) == before
        with pytest.raises(Broken, match="fenced: a new epoch"):
            await far.receive()
        with pytest.raises(Broken):
            await near.receive()


async def completion(connection) -> int:
    """The status of the next send that fails, as the connection itself has found it."""
    with trio.fail_after(10):
        while connection._failure is None:
            connection._poll()
            await pause(0.001)
    return int(connection._failure)


async def test_what_came_before_the_fence_is_received():
    async with pair() as (near, far):
        await near.send([b"one"])
        await near.send([b"two"])
        with trio.fail_after(5):
            while near._endpoint.done < near._endpoint.posts and not far._endpoint.poll():
                await pause(0.001)
                break
        await pause(0.05)
        far.fence("late")
        far.fence("twice does no harm")
        assert await take(far, 2) == [b"one", b"two"]
        with pytest.raises(Broken, match="late"):
            await far.receive()
        with pytest.raises(Broken, match="late"):
            await far.send([b"x"])


async def test_anothers_key_opens_nothing():
    async with pair() as (near, far), pair() as (other, unconcerned):
        before = bytes(unconcerned._endpoint.ring)
        stolen = other._its  # key and address of a ring that is not near's to write
        near._endpoint.signal_next()
        near._endpoint.write(Push(((0, 8),), Bell(False, False, 8)), stolen, 1)
        assert await completion(near) == verbs.IBV_WC_REM_ACCESS_ERR
        assert bytes(unconcerned._endpoint.ring) == before
        await other.send([b"unharmed"])
        assert await take(unconcerned, 1) == [b"unharmed"]
        del far


# --- What a new site gets wrong


def test_no_such_device():
    with pytest.raises(Unusable, match=f"no RDMA device 'mlx9_9'; there are {device_names()[0]}"):
        Device(Fabric(device="mlx9_9"))


def test_several_devices_and_none_named():
    names = device_names()
    if len(names) > 1:
        with pytest.raises(Unusable, match="name one"):
            Device(Fabric())
    else:
        Device(Fabric()).close()


def test_no_such_port():
    with pytest.raises(Unusable, match="no port 77"):
        Device(Fabric(device=device_names()[0], port=77))


async def test_a_wrong_address_is_told_before_listening():
    own = transport("n1", 0, gid="192.0.2.1")
    async with trio.open_nursery() as nursery:
        with pytest.raises(Unusable, match=r"gid = '192\.0\.2\.1'.*there are"):
            await own.listen(nursery, LOOPBACK)
    own.close()


async def test_who_cannot_tells_the_other_why():
    own, other = transport("n1", 0), transport("n2", 1, gid="192.0.2.1")
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        turned_away: list[str] = []
        own.turned_away = turned_away.append
        with pytest.raises(Rejected, match=r"no RDMA from here: gid = '192\.0\.2\.1'"):
            await other.connect(nursery, listener.address, role=Role.NODE)
        with trio.fail_after(5):
            while not turned_away:
                await pause(0.01)
        assert "node n2" in turned_away[0]
        assert "cannot use RDMA: gid = '192.0.2.1'" in turned_away[0]
        nursery.cancel_scope.cancel()
    own.close()
    other.close()


MEMLOCK = """
import encodings.idna, os, resource  # nobody may not be able to read Python itself
import trio
from storage.transport.verbs import Unusable
from tests.storage.transport.verbs.fabrics import LOOPBACK, transport

async def main():
    async with trio.open_nursery() as nursery:
        try:
            listener = await own.listen(nursery, LOOPBACK)
        except Unusable as error:
            print(error)
        else:
            print("listens")
            listener.close()

for ring_bytes in (1 << 20, 1 << 16):
    own = transport("n1", 0, ring_bytes=ring_bytes)
    if os.getuid() == 0:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (512 * 1024, 512 * 1024))
        os.setuid(65534)
    trio.run(main)
"""


def test_too_little_memory_may_be_locked():
    said = subprocess.run(
        [sys.executable, "-c", MEMLOCK], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "RLIMIT_MEMLOCK" in said[0]
    assert "may lock 524288 bytes" in said[0]
    assert "LimitMEMLOCK" in said[0]
    assert said[1:] == ["listens"]


def test_the_devices_descriptor_is_found_among_others():
    own = transport("n1", 0)
    from storage.transport.verbs.endpoint import Endpoint

    endpoints = [Endpoint(own.device, own.device.gid(None)) for _ in range(3)]
    assert len({endpoint.descriptor for endpoint in endpoints}) == 3
    for endpoint in endpoints:
        assert "infinibandevent" in os.readlink(f"/proc/self/fd/{endpoint.descriptor}")
        assert not os.get_blocking(endpoint.descriptor)
        endpoint.close()
        endpoint.close()
    own.close()


async def test_a_control_that_is_no_internet_address_does_too(tmp_path):
    own, other = transport("n1", 0), transport("n2", 1)
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, f"unix:{tmp_path}/s")
        near = await other.connect(nursery, listener.address, role=Role.NODE)
        await near.send([b"x"])
        assert await take(await listener.accept(), 1) == [b"x"]
        nursery.cancel_scope.cancel()
    own.close()
    other.close()


def test_a_default_is_enough_where_there_is_one_device():
    if len(device_names()) == 1:
        VerbsTransport(control("n1")).close()
    else:
        with pytest.raises(Unusable, match="several"):
            VerbsTransport(control("n1"))
