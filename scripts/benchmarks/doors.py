"""The two doors beside file systems in C that keep no history: what a request costs, client and daemon on one processor and not.

A table of its own (docs/KERNEL_DOOR.md), because it is about requests and not about what users do: every row is one kind of
request, or of access that needs none. Ratios are times: the kernel door's over bindfs's, so less is better. On a disk in
memory (``--work /dev/shm``) nobody waits for one.

History: a version of `VERSION_BYTES`, so that it may be passed through; the others have a file of that size.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.peers import Bindfs, Cascade, Disk, PassthroughLl, Peer
from benchmarks.result import Sample, median, median_cpu_us
from benchmarks.table import short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.bench import Bench

__all__ = ["Row", "markdown", "measure"]

MIB = 2**20
VERSION_BYTES = 48 * MIB
HEAD_BYTES = 256 * MIB
CLIENTS = 16
PAUSE_SECONDS = 1.2
"""bindfs lets the kernel believe names and attributes for a second."""

WITHOUT_SYNCS = ["--sync-interval", "3600"]
"""What a disk would make of it is another table's."""


class KernelDoor(Cascade):
    """cascadefs through the kernel door."""

    name = "kernel"
    options: ClassVar[list[str]] = ["--door", "kernel", *WITHOUT_SYNCS]


class Pyfuse3Door(Cascade):
    """cascadefs through the pyfuse3 door."""

    name = "pyfuse3"
    options: ClassVar[list[str]] = ["--door", "pyfuse3", *WITHOUT_SYNCS]


COLUMNS = ("kernel", "pyfuse3", "bindfs", "passthrough_ll", "disk")


@dataclass(slots=True)
class Row:
    """A line of the table: microseconds an operation (or a MiB), and of the daemon's processor."""

    title: str
    at_most: float | None
    """The kernel door's time over that of bindfs that was asked for; None where nothing was."""

    values: dict[str, float]
    cpu_us: dict[str, float]
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The kernel door's time over that of bindfs."""
        return self.values["kernel"] / self.values["bindfs"]

    def to_json(self) -> dict[str, Any]:
        """All of it, plain."""
        return asdict(self) | {"ratio": self.ratio}


def measure(bench: Bench, processor: int | None) -> list[Row]:
    """All rows with everybody on one processor, or wherever the kernel likes."""
    bench = replace(bench, processor=processor, client=replace(bench.client, processor=processor))
    kinds: list[type[Peer]] = [KernelDoor, Pyfuse3Door, Bindfs]
    if PassthroughLl.is_there():
        kinds.append(PassthroughLl)
    kinds.append(Disk)
    with bench.started(*kinds) as peers:
        return [*_metadata(bench, peers), *_bytes(bench, peers)]


def _row(title: str, at_most: float | None, samples: dict[str, list[Sample]]) -> Row:
    return Row(
        title,
        at_most,
        {name: median(found) for name, found in samples.items()},
        {name: median_cpu_us(found) for name, found in samples.items() if name != "disk"},
        {name: [sample.value for sample in found] for name, found in samples.items()},
    )


def _metadata(bench: Bench, peers: list[Peer]) -> list[Row]:
    files, times = bench.sizes.create_files, bench.sizes.create_files * 5
    for peer in peers:
        (peer.root / "names").mkdir()
        bench.client.run("create", peer.root / "names", bench.sizes.list_entries, 0)
        (peer.root / "one").write_bytes(b"x" * 100)
    fresh = itertools.count()

    def rounds(call: Callable[[Peer, int], Sample]) -> dict[str, list[Sample]]:
        return bench.interleaved(peers, call)

    def getattr_by(clients: int) -> dict[str, list[Sample]]:
        return rounds(
            lambda peer, _: bench.operation(
                peer, "getattr", peer.root / "one", times // clients, clients
            )
        )

    removed: dict[str, list[Sample]] = {peer.name: [] for peer in peers}

    def create(peer: Peer, turn: int) -> Sample:
        directory = peer.root / f"round{turn}"
        directory.mkdir()
        made = bench.operation(peer, "create", directory, files, 4096)
        removed[peer.name].append(bench.operation(peer, "unlink", directory, files))
        return made

    created = rounds(create)

    again: dict[str, list[Sample]] = {peer.name: [] for peer in peers}

    def listed(peer: Peer, _: int) -> Sample:
        peer.remount()
        first = bench.operation(peer, "list", peer.root / "names", 1)
        time.sleep(PAUSE_SECONDS)
        again[peer.name].append(bench.operation(peer, "list", peer.root / "names", 1))
        return first

    first = rounds(listed)

    return [
        _row("getattr", 1.3, getattr_by(1)),
        _row(
            "look-up in vain",
            1.3,
            rounds(
                lambda peer, _: bench.operation(
                    peer, "lookup", peer.root, times, f"absent{next(fresh)}-"
                )
            ),
        ),
        _row(
            "open + close, reading",
            1.1,
            rounds(lambda peer, _: bench.operation(peer, "open", peer.root / "one", times)),
        ),
        _row("create + 4 KiB + close", 1.5, created),
        _row("unlink", 1.3, removed),
        _row(f"`ls -l` of {bench.sizes.list_entries:,}, first, an entry", 0.35, first),
        _row(f"`ls -l` of {bench.sizes.list_entries:,}, a second later, an entry", 0.35, again),
        _row(f"getattr, {CLIENTS} clients", 1.5, getattr_by(CLIENTS)),
    ]


