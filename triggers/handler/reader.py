"""A version read a part at a time, as a file of Python's: for what is too long to be handed over whole.

    with ctx.open("video.mp4") as file:
        file.seek(-1024, os.SEEK_END)
        tail = file.read()

Each part is a question to the store, so it is buffered; the version is the same in all of them, whatever is written meanwhile.
"""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING

from triggers.run import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Buffer, Content, Span

__all__ = ["BUFFER_BYTES", "Reader"]

BUFFER_BYTES = 256 * 1024
"""Read ahead of who reads little: a question costs a tenth of a millisecond."""


class Reader(io.RawIOBase):
    """The raw file below `ctx.open`. For one run: when that has ended, nothing is read any more (OSError)."""

    def __init__(self, first: Content, read: Callable[[Span], Content | None]) -> None:
        """`first` says which content; `read` gives bytes of it."""
        self.name = f"{first.path}@v{first.version}"
        self._first = first
        self._read = read
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; also behind the end.

        Raises:
            ValueError: in front of the beginning; a `whence` that is none.
        """
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"whence={whence}: 0, 1 or 2")
        position = offset + (0, self._position, self._first.size)[whence]
        if position < 0:
            raise ValueError(f"{self.name}: there is no byte {position}")
        self._position = position
        return position

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # what it is called with
        """Fill a buffer, or a part of it; 0 at the end.

        Raises:
            OSError: EIDRM, EIO ...: as of `get`; ESTALE: it was let go meanwhile.
        """
        wanted = memoryview(buffer).cast("B")
        end = min(self._position + min(len(wanted), PIECE_BYTES), self._first.size)
        if self._position >= end:
            return 0
        content = self._read((self._position, end))
        if content is None or content.identity != self._first.identity:
            raise OSError(errno.ESTALE, f"{self.name} is there no more")
        got = 0
        for part in content.parts:
            wanted[got : got + len(part)] = part
            got += len(part)
        self._position += got
        return got
