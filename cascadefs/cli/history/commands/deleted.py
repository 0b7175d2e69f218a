"""`cascadefs deleted DIR [-r]`: the names a directory had, and what shows them as they were last."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, present, report
from cascadefs.cli.history.ended import Ended, ended_names
from cascadefs.cli.history.moment import canonical
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import Refusal, refusing, saying
from cascadefs.cli.history.report import Column
from cascadefs.cli.history.tree import CONTROL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["deleted"]

_COLUMNS = [Column("last"), Column("ended"), Column("size", right=True), Column("how")]


@refusing()
def deleted(
    path: Annotated[str, typer.Argument(metavar="DIR")] = ".",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also in the directories below.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List names that are gone: the path of the last version, when it ended, its size and how."""
    place = locate(os.fsencode(path))
    if place.spec is not None:
        raise Refusal(place.path, "it is of the past", "name a directory of now")
    now_us = present().now_us
    out = report(as_json=as_json)
    with explaining(place), progress("looking") as step:
        rows = _all_ended(place, now_us, step) if recursive else ended_names(place, now_us)
        out.table(_COLUMNS, ((_cells(found), _document(found)) for found in rows))


def _all_ended(top: Place, now_us: int, step: Callable[[], None]) -> Iterator[Ended]:
    """The ended names of `top` and of every living directory below it."""
    pending = [top]
    while pending:
        here = pending.pop()
        step()
        try:
            yield from ended_names(here, now_us)
            below = _directories(here.live)
        except (FileNotFoundError, PermissionError) as error:
            if here is top:
                raise
            typer.echo(f"cascadefs: {saying(here.live, error)}", err=True)
            continue
        inside = here.inside
        pending += [replace(inside, name=name) for name in reversed(below)]


def _directories(path: bytes) -> list[bytes]:
    with os.scandir(path) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and entry.name != CONTROL
        )


def _cells(found: Ended) -> list[bytes | str]:
    size = None if found.last is None else found.last.size
    how: bytes | str = "delete"
    if found.moved_to is not None:
        how = b"moved to " + found.moved_to.live
    ended = "-" if found.timestamp is None else canonical(found.timestamp)
    return [found.place.path, ended, "-" if size is None else str(size), how]


def _document(found: Ended) -> dict[str, Any]:
    last, to = found.last, found.moved_to
    return {
        "name": found.place.name,
        "path": found.place.path,
        "type": found.type,
        "time": None if found.timestamp is None else canonical(found.timestamp),
        "timestamp": found.timestamp,
        "kind": "delete" if to is None else "moved",
        "size": None if last is None else last.size,
        "version": None if last is None else last.version,
        "moved_to": None if to is None else to.live,
    }
