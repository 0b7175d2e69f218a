"""`cascadefs label DIR [NAME] [--at T]`: name an instant of a directory, which is then kept; or list the names."""

from __future__ import annotations

import errno
import os
from typing import Annotated

import typer

from cascadefs.cli.history.commands.options import AsJson, present, report
from cascadefs.cli.history.moment import canonical
from cascadefs.cli.history.refusal import Refusal, refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.keeping.setting import PREFIX, explaining, living, value_of

__all__ = ["label"]

_NAME = b"label"
_COLUMNS = [Column("label"), Column("path")]
_SAYINGS = {
    errno.EINVAL: ("no label: a letter, then at most 63 letters, digits, _ or -", ""),
    errno.EEXIST: ("it has that label already", "give --move to let it name another instant"),
    errno.ENOTDIR: ("it is no directory", "labels are of directories"),
    errno.ENOENT: ("it was not there then", ""),
    errno.EIDRM: (
        "that instant is not kept any more",
        "`cascadefs log` shows what is; or take one on a boundary of its policy",
    ),
    errno.EPERM: ("only the owner or root may do that", ""),
}


@refusing()
def label(
    path: Annotated[str, typer.Argument(metavar="DIR")],
    name: Annotated[str | None, typer.Argument(metavar="LABEL")] = None,
    when: Annotated[
        str | None,
        typer.Option("--at", metavar="WHEN", help="The instant; without it, now. As `-t` of `ls`."),
    ] = None,
    move: Annotated[
        bool, typer.Option("--move", help="The label is there and is to name this instant instead.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Drop the label.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name an instant of a directory: DIR@tag-LABEL shows it, and nothing it shows is let go.

    Without LABEL, list those there are.

    Example: cascadefs label data rel1 --at "yesterday 10:00"
    """
    place = living(path)
    out = report(as_json=as_json)
    if name is None:
        labels = (value_of(place.live, b"labels") or b"").split()
        rows = [(one, place.directory + place.name + b"@tag-" + one) for one in labels]
        out.table(_COLUMNS, [([a, b], {"label": a, "path": b}) for a, b in rows])
        return
    value = os.fsencode(name)
    if remove:
        if when is not None or move:
            raise typer.BadParameter("--remove drops a label; it takes no time")
        with explaining(place.live, {errno.ENOENT: (f"it has no label {name}", "")}):
            os.rmdir(os.path.join(place.live, b".@tag=" + value))
        return
    if b"=" in value:
        raise Refusal(name, *_SAYINGS[errno.EINVAL])
    if when is not None:
        value += b"=" + canonical(present().timestamp(when, place)).encode("ascii")
    if move:
        value = b"!" + value
    with explaining(place.live, _SAYINGS):
        os.setxattr(place.live, PREFIX + _NAME, value)
