"""`user.cascade.restore`: a file, or a directory with all in it, becomes what it was; as new versions (SEMANTICS 7).

Of a directory everything changes in one record, at one time: nobody ever sees half of it, and it is undone by restoring
once more. What is there now under another name moves back and keeps its history; what is gone is made again, its bytes
shared; what came later is removed, which stays in its history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cascadefs.filesystem.interface import READ, SEARCH, Caller, may
from cascadefs.filesystem.node import Live, Past
from cascadefs.filesystem.rearrangement import Rearrangement
from storage import record
from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import METADATA_BYTES_MAX

if TYPE_CHECKING:
    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.privileges import Privileges
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Restoring"]

PLANS_MAX: Final = 8
"""How often a directory is planned anew because others changed it before the record came to its turn."""

CHANGED_MEANWHILE: Final = frozenset(
    {
        Reason.ABSENT,
        Reason.EXISTS,
        Reason.NOT_EMPTY,
        Reason.NOT_A_DIRECTORY,
        Reason.IS_A_DIRECTORY,
        Reason.MALFORMED,
    }
)
"""Why a plan could not be done, where that can be because somebody was quicker."""


class Restoring:
    """See the module. `invalidations` gathers what the kernel must forget."""

    def __init__(
        self,
        inodes: Inodes,
        privileges: Privileges,
        store: Store,
        clock: Clock,
        history: History,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._inodes = inodes
        self._privileges = privileges
        self._store = store
        self._clock = clock
        self._history = history
        self._invalidations = invalidations

    def restore(self, live: Live, spec: bytes, caller: Caller) -> None:
        """Make a file or directory what a specification of its own name says it was.

        Raises:
            Refused: ABSENT, MALFORMED for the specification; DENIED where the caller may not read what was, or change
                what is; ARGUMENT_TOO_LARGE for a directory of which more changes than one record holds; CROSS_QUOTA where a
                directory would move from one quota to another; OVER_QUOTA for a file its quota has no room for;
                UNSUPPORTED for a file of several names, whose histories differ.
        """
        attributes = self._store.attributes(live.number)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        if is_directory(attributes.mode):
            self._restore_directory(live, spec, caller)
        else:
            self._restore_file(live, spec, caller)

    def _restore_file(self, live: Live, spec: bytes, caller: Caller) -> None:
        """Make the content of another version of the same name the next one; its bytes are shared, not copied."""
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink != 1 or live.alias is None:
            raise Refused(Reason.UNSUPPORTED)
        directory, name = live.alias
        binding = self._store.binding(directory, name)
        if binding is None or binding.inode != live.number:
            raise Refused(Reason.UNSUPPORTED)
        node, _ = self._history.resolve(directory, name + b"@" + spec)
        if not isinstance(node, Past) or node.attributes.mode & TYPE_MASK != REGULAR:
            raise Refused(Reason.MALFORMED)
        if not may(node.attributes, caller, READ):
            raise Refused(Reason.DENIED)
        self._inodes.check_now(node, caller, READ)
        self._inodes.check_room(live, node.attributes.size)
        self._privileges.end_by_write(live, caller)
        if live.claim is not None:
            self._inodes.end_claim(live)
        if live.draft is not None and (attributes.content or live.draft.size):
            # What others are writing stays in history; a file just made is not written yet.
            self._inodes.commit(live)
            if live.claim is not None:  # Of somebody who was quick.
                self._inodes.end_claim(live)
        draft = self._inodes.draft(live)
        draft.truncate(0, self._clock.now_ns())
        generation = node.attributes.generation
        for chunk, pieces in self._store.chunks(node.inode, generation, node.timestamp):
            draft.share(chunk, pieces, node.attributes.size)
        draft.size = node.attributes.size
        self._inodes.commit(live)
        self._invalidations.append((live.number, None))

    def _restore_directory(self, live: Live, spec: bytes, caller: Caller) -> None:
        node, _ = self._history.resolve(live.number, b".@" + spec)
        if not isinstance(node, Past) or node.inode != live.number:
            raise Refused(Reason.MALFORMED)
        if not may(node.attributes, caller, READ | SEARCH):
            raise Refused(Reason.DENIED)
        self._inodes.check_now(node, caller, READ | SEARCH)
        plan, reason = self._rearrange(live, node, caller)
        for _ in range(PLANS_MAX - 1):
            if reason not in CHANGED_MEANWHILE or not self._store.has_others:
                break
            plan, reason = self._rearrange(live, node, caller)
        if reason is not None:
            is_ours = self._store.has_others or reason is Reason.CROSS_QUOTA
            assert is_ours, f"what was planned on the tree as it is, can be done: {reason}"
            raise Refused(reason)
        for inode, place in plan.moved.items():
            moved = self._inodes.nodes.get(inode)
            if type(moved) is Live:
                moved.alias = place
        for inode in plan.unlinked:
            self._inodes.after_unlink(inode)
        self._invalidations += plan.stale

    def _rearrange(
        self, live: Live, node: Past, caller: Caller
    ) -> tuple[Rearrangement, Reason | None]:
        """Plan on the tree as it is now, and propose that; others may be quicker, so that it cannot be done any more."""
        for other in self._drafts_below(live.number):
            if other.claim is None and other.draft is not None:
                self._inodes.commit(other)  # What is being written becomes a version first.
        plan = Rearrangement(self._store, self._inodes, self._history, caller, self._clock.now_ns())
        parts = plan.parts(node)
        if not parts:
            return plan, None
        proposal = record.Batch(parts)
        if len(record.encode(proposal)) > METADATA_BYTES_MAX:
            raise Refused(Reason.ARGUMENT_TOO_LARGE)
        for other in self._drafts_below(live.number):
            if other.claim is not None:
                self._inodes.end_claim(other)
        return plan, self._store.propose(proposal).reason

    def _drafts_below(self, directory: int) -> list[Live]:
        """What is being written below a directory."""
        return [
            live
            for live in self._inodes.drafts.values()
            if (attributes := self._store.attributes(live.number)) is not None
            and attributes.nlink
            and attributes.parent
            and self._store.is_below(attributes.parent, directory)
        ]
