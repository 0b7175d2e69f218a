"""What orders the records of one shard, as its faces see it: the contract, and the envelope records travel in.

A *face* is a table and a namespace that apply a shard's committed records in order (`storage.shard`); there is one in every
process that answers questions about the shard, on nodes and on mounts. A *sequencer* is its end of the line: it carries
proposals to the leader, again and again until they come by, and brings the committed stream. A proposal has no reply: its
proposer applies what comes by, others' records too, and knows the outcome when its own has been applied.

Records of clients are framed as kind `ENVELOPED`: client and number, 16 bytes, stand in front of the record. A client
numbers its proposals 1, 2, 3 ... for each shard; only the next number of a client has any effect (`storage.namespace.sessions`),
so what a change of leader made the sequencer send twice happens once.

Threads: the holder of the face (one thread at a time) calls `follow`, `submit` and `take`; `read`, `frontier`,
`ask_frontier`, `durable_index`, `wait_durable` and `last_index` come from any thread. None of them is called by the thread that runs the
network, and none waits for a lock that somebody holds while waiting for the face. Nothing here is a coroutine: who runs a
loop calls what waits on a worker thread.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from storage.errors import Corruption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.codec import Buffer
    from storage.log import Log
    from storage.member import MemoryLog
    from storage.snapshot import Snapshot

__all__ = [
    "ENVELOPED",
    "ENVELOPE_BYTES",
    "EPOCH",
    "PLAIN",
    "START",
    "SUBMITTED_BYTES_MAX",
    "SUBMITTED_MAX",
    "TAKEN_MAX",
    "Astray",
    "Place",
    "Rejected",
    "Sequenced",
    "Sequencer",
    "Unavailable",
    "open_envelope",
    "seal",
]

PLAIN: Final = 1
"""The frame kind of a record that is nobody's in particular: those of an embedded store, and a shard's first."""

ENVELOPED: Final = 2
"""The frame kind of a record with client and number in front of it."""

EPOCH: Final = 3
"""The frame kind of an epoch's first frame; no record is in it (`storage.replication`)."""

SUBMITTED_MAX: Final = 64
"""Proposals of one face that have not come by yet; the face keeps to it, so a sequencer needs no other bound."""

SUBMITTED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Likewise their payloads, together, unless it is a single one."""

TAKEN_MAX: Final = 1024
"""Records that one `take` answers at most."""

_ENVELOPE = struct.Struct("<QQ")
ENVELOPE_BYTES: Final = _ENVELOPE.size


class Unavailable(OSError):
    """The sequencer was closed: what was submitted and has not come by may commit yet, or not.

    A pause (no leader, no network) is not this: `take` answers nothing at its timeout, and goes on when there is one.
    """

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)


class Rejected(OSError):
    """The leader could not take a proposal (a full disk): nothing of it is in the log, nor of those behind it.

    `number` is the first that was given up, and the next to be submitted: by a record of nothing, for what was sent before may be
    on its way yet and would pass for another of that number.
    """

    def __init__(self, error_number: int, why: str, number: int) -> None:
        super().__init__(error_number, why)
        self.number = number


class Astray(Exception):
    """The place to follow from is not on this shard's log: the face's table belongs to something else and must go."""


class Place(NamedTuple):
    """A record's place in the log: where a face has come to."""

    index: int  # type: ignore[assignment]  # the glossary's word; tuple.index is not wanted here
    address: int
    checksum: int


START: Final = Place(0, 0, 0)
"""In front of the first record."""


class Sequenced(NamedTuple):
    """A committed record with its envelope taken off; `client` and `number` are 0 for a plain one.

    Its payload is read by the address, if anybody wants it. A record of the replication itself has empty metadata: it says nothing,
    and takes an index.
    """

    index: int  # type: ignore[assignment]  # as above
    timestamp: int
    address: int
    checksum: int
    client: int
    number: int
    metadata: bytes


