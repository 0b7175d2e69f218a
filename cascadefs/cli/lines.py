"""The lines of a sweep, and what a mount costs, as rows of text for the board; and the end of one line.

A sweep is a directory whose subdirectories are lines, each with a file `loss` that is written again and again (`cascadefs.page.sweep`).
A line is ended by a file `stopped` in it, which its handlers are to heed, and by the end of its runs that are under way.

Source: docs/TRIGGERS.md 11; docs/ML.md, "Pipelines".
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import plain
from cascadefs.page.prices import Prices, Used
from cascadefs.page.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cascadefs.client import Client

__all__ = ["HEADINGS", "Cost", "Lines", "spark"]

HEADINGS: Final = ("line", "", "loss", "versions", "curve")
BARS: Final = "▁▂▃▄▅▆▇█"
CURVE_COLUMNS: Final = 40


class Lines:
    """Of one sweep."""

    def __init__(self, client: Client, root: Path, directory: str) -> None:
        """Nothing is looked at.

        Args:
            client: of the mount; the caller's, who closes it.
            root: where it is mounted.
            directory: of the sweep, from there.
        """
        self._sweep = Sweep(client, directory)
        self._path = root / directory

    def rows(self) -> dict[str, tuple[str, ...]]:
        """The five best lines and the five worst, by their last loss: a cell for each of `HEADINGS`.

        Raises:
            Complaint: the directory cannot be looked at.
        """
        try:
            found = self._sweep.look()
        except OSError as error:
            raise Complaint(f"{self._path}: {error.strerror or error}") from error
        told = [(one, "best") for one in found["best"]] + [(one, "worst") for one in found["worst"]]
        return {
            one["name"]: (
                plain(one["name"]), "stopped" if (self._path / one["name"] / "stopped").exists() else which,
                f"{one['loss']:.4g}", str(one["version"]), spark(one["curve"]),
            )
            for one, which in told
        }  # fmt: skip

    def runs_of(self, line: str, running: Sequence[dict[str, Any]]) -> list[str]:
        """Which of the runs under way are this line's."""
        below = f"{self._sweep.directory}/{line}/"
        return [
            one["run"]
            for one in running
            if any(f"{one['base']}/{path}".lstrip("/").startswith(below) for path in one["paths"])
        ]

    def stop(self, line: str) -> None:
        """Say to the handlers of a line that it is to end.

        Raises:
            Complaint: it cannot be written.
        """
        try:
            (self._path / line / "stopped").write_text("by hand\n")
        except OSError as error:
            raise Complaint(f"{self._path / line}/stopped: {error.strerror}") from error


class Cost:
    """What a mount costs at a moment, by a table of prices."""

    def __init__(self, prices: Prices, root: Path) -> None:
        self._prices = prices
        self._root = root

    def text(self) -> str:
        """Of a second in all, and of an hour by parts."""
        whole = json.loads((self._root / ".cascade/status").read_bytes())
        triggers = whole.get("triggers", {})
        used = Used(
            runs=len(triggers.get("running", [])),
            memory_bytes=sum(triggers.get("workers", {}).get("memory", {}).values()),
            disk_bytes=whole.get("store", {}).get("log_bytes", 0),
        )
        parts, currency = self._prices.per_second(used), self._prices.currency
        said = ", ".join(f"{name} {amount * 3600:.4g}" for name, amount in parts.items())
        return f"{sum(parts.values()):.3g} {currency} a second; an hour: {said} {currency}"


def spark(curve: Sequence[float]) -> str:
    """A curve as a row of bars, on a logarithmic scale if all of it is above zero."""
    shown = curve[-CURVE_COLUMNS:]
    if not shown:
        return ""
    values = [math.log(one) for one in shown] if min(shown) > 0 else list(shown)
    low, high = min(values), max(values)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((one - low) / step)] for one in values)
