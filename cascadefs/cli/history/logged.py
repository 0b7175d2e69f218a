"""The lines of a history file, `NAME@@/.log`: one JSON object a version, newest first (SEMANTICS 1).

Names inside are text with the bytes that are no UTF-8 as surrogates, like Python's own file names. Fields nobody here
knows are ignored, so that the file may say more one day.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LoggedInstant", "LoggedVersion", "read_log"]


@dataclass(frozen=True, slots=True)
class LoggedVersion:
    """One version of a name: content, or the tombstone that says the name was removed or moved away."""

    version: int
    timestamp: int
    kind: str
    size: int | None
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    inode: int
    moved_from: bytes | None  # Relative to the mount's root.
    moved_to: bytes | None
    same: bool  # The bytes are those of the version before.
    gone: str | None = None  # "pruned" or "purged": the content is not kept any more.

    @property
    def is_tombstone(self) -> bool:
        """Whether this version has no content: `NAME@vN` says ENOENT."""
        return self.kind in ("delete", "moved")


@dataclass(frozen=True, slots=True)
class LoggedInstant:
    """One commit at or below a directory."""

    timestamp: int


def read_log(path: bytes) -> Iterator[LoggedVersion | LoggedInstant]:
    """The history in the file at `path`, newest first: versions of a name, or the instants of a directory.

    Raises:
        OSError: there is no such history, or it may not be read.
    """
    with open(path, "rb") as lines:
        for line in lines:
            yield _parsed(json.loads(line))


def _parsed(fields: dict[str, Any]) -> LoggedVersion | LoggedInstant:
    if "version" not in fields:
        return LoggedInstant(fields["timestamp"])
    return LoggedVersion(
        version=fields["version"],
        timestamp=fields["timestamp"],
        kind=fields["kind"],
        size=fields.get("size"),
        mode=fields.get("mode") or 0,
        uid=fields.get("uid") or 0,
        gid=fields.get("gid") or 0,
        mtime_ns=fields.get("mtime_ns") or 0,
        inode=fields.get("inode") or 0,
        moved_from=_name(fields.get("moved_from")),
        moved_to=_name(fields.get("moved_to")),
        same=bool(fields.get("same")),
        gone=fields.get("gone"),
    )


def _name(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