class Sequencer(Protocol):
    """One face's end of a shard's line. See the module for who may call what from where."""

    shard: int
    identity: int
    """64 bits, the same on every member of the shard and for its whole life: what a face's table is marked with."""

    on_more: Callable[[], None] | None
    """Called, on any thread, when there is something new to take or a later frontier; must not wait. Set once, at first."""

    @property
    def log(self) -> Log | MemoryLog | None:
        """Where the shard's records lie, if that is in this process; the end may not be committed yet."""
        ...

    client: int
    """Whose proposals `submit` hands over: 64 bits, never 0, new for every start of a process and for each face."""

    def follow(self, place: Place) -> None:
        """Have `take` answer what comes behind `place`; once before everything else, and again to go back.

        Never waits for the network. Proposals submitted and not seen yet stay submitted.
        """
        ...

    def submit(
        self,
        number: int,
        metadata: bytes,
        payload: Sequence[Buffer],
        after: int = 0,
        *,
        more: bool = False,
    ) -> None:
        """Hand over proposal `number`, one more than the last; never waits for the network.

        `more`: the next follows before the caller waits for anything, and this one leaves together with it.

        Its timestamp will be greater than `after`, the greatest that the proposer has seen on any shard: so what it knew of lies
        before it in every cut.

        The sequencer sends it, and sends it again, until it comes by in the stream. `metadata` is the record without an envelope.
        `payload` is the sequencer's until then: the caller does not change it.

        Raises:
            Unavailable: closed; nothing was sent.
        """
        ...

    def take(self, timeout_s: float) -> list[Sequenced]:
        """The committed records behind the last taken, in order, at most `TAKEN_MAX`; waits until there is one.

        Empty at the timeout. 0 does not wait.

        Raises:
            Astray: the place that was followed from is not on this log.
            Corruption: a record on the way is damaged on every member.
            Rejected: proposals of this client were given up; once, and the stream goes on.
            Unavailable: closed, and nothing is left to take.
        """
        ...

    def wait_more(self, index: int, timeout_s: float) -> None:
        """Wait until what is behind an index has come, taken by now or not, or `take` has something to raise, or for so long.

        Any thread. `index` is that of the last record taken when the caller last looked, since which others may have taken more.
        """
        ...

    def frontier(self) -> tuple[int, int]:
        """(timestamp in microseconds, index): nothing will commit at or before it, and all that did is up to index.

        (0, 0) before the first is known. It never goes back.
        """
        ...

    def ask_frontier(self, timestamp: int) -> None:
        """Have the leader promise that much as soon as its clock allows; never waits, asked again until it is there."""
        ...

    def last_index(self) -> int:
        """The last committed index heard of; `take` may be behind it."""
        ...

    def certain_index(self) -> int:
        """What everything that anybody has committed before this call is at or below; waits for a leader that can say so.

        Raises:
            Unavailable: closed.
        """
        ...

    def durable_index(self) -> int:
        """Up to which index the shard's members have everything on their disks, or its pool asks for no more."""
        ...

    def wait_durable(self, index: int, timeout_s: float) -> bool:
        """Ask for it and wait until `durable_index` is at least `index`; False at the timeout.

        Raises:
            Unavailable: closed.
        """
        ...

    def read(self, address: int, offset: int, length: int) -> memoryview | bytes:
        """Payload bytes of a committed record: from the log, a cache, or a member, whoever has them; waits for them.

        Raises:
            Corruption: no member has them as they were written.
            Unavailable: closed while it waited.
        """
        ...

    def begin_anew(self) -> Snapshot:
        """Of a volatile shard, after `Astray`: the whole as a member has it, to follow from there; waits for it.

        What was submitted is given up, whatever becomes of it, and `client` is another, whose next number is 1.

        Raises:
            Unavailable: closed.
        """
        ...

    def close(self) -> None:
        """Nobody waits any more: whoever does gets `Unavailable`. Twice is no mistake."""
        ...


def seal(client: int, number: int, metadata: bytes) -> bytes:
    """The metadata of a frame of kind `ENVELOPED`."""
    return _ENVELOPE.pack(client, number) + metadata


def open_envelope(kind: int, metadata: bytes) -> tuple[int, int, bytes]:
    """(client, number, record) of a frame's metadata; client and number 0 for a plain one.

    Raises:
        Corruption: a kind this version does not know, or too short to be one.
    """
    if kind == PLAIN:
        return 0, 0, metadata
    if kind != ENVELOPED or len(metadata) <= ENVELOPE_BYTES:
        raise Corruption(f"a frame of kind {kind} with {len(metadata)} bytes holds no record")
    client, number = _ENVELOPE.unpack_from(metadata)
    return client, number, metadata[ENVELOPE_BYTES:]
