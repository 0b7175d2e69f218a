"""What a replica asks of its driver: plain values."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from storage.replication.messages import Frame, Message  # noqa: TC001  # msgspec and tests read the annotations

__all__ = ["Epoch", "Frontier", "Holdings", "Note", "Ready", "Role", "Verdict", "Wanted"]


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """One membership of the shard and its leader, as the authority recorded it.

    Invariants: number >= 1; leader in members; no member twice.
    """

    number: int
    leader: str
    members: tuple[str, ...]
    forced: bool = False
    """Nobody in sync was left: the leader's log counts as the truth, whatever it lacks (CLUSTER, "Coming back")."""

    def __post_init__(self) -> None:
        assert self.number >= 1
        assert self.leader in self.members
        assert len(set(self.members)) == len(self.members)


class Role(enum.Enum):
    """What a replica is in its epoch."""

    LEADER = "orders and sends"
    FOLLOWER = "a member that is not the leader"
    LEARNER = "no member; may be filled"
    IDLE = "leader by the record, from an earlier life: a new epoch is needed. Or no epoch yet"
    BROKEN = "its log takes nothing more"


class Verdict(enum.Enum):
    """What became of a proposal."""

    TAKEN = "stamped and on its way; it commits unless this leader is deposed first"
    KNOWN = "the log has that number of the client already, or a later one: nothing was done"
    EARLY = "numbers before it are missing: send them first"
    FULL = "too much is on its way; ask again when something was committed"
    PAUSED = "fewer members than replicas_min"
    NOT_LEADING = "not the leader, or not surely (lease, newer epoch heard of)"
    AHEAD = "its author saw a stamp too far in the future of this clock"


class Note(NamedTuple):
    """What a replica must not forget, beside its log: 9 bytes that change rarely.

    Kept as safely as the log itself: written for memory durability, synced for disk durability. Without one (a new
    log, or one that may have lost something it acknowledged) a replica starts with ``Note(0, False)``; a bound that is found is good in any case.
    """

    bound_us: int
    """A leader that this replica becomes stamps above it."""
    in_sync: bool
    """The log holds everything that may have been committed, so this replica may lead the next epoch."""


class Frontier(NamedTuple):
    """No later commit is stamped at or below `timestamp_us`; whatever is, has an index up to `index`, and is committed."""

    timestamp_us: int
    index: int  # type: ignore[assignment]  # the glossary's word; tuple.index is not wanted here


class Holdings(NamedTuple):
    """What a log holds when a replica starts on it."""

    last_index: int = 0
    last_timestamp: int = 0
    durable_index: int = 0
    commit_index: int = 0
    """Known to be committed (what was applied is). Invariant: commit_index, durable_index <= last_index."""
    lineage: tuple[tuple[int, int], ...] = ()
    """(epoch, first index) of the log's epochs, ascending in both; what the newest frame of kind EPOCH says
    (`lineage.decode`), and any frames of later epochs. Of a log from before there were several members: ((1, 1),)."""
    requests: tuple[tuple[int, int, int], ...] = ()
    """(index, client, number) of the frames of kind RECORD behind `commit_index`, in order."""
    note: Note = Note(0, False)


class Wanted(NamedTuple):
    """Please read frames of the own log for a member, and hand them to `Replica.supply`."""

    member: str
    first_index: int
    last_index: int
    bytes_max: int
    """Stop when so many are reached; one frame always goes."""


class Ready(NamedTuple):
    """What to do now, in this order. The driver does all of it before it asks for the next."""

    note: Note | None = None
    """Keep this; then call `Replica.kept`. May take its time, nothing else waits for it."""
    cut: int | None = None
    """Drop all frames above this index from the log."""
    append: tuple[Frame, ...] = ()
    """Put these at the end of the log, then call `Replica.appended`; on an error, `Replica.fail`."""
    sync: bool = False
    """Somebody waits for the disk: begin a sync unless one runs that covers all; then call `Replica.persisted`."""
    send: tuple[tuple[str, Message], ...] = ()
    """To these members. Those that cannot be sent are dropped; nothing is queued for who is not connected."""
    wanted: tuple[Wanted, ...] = ()
    commit_index: int = 0
    """Frames up to here are committed: give them to the state machine."""
    durable_index: int = 0
    """Frames up to here are on the disks of all members."""
    frontier: Frontier = Frontier(0, 0)
