"""Which epochs a log's frames are of: by this two logs find how far they are the same, without comparing frames.

In one epoch one leader sends one sequence of frames, and a member takes them only behind what equals the leader's log.
So two logs that both hold frame (index, epoch) are the same up to it (Raft's log matching, for the same reason), and
the last place where they are is found from the first indices of their epochs alone.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["REPORTED_MAX", "Lineage", "decode"]

KEPT_MAX: Final = 1024
"""Epochs remembered, 16 KiB encoded at most. What is older than that is committed and was for long."""

REPORTED_MAX: Final = 64
"""Epochs told in a `Report`; if none of them is known to the leader, frames are compared from the first on."""

_decoder: Final = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...])


def decode(metadata: bytes) -> tuple[tuple[int, int], ...]:
    """What a frame of kind EPOCH says: (epoch, first index) of its log's epochs, the last being its own.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(metadata)


class Lineage:
    """(epoch, first index) of a log's epochs, ascending in both; the oldest of very many are forgotten."""

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._epochs: list[int] = []
        self._firsts: list[int] = []
        for epoch, first in entries:
            self.extend(epoch, first)

    @property
    def last_epoch(self) -> int:
        """Of the last frame; 0 of an empty log."""
        return self._epochs[-1] if self._epochs else 0

    def extend(self, epoch: int, index: int) -> None:
        """The frame at an index, behind the last one, is of this epoch."""
        if self._epochs and epoch == self._epochs[-1]:
            return
        assert not self._epochs or (epoch > self._epochs[-1] and index > self._firsts[-1])
        self._epochs.append(epoch)
        self._firsts.append(index)
        if len(self._epochs) > KEPT_MAX:
            del self._epochs[0], self._firsts[0]

    def cut(self, index: int) -> None:
        """The log ends with this index now."""
        while self._firsts and self._firsts[-1] > index:
            self._firsts.pop()
            self._epochs.pop()

    def epoch_at(self, index: int) -> int:
        """The epoch of the frame at an index the log has; 0 in front of the first, and if it is forgotten."""
        position = bisect_right(self._firsts, index)
        return self._epochs[position - 1] if position else 0

    def entries(self, count: int = KEPT_MAX) -> tuple[tuple[int, int], ...]:
        """The newest so many."""
        return tuple(zip(self._epochs[-count:], self._firsts[-count:], strict=True))

    def encode(self) -> bytes:
        """As `decode` reads it."""
        return msgspec.msgpack.encode(self.entries())

    def common(self, last_index: int, theirs: Sequence[tuple[int, int]], their_last: int) -> int:
        """The last index up to which this log, which ends at `last_index`, and theirs are the same, as far as it shows.

        0 if no epoch is in both: nothing is lost by beginning there.
        """
        end = their_last
        for epoch, first in reversed(theirs):
            position = bisect_right(self._epochs, epoch) - 1
            if (
                position >= 0
                and self._epochs[position] == epoch
                and self._firsts[position] == first
            ):
                after = self._firsts[position + 1 : position + 2]
                mine = after[0] - 1 if after else last_index
                return min(mine, end)
            end = first - 1
        return 0
