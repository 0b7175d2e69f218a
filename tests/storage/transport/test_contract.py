"""Every kind of transport keeps its contract (`storage.transport.contract`).

Goal: order, wholeness, bounds, batching, life and identity are the same whatever carries the messages. Method: one suite over
`kinds.KINDS`; what is bounded or batched is counted, nothing is timed.
"""

from __future__ import annotations

import contextlib
import random
import re

import pytest
import trio
import trio.testing

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport import Broken, Rejected, Role
from tests.storage.transport.kinds import CLUSTER, node, pause, take

SIZES = [
    0,
    1,
    3,
    4,
    5,
    8191,
    8192,
    8193,
    16383,
    16384,
    65531,
    65532,
    65533,
    65536,
    262_144,
    1_048_577,
]
KERNEL_BYTES_MAX = 32 * 1024 * 1024
"""More than any kernel's socket buffers of one connection (tcp_rmem, tcp_wmem)."""


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_messages_arrive_whole_and_in_order(kind):
    messages = [content(size, size) for size in [*SIZES, *reversed(SIZES)]]
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            for message in messages:
                await near.send([message])

        assert await take(far, len(messages)) == messages
        assert far.counters.received_messages == near.counters.sent_messages == len(messages)
        assert far.counters.received_bytes == near.counters.sent_bytes == sum(map(len, messages))


async def test_a_message_of_several_buffers_arrives_as_one(kind):
    parts = [b"", b"head", bytearray(content(20_000, 1)), memoryview(content(100_000, 2))[5:], b"x"]
    async with kind.pair() as (near, far):
        await near.send(parts)
        await near.send([])
        assert await take(far, 2) == [b"".join(parts), b""]


async def test_what_nobody_waits_for_keeps_its_place(kind):
    messages = [b"a", bytes(100_000), b"b", b"", bytes(70_000), b"c"]
    async with kind.pair() as (near, far):
        for message in messages:
            await near.send([message], bulk=True)
        near.send_nowait([b"last"])
        assert await take(far, 7) == [*messages, b"last"]


async def test_the_longest_message_arrives_and_a_longer_one_is_no_message(kind):
    longest = content(MESSAGE_BYTES_MAX, 3)
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match=str(MESSAGE_BYTES_MAX + 1)):
            await near.send([longest, b"x"])
        with pytest.raises(ValueError, match=str(MESSAGE_BYTES_MAX + 1)):
            near.send_nowait([longest, b"x"])
        nursery.start_soon(near.send, [longest])
        assert await take(far, 1) == [longest]


async def test_traffic_both_ways_at_once(kind):
    count = 150

    async def send(connection, seed):
        sizes = random.Random(seed)
        for number in range(count):
            await connection.send([content(sizes.choice([0, 50, 5_000, 100_000]), seed + number)])

    async def receive(connection, seed):
        sizes = random.Random(seed)
        expected = [content(sizes.choice([0, 50, 5_000, 100_000]), seed + n) for n in range(count)]
        assert await take(connection, count) == expected

    async with kind.pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(send, near, 1000)
        nursery.start_soon(send, far, 2000)
        nursery.start_soon(receive, near, 2000)
        nursery.start_soon(receive, far, 1000)


async def test_what_was_received_stays_as_it_is(kind):
    messages = [content(size, size) for size in (10, 70_000, 10, 60_000, 10) * 5]
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            for message in messages:
                await near.send([message])

        kept = []
        while len(kept) < len(messages):
            kept += await far.receive()
        assert [bytes(view) for view in kept] == messages
        assert all(view.readonly for view in kept)


async def test_a_turns_messages_leave_in_one_call(kind):
    async with kind.pair() as (near, far):
        before = near.counters.sent_calls
        for number in range(500):
            await near.send([b"%d" % number])
        assert await take(far, 500) == [b"%d" % number for number in range(500)]
        assert near.counters.sent_calls - before <= 2  # a heartbeat may come between
        assert far.counters.received_calls <= 3


async def test_a_slow_receiver_makes_the_sender_wait(kind):
    message = content(65_536, 5)
    total = 4 * KERNEL_BYTES_MAX // len(message)
    sent = 0

    async def send():
        nonlocal sent
        for _ in range(total):
            await near.send([message])
            sent += 1
            assert near.queued() <= SEND_QUEUE_BYTES + len(message) + 64

    async with kind.pair() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            settled = -1
            while settled != sent:  # until nothing moves any more
                settled = sent
                await pause(0.05)
            assert 0 < sent * len(message) <= KERNEL_BYTES_MAX
            with pytest.raises(trio.WouldBlock):
                near.send_nowait([message])
            nursery.cancel_scope.cancel()
        # The message that waited was not sent at all; the rest comes, whole.
        assert near.counters.sent_messages == sent
        assert await take(far, sent) == [message] * sent
        near.send_nowait([b"and on"])
        assert await take(far, 1) == [b"and on"]


