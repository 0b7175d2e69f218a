"""The versions of a name with the paths that open them, and what they were before they had that name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascadefs.cli.history.logged import LoggedVersion, read_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascadefs.cli.history.place import Place

__all__ = ["Recorded", "followed", "versions"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One version and its place; a tombstone's place says ENOENT."""

    place: Place
    line: LoggedVersion

    @property
    def moved_from(self) -> Place | None:
        """Where a rename took it from."""
        origin = self.line.moved_from
        return None if origin is None else self.place.elsewhere(origin)

    @property
    def moved_to(self) -> Place | None:
        """Where a rename took it to."""
        target = self.line.moved_to
        return None if target is None else self.place.elsewhere(target)


def versions(place: Place) -> Iterator[Recorded]:
    """The versions of a name, newest first; none for a directory that has instants instead.

    Raises:
        OSError: the name has no history, or it may not be read.
    """
    for line in read_log(place.log):
        if isinstance(line, LoggedVersion):
            yield Recorded(place.version(line.version), line)


def followed(place: Place, lost: Callable[[Place], None]) -> list[Recorded]:
    """The versions of a name, and of the names its content came from by renames, newest first.

    Of a name it came from, only what was moved counts: back to where that name was last unused. `lost` is told where
    such a name cannot be read any more, as in a directory that is gone.
    """
    found: dict[tuple[bytes, int], Recorded] = {}
    pending: list[tuple[Place, int | None]] = [(place, None)]
    while pending:
        here, moved = pending.pop()
        name = os.path.join(os.path.realpath(here.directory or b"."), here.name)
        try:
            for version in _moved_by(here, moved):
                if (name, version.line.version) in found:
                    break
                found[name, version.line.version] = version
                if version.moved_from is not None:
                    pending.append((version.moved_from, version.line.timestamp))
        except OSError:
            if here is place:
                raise
            lost(here)
    return sorted(found.values(), key=_recency, reverse=True)


def _recency(version: Recorded) -> tuple[int, bool]:
    """Of one rename, where it went comes before where it came from."""
    return version.line.timestamp, not version.line.is_tombstone


def _moved_by(place: Place, moved: int | None) -> Iterator[Recorded]:
    """The versions of `place`; if it was moved away at `moved`, those of what was moved."""
    for version in versions(place):
        if moved is not None:
            if version.line.timestamp >= moved:
                continue
            if version.line.is_tombstone:
                return
        yield version
