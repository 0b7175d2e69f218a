"""What the protocol costs in a large cluster without trouble, counted and on virtual time; then leaders die.

As many shards as nodes, three replicas each, the times that a real cluster has. Counted costs (messages, requests of the
authority) are exact; times are those of a network of 20 to 80 us a hop and say what the protocol waits for, not how fast
Python is.
"""

from __future__ import annotations

from functools import partial
from random import Random
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from storage.membership.reconfigure import Patience
from storage.replication import Options
from tests.simulation.cluster.agenda import MICROSECOND, MILLISECOND, SECOND
from tests.simulation.cluster.clocks import EPOCH_NS
from tests.simulation.cluster.cluster import Cluster, Plan
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.network import Weather
from tests.simulation.cluster.registers import Change

if TYPE_CHECKING:
    from tests.simulation.cluster.mount import Mount

__all__ = ["Costs", "measure", "print_costs"]

REPLICAS = 3
TTL_NS = 3 * SECOND
GATHER_NS = 60 * SECOND
IDLE_NS = 5 * SECOND
PUTS_PER_SHARD = 20
LAG_SAMPLES = 200
KILLED_SHARE = 10
"""One node in so many dies, one at least."""


class Costs(NamedTuple):
    """Of one size; times in milliseconds."""

    nodes: int
    idle_messages: float
    """Between replicas, a second and a shard, when nobody writes."""
    authority_requests: float
    """A second, of all nodes together."""
    messages_per_put: float
    """Between replicas, beyond the idle ones, when puts come one at a time."""
    put_ms: float
    lag_ms_median: float
    lag_ms_max: float
    """How far the frontier of all shards together, on a mount, is behind the time of day."""
    pause_ms_median: float
    pause_ms_max: float
    """From the death of a leader until a put on its shard is done."""


def measure(nodes: int) -> Costs:
    """Run one cluster of so many nodes."""
    plan = Plan(
        nodes=nodes,
        shards=nodes,
        replicas=REPLICAS,
        trouble_ns=0,
        writers=0,
        readers=0,
        ttl_ns=TTL_NS,
        patience=Patience(),
        options=Options(durable=False),
    )
    cluster = Cluster(1, plan=plan, faults=Faults(Random(1), sync_us_mean=300))
    cluster.faults.on = False
    cluster.network.weather = Weather(delay_us_min=20, delay_us_max=80)
    cluster.start()
    cluster.gather(GATHER_NS)
    mount = cluster.mount()
    cluster.agenda.run(cluster.agenda.now_ns + 5 * SECOND)
    idle, asked, lags = _idle(cluster, mount)
    per_put, put_ms = _puts(cluster, mount, idle)
    pauses = _failover(cluster, mount)
    return Costs(
        nodes,
        idle / nodes,
        asked,
        per_put,
        put_ms,
        median(lags),
        max(lags),
        median(pauses),
        max(pauses),
    )


def _idle(cluster: Cluster, mount: Mount) -> tuple[float, float, list[float]]:
    """Messages between replicas a second, requests of the authority a second, lags of the frontier."""
    messages, asked = cluster.delivered, cluster.authority.asked
    lags = []
    for _ in range(LAG_SAMPLES):
        cluster.agenda.run(cluster.agenda.now_ns + IDLE_NS // LAG_SAMPLES)
        frontier_us = min(face.frontier[0] for face in mount.faces.values())
        lags.append((EPOCH_NS + cluster.agenda.now_ns - frontier_us * MICROSECOND) / MILLISECOND)
    seconds = IDLE_NS / SECOND
    return (
        (cluster.delivered - messages) / seconds,
        (cluster.authority.asked - asked) / seconds,
        lags,
    )


def _puts(cluster: Cluster, mount: Mount, idle: float) -> tuple[float, float]:
    """Messages a put takes and its latency in milliseconds, one after the other over all shards."""
    messages, began_ns = cluster.delivered, cluster.agenda.now_ns
    latencies = []
    for at in range(PUTS_PER_SHARD * len(cluster.shards)):
        latencies.append(_put(cluster, mount, at % len(cluster.shards)))
    seconds = (cluster.agenda.now_ns - began_ns) / SECOND
    count = len(latencies)
    return (cluster.delivered - messages - idle * seconds) / count, median(latencies)


def _put(cluster: Cluster, mount: Mount, shard: int) -> float:
    began_ns, ended = cluster.agenda.now_ns, []
    mount.submit(
        shard, Change("put", "a", cluster.unique()), lambda *_: ended.append(cluster.agenda.now_ns)
    )
    while not ended:
        cluster.agenda.run(cluster.agenda.now_ns + 10 * MICROSECOND)
    return (ended[0] - began_ns) / MILLISECOND


def _failover(cluster: Cluster, mount: Mount) -> list[float]:
    """Some nodes die at once; how long each of the shards they led is without an answer."""
    victims = cluster.node_names[::KILLED_SHARE]
    epochs = cluster.authority.view.epochs
    shards = [
        shard
        for shard in cluster.shards
        # Two members of three may die with them; that is another story.
        if epochs[shard].leader in victims and len(set(epochs[shard].members) & set(victims)) == 1
    ]
    died_ns, pauses = cluster.agenda.now_ns, []
    for victim in victims:
        cluster.machines[victim].kill()

    def done(*_: object) -> None:
        pauses.append((cluster.agenda.now_ns - died_ns) / MILLISECOND)

    for shard in shards:
        mount.submit(shard, Change("put", "a", cluster.unique()), partial(done))
    while len(pauses) < len(shards):
        cluster.agenda.run(cluster.agenda.now_ns + MILLISECOND)
        assert cluster.agenda.now_ns - died_ns < 60 * SECOND
    return pauses


def print_costs(nodes: int) -> None:
    """A table for some sizes up to this one."""
    sizes = sorted({min(nodes, size) for size in (4, 16)} | {nodes})
    found = [measure(size) for size in sizes]
    rows = (
        ("nodes and shards", "{:.0f}", "nodes"),
        ("idle: replica messages / s / shard", "{:.1f}", "idle_messages"),
        ("idle: authority requests / s", "{:.1f}", "authority_requests"),
        ("replica messages / committed put", "{:.2f}", "messages_per_put"),
        ("put, ms", "{:.2f}", "put_ms"),
        ("frontier of all shards, lag ms, median", "{:.0f}", "lag_ms_median"),
        ("frontier of all shards, lag ms, max", "{:.0f}", "lag_ms_max"),
        ("leader dies: pause ms, median", "{:.0f}", "pause_ms_median"),
        ("leader dies: pause ms, max", "{:.0f}", "pause_ms_max"),
    )
    for what, form, field in rows:
        print(f"{what:<40}" + "".join(f"{form.format(getattr(c, field)):>10}" for c in found))
