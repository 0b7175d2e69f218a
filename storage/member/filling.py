"""Old frames read from the log for somebody who lags, as the core and the wire want them. For worker threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage import wire
from storage.replication import Frame

if TYPE_CHECKING:
    from storage.log import Frame as LogFrame
    from storage.log import Log
    from storage.member.memory import MemoryLog
    from storage.replication import Wanted

__all__ = ["Filling"]


class _Ended(NamedTuple):
    """Where the last reading for somebody ended."""

    next_index: int
    address: int


class Filling:
    """Readings of one log; knows where each ended, so that going on costs no search."""

    def __init__(self) -> None:
        self._ended: dict[str, _Ended] = {}

    def clear(self) -> None:
        """The log was cut, or is another one."""
        self._ended = {}

    def read(self, log: Log | MemoryLog, wanted: Wanted) -> list[tuple[Frame, wire.Place]]:
        """Frames with their places.

        Raises:
            Corruption: one is damaged; nothing is answered.
            OSError: the disk could not be read.
        """
        ended = self._ended.get(wanted.member)
        at = ended.address if ended and ended.next_index == wanted.first_index else None
        found: list[tuple[Frame, wire.Place]] = []
        left = wanted.bytes_max
        for frame in log.frames(at, wanted.first_index):
            if frame.index > wanted.last_index or left <= 0:
                break
            one = _with_place(frame, log.payload(frame))
            found.append(one)
            left -= one[0].size_bytes
            self._ended[wanted.member] = _Ended(frame.index + 1, log.next_address(frame))
        return found


def _with_place(frame: LogFrame, payload: bytes | None) -> tuple[Frame, wire.Place]:
    place = wire.Place(frame.address, frame.checksum)
    if payload is None:
        place = place._replace(
            left_out_bytes=frame.payload_length, left_out_checksum=frame.payload_checksum
        )
    parts = (payload,) if payload else ()
    size = len(frame.metadata) + len(payload or b"")
    told = Frame(frame.index, frame.epoch, frame.timestamp, frame.kind, frame.metadata, parts, size)
    return told, place
