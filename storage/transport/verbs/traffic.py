"""What moves over an endpoint: messages through the rings, credits, and who waits for the device.

Who writes: a task that sleeps while nothing is queued, as with sockets: what is sent in one turn of the loop leaves
with one doorbell. Who reads: the task that receives; it looks at the completion queue itself, again for a few turns, and
only then has the device wake it (`_wake` sleeps on the descriptor for all who wait). Under load nobody sleeps, and nothing is
asked of the kernel.

A completed WRITE means that the bytes are in the peer's memory, and nothing more: not that it has read them, let alone stored.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import trio

from storage.transport.contract import Broken
from storage.transport.front import Front
from storage.transport.verbs.fabric import Unusable
from storage.transport.verbs.fetching import Fetching, Staging
from storage.transport.verbs.incoming import Incoming
from storage.transport.verbs.library import FLUSHED, PyverbsError, explain
from storage.transport.verbs.outgoing import Outgoing
from storage.transport.verbs.ring import CREDIT, Bell, Credit, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from storage.codec import Buffer
    from storage.transport.contract import Identity
    from storage.transport.verbs.accelerator import Accelerated, Target
    from storage.transport.verbs.attributes import Attributes
    from storage.transport.verbs.endpoint import Endpoint
    from storage.transport.verbs.fabric import Fabric

__all__ = ["Traffic"]


class Traffic(Front):
    """Both directions of a connection; ends in `_end`, which `VerbsConnection` says."""

    def __init__(
        self,
        nursery: trio.Nursery,
        peer: Identity,
        address: str,
        endpoint: Endpoint,
        mine: Attributes,
        its: Attributes,
        fabric: Fabric,
    ) -> None:
        size = min(mine.ring_bytes, its.ring_bytes)  # offsets are the same in a ring and its mirror
        self._outgoing = Outgoing(endpoint.mirror[:size], mine.sequence)
        super().__init__(peer, address, self._outgoing)
        self.sleeps = 0  # how often somebody waited for the device
        self._endpoint = endpoint
        self._its = its
        self._fabric = fabric
        self._incoming = Incoming(endpoint.ring[:size], its.sequence)
        self._staging = Staging(endpoint, fabric.fetch_bytes if its.fetches else 0)
        self._fetching = Fetching(endpoint)
        self._early: list[memoryview] = []  # came before somebody received
        # Nothing moves any more. `_ours`: by our own doing, so nothing is given either.
        self._over = trio.Event()
        self._ours = False
        self._failure: int | None = None  # of the queue pair: the status that a work completion had
        self._released = trio.Event()  # the endpoint is closed
        self._events = trio.lowlevel.ParkingLot()  # who waits for the device
        nursery.start_soon(self._write, name=f"write to {peer}")
        nursery.start_soon(self._wake, name=f"completions of {peer}")

    # --- Sending

    def queued(self) -> int:
        """As the contract."""
        return self._outgoing.queued()

    def _offer(self, message: Sequence[Buffer], length: int) -> bool:
        """See `Front`."""
        offer = self._staging.offer(message, length)
        if offer is None:
            return False
        self._outgoing.offer(offer)
        return True

    async def _write(self) -> None:
        outgoing = self._outgoing
        try:
            while not self._over.is_set():
                if not outgoing.queued():
                    await self._writer.park()
                    continue
                self._grant(rang=False)
                self._push()
                if self._room:
                    self._room.unpark_all()
                if outgoing.queued():  # no credit; the last doorbell said that we wait for some
                    await self._completion()
        except trio.Cancelled:
            self.close("its nursery was cancelled")
            raise

    def _push(self) -> None:
        endpoint, outgoing = self._endpoint, self._outgoing
        try:
            while endpoint.has_room() and (push := outgoing.push()):
                endpoint.write(push, self._its, push.bell.encode())
                self.counters.sent_calls += 1
        except PyverbsError as error:
            self._lose(error)

    def _grant(self, *, rang: bool) -> None:
        fetched = self._outgoing.credit.fetched
        try:
            self._outgoing.grant(Credit(*CREDIT.unpack(self._endpoint.credit)), rang=rang)
        except Malformed as error:
            self._end(Broken(f"{self._who()} sent nonsense: {error}"))
        else:
            self._staging.let_go(self._outgoing.credit.fetched - fetched)

    # --- Receiving

    async def _receive(self) -> list[memoryview]:
        polls, waited = 0, False
        while not self._ours:
            messages = self._take()
            if messages:
                self._received(messages)
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return messages
            if self._over.is_set():
                break
            waited = True
            if polls < self._fabric.polls_before_sleep:
                polls += 1
                await trio.lowlevel.checkpoint()
            else:
                await self._completion()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        raise self._again()

    def _take(self) -> list[memoryview]:
        """What has come, and room for more given back."""
        self._poll()
        messages = self._early + self._whole()
        self._early = []
        if self._endpoint.has_room() and (given := self._incoming.give()) is not None:
            self._write_credit(*given)
        return messages

    def _whole(self) -> list[memoryview]:
        """What is whole in the ring, or was fetched; a trouble ends the connection behind that."""
        messages: list[memoryview] = []
        try:
            messages += self._incoming.take()
            while self._incoming.offer is not None and not self._over.is_set():
                fetched = self._fetching.fetch(self._incoming.offer)
                if fetched is None:
                    break
                self._incoming.landed()
                messages.append(fetched)
                messages += self._incoming.take()
        except Malformed as error:
            self._end(Broken(f"{self._who()} sent what is no message: {error}"))
        except Unusable as error:
            self._endpoint.fetches_no_more()  # the next connection is told so
            self._end(Broken(f"{self._who()} offered a long message: {error}"))
        except PyverbsError as error:
            self._lose(error)
        except OSError as error:
            self._end(Broken(f"what {self._who()} offered was read and found no place: {error}"))
        return messages

    def _write_credit(self, credit: Credit, rings: bool) -> None:
        if self._over.is_set():
            return
        word = Bell(is_credit=True, waits=False, position=0).encode() if rings else None
        try:
            self._endpoint.write_credit(credit, self._its, word)
        except PyverbsError as error:
            self._lose(error)

    def aim(self, memory: Accelerated) -> Target:
        """Have the end of the next fetched message that is as long as this memory land there, and the rest be received.

        For who asks for a payload with nothing else of that length on its way. By the card itself where that can be (`Target.why`);
        its bytes are then covered by the network's checksums alone.
        """
        return self._fetching.aim(memory)

    # --- Completions

    def _poll(self) -> bool:
        """Look at the completion queue; whether anything was there."""
        if self._released.is_set():
            return False
        completions = self._endpoint.poll()
        if not completions:
            return False
        taken, rang = 0, False
        for completion in completions:
            if completion.status:
                self._fail(completions)
                return True
            if completion.wr_id:
                self._endpoint.done = completion.wr_id
                continue
            taken += 1
            bell = Bell.decode(socket.ntohl(completion.imm_data))
            if bell.is_credit:
                rang = True
            else:
                try:
                    self._incoming.rang(bell)
                except Malformed as error:
                    self._end(Broken(f"{self._who()} sent nonsense: {error}"))
                    return True
                self.counters.received_calls += 1
        if taken:
            self._endpoint.post_receives(taken)
        if rang:
            self._grant(rang=True)
        return True

    def _fail(self, completions: Iterable[Any]) -> None:
        # One failure says what it was; the others, that the queues were emptied. They come in any order.
        statuses = [c.status for c in completions if c.status]
        while more := self._endpoint.poll():
            statuses += [c.status for c in more if c.status]
        self._failure = next((s for s in statuses if s != FLUSHED), FLUSHED)
        self._end(Broken(f"{self._who()}: {explain(self._failure)}"))

    async def _completion(self) -> None:
        """Until something has happened at the device, or the end. Always a checkpoint."""
        if not self._over.is_set():
            self._endpoint.arm()
            if not self._poll():
                self.sleeps += 1
                await self._events.park()
                return
        await trio.lowlevel.checkpoint()

    async def _wake(self) -> None:
        endpoint = self._endpoint
        try:
            while not self._over.is_set():
                await trio.lowlevel.wait_readable(endpoint.descriptor)
                endpoint.take_event()
                self._poll()
                self._events.unpark_all()
        except trio.ClosedResourceError:
            return

    # --- The end

    def _lose(self, error: PyverbsError) -> None:
        lost = Broken(f"{self._who()}: the RDMA device does not take work: {error}")
        lost.__cause__ = error
        self._end(lost)

    def _end(self, why: Broken, *, lingers: bool = False) -> None:
        """It is over, for that reason; the endpoint goes at once unless it lingers."""
        raise NotImplementedError
