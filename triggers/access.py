"""Whether somebody may: permission bits, asked of attributes alone.

Source: POSIX.1-2017 4.5, "File Access Permissions"; unlink(2) on the sticky bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from storage.attributes import Attributes

__all__ = ["READ", "SEARCH", "WRITE", "Identity", "may", "may_remove"]

READ, WRITE, SEARCH = 4, 2, 1
_STICKY = 0o1000


class Identity(NamedTuple):
    """Whom a script runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def may(who: Identity, attributes: Attributes, want: int) -> bool:
    """Whether the permission bits give all of `want`; root needs none but to search or read what is there."""
    if who.uid == 0:
        return True
    mode = attributes.mode
    if who.uid == attributes.uid:
        granted = mode >> 6
    elif attributes.gid == who.gid or attributes.gid in who.groups:
        granted = mode >> 3
    else:
        granted = mode
    return granted & want == want


def may_remove(who: Identity, directory: Attributes, file: Attributes) -> bool:
    """Whether a name may be taken out of a directory: with the sticky bit, only by an owner."""
    if not may(who, directory, WRITE | SEARCH):
        return False
    return not directory.mode & _STICKY or who.uid in (0, directory.uid, file.uid)
