"""What the kernel is told to forget, from threads that do nothing else.

The kernel may make such a notification wait: for a directory that a request to us holds locked, for a page that a read
from us will fill. Sent by the thread that answers requests, it would wait for ever (libfuse, fuse_lowlevel.h). So there
is one thread and a queue to it, whose order is kept. What the kernel did not know in the first place is fine.

Somebody who waits until the kernel has forgotten has a thread for him alone. In the queue he could be behind a notification
that waits for the directory he himself holds locked: two restores, of a directory and of one in it, would wait for each other
for ever.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Invalidation", "Notifier"]

Invalidation = tuple[int, bytes | None]
"""(node, None): pages and attributes of a node. (parent, name): an entry, whether there or known to be absent."""

STOP_SECONDS: Final = 2.0
"""How long `Notifier.stop` waits for what is queued: a notification that waits for a request ends with the mount."""

_log = logging.getLogger(__name__)

# The kernel did not know it, or there is no mount any more.
_NOTHING_LOST: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN, errno.ENODEV, errno.EBADF}
)


def _nothing() -> None:
    return None


def _unless_gone(notify: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # who polls has gone with the mount
        notify()


class Notifier:
    """The thread and its queue.

    The queue has no bound of its own: it holds at most what requests changed while the kernel held one directory, and
    refusing would leave the kernel with a lie.
    """

    def __init__(
        self,
        invalidate_node: Callable[[int], None],
        invalidate_entry: Callable[[int, bytes], None],
    ) -> None:
        self._invalidate_node = invalidate_node
        self._invalidate_entry = invalidate_entry
        self._queue: queue.SimpleQueue[tuple[Iterable[Invalidation], Callable[[], None]] | None]
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
        """Send these, soon and in this order; `after` is called when they are, from another thread."""
        if after is None:
            self._queue.put((invalidations, _nothing))
            return
        thread = threading.Thread(
            target=self._deliver_awaited,
            args=(invalidations, after),
            name="cascadefs-notify-awaited",
            daemon=True,
        )
        self._awaited.add(thread)
        try:
            thread.start()
        except RuntimeError:  # There can be no more threads: later is better than never.
            self._awaited.discard(thread)
            self._queue.put((invalidations, after))

    def wake(self, notify: Callable[[], None]) -> None:
        """Have who polls look again, after what was put before."""
        self._queue.put(((), functools.partial(_unless_gone, notify)))

    def stop(self) -> bool:
        """Send what is queued and end; False if a notification still waits for the kernel.

        Then the session must not be destroyed: a thread is inside it.
        """
        self._queue.put(None)
        threads = [self._thread, *self._awaited]
        for thread in threads:
            thread.join(STOP_SECONDS)
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)

    def _deliver_awaited(
        self, invalidations: Iterable[Invalidation], after: Callable[[], None]
    ) -> None:
        try:
            self._deliver(invalidations, after)
        finally:
            self._awaited.discard(threading.current_thread())

    def _deliver(self, invalidations: Iterable[Invalidation], after: Callable[[], None]) -> None:
        for number, name in invalidations:
            self._send(number, name)
        after()

    def _send(self, number: int, name: bytes | None) -> None:
        try:
            if name is None:
                self._invalidate_node(number)
            else:
                self._invalidate_entry(number, name)
            self.sent += 1
        except OSError as error:
            if error.errno in _NOTHING_LOST:
                return
            self.failed += 1
            if self.failed == 1:
                _log.error(
                    "node %d %r: the kernel keeps what it should forget: %s", number, name, error
                )
