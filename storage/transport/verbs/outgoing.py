"""The sender's end of a ring: messages come in, pushes come out (`ring`). Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from storage.limits import SEND_QUEUE_BYTES
from storage.transport.verbs.ring import (
    ALIGNMENT_BYTES,
    DOORBELLS_MAX,
    HEAD,
    HEAD_BYTES,
    LENGTH_BITS,
    RING_BYTES_MIN,
    SEQUENCE_MASK,
    SHARED_BYTES_MAX,
    Bell,
    Credit,
    Kind,
    Malformed,
    Offer,
    padded,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = ["Outgoing", "Push"]

COPY_BYTES_MAX = 8 * 1024
"""Buffers up to this size are copied once more while they wait for room: one piece of many is laid down faster than many."""

PUSH_BYTES_MAX = 256 * 1024
"""What one WRITE takes at most: so that the card moves one part of a long message while the next is copied."""

EAGER_BYTES_MAX = 64 * 1024
"""Messages up to this are laid down as they are put; of longer ones each part when it is its turn to be pushed."""


class Push(NamedTuple):
    """Bytes of the mirror to write at the same offsets of the ring; the bell goes with the last span."""

    spans: tuple[tuple[int, int], ...]  # offset, length; two where it goes around the end
    bell: Bell


class Outgoing:
    """The sender's side: messages come in, pushes come out.

    Messages that find no room in the ring, and long ones, wait and are laid down as they are pushed, in pieces if need be: a message
    may be longer than the ring. Long buffers wait as references, small ones are copied behind each other.

    Invariant: pushed <= tail <= credit.read + size, and rung <= credit.doorbells + DOORBELLS_MAX.
    """

    __slots__ = (
        "_backlog",
        "_gathering",
        "_mirror",
        "_sequence",
        "_size",
        "_waits",
        "backlog_bytes",
        "copied_bytes",
        "credit",
        "offered",
        "pushed",
        "rung",
        "tail",
    )

    def __init__(self, mirror: memoryview, sequence: int) -> None:
        self._mirror = mirror
        self._size = len(mirror)
        assert self._size & (self._size - 1) == 0
        assert self._size >= RING_BYTES_MIN
        self._sequence = sequence  # of the next frame
        self._backlog: deque[memoryview] = deque()
        self._gathering = bytearray()  # the end of it, while it is small messages
        self.backlog_bytes = 0
        self.tail = 0  # laid into the mirror
        self.pushed = 0  # handed out by `push`
        self.rung = 0  # doorbells
        self.offered = 0
        self.credit = Credit(0, 0, 0)
        self._waits = False  # we said so, and no credit rang since
        self.copied_bytes = 0

    def queued(self) -> int:
        """Bytes that were put and have not been pushed."""
        return self.tail - self.pushed + self.backlog_bytes

    def room(self, length: int) -> bool:
        """Whether a message of this length may be put: one always may if nothing waits.

        Otherwise what the receiver has not taken counts, also what is in its ring: a ring of the usual size is all the queue
        there is, and what goes straight into it is not copied twice.
        """
        if self.tail == self.pushed and not self.backlog_bytes:
            return True
        held = self.tail - self.credit.read + self.backlog_bytes
        return held + HEAD_BYTES + padded(length) <= max(SEND_QUEUE_BYTES, self._size)

    def put(self, message: Sequence[Buffer], length: int, kind: Kind = Kind.MESSAGE) -> None:
        """Add a message whose buffers have this length together."""
        sequence = self._sequence
        self._sequence = sequence + 1 & SEQUENCE_MASK
        need = HEAD_BYTES + (length + 7 & -8)
        if self.backlog_bytes:
            self._make_way(need)
        tail, size = self.tail, self._size
        offset = tail & size - 1
        if (
            need <= EAGER_BYTES_MAX
            and not self.backlog_bytes
            and tail + need <= self.credit.read + size
            and offset + need <= size
        ):
            mirror = self._mirror
            HEAD.pack_into(mirror, offset, kind << LENGTH_BITS | length, sequence)
            at = offset + HEAD_BYTES
            for buffer in message:
                behind = at + len(buffer)
                mirror[at:behind] = buffer
                at = behind
            self.tail = tail + need
            self.copied_bytes += length
            return
        gathering = self._gathering
        gathering += HEAD.pack(kind << LENGTH_BITS | length, sequence)
        for buffer in message:
            if len(buffer) <= COPY_BYTES_MAX:
                gathering += buffer
                self.copied_bytes += len(buffer)
            else:
                self._seal()
                self._backlog.append(memoryview(buffer))
                gathering = self._gathering
        gathering += bytes(padded(length) - length)
        if (
            len(gathering) >= SHARED_BYTES_MAX
        ):  # memory of this size is used again, not asked of the kernel
            self._seal()
        self.backlog_bytes += need
        self.copied_bytes += length

    def offer(self, offer: Offer) -> None:
        """Add what stands for a message that is to be fetched."""
        data = offer.encode()
        self.put([data], len(data), Kind.OFFER)
        self.offered += 1

    def _make_way(self, need: int) -> None:
        """Lay down what waits if there is room for that and so much more: else what comes now is copied twice."""
        room = self.credit.read + self._size - self.tail
        if need <= EAGER_BYTES_MAX and self.backlog_bytes + need <= room:
            self._lay(self.backlog_bytes)

    def _seal(self) -> None:
        if self._gathering:
            self._backlog.append(memoryview(self._gathering))
            self._gathering = bytearray()

    def _lay(self, bytes_max: int) -> None:
        """Lay down as much of the backlog as there is room for, up to that many bytes, a multiple of eight."""
        self._seal()
        backlog, size = self._backlog, self._size
        room = min(self.credit.read + size - self.tail, bytes_max)
        while backlog and room:
            part = backlog[0]
            offset = self.tail & size - 1
            count = min(len(part), room, size - offset)
            self._mirror[offset : offset + count] = part[:count]
            if count == len(part):
                backlog.popleft()
            else:
                backlog[0] = part[count:]
            self.tail += count
            room -= count
            self.backlog_bytes -= count
        # A message ends at a multiple of eight, and so does room: nothing is ever pushed that ends inside a word.
        assert self.tail % ALIGNMENT_BYTES == 0

    def push(self) -> Push | None:
        """What to write next; None if there is nothing, or no credit for it."""
        if self.rung - self.credit.doorbells == DOORBELLS_MAX:
            return None
        if self.backlog_bytes and (lacks := PUSH_BYTES_MAX - (self.tail - self.pushed)) > 0:
            self._lay(lacks)
        count = min(self.tail - self.pushed, PUSH_BYTES_MAX)
        if not count:
            return None
        size = self._size
        offset = self.pushed & size - 1
        first = min(count, size - offset)
        spans: tuple[tuple[int, int], ...] = ((offset, first),)
        if first < count:
            spans = ((offset, first), (0, count - first))
        self.pushed += count
        self.rung += 1
        is_last = (
            self.pushed == self.credit.read + size
            or self.rung == self.credit.doorbells + DOORBELLS_MAX
        )
        # One at a time: the credit that answers is a doorbell for which this side has posted one receive.
        waits = is_last and not self._waits
        self._waits = self._waits or waits
        return Push(spans, Bell(is_credit=False, waits=waits, position=self.pushed))

    def grant(self, credit: Credit, *, rang: bool) -> None:
        """The receiver's latest credit, as it stands in our memory; `rang`: it came with a doorbell.

        Raises:
            Malformed: It gives back what was not sent, or takes back what it gave.
        """
        if rang:
            self._waits = False
        if credit == self.credit:
            return
        if not (self.credit.read <= credit.read <= self.pushed) or (credit.read % ALIGNMENT_BYTES):
            raise Malformed(f"a credit for byte {credit.read} of {self.pushed}")
        if not self.credit.doorbells <= credit.doorbells <= self.rung:
            raise Malformed(f"a credit for doorbell {credit.doorbells} of {self.rung}")
        if not self.credit.fetched <= credit.fetched <= self.offered:
            raise Malformed(f"a credit for offer {credit.fetched} of {self.offered}")
        self.credit = credit

    def clear(self) -> None:
        """Forget what waits."""
        self._backlog.clear()
        self._gathering = bytearray()
        self.backlog_bytes = 0
        self.tail = self.pushed
