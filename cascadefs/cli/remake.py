"""``remake``: files that runs wrote and that are gone are made again, each by the run that wrote it.

A name that is gone is found among those its directory had (``.@deleted/``), with what its last version says of the run
that wrote it; the mount is told to do that run once more for that file alone (docs/TRIGGERS.md 10). A handler that
depends on nothing but what it reads then writes the same bytes, which is looked at.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cascadefs.cli.base import command, mount_of, provenance
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["remake"]

DELETED = ".@deleted"
LOOK_SECONDS = 0.2
EVENTS_BYTES = 1024 * 1024
"""Read in one go; as much as is kept."""


class Gone(NamedTuple):
    """A file that was here."""

    path: Path
    """Where it was."""

    last: Path
    """What it was last, among the deleted names."""

    base: Path
    """The directory whose script wrote it."""

    hash: bytes | None
    """Of the bytes it had; None if they are not kept."""


def remake(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="A file that is gone, or a directory with such."),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="All that was there then; for directories that are gone."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait where nothing happens.")
    ] = 60.0,
) -> None:
    """Make files again that scripts wrote and that are gone, by the very runs that wrote them."""
    asked: list[Gone] = []
    for path in paths:
        if os.path.lexists(path) and not path.is_dir():
            typer.echo(plain(f"{path}: is there"))
            continue
        try:
            found = list(_gone(path) if at is None else _written(path, _as_of(path, at)))
        except OSError as error:
            raise Complaint(f"{error.filename}: {error.strerror}") from error
        if not found:
            raise Complaint(
                f"{path}: nothing that a script wrote is gone here; say --at TIME for what was there then"
            )
        for gone in found:
            _ask(gone)
        asked.extend(found)
    differ = [gone for gone in asked if not _is_as_it_was(gone, seconds)]
    if differ:
        raise Complaint(
            f"{differ[0].path}: not the bytes that it had; its script depends on more than it reads"
        )


def _gone(path: Path) -> Iterator[Gone]:
    """The files a path is about that runs wrote and that are not there."""
    if path.is_dir():
        deleted = path / DELETED
        for name in sorted(os.listdir(deleted)):
            yield from _written(path / name, deleted / name)
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _gone(path / entry.name)
        return
    here, below = _cut(path)
    yield from _written(path, here / DELETED / below)


def _as_of(path: Path, at: str) -> Path:
    """A path as of a time (SEMANTICS 2)."""
    if path.is_dir():
        return path / f".@t={at}"
    here, below = _cut(path)
    first, *rest = below.parts
    return Path(here, f"{first}@t={at}", *rest)


def _cut(path: Path) -> tuple[Path, Path]:
    """The directories that are there, and what is not."""
    here, below = path.parent, Path(path.name)
    while not os.path.lexists(here):
        here, below = here.parent, here.name / below
    return here, below


def _written(path: Path, last: Path) -> Iterator[Gone]:
    """The files that runs wrote, of something that is gone and was called `path`."""
    if last.is_dir() and not last.is_symlink():
        for name in sorted(os.listdir(last)):
            yield from _written(path / name, last / name)
    elif (known := provenance(last)) is not None and not os.path.lexists(path):
        yield Gone(path, last, mount_of(path) / known["base"], _hash(last))


def _ask(gone: Gone) -> None:
    try:
        relative = Path(os.path.abspath(gone.path)).relative_to(gone.base)
    except ValueError:
        raise Complaint(
            f"{gone.path}: written from {gone.base}, which is another place now"
        ) from None
    written = os.getxattr(gone.last, "user.cascade.commit_time").decode()
    command(gone.base, f"remake {relative} of {written}")


def _is_as_it_was(gone: Gone, seconds: float) -> bool:
    """Wait for a file; whether it has the bytes that it had.

    Raises:
        Complaint: nothing has happened for so long, and it is not there.
    """
    events = os.open(gone.base / ".cascade/events", os.O_RDONLY)
    try:
        quiet_s = 0.0
        while not gone.path.exists():
            # The kernel may come to know of a file later than we of the run: so now and then, too.
            if select.select([events], [], [], LOOK_SECONDS)[0]:
                quiet_s = 0.0
            elif (quiet_s := quiet_s + LOOK_SECONDS) > seconds:
                raise Complaint(
                    f"{gone.path}: not made again; see .cascade/status and failed/ in {gone.base}"
                )
            while os.read(events, EVENTS_BYTES):
                pass
    finally:
        os.close(events)
    is_same = gone.hash is None or _hash(gone.path) == gone.hash
    what = "its old bytes are not kept" if gone.hash is None else "the same bytes"
    typer.echo(plain(f"{gone.path}: made again, {what if is_same else 'other bytes'}"))
    return is_same


def _hash(path: Path) -> bytes | None:
    """Of a file's bytes; None if they are gone."""
    try:
        return os.getxattr(path, "user.cascade.hash")
    except OSError:
        return None
