"""What the pipelines of docs/examples take, from a frame's commit until what follows from it is committed, and how many they carry.

    dairy           frames at a steady pace: frame to health record, and how much of that is no handler's time
    intersection    likewise: frame to forecast, which is when a warning is committed if there is one
    crossings       frames a second of one crossing, and of two side by side, as fast as they are written

Times are those of the versions, and durations those of provenance: nothing is added to the scripts for it. A handler's time
is from when its worker has the run to its end, so it holds what the handler reads. Sources: docs/ML.md, "Pipelines".
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.triggers import CascadeWithScripts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["markdown", "measure"]

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
DAIRY_SECONDS, CROSSING_SECONDS = 0.2, 0.1
"""Between two frames."""

WARM = 10
ROUNDS = 7


class Took(NamedTuple):
    """Of one result, in milliseconds: since the first cause was committed, and of that in handlers."""

    total_ms: float
    handlers_ms: float


def measure(work: Path, frames: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """(what, figure) each."""
    sys.path.append(str(EXAMPLES))
    say("examples: dairy")
    rows = _latency("frame to health record", _dairy(work / "dairy", frames))
    say("examples: intersection")
    rows += _latency("frame to forecast", _crossing(work / "intersection"))
    say("examples: crossings")
    one, two = _rates(work / "crossings")
    return [
        *rows,
        ("one crossing", f"{one:.0f} frames/s"),
        ("two crossings", f"{two:.0f} frames/s, {two / one:.2f} times one"),
    ]


def _latency(what: str, found: list[Took]) -> list[tuple[str, str]]:
    totals = sorted(one.total_ms for one in found[WARM:])
    others = [one.total_ms - one.handlers_ms for one in found[WARM:]]
    p99 = totals[int(len(totals) * 0.99)]
    return [
        (what, f"median {statistics.median(totals):.1f} ms, 99 % {p99:.1f} ms"),
        (f"{what}, without handlers", f"median {statistics.median(others):.1f} ms"),
    ]


def _dairy(directory: Path, frames: int) -> list[Took]:
    mount, stage, farm = _started(directory, "dairy", "farm")
    try:
        (stage.path / "models").mkdir()
        (stage.path / "frames").mkdir()
        cows = farm.Farm()
        (stage.path / "models/identify.npz").write_bytes(cows.model())
        (stage.path / "milk.csv").write_text(cows.milk())
        for number in range(frames):
            (stage.path / f"frames/{number:06}.npy").write_bytes(cows.shot().frame)
            time.sleep(DAIRY_SECONDS)
        stage.wait_done("filter_empty", frames)
        stage.wait_done("identify", len(stage.files("cows-seen/*")))
        stage.wait_done("mastitis", sum(map(stage.count, stage.files("cows/*/frame.npy"))))
        return _all_took(stage, "health/*.json")
    finally:
        mount.stop()


def _crossing(directory: Path) -> list[Took]:
    mount, stage, street = _started(directory, "intersection", "street")
    try:
        _film(stage, street, ["0"], CROSSING_SECONDS)
        return _all_took(stage, "forecasts/*.json")
    finally:
        mount.stop()


def _rates(directory: Path) -> tuple[float, float]:
    """Frames a second of one crossing and of two, in turns."""
    mount, stage, street = _started(directory, "intersection", "street")
    rates: tuple[list[float], list[float]] = ([], [])
    try:
        _film(stage, street, ["warm"], 0)
        for number in range(ROUNDS):
            for count, found in enumerate(rates, 1):
                started = time.perf_counter()
                _film(stage, street, [f"{number}-{count}-{one}" for one in range(count)], 0)
                found.append(count * street.FRAMES / (time.perf_counter() - started))
        one, two = map(statistics.median, rates)
        return one, two
    finally:
        mount.stop()


def _film(stage: Any, street: Any, crossings: list[str], seconds: float) -> None:
    scenes = {one: street.Scene(seed) for seed, one in enumerate(crossings)}
    for one in crossings:
        (stage.path / "cam" / one).mkdir(parents=True)
    for number in range(street.FRAMES):
        for one, scene in scenes.items():
            (stage.path / f"cam/{one}/frame.npy").write_bytes(scene.frame(number))
        time.sleep(seconds)
    stage.wait_done("collision", len(stage.files("cam/*")) * street.FRAMES)
    stage.wait_done("trajectory", sum(map(stage.count, stage.files("tracks/*/*.json"))))


def _started(directory: Path, example: str, module: str) -> tuple[Any, Any, Any]:
    """A mount, the example on it, and the module that makes its data."""
    stage = importlib.import_module("stage")
    for name in [name for name in sys.modules if name.partition(".")[0] == "watch"]:
        del sys.modules[name]  # another example's
    sys.path.insert(0, str(EXAMPLES / example))
    try:
        source = importlib.import_module(module)
    finally:
        del sys.path[0]
    mount = CascadeWithScripts(directory)
    mount.start()
    try:
        return mount, stage.Stage(mount.root, EXAMPLES / example), source
    except BaseException:
        mount.stop()
        raise


def _all_took(stage: Any, results: str) -> list[Took]:
    paths = [
        stage.path / f"{path}@v{number}"
        for path in stage.files(results)
        for number in range(1, 1 + stage.count(path))
    ]
    return [_took(stage.path, path) for path in sorted(paths, key=_committed_ns)]


def _took(base: Path, result: Path) -> Took:
    """Follow the first cause of each run down to what a program wrote."""
    source, handlers_ms = result, 0.0
    while True:
        try:
            made = json.loads(os.getxattr(source, "user.cascade.from"))
        except OSError:  # no run made it
            return Took((_committed_ns(result) - _committed_ns(source)) / 1e6, handlers_ms)
        handlers_ms += made["duration_ns"] / 1e6
        source = base / made["triggers"][0]


def _committed_ns(path: Path) -> int:
    return path.stat().st_ctime_ns


def markdown(rows: list[tuple[str, str]]) -> str:
    """The table for people."""
    return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {figure} |" for what, figure in rows)])
