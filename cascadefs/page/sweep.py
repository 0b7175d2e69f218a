"""A sweep of parameters as it stands: the last figure of each `NAME/loss` in a directory, the best and the worst lines of it."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cascadefs.client import Client

__all__ = ["Sweep"]

LINES_MAX: Final = 500
"""Looked at; a directory may hold more."""

SHOWN: Final = 5
"""The best, and as many of the worst."""

POINTS_MAX: Final = 80
"""Of a curve: the newest versions."""

LOSS_BYTES: Final = 64 * 1024
"""Read of a version: its end would do, and its beginning is what there is of a short one."""

REMEMBERED_MAX: Final = LINES_MAX * 4 + 2 * SHOWN * POINTS_MAX

_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Sweep:
    """Of one directory. For one thread at a time."""

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self.directory = directory
        self._losses: OrderedDict[tuple[str, int], float | None] = OrderedDict()
        """By path and version: what never changes is read once."""

    def look(self) -> dict[str, Any]:
        """The lines there are: how many, the best and the worst by their last figure, with a curve each.

        Raises:
            OSError: the directory is not there, or may not be read.
        """
        lines: list[tuple[float, str, Any]] = []
        entries = [one for one in self._client.list(self.directory) if one.is_directory]
        for entry in entries[:LINES_MAX]:
            path = f"{self.directory}/{entry.name}/loss".lstrip("/")
            try:
                found = self._client.stat(path)
            except OSError:
                continue
            loss = self._loss(path, found.version)
            if loss is not None:
                lines.append((loss, entry.name, found))
        lines.sort(key=lambda line: (line[0], line[1]))
        best = lines[:SHOWN]
        worst = lines[max(SHOWN, len(lines) - SHOWN) :][::-1]
        return {
            "directory": self.directory,
            "lines": len(lines),
            "left_out": max(0, len(entries) - LINES_MAX),
            "best": [self._line(*line) for line in best],
            "worst": [self._line(*line) for line in worst],
        }

    def _line(self, loss: float, name: str, found: Any) -> dict[str, Any]:
        path = f"{self.directory}/{name}/loss".lstrip("/")
        first = max(1, found.version - POINTS_MAX + 1)
        curve = [self._loss(path, number) for number in range(first, found.version + 1)]
        return {
            "name": name,
            "path": path,
            "loss": loss,
            "version": found.version,
            "timestamp": found.timestamp,
            "curve": [one for one in curve if one is not None],
        }

    def _loss(self, path: str, version: int) -> float | None:
        key = path, version
        if key not in self._losses:
            try:
                data = self._client.get(path, version=version, length=LOSS_BYTES)
            except OSError:
                data = b""
            self._losses[key] = figure(data)
            while len(self._losses) > REMEMBERED_MAX:
                self._losses.popitem(last=False)
        self._losses.move_to_end(key)
        return self._losses[key]


def figure(data: bytes) -> float | None:
    """The figure a file holds: `loss` of a JSON object, else the last number in its last line; None if there is none."""
    line = data.strip().rpartition(b"\n")[2]
    try:
        told = json.loads(line)
        value = told.get("loss") if isinstance(told, dict) else told
        found = float(value) if isinstance(value, int | float) else None
    except (ValueError, OverflowError, RecursionError):
        numbers = _NUMBER.findall(line)
        found = float(numbers[-1]) if numbers else None
    return found if found is not None and math.isfinite(found) else None
