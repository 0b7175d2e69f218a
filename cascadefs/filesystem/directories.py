"""Open directories: their entries, in an order that changes under nobody's feet."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from cascadefs.filesystem.interface import READ, Caller, Stat
from cascadefs.filesystem.node import Listing, Live, Node, Past
from storage.errors import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.others import Others
    from storage.store import Store

__all__ = ["Directories"]


class OpenDirectory:
    """An open directory: `given` are the names handed out, so an offset is a place in it, stable under changes."""

    __slots__ = ("given", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.given: list[bytes] = []


class Directories:
    """See the module. `opened` are the open ones by handle; `handles` gives the numbers."""

    def __init__(
        self,
        inodes: Inodes,
        store: Store,
        history: History,
        handles: Iterator[int],
        others: Others,
    ) -> None:
        self._others = others
        self._inodes = inodes
        self._store = store
        self._history = history
        self._handles = handles
        self.opened: dict[int, OpenDirectory] = {}

    def opendir(self, number: int, caller: Caller) -> int:
        """Open a directory for reading."""
        node = self._inodes.node(number)
        if type(node) is not Live and not node.is_directory:
            raise Refused(Reason.NOT_A_DIRECTORY)
        if type(node) is Live:
            self._others.meet(number)
        if isinstance(node, Past):
            self._inodes.check_now(node, caller, READ)
        handle = next(self._handles)
        self.opened[handle] = OpenDirectory(node)
        return handle

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, Stat, int]]:
        """Entries from an offset on: (name, attributes, offset behind it). History is never among them.

        An entry made or removed meanwhile may or may not be given; every other one is given once (POSIX readdir()).
        The caller calls `remember` for each entry the kernel took, but not for "." and "..".
        """
        opened = self.opened[handle]
        given = opened.given
        node = opened.node
        if offset > len(given):  # A place from before a rewinddir(): find it again.
            given += [b""] * (2 - len(given))
            names = (name for name, _ in self._entries(node, given[-1]))
            given += islice(names, offset - len(given))
        del given[offset:]
        for dots, stat_of in ((b".", self._inodes.stat), (b"..", self._above))[offset:]:
            given.append(b"")
            yield dots, stat_of(node), len(given)
        for name, entry in self._entries(node, given[-1]):
            given.append(name)
            self._inodes.offered = (entry.number, (node.number, name))
            yield name, entry, len(given)

    def _above(self, node: Node) -> Stat:
        """The attributes of the directory above; where there is none that we know, as for the root, of itself."""
        if type(node) is Live:
            attributes = self._store.attributes(node.number)
            number = attributes.parent if attributes is not None else 0
        else:
            number = node.via[0] if node.via is not None else 0
        try:
            return self._inodes.getattr(number)
        except Refused:
            return self._inodes.stat(node)

    def releasedir(self, handle: int) -> None:
        """A directory handle is gone."""
        del self.opened[handle]

    def _entries(self, node: Node, after: bytes) -> Iterator[tuple[bytes, Stat]]:
        if type(node) is Live:
            return self._live_entries(node.number, after)
        if isinstance(node, Past):
            return self._made_entries(node, self._history.children(node, after))
        assert isinstance(node, Listing)
        return self._made_entries(node, self._listed(node, after))

    @staticmethod
    def _listed(listing: Listing, after: bytes) -> Iterator[tuple[bytes, Node]]:
        """What a listing shows; a name that went meanwhile is left out, as in any directory."""
        for name in listing.names(after):
            try:
                child = listing.lookup(name)
            except Refused as refusal:
                if refusal.reason is not Reason.ABSENT:
                    raise
                continue
            if child is not None:
                yield name, child

    def _live_entries(self, directory: int, after: bytes) -> Iterator[tuple[bytes, Stat]]:
        # Held open while an answer is filled, in which nothing changes: whoever reads on begins anew behind a name.
        attributes_of, nodes = self._store.attributes, self._inodes.nodes
        for name, binding in self._store.children(directory, after):
            number = binding.inode
            node = nodes.get(number)
            if type(node) is Live and node.draft is not None:
                yield name, self._inodes.live_stat(node)
            elif (attributes := attributes_of(number)) is not None:
                yield name, Stat.of(number, attributes)

    def _made_entries(
        self, parent: Node, children: Iterator[tuple[bytes, Node]]
    ) -> Iterator[tuple[bytes, Stat]]:
        for name, child in children:
            node = self._inodes.nodes.intern(child, parent.number, name)
            try:
                yield name, self._inodes.stat(node)
            finally:
                self._inodes.drop_if_unused(node)  # the kernel did not take it
