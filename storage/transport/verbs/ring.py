"""Rings in the receiver's memory, to the byte (FORMAT, "Rings"). Pure: memory is given, nothing is posted.

Each direction of a connection is a stream of bytes laid into a ring that the receiver owns and the sender writes. The
sender keeps a *mirror* of it, equal offset by equal offset: a message is copied there as it is sent, and one RDMA WRITE takes
over all that is new. So a message is copied once on either side, whatever its length, and one *doorbell* (the
receiver's completion) is for as many messages as have gathered.

Positions count bytes since the beginning of the connection and never go back; position modulo size is an offset.
Everything starts at multiples of eight bytes, so a head never straddles the end.

Room: the receiver tells how far it has read and how many doorbells it has taken (a *credit*). A sender that uses up what it
has says so with its last doorbell (*waits*), and is woken by the next credit, which is then a doorbell itself; all
other credits are written silently. Nobody wakes a sender that is not waiting, and nobody who waits is missed: the last
doorbell is behind every byte it waits for.

Sources: rings written one-sided as FaRM has them (Dragojević et al., NSDI 2014, section 4).
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport.verbs.landing import Landings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = [
    "CREDIT_BYTES",
    "DOORBELLS_MAX",
    "HEAD_BYTES",
    "RING_BYTES_MAX",
    "RING_BYTES_MIN",
    "Bell",
    "Credit",
    "Incoming",
    "Kind",
    "Malformed",
    "Offer",
    "Outgoing",
    "Push",
]

ALIGNMENT_BYTES: Final = 8
HEAD = struct.Struct("<II")
HEAD_BYTES: Final = HEAD.size
LENGTH_BITS = 28
LENGTH_MASK = 2**LENGTH_BITS - 1
SEQUENCE_MASK = 2**32 - 1

CREDIT = struct.Struct("<QQQ")
CREDIT_BYTES: Final = CREDIT.size

OFFER = struct.Struct("<QIIQQ")

RING_BYTES_MIN: Final = 64 * 1024
RING_BYTES_MAX: Final = 1 << 30
"""A quarter of what the 30 bits of a doorbell tell apart (8 GiB), and far more than anybody registers."""

DOORBELLS_MAX: Final = 64
"""Doorbells on their way: as many receives are posted, so the card never finds none (no RNR NAK)."""

COPY_BYTES_MAX = 8 * 1024
"""Buffers up to this size are copied once more while they wait for room: one piece of many is laid down faster than many."""

SHARED_BYTES_MAX = 64 * 1024
"""Small messages are copied out of the ring together, up to this; so keeping one keeps no more (contract)."""

PUSH_BYTES_MAX = 256 * 1024
"""What one WRITE takes at most: so that the card moves one part of a long message while the next is copied."""

EAGER_BYTES_MAX = 64 * 1024
"""Messages up to this are laid down as they are put; of longer ones each part when it is its turn to be pushed."""

POSITION_BITS = 30
WAITS = 1 << 30
IS_CREDIT = 1 << 31

assert MESSAGE_BYTES_MAX <= LENGTH_MASK
assert RING_BYTES_MAX < 2 ** (POSITION_BITS + 3)


class Kind(enum.IntEnum):
    """What a frame of the ring is."""

    MESSAGE = 0
    PROBE = 1  # bytes of no meaning, to see whether they arrive
    OFFER = 2  # where the message lies that has this place in the order


class Malformed(Exception):
    """The ring does not hold what a peer of ours writes."""


class Bell(NamedTuple):
    """The 32 bits of immediate data that ring at the other side."""

    is_credit: bool
    waits: bool
    position: int  # of the last byte written; modulo 2**33

    def encode(self) -> int:
        """As a number; the card carries it in network order."""
        assert self.position % ALIGNMENT_BYTES == 0
        word = self.position // ALIGNMENT_BYTES & (1 << POSITION_BITS) - 1
        return word | WAITS * self.waits | IS_CREDIT * self.is_credit

    @classmethod
    def decode(cls, word: int) -> Bell:
        """The other way; every 32 bits are some bell."""
        position = (word & (1 << POSITION_BITS) - 1) * ALIGNMENT_BYTES
        return cls(bool(word & IS_CREDIT), bool(word & WAITS), position)


class Credit(NamedTuple):
    """How much of its ring a receiver has used up, since the beginning: what a sender may write again."""

    read: int  # bytes
    doorbells: int
    fetched: int  # offers: their memory may be used again

    def encode(self) -> bytes:
        """Words each of which may be read by itself: all only grow, and an old one is only too careful."""
        return CREDIT.pack(*self)


class Offer(NamedTuple):
    """A message that lies in the sender's memory, to be read from there (`stage`)."""

    address: int
    key: int  # rkey
    length: int  # bytes
    checksum: int  # XXH3, 64 bits, of them

    def encode(self) -> bytes:
        """What an OFFER frame holds."""
        return OFFER.pack(self.address, self.key, 0, self.length, self.checksum)

    @classmethod
    def decode(cls, data: memoryview) -> Offer:
        """The other way.

        Raises:
            Malformed: No version offers that.
        """
        if len(data) != OFFER.size:
            raise Malformed(f"an offer of {len(data)} bytes, which no version has")
        address, key, zero, length, checksum = OFFER.unpack(data)
        if zero or not 0 < length <= MESSAGE_BYTES_MAX:
            raise Malformed(f"an offer of {length} bytes")
        return cls(address, key, length, checksum)


