"""Reading log and index again, slowly and for ever, so that damage is known before somebody needs the bytes.

A disk loses bits without a word, and most of history is never read. A pass reads every record, head and payload,
against its checksums, a bounded step at a time; who drives it decides how often a step is due and so how much of the
disk it takes. A pass ends at what was the end of the log when it began.

What the kernel holds in memory is read from there: a scrub sees the platter as far as the page cache does not hide it.

The log is read on a worker thread, with what it allows to any thread; the index by whoever holds the shard. Its rows
check themselves when they are read; one whose key is damaged may be found by no question, but by a walk.

Sources: ZFS's scrub, md's check; "An analysis of data corruption in the storage stack" (FAST 2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.errors import Corruption

if TYPE_CHECKING:
    from storage.log import Frame, Log
    from storage.table import Table

__all__ = ["IndexScrub", "Scrub"]

PLACES_MAX: Final = 100
"""Places of damage that are remembered for the status; more are counted."""


_END: Final = b"\xff" * 9
"""Behind every key."""


class Scrub:
    """How far the reading of one log has come, and what it has found."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._index = 1  # The record to read next.
        self._address: int | None = None  # Where it is, if that is known.
        self._end = 0  # The last record of this pass; 0 between two.
        self._found: list[str] = []
        self._found_count = 0
        self.passes = 0
        """Passes that came to their end."""
        self.damage: list[str] = []
        """What the last whole pass found, or the one under way if that has found more already."""
        self.damage_count = 0
        self.bytes_read = 0
        """Since the start."""
        self.addresses: list[int] = []
        """Of damaged records met since somebody last took them from here; the newest, as many as places."""

    def step(self, bytes_max: int, records_max: int) -> bool:
        """Read on, a record more than the bounds at most; False when a pass has ended with it."""
        log = self._log
        if not self._end:
            self._end = log.last_index
            self._index, self._address = 1, log.first_address
            self._found, self._found_count = [], 0
        bytes_left, records_left = bytes_max, records_max
        try:
            for frame in log.frames(self._address, self._index):
                if frame.index > self._end:
                    break
                self._index, self._address = frame.index + 1, log.next_address(frame)
                self.bytes_read += frame.size_bytes
                why = self._why_not(frame)
                if why is not None:
                    self._note_address(frame.address)
                    number, offset = divmod(frame.address, log.segment_bytes)
                    self._note(
                        f"segment {number:016x}, offset {offset}: the payload of record {frame.index} {why}"
                    )
                bytes_left -= frame.size_bytes
                records_left -= 1
                if bytes_left <= 0 or records_left <= 0:
                    return True
        except (Corruption, OSError) as error:
            if self._address is not None:
                self._note_address(self._address)
            self._note(f"behind record {self._index - 1}: {error}")
            if self._skip_segment():
                return True
        self._finish()
        return False

    def _why_not(self, frame: Frame) -> str | None:
        try:
            return None if self._log.verify(frame) else "is not what was written"
        except OSError as error:
            return f"cannot be read: {error}"

    def _note_address(self, address: int) -> None:
        self.addresses.append(address)
        del self.addresses[:-PLACES_MAX]

    def _note(self, what: str) -> None:
        self._found_count += 1
        if len(self._found) < PLACES_MAX:
            self._found.append(what)
        if self._found_count >= self.damage_count:
            self.damage, self.damage_count = self._found, self._found_count

    def _skip_segment(self) -> bool:
        """Behind a head that cannot be read nothing in its segment can be found: go on with the next one."""
        following = self._log.segment_behind(self._index)
        if following is None:
            return False
        self._index, self._address = following
        return True

    def _finish(self) -> None:
        self.damage, self.damage_count = self._found, self._found_count
        self.passes += 1
        self._end = 0

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        return {
            "passes": self.passes,
            "record": self._index if self._end else 0,
            "of_records": self._end,
            "bytes_read": self.bytes_read,
            "damage": self.damage_count,
            "places": list(self.damage),
        }


class IndexScrub:
    """How far the walk through a table has come, and what it has met."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._after = b"\0"
        self.passes = 0
        self.rows_read = 0
        """Since the start."""
        self.damage: str | None = None
        """What was met; the walk ends with it, and the next start builds the index again."""

    def step(self, rows_max: int) -> bool:
        """Walk on over so many rows; False when a pass has ended with it, or the walk has met damage."""
        if self.damage is not None:
            return False
        left = rows_max
        try:
            for key, _ in self._table.scan(self._after, _END):
                left -= 1
                if left < 0:
                    self._after = key
                    self.rows_read += rows_max
                    return True
        except (Corruption, OSError) as error:
            self.damage = f"behind row {self._after.hex()} of the index: {error}"
            return False
        self.rows_read += rows_max - left
        self._after = b"\0"
        self.passes += 1
        return False

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        return {"passes": self.passes, "rows_read": self.rows_read, "damage": self.damage}
