"""Drives one replica in a simulated process: what `storage.member` is in a real one.

It does what `Ready` says, in its order, on a `Platter` and the simulated network, and pushes what is committed to
the mounts that subscribed. The disk takes its time, may be full, and is behind when the power goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from storage.replication.messages import RECORD_KIND, Frame, Message
from storage.replication.ready import Epoch, Note, Role, Verdict, Wanted
from storage.sequencer import open_envelope
from tests.simulation.cluster.agenda import MICROSECOND
from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.platter import DiskFull

if TYPE_CHECKING:
    from storage.replication.ready import Ready
    from tests.simulation.cluster.mount import Mount
    from tests.simulation.cluster.node import Node
    from tests.simulation.cluster.platter import Platter

__all__ = ["Seat"]

PUSH_RECORDS_MAX = 64
SUPPLY_FRAMES_MAX = 32
BACKGROUND_SYNC_PROBABILITY = 0.05
"""At a tick; a pool in memory is synced now and then as well, for those who wait for it."""

WRITE_NOTE_NS = 100 * MICROSECOND
READ_LOG_NS = 200 * MICROSECOND


class Seat:
    """One shard's replica in one process.

    Attributes:
        replica: The core.
        pushed: By mount what it was pushed last.
    """

    def __init__(
        self, node: Node, shard: int, platter: Platter, epoch: Epoch | None, note: Note
    ) -> None:
        self.shard = shard
        self.platter = platter
        self.open = True
        self._node = node
        # A replica that is made anew in the same process may be told an older frontier by its leader.
        self._name = f"{node.incarnation}.{node.opened}"
        self._cluster = node.cluster
        self._random = Random(node.random.random())
        self._subscribers: dict[Mount, int] = {}
        self._sessions: dict[int, int] = {}
        self._notes: deque[Note] = deque()
        self._syncing = False
        self._sync_again = False
        self._cuts = 0
        self._pumping = False
        self._frontier = (0, 0)
        self._durable = 0
        assert platter.applied <= len(platter.frames)
        platter.applied = self._known_committed()
        self._apply(1, platter.applied)
        self.replica = self._cluster.make_replica(
            node.name,
            platter.holdings(platter.applied, note),
            epoch,
            node.now_ns(),
            node.wall_ns(),
            options=self._cluster.options,
            last_number=lambda client: self._sessions.get(client, 0),
        )
        self._committed = platter.applied

    def _known_committed(self) -> int:
        """What the table beside the log has applied: it may be behind what was applied when the process ended."""
        return (
            self.platter.applied
            if self._random.random() < 0.5
            else self._random.randint(0, self.platter.applied)
        )

    # --- what happens ------------------------------------------------------------------------------------------

    def step(self, sender: str, message: Message) -> None:
        """A message of another member."""
        self.replica.step(self._node.now_ns(), sender, message)
        self.pump()

    def tick(self) -> None:
        """Time passes."""
        self.replica.lease_until_ns = self._node.lease_until_ns
        self.replica.tick(self._node.now_ns(), self._node.wall_ns())
        if self._random.random() < BACKGROUND_SYNC_PROBABILITY and not self._syncing:
            self._sync()
        self.pump()

    def adopt(self, epoch: Epoch) -> None:
        """The authority has an epoch."""
        known = self.replica.epoch
        if known is None or epoch.number > known.number:
            self.replica.adopt(self._node.now_ns(), epoch)
            self.pump()
            for mount in self._subscribers:
                self.tell_epoch(mount)

    def teach(self, learners: Iterable[str]) -> None:
        """Nodes that should become members."""
        self.replica.teach(self._node.now_ns(), learners)
        self.pump()

    def propose(self, mount: Mount, proposals: list[tuple[int, bytes]], after_us: int) -> None:
        """Proposals of a mount, in order."""
        for number, metadata in proposals:
            verdict = self.replica.propose(
                self._node.now_ns(), mount.client, number, metadata, (), after_us
            )
            self._cluster.checks.counts[f"proposals {verdict.name}"] += 1
            if verdict is Verdict.NOT_LEADING:
                self.tell_epoch(mount)
                break
            if verdict is Verdict.EARLY:
                self._node.call_mount(mount, "expecting", self.shard)
                break
            if verdict not in (Verdict.TAKEN, Verdict.KNOWN):
                break
        self.pump()

    def ask_frontier(self, timestamp: int) -> None:
        """A reader waits."""
        self.replica.ask(self._node.now_ns(), timestamp)
        self.pump()

    # --- doing what the core says ------------------------------------------------------------------------------

    def pump(self) -> None:
        """All there is to do now. A process can end between any two steps."""
        assert not self._pumping
        self._pumping = True
        while self.open and (ready := self.replica.ready()) is not None:
            self._obey(ready)
        self._pumping = False
        if self.open and self.replica.role is Role.BROKEN:
            if self.replica.trouble is not None:
                raise Violation("trouble", f"{self._node.incarnation}: {self.replica.trouble}")
            self._node.seat_broke(self)

    def _obey(self, ready: Ready) -> None:
        if ready.note is not None:
            self._notes.append(ready.note)
            if len(self._notes) == 1:
                self._node.after(self._note_ns(), self._keep)
        if ready.cut is not None:
            self._cuts += 1
            self._cluster.checks.counts["frames cut"] += len(self.platter.frames) - ready.cut
            self.platter.cut(ready.cut)
            self._node.may_end("after a cut")
        if ready.append and self.open:
            try:
                self.platter.append(ready.append)
            except DiskFull:
                self.replica.fail("no space left")
                return
            self._node.may_end("after an append")
            if self.open:
                self.replica.appended(ready.append[-1].index)
        if ready.sync and self.open:
            self._sync()
        for member, message in ready.send:
            if not self.open:
                return
            self._node.send(member, self.shard, message)
            self._node.may_end("between two messages")
        for wanted in ready.wanted:
            self._node.after(READ_LOG_NS, self._supply, wanted)
        if self.open:
            self._publish(ready.commit_index, ready.frontier)
            self._check_durable(ready.durable_index)

    def _note_ns(self) -> int:
        return self._node.sync_ns() if self._cluster.options.durable else WRITE_NOTE_NS

    def _keep(self) -> None:
        if not self.open:
            return
        note = self._notes.popleft()
        self.platter.keep(note)
        self.replica.kept(note)
        if self._notes:
            self._node.after(self._note_ns(), self._keep)
        self.pump()

    def _sync(self) -> None:
        if self._syncing:
            self._sync_again = True
            return
        self._syncing = True
        changes, last = self.platter.begin_sync(), len(self.platter.frames)
        self._node.after(self._node.sync_ns(), self._synced, changes, last, self._cuts)

    def _synced(self, changes: int, last: int, cuts: int) -> None:
        if not self.open:
            return
        self._syncing = False
        if self._node.sync_fails():
            self.replica.fail("a sync failed")
            self.pump()
            return
        self.platter.end_sync(changes)
        if cuts == self._cuts:
            self.replica.persisted(last)
        if self._sync_again or cuts != self._cuts:
            self._sync_again = False
            self._sync()
        self.pump()

    def _supply(self, wanted: Wanted) -> None:
        if self.open:
            last = min(wanted.last_index, wanted.first_index + SUPPLY_FRAMES_MAX - 1)
            frames: list[Frame] = self.platter.frames[wanted.first_index - 1 : last]
            self.replica.supply(wanted.member, frames)
            self.pump()

    # --- what is committed -------------------------------------------------------------------------------------

    def _check_durable(self, index: int) -> None:
        if index > self._durable:
            self._durable = index
            epoch = self.replica.epoch
            assert epoch is not None
            self._cluster.on_disks(self._name, self.shard, index, epoch)

    def _publish(self, commit_index: int, frontier: tuple[int, int]) -> None:
        news = False
        if commit_index > self._committed:
            if commit_index > len(self.platter.frames):
                raise Violation(
                    "gaps",
                    f"{self._name} holds that {commit_index} is committed; its log ends at {len(self.platter.frames)}",
                )
            first = self._committed + 1
            self._committed = commit_index
            epoch = self.replica.epoch
            assert epoch is not None
            for frame in self.platter.frames[first - 1 : commit_index]:
                self._cluster.committed(self._name, self.shard, frame, epoch.members)
            self._apply(first, commit_index)
            news = True
        if frontier != self._frontier:
            self._frontier = frontier = (frontier[0], frontier[1])
            self._cluster.checks.published(self._name, self.shard, *frontier)
            news = True
        if news:
            for mount in self._subscribers:
                self._push(mount)

    def _apply(self, first: int, last: int) -> None:
        sessions = self._sessions
        for frame in self.platter.frames[first - 1 : last]:
            if frame.kind == RECORD_KIND:
                client, number, _ = open_envelope(frame.kind, frame.metadata)
                if number == sessions.get(client, 0) + 1:
                    sessions[client] = number
        self.platter.applied = last

    # --- mounts ------------------------------------------------------------------------------------------------

    def subscribe(self, mount: Mount, index: int) -> None:
        """Push to a mount what is committed behind an index."""
        self._subscribers[mount] = index
        self.tell_epoch(mount)
        self._push(mount)

    def _push(self, mount: Mount) -> None:
        if not mount.alive:
            return
        previous = self._subscribers[mount]
        last = max(previous, min(self._committed, previous + PUSH_RECORDS_MAX))
        records = self._cluster.records(self.shard, self.platter.frames[previous:last])
        self._subscribers[mount] = last
        self._node.call_mount(
            mount, "records", self._node.name, self.shard, previous, records, self._frontier
        )
        if last < self._committed:
            self._node.after(MICROSECOND, self._push_on, mount)

    def _push_on(self, mount: Mount) -> None:
        if self.open:
            self._push(mount)

    def tell_epoch(self, mount: Mount) -> None:
        """Who leads, as far as this node knows."""
        epoch = self.replica.epoch
        if epoch is not None:
            self._node.call_mount(
                mount, "told_epoch", self.shard, epoch.number, epoch.leader, epoch.members
            )
