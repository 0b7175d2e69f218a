"""Which bindings are at work below which directory: matching a path, and noticing that scripts have changed.

A *base* is a directory with `.cascade/watch/`. Its bindings are matched at once, by one automaton; a path of depth d
asks at most d bases. A commit in a `watch/` makes its base *dirty*: the scripts there are to be looked at again.

Source: docs/TRIGGERS.md 3, 10.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from storage.record import (
    Activate,
    Batch,
    Commit,
    Finish,
    Link,
    Rearm,
    Rename,
    SetAttributes,
    Unlink,
)
from triggers.library import CONTROL, WATCH
from triggers.pattern import Pattern, Union

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.record import Part, Record
    from triggers.change import Paths, Tree
    from triggers.follower import Definition, Follower, Key

__all__ = ["Base", "Problem", "Registry", "loops", "touched_bases"]

_WATCHED = CONTROL + b"/" + WATCH + b"/"


class Problem(NamedTuple):
    """Why a script is not active as it is now."""

    message: str
    traceback: str
    timestamp: int


class Base:
    """One directory with scripts."""

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.followers: dict[bytes, Follower] = {}
        self.problems: dict[bytes, Problem] = {}
        """By script."""
        self._warnings: list[str] | None = None
        self._union = Union([])
        self._since = 0

    def rebuild(self) -> None:
        """The bindings have changed."""
        active = [follower for follower in self.followers.values() if follower.active]
        self._union = Union((follower, follower.pattern(follower.since)) for follower in active)
        self._since = max((follower.since for follower in self.followers.values()), default=0)
        self._warnings = None

    @property
    def warnings(self) -> list[str]:
        """What may go wrong with the active bindings together; found out when somebody asks."""
        if self._warnings is None:
            newest = (one.newest for one in self.followers.values() if one.active)
            self._warnings = loops([definition for definition in newest if definition is not None])
        return self._warnings

    def matching(self, path: str, timestamp: int) -> Iterator[tuple[Follower, int, Definition]]:
        """(follower, since, definition) of the bindings that a path concerns, of those fed by the head of the log."""
        if timestamp > self._since:
            for found in self._union.matching(path):
                follower: Follower = found  # type: ignore[assignment]  # what `rebuild` put in
                definition = follower.definitions[0][1]
                if follower.live and timestamp > follower.scanned and definition is not None:
                    yield follower, follower.since, definition
            return
        for follower in self.followers.values():
            if follower.live and timestamp > follower.scanned:
                version = follower.definition_at(timestamp)
                if version is not None and follower.pattern(version[0]).matches(path):
                    yield follower, *version


class Registry:
    """All bases."""

    def __init__(self) -> None:
        self.bases: dict[int, Base] = {}
        self.dirty: dict[int, int] = {}
        """Base -> timestamp of the first commit that is not looked at yet."""
        self.behind: dict[Key, Follower] = {}
        """Those that are not live: they read on their own."""

    def followers(self) -> Iterator[Follower]:
        """All of them, those without an active version too."""
        for base in self.bases.values():
            yield from base.followers.values()

    def get(self, key: Key) -> Follower | None:
        """The follower of a consumer."""
        base = self.bases.get(key[0])
        return base.followers.get(key[1]) if base is not None else None

    def add(self, follower: Follower) -> None:
        """One more; `Base.rebuild` is the caller's."""
        self.bases.setdefault(follower.base, Base(follower.base)).followers[follower.name] = (
            follower
        )
        if not follower.live:
            self.behind[follower.key] = follower

    def remove(self, follower: Follower) -> None:
        """It has nothing to do any more, and never will; `Base.rebuild` is the caller's."""
        self.bases[follower.base].followers.pop(follower.name, None)
        self.behind.pop(follower.key, None)

    def watches(self, chain: tuple[tuple[int, bytes], ...] | None) -> bool:
        """Whether any of the directories of a chain is a base."""
        return chain is not None and any(inode in self.bases for inode, _ in chain)


def touched_bases(tree: Tree, paths: Paths, timestamp: int, record: Record | Part) -> set[int]:
    """The bases whose scripts a record may have changed."""
    found: set[int] = set()
    match record:
        case Commit(inode=inode) | SetAttributes(inode=inode):
            is_mode = isinstance(record, SetAttributes)
            for directory, name in tree.names_at(inode, timestamp):
                found |= _base_of(paths, directory, timestamp)
                if is_mode and name == CONTROL:
                    found.add(directory)
            if is_mode:
                found |= _base_of(paths, inode, timestamp)
        case Link(parent=directory) | Unlink(parent=directory):
            found |= _base_of(paths, directory, timestamp)
        case Rename():
            for directory, name in (
                (record.parent, record.name),
                (record.new_parent, record.new_name),
            ):
                found |= _base_of(paths, directory, timestamp)
                if name == CONTROL:
                    found.add(directory)
                chain = paths.chain(directory, timestamp)
                if name == WATCH and chain and len(chain) > 1 and chain[1][1] == CONTROL + b"/":
                    found.add(chain[1][0])
        case Batch():
            for part in record.records:
                found |= touched_bases(tree, paths, timestamp, part)
        case _:
            pass
    return found


