"""Which epochs a log's records are of: the history that replicas compare.

Found once, from the headers of all segments and the heads of those that hold a change, and from then on kept as records come and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.codec import BLOCK_BYTES

if TYPE_CHECKING:
    from storage.log.reader import Frame, Reader
    from storage.log.walk import Walk

__all__ = ["Epochs"]


class Epochs:
    """See the module. Of the owner's thread alone."""

    def __init__(self, reader: Reader, walk: Walk) -> None:
        """Nothing is read before `runs`."""
        self._reader = reader
        self._walk = walk
        self._runs: list[tuple[int, int]] | None = None

    def runs(self, last_address: int) -> list[tuple[int, int]]:
        """As `Log.epochs`; `last_address` is that of the last record, 0 if there is none."""
        if self._runs is None:
            self._runs = self._find(last_address)
        return list(self._runs)

    def appended(self, index: int, epoch: int) -> None:
        """A record of an epoch stands at the end."""
        if self._runs is not None and (not self._runs or self._runs[-1][1] != epoch):
            self._runs.append((index, epoch))

    def truncated_after(self, index: int) -> None:
        """Records behind an index are gone."""
        if self._runs is not None:
            self._runs = [run for run in self._runs if run[0] <= index]

    def _find(self, last_address: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        last = self._reader.frame(last_address).epoch if last_address else 0
        walk = self._walk
        following = last
        for number in range(walk.tail_number, walk.first_number - 1, -1):
            first = self._first_frame(number)
            if first is None:
                continue
            if first.epoch != following:
                runs = self._within(number, first)
            else:
                runs = [(first.index, first.epoch)]
            found[:0] = runs
            following = first.epoch
        return [run for at, run in enumerate(found) if not at or run[1] != found[at - 1][1]]

    def _first_frame(self, number: int) -> Frame | None:
        """The first record of a segment, None if it has none yet."""
        address = number * self._reader.segment_bytes + BLOCK_BYTES
        return self._reader.frame(address) if address < self._walk.end_address else None

    def _within(self, number: int, first: Frame) -> list[tuple[int, int]]:
        runs = [(first.index, first.epoch)]
        for frame in self._walk.frames(first.address):
            if frame.address // self._reader.segment_bytes != number:
                break
            if frame.epoch != runs[-1][1]:
                runs.append((frame.index, frame.epoch))
        return runs
