"""An index on a simulated disk: what LMDB promises without syncs, and no more.

What was published survives the process. What was not synced since survives no power cut; and what a power cut leaves
of it must not even be opened, because LMDB then ends the process.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from random import Random

from storage.errors import Corruption
from storage.table import MemoryTable

__all__ = ["SimulatedIndex", "SimulatedTable"]


class SimulatedTable(MemoryTable):
    """A table whose disk may be full and whose pages may be found damaged, while `index.trouble_probability` says so."""

    __slots__ = ("_index",)

    def __init__(self, index: SimulatedIndex) -> None:
        super().__init__()
        self._index = index

    def get(self, key: bytes) -> bytes | None:
        self._index.may_be_damaged()
        return super().get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._index.may_refuse()
        super().put(key, value)

    def commit(self) -> None:
        self._index.may_refuse()
        if self._before:
            self._index.synced = False
        super().commit()

    def sync(self) -> None:
        self.commit()
        self._index.synced = True


class SimulatedIndex:
    """`storage.index.Index`; the table outlives the processes that open it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.table = SimulatedTable(self)
        self.synced = True
        self.lost = False
        """A power cut came while something was not synced: opening this is the end."""
        self.trouble_probability = 0.0
        self.damage_probability = 0.0
        self.injected: Counter[str] = Counter()

    def open(self) -> SimulatedTable:
        assert not self.lost, "the index was opened on pages that a power cut has lost"
        return self.table

    def renew(self) -> SimulatedTable:
        self.table.abandon()
        self.table = SimulatedTable(self)
        self.synced, self.lost = True, False
        return self.table

    def view(self) -> SimulatedTable:
        return self.open()

    def kill(self) -> None:
        """The process ends; what it had published is there."""
        self.table.abandon()

    def power_cut(self) -> None:
        """The machine goes down."""
        self.table.abandon()
        self.lost = not self.synced

    def may_refuse(self) -> None:
        if self.trouble_probability and self.random.random() < self.trouble_probability:
            self.injected["index writes refused"] += 1
            if self.random.random() < 0.3:
                raise MemoryError
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "index")

    def may_be_damaged(self) -> None:
        if self.damage_probability and self.random.random() < self.damage_probability:
            self.injected["index pages damaged"] += 1
            raise Corruption("a page of the index is damaged")
