"""`cascadefs retention [DIR] [POLICY]`: say how long the history below a directory is kept, or ask."""

from __future__ import annotations

import errno
import os
from typing import Annotated

import typer

from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.refusal import Refusal, refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.keeping.setting import PREFIX, explaining, living, nearest, value_of
from storage.retention.policy import MalformedPolicy, parse

__all__ = ["retention"]

_NAME = b"retention"
_COLUMNS = [Column("policy"), Column("said by")]
_SAYINGS = {
    errno.ENOTDIR: ("it is no directory", "policies are said of directories"),
    errno.EPERM: ("only the owner or root may say how long history is kept", ""),
    errno.ENODATA: ("it has no policy of its own", ""),
}


@refusing()
def retention(
    path: Annotated[str, typer.Argument(metavar="DIR")] = ".",
    policy: Annotated[
        str | None,
        typer.Argument(metavar="POLICY", help="As all:24h,hour:7d,day:90d,week:2y;min=3"),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the directory's own policy away.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say for how long the history of a directory and all below it is kept, or show what is said.

    Windows, finer ones first, each longer than the one before: all, minute, hour, day, week. Older history is
    thinned to what was there at each full hour, midnight, Monday (UTC). Options behind semicolons: min=N versions of
    a name are kept whatever their age, never more than max=N, and names that came and went within ephemeral=60s are
    forgotten. The nearest directory with a policy decides; without any, everything is kept.

    Example: cascadefs retention data "all:24h,hour:7d,day:90d,week:2y;min=3"
    """
    place = living(path)
    if policy is not None and remove:
        raise typer.BadParameter("a policy, or --remove, not both")
    if policy is not None:
        text = os.fsencode(policy)
        try:
            parse(text)
        except MalformedPolicy as error:
            raise Refusal(
                policy, f"no policy: {error}", "see `cascadefs retention --help`"
            ) from error
        with explaining(place.live, _SAYINGS):
            os.setxattr(place.live, PREFIX + _NAME, text)
        return
    if remove:
        with explaining(place.live, _SAYINGS):
            os.removexattr(place.live, PREFIX + _NAME)
        return
    value_of(place.live, _NAME)  # So that a path that is not there is said to be not there.
    found = nearest(place, _NAME)
    said_by, said = found if found is not None else (None, None)
    cells: list[bytes | str] = [said or "everything is kept", said_by or "-"]
    report(as_json=as_json).table(_COLUMNS, [(cells, {"policy": said, "said_by": said_by})])
