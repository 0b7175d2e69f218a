"""The picture: every figure with a target as a bar on a logarithmic axis, its target as a mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.table import short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.result import Figure

__all__ = ["draw"]

MET, MISSED, MARK, QUIET = "#2a7f62", "#c8553d", "#1b1b1e", "#6b7078"


def draw(figures: Sequence[Figure], machine: str, path: Path) -> None:
    """Write the picture; figures without a target are not in it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [figure for figure in figures if figure.ratio is not None][::-1]
    if not shown:
        return
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10})
    canvas, axes = plt.subplots(figsize=(11, 1.5 + 0.36 * len(shown)), dpi=150)
    ratios = [figure.ratio or 0.0 for figure in shown]
    colours = [MET if figure.is_met else MISSED for figure in shown]
    low = min(0.1, *(ratio / 1.6 for ratio in ratios))
    high = max(10.0, *(ratio * 5 for ratio in ratios))
    for place, (figure, ratio, colour) in enumerate(zip(shown, ratios, colours, strict=True)):
        assert figure.target is not None
        # From 1, where both are equal: to the right is faster, to the left slower.
        axes.barh(place, ratio - 1, left=1, height=0.62, color=colour, zorder=2)
        least = figure.target.least
        axes.plot([least, least], [place - 0.42, place + 0.42], color=MARK, linewidth=2.2, zorder=4)
        axes.annotate(
            f"{_times(ratio)}  {_reference(figure)}",
            (max(ratio, 1.0, least), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=QUIET,
            fontsize=9,
            zorder=5,
        )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_yticks(range(len(shown)), [figure.title for figure in shown])
    axes.axvline(1, color=QUIET, linewidth=1, zorder=3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _times(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.8, zorder=0)
    axes.tick_params(which="both", length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "slower  ◂  speed against the reference named at each bar  ▸  faster", color=QUIET
    )
    canvas.text(
        0.012,
        1 - 0.1 / canvas.get_figheight(),
        "cascadefs beside its peers",
        fontsize=14,
        weight="bold",
        va="top",
    )
    canvas.text(
        0.012, 1 - 0.42 / canvas.get_figheight(), machine, color=QUIET, fontsize=9, va="top"
    )
    canvas.legend(
        handles=[
            Patch(color=MET, label="target met"),
            Patch(color=MISSED, label="target missed"),
            Line2D([], [], color=MARK, linewidth=2.2, label="target"),
        ],
        loc="upper right",
        ncols=3,
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(0.995, 1 - 0.06 / canvas.get_figheight()),
    )
    canvas.tight_layout(rect=(0, 0, 1, 1 - 0.65 / canvas.get_figheight()))
    canvas.savefig(path, metadata={"Software": None})
    plt.close(canvas)


def _times(value: float) -> str:
    return f"{value:,.0f}×" if value >= 10 else f"{value:.2g}×"  # noqa: RUF001


def _reference(figure: Figure) -> str:
    assert figure.target is not None
    name = figure.target.reference
    if name != "limit":
        return name
    return (
        f"({short(figure.values['cascadefs'])} {figure.unit}".strip() + f", {figure.target.text})"
    )
