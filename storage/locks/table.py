"""All locks of a shard's files, and who waits for one. Pure.

Theory of operation. A lock is granted if it is compatible with what others hold: with the locks of its own kind only, for flock(2)
and fcntl(2) know nothing of each other. Who cannot have it at once may wait. When something is given back, those who wait for that
file are looked at in the order in which they came, and each that can have its lock by then gets it. As on Linux, who asks anew does not
stand behind who waits: a stream of shared locks may keep somebody waiting who wants an exclusive one, and in return no
queue can close a ring that the locks themselves do not.

Rings of fcntl(2) locks are refused (EDEADLK) as POSIX wants, within a shard: each knows its own locks only. Of flock(2) no ring is
noticed, as on Linux, where turning one mode into another gives the first up in any case.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from storage.locks.spans import EXCLUSIVE, LAST, NONE, Span, assign, overlapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LockTable", "Owner", "Ticket", "Verdict", "Wanted"]

Owner: TypeAlias = tuple[int, int]
"""(session, owner in it)."""

Ticket: TypeAlias = tuple[int, int]
"""(session, request): names who waits."""


class Wanted(NamedTuple):
    """A lock that somebody wants, or gives back (mode `NONE`)."""

    inode: int
    owner: Owner
    whole: bool
    """flock(2)."""
    mode: int
    start: int
    end: int


class Verdict(enum.Enum):
    """What became of it."""

    GRANTED = enum.auto()
    BUSY = enum.auto()
    WAITS = enum.auto()
    DEADLOCK = enum.auto()


class _File:
    """The locks of one kind of one file."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held: dict[Owner, list[Span]] = {}
        self.waiting: dict[Ticket, Wanted] = {}  # In the order in which they came.


