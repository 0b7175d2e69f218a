"""What other mounts of a cluster have changed: what the kernel here must forget, and what nodes here must learn.

Told of each record of others when it has been applied (`storage.cluster.store`), which may be in the midst of a call here: so it
is only noted, and looked at by `take`, between two calls. Nothing is changed or proposed: open files and drafts go on,
over the content there is now. What is to be forgotten is kept apart from what a request here has changed, because nobody's
answer may wait for it: whoever follows the cluster takes it and tells the kernel.

Only what the kernel may know is named: nodes it has, and names in directories it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.filesystem.node import Live
from storage import record
from storage.namespace import RENAME_EXCHANGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.filesystem.inodes import Inodes
    from storage.store import Store

__all__ = ["Others"]


class Others:
    """See the module."""

    def __init__(self, inodes: Inodes, store: Store) -> None:
        self._inodes = inodes
        self._store = store
        self._heard: list[tuple[int, record.Record]] = []
        self.records = 0
        """How many changes of others were heard of."""

    def take(self) -> list[tuple[int, bytes | None]]:
        """What the kernel must forget, as `Filesystem.take_invalidations` has it, each once."""
        heard, self._heard = self._heard, []
        stale: dict[tuple[int, bytes | None], None] = {}
        for timestamp, changed in heard:
            stale.update(dict.fromkeys(self._known(timestamp, changed)))
        return list(stale)

    def changed(self, timestamp: int, changed: record.Record) -> None:
        """Somebody else's record took effect, at a timestamp."""
        self.records += 1
        if not isinstance(changed, record.Write | record.Reserve):
            self._heard.append((timestamp, changed))

    def _known(self, timestamp: int, changed: record.Record) -> Iterator[tuple[int, bytes | None]]:
        parts: list[record.Record | record.Part] = [changed]
        if isinstance(changed, record.Batch | record.Finish):
            parts = [*changed.records]
        for part in parts:
            for number, name in self._touched(timestamp, part):
                if number == ROOT or self._inodes.nodes.get(number) is not None:
                    yield number, name

    def _touched(
        self, timestamp: int, part: record.Record | record.Part
    ) -> Iterator[tuple[int, bytes | None]]:
        match part:
            case record.Create(parent, name):
                yield from _entry(parent, name)
            case record.Link(parent, name, inode):
                yield from _entry(parent, name)
                yield inode, None
            case record.Unlink(parent, name) | record.Detach(parent, name):
                yield from _entry(parent, name)
                yield from self._lost(timestamp, parent, name)
            case record.Rename(parent, name, new_parent, new_name, flags):
                yield from _entry(parent, name)
                yield from _entry(new_parent, new_name)
                yield from self._lost(timestamp, new_parent, new_name)
                yield from self._lost(timestamp, parent, name)
                if not flags & RENAME_EXCHANGE:
                    yield from self._lost(timestamp + 1, new_parent, new_name)
            case (
                record.Commit(inode)
                | record.SetAttributes(inode)
                | record.SetXattr(inode)
                | record.Close(inode)
            ):
                yield inode, None
            case record.Label(directory, label) | record.Unlabel(directory, label):
                for parent, name in self._store.names_at(directory):
                    yield parent, name + b"@tag-" + label
            case _:
                pass

    def _lost(
        self, timestamp: int, directory: int, name: bytes
    ) -> Iterator[tuple[int, bytes | None]]:
        """What a name meant just before a timestamp: its link count or its name is another now."""
        binding = self._store.binding_at(directory, name, timestamp - 1)
        if binding is None:
            return
        node = self._inodes.nodes.get(binding.inode)
        if type(node) is Live and node.alias == (directory, name):
            self._inodes.after_unlink(binding.inode)
        yield binding.inode, None


def _entry(directory: int, name: bytes) -> Iterator[tuple[int, bytes | None]]:
    yield directory, name
    yield directory, None
