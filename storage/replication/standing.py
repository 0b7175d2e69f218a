"""Whether this member may lead, and what of that must outlive the process (CLUSTER, invariant 2).

A member is in sync when its log surely holds everything that may be committed. It stays so from epoch to epoch as long as it
is listed; it becomes so with the first frame of an epoch that lists it, which has everything before it, but only of one that
began after this replica started: in the epoch of its start it may have acknowledged, in an earlier life, what it has lost.
"""

from __future__ import annotations

from storage.replication.ready import Note

__all__ = ["Standing"]


class Standing:
    """In sync or not, and the note of it.

    Attributes:
        in_sync: See the module.
    """

    def __init__(self, note: Note, born: int) -> None:
        """From what was kept; `born` is the newest epoch when this replica started."""
        self.in_sync = note.in_sync
        self._born = born
        self._asked = self._kept = note

    def enter(self, *, listed: bool, forced: bool) -> None:
        """An epoch was adopted that lists this member or not, or by force makes it the leader."""
        self.in_sync = (self.in_sync and listed) or forced

    def has_start(self, number: int) -> None:
        """The log has the first frame of the epoch served in, which lists this member."""
        if number > self._born:
            self.in_sync = True

    def is_lost(self, number: int) -> bool:
        """Whether a member can not be counted on before an epoch after this one."""
        return not self.in_sync and number <= self._born

    @property
    def may_speak(self) -> bool:
        """Not before it is kept that this member is not in sync any more: else, after a crash, it would believe it was."""
        return self.in_sync or not self._kept.in_sync

    def take_note(self, bound_us: int) -> Note | None:
        """What to keep now, told once."""
        note = Note(bound_us, self.in_sync)
        if note == self._asked:
            return None
        self._asked = note
        return note

    def kept(self, note: Note) -> None:
        """That is kept."""
        self._kept = note
