"""`cascadefs hold PATH REASON`: nothing at or below a path is let go until the hold is released."""

from __future__ import annotations

import errno
import os
from typing import Annotated

import typer

from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.refusal import refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.keeping.setting import PREFIX, explaining, living, nearest, value_of

__all__ = ["hold"]

_NAME = b"hold"
_COLUMNS = [Column("hold"), Column("said by")]
_SAYINGS = {
    errno.EPERM: ("only the owner or root may hold history, or release it", ""),
    errno.EINVAL: ("a hold needs a reason", "say why, for those who find it"),
    errno.ENODATA: ("it has no hold of its own", ""),
}


@refusing()
def hold(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    reason: Annotated[str | None, typer.Argument(metavar="REASON")] = None,
    release: Annotated[bool, typer.Option("--release", help="Take the hold away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep all history of a file, or of a directory and all below, whatever policies say; purge is refused too.

    Without REASON, show the hold that a path is under.

    Example: cascadefs hold data/2026 "audit until May"
    """
    place = living(path)
    if reason is not None and release:
        raise typer.BadParameter("a reason, or --release, not both")
    with explaining(place.live, _SAYINGS):
        if reason is not None:
            os.setxattr(place.live, PREFIX + _NAME, os.fsencode(reason))
            return
        if release:
            os.removexattr(place.live, PREFIX + _NAME)
            return
    value_of(place.live, _NAME)
    found = nearest(place, _NAME)
    if found is None and not as_json:
        return
    said_by, said = found if found is not None else (None, None)
    cells: list[bytes | str] = [said or "", said_by or ""]
    report(as_json=as_json).table(_COLUMNS, [(cells, {"hold": said, "said_by": said_by})])
