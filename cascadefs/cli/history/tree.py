"""A directory tree to compare: what is where, read one directory at a time.

`DiskTree` reads any tree the kernel shows, of now or of the past alike; tests have theirs in a dict. A single file is
a tree too, whose top is that file.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cascadefs.cli.history.moment import attribute
from cascadefs.cli.history.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

__all__ = ["CONTROL", "DiskTree", "Node", "Tree", "join", "node_at", "type_name"]

CONTROL = b".cascade"
"""Never part of a tree, also where a mount shows it (SEMANTICS 9)."""

_TYPE_NAMES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
}


@dataclass(frozen=True, slots=True)
class Node:
    """What lstat(2) says of one name, as far as it matters for comparing and restoring."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    number: int = 0  # st_ino; of the past it is another than of now (SEMANTICS 4).
    nlink: int = 1
    rdev: int = 0
    device: int = 0
    target: bytes = b""  # Of a symbolic link.

    @property
    def is_directory(self) -> bool:
        """Whether it has entries."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it has content."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it has a target."""
        return stat.S_ISLNK(self.mode)

    @property
    def type(self) -> int:
        """The type bits of the mode."""
        return stat.S_IFMT(self.mode)

    @property
    def permissions(self) -> int:
        """The mode without its type bits."""
        return stat.S_IMODE(self.mode)


class Tree(Protocol):
    """What a comparison needs of a tree. Paths are relative to its top, which is b""."""

    def top(self) -> Node | None:
        """The top itself; None if nothing is there."""
        ...

    def entries(self, directory: bytes) -> Mapping[bytes, Node]:
        """The names in a directory of the tree. Asked once for each, parents before children."""
        ...


class DiskTree:
    """A tree below a path.

    `links` grows as directories are read: for every file with several names, those in this tree.
    """

    def __init__(self, path: bytes, step: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.links: dict[int, list[bytes]] = {}
        self._step = step
        self._device: int | None = None

    def absolute(self, path: bytes) -> bytes:
        """The path, for system calls, of a path in the tree."""
        return join(self.path, path) if path else self.path

    def top(self) -> Node | None:
        """See `Tree.top`."""
        node = node_at(self.path)
        self._device = None if node is None else node.device
        return node

    def entries(self, directory: bytes) -> dict[bytes, Node]:
        """See `Tree.entries`. A name that goes away meanwhile is left out.

        Raises:
            Refusal: another file system is mounted inside; neither its files nor what it hides can be told.
            OSError: the directory could not be read.
        """
        found: dict[bytes, Node] = {}
        with os.scandir(self.absolute(directory)) as listing:
            names = [entry.name for entry in listing if entry.name != CONTROL]
        for name in sorted(names):
            path = join(directory, name)
            node = node_at(self.absolute(path))
            if node is None:
                continue
            if node.device != self._device:
                raise Refusal(self.absolute(path), "another file system is mounted there")
            if node.is_file and node.nlink > 1:
                self.links.setdefault(node.number, []).append(path)
            found[name] = node
            self._step()
        return found

    def identity(self, path: bytes, node: Node) -> Hashable | None:
        """What stays the same when a name changes: the inode, at all times. None where it cannot be told."""
        del node
        return attribute(self.absolute(path), "fid")


def node_at(path: bytes) -> Node | None:
    """What is at `path`, a link not followed; None if nothing is."""
    try:
        status = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Node(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        number=status.st_ino,
        nlink=status.st_nlink,
        rdev=status.st_rdev,
        device=status.st_dev,
        target=target,
    )


def type_name(node: Node) -> str:
    """The word for what `node` is."""
    return _TYPE_NAMES.get(node.type, "unknown")


def join(directory: bytes, name: bytes) -> bytes:
    """The path of `name` in `directory`; b"" on either side is the other."""
    if not directory or not name:
        return directory or name
    return directory + name if directory.endswith(b"/") else directory + b"/" + name
