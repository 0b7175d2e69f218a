"""Directories that live in another shard than their name: shard roots.

A shard root has one inode number, of its home shard, and rows in two: the parent's shard has its name, a stub whose attributes
nobody asks for but for who is its parent now; the home shard has everything else. No record can change both, so making and
removing one are two records, in an order that leaves nothing wrong when the second never comes:

- made: first at home, where nobody finds it yet, then the name. A half-made one is an empty directory without a name.
- removed: first closed at home, refused unless empty, after which nothing can be made in it; then the name. A
  half-removed one is an empty directory that takes no entries; whoever removes it again, or makes something in its place,
  finishes it.

A directory never leaves its region (`storage.namespace.names`), so that a parent's shard is for life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import record
from storage.attributes import is_directory
from storage.errors import Reason
from storage.namespace import DONE, REFUSED, Outcome, shard_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.binding import Binding
    from storage.cluster.face import Face

__all__ = ["Roots"]


class Roots:
    """Makes and removes the shard roots of a store."""

    def __init__(self, face_of: Callable[[int], Face]) -> None:
        self._face_of = face_of

    def make(self, create: record.Create) -> Outcome:
        """Make a directory whose number is of another shard than its parent's."""
        if not is_directory(create.mode) or not create.name:
            return REFUSED[Reason.CROSS_SHARD]
        home, above = self._face_of(create.inode), self._face_of(create.parent)
        root = record.Create(create.parent, b"", create.inode, create.mode, create.uid, create.gid)
        outcome = home.propose(root)
        if outcome.reason is not None:
            return outcome
        outcome = above.propose(create)
        if outcome.reason is Reason.EXISTS and self._finish(create.parent, create.name):
            outcome = above.propose(create)
        if outcome.reason is not None:
            home.propose(record.Close(create.inode))
        return outcome

    def is_root(self, directory: int, name: bytes) -> Binding | None:
        """What a name means, if that is a shard root."""
        binding = self._face_of(directory).namespace.binding(directory, name)
        if binding is None or shard_of(binding.inode) == shard_of(directory):
            return None
        return binding

    def remove(self, parent: int, name: bytes, binding: Binding) -> Outcome:
        """Remove a shard root: NOT_EMPTY unless it is."""
        outcome = self._face_of(binding.inode).propose(record.Close(binding.inode))
        if outcome.reason is not None:
            return outcome
        return self._face_of(parent).propose(record.Detach(parent, name, binding.inode))

    def _finish(self, parent: int, name: bytes) -> bool:
        """Remove the name of a shard root that was closed, by somebody who did not come to that; whether it was one."""
        binding = self.is_root(parent, name)
        if binding is None:
            return False
        attributes = self._face_of(binding.inode).namespace.attributes(binding.inode)
        if attributes is None or attributes.nlink:
            return False
        detach = record.Detach(parent, name, binding.inode)
        return self._face_of(parent).propose(detach) == DONE
