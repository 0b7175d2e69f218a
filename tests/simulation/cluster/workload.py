"""What programs do on the mounts of a simulated cluster, and what they tell the checkers.

A `Writer` puts, puts-if and gets names of one shard, a few calls at a time. A `Ticker` puts its tick on one name of each shard in
turn. A `Reader` reads the past: all of the ticker's names at one time, and names of writers. Each stops when the world
says so and nothing is under way; killed with its mount, it is begun again on another.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.cluster.agenda import MILLISECOND, SECOND
from tests.simulation.cluster.checkers.linearizability import Call
from tests.simulation.cluster.registers import Change, State

if TYPE_CHECKING:
    from tests.simulation.cluster.checkers.agreement import Committed
    from tests.simulation.cluster.cluster import Cluster
    from tests.simulation.cluster.mount import Mount

__all__ = ["Reader", "Ticker", "Writer", "tick_name"]

NAMES = ("a", "b", "c")
THINK_NS = 30 * MILLISECOND
CALLS_MAX = 3
READ_TIMEOUT_NS = 2 * SECOND
"""SEMANTICS: a read above the frontier waits so long, then EAGAIN."""


def tick_name(shard: int) -> str:
    """What the ticker puts on a shard."""
    return f"tick{shard}"


class Writer:
    """Calls on registers, up to `CALLS_MAX` under way."""

    def __init__(self, cluster: Cluster, mount: Mount, random: Random) -> None:
        self._cluster = cluster
        self._mount = mount
        self._random = random
        self._under_way: dict[int, tuple[int, int, Change]] = {}
        self._calls = 0
        cluster.agenda.after(random.randrange(THINK_NS), self._go_on)

    def _go_on(self) -> None:
        if not self._mount.alive:
            self._give_up()
        elif not self._cluster.resting:
            if len(self._under_way) < CALLS_MAX:
                self._call()
            self._cluster.agenda.after(self._random.randrange(THINK_NS), self._go_on)

    def _call(self) -> None:
        random, cluster = self._random, self._cluster
        shard = random.choice(cluster.shards)
        name, value = random.choice(NAMES), cluster.unique()
        draw = random.random()
        if draw < 0.4:
            change = Change("put", name, value)
        elif draw < 0.7:
            known = self._mount.faces[shard].registers.at(name).version
            change = Change("put-if", name, value, max(0, known - (random.random() < 0.1)))
        else:
            change = Change("get", name)
        self._calls += 1
        self._under_way[self._calls] = (cluster.agenda.now_ns, shard, change)
        cluster.checks.progress.began(
            f"{self._mount.name}.{self._calls}", cluster.agenda.now_ns, f"{change}"
        )
        self._mount.submit(shard, change, partial(self._done, self._calls))

    def _done(self, number: int, record: Committed, state: State) -> None:
        invoked, shard, change = self._under_way.pop(number)
        call = Call(self._mount.name, invoked, self._cluster.agenda.now_ns, change, state)
        self._cluster.checks.called(shard, call)
        self._cluster.checks.progress.ended(f"{self._mount.name}.{number}")

    def _give_up(self) -> None:
        for number, (invoked, shard, change) in self._under_way.items():
            self._cluster.checks.called(shard, Call(self._mount.name, invoked, None, change, None))
            self._cluster.checks.progress.ended(f"{self._mount.name}.{number}")
        self._under_way.clear()


class Ticker:
    """The one writer whose effects on several shards are causes of each other. Its mount is never killed."""

    def __init__(self, cluster: Cluster, mount: Mount, random: Random) -> None:
        self._cluster = cluster
        self._mount = mount
        self._random = random
        self._tick, self._position = 1, 0
        cluster.agenda.after(random.randrange(THINK_NS), self._put)

    def _put(self) -> None:
        cluster = self._cluster
        if cluster.resting and self._position == 0:
            return
        shard = cluster.shards[self._position]
        change = Change("put", tick_name(shard), self._tick)
        cluster.checks.progress.began(self._mount.name, cluster.agenda.now_ns, f"{change}")
        self._mount.submit(shard, change, self._done)

    def _done(self, record: Committed, state: State) -> None:
        cluster = self._cluster
        cluster.checks.progress.ended(self._mount.name)
        cluster.checks.cuts.written(self._position, self._tick, record.timestamp)
        self._position = (self._position + 1) % len(cluster.shards)
        if self._position == 0:
            self._tick += 1
        pause_ns = self._random.choice((0, 0, self._random.randrange(THINK_NS)))
        cluster.agenda.after(pause_ns, self._put)


class Reader:
    """Reads of the past, of times below the frontier and above."""

    def __init__(self, cluster: Cluster, mount: Mount, random: Random) -> None:
        self._cluster = cluster
        self._mount = mount
        self._random = random
        cluster.agenda.after(random.randrange(THINK_NS), self._read)

    def _read(self) -> None:
        cluster = self._cluster
        if not self._mount.alive or cluster.resting:
            return
        timestamp = self._some_time()
        what = f"a read at {timestamp}"
        cluster.checks.progress.began(f"{self._mount.name}.read", cluster.agenda.now_ns, what)
        self._mount.settle(
            timestamp, cluster.shards, READ_TIMEOUT_NS, partial(self._settled, timestamp)
        )

    def _some_time(self) -> int:
        """Near what the ticker did, near what is known here, or a bit in the future."""
        random, ends = self._random, self._cluster.checks.cuts.ends()
        draw = random.random()
        if draw < 0.4 and ends:
            return random.choice(ends[-5:]) + random.choice((-1, 0, 0, 1))
        frontier = min(face.frontier[0] for face in self._mount.faces.values())
        if draw < 0.7 and frontier:
            return frontier - random.randrange(200_000)
        return max(1, self._mount.seen + random.randrange(-20_000, 60_000))

    def _settled(self, timestamp: int, complete: bool) -> None:
        cluster, mount = self._cluster, self._mount
        cluster.checks.progress.ended(f"{mount.name}.read")
        cluster.checks.counts["reads of a cut" if complete else "reads refused (EAGAIN)"] += 1
        if complete:
            self._look(timestamp)
        if mount.alive:
            cluster.agenda.after(self._random.randrange(2 * THINK_NS), self._read)
        # What was read is caused by what was there: what follows is stamped above.
        mount.seen = max(mount.seen, timestamp if complete else 0)

    def _look(self, timestamp: int) -> None:
        checks, mount = self._cluster.checks, self._mount
        values = []
        for shard, face in mount.faces.items():
            state = face.registers.at(tick_name(shard), timestamp)
            values.append(state.value)
            for name in NAMES:
                checks.read(mount.name, shard, name, timestamp, face.registers.at(name, timestamp))
        checks.cuts.read(mount.name, timestamp, values)
