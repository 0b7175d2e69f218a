"""Nodes: what a path component leads to, present, past or made up, and the table of those the kernel knows.

A node has a number, which is its FUSE node id and its ``st_ino`` (SEMANTICS 4). Live inodes have their own. The past
is numbered by hashing what it is: a file of the past by (inode, metadata revision), so the same version reached by
any path is one node and one page cache; a directory of the past, or a made-up one, by what it is and the path it was
reached by, because the kernel keeps one dentry per directory and would move it about between two paths. Hashes rather than a stored
counter, because a look-up then writes nothing, and another mount of the same store gives the same numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import xxhash

from cascadefs.filesystem.interface import Stat
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK
from storage.limits import RECORD_INODE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascadefs.filesystem.claims import Claim
    from cascadefs.filesystem.draft import Draft
    from cascadefs.filesystem.files import OpenText
    from storage.attributes import Attributes

__all__ = [
    "Listing",
    "Live",
    "Node",
    "NodeTable",
    "Past",
    "Pointer",
    "Served",
    "Text",
    "number_of",
]

_FILE_NUMBERS = 2**52 - RECORD_INODE_MAX
_DIRECTORY_NUMBERS = 2**51


class Node:
    """Anything with a number. `lookups` counts the kernel's references (FUSE forget)."""

    __slots__ = ("lookups", "number", "via")
    is_directory = False
    handles = 0  # Open ones, of nodes that must stay while there are any.

    def __init__(self, number: int) -> None:
        self.number = number
        self.lookups = 0
        self.via: tuple[int, bytes] | None = None

    def reached(self, parent: int, name: bytes) -> None:
        """Note the path (number of the parent, name) of a directory that is not live: it is part of what it is."""
        if self.is_directory:
            self.via = (parent, name)
            self.number = number_of((*self.key(), parent, name), is_directory=True)

    def key(self) -> tuple[object, ...]:
        """What the node is, independent of its number."""
        raise NotImplementedError

    def stat(self) -> Stat:
        """What stat(2) shows of a node that is not live."""
        raise NotImplementedError

    def refresh(self, found: Node) -> None:
        """Take over what `found`, the same node found once more, says about how and when it was found."""


class Live(Node):
    """An inode as it is now. `alias` is the name it was last reached by; `handles` counts open ones.

    `claim`: one of them writes on a condition (`claims`). `event_us`: when what they write happened, as one of them said.
    `is_busy`: the draft is on its way, and nobody changes it before that has ended (`Inodes.alone`).
    """

    __slots__ = ("alias", "claim", "draft", "event_us", "handles", "is_busy")

    def __init__(self, inode: int) -> None:
        super().__init__(inode)
        self.alias: tuple[int, bytes] | None = None
        self.draft: Draft | None = None
        self.claim: Claim | None = None
        self.event_us: int | None = None
        self.handles = 0
        self.is_busy = False

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return (self.number,)


class Past(Node):
    """An inode as it was: a file at one metadata revision, or a directory at a timestamp.

    `timestamp` is when to look its content or entries up; `alias` is the (directory, name, version or None) it was
    last reached by, for the extended attributes.
    """

    __slots__ = ("alias", "attributes", "inode", "is_directory", "since", "timestamp")

    def __init__(self, inode: int, timestamp: int, since: int, attributes: Attributes) -> None:
        self.inode = inode
        self.since = since
        self.attributes = attributes
        self.is_directory = attributes.mode & TYPE_MASK == DIRECTORY
        self.timestamp = timestamp if self.is_directory else since
        self.alias: tuple[int, bytes, int | None] | None = None
        super().__init__(number_of(self.key(), self.is_directory))

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return (self.inode, self.timestamp)

    def refresh(self, found: Node) -> None:
        """See `Node`: the name it was reached by."""
        assert type(found) is Past
        self.alias = found.alias

    def stat(self) -> Stat:
        """As then; ctime is the moment of this revision, and nobody reading it moves atime (SEMANTICS 4)."""
        stat = Stat.of(self.number, self.attributes)
        stat.ctime_ns = self.since * 1000
        stat.atime_ns = stat.mtime_ns
        return stat


class Listing(Node):
    """A directory that is made up: the versions of a name, the instants of a directory, control directories.

    `lookup` gives the node for a name, or None; `names` gives names behind another one, in a fixed order. For
    `children_timeout_s` seconds the kernel may believe what a name in it means, if that is the past. `remove`, where
    there is one, takes a name away; its argument says whether a directory is meant.
    """

    __slots__ = (
        "_key",
        "children_timeout_s",
        "gid",
        "lookup",
        "mode",
        "names",
        "remove",
        "time_ns",
        "uid",
    )
    is_directory = True

    def __init__(
        self,
        key: tuple[object, ...],
        lookup: Callable[[bytes], Node | None],
        names: Callable[[bytes], Iterator[bytes]],
        *,
        uid: int,
        gid: int,
        time_ns: int,
        mode: int = 0o555,
        children_timeout_s: float = 0.0,
        remove: Callable[[bytes, bool], None] | None = None,
    ) -> None:
        self._key = key
        self.remove = remove
        self.children_timeout_s = children_timeout_s
        self.mode = mode
        self.lookup = lookup
        self.names = names
        self.uid = uid
        self.gid = gid
        self.time_ns = time_ns
        super().__init__(number_of(key, is_directory=True))

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return self._key

    def refresh(self, found: Node) -> None:
        """See `Node`: everything but what it is."""
        assert type(found) is Listing
        self.lookup, self.names, self.remove = found.lookup, found.names, found.remove
        self.mode, self.uid, self.gid, self.time_ns = (
            found.mode,
            found.uid,
            found.gid,
            found.time_ns,
        )

    def stat(self) -> Stat:
        """What it shows may grow, so the kernel asks again. Nobody can write it, but where names can be removed."""
        time_ns = self.time_ns
        return Stat(
            self.number,
            DIRECTORY | self.mode & (0o555 if self.remove is None else 0o777),
            2,
            self.uid,
            self.gid,
            0,
            0,
            0,
            time_ns,
            time_ns,
            time_ns,
            0.0,
            0.0,
        )


