"""What a cluster costs, beside etcd and Redis: puts and gets of one client, many at a time, and the pause of a failover.

    put, get        one after another by one client: median and 99th percentile
    puts            4 KiB, so many on their way at a time: a second
    large           1 MiB likewise: MiB a second
    pause           the leader is killed while one client puts: the longest wait for one put

All nodes are processes of this machine, on loopback and one disk, so a figure says what the work costs, not what a network
does. cascadefs is asked by programs (`cascadefs.connect`, mTLS): one for what is one after another, else four.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from benchmarks.replicated import Etcd, Redis, Replicated

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.client import Client

__all__ = ["Cascade", "Row", "markdown", "measure", "peers"]

START_SECONDS_MAX = 90.0
ROOT_SHARD = 0

PROGRAMS = 4
"""That write at the same time; each has its share of what is on the way."""

WORKER = """
import sys
import cascadefs
with cascadefs.connect(sys.argv[1]) as store:
    store.get("ready")
    print("ready", flush=True)
    for line in sys.stdin:
        count, size, program, each = map(int, line.split())
        value = bytes(size)
        for first in range(0, count, each):
            numbers = range(first, min(first + each, count))
            store.put_many({f"bench{program}/{number % 256}": value for number in numbers})
        print("done", flush=True)
"""


class Cascade(Replicated):
    """cascadefs: nodes as `scripts/cluster` starts them, one shard."""

    name: ClassVar[str] = "cascadefs"
    promise: ClassVar[str] = ""
    durability: ClassVar[str] = "disk"
    shards: ClassVar[int] = 1

    @property
    def replicas(self) -> int:
        """Of each shard: all nodes, where there is one shard."""
        return self.members if self.shards == 1 else 1

    needs = ("etcd",)

    def __init__(self, directory: Path, members: int) -> None:
        """See `Replicated`."""
        super().__init__(directory, members)
        self._workers: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """See `Replicated`."""
        import cascadefs

        scripts = Path(__file__).resolve().parent.parent
        place = self.directory / "cluster"
        said = self.directory / "said"
        with said.open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    [
                        scripts / "cluster", str(self.members), "--directory", place,
                        "--shards", str(self.shards), "--replicas", str(self.replicas),
                        "--durability", self.durability,
                    ],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
                )
            )  # fmt: skip
        end = time.perf_counter() + START_SECONDS_MAX
        while b"Ctrl-C" not in said.read_bytes():
            if time.perf_counter() > end or self.processes[0].poll() is not None:
                raise RuntimeError(f"the cluster did not start: {said.read_text()[-500:]}")
            time.sleep(0.1)
        program = place / "program"
        self._cli(
            "cluster",
            "permit",
            "bench",
            program,
            "--uid",
            "0",
            "--gid",
            "0",
            "--config",
            place / "operator",
        )
        self.where = program / "mount.toml"
        self.client: Client = cascadefs.connect(self.where)
        self.client.put("ready", b"1")

    @staticmethod
    def _cli(*words: str | Path) -> str:
        command = [sys.executable, "-m", "cascadefs.cli", *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def put(self, key: str, value: bytes) -> None:
        """See `Replicated`."""
        self.client.put(f"bench/{key}", value)

    def get(self, key: str) -> bytes:
        """See `Replicated`."""
        return self.client.get(f"bench/{key}")

    def put_many(self, keys: list[str], value: bytes, concurrent: int) -> None:
        """See `Replicated`: of a few programs, each with many puts on their way (`Client.put_many`)."""
        while len(self._workers) < PROGRAMS:
            self._workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, self.where],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
                )
            )  # fmt: skip
            assert self._workers[-1].stdout.readline() == "ready\n"
        share, each = -(-len(keys) // PROGRAMS), max(concurrent // PROGRAMS, 1)
        for number, worker in enumerate(self._workers):
            worker.stdin.write(f"{share} {len(value)} {number} {each}\n")
            worker.stdin.flush()
        for worker in self._workers:
            assert worker.stdout.readline() == "done\n"

    def leader(self) -> int:
        """The process id of the node that leads the shard."""
        told = json.loads(
            self._cli(
                "cluster", "status", "--json", "--config", self.directory / "cluster/operator"
            )
        )
        name = next(shard["leader"] for shard in told["shards"] if shard["shard"] == ROOT_SHARD)
        pattern = f"{self.directory}/cluster/{name}/node.toml"
        found = subprocess.run(
            ["pgrep", "-f", f"serve --config {pattern}"], capture_output=True, text=True, check=True
        )
        return int(found.stdout.split()[0])

    def pause_s(self) -> float:
        """The longest of the puts while the leader is killed, in seconds."""
        os.kill(self.leader(), signal.SIGKILL)
        longest, end = 0.0, time.perf_counter() + 20.0
        while time.perf_counter() < end:
            began = time.perf_counter()
            self.put("pause", b"x")
            longest = max(longest, time.perf_counter() - began)
        return longest

    def stop(self) -> None:
        """See `Replicated`."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
        if hasattr(self, "client"):
            self.client.close()
        super().stop()


