"""A mount's side of the locks of a shard: what its programs hold and have asked for, and how that outlives connections and leaders. Pure.

Theory of operation. A mount speaks of locks with the leader alone, over one connection at a time. Its first word there is a claim
of all it holds; when that is answered it is *attached*, and asks again, in order, whatever was not answered yet. What
still comes of before does not count, so both sides agree on what is held: what the mount has heard of.

The mount says every second that it lives. Nothing heard for `SILENCE_NS`, it claims again. Told that its session is not known, it has
lost what it held: somebody else may have had it since. Programs hear of that by EIO at their next call about that lock, and then it is
forgotten; other mounts were never wrong.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import msgspec

from storage import wire
from storage.limits import LOCK_LEASE_NS
from storage.locks.arbiter import ASK
from storage.locks.spans import EXCLUSIVE, LAST, NONE, SHARED, Span, assign, overlapping

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.locks.arbiter import Peer

__all__ = ["Claimant"]

KEEP_NS: Final = 10**9
"""Between two signs of life."""

SILENCE_NS: Final = 3 * 10**9
"""Nothing heard for so long, the leader may be another, or the connection dead."""

CLAIM_NS: Final = 500 * 10**6
"""Between two claims of which none was answered: there may be no leader yet."""

_Key = tuple[int, bool, int]
"""(inode, whole, owner)."""


class Claimant:
    """See the module. Call what happens, then `take`."""

    def __init__(self, shard: int, new_session: Callable[[], int]) -> None:
        """Nothing is held. `new_session` draws a number that nobody else has."""
        self.shard = shard
        self._new_session = new_session
        self._session = new_session()
        self._attempt = 0
        self._request = 0
        self._peer: Peer = None
        self._is_attached = False
        self._is_used = False
        self._said_ns = self._vouched_ns = 0
        self._is_answered = False
        self._held: dict[_Key, list[Span]] = {}
        self._pending: dict[int, wire.Lock] = {}
        self._yielded: set[int] = set()
        self._cancelled: set[int] = set()
        self._lost: set[tuple[int, int]] = set()
        self._out: list[wire.Message] = []
        self._done: list[tuple[int, wire.LockAnswer]] = []
        self.losses = 0
        """How many locks were lost because the mount was cut off for too long."""

    # --- programs ------------------------------------------------------------------------------------------------

    def ask(
        self,
        inode: int,
        owner: int,
        *,
        whole: bool,
        mode: int,
        manner: int,
        start: int = 0,
        end: int = LAST,
    ) -> int:
        """Somebody wants a lock, or gives one back; the number of the request, by which `take` says what became of it."""
        self._is_used = True
        self._request += 1
        request = self._request
        message = wire.Lock(
            request, self.shard, self._session, inode, owner, whole, mode, manner, start, end
        )
        if (inode, owner) in self._lost:
            if mode == NONE:
                self._lost.discard((inode, owner))
            self._finish(message, errno.EIO)
            return request
        self._pending[request] = message
        if self._is_attached:
            self._out.append(message)
        return request

    def cancel(self, request: int) -> None:
        """Nobody waits for that any more: it is answered soon, by EINTR if it was not granted."""
        message = self._pending.get(request)
        if message is None:
            return
        if self._is_attached:
            self._cancelled.add(request)
            self._out.append(wire.CancelLock(request, self.shard, self._session))
        else:
            # If it was granted meanwhile, the next claim does not speak of it.
            self._finish(message, errno.EINTR)

    def has(self, inode: int, owner: int, *, whole: bool) -> bool:
        """Whether an owner has, or may be about to have, something of a file."""
        return (inode, whole, owner) in self._held or any(
            (it.inode, it.whole, it.owner) == (inode, whole, owner) for it in self._pending.values()
        )

    def forget(self, inode: int, owner: int) -> None:
        """An owner has closed the file: it need not hear any more of what it lost."""
        self._lost.discard((inode, owner))

    # --- the leader ----------------------------------------------------------------------------------------------

    def connect(self, now_ns: int, peer: Peer) -> None:
        """The leader is reached by this connection, from now on; None: it is not reached, or not known."""
        self._peer, self._is_attached = peer, False
        self._out.clear()
        for request in self._cancelled & self._pending.keys():
            self._finish(self._pending[request], errno.EINTR)
        self._cancelled.clear()
        if self._is_used and peer is not None:
            self._claim(now_ns)

    def _claim(self, now_ns: int) -> None:
        if self._held and now_ns - self._vouched_ns >= LOCK_LEASE_NS:
            # Some leader since may have given them to others, and the next may not know (RFC 7530, 9.6.3.4).
            self._lose(now_ns)
            return
        self._attempt += 1
        self._said_ns, self._is_answered = now_ns, False
        for message in self._pending.values():
            self._yield(message)
        claimed = [
            (inode, owner, whole, span.exclusive, span.start, span.end)
            for (inode, whole, owner), spans in self._held.items()
            for span in spans
        ]
        self._out.append(wire.ClaimLocks(self.shard, self._session, self._attempt, claimed))

    def _yield(self, message: wire.Lock) -> None:
        """Hold on to nothing that may have been given back, or exchanged for less, by what was not answered."""
        key = (message.inode, message.whole, message.owner)
        held = self._held.get(key, [])
        if message.mode == NONE:
            self._hold(key, assign(held, message.start, message.end, NONE))
        elif message.manner == ASK:
            return
        elif message.whole:
            if _is_another(held, message.mode):
                self._hold(key, [])
        elif message.mode == SHARED:
            for span in overlapping(held, message.start, message.end):
                if span.exclusive:
                    start, end = max(span.start, message.start), min(span.end, message.end)
                    self._hold(key, assign(self._held[key], start, end, SHARED))
                    self._yielded.add(message.request)

    def hear_kept(self, now_ns: int, peer: Peer, message: wire.LocksKept) -> None:
        """The leader knows us, or does not."""
        if peer != self._peer or message.session != self._session:
            return
        if not message.is_known:
            self._lose(now_ns)
        elif message.attempt == self._attempt:
            # What was answered may have been on its way for long: it counts from when the mount spoke.
            self._vouched_ns = self._said_ns
            self._is_answered = True
            if not self._is_attached:
                self._is_attached = True
                self._out += self._pending.values()

    def hear_answer(self, peer: Peer, message: wire.LockAnswer) -> None:
        """What became of a request."""
        if peer != self._peer or message.session != self._session or not self._is_attached:
            return  # Of before the claim: it was asked again, or will be.
        asked = self._pending.pop(message.request, None)
        self._cancelled.discard(message.request)
        if asked is None:
            return
        if message.errno and message.request in self._yielded:
            # It was refused more, and has less than it had: not what this errno means.
            message = msgspec.structs.replace(message, errno=errno.EIO)
        self._yielded.discard(message.request)
        key = (asked.inode, asked.whole, asked.owner)
        if asked.mode == NONE or asked.manner != ASK:
            if message.errno == 0:
                self._hold(key, assign(self._held.get(key, []), asked.start, asked.end, asked.mode))
            elif asked.whole and _is_another(self._held.get(key, []), asked.mode):
                self._hold(key, [])  # flock(2) has given up the mode it had.
        self._done.append((message.request, message))

    def _hold(self, key: _Key, spans: list[Span]) -> None:
        if spans:
            self._held[key] = spans
        else:
            self._held.pop(key, None)

    def _lose(self, now_ns: int) -> None:
        self.losses += sum(map(len, self._held.values()))
        self._lost |= {(inode, owner) for inode, _, owner in self._held}
        self._held.clear()
        self._session = self._new_session()
        pending, self._pending = self._pending, {}
        for request, message in pending.items():
            if (message.inode, message.owner) in self._lost:
                if message.mode == NONE:
                    self._lost.discard((message.inode, message.owner))
                self._finish(message, errno.EIO)
            else:
                self._pending[request] = msgspec.structs.replace(message, session=self._session)
        self.connect(now_ns, self._peer)

    def refuse(self, error_number: int) -> None:
        """There is nobody who could grant anything."""
        for message in list(self._pending.values()):
            self._finish(message, error_number)

    def _finish(self, message: wire.Lock, error_number: int) -> None:
        """Without an answer: it may have been done, or not."""
        self._pending.pop(message.request, None)
        self._yield(message)
        if message.request in self._yielded:
            self._yielded.discard(message.request)
            error_number = errno.EIO
        answer = wire.LockAnswer(message.request, self.shard, message.session, error_number)
        self._done.append((message.request, answer))

    def tick(self, now_ns: int) -> None:
        """Some time has passed: call this a few times a second."""
        if not self._is_used or self._peer is None:
            return
        if not self._is_attached:
            if now_ns - self._said_ns >= CLAIM_NS:
                self._claim(now_ns)
        elif now_ns - self._vouched_ns >= SILENCE_NS:
            self.connect(now_ns, self._peer)
        elif self._is_answered and now_ns - self._said_ns >= KEEP_NS:
            self._said_ns, self._is_answered = now_ns, False
            self._out.append(wire.KeepLocks(self.shard, self._session))

    # --- what goes out -------------------------------------------------------------------------------------------

    def take(self) -> tuple[list[wire.Message], list[tuple[int, wire.LockAnswer]]]:
        """What to say to the leader, in this order; and what became of requests. Once."""
        out, self._out = self._out, []
        done, self._done = self._done, []
        return out, done


def _is_another(held: list[Span], mode: int) -> bool:
    return any(span.exclusive != (mode == EXCLUSIVE) for span in held)
