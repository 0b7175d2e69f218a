"""One mount of the second door: the handlers, the lock they run under, and the life of the connection.

Theory of operation. Handlers are plain calls that finish in the reader's thread, under **one lock** around the file
system, which is made for one thread at a time. What waits (fsync, O_SYNC) is answered later by trio, by its unique number.

The index's write transaction belongs to the thread that began it (`storage.table.lmdb`), and the next request may be
another thread's. So whoever may have changed the index **publishes it before it lets go of the lock**, after it has
answered: the caller goes on meanwhile, and whoever reads the index in another process finds it up to date. Measured, us
per create + write 4 KiB + close (docs/KERNEL_DOOR.md has the table): the alternative, one thread for all changes, pays a
wake-up between threads per request, several times what publishing costs.

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

import trio

from cascadefs.errnos import ERRNO, errno_of
from cascadefs.filesystem.ranges import Ranges
from cascadefs.kernel import mountpoint, negotiation
from cascadefs.kernel.attributes import Attributes
from cascadefs.kernel.connection import READERS, Connection
from cascadefs.kernel.directories import Directories
from cascadefs.kernel.files import Files
from cascadefs.kernel.handler import Handler, Handlers, Kind
from cascadefs.kernel.mountpoint import MountRefused
from cascadefs.kernel.names import Names
from cascadefs.kernel.notify import Notifier
from cascadefs.kernel.protocol import NO_REPLY, OPCODES_MAX, UNIQUE, Header, Opcode, Reply
from storage.errors import Corruption, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cascadefs.filesystem import Filesystem
    from cascadefs.kernel.negotiation import Agreement

__all__ = ["Door", "MountRefused"]

_MESSAGES_MAX: Final = 1000
"""Distinct bugs and damages whose message was logged; later ones are only counted."""

CLOSING_SECONDS: Final = 5.0
"""How long `Door.unmount` waits for the request being handled."""

_log = logging.getLogger(__name__)


class Door:
    """One mount. `mount`, then `serve` inside trio, then `unmount`."""

    refusal = MountRefused

    def __init__(
        self, filesystem: Filesystem, publish: Callable[[], None], on_ready: Callable[[], None]
    ) -> None:
        """`publish` publishes the store's index; `on_ready` is called when the mount answers."""
        self._filesystem = filesystem
        self._publish = publish
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._agreement: Agreement | None = None
        self._connection: Connection | None = None
        self._notifier: Notifier | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._waiting: trio.Nursery | None = None
        self._stopped: trio.Event | None = None
        self._seen: set[str] = set()
        self.errors: dict[str, int] = {}
        self._table: list[Handler | None] = [None] * OPCODES_MAX
        files = Files(filesystem, Ranges(filesystem), self._later, publish)
        for handlers in (
            Names(filesystem).handlers(),
            Attributes(filesystem, files.wrote).handlers(),
            files.handlers(),
            Directories(filesystem, self._later).handlers(),
        ):
            self._enter(handlers)
        self._table[Opcode.INIT] = self._greet
        self._table[Opcode.INTERRUPT] = self._ignore
        self._table[Opcode.DESTROY] = self._acknowledge

    # --- life --------------------------------------------------------------------------------------------------

    def mount(self, path: Path, options: Sequence[str], monotonic: Callable[[], float]) -> None:
        """Mount; requests gather until `serve`.

        Raises:
            MountRefused: nothing is mounted then.
        """
        del monotonic
        try:
            descriptor = mountpoint.attach(path, options)
        except OSError as error:
            raise MountRefused(error.strerror or str(error)) from error
        self.attach(descriptor)

    def attach(self, descriptor: int) -> None:
        """Serve this device from now on: a mount's, or a test's."""
        self._connection = Connection(descriptor, self._table)
        self._notifier = Notifier(self._connection.send)

    async def serve(self) -> None:
        """Answer requests until the mount is gone or `stop` is called.

        Cancelled or stopped, the readers stay behind in read(2), where nothing wakes them; they refuse what they still
        read, and end with the connection.

        Raises:
            ExceptionGroup: the device failed.
        """
        assert self._connection is not None
        assert self._notifier is not None
        self._token = trio.lowlevel.current_trio_token()
        self._stopped = trio.Event()
        self._notifier.start()
        async with trio.open_nursery() as waiting:
            self._waiting = waiting
            try:
                async with trio.open_nursery() as readers:
                    limiter = trio.CapacityLimiter(READERS)
                    for _ in range(READERS):
                        readers.start_soon(self._read, self._connection, limiter)
                    await self._stopped.wait()
                    readers.cancel_scope.cancel()
            finally:
                self._waiting = None
                self._refuse_from_now_on()
            waiting.cancel_scope.cancel()

    async def _read(self, connection: Connection, limiter: trio.CapacityLimiter) -> None:
        await trio.to_thread.run_sync(connection.serve, abandon_on_cancel=True, limiter=limiter)
        self.stop()  # the connection is gone: the other readers are about to see it too

    def stop(self) -> None:
        """Let `serve` return after the requests that are being handled."""
        assert self._stopped is not None
        self._stopped.set()

    def _refuse_from_now_on(self) -> None:
        """What is still asked is answered with ENOTCONN at once, as by a mount whose daemon is gone."""
        with self._lock:
            self._table[:] = [self._disconnected] * OPCODES_MAX
            for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
                self._table[opcode] = self._ignore

    def unmount(self, *, mounted: bool) -> None:
        """End the session: no request is handled any more. `mounted`: it is still in the tree, where it stays.

        Readers may still be in read(2), so the connection ends with the process.
        """
        del mounted
        if self._notifier is not None:
            self._notifier.stop()
        # Whoever is in a handler finishes it; whoever comes waits for ever, and ends with the process.
        self._lock.acquire(timeout=CLOSING_SECONDS)
        if self._connection is not None:
            self._connection.close()

    # --- for the daemon ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the file system, to use it from outside; what was changed is published and the kernel told."""
        with self._lock:
            try:
                yield
            finally:
                self._publish()
                self._tell()

    def notify(self) -> None:
        """Tell the kernel what the file system says it should forget."""
        with self._lock:
            self._tell()

    def status(self) -> dict[str, object]:
        """The door's part of the status, JSON-able. Asked while the file system is held, or before it is served."""
        requests = self._connection.requests() if self._connection is not None else {}
        notifier = self._notifier
        return {
            "door": "kernel",
            **(self._agreement.describe() if self._agreement is not None else {}),
            "readers": READERS,
            "requests": requests,
            "errors": dict(self.errors),
            "invalidations": {
                "sent": notifier.sent if notifier is not None else 0,
                "failed": notifier.failed if notifier is not None else 0,
            },
        }

    # --- handling ----------------------------------------------------------------------------------------------

    def _enter(self, handlers: Handlers) -> None:
        for opcode, (handler, kind) in handlers.items():
            assert self._table[opcode] is None
            wrap = {
                Kind.ASKS: self._asking,
                Kind.CHANGES: self._changing,
                Kind.TELLS: self._told,
            }[kind]
            self._table[opcode] = wrap(opcode, handler)

    def _asking(self, opcode: Opcode, handler: Handler) -> Handler:
        """Hold the file system, and let nothing out. Large answers are sent after it was let go."""
        lock, failed = self._lock, self._failed

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
        """The same, and before it is let go: answer, publish, and queue what the kernel is to forget."""
        lock, failed, publish = self._lock, self._failed, self._publish

        def handle(node: int, body: memoryview, header: Header) -> Reply:
            with lock:
                result: Reply
                try:
                    result = handler(node, body, header)
                except Refused as refusal:
                    result = -ERRNO[refusal.reason]
                except Exception as error:
                    result = failed(opcode, error)
                if result != NO_REPLY:
                    self._reply(header[UNIQUE], result)
                try:
                    publish()
                except Exception as error:
                    failed(opcode, error)
                self._tell()
            return NO_REPLY

        return handle

    def _reply(self, unique: int, result: Reply) -> None:
        assert self._connection is not None
        self._connection.reply(unique, result)

    def _tell(self) -> None:
        if self._notifier is not None and (gone := self._filesystem.take_invalidations()):
            self._notifier.put(gone)

    def _failed(self, opcode: Opcode, error: Exception) -> int:
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

    # --- what waits --------------------------------------------------------------------------------------------

    def _later(self, unique: int, result: Reply) -> None:
        """See `handler.Later`. The disk is waited for by trio, which lets all who wait share a sync."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._begin_waiting, unique, result)
        except trio.RunFinishedError:
            self._reply(unique, -errno.ENOTCONN)

    def _begin_waiting(self, unique: int, result: Reply) -> None:
        if self._waiting is None:
            self._reply(unique, -errno.ENOTCONN)
        else:
            self._waiting.start_soon(self._wait_durable, unique, result)

    async def _wait_durable(self, unique: int, result: Reply) -> None:
        try:
            await self._filesystem.sync()
        except Exception as error:
            result = self._failed(Opcode.FSYNC, error)
        except trio.Cancelled:
            self._reply(unique, -errno.ENOTCONN)
            raise
        self._reply(unique, result)

    # --- the connection's own requests -------------------------------------------------------------------------

    def _greet(self, node: int, body: memoryview, header: Header) -> Reply:
        try:
            self._agreement, answer = negotiation.negotiate(body, passthrough=False)
        except negotiation.TooOld as error:
            _log.critical("%s", error)
            return -errno.EPROTO
        self._reply(header[UNIQUE], answer)
        if self._agreement is not None:
            self._on_ready()
        return NO_REPLY

    def _ignore(self, node: int, body: memoryview, header: Header) -> Reply:
        return NO_REPLY

    def _acknowledge(self, node: int, body: memoryview, header: Header) -> Reply:
        return None

    def _disconnected(self, node: int, body: memoryview, header: Header) -> Reply:
        return -errno.ENOTCONN
