"""Letting history go: by policy, in small steps beside everything else (SEMANTICS 7).

Three kinds of work follow each other. `thinning` decides which versions go and records it. The namespace's sweep drops
the rows that only those showed, and finds frames of the log nobody refers to any more. `cleaning` rewrites the segments
that hold many of those. Each step is short; what is left to do is in the table, so a step may be the last.

`policy` is the grammar and the meaning of a directory's policy, `rules` what protects a directory's history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.retention.policy import MalformedPolicy, parse
from storage.retention.rules import HOLD, RETENTION, Rules
from storage.retention.thinning import Tally, Thinning

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.clock import Clock
    from storage.shard import Shard

__all__ = ["HOLD", "RETENTION", "MalformedPolicy", "Retention", "Rules", "Tally", "parse"]

PASS_INTERVAL_US: Final = 60_000_000
"""From the end of a pass to the next: boundaries are minutes apart at least."""

STEP_VERSIONS_MAX: Final = 128
"""Versions judged in a step: about 2 ms."""

STEP_ROWS_MAX: Final = 256
"""Rows swept in a step: about 2 ms, if all are dropped."""


class Retention:
    """The housekeeping of one shard's history. `pinned` is set by whoever has files open."""

    def __init__(self, shard: Shard, clock: Clock) -> None:
        self._shard = shard
        self._clock = clock
        self.pinned: Callable[[int], bool] = lambda inode: False
        self._pass: Thinning | None = None
        self._pass_ended_us = 0

    def step(self) -> bool:
        """Do a little of what is due; False when nothing is left for now.

        Raises:
            OSError: the log could not take a record; nothing is lost, a later step goes on.
        """
        if self._shard.sweep(STEP_ROWS_MAX):
            return True
        thinning = self._pass or self._begin()
        if thinning is None:
            return False
        if not thinning.step(STEP_VERSIONS_MAX):
            self._pass, self._pass_ended_us = None, self._now_us()
        return True

    def run(self, *, dry: bool = False, pressed: bool = False) -> dict[str, Tally]:
        """A whole pass at once, and the sweep behind it; how many versions each line of the policies keeps.

        Args:
            dry: change nothing.
            pressed: keep only what `min`, labels and holds keep.
        """
        thinning = self._thinning(None if dry else self._shard.propose, pressed=pressed)
        while thinning.step(STEP_VERSIONS_MAX):
            pass
        if not dry:
            while self._shard.sweep(STEP_ROWS_MAX):
                pass
            self._pass, self._pass_ended_us = None, self._now_us()
        return thinning.tallies

    def _begin(self) -> Thinning | None:
        due = self._now_us() - self._pass_ended_us >= PASS_INTERVAL_US
        if not due or not self._shard.namespace.has_policies():
            return None
        self._pass = self._thinning(self._shard.propose, pressed=False)
        return self._pass

    def _thinning(self, propose: Callable[..., object] | None, *, pressed: bool) -> Thinning:
        return Thinning(
            self._shard.namespace,
            propose,
            now=self._now_us(),
            pinned=self.pinned,
            pressed=pressed,
        )

    def _now_us(self) -> int:
        return self._clock.now_ns() // 1000
