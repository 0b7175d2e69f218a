"""Changes: what a committed record did to paths, asked of the state as of its own timestamp.

A record names inodes and says what was asked; which paths show it, and whether it took effect at all, the tree knows:
every question here is about the state at the record's timestamp, so following the log again, years later, finds the
same changes in the same order.

A directory that is renamed moves every file below it: found by walking it, which takes as long as it is large, and is
done only where somebody watches.

Source: docs/TRIGGERS.md, "When an event exists"; SEMANTICS 1 for version numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.binding import LINKED, MOVED, REMOVED
from storage.namespace import ROOT
from storage.record import Batch, Commit, Finish, Link, Rename, Unlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.attributes import Attributes
    from storage.binding import Binding, Tombstone
    from storage.record import Part, Record
    from triggers.run import EventKind

__all__ = ["Change", "Paths", "Tree", "changes", "path_of"]

WALK_DEPTH_MAX = 4096
"""Of a moved directory; deeper than any path the kernel passes on."""


class Tree(Protocol):
    """What is asked of a store."""

    def names_at(self, inode: int, timestamp: int | None = None) -> list[tuple[int, bytes]]:
        """See `storage.namespace`."""
        ...

    def entry_at(
        self, directory: int, name: bytes, timestamp: int
    ) -> tuple[int, Binding | None, Tombstone | None] | None:
        """See `storage.namespace`."""
        ...

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """See `storage.namespace`."""
        ...

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """See `storage.namespace`."""
        ...

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """See `storage.namespace`."""
        ...


class Change(NamedTuple):
    """One name shows something else than before."""

    kind: EventKind
    directory: int
    name: bytes
    inode: int
    """0 of a deletion."""

    version: int
    size: int = 0
    uid: int = 0
    other: tuple[int, bytes] | None = None
    """Of a move: (directory, name) it came from; of a deletion by a move: where it went. The name may be a path."""


def changes(
    tree: Tree,
    timestamp: int,
    record: Record | Part,
    wanted: Callable[[int], bool] = lambda _: True,
) -> Iterator[Change]:
    """What a record did, in an order that depends on nothing but the record and the state at its timestamp.

    Args:
        tree: the store.
        timestamp: of the record.
        record: as in the log; one that was refused did nothing.
        wanted: whether anybody watches a directory or one above it: a moved directory is walked only then.
    """
    match record:
        case Commit():
            yield from _committed(tree, timestamp, record)
        case Link():
            yield from _linked(tree, timestamp, record)
        case Unlink():
            yield from _unlinked(tree, timestamp, record)
        case Rename():
            yield from _renamed(tree, timestamp, record, wanted)
        case Batch() | Finish():
            # Two parts may speak of one name: at one timestamp it changed once.
            seen: set[tuple[str, int, bytes]] = set()
            for part in record.records:
                for change in changes(tree, timestamp, part, wanted):
                    if (key := (change.kind, change.directory, change.name)) not in seen:
                        seen.add(key)
                        yield change
        case _:
            pass


def _committed(tree: Tree, timestamp: int, record: Commit) -> Iterator[Change]:
    row = tree.attributes_at(record.inode, timestamp)
    if row is None or row[1].content_timestamp != timestamp:
        return
    for directory, name in tree.names_at(record.inode, timestamp):
        change = _shown(tree, timestamp, "write", directory, name)
        if change is not None:
            yield change


def _linked(tree: Tree, timestamp: int, record: Link) -> Iterator[Change]:
    entry = tree.entry_at(record.parent, record.name, timestamp)
    if entry is None or entry[0] != timestamp or entry[1] is None or entry[1].cause != LINKED:
        return
    change = _shown(tree, timestamp, "write", record.parent, record.name)
    if change is not None:
        yield change


def _unlinked(tree: Tree, timestamp: int, record: Unlink) -> Iterator[Change]:
    entry = tree.entry_at(record.parent, record.name, timestamp)
    if record.directory or entry is None or entry[0] != timestamp or entry[2] is None:
        return
    if entry[2].cause == REMOVED:
        yield Change("delete", record.parent, record.name, 0, entry[2].number)


def _renamed(
    tree: Tree, timestamp: int, record: Rename, wanted: Callable[[int], bool]
) -> Iterator[Change]:
    source, target = (record.parent, record.name), (record.new_parent, record.new_name)
    for came_from, now_at in ((source, target), (target, source)):
        entry = tree.entry_at(*now_at, timestamp)
        if entry is None or entry[0] != timestamp:
            continue
        if entry[1] is None:
            assert entry[2] is not None
            if entry[2].cause == MOVED and not _is_directory_at(tree, timestamp, *came_from):
                yield Change("delete", *now_at, 0, entry[2].number, other=came_from)
            continue
        binding = entry[1]
        if binding.cause != MOVED or (binding.origin_directory, binding.origin_name) != came_from:
            continue
        if is_directory(binding.mode):
            if wanted(now_at[0]) or wanted(came_from[0]):
                yield from _walked(tree, timestamp, binding.inode, came_from, now_at)
        else:
            change = _shown(tree, timestamp, "move", *now_at)
            if change is not None:
                yield change._replace(other=came_from)


def _walked(
    tree: Tree,
    timestamp: int,
    top: int,
    came_from: tuple[int, bytes],
    now_at: tuple[int, bytes],
) -> Iterator[Change]:
    """Every file below a moved directory: it moved to where it is, and is gone from where it was."""
    stack: list[tuple[int, bytes]] = [(top, b"")]
    while stack:
        assert len(stack) < WALK_DEPTH_MAX * 1024
        directory, below = stack.pop()
        for name, binding in tree.children_at(directory, timestamp):
            rest = below + b"/" + name
            if is_directory(binding.mode):
                stack.append((binding.inode, rest))
                continue
            change = _shown(tree, timestamp, "move", directory, name)
            if change is None:
                continue
            yield change._replace(other=(came_from[0], came_from[1] + rest))
            yield Change(
                "delete", came_from[0], came_from[1] + rest, 0, change.version, 0, 0,
                (now_at[0], now_at[1] + rest),
            )  # fmt: skip


def _shown(
    tree: Tree, timestamp: int, kind: EventKind, directory: int, name: bytes
) -> Change | None:
    """The version a name shows; None for what has none: not a regular file, or nothing committed yet."""
    binding = tree.binding_at(directory, name, timestamp)
    if binding is None or binding.mode & TYPE_MASK != REGULAR:
        return None
    row = tree.attributes_at(binding.inode, timestamp)
    assert row is not None, "a bound inode exists"
    version = binding.version_of(row[1].content)
    if version < binding.first or row[1].content == 0:
        return None
    return Change(kind, directory, name, binding.inode, version, row[1].size, row[1].uid)


def _is_directory_at(tree: Tree, timestamp: int, directory: int, name: bytes) -> bool:
    binding = tree.binding_at(directory, name, timestamp)
    return binding is not None and is_directory(binding.mode)


class Paths:
    """The directories above a directory, remembered until one is renamed. For one pass along the log."""

    def __init__(
        self,
        tree: Tree,
        is_top: Callable[[int, int], bool] = lambda inode, _timestamp: inode == ROOT,
    ) -> None:
        """`is_top` says of a directory, at a timestamp, whether nothing above it is asked for."""
        self._tree = tree
        self._is_top = is_top
        self._chains: dict[int, tuple[tuple[int, bytes], ...] | None] = {}

    def observe(self, record: Record) -> None:
        """A record comes by: any rename may be one of a directory, and then nothing known holds."""
        parts = record.records if isinstance(record, Batch | Finish) else [record]
        if len(self._chains) > CHAINS_MAX or any(isinstance(part, Rename) for part in parts):
            self._chains.clear()

    def chain(self, directory: int, timestamp: int) -> tuple[tuple[int, bytes], ...] | None:
        """(directory, path of `directory` relative to it with "/" at the end), itself first, the top last.

        None for a directory that had no name then.
        """
        if directory not in self._chains:
            self._chains[directory] = self._climb(directory, timestamp)
        return self._chains[directory]

    def _climb(self, directory: int, timestamp: int) -> tuple[tuple[int, bytes], ...] | None:
        found, path = [(directory, b"")], b""
        while not self._is_top(directory, timestamp):
            names = self._tree.names_at(directory, timestamp)
            if not names:
                return None
            directory, name = names[0]
            path = name + b"/" + path
            found.append((directory, path))
        return tuple(found)


CHAINS_MAX = 100_000
"""Directories remembered at a time."""


def path_of(tree: Tree, directory: int, timestamp: int) -> str:
    """A directory's path from the root of the store, for people; "?" where what is above is on other nodes only."""
    try:
        chain = Paths(tree).chain(directory, timestamp)
    except OSError:
        chain = None
    path = chain[-1][1] if chain else b"?"
    return path.rstrip(b"/").decode(errors="surrogateescape")
