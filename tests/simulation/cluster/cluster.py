"""A whole cluster from one seed: machines, authority, network, mounts, programs, and a world that makes trouble.

A run has three parts. *Calm*: shards are made and get their members. *Trouble*: for some seconds of virtual time programs work and
everything that `Faults` knows goes wrong. *Healing*: faults end; within a bounded time everybody must have what they
asked for, and then all that checkers can say at the end is said. No thread, socket, task or clock is involved;
the same seed gives the same history to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from storage.membership.contract import Change
from storage.membership.reconfigure import Patience
from storage.membership.values import Node, Pool, Shard
from storage.replication import Options, Replica
from storage.replication.messages import RECORD_KIND, Frame, Message
from storage.sequencer import open_envelope
from tests.simulation.cluster.agenda import MICROSECOND, MILLISECOND, SECOND, Agenda
from tests.simulation.cluster.authority import Authority
from tests.simulation.cluster.checkers.agreement import Committed
from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.checks import Checks
from tests.simulation.cluster.clocks import EPOCH_NS
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.mount import Mount
from tests.simulation.cluster.network import Network, Weather
from tests.simulation.cluster.node import Machine
from tests.simulation.cluster.trouble import Trouble
from tests.simulation.cluster.workload import Reader, Ticker, Writer

if TYPE_CHECKING:
    from storage.replication.ready import Epoch

__all__ = ["Cluster", "Plan"]

CALM_NS = 5 * SECOND
"""Shards get their members within so long, or something is wrong."""

PROGRESS_BOUND_NS = 15 * SECOND
"""After healing nobody waits longer; a lease and a few heartbeats is what it should take."""

STEP_NS = 50 * MILLISECOND


class Plan(NamedTuple):
    """How large a cluster is, and for how long it has trouble."""

    nodes: int
    shards: int
    replicas: int
    trouble_ns: int
    writers: int
    readers: int
    ttl_ns: int
    patience: Patience
    options: Options

    @classmethod
    def drawn(cls, random: Random) -> Plan:
        """One of the small clusters that most mistakes can be seen in."""
        nodes = random.randint(2, 6)
        replicas = min(nodes, random.choice((1, 2, 2, 3, 3, 3, 4, 5)))
        heartbeat_ms = random.choice((40, 100))
        return cls(
            nodes=nodes,
            shards=random.choice((1, 1, 2, 3)),
            replicas=replicas,
            trouble_ns=random.choice((2, 4, 8)) * SECOND,
            writers=random.choice((1, 2, 3)),
            readers=1,
            ttl_ns=random.choice((500, 1000)) * MILLISECOND,
            patience=Patience(
                stagger_ns=100 * MILLISECOND,
                silent_leader_ns=random.choice((0, 600)) * MILLISECOND,
                detached_ns=2 * SECOND,
                settle_ns=300 * MILLISECOND,
                home_ns=random.choice((1, 5)) * SECOND,
                replace_ns=random.choice((1, 20)) * SECOND,
            ),
            options=Options(
                durable=random.random() < 0.5,
                replicas_min=1 if random.random() < 0.8 else min(2, replicas),
                heartbeat_ms=heartbeat_ms,
                resend_ms=heartbeat_ms * 3,
                silence_ms=heartbeat_ms * 5,
                bound_ahead_ms=random.choice((50, 500, 2000)),
                window_frames=random.choice((8, 16_384)),
                batch_bytes=random.choice((100, 1024 * 1024)),
                read_bytes=random.choice((200, 256 * 1024)),
                caught_up_bytes=random.choice((1000, 1024 * 1024)),
            ),
        )


class Cluster:
    """See the module. `run` to the end, or a `Violation`."""

    def __init__(
        self,
        seed: int,
        *,
        plan: Plan | None = None,
        faults: Faults | None = None,
        make_replica: Callable[..., Replica] = Replica,
    ) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.plan = plan or Plan.drawn(random)
        self.faults = faults or Faults.drawn(random)
        self.options = self.plan.options
        self.make_replica = make_replica
        self.agenda = Agenda()
        self.network = Network(self.agenda, Random(random.random()), Weather())
        self.authority = Authority(self.agenda, self.network, self.plan.ttl_ns)
        self.shards = tuple(range(self.plan.shards))
        self.node_names = [f"n{at}" for at in range(self.plan.nodes)]
        self.checks = Checks(self.shards, PROGRESS_BOUND_NS)
        self.resting = False
        self.delivered = 0
        self.trace: Callable[[str], None] | None = None
        self._known: dict[int, dict[int, tuple[Frame, Committed]]] = {s: {} for s in self.shards}
        self._unique = 0
        self._mounts = 0
        self.machines = {
            name: Machine(self, name, Random(random.random())) for name in self.node_names
        }
        durability = "disk" if self.options.durable else "memory"
        pool = Pool("p", "/", self.plan.replicas, self.options.replicas_min, durability)
        made = [pool, *(Shard(shard, "p") for shard in self.shards)]
        made += [Node(name, ()) for name in self.node_names]
        self.authority.decide([Change(None, value) for value in made])
        self.mounts: list[Mount] = []

    # --- the run -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All of it."""
        try:
            self._run()
        except Violation as violation:
            raise self._again(violation) from violation
        except (AssertionError, Exception) as error:
            raise self._again(Violation("broke", f"{type(error).__name__}: {error}")) from error

    def _again(self, violation: Violation) -> Violation:
        self.say(f"VIOLATION {violation}")
        what = str(violation).removeprefix(f"{violation.checker}: ")
        return Violation(
            violation.checker,
            f"seed {self.seed}: {what}\nagain: scripts/simulate --seed {self.seed}",
        )

    def _run(self) -> None:
        self.faults.on = False
        self.start()
        self.work()
        self.gather(CALM_NS)
        trouble = Trouble(self)
        self.faults.on = True
        self.network.weather = self.faults.weather
        trouble.begin()
        self.agenda.run(self.agenda.now_ns + self.plan.trouble_ns)
        trouble.heal()
        if self.rest():
            self.finish()
        self._sum_up()

    def start(self) -> None:
        """Start the process on every machine."""
        for machine in self.machines.values():
            machine.start()
            self.authority.watch(machine.name, self._teller(machine))

    def work(self) -> None:
        """Begin what programs do; the ticker's mount is the first."""
        Ticker(self, self.mount(), Random(self.random.random()))
        for _ in range(self.plan.writers):
            Writer(self, self.mount(), Random(self.random.random()))
        for _ in range(self.plan.readers):
            Reader(self, self.mount(), Random(self.random.random()))

    def gather(self, bound_ns: int) -> None:
        """Go on until every shard has all its members."""
        until_ns = self.agenda.now_ns + bound_ns
        while not all(self._complete(shard) for shard in self.shards):
            if self.agenda.now_ns > until_ns:
                raise Violation("progress", f"shards lack members: {self.authority.view.epochs}")
            self.agenda.run(self.agenda.now_ns + STEP_NS)

    def _teller(self, machine: Machine) -> Callable[..., None]:
        return lambda view: machine.node.enter(machine.node.told, view) if machine.node else None

    def _complete(self, shard: int) -> bool:
        view = self.authority.view
        epoch = view.epochs.get(shard)
        return (
            epoch is not None
            and len(epoch.members) == self.plan.replicas
            and set(epoch.members) == set(view.shards[shard].wished)
        )

    def rest(self) -> bool:
        """No more faults: everything asked for gets done. False if too much was taken for that."""
        healed_ns = self.agenda.now_ns
        self.resting = True
        if not all(self.survivors(shard) for shard in self.shards):
            # More than a pool promises to survive, such as a member that went on alone and then lost its disk.
            self.checks.counts["runs in which a shard lost all that had it"] += 1
            return False
        while not self.checks.progress.at_rest():
            self.agenda.run(self.agenda.now_ns + STEP_NS)
            self.checks.progress.check(self.agenda.now_ns, healed_ns)
        self._read_everything()
        return True

    def _read_everything(self) -> None:
        """Everybody can read at the newest time that anybody has seen, and finds every past as it was."""
        newest = max(mount.seen for mount in self.mounts)
        # A clock that was ahead has stamped ahead; nobody can promise what is still to come.
        self.agenda.run(newest * MICROSECOND - EPOCH_NS)
        healed_ns = self.agenda.now_ns
        for mount in self.mounts:
            if mount.alive:
                name = f"{mount.name}.last"
                self.checks.progress.began(name, self.agenda.now_ns, f"a read at {newest}")
                mount.settle(
                    newest,
                    self.shards,
                    100 * SECOND,
                    lambda _, n=name: self.checks.progress.ended(n),
                )
        while not self.checks.progress.at_rest():
            self.agenda.run(self.agenda.now_ns + STEP_NS)
            self.checks.progress.check(self.agenda.now_ns, healed_ns)
        # Members that were being filled when the last call was answered.
        self.gather(PROGRESS_BOUND_NS)
        self.agenda.run(self.agenda.now_ns + SECOND)
        for mount in self.mounts:
            if mount.alive:
                for shard, immutability in self.checks.immutability.items():
                    for name, timestamp in list(immutability.known):
                        state = mount.faces[shard].registers.at(name, timestamp)
                        immutability.read(mount.name, name, timestamp, state)

    def finish(self) -> None:
        """What can be said at the end."""
        for shard in self.shards:
            for member in self.authority.view.epochs[shard].members:
                frames = self.machines[member].platters[shard].frames
                self.checks.durability[shard].remain(member, self.records(shard, frames))
            self.checks.linearizability[shard].check()
            self.checks.counts["searches given up"] += self.checks.linearizability[shard].given_up

    def _sum_up(self) -> None:
        counts = self.checks.counts
        counts.update(self.faults.injected)
        counts.update({f"messages {what}": count for what, count in self.network.counts.items()})
        counts["events"] += self.agenda.made
        counts["virtual ms"] += self.agenda.now_ns // MILLISECOND

    # --- what the parts share ----------------------------------------------------------------------------------

    def say(self, what: str) -> None:
        """For who watches."""
        if self.trace is not None:
            self.trace(f"{self.agenda.now_ns / SECOND:10.6f} {what}")

    def unique(self) -> int:
        """A value nobody else puts."""
        self._unique += 1
        return self._unique

    def mount(self) -> Mount:
        """A new mount."""
        self._mounts += 1
        mount = Mount(self, f"m{self._mounts}", 1000 + self._mounts, Random(self.random.random()))
        self.mounts.append(mount)
        return mount

    def call_node(self, source: str, target: str, method: str, *arguments: object) -> None:
        """A message of a mount to a node."""
        self.network.send(source, target, self._call_node, target, method, arguments)

    def _call_node(self, target: str, method: str, arguments: Sequence[object]) -> None:
        node = self.machines[target].node
        if node is not None:
            node.enter(getattr(node, method), *arguments)

    def deliver(self, source: str, target: str, shard: int, message: Message) -> None:
        """A message of one replica to another."""
        self.delivered += 1
        node = self.machines[target].node
        if self.trace is not None:
            self.say(f"{source} > {target} {shard} {brief(message)}")
        if node is not None:
            node.enter(node.receive, source, shard, message)

    def committed(self, who: str, shard: int, frame: Frame, members: Sequence[str]) -> None:
        """A node holds that a frame is committed, in an epoch of these members."""
        known = self._known[shard].get(frame.index)
        if known is not None and known[0] is frame:
            return
        record = self.record(shard, frame)
        if known is None:
            self._known[shard][frame.index] = (frame, record)
        self.checks.committed(who, shard, record, self._held(shard, frame, members))

    def _held(self, shard: int, frame: Frame, members: Sequence[str]) -> Mapping[str, bool]:
        platters = {member: self.machines[member].platters.get(shard) for member in members}
        return {
            member: platter is not None and platter.held(frame)
            for member, platter in platters.items()
        }

    def on_disks(self, who: str, shard: int, index: int, epoch: Epoch) -> None:
        """A node holds that all members have everything up to a committed frame on their disks.

        Frames of older epochs may have been told of when the members were others.
        """
        frame, _ = self._known[shard][index]
        if frame.epoch != epoch.number:
            return
        members = epoch.members
        platters = {member: self.machines[member].platters.get(shard) for member in members}
        held = {
            member: platter is not None and platter.synced.get(index) == frame
            for member, platter in platters.items()
        }
        self.checks.durability[shard].on_disks(who, index, held)

    def record(self, shard: int, frame: Frame) -> Committed:
        """A frame as checkers and mounts see it."""
        known = self._known[shard].get(frame.index)
        if known is not None and known[0] is frame:
            return known[1]
        client, number, metadata = 0, 0, b""
        if frame.kind == RECORD_KIND:
            client, number, metadata = open_envelope(frame.kind, frame.metadata)
        return Committed(frame.index, frame.epoch, frame.timestamp, client, number, metadata)

    def records(self, shard: int, frames: Sequence[Frame]) -> list[Committed]:
        """Several."""
        return [self.record(shard, frame) for frame in frames]

    def survivors(self, shard: int) -> list[str]:
        """The members of the newest epoch that still have everything that may be committed."""
        epoch = self.authority.view.epochs.get(shard)
        found = []
        for member in epoch.members if epoch else ():
            machine = self.machines[member]
            platter = machine.platters.get(shard)
            if platter is not None and platter.note is not None and platter.note.in_sync:
                found.append(member)
        return found

    def end_at_step(self, machine: Machine) -> None:
        """A process ends in the middle of something; or the machine, where the pools survive it."""
        self.say(f"{machine.name} ends at a step")
        if self.random.random() < 0.5 and self.may_lose_memory(machine):
            machine.cut_power()
        else:
            machine.kill()
        self.agenda.after(self.faults.restarts_ns(), self.start_again, machine)

    def start_again(self, machine: Machine) -> None:
        """Somebody starts the process, unless it runs."""
        if machine.node is None:
            machine.start()

    def may_lose_memory(self, machine: Machine) -> bool:
        """Whether a power cut here leaves every shard with somebody who has it."""
        return self.options.durable or self.may_lose_disk(machine)

    def may_lose_disk(self, machine: Machine) -> bool:
        """Likewise of an exchanged disk."""
        return all(
            shard in self.authority.view.epochs and set(self.survivors(shard)) - {machine.name}
            for shard in self.shards
        )


def brief(message: Message) -> str:
    """A message for people."""
    text = repr(message)
    return text if len(text) < 300 else f"{text[:300]}..."
