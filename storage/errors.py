"""The three kinds of trouble, and the words for two of them.

A bug is an ``assert``. A refusal is a `Reason`: something a user asked for that cannot be, decided by the pure
rooms and mapped to an errno in one table (``cascadefs.errnos``). A failure of the world is an exception:
`Corruption` where bytes are not what was written, `Unusable` where a data directory cannot be opened, `OSError`
where the disk said no.
"""

from __future__ import annotations

import enum
import errno

__all__ = ["Corruption", "NotHere", "Reason", "Refused", "Unusable"]


class Reason(enum.Enum):
    """Why something was refused; one errno each (SEMANTICS 5)."""

    ABSENT = "no such name, version or time"
    EXISTS = "the name exists"
    NOT_A_DIRECTORY = "not a directory"
    IS_A_DIRECTORY = "is a directory"
    NOT_EMPTY = "the directory is not empty"
    NAME_TOO_LONG = "the name is longer than 255 bytes"
    MALFORMED = "malformed argument or history name"
    PAST_IS_READ_ONLY = "history cannot be changed"
    READ_ONLY = "mounted read-only"
    PRUNED = "the content was pruned; its record is still known"
    IS_NEWEST = "it is what the file holds now; write or remove the file first"
    HELD = "a hold keeps it"
    OVER_QUOTA = "the directory's quota is used up"
    CROSS_QUOTA = "a directory is not moved from one quota to another; copy it"
    TOO_MANY_ENTRIES = "too much is in the directory already to give it a quota"
    MOVED = "the name means something else by now; look it up again"
    NOT_STABLE_YET = "that time is not stable yet; ask again"
    REPEATED = "that request was done already"
    CONDITION_FAILED = "the version is not the one the condition names"
    NOT_PERMITTED = "only the owner or root may do that"
    DENIED = "permission denied, then or now"
    CROSS_SHARD = "the names live in different shards"
    TOO_MANY_LINKS = "too many links"
    TOO_LARGE = "larger than a file can be"
    ARGUMENT_TOO_LARGE = "the value is larger than its limit"
    NO_SUCH_ATTRIBUTE = "no such extended attribute"
    ATTRIBUTE_EXISTS = "the extended attribute exists"
    UNSUPPORTED = "not supported here"
    BAD_HANDLE = "the handle is not open for that"
    DAMAGED = "stored bytes are damaged"


class Refused(Exception):
    """A refusal on its way to the caller; never a bug and never a failure of the world."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Corruption(Exception):
    """Stored bytes are not what was written; the message names shard, segment and offset."""


class NotHere(OSError):
    """A shard that this process has not, or not yet; another may."""

    def __init__(self, shard: int) -> None:
        super().__init__(errno.EIO, f"shard {shard} is not here")


class Unusable(Exception):
    """A data directory cannot be opened as asked; the message names the thing and the remedy."""
