"""What is asked of etcd: five calls and a watch, with keys below the cluster's prefix and bytes as values.

The `Gateway` protocol is what the authority (`etcd`) is written against. `http` speaks it to a real etcd, `model` is
an etcd in memory that can be stopped, compacted and made to forget. etcd's own words (revision, lease, compaction)
mean what they mean there: https://etcd.io/docs/v3.4/learning/api/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from storage.membership.tree import Event, Item

__all__ = ["Batch", "Compacted", "Gateway", "Grant", "LeaseGone", "Put", "Reading"]


class Reading(NamedTuple):
    """All keys below the prefix, as of one revision."""

    revision: int
    items: Sequence[Item]
    etcd: str = ""
    """Which etcd it is (its cluster's number): one that was restored from a snapshot may say another. Empty: it does not say."""


class Batch(NamedTuple):
    """All events up to `revision` that were not delivered before, in order."""

    revision: int
    events: Sequence[Event]


class Grant(NamedTuple):
    """A lease: its number, and the seconds to live that were granted (at least those asked for)."""

    lease: int
    ttl_s: int


class Put(NamedTuple):
    """Set a key; None removes it. A key with a lease (not 0) goes with it."""

    key: str
    raw: bytes | None
    lease: int = 0


class Compacted(Exception):
    """Events from the revision asked for are no longer kept: read everything again."""


class LeaseGone(Exception):
    """The lease lapsed or was revoked."""


class Gateway(Protocol):
    """One etcd. All calls raise `contract.Unavailable` where none of its members gave an answer in time."""

    async def read(self) -> Reading:
        """Everything, from a majority."""
        ...

    async def ping(self) -> int:
        """Ask a majority for nothing but its newest revision."""
        ...

    async def transact(
        self, conditions: Sequence[tuple[str, int]], puts: Sequence[Put]
    ) -> int | None:
        """Put all, if each key of the conditions was last changed at its revision (0: is absent).

        Returns the revision at which it was done, or None: a condition did not hold, nothing was changed.

        Raises:
            LeaseGone: a put names a lease that is none; nothing was changed.
        """
        ...

    async def grant(self, ttl_s: int) -> Grant:
        """A new lease."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Begin the lease's time anew; answers its seconds to live.

        Raises:
            LeaseGone: too late.
        """
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease, with its keys. One that is none is fine."""
        ...

    async def watch(self, after: int, deliver: Callable[[Batch], None]) -> NoReturn:
        """Deliver every event behind a revision, each once and in order, until something breaks.

        Raises:
            Compacted: the revision is too old.
            Unavailable: the watch broke; all that was delivered is good, go on behind it.
        """
        ...
