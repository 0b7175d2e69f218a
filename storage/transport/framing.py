"""Messages as bytes on a stream, to the byte (FORMAT, "Transport"). Pure: no socket, no clock.

A stream begins with a `Greeting` in each direction; frames follow: a head of four bytes, kind and length, and the body.
`Outbox` turns messages into buffers to write, `Inbox` bytes read into messages; both are bounded, neither waits.

Source: the shape is that of h11's receive buffer, with one difference: messages are views of what was read, not copies.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport import carrier, identity
from storage.transport.landing import Landings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer
    from storage.transport.contract import Identity

__all__ = ["GREETING_BYTES", "VERSION", "Greeting", "Inbox", "Kind", "Malformed", "Outbox"]

VERSION = 1
"""Of the protocol on the wire, framing and what is inside; a peer speaks a range of them."""

MAGIC = b"cascade\n"
GREETING = struct.Struct("<8sHHII")
GREETING_BYTES = GREETING.size
SILENCE_MS_MIN, SILENCE_MS_MAX = 50, 3_600_000

HEAD = struct.Struct("<I")
LENGTH_MASK = 2**28 - 1
GOODBYE_BYTES_MAX = 1024

CHUNK_BYTES = 64 * 1024
"""What is read at once where messages are small."""

READ_BYTES_MIN = 4096
"""A system call is not made for less where more may be there."""

GROWTH_BYTES = 2 * 1024 * 1024 + CHUNK_BYTES
"""Memory for a long message is taken as its bytes come: who only announces one costs us no more than this. Two MiB with their heads fit."""

COPY_BYTES_MAX = 8 * 1024
"""Buffers up to this size are copied behind each other: cheaper than one more buffer in the call, and two are not."""

GATHER_BUFFERS_MAX = 64

assert MESSAGE_BYTES_MAX <= LENGTH_MASK


class Kind(enum.IntEnum):
    """What a frame is."""

    MESSAGE = 0
    HEARTBEAT = 1
    WELCOME = 2
    GOODBYE = 3


class Malformed(Exception):
    """The bytes are not what a peer of ours sends."""


class Greeting(NamedTuple):
    """What each side says first: 20 bytes that every version reads alike, then the identity."""

    version_min: int
    version_max: int
    silence_ms: int
    uri: str
    offer: carrier.Offer = carrier.PLAIN

    @classmethod
    def of(cls, who: Identity, silence_ms: int, offer: carrier.Offer = carrier.PLAIN) -> Greeting:
        """Our own, silence_ms being how long we bear hearing nothing."""
        assert SILENCE_MS_MIN <= silence_ms <= SILENCE_MS_MAX
        return cls(VERSION, VERSION, silence_ms, identity.spell(who), offer)

    def encode(self) -> bytes:
        """To the byte as FORMAT has it."""
        body = (self.uri + carrier.spell(self.offer)).encode()
        head = GREETING.pack(MAGIC, self.version_min, self.version_max, self.silence_ms, len(body))
        return head + body

    @staticmethod
    def body_length(head: Buffer) -> int:
        """How many bytes follow the first `GREETING_BYTES`.

        Raises:
            Malformed: This is no greeting; the message says what it looks like, and what to do.
        """
        magic, low, high, silence_ms, length = GREETING.unpack(head)
        if magic != MAGIC:
            if magic[:2] in (b"\x16\x03", b"\x15\x03"):
                raise Malformed("it speaks TLS and this side does not: give both certificates")
            raise Malformed("what listens there is not cascadefs, or not without TLS")
        if not low <= VERSION <= high:
            raise Malformed(
                f"it speaks versions {low} to {high} of the protocol, this side {VERSION}: upgrade the older one"
            )
        if not SILENCE_MS_MIN <= silence_ms <= SILENCE_MS_MAX or length > identity.URI_BYTES_MAX:
            raise Malformed("a damaged greeting")
        return int(length)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Greeting, Identity]:
        """A whole greeting, and who it says it is.

        Raises:
            Malformed: As `body_length`, or the identity is none.
        """
        length = cls.body_length(data[:GREETING_BYTES])
        assert len(data) == GREETING_BYTES + length
        _, low, high, silence_ms, _ = GREETING.unpack_from(data)
        try:
            uri, more, offered = data[GREETING_BYTES:].decode("ascii").partition("\n")
            offer = carrier.parse(offered) if more else carrier.PLAIN
            return cls(low, high, silence_ms, uri, offer), identity.parse(uri)
        except ValueError as error:
            raise Malformed(f"a greeting without an identity: {error}") from error


def control(kind: Kind, body: bytes = b"") -> bytes:
    """A frame that is no message."""
    return HEAD.pack(kind << 28 | len(body)) + body


def goodbye(why: str) -> bytes:
    """The frame that says why no more will come."""
    return control(Kind.GOODBYE, why.encode()[:GOODBYE_BYTES_MAX])


class Outbox:
    """Frames that wait to be written, as buffers in order.

    Small buffers are gathered in one as they come, large ones are referred to.
    """

    __slots__ = ("_gathering", "_sealed", "size")

    def __init__(self) -> None:
        self._sealed: deque[memoryview] = deque()
        self._gathering = bytearray()
        self.size = 0  # bytes that wait

    def room(self, length: int) -> bool:
        """Whether a message of this length may be put: one always may if nothing waits."""
        return not self.size or self.size + length <= SEND_QUEUE_BYTES

    def put(self, message: Sequence[Buffer], length: int) -> None:
        """Add a message whose buffers have this length together."""
        gathering = self._gathering
        gathering += HEAD.pack(length)
        for buffer in message:
            if len(buffer) <= COPY_BYTES_MAX:
                gathering += buffer
            else:
                self._seal()
                self._sealed.append(memoryview(buffer))
                gathering = self._gathering
        self.size += length + HEAD.size

    def put_control(self, frame: bytes) -> None:
        """Add a frame made by `control`."""
        self._gathering += frame
        self.size += len(frame)

    def gather(self) -> list[memoryview]:
        """Buffers to write next, in order; all of what waits unless they are very many. Not empty while size is not 0."""
        self._seal()
        if len(self._sealed) <= GATHER_BUFFERS_MAX:
            return list(self._sealed)
        return [self._sealed[i] for i in range(GATHER_BUFFERS_MAX)]

    def advance(self, count: int) -> None:
        """That many bytes of them are written."""
        self.size -= count
        assert self.size >= 0
        sealed = self._sealed
        while count:
            first = sealed[0]
            if count < len(first):
                sealed[0] = first[count:]
                return
            count -= len(first)
            sealed.popleft()

    def clear(self) -> None:
        """Forget all of it."""
        self._sealed.clear()
        self._gathering = bytearray()
        self.size = 0

    def _seal(self) -> None:
        if self._gathering:
            self._sealed.append(memoryview(self._gathering))
            self._gathering = bytearray()


class Inbox:
    """Bytes read, on their way to being messages.

    Invariant: memory held is at most four times what was read of the message at hand, or `GROWTH_BYTES`; and what `landings` keep.
    """

    __slots__ = ("_end", "_need", "_start", "_view", "farewell", "landings", "trouble")

    def __init__(self) -> None:
        self._view = memoryview(bytearray(CHUNK_BYTES))
        self._start = 0  # of the frame at hand
        self._end = 0  # behind what was read
        self._need = HEAD.size  # bytes of the frame at hand, as far as is known
        self.landings = Landings()  # of long messages
        self.farewell: str | None = None  # what the peer said last
        self.trouble: Malformed | None = None

    def inside_message(self) -> bool:
        """Whether the stream may not end here."""
        return self._end > self._start

    def space(self) -> memoryview:
        """Where to read to; fill it from its beginning and tell `filled`."""
        view, start, end = self._view, self._start, self._end
        free = len(view) - end
        if len(view) == CHUNK_BYTES:
            full = len(view) - start < self._need or (free < READ_BYTES_MIN and start > 0)
        else:
            full = free == 0
        if full:
            have = end - start
            size = max(CHUNK_BYTES, min(self._need, max(GROWTH_BYTES, 4 * have)))
            is_long = size > CHUNK_BYTES
            self._view = self.landings.take(size) if is_long else memoryview(bytearray(size))
            self._view[:have] = view[start:end]
            self._start, self._end = 0, have
        return self._view[self._end :]

    def filled(self, count: int) -> list[memoryview]:
        """Messages that are whole now that `count` more bytes were read; `trouble` or `farewell` may be set behind them."""
        self._end += count
        view, start, end = self._view.toreadonly(), self._start, self._end
        messages: list[memoryview] = []
        unpack = HEAD.unpack_from
        need = HEAD.size
        while end - start >= HEAD.size and self.farewell is None:
            (word,) = unpack(view, start)
            length = word
            if word > MESSAGE_BYTES_MAX:  # no message, or none that is allowed
                length = word & LENGTH_MASK
                self.trouble = self._objection(word >> 28, length)
                if self.trouble is not None:
                    break
            need = HEAD.size + length
            if end - start < need:
                break
            if length == word:
                messages.append(view[start + HEAD.size : start + need])
            elif word >> 28 == Kind.GOODBYE:
                said = bytes(view[start + HEAD.size : start + need])
                self.farewell = said.decode(errors="replace")
            start += need
            need = HEAD.size
        self._start, self._need = start, need
        return messages

    @staticmethod
    def _objection(kind: int, length: int) -> Malformed | None:
        if kind == Kind.MESSAGE:
            return Malformed(f"a message of {length} bytes; {MESSAGE_BYTES_MAX} is the most")
        if kind == Kind.GOODBYE and length <= GOODBYE_BYTES_MAX:
            return None
        if kind in (Kind.HEARTBEAT, Kind.WELCOME) and length == 0:
            return None
        return Malformed(f"a frame of kind {kind} with {length} bytes, which no version has")
