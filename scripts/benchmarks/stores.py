"""Stores without FUSE, in a process of their own: measured for themselves, or made for a mount to open.

    python -m benchmarks.stores alone DIRECTORY FILES BYTES
    python -m benchmarks.stores versions DIRECTORY VERSIONS BYTES
    python -m benchmarks.stores many DIRECTORY VERSIONS FILES BYTES
    python -m benchmarks.stores letting-go DIRECTORY VERSIONS FILES BYTES

Each prints one JSON object. They speak to `storage.store` as the file system does: a record for a name, a commit for
a content.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.store import LocalStore

__all__ = ["make"]

SECONDS_MAX = 1800
"""Before making a store counts as hanging."""

FILES_PER_DIRECTORY = 100


def make(action: str, *arguments: object) -> dict[str, Any]:
    """Run an action in a process of its own; what it printed.

    Raises:
        subprocess.CalledProcessError: it failed, and said why on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.stores", action, *map(str, arguments)]
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": f"{root / 'scripts'}:{root}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=environment, timeout=SECONDS_MAX
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class _Clock:
    def now_ns(self) -> int:
        return time.time_ns()  # noqa: TID251  # this process is a daemon of its own


class _Maker:
    """Creates files and commits contents as the file system does."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def create(self, parent: int, name: bytes, mode: int = 0o100644) -> int:
        """An empty file or a directory; its inode."""
        from storage.record import Create

        inode = self._store.allocate_inode()
        outcome = self._store.propose(Create(parent, name, inode, mode, 0, 0))
        assert outcome.reason is None
        return inode

    def commit(self, inode: int, data: bytes) -> None:
        """A new content."""
        from storage.extents import DirtyMap

        dirty = DirtyMap()
        dirty.write(0, data)
        now_ns = time.time_ns()  # noqa: TID251
        outcome = self._store.commit(inode, dirty, len(data), 0, now_ns, now_ns)
        assert outcome.reason is None


def _opened(directory: Path) -> LocalStore:
    from storage.store import LocalStore

    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return LocalStore.open(directory, _Clock(), random.Random(1), boot_id=boot)


def _alone(directory: Path, files: int, size: int) -> dict[str, Any]:
    """What a created file costs: a record for the name and one for the content."""
    store = _opened(directory)
    maker = _Maker(store)
    data = random.Random(2).randbytes(size)
    parent = maker.create(1, b"directory", 0o040755)
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for number in range(files):
        maker.commit(maker.create(parent, b"file%06d" % number), data)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    store.close()
    return {"cpu_us": cpu / files / 1000, "wall_us": wall / files / 1000}


def _versions(directory: Path, versions: int, size: int) -> dict[str, Any]:
    """One file with so many versions; each begins with its number."""
    store = _opened(directory)
    maker = _Maker(store)
    inode = maker.create(1, b"file")
    rest = random.Random(3).randbytes(size - 8)
    for number in range(1, versions + 1):
        maker.commit(inode, number.to_bytes(8, "little") + rest)
    assert store.head(1, b"file") == versions
    store.close()
    return {}


def _many(directory: Path, versions: int, files: int, size: int) -> dict[str, Any]:
    """Many versions of many files, a round of commits after the other."""
    store = _opened(directory)
    maker = _Maker(store)
    rest = random.Random(4).randbytes(size)
    inodes = []
    parent = 1
    for number in range(files):
        if number % FILES_PER_DIRECTORY == 0:
            parent = maker.create(1, b"directory%04d" % number, 0o040755)
        inodes.append(maker.create(parent, b"file%06d" % number))
    for _ in range(versions // files):
        for inode in inodes:
            maker.commit(inode, rest)
    status = store.status()
    store.close()
    return {"records": status["records"], "log_bytes": status["log_bytes"]}


def _letting_go(directory: Path, versions: int, files: int, size: int) -> dict[str, Any]:
    """Keep every tenth of many versions, and what that costs: deciding, sweeping, writing segments again."""
    import trio

    from storage.record import Label, SetXattr
    from storage.retention import RETENTION

    store = _opened(directory)
    maker = _Maker(store)
    inodes = [maker.create(1, b"file%06d" % number) for number in range(files)]
    for turn in range(versions // files):
        for inode in inodes:
            maker.commit(inode, random.Random(turn).randbytes(size))
        if turn % 10 == 9:
            assert store.propose(Label(1, b"l%d" % turn, store.now())).reason is None
    store.propose(SetXattr(1, RETENTION, b"all:1s"))
    time.sleep(1.1)
    before = store.status()["log_bytes"]
    assert isinstance(before, int)
    begun, longest = time.perf_counter_ns(), 0
    while True:
        step = time.perf_counter_ns()
        busy = store.retention.step()
        longest = max(longest, time.perf_counter_ns() - step)
        if not busy:
            break
    decided = time.perf_counter_ns() - begun
    trio.run(store.wait_durable)
    begun = time.perf_counter_ns()
    store.retention.clean()
    cleaned = time.perf_counter_ns() - begun
    found = store.retention.status()
    store.close()
    return {
        "versions": versions,
        "step_us": decided / versions / 1000,
        "longest_ms": longest / 1e6,
        "clean_ms": cleaned / 1e6,
        "log_bytes": before,
        "pruned_versions": found["pruned_versions"],
        "bytes_won": found["bytes_won"],
        "bytes_written": found["bytes_written"],
    }


if __name__ == "__main__":
    _ACTIONS = {
        "alone": _alone,
        "versions": _versions,
        "many": _many,
        "letting-go": _letting_go,
    }
    print(json.dumps(_ACTIONS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))
