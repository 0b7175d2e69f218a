"""Watching, for a program: what was committed behind a place in history, as changes of paths a user may know of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from cascadefs.client import calls
from cascadefs.client.values import Change
from storage.errors import Corruption
from triggers.access import READ, SEARCH, may
from triggers.change import Paths, changes
from triggers.effects import CONTROL
from triggers.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.store import Store
    from storage.stream import Committed
    from triggers.access import Identity

__all__ = ["Watching"]

_ORDINAL_MAX = 2**32

WATCH_RECORDS_MAX = 10_000
"""Records looked at for one `Watch`: others want the store too."""


class Watching:
    """See the module."""

    def __init__(self, store: Store, who: Identity) -> None:
        self._store = store
        self._who = who

    def watch(self, call: calls.Watch) -> calls.Watched:
        """What was committed behind a place, shard by shard."""
        pattern = Pattern((call.glob,))
        places = _places(call.after) if call.after else {}
        for shard in self._store.shards:
            if shard not in places:
                places[shard] = self._end(self._store.view(shard))
        found: list[Change] = []
        paths = Paths(self._store)
        for shard in self._store.shards:
            for change, place in self._told(self._store.view(shard), places[shard], paths, pattern):
                if change is not None and len(found) >= call.limit:
                    return calls.Watched(found, _token(places))
                places[shard] = place
                if change is not None:
                    found.append(Change(*change, _token(places)))
        return calls.Watched(found, _token(places))

    def _told(
        self, view: Store, place: _Place, paths: Paths, pattern: Pattern
    ) -> Iterator[tuple[tuple[str, str, int, int, int] | None, _Place]]:
        """The changes of one shard behind a place, and the place behind each; None where there was only a record."""
        for looked, committed in enumerate(self._behind(view, place)):
            told = place.ordinal if committed.timestamp == place.timestamp else 0
            place = _Place(committed.timestamp, told, committed.address)
            yield None, place
            for change in self._changes(committed, paths, pattern)[told:]:
                place = place._replace(ordinal=place.ordinal + 1)
                yield change, place
            if looked >= WATCH_RECORDS_MAX:
                return

    def _end(self, view: Store) -> _Place:
        """The end of a shard's history as it is now."""
        now = self._store.now()
        last = _Place(now, 0, 0)
        for committed in view.committed(view.address_of_time(now)):
            last = _Place(committed.timestamp, _ORDINAL_MAX, committed.address)
        return last

    @staticmethod
    def _behind(view: Store, place: _Place) -> Iterator[Committed]:
        """The records from the one at a place on, that one included: not all of it may have been told."""
        if place.address:
            with contextlib.suppress(Corruption):  # Of a token from elsewhere.
                if view.committed_at(place.address).timestamp == place.timestamp:
                    return view.committed(place.address)
        start = view.address_of_time(place.timestamp)
        return view.committed(start, place.timestamp - 1)

    def _changes(
        self, committed: Committed, paths: Paths, pattern: Pattern
    ) -> list[tuple[str, str, int, int, int]]:
        """(path, kind, version, timestamp, size) of what a record did, whether this user may know of it or not asked."""
        paths.observe(committed.record)
        timestamp = committed.timestamp
        told: list[tuple[str, str, int, int, int]] = []
        for change in changes(self._store, timestamp, committed.record):
            chain = paths.chain(change.directory, timestamp)
            if chain is None or not self._may_know(chain):
                continue
            path = (chain[-1][1] + change.name).decode(errors="surrogateescape")
            if pattern.matches(path) and CONTROL.decode() not in path.split("/"):
                told.append((path, change.kind, change.version, timestamp, change.size))
        return told

    def _may_know(self, chain: tuple[tuple[int, bytes], ...]) -> bool:
        """Whether every directory of a path may be searched, and the last one read."""
        for index, (directory, _) in enumerate(chain):
            attributes = self._store.attributes(directory)
            want = SEARCH | READ if index == 0 else SEARCH
            if attributes is not None and not may(self._who, attributes, want):
                return False
        return True


class _Place(NamedTuple):
    """A place in history: so many changes of the record with that timestamp have been told; where it is, if known."""

    timestamp: int
    ordinal: int
    address: int


def _token(places: dict[int, _Place]) -> str:
    """Places of all shards as text; of shard 0 alone without its number."""
    if list(places) == [0]:
        return ".".join(map(str, places[0]))
    return ",".join(f"{shard}:{'.'.join(map(str, place))}" for shard, place in places.items())


def _places(token: str) -> dict[int, _Place]:
    places = {}
    for one in token.split(","):
        shard, colon, text = one.rpartition(":")
        numbers = [shard if colon else "0", *text.split(".")]
        if len(numbers) != 4 or not all(part.isascii() and part.isdecimal() for part in numbers):
            raise ValueError(f"{token!r}: not a token that a watch gave")
        places[int(numbers[0])] = _Place(*map(int, numbers[1:]))
    return places
