"""What the log and the store ask of a disk (`storage.disk`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = ["Disk", "File"]


class File(Protocol):
    """An open file. Closed by `close` or with its last reference, so a cache may drop one that is being read."""

    def size(self) -> int:
        """Length in bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to length bytes from an offset; fewer only at the end of the file."""

    def data_ranges(self, offset: int) -> Sequence[tuple[int, int]]:
        """Ranges (start, end) at or behind an offset outside which all bytes are zero, ascending.

        Preallocated space never written is left out, where the file system knows it: no need to read it.
        """

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write buffers end to end in one call; answers how many bytes, which may be fewer than asked.

        Raises:
            OSError: The bytes at the offset are then any mixture of old and new.
        """

    def map(self) -> memoryview:
        """The file's bytes, read-only and without a copy. Later writes inside the size at the call show through.

        The view stays valid after `close`, but not across a `truncate` to less than its length.
        """

    def fdatasync(self) -> None:
        """Make all bytes written before the call, and the size, durable.

        Raises:
            OSError: What was not yet durable may never be, and a later success says nothing about it (fsyncgate).
        """

    def preallocate(self, size: int) -> None:
        """Grow the file to a size with zeros, with space reserved where the file system can."""

    def truncate(self, size: int) -> None:
        """Set the size; growth shows zeros."""

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""


class Disk(Protocol):
    """A directory that belongs to us alone. ``str`` of it is what people find it by."""

    def open(self, name: str, *, create: bool = False, write: bool = True) -> File:
        """Open a file, making an empty one first if asked and it is absent.

        Raises:
            FileNotFoundError: It is absent and create was not asked, or its directory is absent.
        """

    def list(self, directory: str) -> list[str]:
        """Names in a directory, without their directory, sorted; none if the directory is absent."""

    def make_directory(self, directory: str) -> None:
        """Make a directory if it is absent; its parent must exist."""

    def rename(self, source: str, target: str) -> None:
        """Move a file, atomically, over an existing one if there is one."""

    def unlink(self, name: str) -> None:
        """Remove a name; open files and maps keep their bytes.

        Raises:
            FileNotFoundError: It is absent.
        """

    def sync_directory(self, directory: str) -> None:
        """Make the names created, renamed or removed in a directory durable."""
