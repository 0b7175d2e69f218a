"""`cascadefs at WHEN [PATH]`: the canonical path of something as of a time, to pin it and use it for ever."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, at_when, present, report
from cascadefs.cli.history.moment import canonical
from cascadefs.cli.history.place import locate
from cascadefs.cli.history.refusal import refusing
from cascadefs.vpath import Time

__all__ = ["at"]


@refusing()
def at(
    when: Annotated[
        str, typer.Argument(metavar="WHEN", help="now, 'yesterday 10:00', 2026-11-21T10:00, ...")
    ],
    path: Annotated[str, typer.Argument(metavar="PATH")] = ".",
    as_json: AsJson = False,
) -> None:
    """Print the path that shows PATH as of WHEN, which is local time and past.

    root=$(cascadefs at now data) names one unchanging state of a directory.
    """
    place = at_when(locate(os.fsencode(path)), when, present())
    with explaining(place):
        os.lstat(place.path)
    out = report(as_json=as_json)
    if not as_json:
        out.lines([place.path])
        return
    assert isinstance(place.spec, Time)
    timestamp = place.spec.timestamp
    document = {"path": place.path, "time": canonical(timestamp), "timestamp": timestamp}
    out.lines([out.encoded(document)])
