"""How to bring a tree back: the steps, in an order that is safe to stop after any of them.

Pure: from the changes that lead from the tree of now to that of then, to steps. What is brought back comes first and
what is removed comes last, so nothing is gone before everything is there again; the exception is a name whose type
changed, which must be free first. A directory's own attributes come after all that happens in it, because that
would move its mtime. After an interruption the same plan, made anew, has the steps that are left.

Renames are undone by renaming, so that a name's history stays in one piece. Several names of one file (hard links)
are one content: the first name of a group is restored and the others follow, or are linked to it again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascadefs.cli.history.change import Change, Facet, Sign

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cascadefs.cli.history.tree import Node

__all__ = ["Action", "Step", "plan"]


class Action(enum.Enum):
    """What a step does to a path."""

    MAKE = (
        enum.auto()
    )  # Create what is not there, as `node` says; a directory without its attributes.
    LINK = enum.auto()  # Give the file at `origin` one more name.
    MOVE = enum.auto()  # Rename from `origin`.
    CHANGE = enum.auto()  # Give a file its content and attributes back, as far as `facets` says.
    REPLACE = enum.auto()  # The same, leaving other names of the file as they are.
    REMOVE = enum.auto()
    SETTLE = enum.auto()  # Give a directory its attributes back.


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `path` is the same in the tree of then and, at that point, in the tree of now."""

    action: Action
    path: bytes
    node: Node | None = (
        None  # As then. None to REMOVE, and to SETTLE a directory nothing else is known of.
    )
    origin: bytes | None = None
    facets: Facet = Facet.NONE
    sign: Sign | None = None  # What to tell people; None for what follows from other steps.


@dataclass(frozen=True, slots=True)
class _Links:
    """The names of each file that has several, then and now."""

    then: Mapping[int, Sequence[bytes]]
    now: Mapping[int, Sequence[bytes]]

    def first_of(self, path: bytes, node: Node) -> bytes:
        """The name of then that comes before all others of the same file; `path` if it has no other."""
        return min(self.then.get(node.number, (path,)), key=_order)

    def is_led(self, path: bytes, node: Node) -> bool:
        """Whether `path`'s file of now is restored under an earlier name."""
        return min(self.now.get(node.number, (path,)), key=_order) != path

    def must_part(self, path: bytes, old: Node, new: Node) -> bool:
        """Whether the file of now at `path` has names here that were not names of it then."""
        return not set(self.now.get(old.number, ())) <= {path, *self.then.get(new.number, ())}


def plan(
    changes: Sequence[Change],
    *,
    then_links: Mapping[int, Sequence[bytes]],
    now_links: Mapping[int, Sequence[bytes]],
    remove: bool = True,
) -> list[Step]:
    """The steps that undo the way from then to now.

    `changes` lead from now to then: what is ADDED has to come back, what is REMOVED came later. Without `remove`
    that is left alone, unless it is in the way.
    """
    links = _Links(then_links, now_links)
    clearing = _clearing(changes)
    cleared = {step.path for steps in clearing.values() for step in steps}
    moves: dict[bytes, bytes] = {}
    steps: list[Step] = []
    later: list[bytes] = []  # Paths of now.
    for change in changes:
        match change.sign:
            case Sign.REMOVED:
                if remove and change.path not in cleared:
                    later.append(change.path)
            case Sign.ADDED:
                steps += clearing.get(change.path, ())
                steps.append(_making(change, links))
            case Sign.RENAMED:
                assert change.origin is not None
                origin = _moved(change.origin, moves)
                moves[change.origin] = change.path
                steps.append(Step(Action.MOVE, change.path, change.new, origin, sign=Sign.RENAMED))
            case Sign.CHANGED:
                steps += _changing(change, links)
    steps += [_removal(_moved(path, moves)) for path in reversed(later)]
    return [*(step for step in steps if step.action is not Action.SETTLE), *_settling(steps)]


def _clearing(changes: Iterable[Change]) -> dict[bytes, list[Step]]:
    """For each name whose type changed, how to free it: what is there and below it, innermost first."""
    tops: dict[bytes, list[Step]] = {}
    removed: bytes | None = None
    for change in changes:
        if change.sign is Sign.REMOVED:
            removed = change.path
        elif change.sign is Sign.ADDED and change.path == removed:
            tops[change.path] = [_removal(change.path)]
    for change in changes:
        top = _top_of(change.path, tops) if change.sign is Sign.REMOVED else None
        if top is not None and top != change.path:
            tops[top].insert(0, _removal(change.path))
    return tops


def _top_of(path: bytes, tops: Mapping[bytes, object]) -> bytes | None:
    while tops:
        if path in tops:
            return path
        if not path:
            return None
        path = path.rpartition(b"/")[0]
    return None


def _removal(path: bytes) -> Step:
    return Step(Action.REMOVE, path, sign=Sign.REMOVED)


def _making(change: Change, links: _Links) -> Step:
    assert change.new is not None
    if change.new.is_file and change.new.nlink > 1:
        first = links.first_of(change.path, change.new)
        if first != change.path:
            return Step(Action.LINK, change.path, change.new, first, sign=Sign.ADDED)
    return Step(Action.MAKE, change.path, change.new, sign=Sign.ADDED)


def _changing(change: Change, links: _Links) -> Iterator[Step]:
    old, new, path = change.old, change.new, change.path
    assert old is not None
    assert new is not None
    facets = change.facets
    if new.is_directory:
        # A directory's mtime follows from what happens in it; telling of it would drown the rest.
        sign = Sign.CHANGED if facets & ~Facet.MTIME else None
        yield Step(Action.SETTLE, path, new, facets=facets, sign=sign)
    elif new.is_file and old.nlink > 1 and links.must_part(path, old, new):
        yield Step(Action.REPLACE, path, new, facets=facets | Facet.CONTENT, sign=Sign.CHANGED)
    elif not (new.is_file and old.nlink > 1 and links.is_led(path, old)):
        yield Step(Action.CHANGE, path, new, facets=facets, sign=Sign.CHANGED)


def _settling(steps: Iterable[Step]) -> Iterator[Step]:
    """Every directory made, changed, or in which something happens, innermost first, once."""
    settled: dict[bytes, Step] = {}
    for step in steps:
        if step.action is Action.SETTLE:
            settled[step.path] = step
            continue
        for path in (step.path, step.origin):
            if path:
                parent = path.rpartition(b"/")[0]
                settled.setdefault(parent, Step(Action.SETTLE, parent))
        if step.action is Action.MAKE and step.node is not None and step.node.is_directory:
            settled[step.path] = Step(Action.SETTLE, step.path, step.node)
    return (settled[path] for path in sorted(settled, key=_order, reverse=True))


def _moved(path: bytes, moves: Mapping[bytes, bytes]) -> bytes:
    """Where a path of now is after `moves`, each given by paths as they were before any."""
    top = _top_of(path, moves)
    return path if top is None else moves[top] + path[len(top) :]


def _order(path: bytes) -> tuple[bytes, ...]:
    """Sorts as the trees are walked: by component, a directory before what it holds."""
    return tuple(path.split(b"/")) if path else ()
