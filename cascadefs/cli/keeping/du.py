"""`cascadefs du --history [DIR]`: what files hold now and what their history holds besides."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.history.tree import CONTROL
from cascadefs.cli.keeping.setting import living, value_of

__all__ = ["du"]

_COLUMNS = [
    Column("live", right=True),
    Column("history", right=True),
    Column("versions", right=True),
    Column("pruned", right=True),
    Column("budget", right=True),
    Column("path"),
]
_NAMES = (b"live_bytes", b"history_bytes", b"history_versions", b"pruned")
_BUDGET = b"history_budget"


@refusing()
def du(
    path: Annotated[str, typer.Argument(metavar="PATH")] = ".",
    history: Annotated[
        bool, typer.Option("--history", help="Also what history holds; du(1) does without.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Sum up bytes: what a path holds now, and what only older versions of its names hold.

    One line for each entry of a directory, and one for all of it. Deleted names are not in it: `cascadefs deleted`.
    Where a directory has a history budget (the attribute user.cascade.history_budget) it is shown as HELD/BUDGET: what
    counted against it, deleted names too, when history was last thinned.

    Example: cascadefs du --history data
    """
    del history
    place = living(path)
    rows: list[tuple[bytes, list[int]]] = []
    with progress("adding up") as step:
        if os.path.isdir(place.live) and not os.path.islink(place.live):
            total = [0] * len(_NAMES)
            for name in sorted(os.listdir(place.live)):
                if name == CONTROL:
                    continue
                step()
                sums = _sums(os.path.join(place.live, name))
                rows.append((os.path.join(place.live, name), sums))
                total = [a + b for a, b in zip(total, sums, strict=True)]
            rows.append((place.live, total))
        else:
            rows.append((place.live, _sums(place.live)))
    report(as_json=as_json).table(
        _COLUMNS,
        [
            (
                [*map(str, sums), budget, name],
                {"path": name, "history_budget": budget or None}
                | {key.decode(): count for key, count in zip(_NAMES, sums, strict=True)},
            )
            for name, sums in rows
            for budget in [_budget(name)]
        ],
    )


def _budget(path: bytes) -> str:
    """What history holds against a directory's budget, and that; nothing if it has none."""
    budget = value_of(path, _BUDGET)
    if budget is None:
        return ""
    held = value_of(path, b"history_bytes")
    return f"{'?' if held is None else held.decode()}/{budget.decode()}"


def _sums(top: bytes) -> list[int]:
    """The attributes' sums of everything at and below a path."""
    sums = [0] * len(_NAMES)
    pending = [top]
    while pending:
        path = pending.pop()
        if os.path.islink(path):
            continue
        if os.path.isdir(path):
            pending += [os.path.join(path, name) for name in os.listdir(path) if name != CONTROL]
            continue
        for place, name in enumerate(_NAMES):
            sums[place] += int(value_of(path, name) or 0)
    return sums
