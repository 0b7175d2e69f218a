"""The bytes of the wire (FORMAT, "Transport").

Goal: whatever the pieces in which bytes are written and read, the messages are the same; and what is held is bounded, whatever
comes. Method: properties against the plain list of messages, pieces chosen by hypothesis.
"""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport.framing import (
    CHUNK_BYTES,
    GREETING_BYTES,
    GROWTH_BYTES,
    Greeting,
    Inbox,
    Kind,
    Malformed,
    Outbox,
    control,
    goodbye,
)
from tests.storage.transport.kinds import node

sizes = st.one_of(
    st.integers(0, 40), st.sampled_from([8192, 8193, 65_532, 65_536, 65_537, 200_000])
)
messages = st.lists(
    st.lists(st.tuples(sizes, st.integers(0, 255)), max_size=3).map(
        lambda parts: [bytes([fill]) * size for size, fill in parts]
    ),
    max_size=12,
)


def read(inbox: Inbox, data: bytes, choose) -> list[bytes]:
    """Give bytes to an inbox in pieces of chosen sizes; the messages that came."""
    out = []
    while data and inbox.trouble is None:
        space = inbox.space()
        assert len(space) > 0
        count = min(len(space), len(data), choose())
        space[:count] = data[:count]
        data = data[count:]
        out += [bytes(message) for message in inbox.filled(count)]
    return out


def written(outbox: Outbox, choose) -> bytes:
    data = b""
    while outbox.size:
        buffers = outbox.gather()
        assert 0 < sum(map(len, buffers)) <= outbox.size
        count = min(sum(map(len, buffers)), choose())
        data += b"".join(buffers)[:count]
        outbox.advance(count)
    return data


@given(messages, st.data())
def test_messages_survive_any_pieces(sent, data):
    def choose():
        return data.draw(st.sampled_from([1, 2, 3, 5, 1000, 8192, 65_536, 10**6]))

    outbox = Outbox()
    for message in sent:
        outbox.put(message, sum(map(len, message)))
        if data.draw(st.booleans()):
            outbox.put_control(control(Kind.HEARTBEAT))
    expected = [b"".join(message) for message in sent]
    inbox = Inbox()
    # Tiny pieces of large messages would take for ever: at most 2,000 steps of any size.
    stream = written(outbox, lambda: max(choose(), outbox.size // 500))
    assert read(inbox, stream, lambda: max(choose(), len(stream) // 500)) == expected
    assert not inbox.inside_message()
    assert inbox.trouble is None


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_messages_or_trouble(data, step):
    inbox = Inbox()
    got = read(inbox, data, lambda: step)
    assert sum(map(len, got)) <= len(data)
    assert len(inbox.space()) <= GROWTH_BYTES


def test_who_announces_a_long_message_costs_what_they_send():
    inbox = Inbox()
    held = 0
    head = struct.pack("<I", MESSAGE_BYTES_MAX)
    read(inbox, head, lambda: 4)
    sent = len(head)
    while sent < MESSAGE_BYTES_MAX + 4:
        space = inbox.space()
        held = len(space) + sent  # what is filled, and what waits to be
        assert held <= max(GROWTH_BYTES, 4 * sent, CHUNK_BYTES)
        step = min(len(space), 50_000, MESSAGE_BYTES_MAX + 4 - sent)
        sent += step
        got = inbox.filled(step)
    assert [len(message) for message in got] == [MESSAGE_BYTES_MAX]


def test_long_messages_share_memory_that_nobody_looks_at():
    inbox = Inbox()
    length = 1 << 20

    def take(fill: int) -> memoryview:
        outbox = Outbox()
        outbox.put([bytes([fill]) * length], length)
        stream = written(outbox, lambda: outbox.size)
        while True:
            space = inbox.space()
            count = min(len(space), len(stream), 300_000)
            space[:count] = stream[:count]
            stream = stream[count:]
            if messages := inbox.filled(count):
                return messages[0]

    held = take(1)
    for fill in range(2, 20):
        assert take(fill)[-1] == fill
    assert inbox.landings.made == 2  # The first is held all the time.
    assert held == bytes([1]) * length
    inbox.landings.let_go()
    take(20)
    assert inbox.landings.made == 3


def test_a_queue_has_room_for_its_bytes_and_one_message():
    outbox = Outbox()
    assert outbox.room(MESSAGE_BYTES_MAX)
    outbox.put([b"x"], 1)
    assert not outbox.room(MESSAGE_BYTES_MAX)
    assert outbox.room(SEND_QUEUE_BYTES - outbox.size)
    assert not outbox.room(SEND_QUEUE_BYTES - outbox.size + 1)
    outbox.clear()
    assert outbox.size == 0
    assert outbox.room(MESSAGE_BYTES_MAX)


def test_large_buffers_are_not_copied():
    large = bytes(100_000)
    outbox = Outbox()
    outbox.put([b"head", large, b"tail"], len(large) + 8)
    assert [len(buffer) for buffer in outbox.gather()] == [8, 100_000, 4]
    assert outbox.gather()[1].obj is large


def test_nothing_counts_behind_a_farewell():
    inbox = Inbox()
    data = b"\x01\0\0\0a" + goodbye("done") + b"\x01\0\0\0b" + b"\xff" * 10
    assert read(inbox, data, lambda: 1000) == [b"a"]
    assert inbox.farewell == "done"
    assert inbox.trouble is None


def test_a_greeting_to_the_byte():
    data = Greeting.of(node("n1"), 3000).encode()
    uri = b"cascadefs://c1/node/n1?uid=0-4294967294&gid=0-4294967294"
    assert data == b"cascade\n\x01\0\x01\0\xb8\x0b\0\0" + struct.pack("<I", len(uri)) + uri
    assert Greeting.body_length(data[:GREETING_BYTES]) == len(uri)
    greeting, who = Greeting.decode(data)
    assert who == node("n1")
    assert greeting == Greeting(1, 1, 3000, uri.decode())


@pytest.mark.parametrize("length", [4097, 2**32 - 1])
def test_a_greeting_does_not_make_us_take_more_memory_than_an_identity(length):
    head = Greeting.of(node("n1"), 3000).encode()[: GREETING_BYTES - 4]
    assert Greeting.body_length(head + struct.pack("<I", 4096)) == 4096
    with pytest.raises(Malformed, match="damaged greeting"):
        Greeting.body_length(head + struct.pack("<I", length))


@given(st.binary(min_size=16, max_size=16), st.booleans())
def test_any_bytes_are_a_greeting_or_malformed(data, begins_well):
    data = (b"cascade\n" if begins_well else data[:8]) + data[4:]
    try:
        length = Greeting.body_length(data)
    except Malformed:
        return
    assert 0 <= length <= 4096


@given(st.binary(max_size=200))
def test_any_identity_is_one_or_malformed(body):
    head = Greeting.of(node("n1"), 3000).encode()[: GREETING_BYTES - 4]
    with contextlib.suppress(Malformed):
        who = Greeting.decode(head + struct.pack("<I", len(body)) + body)[1]
        assert who.cluster


def test_a_long_goodbye_is_cut():
    assert len(goodbye("x" * 5000)) == 4 + 1024


@pytest.mark.parametrize("kind", [4, 9, 15])
def test_a_kind_that_no_version_has(kind):
    inbox = Inbox()
    assert read(inbox, struct.pack("<I", kind << 28), lambda: 4) == []
    assert str(kind) in str(inbox.trouble)
