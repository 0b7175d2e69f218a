"""A mount's locks of files, over the link: what programs ask, in any thread, and what leaders answer, in the link's.

Everything that decides is `storage.locks.Claimant`, one for each shard; this holds them together under one lock, which nobody keeps while
waiting for anything.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from storage import wire
from storage.limits import INODES_PER_SHARD, RECORD_INODE_MAX
from storage.locks import LAST, Claimant
from storage.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.transport import Connection

__all__ = ["Locks"]

Done: TypeAlias = "Callable[[wire.LockAnswer], None]"
"""Told what became of what was asked, once, mostly by the link's thread; must not wait."""

Ticket: TypeAlias = tuple[int, int]
"""(shard, request)."""

_log: Final = logging.getLogger("cascadefs.link")


class Locks:
    """See the module."""

    def __init__(self, random: Random, soon: Callable[[Callable[[int], None], int], None]) -> None:
        """Nothing is held; `soon` has the link's thread call something with a shard."""
        self._random = random
        self._soon = soon
        self._lock = threading.Lock()
        self._claimants: dict[int, Claimant] = {}
        self._leading: dict[int, tuple[Connection | None, int]] = {}
        self._done: dict[Ticket, Done] = {}
        self._closed = False
        self._refused: set[int] = set()
        """Shards whose leader does not understand what is said of locks."""
        self._losses = 0

    # --- any thread ----------------------------------------------------------------------------------------------

    def ask(
        self,
        inode: int,
        owner: int,
        done: Done,
        *,
        whole: bool,
        mode: int,
        manner: int,
        start: int = 0,
        end: int = LAST,
    ) -> Ticket:
        """Ask for a lock, or give one back; see `wire.Lock`. Never waits."""
        shard = shard_of(inode)
        with self._lock:
            claimant = self._claimant(shard)
            request = claimant.ask(
                inode, owner, whole=whole, mode=mode, manner=manner, start=start, end=end
            )
            self._done[shard, request] = done
            if self._closed:
                claimant.refuse(errno.EIO)
        if self._closed:
            self.flush(shard)
        else:
            self._soon(self.flush, shard)
        return shard, request

    def cancel(self, ticket: Ticket) -> None:
        """Whoever asked waits no longer: it is told soon, of EINTR unless it was granted."""
        shard, request = ticket
        with self._lock:
            self._claimant(shard).cancel(request)
        self._soon(self.flush, shard)

    def has(self, inode: int, owner: int, *, whole: bool) -> bool:
        """Whether an owner has, or may be about to have, something of a file."""
        with self._lock:
            claimant = self._claimants.get(shard_of(inode))
            return claimant is not None and claimant.has(inode, owner, whole=whole)

    def forget(self, inode: int, owner: int) -> None:
        """An owner has closed the file."""
        with self._lock:
            claimant = self._claimants.get(shard_of(inode))
            if claimant is not None:
                claimant.forget(inode, owner)

    def close(self) -> None:
        """Nobody waits any more: all that is asked is answered with EIO. Twice is no mistake."""
        with self._lock:
            self._closed = True
            for claimant in self._claimants.values():
                claimant.refuse(errno.EIO)
            shards = list(self._claimants)
        for shard in shards:
            self.flush(shard)

    def _claimant(self, shard: int) -> Claimant:
        claimant = self._claimants.get(shard)
        if claimant is None:
            claimant = Claimant(shard, lambda: self._random.getrandbits(63) + 1)
            self._claimants[shard] = claimant
        return claimant

    # --- the link's thread ---------------------------------------------------------------------------------------

    def attend(
        self, shard: int, connection: Connection | None, epoch: int, *, knows: bool, now_s: float
    ) -> None:
        """A shard's leader is reached by this connection, in this epoch; to be said often.

        `knows`: whether it understands what is said of locks.
        """
        now_ns = int(now_s * 1e9)
        with self._lock:
            claimant = self._claimant(shard)
            if self._leading.get(shard) != (connection, epoch):
                self._leading[shard] = (connection, epoch)
                claimant.connect(now_ns, connection if knows else None)
            (self._refused.discard if knows else self._refused.add)(shard)
            claimant.tick(now_ns)
        self.flush(shard)

    def hear(
        self, connection: Connection, message: wire.LockAnswer | wire.LocksKept, now_s: float
    ) -> None:
        """A leader said something."""
        with self._lock:
            claimant = self._claimant(message.shard)
            if isinstance(message, wire.LocksKept):
                claimant.hear_kept(int(now_s * 1e9), connection, message)
            else:
                claimant.hear_answer(connection, message)
            losses = sum(claimant.losses for claimant in self._claimants.values())
            lost, self._losses = losses - self._losses, losses
        if lost:
            _log.error(
                "shard %d: %d locks of files are lost: the cluster has not heard this mount for too long",
                message.shard,
                lost,
            )
        self.flush(message.shard)

    def flush(self, shard: int) -> None:
        """Say what there is to say, and tell who asked."""
        with self._lock:
            claimant = self._claimant(shard)
            connection, _ = self._leading.get(shard, (None, 0))
            if shard in self._refused:
                claimant.refuse(errno.ENOLCK)
            out, done = claimant.take()
            if self._closed:
                # In any thread; and who was told that it failed shall not have it later.
                out = []
            told = [(self._done.pop((shard, request)), answer) for request, answer in done]
        for call, answer in told:
            call(answer)
        if connection is not None:
            for message in out:
                _say(connection, message)


def shard_of(inode: int) -> int:
    """Where a node's locks are: in its shard; those of the past, which all mounts number alike, in the first."""
    return inode // INODES_PER_SHARD if inode < RECORD_INODE_MAX else 0


def _say(connection: Connection, message: wire.Message) -> None:
    try:
        connection.send_nowait(wire.encode(message))
    except trio.WouldBlock:
        connection.close("it does not take what is asked")  # All is asked again by the next.
    except Broken:
        pass  # Whoever receives on it notices, too.
