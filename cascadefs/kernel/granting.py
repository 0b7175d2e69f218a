"""A lock was granted: who asked hears of it when this mount shows all that was committed before.

Mostly everything is applied already, and nobody else has changed the file: then the link's thread answers at once, if the file system
happens to be free; it never waits for that. Else a thread of its own waits, as whoever opens a file does.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from storage.limits import RECORD_INODE_MAX

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from cascadefs.filesystem import Filesystem
    from cascadefs.kernel.notify import Invalidation
    from storage.cluster.store import ClusterStore

__all__ = ["Granting"]


class Granting:
    """See the module."""

    def __init__(
        self,
        filesystem: Filesystem,
        store: ClusterStore,
        lock: threading.Lock,
        forget: Callable[[list[Invalidation], int, Callable[[], None]], None],
        aside: Callable[[Callable[[], None]], bool],
        failed: Callable[[Exception], int],
    ) -> None:
        """Nothing is granted yet.

        Args:
            filesystem: over the store.
            store: of the cluster.
            lock: around both.
            forget: (stale, node, after) calls `after` when the kernel has forgotten these, and all that it was told of the node
                before; does not wait.
            aside: calls something that may wait; False if nobody does.
            failed: logs what went wrong; the errno to answer.
        """
        self._filesystem = filesystem
        self._store = store
        self._lock = lock
        self._forget = forget
        self._aside = aside
        self._failed = failed

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
            if others.has_heard or others.changed_since_locked(node):
                return False
        finally:
            self._lock.release()
        done(0)
        return True

    def _in_time(self, node: int, index: int, done: Callable[[int], None]) -> None:
        others = self._filesystem.others

        def forgotten() -> None:
            # Not before: somebody else may be granted a lock meanwhile.
            with self._lock:
                others.has_forgotten(node, change)
            done(0)

        try:
            with self._lock:
                self._store.reach(node, index)
                stale = others.take()
                change = others.changed_since_locked(node)
                if change and (node, None) not in stale:
                    stale.append((node, None))
                others.is_unseen(node)  # Who opens it need not have it forgotten once more.
        except Exception as error:
            # What was written before cannot be shown: the lock is given back.
            done(self._failed(error))
        else:
            self._forget(stale, node, forgotten)
