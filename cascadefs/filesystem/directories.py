"""Open directories: their entries, in an order that changes under nobody's feet.

The offset behind an entry is a hash of its name. The kernel keeps listings, and gives an offset from one handle's
listing to another's, after any number of removals (it dropped its pages, or another listing took their place): a count
of entries would then skip some that are there. With it a place needs no memory of ours that grows with a directory.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import xxhash

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


_DOTS = (b".", b"..")

_REPLIES_KEPT = 2
"""Replies whose places a handle still has: the kernel reads on from within the last it got."""


def _place_of(name: bytes) -> int:
    """The offset behind a name: 63 bits, and none of 0 (the start), 1 and 2 (behind the dots)."""
    return max(xxhash.xxh3_64_intdigest(name) >> 1, len(_DOTS) + 1)


class OpenDirectory:
    """An open directory: `replies` are the names handed out in the last replies, by their places."""

    __slots__ = ("node", "replies")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.replies: list[dict[int, bytes]] = []


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
        node = opened.node
        after = self._name_at(opened, offset)
        reply: dict[int, bytes] = {}
        opened.replies = [*opened.replies[1 - _REPLIES_KEPT :], reply]
        for place, name in enumerate(_DOTS[offset:], start=offset + 1):
            yield name, self._inodes.stat(node) if name == b"." else self._above(node), place
        for name, entry in self._entries(node, after):
            place = _place_of(name)
            reply[place] = name
            self._inodes.offered = (entry.number, (node.number, name))
            yield name, entry, place

    def _name_at(self, opened: OpenDirectory, offset: int) -> bytes:
        """The name an offset is behind, present or gone; b"" for those of the dots.

        One that is in no reply kept is looked for among all names the directory has and had. If its history is gone
        too the listing begins again: an entry twice is a nuisance, one left out is lost.
        """
        if offset <= len(_DOTS):
            return b""
        for reply in reversed(opened.replies):
            if offset in reply:
                return reply[offset]
        node = opened.node
        gone = self._store.deleted(node.number) if type(node) is Live else ()
        names = chain((name for name, _ in self._entries(node, b"")), (name for name, _, _ in gone))
        return next((name for name in names if _place_of(name) == offset), b"")

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
