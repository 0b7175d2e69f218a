"""The device: a thread that reads requests and hands them to a table of handlers, and the way replies go back.

Theory of operation. The kernel queues requests; `read` takes one, `write` answers one, named by its unique number, from
whatever thread and in whatever order. **One thread reads**, so requests are handled in the order they came. That matters:
RELEASE is sent after close(2) has returned, and makes a version where nothing but an open(2) changed the file (a shell's
``> file``). With two readers it was now and then overtaken by the next program's look-up, and a version was missing or
merged into the next; they also could not leave the index's transaction open (`dispatch`). What a second one would gain is
being awake on the client's processor: 8 - 14 instead of 46 - 72 us on an idle machine (FUSE.md 3.4), nothing on a busy one.

The thread sleeps in read(2), and wakes for a request only. So whoever needs it causes one (`notification.wake`).

A handler gets (node, body, header) and answers a `protocol.Reply`; it lets nothing out. `body` is a view of the thread's
buffer: valid until the handler returns. Nothing is allocated for reading.

Why no reply is ever taken back: write(2) fails with ENOENT only if the request was aborted with its connection, since a
request that was read once is not given up by its caller, whatever signal comes, until it is answered.

Knows no file system and no mount: a test drives it through a socket pair that keeps message borders.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from typing import TYPE_CHECKING, Final, Protocol

from cascadefs.kernel.negotiation import MAX_WRITE_BYTES
from cascadefs.kernel.protocol import (
    NO_REPLY,
    OPCODES_MAX,
    REPLY_HEADER,
    REQUEST_HEADER,
    UNANSWERED,
    Opcode,
    Reply,
)

if TYPE_CHECKING:
    from cascadefs.kernel.handler import Handler

__all__ = ["Connection", "Desk"]

BUFFER_BYTES: Final = MAX_WRITE_BYTES + 8192
"""The largest request: a WRITE, its headers, and a page to spare (the kernel insists on 8192 in all)."""

JOIN_BYTES_MAX: Final = 4096
"""A body up to this is joined to its header for one write(2); longer ones go uncopied by writev(2)."""

# Read again: a signal, or the request was given up between the kernel's wake-up and our look.
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.ENOTCONN})

_log = logging.getLogger(__name__)


class Desk(Protocol):
    """Whoever handles the requests."""

    table: list[Handler | None]
    """By opcode. May be changed while requests are read, but not be another list."""

    ended: bool
    """Nothing more is to be read."""

    def settle(self) -> None:
        """Finish what only this thread can."""


class Connection:
    """One mount's device."""

    def __init__(self, descriptor: int, desk: Desk) -> None:
        assert len(desk.table) == OPCODES_MAX
        self.descriptor = descriptor
        self._desk = desk
        self._counts = [0] * OPCODES_MAX
        self.aborted = False
        """Whether the connection was cut rather than unmounted."""

    def serve(self) -> None:
        """Handle requests in this thread until the connection is gone; then all is settled.

        Raises:
            OSError: the device failed in a way that is not an end.
        """
        try:
            self._serve()
        finally:
            self._desk.settle()

    def _serve(self) -> None:
        counts = self._counts
        buffer = mmap.mmap(-1, BUFFER_BYTES)
        view = memoryview(buffer)
        into = (view,)
        body_start = REQUEST_HEADER.size
        descriptor, desk, table, reply = self.descriptor, self._desk, self._desk.table, self.reply
        read, unpack = os.readv, REQUEST_HEADER.unpack_from
        while not desk.ended:
            try:
                length = read(descriptor, into)
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno in _GONE:
                    self.aborted = self.aborted or error.errno == errno.ECONNABORTED
                    return
                raise
            if not length:  # the other end of a test's socket pair was closed
                return
            header = unpack(buffer)
            opcode = header[1]
            handler = table[opcode] if opcode < OPCODES_MAX else None
            if handler is not None:
                counts[opcode] += 1
                result = handler(header[3], view[body_start:length], header)
                if result.__class__ is int and result == NO_REPLY:
                    continue
                reply(header[2], result)
            elif opcode not in UNANSWERED:
                # The kernel does by itself what can be done so, and does not ask again.
                reply(header[2], -errno.ENOSYS)

    def reply(self, unique: int, result: Reply) -> None:
        """Answer a request, from any thread. One that went with its connection is nobody's any more."""
        assert not (result.__class__ is int and result == NO_REPLY)
        try:
            self._write(unique, result)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in _GONE:
                return
            # The kernel does not understand what we say: a bug, and its caller must not wait for ever.
            _log.critical("request %d: the kernel refused the reply", unique, exc_info=error)
            self._write(unique, -errno.EIO)

    def _write(self, unique: int, result: Reply) -> None:
        head_bytes = REPLY_HEADER.size
        if result is None:
            os.write(self.descriptor, REPLY_HEADER.pack(head_bytes, 0, unique))
        elif isinstance(result, int):
            assert result < 0
            os.write(self.descriptor, REPLY_HEADER.pack(head_bytes, result, unique))
        elif isinstance(result, bytes) and len(result) <= JOIN_BYTES_MAX:
            head = REPLY_HEADER.pack(head_bytes + len(result), 0, unique)
            os.write(self.descriptor, head + result)
        else:
            head = REPLY_HEADER.pack(head_bytes + len(result), 0, unique)
            os.writev(self.descriptor, (head, result))

    def send(self, message: bytes) -> None:
        """Tell the kernel something unasked (a message of `notification`). May wait: never from a handler."""
        os.write(self.descriptor, message)

    def requests(self) -> dict[str, int]:
        """How many requests of each kind came in so far."""
        counts = self._counts
        return {opcode.name.lower(): counts[opcode] for opcode in Opcode if counts[opcode]}

    def close(self) -> None:
        """Give the device back. With the last descriptor (and no thread in read) the connection ends."""
        os.close(self.descriptor)
