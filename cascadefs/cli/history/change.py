"""What changed from one tree to another: `+`, `-`, `M` and `R`, as zfs diff says it (SEMANTICS 11).

Pure but for what it is given: trees to list, and an `Inspect` that reads where stat(2) cannot decide. Two states of
one name with the same size, mtime and ctime are taken to be the same without reading: on a mount, ctime is the
timestamp of the last commit or change of attributes, which nobody can set and no two have in common (SEMANTICS 4).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cascadefs.cli.history.tree import Node, Tree, join

__all__ = ["Change", "Facet", "Identify", "Inspect", "Sign", "changes", "with_renames"]


class Sign(enum.Enum):
    """What happened to a name."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "M"
    RENAMED = "R"


class Facet(enum.Flag):
    """In what two states of a name differ."""

    NONE = 0
    CONTENT = enum.auto()  # Bytes, target of a link, or device number.
    MODE = enum.auto()
    OWNER = enum.auto()
    MTIME = enum.auto()
    XATTRS = enum.auto()

    @property
    def words(self) -> list[str]:
        """For people and JSON."""
        return [facet.name.lower() for facet in Facet if facet in self and facet.name]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; paths are relative to the tops."""

    sign: Sign
    path: bytes  # In the new tree; of what was REMOVED, in the old one.
    old: Node | None = None
    new: Node | None = None
    facets: Facet = Facet.NONE  # Of what is there in both trees.
    origin: bytes | None = None  # Its path in the old tree, where that is another one.


Inspect = Callable[[bytes, bytes, Node], Facet]
"""(path in the old tree, path in the new tree, node there) -> CONTENT and XATTRS as far as they differ."""

Identify = Callable[[Change], Hashable | None]
"""What the thing added or removed is, whatever its name; None if that cannot be told."""


def changes(old: Tree, new: Tree, inspect: Inspect) -> Iterator[Change]:
    """Every difference, in the order of the names, a directory before what it holds.

    What became another type of thing is REMOVED and then ADDED.
    """
    stack: list[tuple[bytes, Node | None, Node | None]] = [(b"", old.top(), new.top())]
    while stack:
        path, before, after = stack.pop()
        yield from _signs(path, before, after, inspect)
        old_entries = old.entries(path) if before is not None and before.is_directory else {}
        new_entries = new.entries(path) if after is not None and after.is_directory else {}
        stack += [
            (join(path, name), old_entries.get(name), new_entries.get(name))
            for name in sorted(old_entries.keys() | new_entries.keys(), reverse=True)
        ]


def with_renames(found: Sequence[Change], identify: Identify, inspect: Inspect) -> list[Change]:
    """`found`, with what is removed here and added there as one RENAMED.

    What moved along inside a moved directory is not listed again, and what differs besides its name follows as
    CHANGED. Nothing is paired that lay at or below a name whose type changed.
    """
    origins = _origins(found, identify)
    removed = {change.path: change for change in found if change.sign is Sign.REMOVED}
    gone = set(origins.values())
    result: list[Change] = []
    for change in found:
        if change.sign is Sign.REMOVED and change.path in gone:
            continue
        if change.sign is Sign.ADDED and change.path in origins:
            origin = origins[change.path]
            result += _renamed(change, removed[origin], origins, inspect)
        else:
            result.append(change)
    return result


def _signs(
    path: bytes, before: Node | None, after: Node | None, inspect: Inspect
) -> Iterator[Change]:
    if before is not None and after is not None and before.type == after.type:
        facets = _facets(path, path, before, after, inspect)
        if facets:
            yield Change(Sign.CHANGED, path, before, after, facets)
        return
    if before is not None:
        yield Change(Sign.REMOVED, path, old=before)
    if after is not None:
        yield Change(Sign.ADDED, path, new=after)


def _facets(old_path: bytes, path: bytes, old: Node, new: Node, inspect: Inspect) -> Facet:
    assert old.type == new.type
    facets = Facet.NONE
    if old.permissions != new.permissions and not new.is_symlink:
        facets |= Facet.MODE
    if (old.uid, old.gid) != (new.uid, new.gid):
        facets |= Facet.OWNER
    if old.mtime_ns != new.mtime_ns:
        facets |= Facet.MTIME
    if _is_same(old, new):
        return facets
    if old.target != new.target or (old.rdev != new.rdev and not new.is_file):
        facets |= Facet.CONTENT
    if new.is_file and old.size != new.size:
        facets |= Facet.CONTENT
    if new.is_file or new.is_directory:
        facets |= inspect(old_path, path, new)
    return facets


def _is_same(old: Node, new: Node) -> bool:
    if old.number == new.number and old.device == new.device and not new.is_directory:
        return True
    return (old.size, old.mtime_ns, old.ctime_ns) == (new.size, new.mtime_ns, new.ctime_ns)


def _origins(found: Iterable[Change], identify: Identify) -> dict[bytes, bytes]:
    """Where each moved thing was: path in the new tree -> path in the old one."""
    replaced: set[bytes] = set()
    previous: Change | None = None
    here: dict[tuple[int, Hashable], list[bytes]] = {}
    there: dict[tuple[int, Hashable], list[bytes]] = {}
    for change in found:
        if change.sign is Sign.ADDED and previous is not None and previous.path == change.path:
            replaced.add(change.path)
        previous = change
    for change in found:
        node = change.new or change.old
        if change.sign not in (Sign.ADDED, Sign.REMOVED) or _is_below(change.path, replaced):
            continue
        identity = identify(change)
        if identity is not None and node is not None:
            side = there if change.sign is Sign.ADDED else here
            side.setdefault((node.type, identity), []).append(change.path)
    return {
        there[key][0]: here[key][0]
        for key in there
        if key in here and len(there[key]) == len(here[key]) == 1
    }


def _is_below(path: bytes, tops: set[bytes]) -> bool:
    """Whether `path` or one of its parents is among `tops`."""
    while tops:
        if path in tops:
            return True
        if not path:
            return False
        path = path.rpartition(b"/")[0]
    return False


def _renamed(
    added: Change, removed: Change, origins: dict[bytes, bytes], inspect: Inspect
) -> Iterator[Change]:
    old, new = removed.old, added.new
    assert old is not None
    assert new is not None
    parent, _, name = added.path.rpartition(b"/")
    origin_parent, _, origin_name = removed.path.rpartition(b"/")
    moved_along = origins.get(parent) == origin_parent and name == origin_name
    facets = _facets(removed.path, added.path, old, new, inspect)
    if not moved_along:
        yield Change(Sign.RENAMED, added.path, old, new, facets, removed.path)
    if facets:
        yield Change(Sign.CHANGED, added.path, old, new, facets, removed.path)
