"""A mount in the simulated cluster: a process that follows the committed stream of shards and proposes changes.

It does what `storage.sequencer` and `storage.wire` say a mount does: subscribes to any member, takes records in order without gap, begins
with another member when it hears nothing, sends its numbered proposals to whoever it thinks leads until they come by in the stream, and
answers from its own registers. Everything it sees is shown to the checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation.cluster.agenda import MILLISECOND
from tests.simulation.cluster.registers import Change, Registers, State, decode, encode

if TYPE_CHECKING:
    from tests.simulation.cluster.checkers.agreement import Committed
    from tests.simulation.cluster.cluster import Cluster

__all__ = ["Face", "Mount"]

PULSE_NS = 40 * MILLISECOND
"""How often a mount looks after what it waits for."""

SILENCE_NS = 250 * MILLISECOND
"""After so long without a word it asks somebody else."""

RESEND_NS = 120 * MILLISECOND
"""A proposal that has not come by is sent again."""

EXPECTING_NS = 10 * MILLISECOND
"""Several complaints of a gap within so long are one."""


class Pending(NamedTuple):
    """A proposal that has not come by."""

    change: Change
    done: Callable[[Committed, State], None]


class Waiting(NamedTuple):
    """A reader who waits for the frontier."""

    timestamp: int
    shards: Sequence[int]
    until_ns: int
    done: Callable[[bool], None]


class Face:
    """What a mount knows of one shard."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.registers = Registers()
        self.sessions: dict[int, int] = {}
        self.applied = 0
        self.frontier = (0, 0)
        self.epoch = 0
        self.leader = ""
        self.members: Sequence[str] = ()
        self.source = ""
        self.heard_ns = 0
        self.sent_ns = 0
        self.pending: dict[int, Pending] = {}
        self.numbered = 0

    def complete_to(self) -> int:
        """The time up to which the registers say everything."""
        timestamp, index = self.frontier
        return timestamp if self.applied >= index else 0