class LockTable:
    """See the module. Costs what the locks of the file in question cost, however many there are of others."""

    def __init__(self) -> None:
        """Nothing is locked."""
        self._files: dict[tuple[int, bool], _File] = {}
        self._files_of: dict[int, set[tuple[int, bool]]] = {}  # Where a session may have something.
        self._waits: dict[Owner, set[Ticket]] = {}  # For locks of fcntl(2).
        self._tickets: dict[Ticket, Wanted] = {}
        self._counts: dict[int, int] = {}

    # --- questions -----------------------------------------------------------------------------------------------

    def conflict(self, wanted: Wanted) -> tuple[Owner, Span] | None:
        """Who is in the way of it, and with what; the one that begins first."""
        return min(self._conflicts(wanted), key=lambda found: found[1].start, default=None)

    def _conflicts(self, wanted: Wanted) -> Iterator[tuple[Owner, Span]]:
        file = self._files.get((wanted.inode, wanted.whole))
        for owner, spans in file.held.items() if file is not None else ():
            if owner == wanted.owner:
                continue
            for span in overlapping(spans, wanted.start, wanted.end):
                if span.exclusive or wanted.mode == EXCLUSIVE:
                    yield owner, span

    def held(self, session: int) -> list[tuple[int, int, bool, Span]]:
        """What a session holds: (inode, owner, whole, span)."""
        return [
            (inode, owner[1], whole, span)
            for inode, whole in self._files_of.get(session, ())
            for owner, spans in self._files[inode, whole].held.items()
            if owner[0] == session
            for span in spans
        ]

    def count(self, session: int) -> int:
        """How many spans a session holds, and locks it waits for."""
        return self._counts.get(session, 0)

    @property
    def waiting(self) -> int:
        """How many locks are waited for."""
        return len(self._tickets)

    # --- changes -------------------------------------------------------------------------------------------------

    def lock(self, ticket: Ticket, wanted: Wanted, *, waits: bool) -> tuple[Verdict, list[Ticket]]:
        """Have a lock, or wait for it; and who waited and has one by that, because a mode was turned into another.

        flock(2) that cannot have another mode at once gives up the one it had, also if it is refused then.
        """
        assert wanted.mode != NONE
        if next(self._conflicts(wanted), None) is None:
            return Verdict.GRANTED, self._grant(wanted)
        granted = self.unlock(wanted) if wanted.whole and not self._has(wanted) else []
        if not waits:
            return Verdict.BUSY, granted
        if not wanted.whole and self._closes_ring(wanted):
            return Verdict.DEADLOCK, granted
        self._file(wanted).waiting[ticket] = wanted
        self._tickets[ticket] = wanted
        self._add(ticket[0], 1)
        if not wanted.whole:
            self._waits.setdefault(wanted.owner, set()).add(ticket)
        return Verdict.WAITS, granted

    def unlock(self, wanted: Wanted) -> list[Ticket]:
        """Give a range back, held or not; and who waited and has a lock by that."""
        return self._grant(wanted._replace(mode=NONE))

    def cancel(self, ticket: Ticket) -> bool:
        """Nobody waits by that name any more; whether somebody did."""
        wanted = self._tickets.get(ticket)
        if wanted is None:
            return False
        self._forget_waiting(ticket, wanted)
        self._tidy(wanted)
        return True

    def cancel_all(self, session: int) -> None:
        """Nobody of a session waits any more."""
        for ticket in [ticket for ticket in self._tickets if ticket[0] == session]:
            self.cancel(ticket)

    def drop(self, session: int) -> list[Ticket]:
        """A session has nothing any more and waits for nothing; and who waited and has a lock by that."""
        return self.replace(session, ())[1]

    def replace(self, session: int, claimed: Iterable[Wanted]) -> tuple[bool, list[Ticket]]:
        """A session has just these, and waits for nothing; and who waited and has a lock by that.

        False if others are in the way of something: then it has nothing.
        """
        self.cancel_all(session)
        before = list(self._files_of.get(session, ()))
        for inode, whole in before:
            file = self._files[inode, whole]
            for owner in [owner for owner in file.held if owner[0] == session]:
                self._hold(file, Wanted(inode, owner, whole, NONE, 0, LAST))
        for wanted in claimed:
            if next(self._conflicts(wanted), None) is not None:
                return False, self.drop(session)
            self._hold(self._file(wanted), wanted)
        granted: list[Ticket] = []
        for inode, whole in before:
            granted += self._serve(Wanted(inode, (session, 0), whole, NONE, 0, 0))
        if not self._files_of.get(session):
            self._files_of.pop(session, None)
        return True, granted

    # --- inside --------------------------------------------------------------------------------------------------

    def _file(self, wanted: Wanted) -> _File:
        return self._files.setdefault((wanted.inode, wanted.whole), _File())

    def _has(self, wanted: Wanted) -> bool:
        """Whether the owner has nothing of another mode."""
        file = self._files.get((wanted.inode, wanted.whole))
        spans = file.held.get(wanted.owner, []) if file is not None else []
        return all(span.exclusive == (wanted.mode == EXCLUSIVE) for span in spans)

    def _grant(self, wanted: Wanted) -> list[Ticket]:
        """Let it be so; and who of those who wait has a lock by that, if anything was given back."""
        self._hold(self._file(wanted), wanted)
        return [] if wanted.mode == EXCLUSIVE else self._serve(wanted)

    def _hold(self, file: _File, wanted: Wanted) -> None:
        before = file.held.pop(wanted.owner, [])
        spans = assign(before, wanted.start, wanted.end, wanted.mode)
        self._add(wanted.owner[0], len(spans) - len(before))
        if spans:
            file.held[wanted.owner] = spans
            self._files_of.setdefault(wanted.owner[0], set()).add((wanted.inode, wanted.whole))

    def _add(self, session: int, count: int) -> None:
        total = self._counts.pop(session, 0) + count
        if total:
            self._counts[session] = total

    def _serve(self, wanted: Wanted) -> list[Ticket]:
        """Those who wait for a file, in their order: who can have the lock has it."""
        file = self._file(wanted)
        granted: list[Ticket] = []
        some = True
        while some:  # Who is granted a shared lock may give up an exclusive one by that.
            some = False
            for ticket, other in list(file.waiting.items()):
                if next(self._conflicts(other), None) is None:
                    self._forget_waiting(ticket, other)
                    self._hold(file, other)
                    granted.append(ticket)
                    some = True
        self._tidy(wanted)
        return granted

    def _forget_waiting(self, ticket: Ticket, wanted: Wanted) -> None:
        del self._tickets[ticket]
        self._add(ticket[0], -1)
        del self._file(wanted).waiting[ticket]
        if not wanted.whole:
            waits = self._waits[wanted.owner]
            waits.discard(ticket)
            if not waits:
                del self._waits[wanted.owner]

    def _tidy(self, wanted: Wanted) -> None:
        key = (wanted.inode, wanted.whole)
        file = self._files[key]
        session = wanted.owner[0]
        if not any(owner[0] == session for owner in file.held):
            self._files_of.get(session, set()).discard(key)
        if not file.held and not file.waiting:
            del self._files[key]

    def _closes_ring(self, wanted: Wanted) -> bool:
        """Whether those in the way wait for this owner, through however many others."""
        seen: set[Owner] = set()
        looked_at = [owner for owner, _ in self._conflicts(wanted)]
        while looked_at:
            owner = looked_at.pop()
            if owner == wanted.owner:
                return True
            if owner in seen:
                continue
            seen.add(owner)
            for ticket in self._waits.get(owner, ()):
                looked_at += [other for other, _ in self._conflicts(self._tickets[ticket])]
        return False
