"""Why something of the past is not there, in the words of the history that it has (SEMANTICS 5)."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from cascadefs.cli.history.logged import LoggedVersion, read_log
from cascadefs.cli.history.moment import canonical
from cascadefs.cli.history.refusal import Refusal, printable, saying
from cascadefs.vpath import Tag, Time, Version, VersionBack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.cli.history.place import Place

__all__ = ["explained", "explaining"]


@contextlib.contextmanager
def explaining(place: Place) -> Iterator[None]:
    """Turn an OSError of the block into what it says about `place`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise explained(place, error) from error


def explained(place: Place, error: OSError) -> Refusal:
    """What `error` says about `place`."""
    about = error.filename if isinstance(error.filename, bytes) else place.path
    if error.errno not in (errno.ENOENT, errno.ENOTDIR) or about.startswith(place.path + b"/"):
        return saying(about, error)
    try:
        lines = list(read_log(place.log))
    except OSError:
        return Refusal(place.path, "no history: no such name was ever here")
    versions = [line for line in lines if isinstance(line, LoggedVersion)]
    remedy = f"see `cascadefs log {printable(place.directory + place.name)}`"
    if place.rest and place.spec is not None:
        return Refusal(place.path, f"{printable(place.rest)} was not there then", remedy)
    match place.spec:
        case Version(number=number):
            return Refusal(place.path, _no_version(number, versions), remedy)
        case VersionBack(steps=steps):
            head = versions[0].version if versions else 0
            return Refusal(place.path, _no_version(head - steps, versions), remedy)
        case Time(timestamp=timestamp):
            return Refusal(place.path, _not_then(timestamp, versions), remedy)
        case Tag(label=label):
            return Refusal(place.path, f"no label {printable(label)}")
        case None:
            return Refusal(place.path, "it is not there now", f"{remedy}, or say when")
    return saying(place.path, error)


def _no_version(number: int, versions: list[LoggedVersion]) -> str:
    if not versions:
        return "no such version: nothing has been committed yet"
    if any(line.version == number and line.is_tombstone for line in versions):
        return f"version {number} is its removal and has no content"
    newest = versions[0].version
    there = "only version 1" if newest == 1 else f"versions 1 to {newest}"
    return (
        f"no version {number}; there are {there}"
        if newest > 1
        else f"no version {number}; there is {there}"
    )


def _not_then(timestamp: int, versions: list[LoggedVersion]) -> str:
    then = canonical(timestamp)
    before = [line for line in versions if line.timestamp <= timestamp]
    if before and before[0].is_tombstone:
        return f"not there at {then}: it was removed at {canonical(before[0].timestamp)}"
    if versions and not before:
        return f"not there at {then}: its first version is of {canonical(versions[-1].timestamp)}"
    return f"not there at {then}"
