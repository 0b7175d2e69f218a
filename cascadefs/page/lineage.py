"""Where a version comes from: the runs and the versions behind it, as a graph. It asks one question a version, of a few dozen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Graph", "graph_of"]

VERSIONS_MAX: Final = 60
"""Shown at most; the nearest."""

INPUTS_MAX: Final = 12
"""Shown of one run."""


class Graph(NamedTuple):
    """Nodes are versions (`path@vN`) and runs; edges go from what was read to the run, and from the run to what it made."""

    target: str
    versions: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    edges: list[tuple[str, str, str]]
    """From, to, and how: "trigger", "read" or "wrote"."""

    left_out: int
    """Inputs that are not shown."""


def graph_of(
    why: Callable[[str, int | None], tuple[Any, dict[str, Any] | None]],
    path: str,
    version: int | None,
) -> Graph:
    """What is behind a version.

    Args:
        why: as `Client.why`, by path and number.
        path: of the file.
        version: its number; None: the newest.

    Raises:
        OSError: the version itself may not be read, or is not there.
    """
    first, run = why(path, version)
    target = f"{path}@v{first.number}"
    graph = Graph(target, {}, {}, [], 0)
    versions, runs, left_out = graph.versions, graph.runs, 0
    versions[target] = _shown(path, first.number, first.timestamp, first.size, known=True)
    waiting = deque([(target, run)])
    while waiting:
        name, run = waiting.popleft()
        if run is None:
            continue
        key = f"run {run['run']}"
        graph.edges.append((key, name, "wrote"))
        if key in runs:
            continue
        runs[key] = _run(run)
        triggers = list(run["triggers"])
        inputs = dict.fromkeys([*triggers, *run.get("reads", [])])
        shown = [one for one in inputs if not one.endswith("@v0")][:INPUTS_MAX]
        left_out += len(inputs) - len(shown) + run.get("left_out", 0)
        for reference in shown:
            source, number = _parsed(run["base"], reference)
            if source is None:
                continue
            below = f"{source}@v{number}"
            graph.edges.append((below, key, "trigger" if reference in triggers else "read"))
            if below in versions:
                continue
            if len(versions) >= VERSIONS_MAX:
                graph.edges.pop()
                left_out += 1
                continue
            versions[below] = _shown(source, number, 0, 0, known=False)
            try:
                found, before = why(source, number)
            except OSError:  # Let go, or not for this user.
                continue
            versions[below] = _shown(source, number, found.timestamp, found.size, known=True)
            waiting.append((below, before))
    return graph._replace(left_out=left_out)


def _shown(path: str, number: int, timestamp: int, size: int, *, known: bool) -> dict[str, Any]:
    return {"path": path, "version": number, "timestamp": timestamp, "size": size, "known": known}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "binding": run["binding"],
        "base": run["base"],
        "script": run["script"],
        "script_id": run["script_id"][:8],
        "attempt": run["attempt"],
        "hops": run["hops"],
        "node": run.get("node", ""),
        "duration_ms": round(run.get("duration_ns", 0) / 1e6, 1),
    }


def _parsed(base: str, reference: str) -> tuple[str | None, int]:
    """Path from the root, and number, of `path@vN` or `path@vN@latest`; None if it is neither."""
    path, _, number = reference.removesuffix("@latest").rpartition("@v")
    if not path or not number.isdecimal():
        return None, 0
    return (f"{base}/{path}" if base else path), int(number)
