"""Locks of files in the shards that are here: what mounts ask is decided by the leader's arbiter, and members hear who may hold some.

Everything that decides is in `storage.locks`; this brings messages, time and leadership there, and carries away what there is to say.
In the thread of the network's loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from storage import wire
from storage.locks import Arbiter
from storage.replication import Role
from storage.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from storage.member import Member
    from storage.member.member import Post
    from storage.transport import Connection

__all__ = ["Locks"]

TICK_S: Final = 0.25
"""Between two looks whether a lease or a grace has ended; and how late somebody who waits hears that this node surely leads again."""

_log = logging.getLogger("cascadefs.node")


class Locks:
    """See the module. `run` once."""

    def __init__(
        self,
        name: str,
        members: Mapping[int, Member],
        post: Post,
        knows: Callable[[str], bool],
        steady_ns: Callable[[], int],
    ) -> None:
        """Nothing is locked.

        Args:
            name: this node's.
            members: the replicas here, by shard.
            post: the way to other nodes.
            knows: whether another node understands what is said of locks.
            steady_ns: a clock that goes forward only.
        """
        self._name = name
        self._members = members
        self._post = post
        self._knows = knows
        self._steady_ns = steady_ns
        self._arbiters: dict[int, Arbiter] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for shard in list(self._members):
                self._advance(shard)
            await trio.sleep(TICK_S)  # noqa: TID251  # Nothing tells but time.

    def take(
        self,
        connection: Connection,
        message: wire.Lock
        | wire.CancelLock
        | wire.ClaimLocks
        | wire.KeepLocks
        | wire.LockHolders
        | wire.LockHoldersKnown,
    ) -> None:
        """Somebody said something about locks. Where this is not the leader nobody is answered: it asks again, or elsewhere."""
        shard = message.shard
        if shard not in self._members:
            return
        arbiter = self._arbiter(shard)
        match message:
            case wire.Lock():
                arbiter.ask(connection, message)
            case wire.CancelLock():
                arbiter.cancel(connection, message)
            case wire.ClaimLocks():
                arbiter.claim(connection, message)
            case wire.KeepLocks():
                arbiter.keep(connection, message)
            case wire.LockHolders():
                _say(connection, arbiter.hear_holders(message))
            case wire.LockHoldersKnown():
                arbiter.hear_known(connection.peer.name, message)
        self._advance(shard)

    def gone(self, connection: Connection) -> None:
        """A connection ended."""
        for arbiter in self._arbiters.values():
            arbiter.gone(connection)

    def status(self, shard: int) -> dict[str, object]:
        """Figures of a shard, JSON-able."""
        return self._arbiter(shard).status()

    def _arbiter(self, shard: int) -> Arbiter:
        arbiter = self._arbiters.get(shard)
        if arbiter is None:
            arbiter = self._arbiters[shard] = Arbiter(shard)
            self._follow(shard, arbiter)
        return arbiter

    def _follow(self, shard: int, arbiter: Arbiter) -> None:
        """Who leads, as of now."""
        replica = self._members[shard].replica
        epoch = replica.epoch
        if replica.role is Role.LEADER and epoch is not None:
            others = [name for name in epoch.members if name != self._name and self._knows(name)]
            arbiter.lead(self._steady_ns(), epoch.number, others)
        else:
            arbiter.follow()

    def _advance(self, shard: int) -> None:
        arbiter = self._arbiter(shard)
        self._follow(shard, arbiter)
        arbiter.advance(self._steady_ns(), self._members[shard].certain_index())
        answers, notices = arbiter.take()
        for connection, answer in answers:
            _say(connection, answer)
        for name, notice in notices:
            buffers = wire.encode(notice)
            self._post(name, buffers, sum(map(len, buffers)))
        for session in arbiter.dropped:
            _log.warning(
                "shard %d: a mount was silent too long; its locks are gone (%x)", shard, session
            )
        arbiter.dropped.clear()


def _say(connection: Connection, message: wire.Message) -> None:
    """Who does not take what it has asked for loses the connection, and asks again by another: nothing is left out."""
    try:
        connection.send_nowait(wire.encode(message))
    except trio.WouldBlock:
        connection.close("it does not take its answers")
    except Broken:
        pass  # Whoever serves it notices, too.
