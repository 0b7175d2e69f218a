"""Rings carry every message once, whole and in order, and nobody sleeps for ever.

Goal: the arithmetic of room, doorbells and credits is right for every order in which things can happen. Method: both sides with
a wire between them that delivers when hypothesis says so; a sender who has no room sleeps, as in the product, until a doorbell
wakes it. What may be wrong on the wire is written by hand.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport.verbs.incoming import Incoming
from storage.transport.verbs.outgoing import Outgoing
from storage.transport.verbs.ring import (
    CREDIT,
    DOORBELLS_MAX,
    RING_BYTES_MIN,
    Bell,
    Credit,
    Kind,
    Malformed,
)

SIZE = RING_BYTES_MIN
CONTENT = random.Random(1).randbytes(1 << 20)


def content(number: int, size: int) -> bytes:
    start = number * 37 % 1000
    return CONTENT[start : start + size]


class Pair:
    """A sender and a receiver, and what is on its way between them."""

    def __init__(self, sequence: int = 0) -> None:
        self.mirror = memoryview(bytearray(SIZE))
        self.ring = memoryview(bytearray(SIZE))
        self.outgoing = Outgoing(self.mirror, sequence)
        self.incoming = Incoming(self.ring, sequence)
        self.writes: deque = deque()  # (spans, word)
        self.credits: deque = deque()  # (bytes, rings)
        self.memory = Credit(0, 0, 0).encode()
        self.sent: list[bytes] = []
        self.received: list[bytes] = []

    def send(self, size: int, parts: int = 1) -> None:
        message = content(len(self.sent), size)
        cuts = [size * i // parts for i in range(parts + 1)]
        self.sent.append(message)
        self.outgoing.put([message[a:b] for a, b in itertools.pairwise(cuts)], len(message))
        self.wake(rang=False)

    def wake(self, *, rang: bool) -> None:
        """What the writing task does."""
        self.outgoing.grant(Credit(*CREDIT.unpack(self.memory)), rang=rang)
        while push := self.outgoing.push():
            self.writes.append((push.spans, push.bell.encode()))
        # As many receives are posted at the other side.
        assert (
            len(self.writes) + self.incoming.doorbells - self.incoming.given.doorbells
            <= DOORBELLS_MAX
        )

    def deliver(self) -> None:
        if not self.writes:
            return
        spans, word = self.writes.popleft()
        unread = {(self.incoming.read + i) % SIZE for i in range(0, self.unread(), 8)}
        for offset, length in spans:
            assert not unread & set(range(offset, offset + length, 8)), "bytes lost unread"
            self.ring[offset : offset + length] = self.mirror[offset : offset + length]
        bell = Bell.decode(word)
        assert not bell.is_credit
        self.incoming.rang(bell)

    def unread(self) -> int:
        return self.incoming.arrived - self.incoming.read

    def take(self) -> None:
        self.received += [bytes(message) for message in self.incoming.take()]
        if (given := self.incoming.give()) is not None:
            credit, rings = given
            self.credits.append((credit.encode(), rings))
            assert sum(rings for _, rings in self.credits) <= 1, "one receive is posted for it"

    def credit(self) -> None:
        if self.credits:
            self.memory, rings = self.credits.popleft()
            if rings:
                self.wake(rang=True)

    def settle(self) -> None:
        while self.writes or self.credits or self.unread():
            self.deliver()
            self.take()
            self.credit()


SIZES = st.one_of(
    st.integers(0, 40),
    st.integers(0, 9000),
    st.sampled_from([0, 1, 8, SIZE // 2 - 8, SIZE - 16, SIZE - 8, SIZE - 7, SIZE, 3 * SIZE + 5]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), SIZES, st.integers(1, 3)),
        st.sampled_from([("deliver",), ("take",), ("credit",)]),
        st.tuples(st.just("burst"), st.integers(1, 150)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([0, 2**32 - 3]))
def test_every_message_arrives_once_whole_and_in_order(steps, sequence):
    pair = Pair(sequence)
    for what, *arguments in steps:
        if what == "burst":  # each with a doorbell of its own
            for _ in range(arguments[0]):
                pair.send(24)
        else:
            getattr(pair, what)(*arguments)
    pair.settle()
    assert pair.received == pair.sent
    assert pair.outgoing.queued() == 0
    copied = sum(map(len, pair.sent))
    assert pair.incoming.copied_bytes == copied  # once
    assert copied <= pair.outgoing.copied_bytes <= 2 * copied  # small ones that waited once more


def test_a_copy_a_side():
    pair = Pair()
    for size in (0, 1, 64, 5000, 20_000):
        pair.send(size)
        pair.settle()
    assert pair.outgoing.copied_bytes == pair.incoming.copied_bytes == 25_065


def test_a_message_longer_than_the_ring_comes_in_pieces():
    pair = Pair()
    pair.send(7 * SIZE + 3)
    pair.settle()
    assert pair.received == pair.sent
    # Each doorbell was for as much as there was room for.
    assert pair.incoming.doorbells <= 10


def test_what_waits_is_copied_again_only_if_it_is_small():
    pair = Pair()
    pair.send(SIZE - 8)
    pair.send(100)
    pair.send(20_000)
    pair.settle()
    assert pair.received == pair.sent
    assert pair.outgoing.copied_bytes == SIZE - 8 + 2 * 100 + 20_000


def test_many_small_messages_ring_once():
    pair = Pair()
    for number in range(100):
        pair.outgoing.put([b"%d" % number], len(b"%d" % number))
    pair.wake(rang=False)
    assert len(pair.writes) == 1
    pair.settle()
    assert pair.received == [b"%d" % number for number in range(100)]


def test_going_around_the_end_is_one_doorbell_of_two_spans():
    pair = Pair()
    pair.send(SIZE - 100)
    pair.settle()
    pair.send(200)
    (spans, _), *none = pair.writes
    assert not none
    assert [offset for offset, _ in spans] == [SIZE - 88, 0]
    assert sum(length for _, length in spans) == 208
    pair.settle()
    assert pair.received == pair.sent


def test_doorbells_run_out_before_bytes_and_come_back():
    pair = Pair()
    for _ in range(DOORBELLS_MAX + 30):
        pair.send(8)
    assert len(pair.writes) == DOORBELLS_MAX
    assert Bell.decode(pair.writes[-1][1]).waits
    assert not any(Bell.decode(word).waits for _, word in list(pair.writes)[:-1])
    assert pair.outgoing.queued() == 30 * 16
    pair.settle()
    assert pair.received == pair.sent


def test_a_silent_credit_comes_at_a_quarter_and_a_loud_one_at_once():
    pair = Pair()
    pair.send(SIZE // 4 - 16)
    pair.deliver()
    pair.take()
    assert not pair.credits
    pair.send(0)
    pair.deliver()
    pair.take()
    assert [rings for _, rings in pair.credits] == [False]
    pair.send(SIZE)  # more than there is room for
    pair.deliver()
    pair.take()
    assert [rings for _, rings in pair.credits] == [False, True]


def test_to_the_byte():
    pair = Pair(sequence=7)
    pair.outgoing.put([b"abc", b"de"], 5)
    pair.outgoing.put([], 0)
    assert bytes(pair.mirror[:24]) == struct.pack("<II8sII", 5, 7, b"abcde", 0, 8)
    push = pair.outgoing.push()
    assert push is not None
    assert push.spans == ((0, 24),)
    assert push.bell.encode() == 3
    assert Bell(is_credit=False, waits=True, position=24).encode() == 3 | 1 << 30
    assert Bell(is_credit=True, waits=False, position=0).encode() == 1 << 31
    assert Credit(24, 1, 2).encode() == struct.pack("<QQQ", 24, 1, 2)


@given(st.booleans(), st.booleans(), st.integers(0, 2**60))
def test_bells_there_and_back(is_credit, waits, eighth):
    bell = Bell(is_credit, waits, eighth * 8)
    assert Bell.decode(bell.encode()) == bell._replace(position=eighth * 8 % 2**33)


@given(st.integers(0, 2**32 - 1))
def test_every_word_is_some_bell(word):
    assert Bell.decode(word).encode() == word


def test_a_probe_is_no_message():
    pair = Pair()
    pair.outgoing.put([bytes(4096)], 4096, Kind.PROBE)
    pair.send(3)
    pair.settle()
    assert pair.received == pair.sent
    assert pair.incoming.probed == 4096


def frame(word: int, sequence: int, body: bytes = b"") -> bytes:
    return struct.pack("<II", word, sequence) + body + bytes(-len(body) % 8)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (frame(5, 1, b"abcde"), "frame 0 was to come, here is 1"),
        (frame(MESSAGE_BYTES_MAX + 1, 0), "kind 0"),
        (frame(2 << 28, 0), "an offer of 0 bytes"),
        (frame(2 << 28 | 40, 0), "kind 2"),
        (frame(3 << 28, 0), "kind 3"),
        (frame(15 << 28 | 3, 0, b"abc"), "kind 15"),
        (frame(1 << 28 | 4096, 0, b"abc"), "half a probe"),
        (frame(1 << 28 | 2 * SIZE, 0, b"abc"), "kind 1"),
        (bytes(8) + frame(9, 9), "frame 1 was to come, here is 9"),
    ],
)
def test_what_is_no_entry_is_refused(written, why):
    pair = Pair()
    pair.ring[: len(written)] = written
    pair.incoming.rang(Bell(False, False, len(written)))
    with pytest.raises(Malformed, match=why):
        pair.incoming.take()


def test_a_doorbell_for_more_than_there_is_room_for_is_refused():
    pair = Pair()
    with pytest.raises(Malformed, match="room"):
        pair.incoming.rang(Bell(False, False, SIZE + 8))
    pair.incoming.rang(Bell(False, False, SIZE))
    with pytest.raises(Malformed, match="room"):
        pair.incoming.rang(Bell(False, False, 8))  # backwards is very far on


@pytest.mark.parametrize(
    "credit",
    [
        Credit(24, 1, 0),
        Credit(8, 2, 0),
        Credit(4, 1, 0),
        Credit(0, 1, 0),
        Credit(2**64 - 1, 1, 0),
        Credit(8, 1, 1),
    ],
)
def test_a_credit_that_cannot_be_is_refused(credit):
    pair = Pair()
    pair.send(8)
    pair.deliver()
    pair.outgoing.grant(Credit(8, 0, 0), rang=False)
    with pytest.raises(Malformed, match="credit"):
        pair.outgoing.grant(credit, rang=False)


def test_a_full_queue_has_no_room_and_an_empty_one_for_anything():
    pair = Pair()
    assert pair.outgoing.room(MESSAGE_BYTES_MAX)
    pair.outgoing.put([bytes(SEND_QUEUE_BYTES)], SEND_QUEUE_BYTES)
    assert not pair.outgoing.room(1)
    pair.outgoing.clear()
    assert pair.outgoing.queued() == 0
    assert pair.outgoing.room(MESSAGE_BYTES_MAX)
