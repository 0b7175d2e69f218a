"""Set-user-id and set-group-id bits end when somebody without the right to set them changes a file (chmod(2), chown(2)).

The kernel does this for file systems on disks, and on a FUSE mount for most calls: not for an open(2) that truncates,
and, where the door has asked for the work (HANDLE_KILLPRIV_V2), for none. File capabilities it removes itself, always.

The rules are Linux's (setattr_should_drop_suidgid()): the set-group-id bit of a file its group may not execute once
meant mandatory locking, and stays where the caller is of that group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.filesystem.interface import Caller, Changes
from storage import record
from storage.attributes import REGULAR, TYPE_MASK, is_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.node import Live
    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["Privileges", "always", "never"]

_SET_USER_ID, _SET_GROUP_ID, _GROUP_EXECUTES = 0o4000, 0o2000, 0o010
_SET_ID = _SET_USER_ID | _SET_GROUP_ID

_NOTHING = Changes()


def always() -> bool:
    """For `may_keep`: it is known that user 0 has."""
    return True


def never() -> bool:
    """For `may_keep`: it is known that he has not."""
    return False


class Privileges:
    """See the module. `invalidations` gathers what the kernel must forget."""

    def __init__(
        self,
        inodes: Inodes,
        store: Store,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._inodes = inodes
        self._store = store
        self._invalidations = invalidations

    def end_by_write(
        self, live: Live, caller: Caller, may_keep: Callable[[], bool] = always
    ) -> None:
        """The content changes.

        Args:
            live: the file.
            caller: who changes it. Only user 0 can have the right to keep the bits (CAP_FSETID), and
            may_keep: says whether he has; it is not asked where there are no bits.
        """
        attributes = self._store.attributes(live.number)
        if attributes is None or not attributes.mode & _SET_ID:
            return
        if attributes.mode & TYPE_MASK != REGULAR or (caller.uid == 0 and may_keep()):
            return
        left = _without_set_id(attributes, caller)
        if left != attributes.mode & 0o7777:
            self._inodes.propose(record.SetAttributes(live.number, left))
            self._invalidations.append((live.number, None))

    def left_by_chown(self, live: Live, caller: Caller) -> int | None:
        """The permission bits that a change of owner or group leaves; None if all. Nobody is exempt (chown(2))."""
        attributes = self._store.attributes(live.number)
        if attributes is None or is_directory(attributes.mode) or not attributes.mode & _SET_ID:
            return None
        return _without_set_id(attributes, caller)

    def is_chown(self, live: Live, changes: Changes, caller: Caller) -> bool:
        """Whether attributes change by chown(2).

        Of neither owner nor group it comes as a change of nothing, which moves ctime all the same. From others than the
        owner and root such a change is the kernel's announcement of a write, and the write itself ends the bits.
        """
        if changes != _NOTHING:
            return changes.uid is not None or changes.gid is not None
        attributes = self._store.attributes(live.number)
        return attributes is not None and caller.uid in (0, attributes.uid)


def _without_set_id(attributes: Attributes, caller: Caller) -> int:
    mode = attributes.mode & 0o7777
    left = mode & ~_SET_USER_ID
    gid = attributes.gid
    of_the_group = caller.uid == 0 or caller.gid == gid or gid in caller.groups()
    return left if of_the_group and not mode & _GROUP_EXECUTES else left & ~_SET_GROUP_ID
