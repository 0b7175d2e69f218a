"""What other mounts of a cluster have changed: what the kernel here must forget, and what nodes here must learn.

Told of each record of others when it has been applied (`storage.cluster.store`), which may be in the midst of a call here: so it
is only noted, and looked at between two calls, or at the start of one. Nothing is changed or proposed: open files and drafts go
on, over the content there is now. What is to be forgotten is kept apart from what a request here has changed, because nobody's
answer may wait for it: whoever follows the cluster takes it and tells the kernel.

Who opens a file sees what others had closed before (`meet`): what the leader of its shard had committed by then is applied first, a
name that means something else by then is looked up again, and the kernel forgets the file before it hears that it is open.

Only what the kernel may know is named: nodes it has, and names in directories it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.filesystem.foreign import stale_by
from cascadefs.filesystem.node import Live
from storage import record
from storage.errors import Reason, Refused
from storage.namespace import RENAME_EXCHANGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascadefs.filesystem.inodes import Inodes
    from storage.store import Store

__all__ = ["Others"]

Stale = tuple[int, bytes | None]


class Others:
    """See the module."""

    def __init__(self, inodes: Inodes, store: Store) -> None:
        self._inodes = inodes
        self._store = store
        self._heard: list[tuple[int, record.Record]] = []
        self._stale: dict[Stale, None] = {}
        self._lost_names: dict[int, tuple[int, bytes]] = {}
        self._changes = 0
        self._unseen = inodes.unseen
        self.on_stale: Callable[[], None] = lambda: None
        """Called when there is something to take that nobody else's record brought; must not wait."""
        inodes.on_moved = self._moved

    @property
    def has_heard(self) -> bool:
        """Whether there is something to take. From any thread."""
        return bool(self._heard or self._stale)

    def changed(self, timestamp: int, changed: record.Record) -> None:
        """Somebody else's record took effect, at a timestamp."""
        if not isinstance(changed, record.Write | record.Reserve):
            self._heard.append((timestamp, changed))

    def begun_anew(self, shard: int) -> None:
        """A volatile shard has begun anew: all that the kernel knows of it may be wrong."""
        for node in self._inodes.nodes.items():
            if type(node) is not Live:
                continue
            number = node.number
            if node.alias is not None and self._store.shard_of(node.alias[0]) == shard:
                self._stale[node.alias] = None
            if self._store.shard_of(number) == shard:
                self._stale[number, None] = None
                self._unseen.add(number)
                self._inodes.ends_elsewhere.add(number)
        self.on_stale()

    def take(self) -> list[Stale]:
        """What the kernel must forget, as `Filesystem.take_invalidations` has it, each once."""
        self._look()
        lost, self._lost_names = self._lost_names, {}
        for inode, entry in lost.items():
            node = self._inodes.nodes.get(inode)
            if type(node) is Live and node.alias == entry:
                self._inodes.after_unlink(inode)
        stale, self._stale = self._stale, {}
        return list(stale)

    def meet(self, number: int) -> None:
        """Somebody opens an inode: have what others committed before it be seen.

        Raises:
            Refused: MOVED, if the name it was found by means something else by now.
            OSError: the cluster is away and nobody waits for it any more.
        """
        if not self._store.refresh(number):
            return
        self._look()
        node = self._inodes.nodes.get(number)
        if type(node) is not Live or node.alias is None:
            return
        binding = self._store.binding(*node.alias)
        if binding is not None and binding.inode == number:
            return
        attributes = self._store.attributes(number)
        is_gone = attributes is not None and attributes.nlink == 0
        if not is_gone or number in self._unseen:
            # Removed here, it is opened by a descriptor; removed elsewhere, by a name the kernel still believes in.
            self._inodes.after_unlink(number)
            raise Refused(Reason.MOVED)

    def end(self, live: Live, offset: int, *, appends: bool | None) -> int | None:
        """Where something written at an offset through a handle of O_APPEND belongs: at the end, or there (None).

        The kernel believes in the end that it knows, and forgets the file if that is another by now.

        Args:
            live: the file.
            offset: where the kernel says the end is.
            appends: whether this write appends; None if the kernel's word for that did not come by: then it does where the
                kernel can mean the end.
        """
        if self._heard:
            self._look()
        size = self._inodes.size_of(live)
        if appends is None:
            appends = offset >= size or live.number in self._inodes.ends_elsewhere
        if not appends:
            return None
        if offset != size:
            self._moved(live.number)
        return size

    def _moved(self, number: int) -> None:
        """The kernel may believe in another end of a file, and in bytes elsewhere."""
        self._stale[number, None] = None
        self._inodes.ends_elsewhere.add(number)
        self._note_changed(number)
        self.on_stale()

    def _note_changed(self, number: int) -> None:
        self._changes += 1
        self._inodes.changed_beside[number] = self._changes

    def changed_since_locked(self, number: int) -> int:
        """Which change of a node by others the kernel was not had to forget yet for who locks it; 0: none that was looked at."""
        return self._inodes.changed_beside.get(number, 0)

    def has_forgotten(self, number: int, change: int) -> None:
        """The kernel has forgotten what it knew of a node before a change."""
        if self.changed_since_locked(number) == change:
            self._inodes.changed_beside.pop(number, None)

    def is_unseen(self, number: int) -> bool:
        """Whether others have changed a node since the kernel last asked for its attributes; it is told once."""
        if number not in self._unseen:
            return False
        self._unseen.discard(number)
        return True

    def _look(self) -> None:
        heard, self._heard = self._heard, []
        for timestamp, changed in heard:
            for number, name in self._touched(timestamp, changed):
                node = self._inodes.nodes.get(number)
                if number == ROOT or node is not None:
                    self._stale[number, name] = None
                    if name is None:
                        self._unseen.add(number)
                        self._inodes.ends_elsewhere.add(number)
                        self._note_changed(number)
                        if type(node) is Live:
                            self._inodes.follow(node)

    def _touched(self, timestamp: int, changed: record.Record) -> Iterator[Stale]:
        parts: list[record.Record | record.Part] = [changed]
        if isinstance(changed, record.Batch | record.Finish):
            parts = [*changed.records]
        yield from stale_by(parts)
        for part in parts:
            match part:
                case record.Unlink(parent, name) | record.Detach(parent, name):
                    yield from self._lost(timestamp, parent, name)
                case record.Rename(parent, name, new_parent, new_name, flags):
                    yield from self._lost(timestamp, new_parent, new_name)
                    yield from self._lost(timestamp, parent, name)
                    if not flags & RENAME_EXCHANGE:
                        yield from self._lost(timestamp + 1, new_parent, new_name)
                case record.Label(directory, label) | record.Unlabel(directory, label):
                    for parent, name in self._store.names_at(directory):
                        yield parent, name + b"@tag-" + label
                case _:
                    pass

    def _lost(self, timestamp: int, directory: int, name: bytes) -> Iterator[Stale]:
        """What a name meant just before a timestamp: its link count or its name is another now."""
        binding = self._store.binding_at(directory, name, timestamp - 1)
        if binding is not None:
            self._lost_names[binding.inode] = (directory, name)
            yield binding.inode, None
