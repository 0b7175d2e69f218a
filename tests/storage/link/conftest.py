"""A cluster of real nodes in a thread of its own, for faces in the test's thread.

The nodes are `tests.cluster.world`'s, over the memory transport, on the loop's real clock; each mount has a link in the same loop.
"""

from __future__ import annotations

import threading
import time
from random import Random

import pytest
import trio

from storage.clock import HybridClock
from storage.cluster.face import Face
from storage.cluster.store import ClusterStore
from storage.distant import DistantLog
from storage.link import Link, Tuning
from storage.table import MemoryTable
from storage.transport import Identity, Role
from tests.cluster.world import CLUSTER, IDENTITY, TrioClock, World

TUNING = Tuning(redial_s=0.02, redial_max_s=0.2, resend_s=0.3, silence_s=1.0, read_s=0.5)


class WorldClock:
    """The time of the world's nodes, for other threads."""

    def __init__(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns

    def now_ns(self) -> int:
        return time.monotonic_ns() + self.offset_ns


class Cluster:
    """See the module. Calls of the test's thread."""

    def __init__(self, **options) -> None:
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.world = World(nursery, **self._options)
            self.clock = WorldClock(TrioClock().now_ns() - time.monotonic_ns())
            self._ready.set()
            await trio.sleep_forever()

    def run(self, call, *arguments):
        """Have the loop run a coroutine function, and wait for it."""
        return trio.from_thread.run(call, *arguments, trio_token=self._token)

    def start(self) -> None:
        self.run(self.world.start)
        self.run(self.world.wait_members)

    def link(self, name: str = "m1", addresses: tuple[str, ...] = ("n1:1", "n2:1", "n3:1")) -> Link:
        link = Link(
            self.world.network.transport(Identity(CLUSTER, Role.MOUNT, name)),
            addresses,
            Random(name),
            tuning=TUNING,
        )
        self.run(self._nursery.start, link.run)
        return link

    def face(self, link: Link, shard: int = 0, table=None, hybrid=None) -> Face:
        line = link.line(shard, IDENTITY)
        face = Face(
            line,
            DistantLog(line),
            table if table is not None else MemoryTable(),
            self.clock,
            steady_ns=time.monotonic_ns,
            hybrid=hybrid,
        )
        face.recover()
        while not (line.has_heard() and face.applied_index >= line.last_index()):
            face._advance(0.1)
        return face

    def mount(self, name: str = "m1", **options) -> ClusterStore:
        hybrid = HybridClock()
        face = self.face(self.link(name), hybrid=hybrid)
        return ClusterStore([face], self.clock, hybrid, **options)

    def close(self) -> None:
        trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
        self._thread.join()


@pytest.fixture
def cluster():
    made = Cluster()
    made.start()
    yield made
    made.close()
