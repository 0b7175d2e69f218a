"""The transport inside one process, with faults to switch: what tests of everything above are made of.

A `MemoryNetwork` is the world: addresses are any names, peers are believed who they say they are. Faults name two peers
by `Identity.name`, hold for connections there are and for new ones, and may be changed at any time:

    network.swallow("n1", "n2")    what n1 sends n2 vanishes, and n2 hears no heartbeat (half-open)
    network.delay("n1", "n2", 5)   it arrives 5 ms later
    network.sever("n1", "n2")      both ends break now
    network.refuse("n2")           nobody gets through to n2
    network.mend()                 all is well for what is sent from now on

On trio's `MockClock` with autojump nothing here takes time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES
from storage.transport.contract import Broken, Counters, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from storage.codec import Buffer
    from storage.transport.contract import Identity, Role

__all__ = ["MemoryConnection", "MemoryListener", "MemoryNetwork", "MemoryTransport"]

ACCEPTED_MAX = 16
RECEIVE_BYTES = 64 * 1024
"""Given by one `receive`; one message may go over."""


class MemoryNetwork:
    """Who listens where, and what is wrong between whom."""

    def __init__(self) -> None:
        self.listeners: dict[str, MemoryListener] = {}
        self.connections: set[MemoryConnection] = set()
        self._swallowed: set[tuple[str, str]] = set()
        self._delays_s: dict[tuple[str, str], float] = {}
        self._refused: set[str] = set()

    def transport(self, identity: Identity, *, silence_ms: int = 3_000) -> MemoryTransport:
        """A transport in this world."""
        return MemoryTransport(self, identity, silence_ms)

    def swallow(self, source: str, target: str) -> None:
        """Have what `source` sends to `target` vanish."""
        self._swallowed.add((source, target))

    def delay(self, source: str, target: str, delay_ms: float) -> None:
        """Have what `source` sends to `target` arrive later; the order stays."""
        self._delays_s[source, target] = delay_ms / 1000

    def refuse(self, target: str) -> None:
        """Have dialling `target` fail."""
        self._refused.add(target)

    def sever(self, one: str, other: str) -> None:
        """Break every connection between two peers, at both ends, as a reset does."""
        for connection in list(self.connections):
            if {connection.own.name, connection.peer.name} == {one, other}:
                connection.close("connection reset")

    def mend(self) -> None:
        """End all faults; what was swallowed is lost."""
        self._swallowed.clear()
        self._delays_s.clear()
        self._refused.clear()

    def is_swallowed(self, source: str, target: str) -> bool:
        """Whether what one sends the other vanishes now."""
        return (source, target) in self._swallowed

    def delay_s(self, source: str, target: str) -> float:
        """How much later it arrives now."""
        return self._delays_s.get((source, target), 0.0)

    def is_refused(self, target: str) -> bool:
        """Whether dialling fails now."""
        return target in self._refused


class MemoryTransport:
    """`contract.Transport` in one process."""

    def __init__(self, network: MemoryNetwork, identity: Identity, silence_ms: int) -> None:
        self.identity = identity
        self.network = network
        self.silence_s = silence_ms / 1000

    async def listen(self, nursery: trio.Nursery, address: str) -> MemoryListener:
        """As the contract."""
        await trio.lowlevel.checkpoint()
        if address in self.network.listeners:
            raise OSError(f"{address}: address in use")
        listener = MemoryListener(self, nursery, address)
        self.network.listeners[address] = listener
        return listener

    async def connect(
        self, nursery: trio.Nursery, address: str, *, role: Role, name: str | None = None
    ) -> MemoryConnection:
        """As the contract."""
        await trio.lowlevel.checkpoint()
        listener = self.network.listeners.get(address)
        if listener is None or self.network.is_refused(listener.transport.identity.name):
            raise Broken(f"{address}: Connection refused")
        peer = listener.transport.identity
        own = self.identity
        if self.network.is_swallowed(own.name, peer.name) or self.network.is_swallowed(
            peer.name, own.name
        ):
            with trio.move_on_after(self.silence_s):
                await trio.sleep_forever()
            raise Broken(f"{address}: no answer in {self.silence_s:g} s")
        if peer.cluster != own.cluster:
            raise Rejected(
                f"{address}: {peer} is of cluster {peer.cluster}, and this is cluster {own.cluster}"
            )
        if peer.role is not role or name not in (None, peer.name):
            dialled = f"{role.value} {name or ''}".strip()
            raise Rejected(f"{address}: {dialled} was dialled, and this is {peer}")
        near = MemoryConnection(self, peer, address)
        far = MemoryConnection(listener.transport, own, f"{own.name} in memory")
        near.start(nursery, far)
        far.start(listener.nursery, near)
        try:
            await listener.give.send(far)
        except BaseException as error:
            near.close("never accepted")
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
                raise Broken(f"{address}: Connection refused") from error
            raise
        return near


class MemoryListener:
    """`contract.Listener` in one process."""

    def __init__(self, transport: MemoryTransport, nursery: trio.Nursery, address: str) -> None:
        self.address = address
        self.transport = transport
        self.nursery = nursery
        self.give, self._take = trio.open_memory_channel[MemoryConnection](ACCEPTED_MAX)
        self._closed = trio.Event()
        nursery.start_soon(self._listen, name=f"listen at {address}")

    async def accept(self) -> MemoryConnection:
        """As the contract."""
        try:
            return await self._take.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Broken(f"{self.address}: no longer listening") from None

    def close(self) -> None:
        """As the contract."""
        if self.transport.network.listeners.get(self.address) is self:
            del self.transport.network.listeners[self.address]
            self._closed.set()
            self.give.close()
            self._take.close()

    async def _listen(self) -> None:
        try:
            await self._closed.wait()
        finally:
            self.close()


class MemoryConnection:
    """`contract.Connection`: what one end sends lies in the other's queue, bounded, until that one receives it."""

    def __init__(self, transport: MemoryTransport, peer: Identity, address: str) -> None:
        self.own = transport.identity
        self.peer = peer
        self.address = address
        self.counters = Counters()
        self._network = transport.network
        self._silence_s = transport.silence_s
        self._far: MemoryConnection
        # (when it arrives, message), and their bytes.
        self._inbox: deque[tuple[float, bytes]] = deque()
        self._inbox_bytes = 0
        self._why: Broken | None = None
        self._over = trio.Event()
        self._line = trio.Lock()
        self._room = trio.lowlevel.ParkingLot()
        self._arrival = trio.lowlevel.ParkingLot()
        self._receiving = False

    def start(self, nursery: trio.Nursery, far: MemoryConnection) -> None:
        """Join two ends, and watch this one in a nursery."""
        self._far = far
        self._network.connections.add(self)
        nursery.start_soon(self._watch, name=f"watch {self.peer}")

    async def send(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """As the contract."""
        del bulk
        length = _length(message)
        if self._why is None and (self._line.locked() or not self._has_room(length)):
            async with self._line:
                while self._why is None and not self._has_room(length):
                    await self._room.park()
                self._put(message, length)
        else:
            self._put(message, length)

    def send_nowait(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """As the contract."""
        del bulk
        length = _length(message)
        if self._why is None and (self._line.locked() or not self._has_room(length)):
            raise trio.WouldBlock
        self._put(message, length)

    def queued(self) -> int:
        """As the contract: all that the peer has not taken."""
        return self._far._inbox_bytes if self._why is None else 0

    def _has_room(self, length: int) -> bool:
        waiting = self._far._inbox_bytes
        return not waiting or waiting + length <= SEND_QUEUE_BYTES

    def _put(self, message: Sequence[Buffer], length: int) -> None:
        if self._why is not None:
            raise Broken(*self._why.args)
        far, names = self._far, (self.own.name, self.peer.name)
        self.counters.sent_messages += 1
        self.counters.sent_bytes += length
        if not far._inbox:
            self.counters.sent_calls += 1
        if not self._network.is_swallowed(*names):
            arrives_s = trio.current_time() + self._network.delay_s(*names)
            far._inbox.append((arrives_s, b"".join(message)))
            far._inbox_bytes += length + 4
            far._arrival.unpark()

    async def receive(self) -> list[memoryview]:
        """As the contract."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                now_s = trio.current_time()
                if self._inbox and self._inbox[0][0] <= now_s:
                    return self._take(now_s)
                if self._why is not None and not self._inbox:
                    raise Broken(*self._why.args)
                arrives_s = self._inbox[0][0] if self._inbox else float("inf")
                with trio.move_on_at(arrives_s):
                    await self._arrival.park()
        finally:
            self._receiving = False

    def _take(self, now_s: float) -> list[memoryview]:
        messages: list[memoryview] = []
        size = 0
        while self._inbox and self._inbox[0][0] <= now_s and size < RECEIVE_BYTES:
            message = self._inbox.popleft()[1]
            messages.append(memoryview(message))
            size += len(message)
        self._inbox_bytes -= size + 4 * len(messages)
        self.counters.received_calls += 1
        self.counters.received_messages += len(messages)
        self.counters.received_bytes += size
        self._far._room.unpark_all()
        return messages

    def status(self) -> dict[str, object]:
        """As the contract."""
        return {
            "transport": "memory",
            "peer": str(self.peer),
            "queued_bytes": self.queued(),
            "broken": None if self._why is None else str(self._why),
        }

    def broken(self) -> Broken | None:
        """As the contract."""
        return self._why

    def close(self, why: str = "closed") -> None:
        """As the contract. What the peer has in its queue it still receives."""
        self._inbox.clear()
        self._inbox_bytes = 0
        self._end(f"connection to {self.peer} at {self.address}: {why}")
        far = self._far
        if not self._network.is_swallowed(self.own.name, self.peer.name):
            far._end(f"{far.peer} at {far.address} closed the connection: {why}")

    async def aclose(self) -> None:
        """As the contract."""
        await trio.lowlevel.checkpoint()
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close("closed" if error is None else f"closed after {error!r:.200}")
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _end(self, why: str) -> None:
        if self._why is None:
            self._why = Broken(why)
        self._over.set()
        self._network.connections.discard(self)
        self._room.unpark_all()
        self._arrival.unpark_all()

    async def _watch(self) -> None:
        heard_s = trio.current_time()
        try:
            while True:
                with trio.move_on_after(self._silence_s / 4):
                    await self._over.wait()
                    return
                now_s = trio.current_time()
                # The peer's heartbeats are not sent here, only whether they would arrive.
                if self._inbox or not self._network.is_swallowed(self.peer.name, self.own.name):
                    heard_s = now_s
                    if self._far._over.is_set():  # it closed while nothing came through
                        self._end(f"{self.peer} at {self.address} is gone without a word")
                elif now_s - heard_s >= self._silence_s:
                    self.close(f"nothing heard for {self._silence_s:g} s")
        except trio.Cancelled:
            self.close("its nursery was cancelled")
            raise


def _length(message: Sequence[Buffer]) -> int:
    length = sum(map(len, message))
    if length > MESSAGE_BYTES_MAX:
        raise ValueError(f"a message of {length} bytes; {MESSAGE_BYTES_MAX} is the most")
    return length
