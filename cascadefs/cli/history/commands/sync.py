"""`cascadefs sync [PATH ...]`: wait until what was written is on the disk."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cascadefs.cli.history.place import locate
from cascadefs.cli.history.refusal import Refusal, refusing

__all__ = ["sync"]


@refusing()
def sync(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH ...]")] = None,
) -> None:
    """Return when everything committed on the mount of each PATH (default: here) is on the disk.

    Of a file also what is written and no version yet: that becomes one. sync(1) does not reach a FUSE mount.

    Example: cascadefs sync results/model.pt
    """
    for path in paths or ["."]:
        place = locate(os.fsencode(path))
        if place.spec is not None:
            raise Refusal(place.path, "it is of the past, and on the disk", "name a path of now")
        file = os.open(place.live, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
