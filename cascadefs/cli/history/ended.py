"""Names that a directory had and has no more: when each ended, and what shows it as it was last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cascadefs.cli.history.lineage import versions
from cascadefs.cli.history.logged import LoggedVersion
from cascadefs.cli.history.place import Place
from cascadefs.cli.history.tree import node_at, type_name
from cascadefs.vpath import Deleted

__all__ = ["Ended", "ended", "ended_names"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A name that is not there now."""

    place: Place  # Of its last state, canonical if that can be told.
    type: str
    timestamp: int | None = None  # When it ended; None if that cannot be told.
    tombstone: LoggedVersion | None = None  # A directory has none in its log.
    last: LoggedVersion | None = None


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
        timestamp = _end_of(place, node.ctime_ns // 1000, now_us)
        if timestamp is None:
            return Ended(
                replace(place, spec=Deleted(), spelled=b".@deleted/" + place.name), kind
            )
        return Ended(place.at(timestamp - 1), kind, timestamp)
    tombstone: LoggedVersion | None = None
    for version in versions(place):
        if not version.line.is_tombstone:
            timestamp = None if tombstone is None else tombstone.timestamp
            return Ended(version.place, kind, timestamp, tombstone, version.line)
        tombstone = tombstone or version.line
    timestamp = None if tombstone is None else tombstone.timestamp
    return Ended(place, kind, timestamp, tombstone)


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
