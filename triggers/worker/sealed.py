"""Memory that has a file descriptor and can no longer change: memfd with seals (memfd_create(2), fcntl(2)).

Whoever receives one may map it and trust it: the sender can neither write nor truncate it, so the bytes do not change
between check and use, and reading raises no SIGBUS. That is also why a receiver checks the seals before it maps.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triggers.run import Buffer

__all__ = ["Filling", "NotSealed", "growing", "map_sealed", "seal"]

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MFD_NOEXEC_SEAL = 0x8  # linux/memfd.h, since 6.3
IOV_MAX = 1024

ZEROS = bytes(256 * 1024)
"""As long as a part can be that the store makes of a hole."""


class NotSealed(Exception):
    """Somebody sent memory that could still change."""


def seal(parts: Sequence[Buffer], name: str = "cascade") -> int:
    """A descriptor of sealed memory that holds the parts, joined: one copy. The caller closes it.

    Raises:
        OSError: no memory, or no descriptor left.
    """
    fd = _create(name)
    try:
        left = [view for part in parts if len(view := memoryview(part).cast("B"))]
        while left:
            written = os.writev(fd, left[:IOV_MAX])
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Filling:
    """Memory that is filled piece by piece and sealed at the end; of pieces that are zeros it takes none.

    With a descriptor of a file that one is filled instead, and cannot be sealed.
    """

    def __init__(self, size_bytes: int, fd: int | None = None) -> None:
        """Takes the descriptor over.

        Raises:
            OSError: no memory, or no descriptor left.
        """
        self._can_seal = fd is None
        self._fd = _create("content") if fd is None else fd
        try:
            os.ftruncate(self._fd, size_bytes)
        except BaseException:
            self.close()
            raise

    def write(self, offset: int, parts: Sequence[Buffer]) -> int:
        """Bytes at a place; where they end.

        Raises:
            OSError: no room.
        """
        for part in parts:
            view = memoryview(part).cast("B")
            end = offset + len(view)
            if bytes(view[:1]) != b"\0" or bytes(view) != ZEROS[: len(view)]:
                while offset < end:
                    offset += os.pwrite(self._fd, view[len(view) - (end - offset) :], offset)
            offset = end
        return offset

    def done(self) -> int:
        """The descriptor, which is the caller's; nobody can change that memory any more."""
        if self._can_seal:
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        return self._fd

    def close(self) -> None:
        """Give it up before it is done."""
        os.close(self._fd)


def map_sealed(fd: int) -> memoryview:
    """The bytes of sealed memory, read-only, without a copy. The descriptor stays the caller's, and may be closed.

    Raises:
        NotSealed: it could still change.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise NotSealed("the descriptor is no memory") from error
    if seals & SEALS != SEALS:
        raise NotSealed(f"seals {seals:#x}, not {SEALS:#x}")
    size = os.fstat(fd).st_size
    if size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))


def growing(name: str) -> int:
    """A descriptor of memory to which everybody appends, for what a process prints. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # emptied in between, nobody's position moves
    return fd


def _create(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
