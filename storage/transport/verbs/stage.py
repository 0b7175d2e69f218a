"""Where messages lie that the peer is to fetch: a piece of memory used around and around. Pure.

Messages are let go in the order they were laid down, so one end follows the other. A message lies in one piece: what is left at
the end of the memory and too short for it is passed over.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Stage"]

ALIGNMENT_BYTES: Final = 64


class Stage:
    """Which bytes of so many are in use."""

    __slots__ = ("_extents", "_size", "used")

    def __init__(self, size: int) -> None:
        self._size = size
        self._extents: deque[tuple[int, int]] = deque()  # (offset, bytes used up with it)
        self.used = 0

    def lay(self, length: int) -> int | None:
        """The offset for a message of that length; None while there is no room."""
        need = (length + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES
        offset = 0
        if self._extents:
            begin, taken = self._extents[-1]
            offset = (begin + taken) % self._size
        passed = 0
        if offset + need > self._size:
            passed, offset = self._size - offset, 0
        if self.used + passed + need > self._size:
            return None
        if passed:  # it is let go with the message in front
            begin, taken = self._extents[-1]
            self._extents[-1] = (begin, taken + passed)
        self.used += passed + need
        self._extents.append((offset, need))
        return offset

    def let_go(self, count: int = 1) -> None:
        """The peer has so many more of them."""
        for _ in range(count):
            _, taken = self._extents.popleft()
            self.used -= taken
