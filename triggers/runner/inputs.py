"""Content as sealed memory, kept by what it is: several bindings, attempts and workers share one copy."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from triggers.worker.message import INLINE_BYTES_MAX, Place, WireContent
from triggers.worker.sealed import seal

if TYPE_CHECKING:
    from triggers.handler.copies import Copies
    from triggers.run import Content

__all__ = ["Inputs"]

INPUT_BYTES_MAX = 256 << 20
INPUT_COUNT_MAX = 256
"""Each is an open descriptor."""


class Inputs:
    """A cache of descriptors, least recently used first. Content with an identity never changes, so nothing expires."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self._kept: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()
        self._size_bytes = 0

    def wire(
        self, content: Content, held: tuple[int, int] | None = None
    ) -> tuple[WireContent, list[int]]:
        """Content for a worker, and the descriptor that goes with it (this cache's; send it before the next call).

        Short content travels in the message; of content that the worker holds, nothing does.

        Raises:
            OSError: no memory, or no descriptor left.
        """
        data: bytes | Place | None
        fds = []
        if held is not None and held == content.identity:
            data = None
        elif content.size <= INLINE_BYTES_MAX:
            data = b"".join(content.parts)
            self.copies.made(len(data))
        else:
            fds = [self.descriptor(content)]
            data = Place(0, content.size)
        wired = WireContent(
            content.path, content.version, content.timestamp, content.size, content.identity, data
        )
        return wired, fds

    def inline(self, content: Content | None) -> WireContent | None:
        """Content that is nobody else's, a few numbers of a file, in the message itself; not kept."""
        if content is None:
            return None
        data = b"".join(content.parts)
        self.copies.made(len(data))
        return WireContent(
            content.path, content.version, content.timestamp, content.size, content.identity, data
        )

    def descriptor(self, content: Content) -> int:
        """Sealed memory that holds the content: one copy at first use, none later. It stays this cache's."""
        kept = self._kept.get(content.identity)
        if kept is not None:
            self._kept.move_to_end(content.identity)
            return kept[0]
        self._make_room(content.size)
        fd = seal(content.parts, "content")
        self.copies.made(content.size)
        self._kept[content.identity] = (fd, content.size)
        self._size_bytes += content.size
        return fd

    def close(self) -> None:
        """Let go of everything; whoever received a descriptor keeps the memory."""
        while self._kept:
            self._drop_oldest()

    def _make_room(self, size_bytes: int) -> None:
        while self._kept and (
            len(self._kept) >= INPUT_COUNT_MAX or self._size_bytes + size_bytes > INPUT_BYTES_MAX
        ):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (fd, size_bytes) = self._kept.popitem(last=False)
        self._size_bytes -= size_bytes
        os.close(fd)
