"""What the kernel is told to forget, from a thread of its own.

The kernel may make such a notification wait: for a directory that a request to us holds locked, for a page that a read
from us will fill. Sent by the thread that answers requests, it would wait for ever (libfuse, fuse_lowlevel.h). So there
is one thread and a queue to it, whose order is kept. What the kernel did not know in the first place is fine.
"""

from __future__ import annotations

import errno
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
        self.sent = 0
        self.failed = 0

    def start(self) -> None:
        """Begin; what was put before is sent first."""
        self._thread.start()

    def put(
        self, invalidations: Iterable[Invalidation], after: Callable[[], None] = _nothing
    ) -> None:
        """Send these, soon and in this order; `after` is called when they are, from the thread."""
        self._queue.put((invalidations, after))

    def stop(self) -> bool:
        """Send what is queued and end; False if a notification still waits for the kernel.

        Then the session must not be destroyed: the thread is inside it.
        """
        self._queue.put(None)
        self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            invalidations, after = item
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
