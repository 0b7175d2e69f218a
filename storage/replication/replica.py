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
2. An epoch made by the leader of the last one has members out of that one's and `caught_up` learners. An epoch made by
   another of its members has members only out of that one's. Whoever makes one has `in_sync` and will
   be in it; it need not be the one that leads.
3. The leader of the new epoch is a member of the last one that is in sync.
4. A replica is told only of epochs that the authority holds, and the newest at its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.replication.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from storage.codec import Buffer
    from storage.replication.messages import Frame, Message
    from storage.replication.ready import Epoch, Frontier, Holdings, Note, Ready, Role, Verdict

__all__ = ["Replica"]


class Replica:
    """One shard's replica on one node."""

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

    # --- What others decide ---

    def adopt(self, now_ns: int, epoch: Epoch) -> None:
        """The authority has this epoch: serve in it, and in no older one. Ignored unless it is newer.

        As its leader: everything in the log is the truth from now on, and a frame of kind EPOCH goes behind it.
        """
        raise NotImplementedError

    def teach(self, now_ns: int, learners: Iterable[str]) -> None:
        """As the leader, fill the logs of these too, who are no members; all others are let go. Forgotten by `adopt`."""
        raise NotImplementedError

    lease_until_ns: int | None
    """Set by the driver. When it has passed, a leader proposes and commits only while all other members
    answer; alone in its epoch, not at all. None: no lease is needed (one process)."""

    options: Options
    """May be replaced as a whole, except `durable`."""

    # --- What happens ---

    def step(self, now_ns: int, sender: str, message: Message) -> None:
        """A message came; `sender` is who its connection belongs to."""
        raise NotImplementedError

    def tick(self, now_ns: int, wall_ns: int) -> None:
        """Time passes: call it every 20 to 50 ms, and whenever the wall clock matters."""
        raise NotImplementedError

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
        raise NotImplementedError

    def ask(self, now_ns: int, timestamp_us: int) -> None:
        """Somebody here waits for the frontier to reach this: have the leader see to it as soon as its clock is there."""
        raise NotImplementedError

    def appended(self, last_index: int) -> None:
        """The log has everything that `Ready.append` gave up to this index."""
        raise NotImplementedError

    def persisted(self, index: int) -> None:
        """A sync ended that covered everything up to this index. Not told of a sync that began before a later cut."""
        raise NotImplementedError

    def kept(self, note: Note) -> None:
        """`Ready.note` is kept."""
        raise NotImplementedError

    def supply(self, member: str, frames: Sequence[Frame]) -> None:
        """What a `Wanted` asked for, from its first index on; nothing if it could not be read, then it is asked again later.

        Every `Wanted` is answered once, in any later turn.
        """
        raise NotImplementedError

    def fail(self, why: str) -> None:
        """The own log refused a write or a sync: take part in nothing more, and tell the others.

        The way back is a new `Replica` on the log as it is found then.
        """
        raise NotImplementedError

    def ready(self) -> Ready | None:
        """What there is to do; None if nothing. Proposals that gathered since leave in one message to each member."""
        raise NotImplementedError

    # --- What is known ---

    @property
    def role(self) -> Role:
        """What this replica is now."""
        raise NotImplementedError

    @property
    def epoch(self) -> Epoch | None:
        """The epoch it serves in."""
        raise NotImplementedError

    @property
    def heard_epoch(self) -> int:
        """The newest epoch anybody spoke of. Greater than `epoch.number`: read the authority and `adopt`."""
        raise NotImplementedError

    @property
    def in_sync(self) -> bool:
        """A member whose log holds everything that may be committed: it may make the next epoch and lead it."""
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        """The last frame the log has, or was told to have."""
        raise NotImplementedError

    @property
    def commit_index(self) -> int:
        """Known here to be committed."""
        raise NotImplementedError

    @property
    def durable_index(self) -> int:
        """Known here to be on the disks of all members."""
        raise NotImplementedError

    @property
    def frontier(self) -> Frontier:
        """The newest that is published here. Never goes back."""
        raise NotImplementedError

    def silent(self, now_ns: int) -> frozenset[str]:
        """Others not heard from in this epoch for `silence_ms`: to a leader its members and learners, to a member its leader."""
        raise NotImplementedError

    @property
    def broken(self) -> Mapping[str, str]:
        """Members whose log takes nothing more, perhaps oneself, and why."""
        raise NotImplementedError

    @property
    def absent(self) -> frozenset[str]:
        """To a leader: members that lost what they had (`Report.in_sync` is False). It fills them, and commits wait for them: better go
        on without, and take them in again as learners."""
        raise NotImplementedError

    @property
    def caught_up(self) -> frozenset[str]:
        """To a leader: learners that have nearly everything, so the next epoch may have them as members."""
        raise NotImplementedError

    @property
    def trouble(self) -> str | None:
        """A bug was met, here or in a peer, that would have lost what is committed: the replica is BROKEN and this says why."""
        raise NotImplementedError