async def test_a_message_larger_than_the_queue_goes_when_the_queue_is_empty(kind):
    big = content(SEND_QUEUE_BYTES + 1, 6)
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(near.send, [b"first"])
        nursery.start_soon(near.send, [big])
        assert sorted(await take(far, 2), key=len) == [b"first", big]


async def test_cancelled_senders_sent_nothing_and_tear_nothing(kind):
    choose = random.Random(7)
    async with kind.pair() as (near, far):
        await fill(near)
        filler = near.counters.sent_messages
        done: list[int] = []

        async def send(number, scope):
            with scope:
                await near.send([b"%d:" % number, content(50_000, number)])
                done.append(number)

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(40)]
            for number, scope in enumerate(scopes):
                nursery.start_soon(send, number, scope)
            await trio.testing.wait_all_tasks_blocked()
            for scope in choose.sample(scopes, 15):
                scope.cancel()
            nursery.start_soon(near.send, [b"end"])
            received = await take_until(far, b"end")
        assert sum(scope.cancelled_caught for scope in scopes) + len(done) == len(scopes)
        assert 25 <= len(done) < len(scopes)
        expected = [b"%d:" % n + content(50_000, n) for n in done]  # in the order they went
        assert received[filler:] == [*expected, b"end"]


async def take_until(connection, last):
    messages: list[bytes] = []
    while last not in messages[-1:]:
        messages += await take(connection, 1)
    return messages


async def fill(connection):
    """Send until neither the queue nor the kernel takes more."""

    async def send(size):
        while True:
            connection.send_nowait([bytes(size)])
            await pause(0.0005)

    for size in (65_536, 4_096, 100):
        with pytest.raises(trio.WouldBlock):
            await send(size)


async def test_senders_that_wait_go_in_their_order(kind):
    async with kind.pair() as (near, far):
        await fill(near)
        filler = near.counters.sent_messages
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(near.send, [b"%d" % number])
                await trio.testing.wait_all_tasks_blocked()
            messages = await take(far, filler + 20)
        assert messages[filler:] == [b"%d" % number for number in range(20)]


