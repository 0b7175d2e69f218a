"""A table in memory: volatile pools, simulation, tests, and the twin of the one in a file.

Rows are a `SortedDict`. Since nobody else can see them, a commit only has to forget the way back:
for each key touched since the last commit, the value it had then.

Measured (2 shared cores, Python 3.11, 100,000 rows of 17 + 40 bytes, random order, in us): get 0.1,
put 0.3 (of a new key 1.6), delete 1.7, first 2.3, last 2.5, a row of a scan 0.4, commit 0.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from storage.limits import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MemoryTable"]

_HALF_OPEN = (True, False)


class MemoryTable:
    """A `Table` that lives as long as its process."""

    __slots__ = ("_before", "_noted", "_rows")

    def __init__(self) -> None:
        """An empty table."""
        self._rows: SortedDict = SortedDict()
        # What each key touched since the last commit held then; None: it was absent.
        self._before: dict[bytes, bytes | None] = {}
        # Likewise since `note`; None: nothing is noted.
        self._noted: dict[bytes, bytes | None] | None = None

    def get(self, key: bytes) -> bytes | None:
        """See `Table.get`."""
        value: bytes | None = self._rows.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """See `Table.put`."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        rows = self._rows
        if key not in self._before:
            self._before[key] = rows.get(key)
        if self._noted is not None:
            self._noted.setdefault(key, rows.get(key))
        rows[key] = value

    def delete(self, key: bytes) -> None:
        """See `Table.delete`."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        old = self._rows.pop(key, None)
        if old is not None and key not in self._before:
            self._before[key] = old
        if self._noted is not None:
            self._noted.setdefault(key, old)

    def first(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """See `Table.first`."""
        return next(self.scan(start, stop), None)

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """See `Table.last`."""
        for key in self._rows.irange(start, stop, _HALF_OPEN, reverse=True):
            return key, self._rows[key]
        return None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `Table.scan`."""
        rows = self._rows
        for key in rows.irange(start, stop, _HALF_OPEN):
            yield key, rows[key]

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold these rows instead of all there were, committed."""
        self._rows = SortedDict(rows)
        self._before.clear()
        self._noted = None

    def rows(self) -> list[tuple[bytes, bytes]]:
        """All rows, in any order; 0.1 us each."""
        return list(dict.items(self._rows))

    def row_count(self) -> int:
        """See `Table.row_count`."""
        return len(self._rows)

    def note(self) -> None:
        """See `Table.note`."""
        self._noted = {}

    def keep(self) -> None:
        """See `Table.keep`."""
        self._noted = None

    def undo(self) -> None:
        """See `Table.undo`."""
        assert self._noted is not None
        noted, self._noted = self._noted, None
        for key, value in noted.items():
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def commit(self) -> None:
        """See `Table.commit`; there is nobody to publish to, and nothing survives the process."""
        self._before.clear()

    def sync(self) -> None:
        """See `Table.sync`; there is no disk."""
        self.commit()

    def abandon(self) -> None:
        """See `Table.abandon`."""
        for key, value in self._before.items():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value
        self._before.clear()
        self._noted = None

    def close(self) -> None:
        """See `Table.close`."""
        self.abandon()
