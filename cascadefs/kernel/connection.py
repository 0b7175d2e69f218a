"""The device: threads that read requests and hand them to a table of handlers, and the way replies go back.

Theory of operation. The kernel queues requests; `read` takes one, `write` answers one, named by its unique number, from
whatever thread and in whatever order. `READERS` threads sit in a blocking read. With one, every request of an idle machine wakes a
sleeping processor; of two, one is mostly awake on the client's (docs/KERNEL_DOOR.md). Where many clients ask at once two only get in
each other's way: then all but the first step aside for a while. The turnstile keeps the order.
One descriptor for all: a late reply may then go out from any thread.

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
import time
from typing import TYPE_CHECKING, Final

from cascadefs.kernel.negotiation import MAX_WRITE_BYTES
from cascadefs.kernel.protocol import (
    NO_REPLY,
    OPCODES_MAX,
    PID,
    REPLY_HEADER,
    REQUEST_HEADER,
    Opcode,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.kernel.handler import Handler
    from cascadefs.kernel.turnstile import Turnstile

__all__ = ["READERS", "Connection"]

READERS: Final = 2
"""Threads that read: see above. Each holds a buffer of 1 MiB."""

ASIDE_SECONDS: Final = 0.02
"""How long a reader that is one too many steps aside; it looks in again 50 times a second."""

CROWD: Final = 8
"""So many more requests from another thread than the one before, than from the same: there is a crowd of clients."""

BUFFER_BYTES: Final = MAX_WRITE_BYTES + 8192
"""The largest request: a WRITE, its headers, and a page to spare (the kernel insists on 8192 in all)."""

JOIN_BYTES_MAX: Final = 4096
"""A body up to this is joined to its header for one write(2); longer ones go uncopied by writev(2)."""

# Read again: a signal, or the request was given up between the kernel's wake-up and our look.
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.ENOTCONN})

_UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})

_log = logging.getLogger(__name__)


class Connection:
    """One mount's device. `table` is by opcode and may be changed while threads read."""

    def __init__(self, descriptor: int, table: list[Handler | None], turnstile: Turnstile) -> None:
        assert len(table) == OPCODES_MAX
        self.descriptor = descriptor
        self._turnstile = turnstile
        self._table = table
        self._counts: list[list[int]] = []
        self.aborted = False
        """Whether the connection was cut rather than unmounted."""

    def serve(self, reader: int = 0, park: Callable[[], None] | None = None) -> None:
        """Handle requests in this thread until the connection is gone; reader 0 never steps aside.

        `park` is called before each read, and may wait.

        Raises:
            OSError: the device failed in a way that is not an end.
        """
        counts = [0] * OPCODES_MAX  # of this thread: adding to a shared one would lose some
        self._counts.append(counts)
        buffer = mmap.mmap(-1, BUFFER_BYTES)
        view = memoryview(buffer)
        into = (view,)
        body_start = REQUEST_HEADER.size
        descriptor, table, reply = self.descriptor, self._table, self.reply
        read, unpack = os.readv, REQUEST_HEADER.unpack_from
        turnstile = self._turnstile
        crowd = client = 0
        while True:
            if crowd >= CROWD:
                time.sleep(ASIDE_SECONDS)
            if park is not None:
                park()
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
            if reader:
                if header[PID] in (client, 0):  # 0: the kernel itself
                    crowd = max(crowd - 1, 0)
                else:
                    crowd, client = min(crowd + 1, 2 * CROWD), header[PID]
            handler = table[opcode] if opcode < OPCODES_MAX else None
            if handler is not None:
                counts[opcode] += 1
                result = handler(header[3], view[body_start:length], header)
                if result.__class__ is int and result == NO_REPLY:
                    continue
                reply(header[2], result)
            else:
                turnstile.pass_by(header[2])
                if opcode not in _UNANSWERED:
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
        return {
            opcode.name.lower(): count
            for opcode in Opcode
            if (count := sum(counts[opcode] for counts in self._counts))
        }

    def close(self) -> None:
        """Give the device back. With the last descriptor (and no thread in read) the connection ends."""
        os.close(self.descriptor)
