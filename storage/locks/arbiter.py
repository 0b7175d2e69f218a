"""The leader's side of the locks of a shard: who has a session, what it may have, and how a new leader learns of it. Pure.

Theory of operation. Everything is decided in `advance`, and only while it is sure that nobody else leads (its `index` is not None): so
whatever was granted before the next leader began, the next leader can be told. What is given back counts at once, for that is
never wrong.

*Sessions.* A mount has one for each shard, which begins with its first claim and lives while it says so, over the connection it
claimed by. Silent for the lease, it is dropped with all its locks. What comes over another connection than that of its last claim
is not heard: it may have been on its way for long.

*Grace.* A leader that has not led the epoch before knows of no lock. For a lease's length it only listens to claims, and grants
nothing; then who has not claimed has lost. It waits no longer than for those sessions that the leader before had told the members of
(`LockHolders`): a session is granted its first lock when all members know of it, so whoever leads next knows whom to
expect. One who was not told of the epoch before, or has started since, waits for the whole lease.

A process that stood still itself (SIGSTOP, a paused machine) has heard nobody: the time is not held against them.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from storage import wire
from storage.limits import LOCK_LEASE_NS, LOCKS_PER_SESSION_MAX
from storage.locks.spans import EXCLUSIVE, NONE, SHARED
from storage.locks.table import LockTable, Verdict, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection

    from storage.locks.table import Ticket

__all__ = ["ASK", "TRY", "WAIT", "Arbiter"]

STALL_NS: Final = 10**9
"""Between two calls of `advance` no more time passes for those who were not heard meanwhile."""

AGAIN_NS: Final = 10**9
"""Between two words to a member that has not answered."""

ASK, TRY, WAIT = 0, 1, 2
"""Manners of a `wire.Lock`."""

Peer: TypeAlias = "Any"
"""A connection: only whether two are the same counts."""


class _Session:
    __slots__ = ("attempt", "heard_ns", "peer", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        """What all members have to have heard before it is granted anything."""
        self.attempt = 0
        self.heard_ns = 0
        self.peer: Peer | None = None


class Arbiter:
    """See the module. Call what happens, then `advance`, then `take`."""

    def __init__(self, shard: int, *, lease_ns: int = LOCK_LEASE_NS) -> None:
        """Somebody else leads, and nothing was heard of who may hold locks."""
        self.shard = shard
        self.dropped: list[int] = []
        """Sessions that were silent for too long, since somebody took them out of here."""
        self._lease_ns = lease_ns
        self._epoch = 0
        self._leads = self._has_led = False
        self._now_ns = 0
        self._members: frozenset[str] = frozenset()
        self._heard: tuple[int, int, frozenset[int]] = (-1, 0, frozenset())
        self._answers: list[tuple[Peer, wire.Message]] = []
        self._notices: list[tuple[str, wire.Message]] = []
        self._forget()

    def _forget(self) -> None:
        self._table = LockTable()
        self._sessions: dict[int, _Session] = {}
        self._claims: dict[int, tuple[Peer, wire.ClaimLocks]] = {}
        self._keeps: dict[int, Peer] = {}
        self._undecided: deque[wire.Lock] = deque()
        self._granted: list[Ticket] = []
        self._expected: frozenset[int] | None = None
        self._grace_until_ns: int | None = None
        self._serial = 0
        self._told_ns = 0
        self._acknowledged: dict[str, int] = {}

    # --- who leads -----------------------------------------------------------------------------------------------

    def lead(self, now_ns: int, epoch: int, members: Collection[str]) -> None:
        """This node leads in an epoch, with these other members that know of locks; said again, nothing happens.

        Whoever led the epoch before and goes on, goes on with what it has. In the first of all nobody can hold anything.
        """
        if epoch == self._epoch:
            self._leads = True
            return
        goes_on = self._has_led and epoch == self._epoch + 1
        self._epoch, self._members = epoch, frozenset(members)
        self._leads = self._has_led = True
        if not goes_on:
            self._forget()
            known, _, holders = self._heard
            if epoch == 1:
                self._expected = frozenset()
            elif known == epoch - 1:
                self._expected = holders
            self._grace_until_ns = now_ns + self._lease_ns
            self._now_ns = now_ns
        self._acknowledged = {}
        if self._grace_until_ns is None:
            self._announce(now_ns)
            for session in self._sessions.values():
                session.serial = self._serial

    def follow(self) -> None:
        """Somebody else leads, or nobody, perhaps only until this node does again: then nobody has led in between, or it begins anew."""
        self._leads = False

    def hear_holders(self, message: wire.LockHolders) -> wire.LockHoldersKnown:
        """As a member: the leader says who may hold locks; what to answer."""
        if (message.epoch, message.serial) >= self._heard[:2]:
            self._heard = (message.epoch, message.serial, frozenset(message.sessions))
        return wire.LockHoldersKnown(self.shard, message.epoch, message.serial)

    def hear_known(self, member: str, message: wire.LockHoldersKnown) -> None:
        """A member knows."""
        if self._leads and message.epoch == self._epoch:
            before = self._acknowledged.get(member, 0)
            self._acknowledged[member] = max(before, message.serial)

    def _announce(self, now_ns: int) -> None:
        """Not in the grace: members shall have heard of all who may hold something, or of nobody."""
        if self._grace_until_ns is None:
            self._serial += 1
            self._tell(now_ns)

    def _tell(self, now_ns: int) -> None:
        self._told_ns = now_ns
        sessions = sorted(self._sessions)
        for member in self._members:
            if self._acknowledged.get(member, 0) < self._serial:
                told = wire.LockHolders(self.shard, self._epoch, self._serial, sessions)
                self._notices.append((member, told))

    # --- what mounts say -----------------------------------------------------------------------------------------

    def claim(self, peer: Peer, message: wire.ClaimLocks) -> None:
        """A mount's first word over a connection."""
        before = self._claims.get(message.session)
        if self._leads and (before is None or before[1].attempt < message.attempt):
            self._claims[message.session] = (peer, message)

    def keep(self, peer: Peer, message: wire.KeepLocks) -> None:
        """A mount lives."""
        session = self._sessions.get(message.session)
        if self._leads and (session is None or session.peer == peer):
            self._keeps[message.session] = peer

    def ask(self, peer: Peer, message: wire.Lock) -> None:
        """A mount wants a lock, or gives one back."""
        session = self._sessions.get(message.session)
        if session is None or session.peer != peer:
            return
        if message.mode == NONE:
            self._granted += self._table.unlock(_wanted(message))
            self._answer(message)
        else:
            self._undecided.append(message)

    def cancel(self, peer: Peer, message: wire.CancelLock) -> None:
        """A mount waits no longer. What was granted already is told as granted."""
        session = self._sessions.get(message.session)
        if session is None or session.peer != peer:
            return
        ticket = (message.session, message.request)
        undecided = [it for it in self._undecided if (it.session, it.request) == ticket]
        for one in undecided:
            self._undecided.remove(one)
        if undecided or self._table.cancel(ticket):
            self._say(ticket, error_number=errno.EINTR)

    def gone(self, peer: Peer) -> None:
        """A connection ended: who waited by it asks again by another; what it holds, it holds for the lease."""
        self._claims = {key: it for key, it in self._claims.items() if it[0] != peer}
        self._keeps = {key: it for key, it in self._keeps.items() if it != peer}
        for number, session in self._sessions.items():
            if session.peer == peer:
                session.peer = None
                self._stop_waiting(number)

    def _stop_waiting(self, number: int) -> None:
        self._table.cancel_all(number)
        self._granted = [ticket for ticket in self._granted if ticket[0] != number]
        self._undecided = deque(it for it in self._undecided if it.session != number)

    # --- deciding ------------------------------------------------------------------------------------------------

    def advance(self, now_ns: int, index: int | None) -> None:
        """Decide what can be decided, now.

        Args:
            now_ns: of a clock that goes forward only.
            index: what everything committed in the shard is at or below, if it is sure that nobody else leads; else None.
        """
        stood_still_ns = now_ns - self._now_ns - STALL_NS
        self._now_ns = now_ns
        if not self._leads:
            return
        if stood_still_ns > 0:
            self._allow(stood_still_ns)
        if self._serial and now_ns - self._told_ns >= AGAIN_NS:
            self._tell(now_ns)
        for number in self._keeps.keys() & self._sessions.keys():
            self._sessions[number].heard_ns = now_ns
        if index is None:
            return
        self._answer_keeps()
        self._settle_claims(now_ns)
        self._drop_silent(now_ns)
        if not self._is_in_grace(now_ns):
            self._decide()
            self._tell_granted(index)

    def _allow(self, nanoseconds: int) -> None:
        for session in self._sessions.values():
            session.heard_ns += nanoseconds
        if self._grace_until_ns is not None:
            self._grace_until_ns += nanoseconds

    def _answer_keeps(self) -> None:
        for number, peer in self._keeps.items():
            session = self._sessions.get(number)
            if session is not None:
                self._answers.append((peer, self._kept(number, session.attempt, True)))
            elif number not in self._claims and self._grace_until_ns is None:
                self._answers.append((peer, self._kept(number, 0, False)))
        self._keeps.clear()

    def _kept(self, number: int, attempt: int, is_known: bool) -> wire.LocksKept:
        return wire.LocksKept(self.shard, number, attempt, is_known)

    def _settle_claims(self, now_ns: int) -> None:
        claims, self._claims = self._claims, {}
        for number, (peer, message) in claims.items():
            session = self._sessions.get(number)
            if session is not None and message.attempt <= session.attempt:
                continue
            is_late = session is None and message.locks and not self._is_in_grace(now_ns)
            if is_late or len(message.locks) > LOCKS_PER_SESSION_MAX:
                self._answers.append((peer, self._kept(number, message.attempt, False)))
                continue
            self._stop_waiting(number)
            claimed = [_claimed(number, lock) for lock in message.locks]
            granted_all, granted = self._table.replace(number, claimed)
            self._granted += granted
            if session is None:
                session = self._sessions[number] = _Session(self._serial + 1)
                self._announce(now_ns)
            session.peer, session.attempt, session.heard_ns = peer, message.attempt, now_ns
            self._answers.append((peer, self._kept(number, message.attempt, granted_all)))
            if not granted_all:
                del self._sessions[number]

    def _drop_silent(self, now_ns: int) -> None:
        for number, session in list(self._sessions.items()):
            if now_ns - session.heard_ns > self._lease_ns:
                self.dropped.append(number)
                self._stop_waiting(number)
                self._granted += self._table.drop(number)
                del self._sessions[number]
                self._announce(now_ns)

    def _is_in_grace(self, now_ns: int) -> bool:
        if self._grace_until_ns is None:
            return False
        expected = self._expected
        if now_ns < self._grace_until_ns and (
            expected is None or not expected <= self._sessions.keys()
        ):
            return True
        self._grace_until_ns = None
        self._announce(now_ns)
        return False

    def _decide(self) -> None:
        known = min((self._acknowledged.get(member, 0) for member in self._members), default=None)
        undecided, self._undecided = self._undecided, deque()
        for message in undecided:
            session = self._sessions[message.session]
            if known is not None and session.serial > known:
                self._undecided.append(message)
            else:
                self._try(message)

    def _try(self, message: wire.Lock) -> None:
        wanted, ticket = _wanted(message), (message.session, message.request)
        if message.manner == ASK:
            self._answer(message, conflict=self._conflict(wanted))
            return
        if self._table.count(message.session) >= LOCKS_PER_SESSION_MAX:
            self._answer(message, error_number=errno.ENOLCK)
            return
        verdict, granted = self._table.lock(ticket, wanted, waits=message.manner == WAIT)
        self._granted += granted
        if verdict is Verdict.GRANTED:
            self._granted.append(ticket)
        elif verdict is not Verdict.WAITS:
            error_number = errno.EAGAIN if verdict is Verdict.BUSY else errno.EDEADLK
            self._answer(message, error_number=error_number)

    def _conflict(self, wanted: Wanted) -> tuple[int, int, int, int, int] | None:
        found = self._table.conflict(wanted)
        if found is None:
            return None
        (holder, owner), span = found
        # Whose session it is, is nobody else's to know: with that it could be claimed.
        session = holder if holder == wanted.owner[0] else 0
        return session, owner, EXCLUSIVE if span.exclusive else SHARED, span.start, span.end

    def _tell_granted(self, index: int) -> None:
        granted, self._granted = self._granted, []
        for ticket in granted:
            self._say(ticket, index=index)

    # --- what goes out -------------------------------------------------------------------------------------------

    def _answer(
        self,
        message: wire.Lock,
        *,
        error_number: int = 0,
        conflict: tuple[int, int, int, int, int] | None = None,
    ) -> None:
        ticket = (message.session, message.request)
        self._say(ticket, error_number=error_number, conflict=conflict)

    def _say(
        self,
        ticket: Ticket,
        *,
        error_number: int = 0,
        index: int = 0,
        conflict: tuple[int, int, int, int, int] | None = None,
    ) -> None:
        number, request = ticket
        session = self._sessions.get(number)
        if session is not None and session.peer is not None:
            said = wire.LockAnswer(request, self.shard, number, error_number, index, conflict)
            self._answers.append((session.peer, said))

    def take(self) -> tuple[list[tuple[Peer, wire.Message]], list[tuple[str, wire.Message]]]:
        """What to say to connections, and what to members by name, in this order; once."""
        answers, self._answers = self._answers, []
        notices, self._notices = self._notices, []
        return answers, notices

    def status(self) -> dict[str, object]:
        """Figures, JSON-able."""
        return {
            "sessions": len(self._sessions),
            "waiting": len(self._undecided) + self._table.waiting,
            "grace": self._grace_until_ns is not None,
        }


def _wanted(message: wire.Lock) -> Wanted:
    owner = (message.session, message.owner)
    return Wanted(message.inode, owner, message.whole, message.mode, message.start, message.end)


def _claimed(session: int, lock: tuple[int, int, bool, bool, int, int]) -> Wanted:
    inode, owner, whole, exclusive, start, end = lock
    mode = EXCLUSIVE if exclusive else SHARED
    return Wanted(inode, (session, owner), whole, mode, start, end)
