"""What the kernel is told to forget, from threads that do nothing else.

The kernel may make a notification wait: for a directory that a request to us holds locked, for a page that a READ to us
will fill. Sent by a thread that answers requests, it could wait for ever. So there is one thread and a queue to it, whose
order is kept. What the kernel did not know in the first place is fine.

Who must see the change at once is answered when the kernel has forgotten, by a thread for him alone. In the queue his
answer could be behind a notification that waits for the directory he himself holds locked: two restores, of a directory and of one
in it, would wait for each other for ever.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final

from cascadefs.kernel import notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Invalidation", "Notifier"]

Invalidation = tuple[int, bytes | None]
"""(node, None): pages and attributes of a node. (parent, name): an entry, whether there or known to be absent."""

STOP_SECONDS: Final = 2.0
"""How long `Notifier.stop` waits for what is queued: a notification that waits for a request ends with the mount."""

_NOTHING_LOST: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN, errno.ENODEV, errno.EBADF, errno.ECONNABORTED}
)
"""The kernel did not know it, or there is no mount any more."""

_log = logging.getLogger(__name__)


def _nothing() -> None:
    return None


class Notifier:
    """The thread and its queue, which has no bound: refusing would leave the kernel with a lie.

    It holds at most what requests changed while the kernel held one directory.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send_message = send
        self._queue: queue.SimpleQueue[tuple[Iterable[bytes], Callable[[], None]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cascadefs-notify", daemon=True)
        self._awaited: set[threading.Thread] = set()
        self.sent = 0
        self.failed = 0

    def start(self) -> None:
        """Begin; what was put before is sent first."""
        self._thread.start()

    def put(
        self, invalidations: Iterable[Invalidation], after: Callable[[], None] | None = None
    ) -> None:
        """Let the kernel forget these, soon and in this order; `after` is called when it has, from another thread."""
        messages = [
            notification.invalidate_node(number)
            if name is None
            else notification.invalidate_entry(number, name)
            for number, name in invalidations
        ]
        if after is None:
            self._queue.put((messages, _nothing))
            return
        thread = threading.Thread(
            target=self._deliver_awaited,
            args=(messages, after),
            name="cascadefs-notify-awaited",
            daemon=True,
        )
        self._awaited.add(thread)
        try:
            thread.start()
        except RuntimeError:  # There can be no more threads: later is better than never.
            self._awaited.discard(thread)
            self._queue.put((messages, after))

    def wake(self, waiting: int) -> None:
        """Have who polls look again, after what was put before."""
        self._queue.put(([notification.poll(waiting)], _nothing))

    def stop(self) -> bool:
        """Send what is queued and end; False if a notification still waits for the kernel."""
        self._queue.put(None)
        threads = [self._thread, *self._awaited]
        for thread in threads:
            if thread.ident is not None:
                thread.join(STOP_SECONDS)
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)

    def _deliver_awaited(self, messages: Iterable[bytes], after: Callable[[], None]) -> None:
        try:
            self._deliver(messages, after)
        finally:
            self._awaited.discard(threading.current_thread())

    def _deliver(self, messages: Iterable[bytes], after: Callable[[], None]) -> None:
        for message in messages:
            self._send(message)
        after()

    def _send(self, message: bytes) -> None:
        try:
            self._send_message(message)
            self.sent += 1
        except OSError as error:
            if error.errno in _NOTHING_LOST:
                return
            self.failed += 1
            if self.failed == 1:
                _log.error("the kernel keeps what it should forget: %s", error)
