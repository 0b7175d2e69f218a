"""A lock was granted: who asked hears of it when this mount shows all that was committed before.

Mostly everything is applied already, and nobody else has changed the file: then the link's thread answers at once, if the file system
happens to be free; it never waits for that. Else a thread of its own waits, as whoever opens a file does.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from storage.limits import RECORD_INODE_MAX

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from cascadefs.filesystem import Filesystem
    from cascadefs.kernel.notify import Invalidation
    from storage.cluster.store import ClusterStore

__all__ = ["Granting"]

_log = logging.getLogger(__name__)


class Granting:
    """See the module."""

    def __init__(
        self,
        filesystem: Filesystem,
        store: ClusterStore,
        lock: threading.Lock,
        forget: Callable[[list[Invalidation], Callable[[], None]], None],
        aside: Callable[[Callable[[], None]], bool],
    ) -> None:
        """Nothing is granted yet.

        Args:
            filesystem: over the store.
            store: of the cluster.
            lock: around both.
            forget: calls something when the kernel has forgotten something; does not wait.
            aside: calls something that may wait; False if nobody does.
        """
        self._filesystem = filesystem
        self._store = store
        self._lock = lock
        self._forget = forget
        self._aside = aside

    def granted(self, node: int, index: int, done: Callable[[int], None]) -> None:
        """Tell `done` 0 when what was committed in the node's shard up to an index is seen; else an errno. Does not wait."""
        if node >= RECORD_INODE_MAX:  # The past does not change.
            done(0)
        elif not self._at_once(node, index, done) and not self._aside(
            lambda: self._in_time(node, index, done)
        ):
            done(errno.EIO)

    def _at_once(self, node: int, index: int, done: Callable[[int], None]) -> bool:
        others = self._filesystem.others
        if not self._store.has_reached(node, index) or not self._lock.acquire(blocking=False):
            return False
        try:
            if others.has_heard or others.is_changed(node):
                return False
        finally:
            self._lock.release()
        done(0)
        return True

    def _in_time(self, node: int, index: int, done: Callable[[int], None]) -> None:
        try:
            with self._lock:
                self._store.reach(node, index)
                stale = self._filesystem.others.take()
                if self._filesystem.others.is_changed(node):
                    stale.append((node, None))
                    self._filesystem.others.has_shown(node)
        except OSError as error:
            _log.error(
                "a lock is given back, for what was written before cannot be shown: %s", error
            )
            done(errno.EIO)
        else:
            self._forget(stale, lambda: done(0))