class Push(NamedTuple):
    """Bytes of the mirror to write at the same offsets of the ring; the bell goes with the last span."""

    spans: tuple[tuple[int, int], ...]  # offset, length; two where it goes around the end
    bell: Bell


def padded(length: int) -> int:
    """Up to the next multiple of eight."""
    return (length + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


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
        self.offered += kind is Kind.OFFER
        need = HEAD_BYTES + padded(length)
        end = self.credit.read + self._size
        short = need <= EAGER_BYTES_MAX
        if short and self.backlog_bytes and self.tail + self.backlog_bytes + need <= end:
            self._lay(
                self.backlog_bytes
            )  # a long one in front, and room for both: else this one is copied twice
        tail = self.tail
        offset = tail & self._size - 1
        fits = tail + need <= end and offset + need <= self._size
        if fits and short and not self.backlog_bytes:
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


class Incoming:
    """The receiver's side: doorbells come in, messages come out, credits go back.

    Invariant: given.read <= read <= arrived <= given.read + size.
    """

    __slots__ = (
        "_filled",
        "_long",
        "_needs",
        "_offering",
        "_ring",
        "_sequence",
        "_size",
        "_waited",
        "arrived",
        "copied_bytes",
        "doorbells",
        "fetched",
        "given",
        "landings",
        "offer",
        "probed",
        "read",
    )

    def __init__(self, ring: memoryview, sequence: int) -> None:
        self._ring = ring
        self._size = len(ring)
        assert self._size & (self._size - 1) == 0
        assert self._size >= RING_BYTES_MIN
        self._sequence = sequence
        self.arrived = 0
        self.read = 0
        self.doorbells = 0
        self.given = Credit(0, 0, 0)
        self._waited = False  # the sender waits for a credit that rings
        # A message that is gathered in its own memory: one that has not come whole, or is long, or goes around the end.
        self._long: memoryview | None = None
        self._filled = 0
        self._needs = 0  # bytes of its frame that are still to be read, padding and all
        self._offering = False  # it is an offer
        self.offer: Offer | None = (
            None  # to be fetched and `landed`; nothing behind it is taken before
        )
        self.fetched = 0
        self.probed = 0  # bytes of probes that have come
        self.copied_bytes = 0
        self.landings = Landings()

    def rang(self, bell: Bell) -> None:
        """A doorbell of data: everything before its position is in the ring.

        Raises:
            Malformed: That is more than the ring holds.
        """
        assert not bell.is_credit
        count = bell.position - self.arrived & (1 << POSITION_BITS + 3) - 1
        if self.arrived + count > self.given.read + self._size:
            raise Malformed(f"a doorbell for {count} bytes, which is more than there was room for")
        self.arrived += count
        self.doorbells += 1
        self._waited = self._waited or bell.waits

    def inside_message(self) -> bool:
        """Whether the stream may not end here."""
        return self._long is not None or self.offer is not None

    def landed(self) -> None:
        """The offer was fetched."""
        assert self.offer is not None
        self.offer = None
        self.fetched += 1

    def take(self) -> list[memoryview]:
        """All messages that are whole, read-only and copied out of the ring; up to an offer, which `offer` then is.

        Raises:
            Malformed: What is there is no message; those before it are lost.
        """
        messages: list[memoryview] = []
        while self.arrived > self.read and self.offer is None:
            if self._long is not None:
                self._gather()
            else:
                before = self.read
                self._take_run(messages)
                if self.read == before:  # the next is not for a run
                    self._begin()
            if self._long is not None and not self._needs:
                if self._offering:
                    self.offer = Offer.decode(self._long)
                else:
                    messages.append(self._long.toreadonly())
                self._long = None
        return messages

    def _take_run(self, messages: list[memoryview]) -> None:
        """Whole small messages that lie behind each other, with one copy."""
        ring, sequence, unpack = self._ring, self._sequence, HEAD.unpack_from
        begin = at = self.read & self._size - 1
        end = min(begin + self.arrived - self.read, self._size, begin + SHARED_BYTES_MAX)
        found: list[tuple[int, int]] = []
        while at < end:
            word, number = unpack(ring, at)
            # A word above this is another kind, or too long: not for here.
            if number != sequence or word > MESSAGE_BYTES_MAX:
                break
            behind = at + HEAD_BYTES + (word + 7 & -8)
            if behind > end:
                break
            start = at - begin + HEAD_BYTES
            found.append((start, start + word))
            sequence = sequence + 1 & SEQUENCE_MASK
            at = behind
        if not found:
            return
        self._sequence = sequence
        self.read += at - begin
        self.copied_bytes += sum(end - start for start, end in found)
        shared = memoryview(bytes(ring[begin:at]))
        messages += [shared[start:end] for start, end in found]

    def _begin(self) -> None:
        """Take the head of one frame; its bytes follow as they come."""
        word, number = HEAD.unpack_from(self._ring, self.read & self._size - 1)
        if number != self._sequence:
            raise Malformed(f"frame {self._sequence} was to come, here is {number}")
        self._sequence = number + 1 & SEQUENCE_MASK
        kind, length = word >> LENGTH_BITS, word & LENGTH_MASK
        self.read += HEAD_BYTES
        if kind == Kind.PROBE and length <= self._size:
            # As the first frame, and not gathered: it has no meaning.
            if self.arrived - self.read < padded(length):
                raise Malformed("half a probe")
            self.read += padded(length)
            self.probed += length
            return
        self._offering = kind == Kind.OFFER
        longest = OFFER.size if self._offering else MESSAGE_BYTES_MAX
        if kind not in (Kind.MESSAGE, Kind.OFFER) or length > longest:
            raise Malformed(f"a frame of kind {kind} with {length} bytes, which no version has")
        self._long = self.landings.take(length)
        self._filled, self._needs = 0, padded(length)

    def _gather(self) -> None:
        """Copy what has come of the long message."""
        assert self._long is not None
        offset = self.read & self._size - 1
        count = min(self._needs, self.arrived - self.read, self._size - offset)
        useful = min(count, len(self._long) - self._filled)
        self._long[self._filled : self._filled + useful] = self._ring[offset : offset + useful]
        self._filled += useful
        self._needs -= count
        self.read += count
        self.copied_bytes += useful

    def give(self) -> tuple[Credit, bool] | None:
        """The credit to send now, and whether it must ring; None while it is not worth a WRITE.

        At a quarter of the ring or of the doorbells, when something was fetched, or as soon as there is anything for a
        sender who waits.
        """
        credit = Credit(self.read, self.doorbells, self.fetched)
        if credit == self.given:
            return None
        rings = self._waited
        if not rings and not (
            credit.read - self.given.read >= self._size // 4
            or credit.doorbells - self.given.doorbells >= DOORBELLS_MAX // 4
            or credit.fetched > self.given.fetched
        ):
            return None
        self.given = credit
        self._waited = False
        return credit, rings
