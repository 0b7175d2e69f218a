"""A machine of the simulated cluster, and the process on it that holds replicas.

A `Machine` has what outlives a process: clocks and platters. A `Node` is one life of the process: it keeps its lease, follows
the authority's view, has a `Seat` for each shard that lies here, and asks for the next epoch when one is
needed. When it ends, everything that it still would have done is not done.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from storage.membership.reconfigure import Reconfigurer, Replica
from storage.membership.values import Epoch, Presence, View
from storage.replication.ready import Epoch as ReplicaEpoch
from storage.replication.ready import Note, Role
from tests.simulation.cluster.agenda import MILLISECOND
from tests.simulation.cluster.clocks import Clocks
from tests.simulation.cluster.platter import Platter
from tests.simulation.cluster.seat import Seat

if TYPE_CHECKING:
    from storage.membership.contract import Change
    from storage.replication.messages import Message
    from tests.simulation.cluster.cluster import Cluster
    from tests.simulation.cluster.mount import Mount

__all__ = ["Machine", "Node"]

TICK_NS = 25 * MILLISECOND
DECIDE_NS = 60 * MILLISECOND
ANSWER_NS = 400 * MILLISECOND
"""After so long an answer of the authority is not waited for any more."""

LEASE, NEWER_EPOCH, REOPENED = -1, -2, -3
"""What the authority is asked for, beside the changes of a shard."""

BROKEN_NS = 500 * MILLISECOND
"""A replica whose log failed is opened again so much later."""


class Machine:
    """What outlives a process.

    Attributes:
        node: The process, or None.
        platters: By shard.
        slow_disk_factor: How much longer syncs take.
    """

    def __init__(self, cluster: Cluster, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.cluster = cluster
        self.clocks = Clocks(
            cluster.agenda, random, cluster.faults.drift_ppm_max, cluster.faults.skewed
        )
        self.platters: dict[int, Platter] = {}
        self.node: Node | None = None
        self.starts = 0
        self.slow_disk_factor = 1

    def start(self) -> None:
        """The process starts."""
        assert self.node is None
        self.starts += 1
        self.node = Node(self)

    def kill(self) -> None:
        """The process ends; the kernel has all it wrote."""
        if self.node is not None:
            node, self.node = self.node, None
            node.end()

    def cut_power(self) -> None:
        """The machine goes down."""
        self.kill()
        for platter in self.platters.values():
            platter.cut_power(self.random)
        self.clocks.reboot()

    def wipe(self) -> None:
        """The disk is exchanged for an empty one."""
        self.kill()
        self.platters = {shard: platter.successor() for shard, platter in self.platters.items()}

    def platter(self, shard: int) -> Platter:
        """The disk's part for a shard, made when first asked for."""
        if shard not in self.platters:
            self.platters[shard] = Platter(self.cluster.options.durable)
        return self.platters[shard]


