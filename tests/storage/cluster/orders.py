"""Clusters in memory: orders, and stores over faces of them, as if each were a mount."""

from __future__ import annotations

import itertools
import time
from random import Random

from storage import record
from storage.clock import HybridClock
from storage.cluster.face import Face
from storage.cluster.loopback import Order
from storage.cluster.store import ClusterStore
from storage.distant import DistantLog
from storage.namespace import ROOT
from storage.table import MemoryTable

START_NS = 1_795_255_200 * 10**9

clients = itertools.count(1)


class TickingClock:
    def __init__(self, now_ns: int = START_NS) -> None:
        self.at = now_ns

    def now_ns(self) -> int:
        self.at += 1000
        return self.at


def make_orders(shards: int, clock) -> list[Order]:
    """The logs of so many shards; the first has the root directory."""
    orders = [Order(shard, clock) for shard in range(shards)]
    orders[0].append(record.encode(record.Create(0, b"", ROOT, 0o755, 0, 0)))
    return orders


def make_face(
    order: Order, clock, hybrid: HybridClock | None = None, table=None, memory=None
) -> Face:
    sequencer = order.sequencer(next(clients))
    face = Face(
        sequencer,
        DistantLog(sequencer),
        table if table is not None else MemoryTable(),
        clock,
        steady_ns=time.monotonic_ns,
        hybrid=hybrid,
        memory=memory,
    )
    face.recover()
    return face


def make_store(orders: list[Order], clock, **options) -> ClusterStore:
    """One more mount of the cluster."""
    hybrid = HybridClock()
    faces = [make_face(order, clock, hybrid) for order in orders]
    return ClusterStore(faces, clock, hybrid, **{"frontier_s": 0.2} | options)


def by_chance(shards: int, seed: int):
    """Directories live anywhere."""
    random = Random(seed)
    return lambda path: random.randrange(shards)
