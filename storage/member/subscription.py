"""An observer elsewhere: committed records pushed over a connection, as fast as they are taken (`wire.Subscribe`).

One task for each connection and shard. What is near the head comes from the member's tail; who lags is served from
the log, read on a worker thread. Not more than a window of metadata is on its way.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import trio

from storage import wire
from storage.errors import Corruption
from storage.member.memory import MemoryLog
from storage.member.tail import Cursor, Lost
from storage.sequencer import START, Place
from storage.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.member.member import Member
    from storage.sequencer import Sequenced
    from storage.transport import Connection

__all__ = ["Subscription"]


class Subscription:
    """One follower over a connection. In the thread of the network's loop."""

    def __init__(
        self,
        connection: Connection,
        member: Member,
        place: Place,
        mend: Callable[[int], Awaitable[None]],
    ) -> None:
        """Nothing is sent before `run`.

        Args:
            connection: to the observer.
            member: the replica here.
            place: what the observer has.
            mend: put back the record at an address from another member, or raise `Corruption`.
        """
        self._connection = connection
        self._member = member
        self._mend = mend
        self._cursor = Cursor(place)
        self._news = trio.Event()
        self._on_its_way: deque[tuple[int, int]] = (
            deque()
        )  # (index, bytes) of messages not taken yet.
        self._bytes = 0
        self._told: tuple[int, int, int] = (-1, -1, -1)

    def taken(self, index: int) -> None:
        """The observer has taken all up to an index out of its queue."""
        while self._on_its_way and self._on_its_way[0][0] <= index:
            self._bytes -= self._on_its_way.popleft()[1]
        self._news.set()

    def _wake(self) -> None:
        self._news.set()

    def _tell_epoch(self) -> None:
        # Rare and small: a full queue only means that the observer hears of it with its next proposal.
        with contextlib.suppress(trio.WouldBlock, Broken):
            self._connection.send_nowait(wire.encode(self._member.epoch_message()))

    async def run(self) -> None:
        """Push until cancelled, or the observer's place turns out to be of something else.

        Raises:
            Broken: the connection is no more.
        """
        member = self._member
        member.followers.add(self._wake)
        member.on_epoch.add(self._tell_epoch)
        try:
            await self._connection.send(wire.encode(member.epoch_message()))
            if not await self._find():
                return
            while True:
                try:
                    records = await self._take()
                except Lost:
                    await self._tell_stranger()
                    return
                if not await self._push(records):
                    await self._news.wait()
                    self._news = trio.Event()
        finally:
            member.followers.discard(self._wake)
            member.on_epoch.discard(self._tell_epoch)

    async def _find(self) -> bool:
        """Wait until the log has come to the observer's place; whether that is in it."""
        place = self._cursor.place
        if place == START and not isinstance(self._member.log, MemoryLog):
            return True
        while self._member.committed < place.index:
            await self._news.wait()
            self._news = trio.Event()
        try:
            self._cursor.check(self._member.log)
        except Lost:
            await self._tell_stranger()
            return False
        return True

    async def _tell_stranger(self) -> None:
        index = self._cursor.place.index
        await self._connection.send(wire.encode(wire.Stranger(self._member.shard, index)))

    async def _take(self) -> list[Sequenced]:
        member, cursor = self._member, self._cursor
        if cursor.place.index >= member.committed or self._bytes >= wire.WINDOW_BYTES:
            return []
        arguments = (
            member.tail,
            member.log,
            member.committed,
            wire.BATCH_RECORDS_MAX,
            wire.BATCH_BYTES,
        )
        if cursor.is_in(member.tail):
            return cursor.take(*arguments)
        try:
            return await trio.to_thread.run_sync(cursor.take, *arguments)
        except (Corruption, OSError):
            await self._mend(cursor.next_address(member.log))
            return await trio.to_thread.run_sync(cursor.take, *arguments)

    async def _push(self, records: list[Sequenced]) -> bool:
        """Send what is news; False if nothing is."""
        member = self._member
        timestamp, index = member.frontier
        told = (timestamp, index, member.committed)
        if not records and told == self._told:
            return False
        self._told = told
        if records:
            size = sum(len(record.metadata) + wire.RECORD_BYTES for record in records)
            self._on_its_way.append((records[-1].index, size))
            self._bytes += size
        message = wire.Records(member.shard, records, timestamp, index, member.committed)
        await self._connection.send(wire.encode(message))
        return True
