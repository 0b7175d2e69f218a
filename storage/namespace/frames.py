"""Who refers to a frame of the log, so that a payload nobody refers to can be let go.

A *holder* of a frame is a run of neighbouring rows of one chunk's history that have pieces of it: a frame comes into a
chunk with one commit, stays in every row until it is overwritten, and runs end. Most frames only ever have one holder,
the chunk whose commit carried them, and need no row here. The others are counted (``R`` rows): those that were staged
ahead of their commit (0 until it names them), those a commit spread over several chunks, and those that a copy shares.

When the last holder lets go the frame is *dead* (a ``D`` row, with the time of the record that let go of what showed it),
and whoever owns the log may leave its payload out.
Counting may err upwards, which keeps bytes too long, never downwards.

Costs nothing for a small commit, and for each 256 KiB that is staged a row that is there until they are committed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from storage import extents
from storage.namespace.keys import U64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.mvcc import Dropped
    from storage.namespace.rows import Rows

__all__ = ["Frames", "bytes_by_address"]

_COUNT = struct.Struct("<I")
_DEAD = struct.Struct("<IQ")  # Of tables made earlier, the first field only: dead for long.


class Frames:
    """The counts, in rows of the namespace's table."""

    def __init__(self, rows: Rows) -> None:
        self._table = rows.table

    def staged(self, address: int) -> None:
        """A frame was appended that no content names yet."""
        self._table.put(b"R" + U64.pack(address), _COUNT.pack(0))

    def named(self, address: int, holders: int, *, is_own: bool) -> None:
        """A commit put pieces of a frame into so many chunks; `is_own`: it is the frame of that very commit."""
        key = U64.pack(address)
        row = self._table.get(b"R" + key)
        # A frame without a row has one holder, but for the one that is being named for the first time.
        before = _COUNT.unpack(row)[0] if row is not None else 0 if is_own else 1
        if is_own or before + holders != 1:
            self._table.put(b"R" + key, _COUNT.pack(before + holders))
        else:
            self._table.delete(b"R" + key)  # One holder is what no row means.
        if not is_own:
            self._table.delete(b"D" + key)

    def dropped(self, row: Dropped, timestamp: int) -> None:
        """A row of a chunk's history is gone, by a record of that time: holders that end with it let go."""
        older, value, newer = (bytes_by_address(pieces) for pieces in row)
        for address in older.keys() | value.keys() | newer.keys():
            before = (address in value and address not in older) + (
                address in newer and address not in value
            )
            after = address in newer and address not in older
            if before > after:
                self._let_go(address, before - after, value.get(address, 0), timestamp)

    def _let_go(self, address: int, holders: int, length: int, timestamp: int) -> None:
        key = U64.pack(address)
        row = self._table.get(b"R" + key)
        left = (_COUNT.unpack(row)[0] if row is not None else 1) - holders
        if left > 0:
            self._table.put(b"R" + key, _COUNT.pack(left))
            return
        if row is not None:
            self._table.delete(b"R" + key)
        self._table.put(b"D" + key, _DEAD.pack(length, timestamp))

    def dead(self, start: int, stop: int, before: int | None = None) -> Iterator[tuple[int, int]]:
        """The dead frames with addresses in [start, stop): (address, bytes of the payload, at least).

        With a timestamp, those only that no content of then or later has shown.
        """
        for key, row in self._table.scan(b"D" + U64.pack(start), b"D" + U64.pack(stop)):
            length, since = (
                _DEAD.unpack(row) if len(row) == _DEAD.size else (*_COUNT.unpack(row), 0)
            )
            if before is None or since < before:
                yield U64.unpack_from(key, 1)[0], length

    def unnamed(self, start: int, stop: int) -> Iterator[int]:
        """The frames in [start, stop) that were staged and that no content has named."""
        for key, row in self._table.scan(b"R" + U64.pack(start), b"R" + U64.pack(stop)):
            if row == _NONE:
                yield U64.unpack_from(key, 1)[0]

    def forget(self, address: int) -> None:
        """The payload of a dead frame, or of one that nothing will name, is gone; nothing is left to remember."""
        self._table.delete(b"D" + U64.pack(address))
        self._table.delete(b"R" + U64.pack(address))


def bytes_by_address(pieces: bytes | None) -> dict[int, int]:
    """How many bytes of each frame a row of a chunk's history shows; None shows nothing."""
    found: dict[int, int] = {}
    if pieces is not None:
        for _, length, address, _ in extents.unpack(pieces):
            found[address] = found.get(address, 0) + length
    return found


_NONE = _COUNT.pack(0)
