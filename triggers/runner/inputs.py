"""Content as sealed memory, kept by what it is: several bindings, attempts and workers share one copy."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from triggers.run import PIECE_BYTES, check_whole
from triggers.worker.message import INLINE_BYTES_MAX, Place, WireContent
from triggers.worker.sealed import Filling, seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.handler.copies import Copies
    from triggers.run import Content, Span

__all__ = ["Inputs", "filled"]

INPUT_BYTES_MAX = 256 << 20
MACHINE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""A quarter is the most of one content, whatever a binding asks for."""

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

    async def bring(
        self,
        read: Callable[[Span], Content | None],
        held: tuple[int, int] | None = None,
        memory_bytes: int | None = None,
    ) -> tuple[WireContent | None, list[int]]:
        """As `wire`, of a content that is read here: a long one piece by piece, between which others have their turn.

        `memory_bytes`: what the run's binding asks for.

        Raises:
            OSError: as of `wire`; EFBIG of more than `check_whole` allows; what `read` raises.
        """
        content = read((0, PIECE_BYTES))
        if content is None:
            return None, []
        if held != content.identity:
            most = min(memory_bytes or 0, MACHINE_BYTES // 4)
            check_whole(content.path, content.version, content.size, most)
            await self._fill(content, read)
        return self.wire(content, held)

    async def borrowed(self, content: Content, read: Callable[[Span], Content | None]) -> int:
        """A descriptor of sealed memory with a content, of which the first piece is here. The caller closes it.

        Raises:
            OSError: as `bring`.
        """
        await self._fill(content, read)
        return os.dup(self.descriptor(content))

    async def _fill(self, content: Content, read: Callable[[Span], Content | None]) -> None:
        """Have a content here whose first piece is not all of it."""
        if content.size > PIECE_BYTES and content.identity not in self._kept:
            fd = await filled(Filling(content.size), content, read)
            self.copies.made(content.size)
            self._keep(content, fd)

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
        fd = seal(content.parts, "content")
        self.copies.made(content.size)
        self._keep(content, fd)
        return fd

    def close(self) -> None:
        """Let go of everything; whoever received a descriptor keeps the memory."""
        while self._kept:
            self._drop_oldest()

    def _keep(self, content: Content, fd: int) -> None:
        """Take a descriptor over, unless somebody else has read the same meanwhile."""
        if content.identity in self._kept:
            os.close(fd)
            return
        self._make_room(content.size)
        self._kept[content.identity] = (fd, content.size)
        self._size_bytes += content.size

    def _make_room(self, size_bytes: int) -> None:
        while self._kept and (
            len(self._kept) >= INPUT_COUNT_MAX or self._size_bytes + size_bytes > INPUT_BYTES_MAX
        ):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (fd, size_bytes) = self._kept.popitem(last=False)
        self._size_bytes -= size_bytes
        os.close(fd)


async def filled(filling: Filling, content: Content, read: Callable[[Span], Content | None]) -> int:
    """A descriptor that holds all of a content, of which the first piece is here; it is the caller's.

    Raises:
        OSError: no room; the content is another by now; what `read` raises.
    """
    try:
        offset = filling.write(0, content.parts)
        while offset < content.size:
            await trio.lowlevel.checkpoint()
            more = read((offset, offset + PIECE_BYTES))
            if more is None or more.identity != content.identity or not more.parts:
                raise OSError(errno.ESTALE, f"{content.path} was changed while it was read")
            offset = filling.write(offset, more.parts)
        return filling.done()
    except BaseException:
        filling.close()
        raise