def _bytes(bench: Bench, peers: list[Peer]) -> list[Row]:
    written: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    warm: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    cold = bench.interleaved(peers, lambda peer, _: _head(bench, peer, written, warm))
    parts: dict[str, dict[str, list[Sample]]] = {
        part: {peer.name: [] for peer in peers}
        for part in ("again", "direct", "fault", "fault again")
    }
    first = bench.interleaved(peers, lambda peer, _: _history(bench, peer, parts))
    return [
        _row("sequential write, a MiB", 0.6, written),
        _row("sequential read of a head, not known, a MiB", 0.4, cold),
        _row("sequential read of a head, known, a MiB", 0.4, warm),
        _row("sequential read of history, first, a MiB", 0.4, first),
        _row("sequential read of history, again, a MiB", 0.4, parts["again"]),
        _row("4 KiB O_DIRECT read of history", 0.25, parts["direct"]),
        _row("page fault in history, first", 0.6, parts["fault"]),
        _row("page fault in history, again", 0.6, parts["fault again"]),
    ]


def _head(
    bench: Bench, peer: Peer, written: dict[str, list[Sample]], warm: dict[str, list[Sample]]
) -> Sample:
    """Write a large file, and read it by a mount that has not seen it, and again."""
    big = peer.root / "big"
    big.unlink(missing_ok=True)
    written[peer.name].append(_per_mib(bench, peer, "write", big, HEAD_BYTES, MIB, 0))
    peer.remount()
    cold = _per_mib(bench, peer, "read", big, MIB)
    warm[peer.name].append(_per_mib(bench, peer, "read", big, MIB))
    big.unlink()
    return cold


def _history(bench: Bench, peer: Peer, parts: dict[str, dict[str, list[Sample]]]) -> Sample:
    """Read a version by a mount that has not seen it, again, at random and through a mapping."""
    path = _version(bench, peer)
    peer.remount()
    first = _per_mib(bench, peer, "read", path, MIB)
    parts["again"][peer.name].append(_per_mib(bench, peer, "read", path, MIB))
    direct = bench.operation(peer, "random", path, bench.sizes.create_files, 4096)
    parts["direct"][peer.name].append(direct)
    peer.remount()  # no page of it is known
    for part in ("fault", "fault again"):
        parts[part][peer.name].append(bench.operation(peer, "fault", path))
    return first


def _version(bench: Bench, peer: Peer) -> Path:
    """The path of a version (elsewhere a file) of `VERSION_BYTES`."""
    path = peer.root / "version"
    if not path.exists():
        bench.client.run("write", path, VERSION_BYTES, MIB, 0)
        if isinstance(peer, Cascade):
            path.write_bytes(b"later")
    return path.with_name("version@v1") if isinstance(peer, Cascade) else path


def _per_mib(bench: Bench, peer: Peer, operation: str, *arguments: object) -> Sample:
    cpu = peer.cpu_ns()
    answer = bench.client.run(operation, *arguments)
    cpu = peer.cpu_ns() - cpu
    mib = answer["count"] / MIB
    return Sample(answer["seconds"] * 1e6 / mib, cpu / 1000 / mib)


def markdown(rows: list[Row]) -> str:
    """The table. In brackets the daemon's processor time."""
    head = ("us", *COLUMNS, "kernel / bindfs", "asked", "met?")
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * len(COLUMNS) + "|--:|--:|---|"]
    for row in rows:
        cells = [_cell(row, name) for name in COLUMNS]
        met = "" if row.at_most is None else "yes" if row.ratio <= row.at_most else "**no**"
        asked = "" if row.at_most is None else f"≤ {row.at_most:g}"
        lines.append("| " + " | ".join((row.title, *cells, short(row.ratio), asked, met)) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str) -> str:
    if name not in row.values:
        return ""
    cpu = row.cpu_us.get(name)
    return short(row.values[name]) + (f" ({short(cpu)})" if cpu is not None else "")
