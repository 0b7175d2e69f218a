"""One replica of one shard: inside an epoch and from one epoch to the next (CLUSTER, DESIGN 7).

A pure object, driven: `step` with messages, `tick` with time, `adopt` with what the authority decided; then `ready` says
what to write and send. It waits for nothing, owns no log and no connection. Single-threaded: all calls from one
thread, none from within another.

    while (ready := replica.ready()) is not None:
        note -> cut -> append, replica.appended(i) -> sync -> send -> wanted -> publish commit_index and frontier

Time: `now_ns` is the process's monotonic clock everywhere; it measures silence and leases. Stamps need the wall clock:
`tick` brings both, and between two ticks the wall clock is taken to run like the other.

What decides who leads is elsewhere (`storage.membership`). What it has to keep to, for the argument in
CLUSTER to hold:

1. Epochs are numbered 1, 2, 3 ... by compare-and-swap; each names one leader.
2. Whoever makes the next epoch serves in the last one, is `in_sync` and will be in the new one; it need not be the one that
   leads. The leader of the last one may take in `caught_up` learners; anybody else makes the new
   members out of the old ones.
3. The leader of the new epoch is a member of the last one that is in sync; unless nobody is, then the epoch is `forced`.
4. A replica is told only of epochs that the authority holds, and the newest at its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.clock import HybridClock
from storage.replication.follower import Diverged, Follower
from storage.replication.frontier import Bound, Published
from storage.replication.holding import Holding
from storage.replication.leader import Leader
from storage.replication.messages import Ack, Append, Ask, Broken, Fenced, Inquire, Report
from storage.replication.options import Options
from storage.replication.ready import Ready, Role, Verdict
from storage.replication.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from storage.codec import Buffer
    from storage.replication.messages import Frame, Message
    from storage.replication.ready import Epoch, Frontier, Holdings, Note, Wanted

__all__ = ["Replica"]


class Replica:
    """One shard's replica on one node.

    Attributes:
        options: May be replaced as a whole, except `durable`.
        lease_until_ns: When it has passed, a leader proposes and commits only while all other members answer;
            alone in its epoch, not at all. None: no lease is needed (one process). Set by the driver.
        trouble: A bug was met, here or in a peer, that would have lost what is committed: the replica is BROKEN
            and this says why. None otherwise.
    """

    def __init__(
        self,
        member: str,
        holdings: Holdings,
        epoch: Epoch | None,
        now_ns: int,
        wall_ns: int,
        *,
        options: Options | None = None,
        last_number: Callable[[int], int] = lambda client: 0,
    ) -> None:
        """A replica on a log as it was found.

        Args:
            member: what the authority calls this replica: its node's name.
            holdings: what its log holds.
            epoch: the newest epoch of the authority, read just now; None only if there never was one. It is never led
                by this object, even if it names this member: the frames its leader sent in an earlier life may differ.
            now_ns: the monotonic clock.
            wall_ns: nanoseconds since 1970.
            options: bounds and times.
            last_number: the last number the state machine knows of a client, 0 for none; asked once for a client
                that has no frame among those seen here.
        """
        self.options = options = options or Options()
        self.lease_until_ns: int | None = None
        self.trouble: str | None = None
        self._member = member
        self._now_ns = now_ns
        self._offset_ns = wall_ns - now_ns
        self._holding = Holding(holdings, last_number, durable=options.durable)
        self._bound = Bound(holdings.note.bound_us, options.bound_ahead_ms * 1000)
        self._published = Published()
        self._clock = HybridClock(holdings.last_timestamp)
        self._heard = epoch.number if epoch is not None else 0
        self._standing = Standing(holdings.note, born=self._heard)
        self._epoch: Epoch | None = None
        self._leader: Leader | None = None
        self._follower: Follower | None = None
        self._broken: dict[str, str] = {}
        self._broken_told_ns = -(1 << 62)
        self._send: list[tuple[str, Message]] = []
        self._stirred = True  # Something happened since the last `ready`.
        self._told = (-1, 0, self._published.frontier)
        if epoch is not None:
            self._enter(epoch)

    # --- What others decide ---

    def adopt(self, now_ns: int, epoch: Epoch) -> None:
        """The authority has this epoch: serve in it, and in no older one. Ignored unless it is newer.

        As its leader: everything in the log is the truth from now on, and a frame of kind EPOCH goes behind it.
        """
        if self.role is Role.BROKEN or (self._epoch and epoch.number <= self._epoch.number):
            return
        self._now(now_ns)
        self._enter(epoch)
        if epoch.leader == self._member and self._standing.in_sync:
            self._leader = Leader(
                self._member,
                epoch,
                self._holding,
                self._clock,
                self._bound,
                self._published,
                self.options,
                now_ns,
                now_ns + self._offset_ns,
            )

    def _enter(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._heard = max(self._heard, epoch.number)
        leads = epoch.leader == self._member
        self._standing.enter(listed=self._member in epoch.members, forced=leads and epoch.forced)
        self._broken = {}
        self._leader = self._follower = None
        self._send.clear()  # What was said in an older epoch is of no use to anybody.
        if not leads:
            self._follower = Follower(
                epoch, self._holding, self._bound, self._published, self._now_ns
            )
        self._stirred = True

    def teach(self, now_ns: int, learners: Iterable[str]) -> None:
        """As the leader, fill the logs of these too, who are no members; all others are let go. Forgotten by `adopt`."""
        self._now(now_ns)
        if self._leader is not None:
            self._leader.teach(learners, self._member)
            self._stirred = True

    # --- What happens ---

    def step(self, now_ns: int, sender: str, message: Message) -> None:
        """A message came; `sender` is who its connection belongs to."""
        self._now(now_ns)
        number = self._epoch.number if self._epoch else 0
        self._heard = max(self._heard, message.epoch)
        if self.role is Role.BROKEN or message.epoch > number:
            return  # Of a newer epoch nothing can be judged before the authority was asked.
        self._stirred = True
        if message.epoch < self._heard:
            if not isinstance(message, Fenced):
                self._send.append((sender, Fenced(self._heard)))
            return
        if isinstance(message, Broken):
            if self._epoch and sender in self._epoch.members:
                self._broken[sender] = message.why
        elif self._leader is not None:
            self._lead(self._leader, sender, message)
        elif self._follower is not None and self._epoch and sender == self._epoch.leader:
            self._follow(self._follower, message)

    def _lead(self, leader: Leader, sender: str, message: Message) -> None:
        peer = leader.heard(sender)
        match message:
            case Ask() if peer is not None:
                leader.ask(message.timestamp_us)
            case Ack() if peer is not None:
                leader.acknowledged(peer, message)
            case Report() if peer is not None:
                leader.reported(peer, message)
            case _:
                pass  # From somebody who is no peer any more, or takes himself for the leader.

    def _follow(self, follower: Follower, message: Message) -> None:
        follower.heard_ns = self._now_ns
        match message:
            case Append():
                try:
                    follower.take(message, self._now_ns, self.options.heartbeat_ms * 500_000)
                except Diverged as diverged:
                    self.trouble = str(diverged)
                    self.fail(self.trouble)
            case Inquire():
                follower.inquired()
            case _:
                pass  # Nothing that a leader says.

    def tick(self, now_ns: int, wall_ns: int) -> None:
        """Time passes: call it every 20 to 50 ms, and whenever the wall clock matters."""
        self._offset_ns = wall_ns - now_ns
        self._now(now_ns)
        self._stirred = True
        if self._member in self._broken and not self._fenced:
            self._tell_broken()

    def _now(self, now_ns: int) -> None:
        self._now_ns = now_ns
        leader = self._leader
        if leader is not None:
            leader.now_ns = now_ns
            leader.wall_ns = now_ns + self._offset_ns
            leader.options = self.options
            leader.lease_until_ns = self.lease_until_ns

    def leads_from(self, now_ns: int) -> int | None:
        """The first index of the epoch, if this replica leads it and nobody else can meanwhile; else None.

        Once that is committed, so is everything anybody was ever told is, and what this replica calls committed is all there is.
        """
        leader = self._leader
        if leader is None or self._fenced:
            return None
        self._now(now_ns)
        return leader.start_index if leader.may_lead() else None

    def propose(
        self,
        now_ns: int,
        client: int,
        number: int,
        metadata: bytes,
        payload: Sequence[Buffer] = (),
        after_us: int = 0,
    ) -> Verdict:
        """Stamp a client's record and put it in order; only TAKEN changed anything.

        Args:
            now_ns: the monotonic clock.
            client: whose it is, 64 bits.
            number: its number, counted by the client from 1 without gap.
            metadata: the record.
            payload: its bytes, kept until all members have them: never changed by the caller again.
            after_us: the greatest stamp the author has seen on any shard; the record's will be greater.
        """
        leader = self._leader
        if leader is None or self._fenced:
            return Verdict.NOT_LEADING
        self._now(now_ns)
        self._stirred = True
        return leader.propose(client, number, metadata, payload, after_us)

    @property
    def _fenced(self) -> bool:
        return self._epoch is None or self._heard > self._epoch.number

    def ask(self, now_ns: int, timestamp_us: int) -> None:
        """Somebody here waits for the frontier to reach this: have the leader see to it as soon as its clock is there.

        Not remembered across a lost message or a change of leader: repeat it while there is still somebody waiting.
        """
        self._now(now_ns)
        self._stirred = True
        if self._leader is not None:
            self._leader.ask(timestamp_us)
        elif self._follower is not None:
            self._follower.ask(timestamp_us)

    def appended(self, last_index: int) -> None:
        """The log has everything that `Ready.append` gave up to this index."""
        self._holding.appended = last_index
        self._grown(have=not self._holding.durable)

    def persisted(self, index: int) -> None:
        """A sync ended that covered everything up to this index. Not told of a sync that began before a later cut."""
        if index > self._holding.persisted:
            self._holding.persisted = index
            self._grown(have=True)

    def _grown(self, *, have: bool) -> None:
        self._stirred = True
        assert self._holding.persisted <= self._holding.appended <= self._holding.last_index
        if self._leader is not None:
            if have and not self._fenced:
                self._leader.advance()
        elif self._follower is not None:
            self._follower.grown(have=have)

    def kept(self, note: Note) -> None:
        """`Ready.note` is kept."""
        self._standing.kept(note)
        self._bound.kept(note.bound_us)
        self._stirred = True

    def supply(self, member: str, frames: Sequence[Frame]) -> None:
        """What a `Wanted` asked for, from its first index on; nothing if it could not be read, then it is asked again later.

        Every `Wanted` is answered once, in any later turn.
        """
        if self._leader is not None:
            self._leader.supply(member, frames)
            self._stirred = True

    def fail(self, why: str) -> None:
        """The own log refused a write or a sync: take part in nothing more, and tell the others.

        The way back is a new `Replica` on the log as it is found then; in sync only if that surely holds all that
        was acknowledged, which after a failed sync it does not unless the pool is durable.
        """
        self._leader = self._follower = None
        self._broken[self._member] = why.encode(errors="replace").decode()  # It goes on a wire.
        self._send.clear()
        self._tell_broken(at_once=True)

    def _tell_broken(self, *, at_once: bool = False) -> None:
        if self._epoch is None:
            return
        if (
            not at_once
            and self._now_ns - self._broken_told_ns < self.options.heartbeat_ms * 1_000_000
        ):
            return
        self._broken_told_ns = self._now_ns
        message = Broken(self._epoch.number, self._broken[self._member])
        self._send += [(name, message) for name in self._epoch.members if name != self._member]
        self._stirred = True

    def ready(self) -> Ready | None:
        """What there is to do; None if nothing. Proposals that gathered since leave in one message to each member."""
        if not self._stirred:
            return None
        self._stirred = False
        holding = self._holding
        published = self._published
        wanted: tuple[Wanted, ...] = ()
        leader, follower = self._leader, self._follower
        if leader is not None and not self._fenced:
            leader.flush()
            self._send += leader.send
            wanted = tuple(leader.wanted)
            leader.send.clear()
            leader.wanted.clear()
        elif follower is not None and not self._fenced:
            self._follow_up(follower)
        cut, append = (None, ()) if self._member in self._broken else holding.take_orders()
        told = (holding.commit_index, published.durable_index, published.frontier)
        note = self._standing.take_note(self._bound.wanted_us)
        sync = self._member not in self._broken and holding.take_sync()
        send = tuple(self._send)
        self._send.clear()
        if not (send or append or wanted or sync or cut is not None or note or told != self._told):
            return None
        self._told = told
        return Ready(note, cut, append, sync, send, wanted, *told)

    def _follow_up(self, follower: Follower) -> None:
        epoch = self._epoch
        assert epoch is not None
        listed = self._member in epoch.members
        if listed and follower.has_start:
            self._standing.has_start(epoch.number)
        if self._standing.may_speak:
            lost = listed and self._standing.is_lost(epoch.number)
            self._send += [(epoch.leader, message) for message in follower.flush(lost=lost)]

    # --- What is known ---

    @property
    def role(self) -> Role:
        """What this replica is now."""
        if self._member in self._broken:
            return Role.BROKEN
        if self._leader is not None:
            return Role.LEADER
        if self._follower is None or self._epoch is None:
            return Role.IDLE
        return Role.FOLLOWER if self._member in self._epoch.members else Role.LEARNER

    @property
    def epoch(self) -> Epoch | None:
        """The epoch it serves in."""
        return self._epoch

    @property
    def heard_epoch(self) -> int:
        """The newest epoch anybody spoke of. Greater than `epoch.number`: read the authority and `adopt`."""
        return self._heard

    @property
    def in_sync(self) -> bool:
        """A member whose log holds everything that may be committed: it may make the next epoch and lead it."""
        return self._standing.in_sync and self._member not in self._broken

    @property
    def last_index(self) -> int:
        """The last frame the log has, or was told to have."""
        return self._holding.last_index

    def last_number(self, client: int) -> int:
        """The last number of a client that the log has, or the state machine knows; 0 for none."""
        return self._holding.sessions.last(client)

    def settled_numbers(self) -> dict[int, int]:
        """The last number of each client met here that no cut takes back. Of a replica that ends: it forgets later ones."""
        return self._holding.sessions.settled(self._holding.commit_index)

    @property
    def commit_index(self) -> int:
        """Known here to be committed."""
        return self._holding.commit_index

    @property
    def durable_index(self) -> int:
        """Known here to be on the disks of all members."""
        return self._published.durable_index

    @property
    def frontier(self) -> Frontier:
        """The newest that is published here. Never goes back in the life of this object; a driver that makes another keeps the greater."""
        return self._published.frontier

    def silent(self, now_ns: int) -> frozenset[str]:
        """Others not heard from in this epoch for `silence_ms`: to a leader its members and learners, to a member its leader."""
        self._now(now_ns)
        if self._leader is not None:
            return self._leader.silent()
        follower, epoch = self._follower, self._epoch
        if follower is None or epoch is None:
            return frozenset()
        silent = now_ns - follower.heard_ns > self.options.silence_ms * 1_000_000
        return frozenset((epoch.leader,)) if silent else frozenset()

    @property
    def broken(self) -> Mapping[str, str]:
        """Members whose log takes nothing more, perhaps oneself, and why."""
        return self._broken

    @property
    def absent(self) -> frozenset[str]:
        """To a leader: members that lost what they had (`Report.lost`).

        It fills them, and commits wait for them: better go on without, and take them in again as learners.
        """
        return self._leader.absent() if self._leader is not None else frozenset()

    @property
    def synced(self) -> frozenset[str]:
        """To a leader: members that acknowledged this epoch's first frame, so are in sync unless they are `absent`."""
        return self._leader.synced() if self._leader is not None else frozenset()

    @property
    def caught_up(self) -> frozenset[str]:
        """To a leader: learners that have nearly everything, so the next epoch may have them as members."""
        return self._leader.caught_up() if self._leader is not None else frozenset()