def _base_of(paths: Paths, directory: int, timestamp: int) -> set[int]:
    """The base in whose `watch/` a directory is, or lies."""
    chain = paths.chain(directory, timestamp)
    if chain is None:
        return set()
    return {inode for inode, path in chain if path.startswith(_WATCHED)}


_RELEVANT = (Commit, Rename, Link, Unlink, Batch, Finish, SetAttributes, Activate, Rearm)


def is_relevant(record: Record) -> bool:
    """Whether a record can be an event, change a script, or what is at work."""
    return isinstance(record, _RELEVANT)


def loops(definitions: list[Definition]) -> list[str]:
    """Sentences about bindings that may fire themselves, directly or by way of others, unless they say `loop`.

    What a binding writes is known only as its `emit` directory, so this is a warning; the limit on hops is the fence.
    """
    bindings = [definition.binding for definition in definitions]
    patterns = [(binding.name, Pattern(binding.watch)) for binding in bindings]
    near = _Prefixes(patterns)
    edges = {
        binding.name: [
            name
            for name, pattern in (near.of(binding.emit) if binding.emit is not None else ())
            if (name != binding.name or binding.own) and _may_match(pattern, binding.emit or "")
        ]
        for binding in bindings
    }
    silent = {binding.name for binding in bindings if binding.loop}
    return [
        f"these may fire each other for ever: {' -> '.join([*cycle, cycle[0]])}; say loop = true if not"
        for cycle in _cycles(edges)
        if not silent & set(cycle)
    ]


class _Prefixes:
    """Patterns by what they begin with: those that concern a directory are found without asking all."""

    def __init__(self, patterns: list[tuple[str, Pattern]]) -> None:
        self._patterns = dict(patterns)
        self._sorted = sorted(
            (_fixed(text), name)
            for name, pattern in patterns
            for text in pattern.texts
            if not text.startswith("!")
        )

    def of(self, directory: str) -> Iterator[tuple[str, Pattern]]:
        """Those that may match something below a directory."""
        below = directory + "/"
        starts = {below[:end] for end in range(len(below) + 1)}
        found: dict[str, None] = {}
        for start in sorted(starts, key=len):
            exact = start != below
            for prefix, name in self._sorted[bisect_left(self._sorted, (start, "")) :]:
                if prefix != start if exact else not prefix.startswith(start):
                    break
                found[name] = None
        return ((name, self._patterns[name]) for name in found)


def _fixed(text: str) -> str:
    """What every path that a pattern matches begins with."""
    if text.startswith("re:"):
        return ""
    wild = next((at for at, character in enumerate(text) if character in WILD), len(text))
    return text[:wild]


WILD = frozenset("*?[{@+(\\")
"""Where a pattern may begin to be more than itself; a little more than need be does no harm."""


def _may_match(pattern: Pattern, emit: str) -> bool:
    """Whether some file below `emit` could match: tried with the pattern's own tails below it."""
    probes = {f"{emit}/x", f"{emit}/x/x"}
    for text in pattern.texts:
        if not text.startswith(("!", "re:")):
            tail = text.rpartition("/")[2]
            probes.add(f"{emit}/{tail.replace('*', 'x').replace('?', 'x')}")
            if text.startswith(emit + "/"):
                return True
    return any(pattern.matches(probe) for probe in probes)


def _cycles(edges: dict[str, list[str]]) -> Iterator[list[str]]:
    """A shortest way round for each knot of names that lead to each other, from its first name on.

    Source: Tarjan, "Depth-first search and linear graph algorithms" (1972), without recursion.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: dict[str, None] = {}
    for root in edges:
        if root in order:
            continue
        work = [(root, iter(edges[root]))]
        order[root] = low[root] = len(order)
        open_[root] = None
        while work:
            name, following = work[-1]
            for other in following:
                if other not in order:
                    order[other] = low[other] = len(order)
                    open_[other] = None
                    work.append((other, iter(edges[other])))
                    break
                if other in open_:
                    low[name] = min(low[name], order[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == order[name]:
                    knot = set()
                    while name not in knot:
                        knot.add(open_.popitem()[0])
                    if len(knot) > 1 or name in edges[name]:
                        yield _way_round(edges, knot)


def _way_round(edges: dict[str, list[str]], knot: set[str]) -> list[str]:
    """The shortest way from the first name of a knot back to it."""
    start = min(knot)
    came_from: dict[str, str] = {}
    front = deque([start])
    while start not in came_from:
        name = front.popleft()
        for other in edges[name]:
            if other in knot and other not in came_from:
                came_from[other] = name
                front.append(other)
    way = [came_from[start]]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]
