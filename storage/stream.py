"""The commits of one shard as a stream: the log's records, in order, from any place on.

Who follows pulls. At the head a listener of the shard says that there is more (`Shard.listener`); behind it the log is
read. Nobody who follows can hold up a write, and starting again is a position.

A record in the log may have been refused; the stream does not say so, because the log does not: whoever needs to know
asks the namespace what was at that timestamp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from storage import record
from storage.codec import BLOCK_BYTES
from storage.errors import Corruption
from storage.sequencer import EPOCH, open_envelope
from storage.volatile import VolatileLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.log import Log

__all__ = ["Committed", "address_of_time", "committed", "committed_at", "provenance_at"]


class Committed(NamedTuple):
    """One record of the log, and where it stands."""

    timestamp: int
    address: int
    record: record.Record


def committed(
    log: Log | VolatileLog,
    address: int = 0,
    after: int = 0,
    upto: Callable[[], int] | None = None,
) -> Iterator[Committed]:
    """The records from the one at `address` (0: the first) to the end, those later than the timestamp `after`.

    Staged bytes (`Write`) are left out: they are nothing yet. What is appended meanwhile is included. Of a replicated
    log the end may not be committed: `upto` says the last index that is.

    Raises:
        Corruption: a head on the way is damaged, or a record is of a later version.
    """
    for frame in log.frames(address or None):
        if upto is not None and frame.index > upto():
            return
        if frame.timestamp <= after or frame.kind == EPOCH:
            continue
        _, _, metadata = open_envelope(frame.kind, frame.metadata)
        if metadata[1] != _WRITE:
            yield Committed(frame.timestamp, frame.address, _decoded(metadata, frame.index))


def committed_at(log: Log | VolatileLog, address: int) -> Committed:
    """The record at an address.

    Raises:
        Corruption: there is none.
    """
    assert not isinstance(log, VolatileLog), "a volatile log keeps no records"
    frame = log.frame(address)
    if frame.kind == EPOCH:
        raise Corruption(f"the frame at {address} holds no record")
    _, _, metadata = open_envelope(frame.kind, frame.metadata)
    return Committed(frame.timestamp, frame.address, _decoded(metadata, frame.index))


def provenance_at(log: Log | VolatileLog, address: int) -> bytes:
    """What the `Finish` at an address says of its run.

    Raises:
        Corruption: there is none.
    """
    finish = committed_at(log, address).record
    if not isinstance(finish, record.Finish):
        raise Corruption(f"the record at {address} is not about a run")
    return finish.provenance


def address_of_time(log: Log, timestamp: int) -> int:
    """A frame's address such that all records later than `timestamp` stand at or behind it; 0: the first.

    By the first frames of the segments, bisected: as exact as a segment is long.
    """
    low, high = 0, log.end_address // log.segment_bytes
    while low < high:
        middle = (low + high + 1) // 2
        first = next(log.frames(middle * log.segment_bytes + BLOCK_BYTES), None)
        if first is not None and first.timestamp <= timestamp:
            low = middle
        else:
            high = middle - 1
    return low * log.segment_bytes + BLOCK_BYTES if low else 0


_WRITE = record.encode(record.Write(0, 0))[1]
"""The tag's byte: records are short arrays, so it is the second (FORMAT, "Records")."""


def _decoded(metadata: bytes, index: int) -> record.Record:
    try:
        decoded: record.Record = record.decode(metadata)
    except msgspec.DecodeError as error:
        raise Corruption(
            f"record {index} of the log cannot be read by this version: {error}"
        ) from error
    return decoded
