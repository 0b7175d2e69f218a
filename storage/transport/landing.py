"""Memory that long messages are put together in, used again when nobody looks at it any more. Pure.

Fresh memory is dearer than the copy into it: a page that a process touches for the first time costs the kernel between a quarter of a
microsecond and, in a guest, fifty, and a long message has hundreds. So the last few pieces are kept. Whether somebody still looks
at one, Python knows: a bytearray that is shown by a memoryview (or anything made of one) cannot change its length.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEPT_BYTES_MAX", "KEPT_MAX", "Landings"]

KEPT_MAX: Final = 4
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a connection, in use or not; what is longer than half of it is not kept."""

STEP_BITS: Final = 3
"""Lengths are rounded up by an eighth at most, so that messages of nearly one length share memory."""


class Landings:
    """Memory for messages of one connection.

    Attributes:
        made: Pieces of fresh memory so far.
        taken: Pieces handed out so far.
    """

    __slots__ = ("_forget", "_kept", "_kept_bytes", "made", "taken")

    def __init__(self, forget: Callable[[bytearray], None] = lambda piece: None) -> None:
        """Nothing is kept; `forget` is told of each piece that was kept and is no more."""
        self._forget = forget
        self._kept: deque[bytearray] = deque()  # the one used last is the last
        self._kept_bytes = 0
        self.made = self.taken = 0

    def take(self, length: int) -> memoryview:
        """Writable memory of that length, any bytes in it; the caller's until its last view is gone."""
        return memoryview(self.piece(length))[:length]

    def piece(self, length: int) -> bytearray:
        """As `take`: memory of at least that length, free until somebody views it."""
        self.taken += 1
        size = _rounded(length)
        for place, piece in enumerate(self._kept):
            if size <= len(piece) <= 2 * size and _is_free(piece):
                del self._kept[place]
                self._kept.append(piece)
                return piece
        self.made += 1
        piece = bytearray(size)
        if size <= KEPT_BYTES_MAX // 2:
            self._kept.append(piece)
            self._kept_bytes += size
            while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
                oldest = self._kept.popleft()
                self._kept_bytes -= len(oldest)
                self._forget(oldest)
        return piece

    def let_go(self) -> None:
        """Keep nothing: there may be no long message for a while."""
        while self._kept:
            self._forget(self._kept.popleft())
        self._kept_bytes = 0

    def keeps(self, piece: bytearray) -> bool:
        """Whether a piece is kept to be used again."""
        return any(kept is piece for kept in self._kept)


def _rounded(length: int) -> int:
    step = 1 << max(0, length.bit_length() - 1 - STEP_BITS)
    return max(1, (length + step - 1) & -step)


def _is_free(piece: bytearray) -> bool:
    try:
        last = piece.pop()
    except BufferError:
        return False
    piece.append(last)
    return True
