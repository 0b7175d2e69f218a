"""What the replicas of one shard say to each other inside an epoch (CLUSTER, "Messages").

Every message begins with the epoch its sender is in. Five are said by leader and members to each other (`Append`,
`Ack`, `Inquire`, `Report`, `Ask`), two by anybody (`Fenced`, `Broken`). Any of them may be lost, doubled, late or out
of order; none needs an answer to be correct, only to make progress.

On a wire a message is a short msgpack array and, beside it, its payloads as they are: `split` and `join`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = [
    "EPOCH_KIND",
    "RECORD_KIND",
    "Ack",
    "Append",
    "Ask",
    "Broken",
    "Fenced",
    "Frame",
    "Inquire",
    "Malformed",
    "Message",
    "Report",
    "join",
    "split",
]

RECORD_KIND: Final = 2  # `storage.sequencer.ENVELOPED`
"""Of a frame that holds a client's record behind 16 bytes that name it: client, number (u64, little end first)."""

EPOCH_KIND: Final = 3
"""Of the first frame of an epoch; its metadata is the lineage up to and with it (`storage.replication.lineage`)."""


Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Malformed(ValueError):
    """Bytes that are no message of this protocol: the peer's fault, not ours. Nothing was changed."""


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A frame as the leader stamped it; every member's log holds it so, byte for byte."""

    index: int
    epoch: int
    timestamp: int
    """Microseconds; strictly increasing with the index."""
    kind: int
    metadata: bytes
    payload: tuple[Buffer, ...] = ()
    """End to end the payload. Never copied and never looked at here; the owner does not change it any more."""
    size_bytes: int = 0
    """Of metadata and payload, for windows and batches."""


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """Leader to member or learner: frames that follow one it must have, and what is known by now.

    Without frames it is a heartbeat, or the notice of a commit.
    """

    epoch: int
    previous_index: int
    previous_epoch: int
    """Of the frame in front of `frames`; 0, 0 in front of the first of all."""
    commit_index: int
    durable_index: int
    """Every member of the epoch has the frames up to this one on its disk."""
    candidate_us: int
    """Please promise that nothing will ever be stamped at or below it."""
    frontier_us: int
    frontier_index: int
    """Promised by all members; frames at or below `frontier_us` have indices up to `frontier_index`, all committed."""
    reply: bool
    """An `Ack` is wanted even if there are no frames."""
    frames: tuple[Frame, ...] = ()


class Ack(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Member to leader: how far my log is yours."""

    epoch: Natural
    index: Natural
    """Appended, and known to be as in the leader's log up to here."""
    durable_index: Natural
    """Of these, on the disk."""
    noted_us: Natural
    """A leader that I become will stamp above it, also after a restart."""


class Inquire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Leader to member or learner: what do you hold?"""

    epoch: int


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Member or learner to leader: what I hold; at the begin of an epoch, when asked, or when an `Append` does not fit."""

    epoch: Natural
    last_index: Natural
    lineage: tuple[tuple[Natural, Natural], ...]
    """The newest (epoch, first index) of my log, oldest first, 64 at most."""
    lost: bool
    """My log may lack what I acknowledged in this very epoch, so I cannot be counted on before the next."""


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Member to leader: somebody waits for the frontier to reach this."""

    epoch: Natural
    timestamp_us: int


class Fenced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """To whoever speaks from an older epoch: there is a newer one. Never answered."""

    epoch: int


class Broken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """To the other members: my log takes nothing more; go on without me."""

    epoch: Natural
    why: str


Message: TypeAlias = Append | Ack | Inquire | Report | Ask | Fenced | Broken


class _Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A frame on a wire: instead of its payload the number of parts it is in."""

    index: Natural
    epoch: Natural
    timestamp: Natural
    kind: Natural
    metadata: bytes
    parts: int


class _Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """`Append` on a wire."""

    epoch: Natural
    previous_index: Natural
    previous_epoch: Natural
    commit_index: Natural
    durable_index: Natural
    candidate_us: Natural
    frontier_us: Natural
    frontier_index: Natural
    reply: bool
    frames: tuple[_Head, ...]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Append | Ack | Inquire | Report | Ask | Fenced | Broken)


def split(message: Message) -> tuple[bytes, list[Buffer]]:
    """A message as one msgpack array and the parts of its payloads, in order, not copied."""
    if not isinstance(message, Append):
        return _encoder.encode(message), []
    parts: list[Buffer] = []
    heads = []
    for frame in message.frames:
        parts += frame.payload
        heads.append(
            (
                frame.index,
                frame.epoch,
                frame.timestamp,
                frame.kind,
                frame.metadata,
                len(frame.payload),
            )
        )
    head = (
        0,
        message.epoch,
        message.previous_index,
        message.previous_epoch,
        message.commit_index,
        message.durable_index,
        message.candidate_us,
        message.frontier_us,
        message.frontier_index,
        message.reply,
        heads,
    )
    return _encoder.encode(head), parts


def join(head: Buffer | msgspec.Raw, parts: Sequence[memoryview] = ()) -> Message:
    """The message that `split` took apart. Its frames hold the parts given, not copies.

    Raises:
        Malformed: it is no message, or the parts are not those it speaks of.
    """
    try:
        message: Message | _Append = _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a message of replication: {error}") from error
    if not isinstance(message, _Append):
        if parts:
            raise Malformed("a message without frames has parts")
        return message
    frames = []
    at = 0
    for wire in message.frames:
        payload = tuple(parts[at : at + wire.parts])
        if len(payload) != wire.parts:
            raise Malformed("a frame speaks of parts that are not there")
        at += wire.parts
        size = len(wire.metadata) + sum(map(len, payload))
        frames.append(
            Frame(wire.index, wire.epoch, wire.timestamp, wire.kind, wire.metadata, payload, size)
        )
    if at != len(parts):
        raise Malformed("more parts than the frames speak of")
    return Append(
        message.epoch,
        message.previous_index,
        message.previous_epoch,
        message.commit_index,
        message.durable_index,
        message.candidate_us,
        message.frontier_us,
        message.frontier_index,
        message.reply,
        tuple(frames),
    )
