"""What several commands take: --json, -t WHEN, and a path with perhaps a specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.history.clock import LocalZone, now_us
from cascadefs.cli.history.moment import Moment
from cascadefs.cli.history.report import Report, is_terminal

if TYPE_CHECKING:
    from cascadefs.cli.history.place import Place

__all__ = ["AsJson", "When", "at_when", "present", "report"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object on a line.")]

When = Annotated[
    str | None,
    typer.Option(
        "--time",
        "-t",
        metavar="WHEN",
        help="As of then: 'yesterday 10:00', '10 minutes ago', -10m, 2026-11-21T10:00 (local), ...Z (UTC).",
    ),
]


def present() -> Moment:
    """The present of a command that begins."""
    return Moment(now_us(), LocalZone())


def report(*, as_json: bool) -> Report:
    """Where a command prints."""
    return Report(as_json=as_json, terminal=is_terminal())


def at_when(place: Place, when: str | None, moment: Moment) -> Place:
    """`place`, as of `when` if that is given.

    Raises:
        click.UsageError: the path says a time or version itself.
        Refusal: `when` is no time, or one to come.
    """
    if when is None:
        return place
    if place.spec is not None:
        raise typer.BadParameter("the path says when itself; give PATH@SPEC or -t WHEN, not both")
    return place.at(moment.timestamp(when, place))
