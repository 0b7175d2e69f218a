"""The table of handlers, and what becomes of their errors.

Handlers are plain calls that finish in the reader's thread, under **one lock** around the file system, which is made for
one thread at a time.

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
from cascadefs.kernel.protocol import NO_REPLY, OPCODES_MAX, UNIQUE, Header, Opcode, Reply
from storage.errors import Corruption, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascadefs.kernel.notify import Invalidation
    from cascadefs.kernel.turnstile import Turnstile

__all__ = ["Dispatch"]

_MESSAGES_MAX: Final = 1000
"""Distinct bugs and damages whose message was logged; later ones are only counted."""

_log = logging.getLogger(__name__)


class Dispatch:
    """See the module. `table` is by opcode; an opcode without a handler is none we know."""

    def __init__(
        self,
        turnstile: Turnstile,
        reply: Callable[[int, Reply], None],
        tell: Callable[[], None],
        take: Callable[[], list[Invalidation]],
        reveal: Callable[[int, int, Reply, list[Invalidation], list[Invalidation]], None],
    ) -> None:
        """`tell` queues what the kernel is to forget; it is called without the lock, as `reveal` is.

        `take`, called with the lock, gives what it is to forget; `reveal` answers when it has forgotten the first list,
        and queues the second, which other requests left.
        """
        self._turnstile = turnstile
        self._reply = reply
        self._tell = tell
        self._take = take
        self._reveal = reveal
        self._seen: set[str] = set()
        self._revealed = _Revealed()
        self.lock = turnstile.lock
        self.table: list[Handler | None] = [None] * OPCODES_MAX
        self.errors: dict[str, int] = {}

    def enter(self, handlers: Handlers) -> None:
        """Add these to the table."""
        for opcode, (handler, kind) in handlers.items():
            assert self.table[opcode] is None
            wrap = {
                Kind.ASKS: self._asking,
                Kind.CHANGES: self._changing,
                Kind.REVEALS: self._revealing,
                Kind.TELLS: self._told,
            }[kind]
            self.table[opcode] = wrap(opcode, handler)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the file system, to use it from outside; the kernel is told what to forget."""
        with self.lock:
            yield
        self._tell()

    def rest(self) -> None:
        """The caller is about to let others have the file system: what is to be forgotten until now is by its request."""
        revealed = self._revealed
        if revealed.is_under_way:
            revealed.own.extend(self._take())

    def back(self) -> None:
        """It has it again: what is to be forgotten by now is by theirs."""
        revealed = self._revealed
        if revealed.is_under_way:
            revealed.others.extend(self._take())

    def close(self) -> None:
        """What is still asked is answered with ENOTCONN at once, as by a mount whose daemon is gone."""
        with self.lock:
            self.table[:] = [_disconnected] * OPCODES_MAX
            for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
                self.table[opcode] = _ignored

    def _asking(self, opcode: Opcode, handler: Handler) -> Handler:
        """Hold the file system, and let nothing out. The answer, which may be large, is sent after letting go."""
        enter, leave, failed = self._turnstile.enter, self.lock.release, self.failed

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            enter(header[UNIQUE])
            try:
                return handler(node, body, header)
            except Refused as refusal:
                return -ERRNO[refusal.reason]
            except Exception as error:
                return failed(opcode, error)
            finally:
                leave()

        return handle

    def _changing(self, opcode: Opcode, handler: Handler) -> Handler:
        """The same, and after having answered queue what the kernel is to forget."""
        asking, reply, tell = self._asking(opcode, handler), self._reply, self._tell

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            result = asking(node, body, header)
            if result.__class__ is not int or result != NO_REPLY:
                reply(header[UNIQUE], result)
            tell()
            return NO_REPLY

        return handle

    def _revealing(self, opcode: Opcode, handler: Handler) -> Handler:
        """The same the other way round: the answer goes out when the kernel has forgotten what this request changed.

        Not what others did: that may take a directory which somebody holds who waits for this caller.
        """
        take, reveal, revealed = self._take, self._reveal, self._revealed

        def apart(node: int, body: memoryview, header: Header) -> Reply:
            revealed.own, revealed.others, revealed.is_under_way = [], take(), True
            try:
                return handler(node, body, header)
            finally:
                revealed.is_under_way = False
                revealed.own.extend(take())

        asking = self._asking(opcode, apart)

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            result = asking(node, body, header)
            reveal(node, header[UNIQUE], result, revealed.own, revealed.others)
            return NO_REPLY

        return handle

    def _told(self, opcode: Opcode, handler: Handler) -> Handler:
        """A forget: nobody waits for an answer, so none may be given, and nothing depends on when it is done."""
        enter, leave, failed = self._turnstile.enter_unordered, self.lock.release, self.failed

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            enter(header[UNIQUE])
            try:
                handler(node, body, header)
            except Exception as error:
                failed(opcode, error)
            finally:
                leave()
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


class _Revealed(threading.local):
    """Of a thread's request: what the kernel is to forget by its doing, and by that of others while it was handled."""

    is_under_way = False

    def __init__(self) -> None:
        self.own: list[Invalidation] = []
        self.others: list[Invalidation] = []


def _ignored(node: int, body: memoryview, header: Header) -> Reply:
    return NO_REPLY


def _disconnected(node: int, body: memoryview, header: Header) -> Reply:
    return -errno.ENOTCONN
