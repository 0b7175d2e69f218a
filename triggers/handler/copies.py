"""Every software copy of content between the store and a handler, counted, so that "no copy" can be tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Copies"]


class Copies:
    """A counter of copies made; plain numbers that anyone may read."""

    __slots__ = ("count", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = 0

    def made(self, size_bytes: int) -> None:
        """Note one copy of so many bytes; empty ones do not count."""
        if size_bytes:
            self.count += 1
            self.size_bytes += size_bytes

    def add(self, count: int, size_bytes: int) -> None:
        """Take over what another counter counted."""
        self.count += count
        self.size_bytes += size_bytes

    def taken(self) -> tuple[int, int]:
        """Count and bytes so far, which are forgotten here: somebody else adds them up."""
        taken = self.count, self.size_bytes
        self.count = self.size_bytes = 0
        return taken

    def joined(self, parts: Sequence[memoryview]) -> memoryview:
        """Parts as one read-only run of bytes: a lone part as it is, several by a copy."""
        if len(parts) == 1:
            return parts[0].toreadonly()
        data = b"".join(parts)
        self.made(len(data))
        return memoryview(data)
