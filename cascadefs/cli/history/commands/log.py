"""`cascadefs log PATH`: the versions of a name, or the instants of a directory, newest first."""

from __future__ import annotations

import os
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, present, report
from cascadefs.cli.history.ended import ended_names
from cascadefs.cli.history.lineage import Recorded, followed, versions
from cascadefs.cli.history.logged import LoggedInstant, read_log
from cascadefs.cli.history.moment import canonical
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.refusal import Refusal, printable, refusing
from cascadefs.cli.history.report import Column, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["log"]

_VERSIONS = [Column("version"), Column("time"), Column("size", right=True), Column("kind")]
_INSTANTS = [Column("instant"), Column("time")]


@refusing()
def log(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Also what it was before renames brought it here.")
    ] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Also versions with the bytes of the one before, and those that are gone."
        ),
    ] = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Only removals; of a directory, those of its names.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("-n", min=0, metavar="N", help="At most so many.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the versions of a file, newest first, or the instants of a directory.

    The first column is a path that shows that version (a removal has none). Deleted names have their log as before.
    """
    place = locate(os.fsencode(path))
    _check(place)
    out = report(as_json=as_json)
    with explaining(place):
        is_directory = os.path.isdir(place.live) and not os.path.islink(place.live)
        if is_directory and not deleted:
            _show_instants(out, place, count)
            return
        if is_directory:
            names = ended_names(place, present().now_us)
            logs = chain.from_iterable(versions(name.place.now()) for name in names)
            found: Iterable[Recorded] = sorted(
                logs, key=lambda version: version.line.timestamp, reverse=True
            )
        elif follow:
            found = followed(place, _say_lost)
        else:
            found = versions(place)
        rows = islice(_chosen(found, every=every, deleted=deleted), count)
        first = next(rows, None)
        if first is not None:
            _show_versions(out, chain([first], rows))
        elif not deleted:
            _show_instants(out, place, count)  # A deleted directory's, or none.


def _check(place: Place) -> None:
    if place.rest or place.spec is not None:
        name = printable(place.directory + place.name)
        why = "a log is of a name as a whole" if place.spec is not None else "it is not there now"
        raise Refusal(place.path, why, f"`cascadefs log {name}`")


def _chosen(found: Iterable[Recorded], *, every: bool, deleted: bool) -> Iterator[Recorded]:
    for version in found:
        if deleted and not version.line.is_tombstone:
            continue
        if (version.line.same or version.line.gone) and not every:
            continue
        yield version


def _say_lost(place: Place) -> None:
    typer.echo(
        f"cascadefs: {printable(place.live)}: what it was before cannot be reached any more; "
        "its directory is gone or closed to you",
        err=True,
    )


def _show_versions(out: Report, found: Iterable[Recorded]) -> None:
    out.table(_VERSIONS, ((_cells(version), _document(version)) for version in found))


def _show_instants(out: Report, place: Place, count: int | None) -> None:
    instants = (line.timestamp for line in read_log(place.log) if isinstance(line, LoggedInstant))
    rows = ((place.at(timestamp).path, timestamp) for timestamp in islice(instants, count))
    out.table(
        _INSTANTS,
        (
            ([path, canonical(at)], {"path": path, "time": canonical(at), "timestamp": at})
            for path, at in rows
        ),
    )


def _cells(version: Recorded) -> list[bytes | str]:
    line = version.line
    kind = line.kind.encode("ascii")
    if version.moved_from is not None:
        kind += b" from " + version.moved_from.live
    elif version.moved_to is not None:
        kind += b" to " + version.moved_to.live
    if line.gone is not None:
        kind += b", " + line.gone.encode("ascii")
    size = "-" if line.size is None else str(line.size)
    return [version.place.path, canonical(line.timestamp), size, kind]


def _document(version: Recorded) -> dict[str, Any]:
    line = version.line
    return {
        "path": None if line.is_tombstone else version.place.path,
        "version": line.version,
        "time": canonical(line.timestamp),
        "timestamp": line.timestamp,
        "kind": line.kind,
        "size": line.size,
        "mode": line.mode,
        "uid": line.uid,
        "gid": line.gid,
        "mtime_ns": line.mtime_ns,
        "inode": line.inode,
        "moved_from": None if version.moved_from is None else version.moved_from.live,
        "moved_to": None if version.moved_to is None else version.moved_to.live,
        "same": line.same,
        "gone": line.gone,
    }
