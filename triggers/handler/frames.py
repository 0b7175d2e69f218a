"""Versions as data: which there are of the files a pattern matches, and the bytes of one when it is looked at.

What tensors and tables are made from, in a handler and in a program alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Frame", "Frames"]


class Frame(NamedTuple):
    """One version of a file, not read yet. Times are microseconds since 1970."""

    path: str
    version: int
    timestamp: int
    event: int
    """When what it tells of happened; the commit, where nobody said."""

    size: int


class Frames(Protocol):
    """Where versions come from; all at one cut, so asking twice gives the same."""

    def find(self, glob: str, since: int | None, until: int | None) -> Sequence[Frame]:
        """The versions with a timestamp from `since` to `until`, both included, of the files that are there at the cut."""
        ...

    def read(self, frame: Frame) -> memoryview:
        """The bytes of a version, read-only."""
        ...