class Mount:
    """One process. It ends by `end`; then it does nothing more, and whoever waited hears nothing.

    Attributes:
        seen: The greatest timestamp it has been shown; what it proposes is stamped above.
        alive: False once it has ended.
    """

    def __init__(self, cluster: Cluster, name: str, client: int, random: Random) -> None:
        self.name = name
        self.client = client
        self.alive = True
        self.seen = 0
        self.faces = {shard: Face(shard) for shard in cluster.shards}
        self._cluster = cluster
        self._random = random
        self._waiting: list[Waiting] = []
        cluster.agenda.after(random.randrange(PULSE_NS), self._pulse)

    def end(self) -> None:
        """It is killed. Its readers hear nothing any more."""
        self.alive = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.done(False)

    # --- what workers call -------------------------------------------------------------------------------------

    def submit(self, shard: int, change: Change, done: Callable[[Committed, State], None]) -> None:
        """Propose a change; `done` is called when it has been applied here."""
        face = self.faces[shard]
        face.numbered += 1
        face.pending[face.numbered] = Pending(change, done)
        self._propose(face, [face.numbered])

    def settle(
        self,
        timestamp: int,
        shards: Sequence[int],
        timeout_ns: int,
        done: Callable[[bool], None],
    ) -> None:
        """Wait until every shard is complete up to a time; `done` is told whether it came to that."""
        until_ns = self._cluster.agenda.now_ns + timeout_ns
        self._waiting.append(Waiting(timestamp, shards, until_ns, done))
        for shard in shards:
            if self.faces[shard].complete_to() < timestamp:
                self._ask_frontier(shard, timestamp)
        self._serve_waiting()

    # --- what nodes call ---------------------------------------------------------------------------------------

    def told_epoch(self, shard: int, epoch: int, leader: str, members: Sequence[str]) -> None:
        """A node says who leads, and who has the records."""
        face = self.faces[shard]
        if not self.alive or epoch < face.epoch:
            return
        changed = (epoch, leader) != (face.epoch, face.leader)
        face.epoch, face.leader, face.members = epoch, leader, members
        if face.source not in members:
            face.source = ""
        if changed and leader:
            self._propose(face, list(face.pending))

    def expecting(self, shard: int) -> None:
        """The leader misses proposals of ours."""
        face = self.faces[shard]
        if self.alive and self._cluster.agenda.now_ns - face.sent_ns > EXPECTING_NS:
            self._propose(face, list(face.pending))

    def records(
        self,
        source: str,
        shard: int,
        previous: int,
        records: Sequence[Committed],
        frontier: tuple[int, int],
    ) -> None:
        """A node we follow pushes what is committed behind the index `previous`."""
        face = self.faces[shard]
        if not self.alive or source != face.source:
            return
        face.heard_ns = self._cluster.agenda.now_ns
        if previous > face.applied:
            self._subscribe(face, source)
            return
        for record in records:
            if record.index == face.applied + 1:
                self._apply(face, record)
        if frontier > face.frontier:
            face.frontier = frontier
            self._cluster.checks.published(self.name, shard, *frontier)
        self._serve_waiting()

    # --- inside ------------------------------------------------------------------------------------------------

    def _apply(self, face: Face, record: Committed) -> None:
        face.applied = record.index
        self.seen = max(self.seen, record.timestamp)
        self._cluster.checks.followed(self.name, face.shard, record)
        if not record.client:
            return  # The first frame of an epoch.
        if record.number != face.sessions.get(record.client, 0) + 1:
            return  # `storage.namespace.sessions`: only a client's next request has an effect.
        face.sessions[record.client] = record.number
        state = face.registers.apply(record.timestamp, decode(record.metadata))
        if record.client == self.client:
            pending = face.pending.pop(record.number)
            pending.done(record, state)

    def _pulse(self) -> None:
        if not self.alive:
            return
        now = self._cluster.agenda.now_ns
        for face in self.faces.values():
            if now - face.heard_ns > SILENCE_NS or not face.source:
                face.heard_ns = now
                self._subscribe(face, self._some_node(face))
            if face.pending and now - face.sent_ns > RESEND_NS:
                self._propose(face, list(face.pending))
                if self._random.random() < 0.2:  # What it knows of the leader may be old.
                    self._subscribe(face, self._some_node(face))
        self._serve_waiting()
        for waiting in self._waiting:
            for shard in waiting.shards:
                if self.faces[shard].complete_to() < waiting.timestamp:
                    self._ask_frontier(shard, waiting.timestamp)
        self._cluster.agenda.after(PULSE_NS, self._pulse)

    def _some_node(self, face: Face) -> str:
        """A member mostly; but what this mount takes for the members may be long gone."""
        if face.members and self._random.random() < 0.8:
            return self._random.choice(face.members)
        return self._random.choice(self._cluster.node_names)

    def _serve_waiting(self) -> None:
        if not self._waiting:
            return
        now, still, ready = self._cluster.agenda.now_ns, [], []
        for waiting in self._waiting:
            complete = all(
                self.faces[shard].complete_to() >= waiting.timestamp for shard in waiting.shards
            )
            if complete or now >= waiting.until_ns:
                ready.append((waiting, complete))
            else:
                still.append(waiting)
        self._waiting = still
        for waiting, complete in ready:
            waiting.done(complete)

    def _subscribe(self, face: Face, source: str) -> None:
        face.source = source
        self._cluster.call_node(self.name, source, "subscribe", self, face.shard, face.applied)

    def _propose(self, face: Face, numbers: Sequence[int]) -> None:
        face.sent_ns = self._cluster.agenda.now_ns
        if numbers and face.leader:
            proposals = [(number, encode(face.pending[number].change)) for number in numbers]
            self._cluster.call_node(
                self.name, face.leader, "propose", self, face.shard, proposals, self.seen
            )

    def _ask_frontier(self, shard: int, timestamp: int) -> None:
        leader = self.faces[shard].leader
        if leader:
            self._cluster.call_node(self.name, leader, "ask_frontier", shard, timestamp)
