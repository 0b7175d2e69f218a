"""What processes of a cluster say to each other: mounts and clients to nodes, nodes to nodes (FORMAT, "Wire").

A transport message is one `Message`: a length, the lengths of the bulk parts, a msgpack array, tag first, and the bulk
parts end to end: one for each payload the message speaks of, never copied into it. All shards share a connection, so every
message about one names it. Nothing here is a call that blocks the connection: what is asked carries a number of the
asker's (`request`) that comes back in the answer, and what is subscribed to is pushed.

A connection begins with `Hello` and `Welcome`, or `Refusal` and its end. Then, for an observer of a shard (a mount,
or the face of another node): `Subscribe`, and from there on `Records`, `Epoch` and `Placement` come by themselves;
`Taken` opens the window again. For a proposer: `Propose` to the leader that the last `Epoch` named. No answer says
that a record was committed: it comes by in `Records`, with the proposer's own (client, number).

Knows no connection, no replication and no record. Pure.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeAlias

import msgspec

from storage.limits import METADATA_BYTES_MAX, PAYLOAD_BYTES_MAX
from storage.sequencer import ENVELOPE_BYTES, Sequenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = [
    "Answer",
    "Ask",
    "AskFrontier",
    "AskIndex",
    "Behind",
    "Call",
    "CancelLock",
    "ClaimLocks",
    "Epoch",
    "Expecting",
    "Hello",
    "KeepLocks",
    "Lock",
    "LockAnswer",
    "LockHolders",
    "LockHoldersKnown",
    "LocksKept",
    "Malformed",
    "Message",
    "Peer",
    "Place",
    "Placement",
    "Propose",
    "ReadFrame",
    "ReadPayload",
    "ReadSnapshot",
    "Record",
    "Records",
    "Refusal",
    "Rejected",
    "Stranger",
    "Subscribe",
    "Taken",
    "Unsubscribe",
    "WaitDurable",
    "Welcome",
    "decode",
    "encode",
]

VERSION: Final = 1
"""Of this protocol. Another number is refused in `Welcome`'s place."""

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Of `Records` that a subscriber has not `Taken` yet, at most; the last message may go over."""

RECORD_BYTES: Final = 64
"""What a record in `Records` counts for beside its metadata."""

BATCH_BYTES: Final = 256 * 1024
BATCH_RECORDS_MAX: Final = 1024
"""Records in one message: of so many bytes (the last may go over), and so many."""

PROPOSALS_MAX: Final = 256
"""Proposals in one message, with payloads of at most `PROPOSAL_BYTES` together (one always goes)."""

PROPOSAL_BYTES: Final = 4 * (PAYLOAD_BYTES_MAX + 4096)
"""A MiB of a file's content goes with its records."""

PARTS_MAX: Final = 64 * 1024
"""Bulk parts in one message: a batch of a program has one for each file."""

assert PROPOSAL_BYTES >= PAYLOAD_BYTES_MAX
assert PROPOSALS_MAX <= PARTS_MAX
assert WINDOW_BYTES >= BATCH_BYTES


Record: TypeAlias = Sequenced
"""A committed record as it is streamed, its envelope taken off and its payload left where it is. One without metadata is
nobody's: it only moves the place of who follows."""


class Place(NamedTuple):
    """Where a frame of the core stands in the leader's log, and so in everybody's."""

    address: int
    checksum: int
    """Of its head: what the frame must have at that address with its epoch, index, timestamp and bytes."""
    left_out_bytes: int = 0
    """Its payload is so long and was let go: none comes along ..."""
    left_out_checksum: int = 0
    """... and this is its checksum."""


Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""What all numbers are; below 2**64, because msgpack has no more."""

# --- beginning ------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """First of all, from who connected. Who that is, and of what role, the transport knows."""

    version: Natural = VERSION


class Welcome(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The other side agrees to talk."""

    version: Natural
    node: str


