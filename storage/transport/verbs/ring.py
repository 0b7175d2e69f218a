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
from typing import Final, NamedTuple

from storage.limits import MESSAGE_BYTES_MAX

__all__ = [
    "CREDIT",
    "CREDIT_BYTES",
    "DOORBELLS_MAX",
    "HEAD",
    "HEAD_BYTES",
    "OFFER",
    "RING_BYTES_MAX",
    "RING_BYTES_MIN",
    "Bell",
    "Credit",
    "Kind",
    "Malformed",
    "Offer",
    "padded",
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

SHARED_BYTES_MAX = 64 * 1024
"""Small messages are copied out of the ring together, up to this; so keeping one keeps no more (contract)."""

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


def padded(length: int) -> int:
    """Up to the next multiple of eight."""
    return (length + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES
