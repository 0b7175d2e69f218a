"""What is measured: one function an experiment, its figures in the order of the table.

Every experiment starts from empty peers and checks that what it times has happened (files complete, versions kept).
Samples are interleaved; where a peer could answer from what an earlier round left in memory, it is mounted anew.
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from benchmarks import machine, stores
from benchmarks.bench import Bench, against, in_rate
from benchmarks.peers import Bindfs, Cascade, Disk, Peer, difference
from benchmarks.result import Figure, Sample, Target, median

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["EXPERIMENTS", "chosen"]

MIB = 2**20
BLOCK_BYTES = MIB
"""Of sequential reads and writes: what cp and most programs that care use, or more."""

ALL = (Cascade, Bindfs, Disk)


def sequential(bench: Bench) -> list[Figure]:
    """A big file from front to back: written, read with nothing in memory, read again."""
    size = bench.sizes.file_bytes
    gib = f"{size / 2**30:g} GiB"

    with bench.started(*ALL) as peers:

        def write(peer: Peer, _: int, synced: int = 0) -> Sample:
            big = peer.root / "big"
            big.unlink(missing_ok=True)
            os.sync()
            sample = bench.throughput(peer, "write", big, size, BLOCK_BYTES, synced)
            assert big.stat().st_size == size
            return sample

        written = bench.interleaved(peers, write)
        synced = bench.interleaved(
            peers, lambda peer, turn: write(peer, turn, 1), min(2, bench.rounds)
        )
        warm: dict[str, list[Sample]] = {peer.name: [] for peer in peers}

        def read(peer: Peer, _: int) -> Sample:
            peer.remount(cold=True)
            cold = bench.throughput(peer, "read", peer.root / "big", BLOCK_BYTES)
            warm[peer.name].append(bench.throughput(peer, "read", peer.root / "big", BLOCK_BYTES))
            return cold

        cold = bench.interleaved(peers, read)

    def figure(
        key: str, title: str, samples: dict[str, list[Sample]], target: Target | None
    ) -> Figure:
        return against(
            f"sequential.{key}", f"{title}, {gib}", "MB/s", samples, target, higher_is_better=True
        )

    eight_tenths = Target("bindfs", 0.8, "≥ 0.8 x bindfs")
    return [
        figure("write", "sequential write", written, eight_tenths),
        figure("write-synced", "sequential write + fsync", synced, None),
        figure("read-cold", "sequential read, cold", cold, eight_tenths),
        figure("read-warm", "sequential read, warm", warm, Target("disk", 0.9, "≥ 0.9 x disk")),
    ]


def stat(bench: Bench) -> list[Figure]:
    """Files the kernel knows: nobody should be asked."""
    sizes = bench.sizes
    with bench.started(*ALL) as peers:
        for peer in peers:
            bench.client.run("create", peer.root, sizes.stat_files, 0)
        samples = bench.interleaved(
            peers,
            lambda peer, _: bench.operation(
                peer, "stat", peer.root, sizes.stat_files, sizes.stat_rounds
            ),
        )
    title = f"stat of {sizes.stat_files:,} known files"
    return [against("stat.known", title, "us", samples, Target("disk", 0.8, "≥ 0.8 x disk"))]


def listing(bench: Bench) -> list[Figure]:
    """``ls -l`` of a large directory by a mount that was just made, and then again."""
    entries = bench.sizes.list_entries
    again: dict[str, list[Sample]] = {}
    plain: dict[str, list[Sample]] = {}
    asked: dict[str, int] = {}
    asked_plainly: dict[str, int] = {}
    with bench.started(*ALL) as peers:
        for peer in peers:
            (peer.root / "directory").mkdir()
            bench.client.run("create", peer.root / "directory", entries, 0)
            again[peer.name], plain[peer.name] = [], []

        def list_it(peer: Peer, _: int) -> Sample:
            peer.remount()
            with _requests(peer, asked):
                first = _run_ls(peer, entries)
            again[peer.name].append(_run_ls(peer, entries))
            peer.remount()
            with _requests(peer, asked_plainly):
                sample = bench.operation(peer, "list", peer.root / "directory", 1)
            plain[peer.name].append(sample)
            return first

        first = bench.interleaved(peers, list_it)
    target = Target("bindfs", 1.0, "not slower than bindfs")

    def requests(key: str, title: str, asked: dict[str, int]) -> Figure:
        names = sorted(asked, key=asked.__getitem__)
        note = ", ".join(f"{name} {asked[name]:,}" for name in names)
        rare = Target("limit", 1.0, "< 0.1")
        value = sum(asked.values()) / entries
        return _single(f"list.{key}", title, "", value, rare, 0.1, note)

    return [
        against("list.first", f"ls -l, first, an entry of {entries:,}", "us", first, target),
        against("list.again", "ls -l, again, an entry", "us", again, target),
        against("list.stat", "readdir + lstat, first, an entry", "us", plain, target),
        requests("requests", "requests of ls -l, an entry", asked),
        requests("requests-stat", "requests of readdir + lstat, an entry", asked_plainly),
    ]


def _run_ls(peer: Peer, entries: int) -> Sample:
    """The ordinary program; microseconds an entry."""
    directory = peer.root / "directory"
    cpu, begin = peer.cpu_ns(), time.perf_counter()
    done = subprocess.run(
        ["ls", "-l", directory], check=True, stdout=subprocess.PIPE, env={"LC_ALL": "C"}
    )
    seconds = time.perf_counter() - begin
    cpu = peer.cpu_ns() - cpu
    assert done.stdout.count(b"\n") == entries + 1
    return Sample(seconds / entries * 1e6, cpu / entries / 1000)


@contextlib.contextmanager
def _requests(peer: Peer, counts: dict[str, int]) -> Iterator[None]:
    """Fill in the requests by opcode that cascadefs gets meanwhile, the asking for them left out."""
    if not isinstance(peer, Cascade):
        yield
        return
    asking, before = peer.asking(), peer.requests()
    yield
    asked = difference(peer.requests(), before)
    counts.update({name: count - asking.get(name, 0) for name, count in asked.items()})
    for name in [name for name, count in counts.items() if count <= 0]:
        del counts[name]


@contextlib.contextmanager
def _versions_kept(peer: Peer, expected: int) -> Iterator[None]:
    """Check that so many versions were committed meanwhile."""
    before = peer.status()["versions_committed"] if isinstance(peer, Cascade) else 0
    yield
    if isinstance(peer, Cascade):
        kept = peer.status()["versions_committed"] - before
        assert kept == expected, f"{kept} versions were kept of {expected}"


def create(bench: Bench) -> list[Figure]:
    """New small files, a version each."""
    files = bench.sizes.create_files
    with bench.started(*ALL) as peers:

        def make(peer: Peer, turn: int) -> Sample:
            directory = peer.root / f"round{turn}"
            directory.mkdir()
            with _versions_kept(peer, files):
                return bench.operation(peer, "create", directory, files, 4096)

        samples = in_rate(bench.interleaved(peers, make))
    target = Target("bindfs", 0.25, "≥ 0.25 x bindfs")
    title = "create + 4 KiB + close, versions kept"
    return [against("create.4k", title, "/s", samples, target, higher_is_better=True)]


def append(bench: Bench) -> list[Figure]:
    """Append, close, keep: on one file, and with fsync by one writer and by eight."""
    sizes = bench.sizes
    with bench.started(*ALL) as peers:

        def measure(writers: int, times: int, synced: int) -> dict[str, list[Sample]]:
            def turn(peer: Peer, number: int) -> Sample:
                directory = peer.root / f"{writers}-{synced}-{number}"
                directory.mkdir()
                bench.client.run("append", directory, writers, 1, 100, 0)
                with _versions_kept(peer, writers * times):
                    return bench.operation(peer, "append", directory, writers, times, 100, synced)

            return in_rate(bench.interleaved(peers, turn))

        plain = measure(1, sizes.appends, 0)
        one = measure(1, sizes.synced_appends, 1)
        eight = measure(8, sizes.synced_appends // 4, 1)
        cascade = peers[0]
        assert isinstance(cascade, Cascade)
        counted = {
            writers: _syncs(bench, cascade, writers, sizes.synced_appends // writers)
            for writers in (1, 8)
        }

    def figure(
        key: str, title: str, samples: dict[str, list[Sample]], target: Target, note: str = ""
    ) -> Figure:
        return against(
            f"append.{key}", title, "/s", samples, target, higher_is_better=True, note=note
        )

    figures = [
        figure(
            "close",
            "append + close, versions kept",
            plain,
            Target("limit", 1.0, "≥ 1,500 /s"),
        ),
        figure(
            "fsync",
            "append + fsync + close",
            one,
            Target("disk", 1.0, "as many as the disk"),
            counted[1],
        ),
        figure(
            "fsync-8",
            "append + fsync + close, 8 writers",
            eight,
            Target("one writer", 1.0, "more than 1 writer"),
            counted[8],
        ),
    ]
    figures[0].reference = 1500.0
    figures[2].reference = median(one["cascadefs"])
    return figures


def _syncs(bench: Bench, peer: Cascade, writers: int, times: int) -> str:
    """How many syncs of the disk so many synced appends need; by perf, in a run that is not timed."""
    directory = peer.root / f"counted-{writers}"
    directory.mkdir()
    before = peer.status()["store"].get("syncs")
    counter = _perf(peer.pid) if before is None else None
    bench.client.run("append", directory, writers, times, 100, 1)
    after = peer.status()["store"].get("syncs")
    count = after - before if before is not None else _counted(counter)
    return "" if count is None else f"{writers * times:,} appends, {count:,} syncs"


def _perf(pid: int | None) -> subprocess.Popen[str] | None:
    events = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"
    try:
        counter = subprocess.Popen(
            ["perf", "stat", "-x,", "-e", events, "-p", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        return None
    time.sleep(0.3)  # until it is attached
    return counter


def _counted(counter: subprocess.Popen[str] | None) -> int | None:
    if counter is None:
        return None
    counter.send_signal(signal.SIGINT)
    said = counter.communicate(timeout=30)[1]
    counts = [line.split(",")[0] for line in said.splitlines() if "sys_enter_f" in line]
    return sum(int(count) for count in counts if count.isdigit()) or None


def alone(bench: Bench) -> list[Figure]:
    """The store without FUSE: processor time of a created 4 KiB file."""
    place = bench.work / "alone"
    cpu, wall = [], []
    for _ in range(bench.rounds):
        answer = stores.make("alone", place, bench.sizes.alone_files, 4096)
        cpu.append(Sample(answer["cpu_us"], answer["cpu_us"]))
        wall.append(Sample(answer["wall_us"]))
        _delete(place)
    title = "store alone: CPU of a new 4 KiB file"
    target = Target("limit", 1.0, "≤ 50 us")
    figure = against("store.create", title, "us", {"cascadefs": cpu}, target)
    figure.reference = 50.0
    figure.note = f"wall clock {median(wall):.0f} us"
    return [figure]


def _delete(place: Path) -> None:
    subprocess.run(["rm", "-rf", "--", place], check=True)


def versions(bench: Bench) -> list[Figure]:
    """A 4 KiB file with very many versions: any of them, the first ones, the last ones."""
    count, times = bench.sizes.versions, bench.sizes.version_reads
    few = max(1, count // 100)
    with _mountable(bench, "versions", count, 4096) as cascade:
        path = cascade.root / "file"

        def read(first: int, last: int, *, cold: bool = False) -> tuple[Sample, float]:
            cascade.remount(cold=cold)
            cpu = cascade.cpu_ns()
            answer = bench.client.run("versions", path, first, last, times, 4096)
            cpu = cascade.cpu_ns() - cpu
            sample = Sample(answer["median"] * 1e6, cpu / times / 1000)
            return sample, answer["p99"] * 1e6

        found: dict[str, list[tuple[Sample, float]]] = {"any": [], "first": [], "last": []}
        read(1, count)
        for _ in range(bench.rounds):
            found["any"].append(read(1, count))
            found["first"].append(read(1, few))
            found["last"].append(read(count - few + 1, count))
        found["cold"] = [read(1, count, cold=True) for _ in range(min(2, bench.rounds))]

    def figure(key: str, title: str, target: Target | None, reference: float | None) -> Figure:
        samples = {"cascadefs": [sample for sample, _ in found[key]]}
        slow = sorted(p99 for _, p99 in found[key])[len(found[key]) // 2]
        made = against(f"versions.{key}", title, "us", samples, target, note=f"p99 {slow:.0f} us")
        made.reference = reference
        return made

    limit = Target("limit", 1.0, "< 1 ms")
    first = figure("first", f"read one of the first {few:,}", limit, 1000.0)
    equal = Target("first ones", 0.8, "as the first ones")
    return [
        figure("any", f"read any of {count:,} versions", limit, 1000.0),
        first,
        figure("last", f"read one of the last {few:,}", equal, first.values["cascadefs"]),
        figure("cold", "read any, caches cold", None, None),
    ]


@contextlib.contextmanager
def _mountable(bench: Bench, action: str, *arguments: object) -> Iterator[Cascade]:
    """A cascadefs over a store that `benchmarks.stores` made; taken down at the end."""
    place = bench.work / action
    cascade = Cascade(place, bench.processor)
    try:
        bench.say(f"making a store: {' '.join(map(str, (action, *arguments)))}")
        stores.make(action, cascade.data, *arguments)
        yield cascade
    finally:
        with contextlib.suppress(OSError):
            cascade.stop()
        _delete(place)


def past(bench: Bench) -> list[Figure]:
    """A directory as it was, beside the directory as it is."""
    entries = bench.sizes.past_entries
    with bench.started(Cascade) as (cascade,):
        directory = cascade.root / "directory"
        directory.mkdir()
        bench.client.run("create", directory, entries, 100)
        begin = _now()
        time.sleep(0.05)
        for path in [*directory.iterdir()] * 2:
            path.write_bytes(b"x" * 200)
        (directory / "file000000").rename(directory / "renamed")
        found: dict[str, list[Sample]] = {"now": [], "now again": [], "then": [], "then again": []}
        for turn in range(bench.rounds * 2):
            then = _phrase(begin + datetime.timedelta(microseconds=turn))
            cascade.remount()
            places = {"now": directory, "then": cascade.root / f"directory@{then}"}
            for name in ("now", "then") if turn % 2 else ("then", "now"):
                for again in ("", " again"):
                    sample = bench.operation(cascade, "list", places[name], 0)
                    found[name + again].append(sample)
            answer = bench.client.run("list", places["then"], 0)
            assert answer["count"] == entries

    def figure(key: str, title: str, name: str, base: str | None) -> Figure:
        target = Target("ls dir", 0.5, "≤ 2 x ls dir") if base else None
        made = against(f"past.{key}", title, "us", {"cascadefs": found[name]}, target)
        made.reference = median(found[base]) if base else None
        return made

    return [
        figure("now", f"ls dir, an entry of {entries:,}", "now", None),
        figure("then", "ls dir@T, an entry", "then", "now"),
        figure("now-again", "ls dir again, an entry", "now again", None),
        figure("then-again", "ls dir@T again, an entry", "then again", "now again"),
    ]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _phrase(moment: datetime.datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")


def restart(bench: Bench) -> list[Figure]:
    """From the mount command to the first listing, with a large store: after a stop, a kill, without an index."""
    sizes = bench.sizes
    count = sizes.restart_versions
    with _mountable(bench, "many", count, sizes.restart_files, 100) as cascade:
        index = machine.disk_bytes(cascade.data / "index")
        clean, memory = [], []
        for _ in range(min(3, bench.rounds)):
            machine.drop_caches(cascade.data)
            clean.append(_time_start(bench, cascade))
            assert cascade.pid is not None
            memory.append(machine.resident_bytes(cascade.pid))
            cascade.stop()
        cascade.start()
        (cascade.root / "new").mkdir()
        bench.client.run("create", cascade.root / "new", sizes.create_files, 4096)
        cascade.kill()
        killed = _time_start(bench, cascade)
        assert len(os.listdir(cascade.root / "new")) == sizes.create_files
        cascade.stop()
        _delete(cascade.data / "index")
        machine.drop_caches(cascade.data)
        rebuilt = _time_start(bench, cascade)
        sentences = cascade.status()["store"]["recovery"]
        assert cascade.pid is not None
        rebuilt_bytes = machine.resident_bytes(cascade.pid)["all"]
    within = Target("limit", 1.0, "≤ 3 s")
    every = f"{count:,} versions"
    first = against(
        "restart.clean", f"restart, {every}: first ls", "s", {"cascadefs": clean}, within
    )
    first.reference = 3.0
    resident = sorted(sample["all"] for sample in memory)[len(memory) // 2] / MIB
    anonymous = sorted(sample["anonymous"] for sample in memory)[len(memory) // 2] / MIB
    return [
        first,
        _single("restart.memory", "restart: memory of the daemon", "MiB", resident, Target("limit", 1.0, "< 300 MiB"), 300.0, f"{anonymous:.0f} MiB of it its own"),
        _single("restart.killed", "restart after kill -9: first ls", "s", killed.value, within, 3.0),
        _single("restart.rebuild", "restart without index: first ls", "s", rebuilt.value, None, None, f"{'; '.join(sentences)}; {rebuilt_bytes / MIB:.0f} MiB then"),
        _single("size.index", "index, bytes a version", "", index / count, None, None),
    ]  # fmt: skip


def _time_start(bench: Bench, cascade: Cascade) -> Sample:
    begin = time.perf_counter()
    cascade.start()
    bench.client.run("list", cascade.root, 1)
    return Sample(time.perf_counter() - begin)


def _single(
    key: str,
    title: str,
    unit: str,
    value: float,
    target: Target | None,
    reference: float | None,
    note: str = "",
) -> Figure:
    return Figure(key, title, unit, False, {"cascadefs": value}, target, reference, note=note)


def size(bench: Bench) -> list[Figure]:
    """What a version takes on the disk: of a big file that changes a little."""
    sizes = bench.sizes
    gib = f"{sizes.file_bytes / 2**30:g} GiB"
    with bench.started(Cascade) as (cascade,):
        # "file000000" is the name the client appends to.
        big = cascade.root / "file000000"
        bench.client.run("write", big, sizes.file_bytes, BLOCK_BYTES, 0)

        def taken() -> tuple[int, int]:
            cascade.stop()
            index = machine.disk_bytes(cascade.data / "index")
            cascade.start()
            status: dict[str, Any] = cascade.status()
            return status["store"]["log_bytes"], index

        start = taken()
        bench.client.run("overwrite", big, sizes.overwrites, 4096)
        middle = taken()
        bench.client.run("append", cascade.root, 1, sizes.overwrites, 100, 0)
        end = taken()

    def figure(key: str, title: str, before: tuple[int, int], after: tuple[int, int]) -> Figure:
        log, index = ((a - b) / sizes.overwrites for a, b in zip(after, before, strict=True))
        note = f"log {log:,.0f}, index {index:,.0f}"
        return _single(f"size.{key}", title, "", log + index, None, None, note)

    return [
        figure("overwrite", f"disk: 4 KiB into {gib}, bytes a version", start, middle),
        figure("append", f"disk: 100 bytes onto {gib}, bytes a version", middle, end),
    ]


def retention(bench: Bench) -> list[Figure]:
    """Nine of ten versions are let go: deciding and sweeping, and what a byte of the disk costs that comes back."""
    figures = []
    for name, size, versions in (("4k", 4096, 40_000), ("256k", 256 * 1024, 2_000)):
        directory = bench.work / f"retention-{name}"
        found = stores.make("letting-go", directory, versions, 20, size)
        if name == "4k":
            figures += [
                _own("retention.decide", "let go of a version, all of it", "us", found["step_us"]),
                _own("retention.step", "longest step of that", "ms", found["longest_ms"]),
            ]
        won = found["bytes_won"]
        assert won > 0
        share = won / (found["pruned_versions"] * size)
        rate = won / found["clean_ms"] / 1000
        figures += [
            Figure(
                f"retention.won-{name}",
                f"space back, pieces of {name}",
                "MB/s",
                True,
                {"cascadefs": rate},
                note=f"{share:.0%} of what was let go",
            ),
            _own(
                f"retention.written-{name}",
                f"written for a byte won, pieces of {name}",
                "bytes",
                found["bytes_written"] / won,
            ),
        ]
    return figures


def _own(key: str, title: str, unit: str, value: float) -> Figure:
    """A figure that nobody else has."""
    return Figure(key, title, unit, False, {"cascadefs": value})


EXPERIMENTS: dict[str, tuple[Callable[[Bench], list[Figure]], tuple[str, ...]]] = {
    "sequential": (sequential, ("write", "write-synced", "read-cold", "read-warm")),
    "stat": (stat, ("known",)),
    "list": (listing, ("first", "again", "stat", "requests", "requests-stat")),
    "create": (create, ("4k",)),
    "append": (append, ("close", "fsync", "fsync-8")),
    "store": (alone, ("create",)),
    "versions": (versions, ("any", "first", "last", "cold")),
    "past": (past, ("now", "then", "now-again", "then-again")),
    "restart": (restart, ("clean", "memory", "killed", "rebuild")),
    "size": (size, ("overwrite", "append")),
    "retention": (
        retention,
        ("decide", "step", "won-4k", "won-256k", "written-4k", "written-256k"),
    ),
}
"""By name: what to call, and the last part of its rows' keys."""


def chosen(patterns: list[str]) -> list[str]:
    """The experiments that have a row, or are called, as one of the patterns (fnmatch) says; all without any."""
    if not patterns:
        return list(EXPERIMENTS)
    found = []
    for name, (_, rows) in EXPERIMENTS.items():
        keys = [name, *(f"{name}.{row}" for row in rows)]
        if any(fnmatch.fnmatch(key, pattern) for key in keys for pattern in patterns):
            found.append(name)
    return found
