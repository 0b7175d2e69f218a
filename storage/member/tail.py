"""The newest records of a shard as they are streamed, in memory, so that nobody who keeps up reads the log again.

A dictionary by index, bounded by count and bytes. One thread writes; any thread looks up, for a lookup is one step of
the interpreter. `Cursor` is one follower's place: it takes from the tail while it can, and from the log when it lags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.errors import Corruption
from storage.member.memory import MemoryLog
from storage.sequencer import ENVELOPED, PLAIN, START, Place, Sequenced, open_envelope
from storage.wire import RECORD_BYTES

if TYPE_CHECKING:
    from typing import TypeAlias

    from storage.log import Frame, Log

    MemberLog: TypeAlias = Log | MemoryLog

__all__ = ["Cursor", "Lost", "Tail", "of_frame", "sequenced"]

RECORDS_MAX: Final = 8192
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of metadata."""


class Lost(Exception):
    """A place to follow from is not in this log."""


def sequenced(
    kind: int, index: int, timestamp: int, address: int, checksum: int, metadata: bytes
) -> Sequenced:
    """A frame of the log as followers get it; frames that are not for them come empty and only move their place."""
    if kind not in (PLAIN, ENVELOPED):
        return Sequenced(index, timestamp, address, checksum, 0, 0, b"")
    client, number, record = open_envelope(kind, metadata)
    return Sequenced(index, timestamp, address, checksum, client, number, record)


class Tail:
    """See the module."""

    def __init__(self) -> None:
        self._records: dict[int, Sequenced] = {}  # Invariant: indices without gap, ascending.
        self._bytes = 0

    def get(self, index: int) -> Sequenced | None:
        """A record, if it is still here. Any thread."""
        return self._records.get(index)

    def add(self, record: Sequenced) -> None:
        """The next one; it may be dropped again as long as it is not committed (`drop_after`)."""
        self._records[record.index] = record
        self._bytes += len(record.metadata)
        while len(self._records) > RECORDS_MAX or self._bytes > BYTES_MAX:
            oldest = next(iter(self._records))
            self._bytes -= len(self._records.pop(oldest).metadata)

    def drop_after(self, index: int) -> None:
        """Forget the records behind an index."""
        for behind in [i for i in self._records if i > index]:
            self._bytes -= len(self._records.pop(behind).metadata)


class Cursor:
    """Where one follower is. For one thread at a time."""

    def __init__(self, place: Place = START) -> None:
        self.place = place

    def check(self, log: MemberLog) -> None:
        """See that the place is in a log.

        Raises:
            Lost: it is not, and the log has come as far.
        """
        self._check_base(log)
        if self.place.index == 0:
            return
        if self.place.index > log.last_index:
            raise Lost(f"record {self.place.index} is not here (yet)")
        try:
            frame = log.frame(self.place.address)
        except Corruption as error:
            raise Lost(str(error)) from error
        if (frame.index, frame.checksum) != (self.place.index, self.place.checksum):
            raise Lost(f"record {self.place.index} is another one here")

    def _check_base(self, log: MemberLog) -> None:
        if isinstance(log, MemoryLog) and self.place.index < log.base_index:
            raise Lost(f"what follows record {self.place.index} is let go")

    def is_in(self, tail: Tail) -> bool:
        """Whether what comes next need not be read from the log."""
        return tail.get(self.place.index + 1) is not None

    def take(
        self, tail: Tail, log: MemberLog, committed: int, records_max: int, bytes_max: int
    ) -> list[Sequenced]:
        """The next committed records, one more than the bytes at most; the place is behind them.

        Raises:
            Lost: a volatile log has let go of the next one.
            Corruption: the next one is damaged in the log, at `next_address`.
        """
        found: list[Sequenced] = []
        index = self.place.index
        while index < committed and len(found) < records_max and bytes_max > 0:
            index += 1
            record = tail.get(index)
            if record is None:
                break
            found.append(record)
            bytes_max -= len(record.metadata) + RECORD_BYTES
        if not found and self.place.index < committed:
            found = self._read(log, committed, records_max, bytes_max)
        if found:
            last = found[-1]
            self.place = Place(last.index, last.address, last.checksum)
        return found

    def _read(
        self, log: MemberLog, committed: int, records_max: int, bytes_max: int
    ) -> list[Sequenced]:
        self._check_base(log)
        found: list[Sequenced] = []
        try:
            for frame in log.frames(self.place.address or None):
                if frame.index > committed or len(found) >= records_max or bytes_max <= 0:
                    break
                if frame.index > self.place.index:
                    found.append(of_frame(frame))
                    bytes_max -= len(frame.metadata) + RECORD_BYTES
        except Corruption:
            if not found:
                self._check_base(log)  # Just now, perhaps.
                raise
        return found

    def next_address(self, log: MemberLog) -> int:
        """Where the record behind the place stands: what is damaged when `take` says that something is."""
        if not self.place.address:
            return log.first_address
        return log.next_address(log.frame(self.place.address))


def of_frame(frame: Frame) -> Sequenced:
    """See `sequenced`."""
    return sequenced(
        frame.kind, frame.index, frame.timestamp, frame.address, frame.checksum, frame.metadata
    )
