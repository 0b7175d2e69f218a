"""Writing on a condition by handle: `user.cascade.if_version`, set on a file that is open (SEMANTICS 6).

Theory of operation. The claim is of one handle, and what it writes is the file's own draft, seen by everybody at once as
ever. So while it lasts nobody else may write and it still be kept: whoever writes, truncates or restores without a claim
ends it, and the draft of the handle that lost is dropped. Somebody who asks for a claim where there is one, or where a
draft is under way, has lost already. It is looked at again when the draft is committed (`Inodes.commit`), and goes along
with the versions its handle makes.

The kernel tells of an extended attribute which file and which thread, and not which handle: it is the one that this
thread opened for writing last, or else the only one there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import record
from storage.errors import Reason, Refused

if TYPE_CHECKING:
    from cascadefs.filesystem.files import OpenFile
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.node import Live
    from storage.store import Store

__all__ = ["Claim", "Claims", "version_of"]


class Claim:
    """What a handle expects of the file it writes to."""

    __slots__ = ("expect", "file")

    def __init__(self, file: OpenFile, expect: record.Expect) -> None:
        self.file = file
        self.expect = expect


class Claims:
    """See the module."""

    def __init__(self, inodes: Inodes, store: Store) -> None:
        self._inodes = inodes
        self._store = store

    def set(self, live: Live, file: OpenFile, version: int) -> None:
        """Let what a handle writes from now on depend on the head.

        Raises:
            Refused: CONDITION_FAILED if that is not the head, or somebody else writes or has a claim; MALFORMED if the
                handle itself has written already; UNSUPPORTED of a file without a name.
        """
        if live.alias is None:
            raise Refused(Reason.UNSUPPORTED)
        expect = record.Expect(*live.alias, version, live.number)
        if file.dirty or file.pending:
            raise Refused(Reason.MALFORMED)
        taken = live.claim is not None and live.claim.file is not file
        if taken or live.draft is not None or not self._store.holds(expect):
            raise Refused(Reason.CONDITION_FAILED)
        file.lost = False
        live.claim = Claim(file, expect)

    def give_up(self, live: Live, file: OpenFile) -> None:
        """Drop what was written on a condition; the handle writes nothing more."""
        if live.claim is None or live.claim.file is not file:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        self._inodes.end_claim(live)


def version_of(text: bytes) -> int:
    """The version that a value of `user.cascade.if_version` names: `12` or `v12`."""
    digits = text.removeprefix(b"v")
    canonical = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0"))
    if not canonical or len(digits) > 19:
        raise Refused(Reason.MALFORMED)
    return int(digits)