class Refusal(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """It does not, and ends the connection."""

    why: str


# --- the stream of a shard ------------------------------------------------------------------------------------------


class Subscribe(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Push the committed records of a shard behind one; (0, 0, 0) from the first. Replaces an earlier subscription."""

    shard: Natural
    index: Natural
    address: Natural
    checksum: Natural


class Unsubscribe(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Push no more."""

    shard: Natural


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """All records up to an index were taken out of the subscriber's queue: as much may be pushed again."""

    shard: Natural
    index: Natural


class Records(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Committed records in order, without gap behind the last pushed; none if only the rest is news."""

    shard: Natural
    records: list[Record]
    frontier: Natural
    """No later record of the shard will bear a timestamp at or below this one (microseconds) ..."""
    frontier_index: Natural
    """... and all that do are at or below this index."""
    durable: Natural
    """Records up to this index are on the disks of all members."""


class Stranger(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """The record a `Subscribe` begins behind is not in this shard: the subscriber's state is of something else.

    It begins anew from the first record. What it asked for is not subscribed.
    """

    shard: Natural
    index: Natural


class Epoch(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Who leads a shard. Pushed with a subscription and at each change; also the answer to what only a leader takes.

    Who has proposals that have not come by sends them again, in order, to the leader named; (epoch, "") while there
    is none that this node knows.
    """

    shard: Natural
    epoch: Natural
    leader: str
    members: list[str]


# --- proposing ------------------------------------------------------------------------------------------------------


class Propose(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Records to be appended, of one client, numbers in order. Each has its payload as a part, if it has one.

    (number, payload_length, metadata). A client's first number is 1, and each is one more than the one before. What the
    leader has already is dropped in silence, for it comes by in the stream; what leaves a gap is answered
    by `Expecting`. No answer otherwise. If the connection ends or the `Epoch` changes before a record came by, it may or may
    not be in the log: propose it again.
    """

    shard: Natural
    client: Natural
    proposals: list[tuple[Natural, Natural, bytes]]
    after: Natural = 0
    """The greatest timestamp the proposer has seen on any shard; theirs will be greater."""


class Expecting(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """The leader lacks numbers of this client in front of what it sent: send again all that has not come by."""

    shard: Natural
    client: Natural


class Rejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """The leader cannot take a proposal (a full disk), and nothing of it is in the log.

    What followed it is not taken either; the client gives up all from `number` on, and uses each number up with a proposal of
    nothing and without a payload.
    """

    shard: Natural
    client: Natural
    number: Natural
    errno: Natural
    why: str


class AskFrontier(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Have the frontier of a shard reach a timestamp soon; it is pushed in `Records`."""

    shard: Natural
    timestamp: Natural


class WaitDurable(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """Have the records up to an index on the disks of all members soon; `durable` in `Records` says when."""

    shard: Natural
    index: Natural


# --- questions ------------------------------------------------------------------------------------------------------


class ReadPayload(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """A range of a record's payload; `Answer` with one part of just so many bytes. Any member knows."""

    request: Natural
    shard: Natural
    address: Natural
    offset: Natural
    length: Natural


class ReadFrame(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """A record as it lies in the log, head, metadata and payload; `Answer` with one part. For repair, nodes only."""

    request: Natural
    shard: Natural
    address: Natural


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """A question about the node itself: "status". `Answer` with one part of JSON."""

    request: Natural
    what: str


class AskIndex(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """What is everything at or below that was committed before this was asked? `Answer` with one part, u64 little endian.

    Only a leader knows, and only while nobody else can lead; everybody else answers EAGAIN.
    """

    request: Natural
    shard: Natural


class ReadSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """A piece of a volatile shard as it is (`storage.snapshot`); `Answer` with one part.

    Of a snapshot that is known here no more, and where there is none of the shard, the answer is ESTALE and EAGAIN.
    """

    request: Natural
    shard: Natural
    number: Natural
    """Of the snapshot; 0: a new one."""
    piece: Natural
    payloads: bool
    """Whether payloads are wanted, too: for a replica."""


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """Of a question. With an errno, 0 is none, there is no part, and `why` is for people."""

    request: Natural
    errno: Natural = 0
    why: str = ""


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """An operation a node executes for a client, under the uid of its certificate; `Answer` with parts of its own."""

    request: Natural
    operation: str
    arguments: msgspec.Raw


# --- locks of files (`storage.locks`) -------------------------------------------------------------------------------


class Lock(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """A mount asks the shard's leader for a lock of a file, or gives it back; `LockAnswer`.

    Of a session that the leader knows by `ClaimLocks` over this very connection; else it is not heard.
    """

    request: Natural
    """Of the mount, for this shard; never used again."""
    shard: Natural
    session: Natural
    """Of the mount, for this shard: a number drawn by it. Who holds a lock is (session, owner)."""
    inode: Natural
    owner: Natural
    """A process, or an open file of the mount's."""
    whole: bool
    """flock(2), which knows nothing of the locks of fcntl(2) ..."""
    mode: Annotated[int, msgspec.Meta(ge=0, le=2)]
    """0 none: give back, 1 shared, 2 exclusive."""
    manner: Annotated[int, msgspec.Meta(ge=0, le=2)]
    """0 say who is in the way, 1 now or never, 2 wait."""
    start: Natural
    end: Natural
    """The last byte; 2**63 - 1 for all there can be."""


class LockAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """What became of a `Lock`. EAGAIN: somebody is in the way; EDEADLK; EINTR: taken back; ENOLCK: too many."""

    request: Natural
    shard: Natural
    session: Natural
    errno: Natural = 0
    index: Natural = 0
    """Of who was granted a lock: what earlier holders have committed is at or below."""
    conflict: tuple[Natural, Natural, Natural, Natural, Natural] | None = None
    """Who is in the way of what was only asked about: (session, owner, mode, start, end); session 0 is another mount's."""


class CancelLock(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """Nobody waits for the lock of a request any more. Answered in its place, unless that is answered already."""

    request: Natural
    shard: Natural
    session: Natural


class ClaimLocks(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """The first word about locks over a connection, or to a new leader: all that a mount holds in a shard. `LocksKept`."""

    shard: Natural
    session: Natural
    attempt: Natural
    """Ascending: of two that cross on their way, the later one counts."""
    locks: list[tuple[Natural, Natural, bool, bool, Natural, Natural]] = []
    """(inode, owner, whole, exclusive, start, end)."""


class KeepLocks(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """The mount lives, and so do its locks; said every second. `LocksKept`."""

    shard: Natural
    session: Natural


class LocksKept(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """The answer to `ClaimLocks` and `KeepLocks`; none comes from who does not surely lead."""

    shard: Natural
    session: Natural
    attempt: Natural
    """Of the claim that counts."""
    is_known: bool
    """False: the session's locks are lost. The mount begins another."""


class LockHolders(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """A leader to the members: who may hold locks in the shard, should one of you lead next."""

    shard: Natural
    epoch: Natural
    serial: Natural
    """Ascending in an epoch."""
    sessions: list[Natural]


class LockHoldersKnown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """A member to the leader, of the last `LockHolders` it heard."""

    shard: Natural
    epoch: Natural
    serial: Natural


# --- the cluster ----------------------------------------------------------------------------------------------------


class Behind(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """A leader to a member or learner of a volatile shard: what you lack is let go here. Begin from a snapshot."""

    shard: Natural
    epoch: Natural
    base: Natural
    """The last record that is let go."""


class Placement(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The placement map as the authority holds it (`storage.placement` reads it). Pushed first of all and at each change."""

    revision: Natural
    map: bytes


class Peer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """A message of the replication core of one member to that of another; payloads as parts."""

    shard: Natural
    message: msgspec.Raw
    """The head that `storage.replication.split` makes."""
    places: list[Place] = []
    """Of its frames."""


Message: TypeAlias = (
    Hello
    | Welcome
    | Refusal
    | Subscribe
    | Unsubscribe
    | Taken
    | Records
    | Stranger
    | Epoch
    | Propose
    | Expecting
    | Rejected
    | AskFrontier
    | WaitDurable
    | ReadPayload
    | ReadFrame
    | Ask
    | AskIndex
    | ReadSnapshot
    | Behind
    | Answer
    | Call
    | Placement
    | Peer
    | Lock
    | LockAnswer
    | CancelLock
    | ClaimLocks
    | KeepLocks
    | LocksKept
    | LockHolders
    | LockHoldersKnown
)

_START = struct.Struct("<II")
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Malformed(Exception):
    """A peer said something that is no message; the connection is not to be trusted any further."""


def encode(message: Message, parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """A message as the buffers a connection sends; `parts` are not copied."""
    head = _encoder.encode(message)
    if not parts:
        return [_START.pack(len(head), 0), head]
    lengths = [len(part) for part in parts]
    return [struct.pack(f"<II{len(parts)}I", len(head), len(parts), *lengths), head, *parts]


def decode(data: memoryview) -> tuple[Message, list[memoryview]]:
    """A message as a connection received it, and its bulk parts, not copied.

    Raises:
        Malformed: it is none, or has not the parts it speaks of.
    """
    if len(data) < _START.size:
        raise Malformed(f"{len(data)} bytes are no message")
    head_length, count = _START.unpack_from(data)
    at = _START.size + 4 * count
    if count > PARTS_MAX or at + head_length > len(data):
        raise Malformed("a message shorter than it says")
    try:
        message = _decoder.decode(data[at : at + head_length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a message of this protocol: {error}") from error
    parts = []
    lengths = struct.unpack_from(f"<{count}I", data, _START.size)
    at += head_length
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    if at != len(data):
        raise Malformed("a message is not as long as it says")
    if isinstance(message, Propose):
        _check_proposals(message, parts)
    elif isinstance(message, Lock | ClaimLocks):
        _check_ranges(message)
    return message, parts


def _check_ranges(message: Lock | ClaimLocks) -> None:
    ranges = (
        [(message.start, message.end)]
        if isinstance(message, Lock)
        else [(start, end) for *_, start, end in message.locks]
    )
    if any(start > end for start, end in ranges):
        raise Malformed("a lock that ends before it begins")


def _check_proposals(message: Propose, parts: Sequence[memoryview]) -> None:
    if not message.client:
        raise Malformed("proposals of nobody")
    expected = [length for _, length, _ in message.proposals if length]
    if [len(part) for part in parts] != expected:
        raise Malformed("payloads of proposals are not as long as they say")
    if len(message.proposals) > PROPOSALS_MAX or max(expected, default=0) > PAYLOAD_BYTES_MAX:
        raise Malformed("more in one message of proposals than it may hold")
    for _, _, metadata in message.proposals:
        if not metadata or len(metadata) > METADATA_BYTES_MAX - ENVELOPE_BYTES:
            raise Malformed(f"metadata of {len(metadata)} bytes")
