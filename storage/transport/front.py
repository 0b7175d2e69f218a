"""What a connection over a network does alike, whatever carries its bytes: senders in line, one receiver, one end.

The task that writes sleeps in `_writer` while nothing is queued. `send` wakes it, and it runs in the next turn of the loop, when all
tasks that could run have queued what they have: so a turn's messages leave together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from storage.limits import MESSAGE_BYTES_MAX
from storage.transport.contract import Broken, Counters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from storage.codec import Buffer
    from storage.transport.contract import Identity

__all__ = ["Front", "Queue"]


class Queue(Protocol):
    """What was sent and has not left."""

    def room(self, length: int) -> bool:
        """Whether a message of that length may be put now."""
        ...

    def put(self, message: Sequence[Buffer], length: int) -> None:
        """Put one; only where there is room."""
        ...


class Front:
    """The part of `contract.Connection` that is the same for all; a kind adds `_receive`, `queued`, `close` and `aclose`."""

    def __init__(self, peer: Identity, address: str, queue: Queue) -> None:
        self.peer = peer
        self.address = address
        self.counters = Counters()
        self._queue = queue
        self._why: Broken | None = None  # why calls raise; set once
        self._line = trio.Lock()  # senders waiting for room, in order
        self._room = trio.lowlevel.ParkingLot()  # the first of them; and who waits for all to leave
        self._writer = trio.lowlevel.ParkingLot()
        self._receiving = False

    async def send(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """As the contract."""
        length = self._length(message)
        if self._why is None and (self._line.locked() or not self._queue.room(length)):
            async with self._line:
                while self._why is None and not self._queue.room(length):
                    await self._room.park()
                self._put(message, length, bulk)
        else:
            self._put(message, length, bulk)

    def send_nowait(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """As the contract."""
        length = self._length(message)
        if self._why is None and (self._line.locked() or not self._queue.room(length)):
            raise trio.WouldBlock
        self._put(message, length, bulk)

    @staticmethod
    def _length(message: Sequence[Buffer]) -> int:
        length = sum(map(len, message))
        if length > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {length} bytes; {MESSAGE_BYTES_MAX} is the most")
        return length

    def _put(self, message: Sequence[Buffer], length: int, bulk: bool) -> None:
        if self._why is not None:
            raise self._again()
        if not (bulk and self._offer(message, length)):
            self._queue.put(message, length)
        self.counters.sent_messages += 1
        self.counters.sent_bytes += length
        self._writer.unpark()

    def _offer(self, message: Sequence[Buffer], length: int) -> bool:
        """Have the peer fetch a message that nobody waits for, where that is possible."""
        return False

    async def receive(self) -> list[memoryview]:
        """As the contract."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._receiving = True
        try:
            return await self._receive()
        finally:
            self._receiving = False

    async def _receive(self) -> list[memoryview]:
        """`receive`, by one task at a time; a checkpoint."""
        raise NotImplementedError

    def _received(self, messages: list[memoryview]) -> None:
        self.counters.received_messages += len(messages)
        self.counters.received_bytes += sum(map(len, messages))

    def broken(self) -> Broken | None:
        """As the contract."""
        return self._why

    def close(self, why: str = "closed") -> None:
        """As the contract."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """As the contract."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.close(f"closed after {error!r:.200}")
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _who(self) -> str:
        return f"{self.peer} at {self.address}"

    def _again(self) -> Broken:
        # A fresh exception each time: one raised twice would gather tracebacks.
        why = self._why
        assert why is not None
        fresh = Broken(*why.args)
        fresh.__cause__ = why.__cause__
        return fresh

    def _stop_taking(self, why: Broken) -> None:
        if self._why is None:
            self._why = why
        self._room.unpark_all()
        self._writer.unpark()
