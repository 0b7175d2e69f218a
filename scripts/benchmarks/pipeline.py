"""What triggers cost and carry: events a second of a backlog, a chain of three stages, and what a write pays for them.

    noop, effect    a backlog of one binding, one worker: events done a second, each committed; `effect` writes a file
    chain           a put until the third of three handlers has its output committed, one at a time
    write           open, write, close of a file that no pattern matches, on mounts side by side and in turns: with
                    triggers and no script, with 1,000 bindings, and with a handler that sleeps, fails or spins while
                    its events wait

Sources: docs/TRIGGERS.md 4, 13.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.triggers import CascadeWithScripts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["markdown", "measure"]

POLL_SECONDS = 0.02
WARM = 20

HEAD = "from cascadefs.triggers import watch\nimport time\n"

BACKLOG = """
@watch("noop/*", order="none", concurrency=1)
def noop(event, ctx):
    pass

@watch("effect/*", emit="made/", order="none", concurrency=1)
def effect(event, ctx):
    ctx.emit(event.name, event.data)
"""

CHAIN = "".join(
    f"""
@watch("{source}/*", emit="{target}/")
def {target}(event, ctx):
    ctx.emit(event.name, event.data)
"""
    for source, target in (("in", "one"), ("one", "two"), ("two", "three"))
)

MANY = "".join(
    f'@watch("d{number}/*")\ndef h{number}(event, ctx):\n    pass\n' for number in range(1000)
)

TROUBLES = {
    "a handler that sleeps": "time.sleep(3600)",
    "a handler that fails": 'raise ValueError("no")',
    "a handler that spins": "while True: pass",
}


class _Base:
    """A mount with one script."""

    def __init__(self, directory: Path, script: str) -> None:
        self._mount = CascadeWithScripts(directory)
        self._mount.start()
        self.path = self._mount.root / "base"
        (self.path / ".cascade/watch").mkdir(parents=True)
        (self.path / "free").mkdir()
        if script:
            (self.path / ".cascade/watch/bench.py").write_text(HEAD + script)
            while not self.bindings():
                time.sleep(POLL_SECONDS)

    def bindings(self) -> dict[str, dict[str, Any]]:
        status = json.loads((self.path / ".cascade/status.json").read_bytes())
        return {
            one["name"].partition(":")[2]: one
            for base in status["bases"]
            for one in base["bindings"]
        }

    def command(self, line: str) -> None:
        with (self.path / ".cascade/ctl").open("wb", buffering=0) as control:
            control.write(line.encode() + b"\n")

    def put(self, name: str) -> None:
        (self.path / name).write_bytes(b"x")

    def wait_done(self, binding: str, count: int) -> None:
        while self.bindings()[binding]["done"] < count:
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        self._mount.stop()


def measure(work: Path, puts: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """(what, figure) each."""
    say("pipeline: backlog")
    rows = _backlog(work / "backlog", puts * 10)
    say("pipeline: chain")
    rows += _chain(work / "chain", puts)
    say("pipeline: what a write pays")
    return rows + _writes(work, puts * 5)


def _backlog(directory: Path, events: int) -> list[tuple[str, str]]:
    base = _Base(directory, BACKLOG)
    try:
        rows = []
        for name, said in (("noop", "does nothing"), ("effect", "writes a file")):
            (base.path / name).mkdir()
            for number in range(WARM):
                base.put(f"{name}/warm{number}")
            base.wait_done(name, WARM)
            base.command(f"pause bench.py:{name}")
            for number in range(events):
                base.put(f"{name}/{number}")
            started_ns = time.monotonic_ns()
            base.command(f"resume bench.py:{name}")
            base.wait_done(name, WARM + events)
            rate = events / (time.monotonic_ns() - started_ns) * 1e9
            rows.append((f"a backlog, one worker, handler {said}", f"{rate:,.0f} events a second"))
        return rows
    finally:
        base.stop()


def _chain(directory: Path, puts: int) -> list[tuple[str, str]]:
    base = _Base(directory, CHAIN)
    try:
        (base.path / "in").mkdir()
        waits_ms = []
        for number in range(puts + WARM):
            started_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            base.put(f"in/{number}")
            while True:
                try:
                    ended_ns = (base.path / f"three/{number}").stat().st_ctime_ns
                    break
                except FileNotFoundError:
                    time.sleep(0.001)
            if number >= WARM:
                waits_ms.append((ended_ns - started_ns) / 1e6)
        waits_ms.sort()
        said = f"{statistics.median(waits_ms):.2f} ms, 99 % {waits_ms[int(len(waits_ms) * 0.99)]:.1f} ms"
        return [("three stages, from before the put to the last commit, median", said)]
    finally:
        base.stop()


def _writes(work: Path, puts: int) -> list[tuple[str, str]]:
    scripts = {"no script": "", "1,000 bindings": MANY} | {
        said: f'@watch("bad/*", order="none", concurrency=1, backoff="10ms", timeout="1h")\ndef bad(event, ctx):\n    {body}\n'
        for said, body in TROUBLES.items()
    }
    rows = []
    plain = _Base(work / "write", "")
    try:
        for number, (said, script) in enumerate(scripts.items()):
            if script:
                rows.append(
                    (f"a write beside {said}", _beside(plain, work / f"w{number}", script, puts))
                )
        return rows
    finally:
        plain.stop()


def _beside(plain: _Base, directory: Path, script: str, puts: int) -> str:
    other = _Base(directory, script)
    try:
        if "bad/*" in script:
            (other.path / "bad").mkdir()
            for number in range(200):
                other.put(f"bad/{number}")
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(puts + WARM):
            for base, found in zip((plain, other), samples, strict=True):
                started_ns = time.monotonic_ns()
                base.put(f"free/{number}")
                found.append((time.monotonic_ns() - started_ns) / 1000)
        before, after = (statistics.median(found[WARM:]) for found in samples)
        return f"{after:.0f} us, without any script {before:.0f} us"
    finally:
        other.stop()


def markdown(rows: list[tuple[str, str]]) -> str:
    """The table for people."""
    return "\n".join(["| | |", "|---|---:|", *(f"| {what} | {figure} |" for what, figure in rows)])
