"""A shard as it was at one record, in pieces: what a volatile log, which keeps no past, has instead of its beginning.

Whoever would need records that are let go gets the rows of a table that had applied all up to a record, and goes on behind it. A
replica also gets the payloads those rows refer to, or drafts may. Pieces are asked for one after the other, of one snapshot: its number
is in each. Pure.

Source: InstallSnapshot of Ongaro, "Consensus" (2014), 5; here the driver's alone, as a log that begins later is a log like others to
the replication.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from storage.sequencer import Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = [
    "LIFE_ADDRESSES",
    "LIFE_INDICES",
    "Collector",
    "Piece",
    "Snapshot",
    "Snapshotted",
    "collect",
]

LIFE_INDICES: Final = 2**36
LIFE_ADDRESSES: Final = 2**48
"""A life that an epoch begins has indices and addresses from so many times its number on, which no earlier life came to."""

PIECE_BYTES: Final = 2 * 1024 * 1024
"""Rows and payloads of one piece, but for a single larger one."""

ATTEMPTS_MAX: Final = 3

ROW_BYTES: Final = 16
"""What a row takes beside its key and value, about."""


class Snapshot(NamedTuple):
    """What there was behind one record."""

    place: Place
    timestamp: int
    """Of that record."""
    lineage: list[tuple[int, int]]
    """(first index, epoch) of the log's epochs, ascending."""
    rows: list[tuple[bytes, bytes]]
    payloads: list[tuple[int, bytes]]
    """(address, bytes); none where only rows were asked for."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """As it goes over the wire, MessagePack."""

    number: int
    """Of the snapshot, never 0."""
    count: int
    """Pieces in all."""
    place: tuple[int, int, int]
    timestamp: int
    lineage: list[tuple[int, int]]
    rows: list[tuple[bytes, bytes]]
    payloads: list[tuple[int, bytes]]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Piece)


class Snapshotted:
    """A snapshot to be given away in pieces; holds rows and payloads, and copies none."""

    def __init__(self, number: int, snapshot: Snapshot) -> None:
        """Divide it.

        Args:
            number: names it, not 0.
            snapshot: with payloads.
        """
        self.number = number
        self._snapshot = snapshot
        self._rows = _divided([len(key) + len(value) + ROW_BYTES for key, value in snapshot.rows])
        self._payloads = _divided([len(data) for _, data in snapshot.payloads])

    def count(self, *, payloads: bool) -> int:
        """How many pieces there are; at least one."""
        return len(self._rows) + (len(self._payloads) if payloads else 0)

    def piece(self, at: int, *, payloads: bool) -> bytes:
        """A piece, from 0 on, encoded.

        Raises:
            IndexError: there are not so many.
        """
        snapshot, count = self._snapshot, self.count(payloads=payloads)
        if not 0 <= at < count:
            raise IndexError(at)
        rows: Sequence[tuple[bytes, bytes]] = ()
        data: Sequence[tuple[int, bytes]] = ()
        if at < len(self._rows):
            rows = snapshot.rows[self._rows[at]]
        else:
            data = snapshot.payloads[self._payloads[at - len(self._rows)]]
        return _encoder.encode(
            Piece(
                self.number,
                count,
                snapshot.place,
                snapshot.timestamp,
                snapshot.lineage,
                list(rows),
                list(data),
            )
        )


def _divided(sizes: Sequence[int]) -> list[slice]:
    """Slices of about `PIECE_BYTES` each; one at least."""
    found, start, size_bytes = [], 0, 0
    for at, size in enumerate(sizes):
        if size_bytes and size_bytes + size > PIECE_BYTES:
            found.append(slice(start, at))
            start, size_bytes = at, 0
        size_bytes += size
    found.append(slice(start, len(sizes)))
    return found


async def collect(
    ask: Callable[[int, int], Awaitable[tuple[int, bytes | memoryview | None]]],
) -> Snapshot | None:
    """Ask for all pieces of a snapshot; None if that cannot be had.

    Args:
        ask: (number, piece) -> errno, and the piece where that is 0.
    """
    collector = Collector()
    for _ in range(ATTEMPTS_MAX):
        while True:
            number, part = await ask(collector.number, collector.at)
            if number or part is None:
                break
            try:
                whole = collector.take(part)
            except msgspec.DecodeError:
                return None
            if whole is not None:
                return whole
        if number != errno.ESTALE:
            return None
        collector.restart()  # It was forgotten there.
    return None


class Collector:
    """Puts a snapshot together; begins anew when what comes is of another one."""

    def __init__(self) -> None:
        self.number = 0
        """Of the snapshot to ask for; 0: of a new one."""
        self.at = 0
        """The piece to ask for."""
        self._rows: list[tuple[bytes, bytes]] = []
        self._payloads: list[tuple[int, bytes]] = []

    def restart(self) -> None:
        """Whoever was asked has that snapshot no more."""
        self.number = self.at = 0
        self._rows, self._payloads = [], []

    def take(self, data: bytes | memoryview) -> Snapshot | None:
        """A piece came; the whole once there is nothing to ask for.

        Raises:
            msgspec.DecodeError: it is none.
        """
        piece = _decoder.decode(data)
        if piece.number != self.number:
            self.restart()
            self.number = piece.number
        self._rows += piece.rows
        self._payloads += piece.payloads
        self.at += 1
        if self.at < piece.count:
            return None
        return Snapshot(
            Place(*piece.place), piece.timestamp, piece.lineage, self._rows, self._payloads
        )
