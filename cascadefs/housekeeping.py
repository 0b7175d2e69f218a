"""What a mount does by itself about once a second: files that stay open become versions, and what is committed goes to the disk.

Theory of operation. On a cluster each shard is saved by a task of its own, in a thread of its own: one that waits for a leader keeps
none of the others waiting, and is not begun again before it has ended. Nobody waits for any of this, so what goes wrong is said here,
once, and in the status; a draft that could not be saved stays one, and is told of by the next fsync or close of its file.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from storage.limits import SHARDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Protocol

    from cascadefs.filesystem import Filesystem
    from storage.clock import Clock

    class Committed(Protocol):
        """What of a store is asked here."""

        def publish(self) -> None:
            """See `Store`."""

        def unsynced(self) -> bool:
            """See `Store`."""

        async def wait_durable(self, who: int = 0) -> None:
            """See `Store`."""


__all__ = ["Housekeeping"]

_T = TypeVar("_T")

_log = logging.getLogger("cascadefs")


class Housekeeping:
    """See the module. In trio's thread."""

    def __init__(
        self,
        filesystem: Filesystem,
        store: Committed,
        clock: Clock,
        exclusive: Callable[[], AbstractContextManager[None]],
        *,
        may_wait: bool,
    ) -> None:
        """Nothing is done yet.

        Args:
            filesystem: whose drafts.
            store: below it.
            clock: the wall clock.
            exclusive: holds the file system.
            may_wait: what is done here may wait for a cluster, and others have the file system meanwhile.
        """
        self._filesystem = filesystem
        self._store = store
        self._clock = clock
        self._exclusive = exclusive
        self._may_wait = may_wait
        self._saving: set[int] = set()
        self._threads = trio.CapacityLimiter(SHARDS_MAX + 1)
        self._troubles: dict[int | None, str] = {}

    @property
    def trouble(self) -> str | None:
        """Why not everything is saved; None if it is."""
        return next(iter(self._troubles.values()), None)

    async def look(self, nursery: trio.Nursery) -> None:
        """Once around. Cancelled, what is on its way may be saved, or not."""
        now_ns = self._clock.now_ns()
        try:
            if not self._may_wait:
                with self._exclusive():
                    self._filesystem.housekeep(now_ns)
                    refused = bool(self._filesystem.inodes.refused(now_ns))
            else:
                refused = False
                await self._look_at_shards(now_ns, nursery)
            if self._store.unsynced():
                await self._store.wait_durable()
            if not refused:
                self._troubles.pop(None, None)
        except Exception as error:
            self._say(None, error)

    async def _look_at_shards(self, now_ns: int, nursery: trio.Nursery) -> None:
        inodes = self._filesystem.inodes
        due, refused = await self.apart(lambda: (inodes.unsaved(now_ns), inodes.refused(now_ns)))
        for shard in due - self._saving:
            self._saving.add(shard)
            nursery.start_soon(self._save_due, now_ns, shard)
        still = {None} | due | refused | self._saving
        self._troubles = {one: why for one, why in self._troubles.items() if one in still}
        await self.apart(self._store.publish)

    async def _save_due(self, now_ns: int, shard: int) -> None:
        try:
            await self.apart(lambda: self._filesystem.inodes.save(now_ns, shard))
        except Exception as error:
            self._say(shard, error)
        finally:
            self._saving.discard(shard)

    def _say(self, shard: int | None, error: Exception) -> None:
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self._troubles.get(shard):
            _log.error("not everything is on the disk: %s", trouble, exc_info=error)
        self._troubles[shard] = trouble

    async def save_all(self) -> None:
        """Every draft becomes a version: the mount is about to end.

        Raises:
            Exception: of the first that could not be saved; all others were tried.
            ExceptionGroup: of several shards.
        """
        if not self._may_wait:
            with self._exclusive():
                self._filesystem.commit_all()
            return
        failures: list[Exception] = []

        async def save(shard: int) -> None:
            try:
                await self.apart(functools.partial(self._filesystem.commit_all, shard))
            except Exception as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for shard in await self.apart(self._filesystem.unsaved):
                nursery.start_soon(save, shard)
        if len(failures) > 1:
            raise ExceptionGroup("several shards are not saved", failures)
        if failures:
            raise failures[0]

    async def apart(self, call: Callable[[], _T]) -> _T:
        """Hold the file system for something that may wait: not in this thread, which has signals and everybody else to hear."""

        def held() -> _T:
            with self._exclusive():
                return call()

        if not self._may_wait:
            return held()
        return await trio.to_thread.run_sync(held, abandon_on_cancel=True, limiter=self._threads)
