"""What directories say about their history, through all shards: policies, holds and labels reach below shard roots.

A shard whose tree is not here, or not up to date, may say anything: as long as that is so, all below its directories counts as
held, so nothing is let go by mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.namespace import shard_of
from storage.retention import HOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from storage.attributes import Attributes
    from storage.namespace import Namespace

__all__ = ["ClusterSayings"]

UNKNOWN: Final = b"what is said above is not known here"


class ClusterSayings:
    """`storage.retention.Sayings` over the trees of shards."""

    def __init__(
        self,
        find: Callable[[int], Namespace | None],
        known: Callable[[], Iterable[Namespace]],
    ) -> None:
        """Nothing is asked yet.

        Args:
            find: the tree of a shard; None if it is not here, or behind.
            known: those that are.
        """
        self._find = find
        self._known = known

    def attributes(self, inode: int) -> Attributes | None:
        """See `Namespace`. The parent of a shard root is who its stub says."""
        space = self._find(shard_of(inode))
        attributes = space.attributes(inode) if space is not None else None
        if attributes is not None and _is_elsewhere(attributes, inode):
            above = self._find(shard_of(attributes.parent))
            stub = above.attributes(inode) if above is not None else None
            if stub is not None:
                attributes.parent = stub.parent
        return attributes

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """See `Namespace`, as above."""
        space = self._find(shard_of(inode))
        row = space.attributes_at(inode, timestamp) if space is not None else None
        if row is not None and _is_elsewhere(row[1], inode):
            above = self._find(shard_of(row[1].parent))
            stub = above.attributes_at(inode, timestamp) if above is not None else None
            if stub is not None:
                row[1].parent = stub[1].parent
        return row

    def xattr(self, inode: int, name: bytes) -> bytes | None:
        """See `Namespace`. There is a hold on what is not known."""
        space = self._find(shard_of(inode))
        if space is None:
            return UNKNOWN if name == HOLD else None
        return space.xattr(inode, name)

    def all_labels(self) -> Iterator[tuple[int, bytes, int]]:
        """See `Namespace`."""
        for space in self._known():
            yield from space.all_labels()

    def has_policies(self) -> bool:
        """See `Namespace`."""
        return any(space.has_policies() for space in self._known())


def _is_elsewhere(attributes: Attributes, inode: int) -> bool:
    return bool(attributes.parent) and shard_of(attributes.parent) != shard_of(inode)
