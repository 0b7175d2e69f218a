"""From a put to the first line of a handler: how long it takes, and how many of the changes arrive at all.

Four questions to everybody, in one run, in turns:

    wait        one put, then wait until its handler has begun: median and 99th percentile, from before the put
    synced      the same with fsync in the put, of who can have a put on the disk when it returns
    burst       100 quick overwrites of one name: how many times is the handler called (an inotify watcher is told
                that something changed, not how often)
    creates     1,000 new names put as fast as possible: for how many of them the handler is called, and how many a
                second until the last one has begun, one worker

For cascadefs the handler is Python in a sandboxed worker and appends its clock to a file, so its rate holds a second
commit for each event. Sources: docs/TRIGGERS.md 13; `watchers` for the others and their settings.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from benchmarks import peers, watchers
from benchmarks.watchers import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["CascadeWithScripts", "Mounted", "Row", "markdown", "measure", "watchers"]

BURST = 100
CREATES = 1000
WARM = 5
"""Puts that are not counted."""

QUIET_SECONDS = 1.5
"""Without a call after which no more is expected."""


HANDLER = """
from cascadefs.triggers import watch
import time

@watch("files/*", order="none", concurrency=1)
def bench(event, ctx):
    now = time.monotonic_ns()
    ctx.append("calls", f"{event.name} {now}\\n")
"""


class CascadeWithScripts(peers.Cascade):
    """A mount with triggers."""

    options: ClassVar[list[str]] = ["--triggers", "root" if os.geteuid() == 0 else "owner"]


class Mounted(Watcher):
    """cascadefs: a mount, and a script in it."""

    name = "cascadefs"

    def __init__(self, directory: Path) -> None:
        """See `Watcher`."""
        super().__init__(directory)
        self._mount = CascadeWithScripts(directory / "cascadefs")
        self._calls = -1

    def start(self) -> None:
        """See `Watcher`."""
        self._mount.start()
        base = self._mount.root / "bench"
        self.files = base / "files"
        self.files.mkdir(parents=True)
        (base / ".cascade/watch").mkdir(parents=True)
        (base / "calls").touch()
        (base / ".cascade/watch/bench.py").write_text(HANDLER)
        while "active" not in (base / ".cascade/status").read_text():
            time.sleep(0.05)
        self._calls = os.open(base / "calls", os.O_RDONLY)

    def seen(self, count: int, wait_s: float) -> list[tuple[str, int]]:
        """See `Watcher`."""
        return self.read(lambda: os.read(self._calls, 65536), count, wait_s)

    def stop(self) -> None:
        """See `Watcher`."""
        if self._calls >= 0:
            os.close(self._calls)
        self._mount.stop()


class Row(NamedTuple):
    """One peer."""

    name: str
    p50_us: float
    p99_us: float
    synced_p50_us: float | None
    """None: it cannot be had."""

    burst: float
    """Handler calls for 100 overwrites."""

    creates: float
    """Names out of 1,000 new ones for which the handler was called."""

    per_second: float
    samples: int

    def to_json(self) -> dict[str, object]:
        """All of it, plain."""
        return self._asdict()


class _Samples:
    def __init__(self) -> None:
        self.waits_us: list[float] = []
        self.synced_us: list[float] = []
        self.bursts: list[int] = []
        self.creates: list[int] = []
        self.rates: list[float] = []


def measure(
    work: Path,
    peers: list[type[Watcher]],
    rounds: int,
    puts: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Rows of the peers that are installed; the rest is said. Each is started once a round, and gone after it."""
    there = []
    for peer in peers:
        missing = peer.missing()
        if missing:
            say(f"{peer.name} is left out: {', '.join(missing)} not installed")
        else:
            there.append((peer, _Samples()))
    for number in range(rounds):
        for peer, samples in there:
            say(f"round {number + 1}: {peer.name}")
            one = peer(work / f"{peer.__name__.lower()}-{number}")
            try:
                one.start()
                _ask(one, samples, puts)
            except Exception as error:
                say(f"{peer.name}: {type(error).__name__}: {error}")
            finally:
                with contextlib.suppress(OSError):
                    one.stop()
    return [_row(peer.name, samples) for peer, samples in there if samples.waits_us]


def _ask(peer: Watcher, samples: _Samples, puts: int) -> None:
    samples.waits_us += _waits_us(peer, "wait", puts)
    if peer.can_sync:
        samples.synced_us += _waits_us(peer, "synced", puts // 2, sync=True)
    peer.seen(1 << 30, 0.3)  # what is told twice
    for number in range(BURST):
        peer.put("burst", b"%d" % number)
    samples.bursts.append(sum(name == "burst" for name, _ in peer.seen(1 << 30, QUIET_SECONDS)))
    started_ns = time.monotonic_ns()
    for number in range(CREATES):
        peer.put(f"rate{number}")
    calls = peer.seen(1 << 30, QUIET_SECONDS)
    last = {name: at_ns for name, at_ns in calls if name.startswith("rate")}
    samples.creates.append(len(last))
    if last:
        samples.rates.append(len(last) / (max(last.values()) - started_ns) * 1e9)


def _waits_us(peer: Watcher, stem: str, puts: int, *, sync: bool = False) -> list[float]:
    """From before each put to the first line of its handler."""
    found = []
    for number in range(puts + WARM):
        name = f"{stem}{number}"
        started_ns = time.monotonic_ns()
        peer.put(name, sync=sync)
        while True:
            calls = peer.seen(1, QUIET_SECONDS)
            if not calls:
                raise RuntimeError(f"nothing arrived for {name}")
            if calls[0][0] == name:
                break
        found.append((calls[0][1] - started_ns) / 1000)
    return found[WARM:]


def _row(name: str, samples: _Samples) -> Row:
    waits = sorted(samples.waits_us)
    return Row(
        name,
        statistics.median(waits),
        waits[int(len(waits) * 0.99)],
        statistics.median(samples.synced_us) if samples.synced_us else None,
        statistics.median(samples.bursts) if samples.bursts else 0,
        statistics.median(samples.creates) if samples.creates else 0,
        statistics.median(samples.rates) if samples.rates else 0,
        len(waits),
    )


def markdown(rows: list[Row]) -> str:
    """The table for people."""
    lines = [
        "| | put to handler, median | 99 % | put with fsync, median | calls for 100 overwrites | names seen of 1,000 creates"
        " | events a second |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        synced = "" if row.synced_p50_us is None else f"{row.synced_p50_us / 1000:.2f} ms"
        lines.append(
            f"| {row.name} | {row.p50_us / 1000:.2f} ms | {row.p99_us / 1000:.2f} ms | {synced}"
            f" | {row.burst:.0f} | {row.creates:,.0f} | {row.per_second:,.0f} |"
        )
    return "\n".join(lines)
