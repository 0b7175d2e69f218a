"""Names that a directory had and has no more: when each ended, and what shows it as it was last."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cascadefs.cli.history.lineage import versions
from cascadefs.cli.history.moment import attribute
from cascadefs.cli.history.tree import node_at, type_name
from cascadefs.vpath import Deleted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.cli.history.logged import LoggedVersion
    from cascadefs.cli.history.place import Place
    from cascadefs.cli.history.tree import Node

__all__ = ["Ended", "ended", "ended_names"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A name that is not there now."""

    place: Place  # Of its last state, canonical if that can be told.
    type: str
    timestamp: int | None = None  # When it ended; None if that cannot be told.
    last: LoggedVersion | None = None  # None of a directory, whose log tells of other things.
    moved_to: Place | None = None  # Where a rename took it; None if it was removed.


def ended_names(directory: Place, now_us: int) -> Iterator[Ended]:
    """The ended names of a living directory.

    Raises:
        OSError: the directory could not be read.
    """
    inside = directory.inside
    for name in sorted(os.listdir(inside.directory + b".@deleted")):
        yield ended(replace(inside, name=name), now_us)


def ended(place: Place, now_us: int) -> Ended:
    """How the name at `place` ended, which is not there now.

    Raises:
        OSError: the name has no history, or it may not be read.
    """
    shown = place.directory + b".@deleted/" + place.name
    node = node_at(shown)
    kind = "unknown" if node is None else type_name(node)
    if node is not None and node.is_directory:
        return _ended_directory(place, node, now_us)
    tombstone: LoggedVersion | None = None
    for version in versions(place):
        if not version.line.is_tombstone:
            return _ended_by(tombstone, version.place, kind, version.line)
        tombstone = tombstone or version.line
    return _ended_by(tombstone, place, kind, None)


def _ended_by(
    tombstone: LoggedVersion | None, place: Place, kind: str, last: LoggedVersion | None
) -> Ended:
    if tombstone is None:
        return Ended(place, kind, last=last)
    to = None if tombstone.moved_to is None else place.elsewhere(tombstone.moved_to)
    return Ended(place, kind, tombstone.timestamp, last, to)


def _ended_directory(place: Place, node: Node, now_us: int) -> Ended:
    timestamp = _end_of(place, node.ctime_ns // 1000, now_us)
    if timestamp is None:
        spelled = b".@deleted/" + place.name
        return Ended(replace(place, spec=Deleted(), spelled=spelled), type_name(node))
    last = place.at(timestamp - 1)
    to = attribute(last.path, "moved_to")
    moved_to = None if to is None else place.elsewhere(to)
    return Ended(last, type_name(node), timestamp, moved_to=moved_to)


def _end_of(place: Place, low: int, high: int) -> int | None:
    """The first timestamp at which a directory was not there any more, which it was at `low` and is not at `high`.

    A directory's log tells what happened in it and not its removal; so this asks whether it was there, at most 60
    times.
    """
    if not os.path.lexists(place.at(low).path) or os.path.lexists(place.at(high).path):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if os.path.lexists(place.at(middle).path):
            low = middle
        else:
            high = middle
    return high