class Text(Node):
    """A file that is made up when it is opened; its size is not known before (like /proc)."""

    __slots__ = ("_key", "gid", "mode", "produce", "time_ns", "uid")

    def __init__(
        self,
        key: tuple[object, ...],
        produce: Callable[[], Iterator[bytes]],
        *,
        uid: int,
        gid: int,
        time_ns: int,
        mode: int = 0o444,
    ) -> None:
        self._key = key
        self.produce = produce
        self.uid = uid
        self.gid = gid
        self.time_ns = time_ns
        self.mode = mode
        super().__init__(number_of(key, is_directory=True))

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return self._key

    def refresh(self, found: Node) -> None:
        """See `Node`: everything but what it is."""
        assert type(found) is Text
        self.produce = found.produce
        self.uid, self.gid, self.time_ns = found.uid, found.gid, found.time_ns

    def stat(self) -> Stat:
        """A read-only file of size 0."""
        time_ns = self.time_ns
        return Stat(
            self.number,
            REGULAR | self.mode,
            1,
            self.uid,
            self.gid,
            0,
            0,
            0,
            time_ns,
            time_ns,
            time_ns,
            0.0,
            0.0,
        )


class Served(Text):
    """A file that is made up and more than a text: `open` gives what an open handle of it is, `size` its size."""

    __slots__ = ("open", "size")

    def __init__(
        self,
        key: tuple[object, ...],
        open: Callable[[], OpenText],
        produce: Callable[[], Iterator[bytes]],
        *,
        uid: int,
        gid: int,
        time_ns: int,
        mode: int,
        size: Callable[[], int] = int,
    ) -> None:
        super().__init__(("served", *key), produce, uid=uid, gid=gid, time_ns=time_ns, mode=mode)
        self.open = open
        self.size = size

    def refresh(self, found: Node) -> None:
        """See `Node`: everything but what it is."""
        assert type(found) is Served
        self.open, self.size = found.open, found.size
        self.uid, self.gid, self.time_ns = found.uid, found.gid, found.time_ns

    def stat(self) -> Stat:
        """As of a text, but for the size, which is asked for every time."""
        return replace(super().stat(), size=self.size())


class Pointer(Node):
    """A symbolic link that is made up."""

    __slots__ = ("_key", "gid", "target", "uid")

    def __init__(self, key: tuple[object, ...], target: bytes, *, uid: int, gid: int) -> None:
        self._key = key
        self.target = target
        self.uid = uid
        self.gid = gid
        super().__init__(number_of(key, is_directory=True))

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return self._key

    def stat(self) -> Stat:
        """A link of its target's length."""
        size = len(self.target)
        return Stat(
            self.number, SYMLINK | 0o777, 1, self.uid, self.gid, 0, size, 0, 0, 0, 0, 0.0, 0.0
        )


class NodeTable:
    """The nodes the kernel may name. Live ones come into being when asked for; others must have been interned."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node | None:
        """The node of a number."""
        return self._nodes.get(number)

    def live(self, inode: int) -> Live:
        """The live node of an inode, made if there is none."""
        node = self._nodes.get(inode)
        if node is None:
            node = self._nodes[inode] = Live(inode)
        assert type(node) is Live
        return node

    def intern(self, node: Node, parent: int, name: bytes) -> Node:
        """The node that is this one already, or this one, found as `name` in the node numbered `parent`.

        Two different nodes with one hash get two numbers.
        """
        nodes = self._nodes
        node.reached(parent, name)
        key = node.key()
        while (known := nodes.get(node.number)) is not None:
            if type(known) is type(node) and known.key() == key and known.via == node.via:
                if known is not node:
                    known.refresh(node)
                return known
            node.number += 1
        nodes[node.number] = node
        return node

    def drop(self, node: Node) -> None:
        """Forget a node nobody refers to."""
        if (
            self._nodes.get(node.number) is node
        ):  # Else it was forgotten meanwhile, and found again.
            del self._nodes[node.number]

    def items(self) -> list[Node]:
        """All of them, a copy."""
        return list(self._nodes.values())


def number_of(key: tuple[object, ...], is_directory: bool) -> int:
    """The number a node is known by: a hash of what it is."""
    hashed = xxhash.xxh3_64_intdigest(repr(key).encode())
    if is_directory:
        return 2**52 + hashed % _DIRECTORY_NUMBERS
    return RECORD_INODE_MAX + hashed % _FILE_NUMBERS
