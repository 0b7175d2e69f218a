"""``top``: how a mount stands, as a board or as tables once.

Bindings and runs come from ``.cascade/status``, the lines of a sweep from a connection of their own, and what is told goes to
``.cascade/ctl`` (docs/TRIGGERS.md 11).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.base import command, mount_of, status_of
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import HEADINGS, is_number, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.table import Table

    from cascadefs.cli.lines import Lines

__all__ = ["Place", "Where", "console", "table", "top"]

Where = Annotated[
    Path,
    typer.Option(
        "--in",
        metavar="DIR",
        help="A directory with scripts, or anything below it; mount.toml/DIR: of a cluster.",
    ),
]
Place = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="A directory on the mount, or anything below it."),
]


def top(
    place: Place = None,
    where: Where = Path(),
    seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print a table, and end.")] = False,
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Show its lines, too: the last figure of each NAME/loss."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What things cost: a TOML table.")
    ] = None,
) -> None:
    """Watch the bindings of a mount: how far they are, what runs, and end runs that should not go on."""
    place = place or sweep or where
    status = status_of(place)
    root = mount_of(place)
    with _lines(root, sweep) as lines:
        cost = _cost(root, prices)
        if once:
            _print_once(status, lines, cost)
            return
        try:
            from cascadefs.cli.board import Board
        except ModuleNotFoundError as error:
            raise Complaint("textual is not installed: scripts/setup top, or say --once") from error
        Board(
            lambda: status_of(place),
            lambda line: command(place, line),
            seconds,
            lines=lines,
            cost=cost,
        ).run()


@contextmanager
def _lines(root: Path, sweep: Path | None) -> Iterator[Lines | None]:
    """The lines of a sweep, read by a connection of their own; None if nobody asked."""
    if sweep is None:
        yield None
        return
    import cascadefs
    from cascadefs.cli.lines import Lines
    from storage.errors import Unusable

    directory = os.path.relpath(os.path.abspath(sweep), root)
    try:
        client = cascadefs.connect(root)
    except (OSError, Unusable) as error:
        raise Complaint(f"{root}: {error}") from error
    with client:
        yield Lines(client, root, "" if directory == "." else directory)


def _cost(root: Path, prices: Path | None) -> Callable[[], str] | None:
    if prices is None:
        return None
    from cascadefs.cli.lines import Cost
    from cascadefs.page import Prices
    from storage.errors import Unusable

    try:
        return Cost(Prices.load(prices), root).text
    except Unusable as error:
        raise Complaint(str(error)) from error


def _print_once(
    status: dict[str, Any], lines: Lines | None, cost: Callable[[], str] | None
) -> None:
    out = console()
    out.print(table(status, out.width))
    if lines is not None:
        from rich.table import Table

        told = Table("line", "", "loss", "versions", "curve", box=None)
        for row in lines.rows().values():
            told.add_row(*row)
        out.print(told)
    if cost is not None:
        out.print(cost())


def console() -> Console:
    """Prints names and messages as they are; into a pipe as wide as a table wants to be."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(markup=False, emoji=False, width=wide)


_SPARED = ("memory", "p99 ms", "p50 ms", "running", "lag", "pending", "done")
"""Columns that a narrow terminal is not shown, the first one first: half a column tells nothing."""

_WATCH_COLUMNS = 16
"""At least, for the patterns."""


def table(status: dict[str, Any], columns: int) -> Table:
    """All bindings, in as many columns of text."""
    from rich.table import Table

    found = rows(status)
    widths = {
        heading: max(len(heading), *(len(row.cells[at]) for row in found), 0)
        for at, heading in enumerate(HEADINGS)
    }
    *shown, last = HEADINGS
    for heading in _SPARED:
        if sum(widths[one] + 2 for one in shown) + _WATCH_COLUMNS <= columns:
            break
        shown.remove(heading)
    made = Table(box=None)
    for heading in shown:
        # What commands take must be whole.
        whole = widths[heading] if heading == "binding" else None
        made.add_column(
            heading,
            justify="right" if is_number(heading) else "left",
            min_width=whole,
            overflow="fold",
        )
    made.add_column(last, min_width=_WATCH_COLUMNS, overflow="fold")
    for row in found:
        made.add_row(*(row.cells[HEADINGS.index(heading)] for heading in (*shown, last)))
    return made
