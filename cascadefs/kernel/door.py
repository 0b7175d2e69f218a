"""One mount of the second door: joins handlers, device and notifications, and leads them through their life.

What does not wait is answered by the reader's thread (`dispatch`). What waits for the disk (fsync, O_SYNC) is answered
later, by its unique number, from trio, where all who wait share a sync.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.kernel import mountpoint, negotiation
from cascadefs.kernel.attributes import Attributes
from cascadefs.kernel.backing import Backing
from cascadefs.kernel.connection import READERS, Connection
from cascadefs.kernel.directories import Directories
from cascadefs.kernel.dispatch import Dispatch
from cascadefs.kernel.files import Files
from cascadefs.kernel.granting import Granting
from cascadefs.kernel.locks import Locks
from cascadefs.kernel.mountpoint import MountRefused
from cascadefs.kernel.names import Names
from cascadefs.kernel.notify import Notifier
from cascadefs.kernel.protocol import NO_REPLY, UNIQUE, Header, Opcode, Reply
from cascadefs.kernel.spares import Spares
from cascadefs.kernel.turnstile import Turnstile
from storage.cluster.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cascadefs.filesystem import Filesystem
    from cascadefs.kernel.locks import ClusterLocks
    from cascadefs.kernel.negotiation import Agreement
    from cascadefs.kernel.notify import Invalidation
    from storage.cluster.store import ClusterStore

__all__ = ["Door", "MountRefused"]

CLOSING_SECONDS: Final = 5.0
"""How long `Door.unmount` waits for the request being handled."""

READ_AHEAD_BYTES: Final = 512 * 1024
"""The kernel's own 128 KiB make four times as many requests of a sequential read, which costs a quarter of its speed. More
gains little, and a page fault in a mapped file reads around it as much."""

_log = logging.getLogger(__name__)


class Door:
    """One mount. `mount`, then `serve` inside trio, then `unmount`."""

    refusal = MountRefused
    threaded = True
    """Whether requests are answered in other threads than trio's."""

    def __init__(self, filesystem: Filesystem, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when the mount answers."""
        self._filesystem = filesystem
        self._on_ready = on_ready
        self._path: Path | None = None
        self._turnstile = Turnstile()
        take = filesystem.take_invalidations
        self._dispatch = Dispatch(self._turnstile, self._reply, self._tell, take, self._reveal)
        self._agreement: Agreement | None = None
        self._connection: Connection | None = None
        self._notifier: Notifier | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._waiting: trio.Nursery | None = None
        self._stopped: trio.Event | None = None
        self._spares: Spares | None = None
        self._backing = Backing(filesystem, self._dispatch.lock)
        self._locks: Locks | None = None
        files = self._files = Files(
            filesystem,
            filesystem.ranges,
            self._backing,
            self._reply,
            self._later,
            self._wake,
            self._forget_node,
        )
        for handlers in (
            Names(filesystem).handlers(),
            Attributes(filesystem, files.wrote).handlers(),
            files.handlers(),
            Directories(filesystem, self._later).handlers(),
        ):
            self._dispatch.enter(handlers)
        table = self._dispatch.table
        table[Opcode.INIT] = self._greet
        table[Opcode.INTERRUPT] = self._ignore
        table[Opcode.DESTROY] = self._acknowledge

    # --- life --------------------------------------------------------------------------------------------------

    def mount(self, path: Path, options: Sequence[str], monotonic: Callable[[], float]) -> None:
        """Mount; requests gather until `serve`.

        Raises:
            MountRefused: nothing is mounted then.
        """
        del monotonic
        self._path = path
        try:
            descriptor = mountpoint.attach(path, options)
        except OSError as error:
            raise MountRefused(error.strerror or str(error)) from error
        self.attach(descriptor)

    def attach(self, descriptor: int) -> None:
        """Serve this device from now on: a mount's, or a test's."""
        self._connection = Connection(descriptor, self._dispatch.table, self._turnstile)
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
                    for reader in range(READERS):
                        readers.start_soon(self._read, self._connection, reader, limiter)
                    await self._stopped.wait()
                    readers.cancel_scope.cancel()
            finally:
                self._waiting = None
                self._dispatch.close()
            waiting.cancel_scope.cancel()

    def share(self, store: ClusterStore, locks: ClusterLocks | None = None) -> None:
        """Have requests that wait for the cluster let others have the file system, and read on meanwhile.

        `locks`: who decides who may lock what; None: the kernel does, for this mount.
        """
        if locks is not None:
            self._granting = Granting(
                self._filesystem,
                store,
                self._dispatch.lock,
                self._forget,
                self._aside,
                lambda error: -self._dispatch.failed(Opcode.SETLKW, error),
            )
            self._locks = Locks(self._filesystem, locks, self._reply, self._granting.granted)
            self._files.locks = self._locks
            self._dispatch.enter(self._locks.handlers())
            self._dispatch.table[Opcode.INTERRUPT] = self._locks.interrupt
        turns = Turns(self._dispatch.lock, always=True)
        spares = self._spares = Spares(self._read_in_place)

        def on_rest() -> None:
            self._dispatch.rest()
            spares.leave()

        def on_back() -> None:
            spares.back()
            self._dispatch.back()

        turns.on_rest, turns.on_back = on_rest, on_back
        store.share(turns)

    def _read_in_place(self, park: Callable[[], None]) -> None:
        assert self._connection is not None
        try:
            self._connection.serve(0, park)
        except OSError:
            _log.critical("the device failed", exc_info=True)

    async def _read(
        self, connection: Connection, reader: int, limiter: trio.CapacityLimiter
    ) -> None:
        def serve() -> None:
            if self._spares is not None:
                self._spares.enter()
            connection.serve(reader)

        await trio.to_thread.run_sync(serve, abandon_on_cancel=True, limiter=limiter)
        self.stop()  # the connection is gone: the other readers are about to see it too

    def stop(self) -> None:
        """Let `serve` return after the requests that are being handled."""
        assert self._stopped is not None
        self._stopped.set()

    def unmount(self, *, mounted: bool) -> None:
        """End the session: no request is handled any more. Take the mount down, even where it is in use, if `mounted`.

        Readers may still be in read(2), so the connection ends with the process.
        """
        if mounted and self._path is not None:
            try:
                mountpoint.detach(self._path)
            except (OSError, subprocess.SubprocessError) as error:
                _log.error("a dead mount stays at %s: %s", self._path, error)
        if self._notifier is not None:
            self._notifier.stop()
        # Whoever is in a handler finishes it; whoever comes waits for ever, and ends with the process.
        self._dispatch.lock.acquire(timeout=CLOSING_SECONDS)
        if self._connection is not None:
            self._connection.close()

    # --- for the daemon ----------------------------------------------------------------------------------------

    def exclusive(self) -> AbstractContextManager[None]:
        """See `Dispatch.exclusive`."""
        return self._dispatch.exclusive()

    def hurry(self, busy: bool) -> None:
        """See the other door: here requests have threads of their own."""

    def tell(self, stale: list[Invalidation]) -> None:
        """Have the kernel forget these, soon. From any thread."""
        if self._notifier is not None:
            self._notifier.put(stale)

    def notify(self) -> None:
        """Tell the kernel what the file system says it should forget."""
        self._tell()

    def status(self) -> dict[str, object]:
        """The door's part of the status, JSON-able. Asked while the file system is held, or before it is served."""
        requests = self._connection.requests() if self._connection is not None else {}
        notifier = self._notifier
        return {
            "door": "kernel",
            **(self._agreement.describe() if self._agreement is not None else {}),
            "readers": READERS,
            "out_of_turn": self._turnstile.out_of_turn,
            "passthrough": self._backing.status(),
            "requests": requests,
            "errors": dict(self._dispatch.errors),
            "invalidations": {
                "sent": notifier.sent if notifier is not None else 0,
                "failed": notifier.failed if notifier is not None else 0,
            },
        }

    # --- answers -----------------------------------------------------------------------------------------------

    def _reply(self, unique: int, result: Reply) -> None:
        assert self._connection is not None
        self._connection.reply(unique, result)

    def _tell(self) -> None:
        if self._filesystem.invalidations and self._notifier is not None:
            with self._dispatch.lock:
                gone = self._filesystem.take_invalidations()
            self._notifier.put(gone)

    def _forget_node(self, node: int, unique: int, answer: Reply) -> None:
        """Answer when the kernel has forgotten pages and attributes of a node."""
        if self._notifier is None:
            self._reply(unique, answer)
        else:
            self._notifier.put([(node, None)], lambda: self._reply(unique, answer))

    def _wake(self, waiting: int) -> None:
        """Whoever polls looks again, and finds nothing that the kernel should have forgotten by then."""
        if self._notifier is not None:
            self._notifier.put(self._filesystem.take_invalidations())
            self._notifier.wake(waiting)

    def _reveal(
        self,
        node: int,
        unique: int,
        result: Reply,
        own: list[Invalidation],
        others: list[Invalidation],
    ) -> None:
        """Answer when the kernel has forgotten what this request changed, names in the node itself excepted.

        Forgetting a name takes the lock of its directory, and this caller holds that of the node.
        """
        if self._notifier is None:
            self._reply(unique, result)
            return
        if result.__class__ is int and result == NO_REPLY:  # Somebody else answers.
            self._notifier.put(own + others)
            return
        held = [gone for gone in own if gone[0] == node and gone[1] is not None]
        free = [gone for gone in own if gone[0] != node or gone[1] is None]
        if free:
            self._notifier.put(free, lambda: self._reply(unique, result))
        else:
            self._reply(unique, result)
        if held or others:
            self._notifier.put(held + others)

    # --- what waits --------------------------------------------------------------------------------------------

    def _later(self, unique: int, result: Reply) -> None:
        """See `handler.Later`. The disk is waited for by trio, which lets all who wait share a sync."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._begin_waiting, unique, result)
        except trio.RunFinishedError:
            self._reply(unique, -errno.ENOTCONN)

    def _forget(self, stale: list[Invalidation], node: int, after: Callable[[], None]) -> None:
        """Call something when the kernel has forgotten these, and all that it was told of the node before."""
        if self._notifier is None:
            after()
        else:
            self._notifier.put_behind(stale, node, after)

    def _aside(self, call: Callable[[], None]) -> bool:
        """Have something that may wait be called in a thread of its own; False if nobody would call it."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._begin_aside, call)
        except trio.RunFinishedError:
            return False
        return True

    def _begin_aside(self, call: Callable[[], None]) -> None:
        if self._waiting is not None:
            self._waiting.start_soon(partial(trio.to_thread.run_sync, call, abandon_on_cancel=True))

    def _begin_waiting(self, unique: int, result: Reply) -> None:
        if self._waiting is None:
            self._reply(unique, -errno.ENOTCONN)
        else:
            self._waiting.start_soon(self._wait_durable, unique, result)

    async def _wait_durable(self, unique: int, result: Reply) -> None:
        try:
            await self._filesystem.sync()
        except Exception as error:
            result = self._dispatch.failed(Opcode.FSYNC, error)
        except trio.Cancelled:
            self._reply(unique, -errno.ENOTCONN)
            raise
        self._reply(unique, result)

    # --- the connection's own requests -------------------------------------------------------------------------

    def _greet(self, node: int, body: memoryview, header: Header) -> Reply:
        try:
            passthrough = os.geteuid() == 0
            self._agreement, answer = negotiation.negotiate(
                body, passthrough=passthrough, locks=self._locks is not None
            )
        except negotiation.TooOld as error:
            _log.critical("%s", error)
            return -errno.EPROTO
        self._reply(header[UNIQUE], answer)
        if self._agreement is not None:
            if self._path is not None:
                mountpoint.set_read_ahead(self._path, READ_AHEAD_BYTES)
            if self._agreement.passthrough and self._connection is not None:
                self._backing.enable(self._connection.descriptor)
            self._on_ready()
        return NO_REPLY

    def _ignore(self, node: int, body: memoryview, header: Header) -> Reply:
        return NO_REPLY

    def _acknowledge(self, node: int, body: memoryview, header: Header) -> Reply:
        return None
