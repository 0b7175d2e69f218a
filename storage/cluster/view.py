"""The whole store as one shard's follower sees it: every question of every shard, the records of this one.

Places in a log, listeners and deliveries are of a shard, and whoever follows commits follows one shard at a time. What is asked
about this shard needs no other; what is asked about another as of a time waits until that is final there.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from storage import stream
from storage.cluster.routing import shards_of
from storage.distant import DistantLog
from storage.errors import Reason, Refused
from storage.log import Log
from storage.namespace import REFUSED, ROOT, shard_of
from storage.record import Activate, Adopt, Advance, Attempt, Finish, Rearm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.attributes import Attributes
    from storage.binding import Binding, Tombstone
    from storage.cluster.face import Face
    from storage.cluster.store import ClusterStore
    from storage.namespace import Namespace, Outcome
    from storage.namespace.deliveries import Deliveries
    from storage.record import Record
    from storage.stream import Committed

__all__ = ["ShardView", "log_of"]

CUT_SECONDS: Final = 0.5
"""How long a question about another shard waits for what is asked to be final there."""


class ShardView:
    """`storage.store.Store` over a `ClusterStore`; what is not said here is the store's own answer."""

    def __init__(self, store: ClusterStore, face: Face) -> None:
        self._store = store
        self._face = face
        self.reads_own = self.reads_others = 0
        """Ranges of contents read from this shard, and from others."""

    def is_of(self, face: Face) -> bool:
        """Whether this is what a face shows."""
        return self._face is face

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
        return stream.committed(log_of(face), address, after, lambda: face.applied_index)

    def committed_at(self, address: int) -> Committed:
        """See `Store`."""
        return stream.committed_at(log_of(self._face), address)

    def address_of_time(self, timestamp: int) -> int:
        """See `Store`."""
        return stream.address_of_time(log_of(self._face), timestamp)

    def propose(self, proposal: Record, payload: Sequence[bytes | memoryview] = ()) -> Outcome:
        """See `Store`. What consumers do is said in the shard they follow, whatever their base is."""
        match proposal:
            case Finish(records=records):
                shards = set[int]().union(*map(shards_of, records))
                if shards - {self._face.namespace.shard}:
                    return REFUSED[Reason.CROSS_SHARD]
                return self._decide(proposal, payload)
            case Adopt() | Activate() | Advance() | Attempt() | Rearm():
                return self._decide(proposal, payload)
            case _:
                return self._store.propose(proposal, payload)

    def _decide(self, proposal: Record, payload: Sequence[bytes | memoryview]) -> Outcome:
        return self._face.propose(proposal, payload)

    # --- the shard's own answers -----------------------------------------------------------------------------------

    def now(self) -> int:
        """See `Store`: the last commit of this shard that is known here, which needs nobody's word to be final."""
        return self._face.applied_timestamp

    def is_top(self, directory: int, timestamp: int) -> bool:
        """See `Store`."""
        if directory == ROOT:
            return True
        row = self._space(directory).attributes_at(directory, timestamp)
        parent = row[1].parent if row is not None else 0
        return parent != 0 and shard_of(parent) != shard_of(directory)

    def _space(self, inode: int, timestamp: int | None = None) -> Namespace:
        """The tree of the shard an inode lives in, final up to a timestamp.

        Raises:
            OSError: EAGAIN, if it takes longer than `CUT_SECONDS`; EIO, if the shard is not here.
        """
        own = self._face.namespace
        if shard_of(inode) == own.shard:
            return own
        face = self._store.face_of(inode)
        if timestamp is not None and not face.settle(timestamp, CUT_SECONDS):
            raise OSError(
                errno.EAGAIN,
                f"shard {shard_of(inode)} does not say in time what was at {timestamp}",
            )
        return face.namespace

    def read(
        self, inode: int, attributes: Attributes, timestamp: int | None, offset: int, length: int
    ) -> bytes | bytearray | memoryview:
        """See `Store`."""
        self._count(inode)
        return self._store.read(inode, attributes, timestamp, offset, length)

    def read_ranges(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        ranges: Sequence[tuple[int, int]],
    ) -> bytes:
        """See `Store`."""
        self._count(inode)
        return self._store.read_ranges(inode, attributes, timestamp, ranges)

    def _count(self, inode: int) -> None:
        if shard_of(inode) == self._face.namespace.shard:
            self.reads_own += 1
        else:
            self.reads_others += 1

    def attributes(self, inode: int) -> Attributes | None:
        """See `Store`."""
        return self._space(inode).attributes(inode)

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """See `Store`."""
        return self._space(inode, timestamp).attributes_at(inode, timestamp)

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """See `Store`."""
        return self._space(directory, timestamp).binding_at(directory, name, timestamp)

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """See `Store`."""
        return self._space(directory, timestamp).children_at(directory, timestamp, after)

    def entry_at(
        self, directory: int, name: bytes, timestamp: int
    ) -> tuple[int, Binding | None, Tombstone | None] | None:
        """See `Store`."""
        return self._space(directory, timestamp).entry_at(directory, name, timestamp)

    def names_at(self, inode: int, timestamp: int | None = None) -> list[tuple[int, bytes]]:
        """See `Store`. The names of a shard root are where its parent is."""
        space = self._space(inode, timestamp)
        attributes = space.attributes(inode)
        if attributes is not None and attributes.parent:
            space = self._space(attributes.parent, timestamp)
        return space.names_at(inode, timestamp)


def log_of(face: Face) -> Log:
    """The log of a face, where a replica is in this process.

    Raises:
        Refused: UNSUPPORTED elsewhere.
    """
    log = face.log
    near = log.near if isinstance(log, DistantLog) else log
    if not isinstance(near, Log):
        raise Refused(Reason.UNSUPPORTED)
    return near
