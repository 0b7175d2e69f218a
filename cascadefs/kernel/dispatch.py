"""The table of handlers, the lock they run under, and what becomes of their errors.

Handlers are plain calls that finish in the reader's thread. One lock keeps out the others who use the file system now and
then (the once-a-second work, copies for passthrough), because it is made for one thread at a time.

The index's write transaction belongs to the thread that began it (`storage.table.lmdb`). The reader makes all changes and
**leaves the transaction open** from request to request, and publishes when somebody else wants to change something
(`exclusive`), which the daemon does once a second. Publishing after every change instead, which two readers would need,
costs 9 us each, a fifth of creating a small file (docs/KERNEL_DOOR.md).

Errors as at the other door: a refusal is its errno, a failure of the disk its own, damage and bugs are EIO and one line in
the log, and the mount lives on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import traceback
from typing import TYPE_CHECKING, Final

from cascadefs.errnos import ERRNO, errno_of
from cascadefs.kernel.handler import Handler, Handlers, Kind
from cascadefs.kernel.protocol import (
    NO_REPLY,
    OPCODES_MAX,
    UNANSWERED,
    UNIQUE,
    Header,
    Opcode,
    Reply,
)
from storage.errors import Corruption, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Dispatch"]

_MESSAGES_MAX: Final = 1000
"""Distinct bugs and damages whose message was logged; later ones are only counted."""

PATIENCE_SECONDS: Final = 1.0
"""How long `exclusive` waits for the reader before it wakes it again."""

_log = logging.getLogger(__name__)


class Dispatch:
    """See the module. `table` is by opcode; an opcode without a handler is none we know."""

    def __init__(
        self,
        reply: Callable[[int, Reply], None],
        publish: Callable[[], None],
        tell: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """What it is made of.

        Args:
            reply: answers a request.
            publish: publishes the store's index.
            tell: queues what the kernel is to forget.
            wake: causes a request, so that a reader asleep wakes.
        """
        self._reply = reply
        self._publish = publish
        self._tell = tell
        self._wake = wake
        self._wanted = False
        self._settled = threading.Event()
        self.ended = False
        self.unsettled = False
        """Whether the reader has changed the index and not published it: nobody else may change it then."""
        self._seen: set[str] = set()
        self.lock = threading.Lock()
        self.table: list[Handler | None] = [None] * OPCODES_MAX
        self.errors: dict[str, int] = {}

    def woken(self, node: int, body: memoryview, header: Header) -> Reply:
        """The handler of the request that `wake` causes: what is wanted is done by handling any."""
        if self._wanted:
            self.settle()
        return NO_REPLY

    def enter(self, handlers: Handlers) -> None:
        """Add these to the table."""
        for opcode, (handler, kind) in handlers.items():
            assert self.table[opcode] is None
            wrap = {
                Kind.ASKS: self._asking,
                Kind.CHANGES: self._changing,
                Kind.TELLS: self._told,
            }[kind]
            self.table[opcode] = wrap(opcode, handler)

    def changed(self) -> None:
        """The reader may have changed the index."""
        self.unsettled = True

    def settle(self) -> None:
        """Publish what the reader changed. In the reader's thread, which must not sleep without it."""
        with self.lock:
            self._settle()

    def _settle(self) -> None:
        try:
            self._publish()
        except Exception as error:
            self.failed(Opcode.SYNCFS, error)
        self.unsettled = self._wanted = False
        self._settled.set()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the file system, to use it from another thread; what was changed is published and the kernel told."""
        self.lock.acquire()
        while self.unsettled:
            self._settled.clear()
            self._wanted = True
            self.lock.release()
            self._wake()
            self._settled.wait(PATIENCE_SECONDS)
            self.lock.acquire()
        try:
            yield
        finally:
            try:
                self._publish()
                self._tell()
            finally:
                self.lock.release()

    def close(self) -> None:
        """The reader ends; what it still reads is answered with ENOTCONN, as by a mount whose daemon is gone."""
        with self.lock:
            self.ended = True
            self.table[:] = [_disconnected] * OPCODES_MAX
            for opcode in UNANSWERED:
                self.table[opcode] = _ignored
        self._wake()

    def _asking(self, opcode: Opcode, handler: Handler) -> Handler:
        """Hold the file system, and let nothing out. The answer, which may be large, is sent after letting go."""
        lock, failed = self.lock, self.failed

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            with lock:
                try:
                    return handler(node, body, header)
                except Refused as refusal:
                    return -ERRNO[refusal.reason]
                except Exception as error:
                    return failed(opcode, error)

        return handle

    def _told(self, opcode: Opcode, handler: Handler) -> Handler:
        """The same where nobody waits for an answer, so none may be given."""
        asking = self._asking(opcode, handler)

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            asking(node, body, header)
            return NO_REPLY

        return handle

    def _changing(self, opcode: Opcode, handler: Handler) -> Handler:
        """The same, and before letting go: answer, and queue what the kernel is to forget."""
        lock, failed, reply, tell = self.lock, self.failed, self._reply, self._tell

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            with lock:
                self.unsettled = True
                result: Reply
                try:
                    result = handler(node, body, header)
                except Refused as refusal:
                    result = -ERRNO[refusal.reason]
                except Exception as error:
                    result = failed(opcode, error)
                if result != NO_REPLY:
                    reply(header[UNIQUE], result)
                tell()
                if self._wanted:
                    self._settle()
            return NO_REPLY

        return handle

    def failed(self, opcode: Opcode, error: Exception) -> int:
        """What to answer where the world failed or we did; logged here, once for each message."""
        number = errno_of(error)
        name = errno.errorcode[number]
        self.errors[name] = self.errors.get(name, 0) + 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{opcode.name.lower()}: {type(error).__name__}: {error}"
        key = f"{message} {where.filename}:{where.lineno}"
        if key not in self._seen and len(self._seen) < _MESSAGES_MAX:
            self._seen.add(key)
            expected = isinstance(error, Corruption | OSError)
            _log.error("%s: answered %s", message, name, exc_info=None if expected else error)
        return -number


def _ignored(node: int, body: memoryview, header: Header) -> Reply:
    return NO_REPLY


def _disconnected(node: int, body: memoryview, header: Header) -> Reply:
    return -errno.ENOTCONN
