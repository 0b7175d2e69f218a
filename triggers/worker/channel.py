"""One message at a time over a SOCK_SEQPACKET socket, with descriptors beside it (unix(7), SCM_RIGHTS).

A datagram of such a socket is bounded by the send buffer, so a message too long for that goes as sealed memory itself:
the datagram then holds only the byte `M`, and its last descriptor is the message. Else it is `D` and the message.

Names of files need not be UTF-8; as text they hold surrogates (PEP 383), which msgpack cannot. A message with such text is
respelt (`triggers.spelling`), and says so by a small letter, `d` or `m`: others pay nothing for it.

Plain calls: a socket that does not block raises BlockingIOError, and the caller waits as it likes.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import msgspec

from triggers.spelling import meant, respelt, spelt
from triggers.worker.sealed import map_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MESSAGE_BYTES_MAX", "Channel", "Closed", "pair"]

DATAGRAM_BYTES_MAX = 64 * 1024
MESSAGE_BYTES_MAX = 64 << 20
"""Of a long one: the receiver's memory is not the sender's to fill. Content is beside a message, not in it."""

FDS_MAX = 8
"""Descriptors of one message; the kernel allows 253."""

Incoming = TypeVar("Incoming")


class Closed(Exception):
    """The other end is gone."""


class Channel(Generic[Incoming]):
    """One end, which receives messages of one kind and sends any. Owns its socket."""

    def __init__(self, end: socket.socket, incoming: object) -> None:
        self.socket = end
        self._incoming = incoming
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)

    def send(self, message: msgspec.Struct, fds: Sequence[int] = (), *, wait: bool = True) -> None:
        """Send one message; the descriptors stay the caller's. `wait`: as of `receive`.

        Raises:
            Closed: nobody will receive it.
            BlockingIOError: not now; nothing was sent.
        """
        assert len(fds) < FDS_MAX
        short, long = b"D", b"M"
        try:
            data = self._encoder.encode(message)
        except UnicodeEncodeError:
            short, long = b"d", b"m"
            plain = msgspec.to_builtins(message, builtin_types=(bytes,))
            data = self._encoder.encode(respelt(plain, spelt))
        own = -1
        if len(data) <= DATAGRAM_BYTES_MAX:
            datagram = [short, data]
        else:
            own = seal([data], "message")
            datagram, fds = [long], [*fds, own]
        try:
            flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
            if fds:
                socket.send_fds(self.socket, datagram, list(fds), flags)
            else:
                self.socket.sendmsg(datagram, [], flags)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        finally:
            if own >= 0:
                os.close(own)

    def receive(self, *, wait: bool = True) -> tuple[Incoming, list[int]]:
        """The next message, and the descriptors that came with it, which are the caller's now.

        `wait` is for a socket that blocks: False raises BlockingIOError instead.

        Raises:
            Closed: there will be none.
            BlockingIOError: there is none yet.
            msgspec.ValidationError, ValueError, triggers.worker.sealed.NotSealed: no message of ours.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(
                self.socket,
                DATAGRAM_BYTES_MAX + 1,
                FDS_MAX,
                socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT),
            )
        except ConnectionResetError as error:
            raise Closed from error
        try:
            if not data:
                raise Closed
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a message longer than any")
            kind = data[:1]
            if kind in (b"D", b"d"):
                return self._decoded(memoryview(data)[1:], kind), fds
            if not fds:
                raise ValueError("a long message without its memory")
            own = fds.pop()
            try:
                message = map_sealed(own)
                if len(message) > MESSAGE_BYTES_MAX:
                    raise ValueError("a message longer than any")
                return self._decoded(message, kind), fds
            finally:
                os.close(own)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _decoded(self, data: memoryview, kind: bytes) -> Incoming:
        if kind.isupper():
            return self._decoder.decode(data)
        plain = respelt(msgspec.msgpack.decode(data), meant)
        return cast("Incoming", msgspec.convert(plain, self._incoming))

    def close(self) -> None:
        """Close this end; the other then finds it closed."""
        self.socket.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