async def test_a_cancelled_receive_loses_nothing(kind):
    async with kind.pair() as (near, far):
        with trio.move_on_after(0.02):
            await far.receive()
        received: list[bytes] = []

        async def receive():
            while len(received) < 200:
                with trio.move_on_after(0.0005):
                    received.extend(bytes(m) for m in await far.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for number in range(200):
                await near.send([b"%d" % number, bytes(number * 7)])
                if number % 10 == 0:
                    await pause(0.001)
        assert received == [b"%d" % n + bytes(n * 7) for n in range(200)]


async def test_receiving_is_a_checkpoint_even_if_something_is_there(kind):
    async with kind.pair() as (near, far):
        await near.send([b"there"])
        await pause(0.05)
        with trio.CancelScope() as scope:
            scope.cancel()
            await far.receive()
        assert scope.cancelled_caught
        assert await take(far, 1) == [b"there"]


async def test_one_task_receives_at_a_time(kind):
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(take, far, 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await far.receive()
        await near.send([b"x"])


async def test_closed_with_care_everything_arrives_first(kind):
    messages = [content(size, size) for size in (10, 300_000, 0, 5)]
    async with kind.pair() as (near, far), trio.open_nursery() as nursery:
        # What we have not read must not cost the peer what we sent (a reset would).
        await far.send([content(100_000, 9)])
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def send():
            for message in messages:
                await near.send([message])
            await near.aclose()

        assert await take(far, len(messages)) == messages
        with pytest.raises(Broken, match="node n2"):
            await far.receive()
        assert isinstance(far.broken(), Broken)
        with pytest.raises(Broken, match="node n2"):
            await far.send([b"x"])


async def test_a_closed_connection_says_so_and_closes_again(kind):
    async with kind.pair() as (near, far):
        assert near.broken() is None
        near.close("enough")
        near.close("again")
        await near.aclose()
        for call in (near.send([b"x"]), near.receive()):
            with pytest.raises(Broken, match="enough"):
                await call
        with pytest.raises(Broken, match="enough"):
            near.send_nowait([b"x"])
        with pytest.raises(Broken):
            await far.receive()


async def test_closing_wakes_those_who_wait(kind):
    async with kind.pair() as (near, far):
        await fill(near)
        woken = []

        async def expect(function, *arguments):
            with pytest.raises(Broken, match="enough"):
                await function(*arguments)
            woken.append(function)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, near.receive)
            nursery.start_soon(expect, near.send, [bytes(SEND_QUEUE_BYTES)])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(expect, near.send, [b"behind it"])
            await trio.testing.wait_all_tasks_blocked()
            near.close("enough")
        assert len(woken) == 3
        assert near.queued() == 0
        far.close()


async def test_a_block_closes_its_connection(kind):
    async with kind.pair() as (near, far):
        async with near:
            await near.send([b"last"])
        assert await take(far, 1) == [b"last"]
        with pytest.raises(Broken):
            await far.receive()

    async with kind.pair() as (near, far):
        with pytest.raises(LookupError, match="trouble"):
            async with near:
                raise LookupError("trouble")
        assert near.broken() is not None
        with pytest.raises(Broken):
            await far.receive()


async def test_cancelling_the_nursery_closes(kind):
    async with trio.open_nursery() as outer:
        listener = await kind.make(node("n1"), 10_000).listen(outer, kind.address)
        async with trio.open_nursery() as inner:
            near = await kind.make(node("n2"), 10_000).connect(
                inner, listener.address, role=Role.NODE
            )
            far = await listener.accept()
            inner.cancel_scope.cancel()
        assert "cancelled" in str(near.broken())
        with pytest.raises(Broken):
            await far.receive()
        outer.cancel_scope.cancel()


async def test_an_idle_connection_lives(kind):
    async with kind.pair(silence_ms=100) as (near, far):
        with trio.move_on_after(0.5):
            await near.receive()
        with trio.move_on_after(0.5):
            await trio.sleep_forever()  # nobody receives, and heartbeats lie unread
        assert near.broken() is None
        assert far.broken() is None
        await far.send([b"x"])
        assert await take(near, 1) == [b"x"]


async def test_each_knows_the_other(kind):
    async with kind.pair() as (near, far):
        assert near.peer == node("n1")
        assert far.peer == node("n2")
        assert near.address
        assert far.address


@pytest.mark.parametrize(
    ("dialler", "role", "name", "why"),
    [
        (node("n2"), Role.MOUNT, None, "a? ?mount.*node n1"),
        (node("n2"), Role.NODE, "n3", "node n3 .*node n1"),
        (node("n2", "c2"), Role.NODE, None, f"cluster {CLUSTER}.*cluster c2"),
    ],
)
async def test_the_wrong_one_is_rejected(kind, dialler, role, name, why):
    if kind.name in ("tls", "verbs") and dialler.cluster != CLUSTER:
        why = "authority"
    async with trio.open_nursery() as nursery:
        listener = await kind.make(node("n1"), 10_000).listen(nursery, kind.address)
        with pytest.raises(Rejected, match=re.compile(why)):
            await kind.make(dialler, 10_000).connect(
                nursery, listener.address, role=role, name=name
            )
        near = await kind.make(node("n2"), 10_000).connect(
            nursery, listener.address, role=Role.NODE
        )
        await near.send([b"the listener lives"])
        far = await listener.accept()
        assert await take(far, 1) == [b"the listener lives"]
        nursery.cancel_scope.cancel()


async def test_where_nobody_listens_nobody_answers(kind):
    async with trio.open_nursery() as nursery:
        listener = await kind.make(node("n1"), 10_000).listen(nursery, kind.address)
        near = await kind.make(node("n2"), 10_000).connect(
            nursery, listener.address, role=Role.NODE
        )
        far = await listener.accept()
        listener.close()
        listener.close()
        with pytest.raises(Broken, match="listening"):
            await listener.accept()
        with pytest.raises(Broken, match=re.escape(listener.address)):
            await kind.make(node("n2"), 10_000).connect(nursery, listener.address, role=Role.NODE)
        await far.send([b"accepted connections live on"])
        assert await take(near, 1) == [b"accepted connections live on"]
        nursery.cancel_scope.cancel()


async def test_a_hundred_connections(kind):
    async with trio.open_nursery() as nursery:
        listener = await kind.make(node("n1"), 10_000).listen(nursery, kind.address)
        dialler = kind.make(node("n2"), 10_000)

        async def echo(connection):
            while connection.broken() is None:
                with contextlib.suppress(Broken):
                    for message in await connection.receive():
                        await connection.send([message])

        async def serve():
            while True:
                nursery.start_soon(echo, await listener.accept())

        async def talk(number):
            async with await dialler.connect(
                nursery, listener.address, role=Role.NODE
            ) as connection:
                for turn in range(5):
                    await connection.send([b"%d %d" % (number, turn), bytes(1000)])
                    assert await take(connection, 1) == [b"%d %d" % (number, turn) + bytes(1000)]

        nursery.start_soon(serve)
        async with trio.open_nursery() as talkers:
            for number in range(100):
                talkers.start_soon(talk, number)
        nursery.cancel_scope.cancel()
