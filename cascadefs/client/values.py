"""What a program is told of the store: plain values. Times are microseconds since 1970, UTC."""

from __future__ import annotations

import errno

import msgspec

__all__ = ["Change", "Conflict", "Content", "Entry", "Version"]


class Version(msgspec.Struct, frozen=True):
    """One version of a file, without its bytes."""

    path: str
    number: int
    timestamp: int
    size: int


class Content(msgspec.Struct, frozen=True):
    """One version of a file, with its bytes."""

    version: Version
    data: bytes | memoryview


class Entry(msgspec.Struct, frozen=True):
    """A name in a directory. `version` is 0 for what has none: a directory, a link, a device."""

    name: str
    is_directory: bool
    mode: int
    version: int
    timestamp: int
    size: int


class Change(msgspec.Struct, frozen=True):
    """A committed change of one path: it was written, moved there or deleted.

    `token` names this place in the history of the store: `watch(after=token)` goes on behind it, also years later and
    elsewhere.
    """

    path: str
    kind: str
    version: int
    timestamp: int
    size: int
    token: str


class Conflict(OSError):
    """A put expected another version than there is; nothing was written. Its errno is ESTALE, as at a mount."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ESTALE, message)
