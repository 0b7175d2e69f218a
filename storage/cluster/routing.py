"""Which shards a record is about, by the high bits of the inode numbers in it. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, assert_never

from storage import record
from storage.namespace import shard_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["shards_of"]

_INODE_OF: Final[dict[type, Callable[[record.Part], int]]] = {
    record.Expect: attrgetter("directory"),
    record.Commit: attrgetter("inode"),
}
"""The common parts of a batch, which may have a hundred: a look-up costs a tenth of matching."""


def shards_of(proposal: record.Record | record.Part) -> set[int]:
    """The shards whose tree a record speaks of; empty for one that says nothing about any.

    It can be proposed to one shard only: where there are several, it cannot be one change.
    """
    match proposal:
        case record.Create(parent, _, inode):
            # A directory may live elsewhere than its name; that takes two records (`storage.cluster.roots`).
            return {shard_of(parent or inode), shard_of(inode)}
        case record.Link(parent, _, inode):
            return {shard_of(parent), shard_of(inode)}
        case record.Rename(parent, _, new_parent):
            return {shard_of(parent), shard_of(new_parent)}
        case record.Unlink(parent) | record.Detach(parent):
            return {shard_of(parent)}
        case record.Label(directory) | record.Unlabel(directory) | record.Expect(directory):
            return {shard_of(directory)}
        case record.Drop(directory, _, inodes):
            return {shard_of(inode) for inode in [directory or inodes[0], *inodes]}
        case (
            record.CreateUnnamed(inode)
            | record.SetAttributes(inode)
            | record.SetXattr(inode)
            | record.Write(inode)
            | record.Commit(inode)
            | record.Event(inode)
            | record.Still(inode)
            | record.Prune(inode)
            | record.Close(inode)
        ):
            return {shard_of(inode)}
        case record.Batch(records):
            return _shards_of_all(records)
        case record.Finish(base=base, records=records):
            return {shard_of(base)} | _shards_of_all(records)
        case record.Activate(base) | record.Attempt(base) | record.Rearm(base):
            return {shard_of(base)}
        case record.Advance(_, marks):
            return {shard_of(base) for base, _, _, _ in marks}
        case record.Adopt() | record.Reserve() | record.Once() | record.Denied():
            return set()
        case _:
            assert_never(proposal)


def _shards_of_all(parts: Iterable[record.Part]) -> set[int]:
    found: set[int] = set()
    for part in parts:
        inode_of = _INODE_OF.get(type(part))
        if inode_of is not None:
            found.add(shard_of(inode_of(part)))
        elif not isinstance(part, record.Once):
            found |= shards_of(part)
    return found
