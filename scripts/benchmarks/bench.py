"""One run: its work directory, its sizes, its rounds, and everything it has to take down again."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.peers import Peer, remove
from benchmarks.result import Figure, Sample, Target, median, median_cpu_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.client import Client

__all__ = ["FULL", "QUICK", "Bench", "Sizes", "against", "in_rate", "prepare_work"]

_P = TypeVar("_P", bound=Peer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    file_bytes: int
    stat_files: int = 1000
    stat_rounds: int
    list_entries: int
    create_files: int
    appends: int
    synced_appends: int
    alone_files: int
    versions: int
    version_reads: int
    past_entries: int = 1000
    restart_versions: int
    restart_files: int
    overwrites: int


FULL = Sizes(
    file_bytes=2**30,
    stat_rounds=300,
    list_entries=10_000,
    create_files=3000,
    appends=3000,
    synced_appends=1000,
    alone_files=20_000,
    versions=100_000,
    version_reads=1000,
    restart_versions=1_000_000,
    restart_files=10_000,
    overwrites=3000,
)

QUICK = Sizes(
    file_bytes=2**26,
    stat_rounds=50,
    list_entries=2000,
    create_files=300,
    appends=300,
    synced_appends=100,
    alone_files=3000,
    versions=5000,
    version_reads=200,
    restart_versions=30_000,
    restart_files=1000,
    overwrites=300,
)


@dataclass(slots=True)
class Bench:
    """What an experiment is given."""

    work: Path
    client: Client
    sizes: Sizes
    rounds: int
    processor: int | None
    say: Callable[[str], None]

    @contextlib.contextmanager
    def started(self, *kinds: type[_P]) -> Iterator[list[_P]]:
        """Peers with empty places, taken down and deleted at the end, come what may."""
        peers = [kind(self.work / kind.name, self.processor) for kind in kinds]
        try:
            for peer in peers:
                peer.start()
            yield peers
        finally:
            for peer in peers:
                with contextlib.suppress(OSError):
                    peer.stop()
                remove(peer.directory)

    def interleaved(
        self, peers: Sequence[_P], measure: Callable[[_P, int], Sample], rounds: int | None = None
    ) -> dict[str, list[Sample]]:
        """Samples by peer: in every round each peer once, another one first each time."""
        samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
        for number in range(rounds or self.rounds):
            first = number % len(peers)
            for peer in [*peers[first:], *peers[:first]]:
                samples[peer.name].append(measure(peer, number))
        return samples

    def operation(self, peer: Peer, operation: str, *arguments: object) -> Sample:
        """Microseconds an operation, of the wall clock and of the peer's processor time."""
        cpu = peer.cpu_ns()
        answer = self.client.run(operation, *arguments)
        cpu = peer.cpu_ns() - cpu
        count = answer["count"]
        return Sample(answer["seconds"] / count * 1e6, cpu / count / 1000)

    def throughput(self, peer: Peer, operation: str, *arguments: object) -> Sample:
        """Megabytes a second; the processor time is for a mebibyte."""
        cpu = peer.cpu_ns()
        answer = self.client.run(operation, *arguments)
        cpu = peer.cpu_ns() - cpu
        count = answer["count"]
        return Sample(count / answer["seconds"] / 1e6, cpu / 1000 / (count / 2**20))


def against(
    key: str,
    title: str,
    unit: str,
    samples: dict[str, list[Sample]],
    target: Target | None,
    *,
    higher_is_better: bool = False,
    note: str = "",
) -> Figure:
    """The figure of some samples, with a peer as the reference if the target names one."""
    values = {name: median(found) for name, found in samples.items()}
    reference = values.get(target.reference) if target is not None else None
    return Figure(
        key,
        title,
        unit,
        higher_is_better,
        values,
        target,
        reference,
        {name: median_cpu_us(found) for name, found in samples.items() if name != "disk"},
        {name: [sample.value for sample in found] for name, found in samples.items()},
        note,
    )


def in_rate(samples: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Microseconds an operation as operations a second."""
    return {
        name: [Sample(1e6 / sample.value, sample.cpu_us) for sample in found]
        for name, found in samples.items()
    }


def prepare_work(parent: Path) -> Path:
    """A work directory of this process; those of runs that were killed are left to whoever killed them."""
    work = parent / f"cascadefs-bench-{os.getpid()}"
    work.mkdir(parents=True)
    return work
