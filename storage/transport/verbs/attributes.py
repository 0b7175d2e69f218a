"""What two sides tell each other over the control connection before they write into each other's memory (FORMAT, "Rings").

msgpack arrays, the first item their kind. `agree` decides what both then use, or says what does not fit. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from storage.transport.verbs.ring import ALIGNMENT_BYTES, RING_BYTES_MAX, RING_BYTES_MIN

__all__ = [
    "MTUS_BYTES",
    "Attributes",
    "Farewell",
    "Message",
    "Misfit",
    "Ready",
    "Unable",
    "agree",
    "decode",
    "encode",
]

VERSION: Final = 1
MTUS_BYTES: Final = (256, 512, 1024, 2048, 4096)
"""The sizes of packets there are (InfiniBand Architecture Specification, volume 1, 9.4.3)."""


class Attributes(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One side's queue pair, and where the other may write."""

    version: int
    device: str  # for people
    link: str  # "Ethernet" or "InfiniBand"
    gid: bytes
    lid: int  # 0 on Ethernet
    queue_pair: int
    packet_sequence: int  # 24 bits, of the first packet
    mtu_bytes: int
    ring_address: int
    ring_bytes: int
    credit_address: int  # where the credits for what this side sends are written
    key: int  # of both (rkey)
    sequence: int  # 32 bits, of the first frame this side will write
    fetches: bool  # whether messages may be offered to this side


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The queue pair takes packets: the other side may write."""


class Unable(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """This side cannot; it says why, and the connection ends."""

    why: str


class Farewell(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """This side will write nothing behind this position, and all before it has arrived."""

    position: int


Message = Attributes | Ready | Unable | Farewell
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Misfit(Exception):
    """The two sides cannot work together; the message says why and what to do."""


def encode(message: Message) -> bytes:
    """To the byte."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """The other way.

    Raises:
        Misfit: It is none of these.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Misfit(f"what it says of its queue pair cannot be read: {error}") from error


def agree(mine: Attributes, its: Attributes) -> int:
    """The size of packets in bytes that both can use, if the two fit together.

    Raises:
        Misfit: They do not.
    """
    if its.version != VERSION:
        raise Misfit(
            f"its rings are of version {its.version}, ours of {VERSION}: upgrade the older one"
        )
    if mine.link != its.link:
        raise Misfit(
            f"its device {its.device} is on {its.link}, ours ({mine.device}) on {mine.link}: name devices of one network"
        )
    sizes = (its.ring_bytes & (its.ring_bytes - 1)) == 0
    if not sizes or not RING_BYTES_MIN <= its.ring_bytes <= RING_BYTES_MAX:
        raise Misfit(f"a ring of {its.ring_bytes} bytes, which no version has")
    if its.ring_address % ALIGNMENT_BYTES or its.credit_address % ALIGNMENT_BYTES:
        raise Misfit("a ring that does not begin at a multiple of eight bytes")
    numbers = (
        *((its.lid, 16), (its.queue_pair, 24), (its.packet_sequence, 24), (its.sequence, 32)),
        *((its.key, 32), (its.ring_address, 64), (its.credit_address, 64)),
    )
    are_whole = all(0 <= number < 1 << bits for number, bits in numbers)
    if its.mtu_bytes not in MTUS_BYTES or len(its.gid) != 16 or not are_whole:
        raise Misfit("damaged attributes of its queue pair")
    # A queue pair whose sides differ drops what is larger than its own, without a word. So both take the smaller one.
    return min(mine.mtu_bytes, its.mtu_bytes)
