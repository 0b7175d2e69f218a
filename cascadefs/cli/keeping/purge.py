"""`cascadefs purge PATH@vN ...`: let go of the content of a version for good."""

from __future__ import annotations

import errno
import os
from typing import Annotated

import typer

from cascadefs.cli.history.place import locate
from cascadefs.cli.history.refusal import Refusal, refusing
from cascadefs.cli.keeping.setting import PREFIX, explaining
from cascadefs.vpath import Version, format_version

__all__ = ["purge"]

_SAYINGS = {
    errno.ENOENT: ("there is no such version", "see `cascadefs log`"),
    errno.EIDRM: ("its content is gone already", ""),
    errno.EBUSY: ("it is what the file holds now", "write or remove the file first"),
    errno.EPERM: (
        "only the owner or root may purge, and nobody below a hold",
        "see `cascadefs hold`",
    ),
}


@refusing()
def purge(
    paths: Annotated[list[str], typer.Argument(metavar="PATH@vN...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let go of the content of versions, for good. Their records stay, marked as purged.

    Bytes that other versions have, too, stay with those; they are on the disk until the cleaner has come by.

    Example: cascadefs purge keys.txt@v3
    """
    places = [locate(os.fsencode(path)) for path in paths]
    for place in places:
        if not isinstance(place.spec, Version) or place.rest:
            raise Refusal(
                place.path, "no version", "name each as PATH@vN; `cascadefs log` lists them"
            )
    if not yes:
        typer.confirm(f"Let go of {len(places)} version(s) for good?", abort=True)
    for place in places:
        assert isinstance(place.spec, Version)
        name = format_version(place.name, place.spec.number)
        with explaining(place.path, _SAYINGS):
            os.setxattr(place.directory or b".", PREFIX + b"purge", name)
