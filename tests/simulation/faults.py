"""Faults as options with units, drawn by one seed, and given to a simulated disk as its hook before every call."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from random import Random

__all__ = ["Faults", "PowerCut"]

WRITING = {"pwritev", "preallocate", "truncate", "create", "rename", "unlink", "make_directory"}
SYNCING = {"fdatasync", "sync_directory"}
READING = {"pread", "data_ranges", "open", "map"}


class PowerCut(BaseException):
    """The process is no more. Not an error that anything should catch."""


@dataclass
class Faults:
    """What goes wrong at a call, each with its probability; all off unless drawn."""

    random: Random
    refused_write_probability: float = 0.0
    """EIO or ENOSPC from a call that changes something."""
    refused_sync_probability: float = 0.0
    """EIO from fdatasync or a directory's fsync; the kernel then forgets what it could not write."""
    refused_read_probability: float = 0.0
    short_write_probability: float = 0.0
    """A pwritev that writes some of its bytes, or all but a few; half of them because the disk is full."""
    end_probability: float = 0.0
    """The process, or the machine, ends before this call."""
    on: bool = False
    full: bool = False
    """The next write is refused."""
    injected: Counter[str] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, random: Random) -> Faults:
        """A swarm: each kind is on in half of the seeds, more or less often, so that none hides another."""

        def some(most: float) -> float:
            return random.random() * most if random.random() < 0.5 else 0.0

        return cls(
            Random(random.random()),
            refused_write_probability=some(0.05),
            refused_sync_probability=some(0.1),
            refused_read_probability=some(0.01),
            short_write_probability=some(0.2),
            end_probability=some(0.03),
        )

    def __call__(self, call: str, name: str) -> int | None:
        """See `MemoryDisk.before`."""
        if not self.on:
            return None
        draw = self.random.random
        if draw() < self.end_probability:
            self.injected["ends at a call"] += 1
            raise PowerCut
        if call == "pwritev" and self.full:
            self.full = draw() < 0.5
            self._refuse("writes refused", errno.ENOSPC, name)
        if call in WRITING and draw() < self.refused_write_probability:
            self._refuse("writes refused", self.random.choice((errno.EIO, errno.ENOSPC)), name)
        if call in SYNCING and draw() < self.refused_sync_probability:
            self._refuse("syncs refused", errno.EIO, name)
        if call in READING and draw() < self.refused_read_probability:
            self._refuse("reads refused", errno.EIO, name)
        if call == "pwritev" and draw() < self.short_write_probability:
            self.injected["short writes"] += 1
            self.full = draw() < 0.5
            return self.random.choice((self.random.randrange(200), -self.random.randrange(1, 9)))
        return None

    def _refuse(self, what: str, code: int, name: str) -> None:
        self.injected[what] += 1
        raise OSError(code, os.strerror(code), name)
