"""The table: one line a figure, for a terminal and for docs/PERFORMANCE.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.result import Figure

__all__ = ["markdown", "short", "terminal"]

COLUMNS = ("", "cascadefs", "bindfs", "disk", "ratio", "target", "met?")


def terminal(figures: Sequence[Figure]) -> Table:
    """For rich. The daemon's processor time, microseconds an operation, stands in brackets."""
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=("", "on grey7"))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("", "target") else "right")
    for figure in figures:
        title, *cells, met = _cells(figure)
        if figure.note:
            title += f"\n  [dim]{figure.note}[/dim]"
        colour = {"yes": "green", "no": "bold red"}.get(met, "")
        table.add_row(title, *cells, f"[{colour}]{met}[/{colour}]" if colour else met)
    return table


def markdown(figures: Sequence[Figure]) -> str:
    """For the document."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|--:|--:|--:|--:|---|---|"]
    for figure in figures:
        title, *cells, met = _cells(figure)
        if figure.note:
            title += f" ({figure.note})"
        met = f"**{met}**" if met == "no" else met
        lines.append("| " + " | ".join((title, *cells, met)) + " |")
    return "\n".join(lines) + "\n"


def _cells(figure: Figure) -> list[str]:
    values = [_value(figure, name) for name in ("cascadefs", "bindfs", "disk")]
    ratio = "" if figure.ratio is None else f"{short(figure.ratio)}x"
    target = "" if figure.target is None else figure.target.text
    met = {True: "yes", False: "no", None: ""}[figure.is_met]
    return [figure.title, *values, ratio, target, met]


def _value(figure: Figure, name: str) -> str:
    if name not in figure.values:
        return ""
    said = f"{short(figure.values[name])} {figure.unit}".strip()
    cpu = figure.cpu_us.get(name, 0.0)
    return f"{said} ({short(cpu)})" if cpu and figure.unit != "s" else said


def short(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"
