"""A shard on a simulated disk with a clock that is set, and the few things tests do to it."""

from __future__ import annotations

import pytest

from storage import record
from storage.attributes import DIRECTORY, REGULAR
from storage.clock import HybridClock
from storage.disk import MemoryDisk
from storage.extents import DirtyMap
from storage.log import Log
from storage.namespace import KEPT, ROOT
from storage.retention import RETENTION, Retention
from storage.shard import Shard
from storage.table import MemoryTable

IDENTITY = 0xCA5CADE
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
START = 1_763_337_600 * SECOND  # Monday 2025-11-17T00:00:00Z


class SetClock:
    def __init__(self) -> None:
        self.now_us = START

    def now_ns(self) -> int:
        return self.now_us * 1000


class World:
    """A shard, its retention, and what every version ever held."""

    start = START

    def __init__(self, segment_bytes: int = 1 << 20) -> None:
        self.clock = SetClock()
        self.disk = MemoryDisk()
        self.segment_bytes = segment_bytes
        Log.create(self.disk, IDENTITY, segment_bytes=segment_bytes).close()
        self.pinned: set[tuple[int, int]] = set()
        self.open()
        self.shard.format(0, 0, 0o755)

    def open(self, table=None) -> None:
        self.table = MemoryTable() if table is None else table
        log = Log.open(self.disk, IDENTITY)
        self.shard = Shard(IDENTITY, log, self.table, self.clock, HybridClock())
        self.shard.recover()
        self.space = self.shard.namespace
        self.retention = Retention(self.shard, self.clock)
        self.retention.pinned = lambda: self.pinned

    def reopen(self) -> None:
        """Stop cleanly, lose the index, start again."""
        self.shard.close(keep=True)
        self.open()

    def do(self, one: record.Record) -> None:
        assert self.shard.propose(one).reason is None

    def pass_time(self, us: int) -> None:
        self.clock.now_us += us

    def policy(self, text: bytes, directory: int = ROOT) -> None:
        self.do(record.SetXattr(directory, RETENTION, text))

    def make(self, name: bytes, directory: int = ROOT, mode: int = REGULAR) -> int:
        inode = self.space.counters.next_inode
        self.do(record.Create(directory, name, inode, mode | 0o755, 0, 0))
        return inode

    def mkdir(self, name: bytes, directory: int = ROOT) -> int:
        return self.make(name, directory, DIRECTORY)

    def write(self, inode: int, data: bytes, at: int = 0, *, keep: int | None = 0) -> None:
        """One session: cut at `keep`, then bytes at an offset."""
        dirty = DirtyMap()
        if data:
            dirty.write(at, data)
        size = max(at + len(data), self.space.attributes(inode).size if keep is None else keep)
        assert self.shard.commit(inode, dirty, size, keep, 0, 0).reason is None

    def versions(self, name: bytes, directory: int = ROOT) -> dict[int, bytes | None]:
        """What every version that is no tombstone holds; None for one that is pruned."""
        found = {}
        for number in range(1, self.space.head(directory, name) + 1):
            version = self.space.version(directory, name, number)
            if version is None or version.binding is None:
                continue
            binding = version.binding
            content = binding.base + number - binding.first
            if self.space.content_state(binding.inode, content) != KEPT:
                found[number] = None
                continue
            attributes = self.space.attributes_at(binding.inode, version.timestamp)[1]
            found[number] = bytes(
                self.shard.read(binding.inode, attributes, version.timestamp, 0, 1 << 30)
            )
        return found

    def kept(self, name: bytes, directory: int = ROOT) -> list[int]:
        return [n for n, data in self.versions(name, directory).items() if data is not None]

    def dead(self) -> set[int]:
        return {address for address, _ in self.space.frames.dead(0, 2**63)}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World