class Node:
    """One life of the process on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cluster = machine.cluster
        self.name = machine.name
        self.incarnation = f"{machine.name}.{machine.starts}"
        self.random = machine.random
        self.alive = True
        self.seats: dict[int, Seat] = {}
        self.view = View()
        self.lease_until_ns = 0
        self.opened = 0
        self._paused_until_ns = 0
        self._presence = Presence(machine.name, machine.starts, ())
        self._answer_until_ns: dict[int, int] = {}
        self._broken: set[int] = set()
        self._reconfigurer = Reconfigurer(self.name, self.cluster.plan.patience)
        self.after(self.random.randrange(TICK_NS), self._tick)
        self.after(self.random.randrange(DECIDE_NS), self._decide)
        self._keep_lease()

    def end(self) -> None:
        """It is killed."""
        self.alive = False
        for seat in self.seats.values():
            seat.open = False

    def pause(self, duration_ns: int) -> None:
        """It does nothing for a while, and then everything that came meanwhile."""
        self._paused_until_ns = self.cluster.agenda.now_ns + duration_ns

    # --- time --------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The monotonic clock."""
        return self.machine.clocks.monotonic_ns()

    def wall_ns(self) -> int:
        """The wall clock."""
        return self.machine.clocks.wall_ns()

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: object) -> None:
        """Do something later, if this process still lives then, and as soon as it runs."""
        self.cluster.agenda.after(delay_ns, self.enter, call, *arguments)

    def enter(self, call: Callable[..., None], *arguments: object) -> None:
        """Something happens to this process: now, after its pause, or never."""
        if not self.alive:
            return
        wait_ns = self._paused_until_ns - self.cluster.agenda.now_ns
        if wait_ns > 0:
            self.cluster.agenda.after(wait_ns, self.enter, call, *arguments)
        else:
            call(*arguments)

    def sync_ns(self) -> int:
        """How long a sync takes."""
        return self.cluster.faults.sync_ns(self.random) * self.machine.slow_disk_factor

    def sync_fails(self) -> bool:
        """Whether this one does."""
        return self.cluster.faults.happens(
            "syncs refused", self.cluster.faults.refused_sync_probability
        )

    def may_end(self, where: str) -> None:
        """A place where a process can end; the seed makes it do so more often than the world would."""
        faults = self.cluster.faults
        if faults.end_at_step_probability and faults.happens(
            f"ends {where}", faults.end_at_step_probability
        ):
            self.cluster.end_at_step(self.machine)

    # --- network -----------------------------------------------------------------------------------------------

    def send(self, target: str, shard: int, message: Message) -> None:
        """A message of the core to another machine's."""
        self.cluster.network.send(
            self.name, target, self.cluster.deliver, self.name, target, shard, message
        )

    def receive(self, sender: str, shard: int, message: Message) -> None:
        """One comes."""
        seat = self.seats.get(shard)
        if seat is not None:
            seat.step(sender, message)
            if seat.open:
                self._hear_epoch(seat)

    def _hear_epoch(self, seat: Seat) -> None:
        epoch = seat.replica.epoch
        if seat.replica.heard_epoch > (epoch.number if epoch else 0):
            self._ask(NEWER_EPOCH)

    def call_mount(self, mount: Mount, method: str, *arguments: object) -> None:
        """A message to a mount."""
        self.cluster.network.send(self.name, mount.name, getattr(mount, method), *arguments)

    def subscribe(self, mount: Mount, shard: int, index: int) -> None:
        """A mount wants a shard's records behind an index."""
        seat = self.seats.get(shard)
        if seat is not None:
            seat.subscribe(mount, index)
        elif shard in self.view.epochs:
            epoch = self.view.epochs[shard]
            self.call_mount(mount, "told_epoch", shard, epoch.epoch, epoch.leader, epoch.members)

    def propose(
        self, mount: Mount, shard: int, proposals: list[tuple[int, bytes]], after_us: int
    ) -> None:
        """A mount proposes."""
        seat = self.seats.get(shard)
        if seat is not None:
            seat.propose(mount, proposals, after_us)

    def ask_frontier(self, shard: int, timestamp: int) -> None:
        """A mount waits for a frontier."""
        seat = self.seats.get(shard)
        if seat is not None:
            seat.ask_frontier(timestamp)

    # --- the authority -----------------------------------------------------------------------------------------

    def _keep_lease(self) -> None:
        self._ask(LEASE)
        self.after(self.cluster.authority.ttl_ns // 4, self._keep_lease)

    def _ask(self, purpose: int) -> None:
        """Renew the lease, which reads the view as well; not twice at a time for one purpose."""
        now = self.cluster.agenda.now_ns
        if self._answer_until_ns.get(purpose, 0) > now:
            return
        self._answer_until_ns[purpose] = now + self.cluster.authority.ttl_ns // 8
        asked_ns = self.now_ns()

        def answered(view: View) -> None:
            # A node's clock may be slow: the authority's lease ends a bit earlier than ours would.
            until_ns = asked_ns + self.cluster.authority.ttl_ns * 9 // 10
            self.lease_until_ns = max(self.lease_until_ns, until_ns)
            self._see(view, fresh=True)

        self.cluster.authority.renew(
            self.name, self._presence, lambda view: self.enter(answered, view)
        )

    def told(self, view: View) -> None:
        """The authority's watch says what there is."""
        self._see(view, fresh=False)

    def _see(self, view: View, fresh: bool) -> None:
        if view.revision < self.view.revision:
            return
        self.view = view
        self._reconfigurer.see(self.now_ns(), view)
        for shard in view.shards:
            self._arrange(shard, fresh)
            if not self.alive:
                return

    def _arrange(self, shard: int, fresh: bool) -> None:
        """Have a seat where one is needed, in the epoch there is."""
        view, seat = self.view, self.seats.get(shard)
        epoch = view.epochs.get(shard)
        if epoch is None:
            return
        needed = self.name in epoch.members or self.name in view.shards[shard].wished
        if seat is None:
            if needed and fresh and shard not in self._broken:
                self.seats[shard] = self._open(shard, epoch)
        elif needed:
            seat.adopt(_of(epoch))
        else:
            seat.open = False
            del self.seats[shard]

    def _open(self, shard: int, epoch: Epoch | None) -> Seat:
        platter = self.machine.platter(shard)
        if platter.note is None:
            platter.keep(Note(0, False))
        assert platter.note is not None
        self.opened += 1
        return Seat(self, shard, platter, _of(epoch) if epoch else None, platter.note)

    def seat_broke(self, seat: Seat) -> None:
        """Its log took nothing more: it is opened again after a while."""
        if seat.shard not in self._broken:
            self._broken.add(seat.shard)
            self.after(BROKEN_NS, self._reopen, seat)

    def _reopen(self, seat: Seat) -> None:
        self._broken.discard(seat.shard)
        seat.open = False
        if self.seats.get(seat.shard) is seat:
            del self.seats[seat.shard]
        self._ask(REOPENED)

    # --- what a node does by itself ----------------------------------------------------------------------------

    def _tick(self) -> None:
        for seat in list(self.seats.values()):
            seat.tick()
            if not self.alive:
                return
            self._hear_epoch(seat)
        self.after(TICK_NS, self._tick)

    def _decide(self) -> None:
        new = self.view.shards.keys() - self.view.epochs.keys()
        for shard in sorted(self.seats.keys() | new):
            if self._answer_until_ns.get(shard, 0) <= self.cluster.agenda.now_ns:
                self._decide_for(shard, self.seats.get(shard))
            if not self.alive:
                return
        self.after(DECIDE_NS, self._decide)

    def _decide_for(self, shard: int, seat: Seat | None) -> None:
        decision = self._reconfigurer.decide(
            self.now_ns(), shard, self._knows(seat) if seat is not None else Replica()
        )
        if seat is not None and seat.replica.role is Role.LEADER:
            seat.teach(decision.learners)
        change = decision.change
        if change is None or not self.alive:
            return
        if change.old is None and seat is None:
            # So that a crash behind the change leaves somebody who may go on.
            self.machine.platter(shard).keep(Note(0, True))
            self.seats[shard] = self._open(shard, None)
        self._ask_for(shard, change, decision.why)

    def _knows(self, seat: Seat) -> Replica:
        replica = seat.replica
        return Replica(
            serves=replica.epoch.number if replica.epoch else 0,
            leads=replica.role is Role.LEADER,
            in_sync=replica.in_sync,
            silent=replica.silent(self.now_ns()),
            lost=frozenset(replica.broken) | replica.absent,
            caught_up=replica.caught_up,
            synced=replica.synced,
        )

    def _ask_for(self, shard: int, change: Change, why: str) -> None:
        self._answer_until_ns[shard] = self.cluster.agenda.now_ns + ANSWER_NS
        self.cluster.say(f"{self.name} asks for {change.new}: {why}")

        def answered(done: bool, view: View) -> None:
            self._answer_until_ns[shard] = 0
            self.cluster.checks.counts["changes made" if done else "changes refused"] += 1
            self._see(view, fresh=True)

        self.cluster.authority.change(
            self.name, [change], lambda done, view: self.enter(answered, done, view)
        )


def _of(epoch: Epoch) -> ReplicaEpoch:
    return ReplicaEpoch(epoch.epoch, epoch.leader, epoch.members, epoch.forced)
