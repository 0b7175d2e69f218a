"""A directory with scripts, by way of the files that are served in its ``.cascade`` (docs/TRIGGERS.md 1, 11).

Whoever may read and write those files may ask and tell, and nobody else.
"""

from __future__ import annotations

import errno
import json
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cascadefs.cli.afar import afar
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

__all__ = ["base_of", "command", "events_of", "follow", "mount_of", "provenance", "status_of"]

FROM: Final = "user.cascade.from"
EVENTS_BYTES: Final = 1024 * 1024
"""Of `events`, read in one go; as much as is kept."""

QUIET_SECONDS: Final = 10.0
"""More than a run that is told to end may take for it."""


def mount_of(path: Path) -> Path:
    """The root of the mount a path lies on."""
    here = Path(os.path.abspath(path))
    while not os.path.ismount(here):
        here = here.parent
    return here


def status_of(where: Path) -> dict[str, Any]:
    """How all bindings of a mount are.

    Raises:
        Complaint: there is none, or it runs no scripts.
    """
    if (there := afar(where)) is not None:
        return there.status()
    root = mount_of(where)
    try:
        whole = json.loads((root / ".cascade/status").read_bytes())
    except (OSError, ValueError) as error:
        raise Complaint(f"{where}: not on a cascadefs mount; say --in DIR") from error
    found: dict[str, Any] = whole.get("triggers", {})
    if found.get("mode", "off") == "off":
        raise Complaint(f"{root}: mounted without triggers; mount it with --triggers=owner")
    return found


def command(where: Path, line: str) -> None:
    """A command to a directory with scripts, or to the next one above that has some.

    Raises:
        Complaint: nobody is there to be told, or it cannot be done.
    """
    if (there := afar(where)) is not None:
        there.command(line)
        return
    base = base_of(where)
    control = base / ".cascade/ctl"
    try:
        with control.open("wb", buffering=0) as file:
            file.write(line.encode(errors="surrogateescape") + b"\n")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise Complaint(f"{control}: {error.strerror}") from error
        raise Complaint(_reason(base) or f"{control}: not understood: {line}") from error


def events_of(where: Path) -> list[dict[str, Any]]:
    """What lately happened in a directory with scripts, or in the next one above that has some.

    Raises:
        Complaint: there is none, or it may not be read.
    """
    stream = base_of(where) / ".cascade/events"
    try:
        return [json.loads(line) for line in stream.read_bytes().splitlines()]
    except OSError as error:
        raise Complaint(f"{stream}: {error.strerror}") from error


def follow(where: Path) -> Iterator[dict[str, Any]]:
    """What happens from now on in a directory with scripts; ends when nothing did for `QUIET_SECONDS`.

    Raises:
        Complaint: there is none, or it may not be read.
    """
    stream = base_of(where) / ".cascade/events"
    try:
        file = stream.open("rb", buffering=0)
    except OSError as error:
        raise Complaint(f"{stream}: {error.strerror}") from error
    while file.read(EVENTS_BYTES):
        pass
    return _lines_of(file)


def _lines_of(file: io.FileIO) -> Iterator[dict[str, Any]]:
    rest = b""
    with file:
        while select.select([file], [], [], QUIET_SECONDS)[0]:
            *lines, rest = (rest + file.read(EVENTS_BYTES)).split(b"\n")
            yield from map(json.loads, lines)


def provenance(path: Path | str | bytes) -> dict[str, Any] | None:
    """Which run wrote a file, or a version of one; None if a program did."""
    try:
        known: dict[str, Any] = json.loads(os.getxattr(path, FROM))
    except (OSError, ValueError):
        return None
    return known


def base_of(where: Path) -> Path:
    """A directory with scripts, or the next one above that has some.

    Raises:
        Complaint: there is none.
    """
    if afar(where) is not None:
        raise Complaint(f"{where}: for that a mount of the cluster is needed; say --in DIR")
    for base in _bases_above(where):
        if os.path.lexists(base / ".cascade/ctl"):
            return base
    raise Complaint(f"{where}: no directory with scripts here or above; say --in DIR")


def _bases_above(where: Path) -> Iterator[Path]:
    here = Path(os.path.abspath(where))
    root = mount_of(here)
    while True:
        yield here
        if here == root:
            return
        here = here.parent


def _reason(base: Path) -> str | None:
    """What the last command that could not be done was answered with."""
    try:
        lines = (base / ".cascade/events").read_bytes().splitlines()
    except OSError:  # On a mount of a cluster: the stream is where scripts run.
        return None
    for line in reversed(lines):
        told = json.loads(line)
        if told["event"] == "refused":
            return str(told["message"])
    return None
