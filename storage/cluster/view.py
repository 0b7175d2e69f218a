"""The whole store as one shard's follower sees it: every question of every shard, the records of this one.

Places in a log, listeners and deliveries are of a shard, and whoever follows commits follows one shard at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage import stream
from storage.distant import DistantLog
from storage.errors import Reason, Refused
from storage.log import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.cluster.face import Face
    from storage.cluster.store import ClusterStore
    from storage.namespace.deliveries import Deliveries
    from storage.record import Record
    from storage.stream import Committed

__all__ = ["ShardView"]


class ShardView:
    """`storage.store.Store` over a `ClusterStore`; what is not said here is the store's own answer."""

    def __init__(self, store: ClusterStore, face: Face) -> None:
        self._store = store
        self._face = face

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def deliveries(self) -> Deliveries:
        """See `Store`."""
        return self._face.namespace.deliveries

    def listen(self, listener: Callable[[int, int, Record], None] | None) -> None:
        """See `Store`: records of this shard."""
        self._face.listener = listener

    def committed(self, address: int = 0, after: int = 0) -> Iterator[Committed]:
        """See `Store`.

        Raises:
            Refused: UNSUPPORTED, if this shard's log is elsewhere.
        """
        face = self._face
        return stream.committed(self._log(), address, after, lambda: face.applied_index)

    def committed_at(self, address: int) -> Committed:
        """See `Store`."""
        return stream.committed_at(self._log(), address)

    def address_of_time(self, timestamp: int) -> int:
        """See `Store`."""
        return stream.address_of_time(self._log(), timestamp)

    def _log(self) -> Log:
        log = self._face.log
        near = log.near if isinstance(log, DistantLog) else log
        if not isinstance(near, Log):
            raise Refused(Reason.UNSUPPORTED)
        return near