class CascadeOne(Cascade):
    """One replica."""

    name = "cascadefs, 1 replica"
    promise = "on its disk"


class CascadeDisk(Cascade):
    """Three, on their disks."""

    name = "cascadefs, 3 replicas"
    promise = "on every replica's disk"


class CascadeMemory(Cascade):
    """Three, in memory."""

    name = "cascadefs, 3 replicas, memory"
    promise = "in every replica's memory"
    durability = "memory"


class CascadeTwoShards(CascadeOne):
    """Two shards on two nodes."""

    name = "cascadefs, 1 replica, 2 shards"
    shards = 2


class CascadeFourShards(CascadeOne):
    """Four shards on two nodes."""

    name = "cascadefs, 1 replica, 4 shards"
    shards = 4


def peers() -> list[tuple[type[Replicated], int]]:
    """Who is measured, with how many members."""
    own = [
        (CascadeOne, 1),
        (CascadeTwoShards, 2),
        (CascadeFourShards, 2),
        (CascadeDisk, 3),
        (CascadeMemory, 3),
    ]
    return [(Etcd, 3), (Redis, 2), *own]


class Row(NamedTuple):
    """One peer."""

    name: str
    promise: str
    put_us: float
    put_p99_us: float
    get_us: float
    puts_per_s: float
    large_mib_per_s: float
    pause_s: float | None

    def to_json(self) -> dict[str, object]:
        """All of it, plain."""
        return self._asdict()


def measure(
    work: Path,
    who: list[tuple[type[Replicated], int]],
    *,
    puts: int,
    concurrent: int,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each peer that is installed; the rest is said."""
    rows = []
    for number, (kind, members) in enumerate(who):
        if missing := kind.missing():
            say(f"{kind.name}: left out, {', '.join(missing)} is not installed")
            continue
        say(kind.name)
        peer = kind(work / f"{number}", members)
        try:
            peer.start()
            rows.append(_row(peer, puts, concurrent))
        finally:
            with contextlib.suppress(ProcessLookupError):
                peer.stop()
    return rows


def _row(peer: Replicated, puts: int, concurrent: int) -> Row:
    value = random.Random(0).randbytes(4096)
    waits = [_timed(lambda n=n: peer.put(f"one{n % 64}", value)) for n in range(puts)]
    reads = [_timed(lambda n=n: peer.get(f"one{n % 64}")) for n in range(puts)]
    keys = [f"many{n}" for n in range(puts * 8)]
    peer.put_many(keys[: 2 * concurrent], value, concurrent)
    many_s = _timed(lambda: peer.put_many(keys, value, concurrent))
    large = [f"large{n % 16}" for n in range(64)]
    large_s = _timed(lambda: peer.put_many(large, bytes(2**20), min(concurrent, 8)))
    pause_s = peer.pause_s() if isinstance(peer, Cascade) and peer.replicas > 1 else None
    return Row(
        peer.name,
        peer.promise,
        statistics.median(waits) * 1e6,
        statistics.quantiles(waits, n=100)[98] * 1e6,
        statistics.median(reads) * 1e6,
        len(keys) / many_s,
        len(large) / large_s,
        pause_s,
    )


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def markdown(rows: list[Row]) -> str:
    """The table of the documents."""
    lines = [
        "| store | a put that returned is | put 4 KiB, us (p99) | get, us | puts/s | 1 MiB, MiB/s | pause, s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        pause = f"{row.pause_s:.1f}" if row.pause_s is not None else ""
        lines.append(
            f"| {row.name} | {row.promise} | {row.put_us:,.0f} ({row.put_p99_us:,.0f}) | {row.get_us:,.0f} | "
            f"{row.puts_per_s:,.0f} | {row.large_mib_per_s:,.0f} | {pause} |"
        )
    return "\n".join(lines)
