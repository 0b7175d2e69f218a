"""A face and its table: kept in a directory and gone on from at the next start, or in memory.

The table holds nothing that the shard's members do not have: where it cannot be trusted (`storage.index`), or is of another
shard, it is emptied and made again from the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.cluster.face import Face
from storage.disk import RealDisk
from storage.errors import Corruption
from storage.index import CLEAN, LmdbIndex, read_mark, why_not, write_mark
from storage.sequencer import Astray
from storage.shard import Position
from storage.table import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from storage.clock import Clock, HybridClock
    from storage.distant import DistantLog
    from storage.log import Log
    from storage.sequencer import Sequencer
    from storage.table import Table

__all__ = ["FaceOpening"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceOpening:
    """How faces are opened here, all alike."""

    clock: Clock
    steady_ns: Callable[[], int]
    hybrid: HybridClock
    boot_id: str
    is_volatile: Callable[[int], bool] = lambda shard: False
    """Whether a shard is of a volatile pool: its table is in memory."""
    directory: Path | None = None
    """Holds a directory for each shard's table; None: tables in memory. Of this process alone."""

    def open(self, sequencer: Sequencer, log: Log | DistantLog) -> Face:
        """A face with all that could be applied at once; what comes later is for `Face.catch_up`.

        Raises:
            OSError: the directory cannot be written.
            Corruption: a record makes no sense to this version.
        """
        table = self._table(sequencer)
        face = self._face(sequencer, log, table)
        try:
            face.recover()
        except Astray:
            return self.open_anew(face, sequencer, log)
        return face

    def open_anew(self, face: Face, sequencer: Sequencer, log: Log | DistantLog) -> Face:
        """Another in the place of one whose table has turned out to be of something else. Raises as `open`."""
        face.close()
        face = self._face(sequencer, log, self._renewed(sequencer))
        face.recover()
        return face

    def close(self, face: Face) -> None:
        """Save and close a face's table; it is trusted at the next start if that went well."""
        place = self._place(face.namespace.shard)
        if face.close(keep=place is not None) and place is not None:
            write_mark(RealDisk(place), CLEAN)

    def _face(self, sequencer: Sequencer, log: Log | DistantLog, table: Table) -> Face:
        memory = table if isinstance(table, MemoryTable) else None
        return Face(
            sequencer,
            log,
            table,
            self.clock,
            steady_ns=self.steady_ns,
            hybrid=self.hybrid,
            memory=memory if self.is_volatile(sequencer.shard) else None,
        )

    def _place(self, shard: int) -> Path | None:
        if self.directory is None or self.is_volatile(shard):
            return None
        return self.directory / f"{shard:03}"

    def _table(self, sequencer: Sequencer) -> Table:
        place = self._place(sequencer.shard)
        if place is None:
            return MemoryTable()
        place.mkdir(parents=True, exist_ok=True)
        mark = read_mark(RealDisk(place))
        table: Table | None = None
        if mark is not None and why_not(mark, self.boot_id) is None:
            try:
                table = LmdbIndex(place).open()
                position = Position.load(table)
            except Corruption:
                position = None
            if table is not None and (position is None or position.identity != sequencer.identity):
                table.close()
                table = None
        if table is None:
            return self._renewed(sequencer)
        write_mark(RealDisk(place), self.boot_id.encode())
        return table

    def _renewed(self, sequencer: Sequencer) -> Table:
        place = self._place(sequencer.shard)
        if place is None:
            return MemoryTable()
        table = LmdbIndex(place).renew()
        write_mark(RealDisk(place), self.boot_id.encode())
        return table
