"""A connection over RDMA: rings for the messages (`traffic`), and the control connection for everything else.

How a peer's end is noticed: its process's, by the control connection at once; its machine's, by the control connection's
silence; that of our own device, port or queue pair, by what the device says; that of the RDMA network elsewhere, by the queue pair,
which gives up after `Fabric.silence_s`. For that something has to be sent, so an idle connection repeats its last credit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from storage.transport.contract import Broken
from storage.transport.verbs.attributes import Farewell, Misfit, decode, encode
from storage.transport.verbs.library import UNANSWERED, explain
from storage.transport.verbs.ring import Kind
from storage.transport.verbs.traffic import Traffic

if TYPE_CHECKING:
    from storage.transport.contract import Connection
    from storage.transport.verbs.attributes import Attributes
    from storage.transport.verbs.endpoint import Endpoint
    from storage.transport.verbs.fabric import Fabric

__all__ = ["VerbsConnection"]

BEAT_S = 0.5
"""An idle connection writes its credit again so often."""

FENCED_LINGER_S = 2.0
"""So long a fenced peer's writes are answered with an error; later they are not answered."""

FAREWELL_S = 3.0
"""How long a careful end may take."""

FETCHED_LOOK_S = 0.002
"""So often a careful end looks whether the peer has fetched what was offered to it."""


class VerbsConnection(Traffic):
    """`contract.Connection` on a connected endpoint; `mtu_bytes` is what both agreed on."""

    def __init__(
        self,
        nursery: trio.Nursery,
        control: Connection,
        endpoint: Endpoint,
        mine: Attributes,
        its: Attributes,
        mtu_bytes: int,
        fabric: Fabric,
    ) -> None:
        super().__init__(nursery, control.peer, control.address, endpoint, mine, its, fabric)
        self._control = control
        self._mine = mine
        self._mtu_bytes = mtu_bytes
        self._its_end: int | None = None  # how far the peer will have written
        nursery.start_soon(self._hear, name=f"control of {self.peer}")
        nursery.start_soon(self._beat, name=f"heartbeat to {self.peer}")
        nursery.start_soon(self._watch, name=f"device towards {self.peer}")

    # --- What the device says

    async def _watch(self) -> None:
        """The device tells at once what the queue pair would notice in a second, or only when something is sent."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._endpoint.watch, self._happened)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def _happened(self, trouble: str | None) -> None:
        while self._poll():  # what came before; or what became of the queue pair, in better words
            pass
        if trouble is not None:
            self._end(Broken(f"{self._who()}: {trouble}"))
        elif self._endpoint.has_failed():
            self._end(Broken(f"{self._who()}: the queue pair has failed"))

    # --- The control connection

    async def _hear(self) -> None:
        try:
            while True:
                for message in await self._control.receive():
                    self.told(message)
                with trio.move_on_after(FAREWELL_S):
                    await self._settle()
        except Broken as why:
            with trio.move_on_after(FAREWELL_S):
                await self._settle()
            self._end(why)

    def told(self, message: memoryview) -> None:
        """The peer said something on the control connection."""
        try:
            said = decode(message)
        except Misfit as error:
            self._end(Broken(f"{self._who()}: {error}"))
            return
        if isinstance(said, Farewell):
            self._its_end = said.position

    async def _settle(self) -> None:
        """What the peer says it has written is here, and what it offered fetched, or that was never to come."""
        while self._poll():
            pass
        while self._its_end is not None and not self._over.is_set():
            self._early = self._take()  # with what was there
            if self._early:
                self._events.unpark_all()  # somebody may be waiting to receive
            if self._incoming.read >= self._its_end and self._incoming.offer is None:
                return
            await self._completion()

    # --- Life

    async def introduce(self) -> None:
        """See that small and full packets arrive, both ways; before anything else is sent or received.

        Raises:
            Broken: They do not; the message says what to look at. The connection is broken.
        """
        for size in (8, self._mtu_bytes):
            self._endpoint.signal_next()
            self._outgoing.put([bytes(size)], size, Kind.PROBE)
            self._push()
            if not await self._arrives():
                why = self._why or Broken(f"{self._who()}: {explain(self._failure)}")
                if size > 8 and self._failure in UNANSWERED:
                    why = Broken(
                        f"{self._who()}: packets of {size} bytes do not get through and small ones do: set the MTU of every "
                        f"interface and switch between to {size + 100} or more, or choose a smaller one (mtu_bytes)"
                    )
                self._end(why)
                self._why = why
                raise self._again()
        with trio.move_on_after(4 * self._fabric.silence_s + 5):
            while self._incoming.probed < 8 + self._mtu_bytes and not self._over.is_set():
                self._early = self._take()  # with what was there
                if self._incoming.probed < 8 + self._mtu_bytes:
                    await self._completion()
        if self._incoming.probed < 8 + self._mtu_bytes:
            self._end(Broken(f"{self._who()}: its packets do not come through"))
        if self._why is not None:
            raise self._again()

    async def _arrives(self) -> bool:
        """Whether everything that was posted arrives, before the queue pair gives up."""
        with trio.move_on_after(4 * self._fabric.silence_s + 1):
            while not self._over.is_set() and self._endpoint.done < self._endpoint.posts:
                await self._completion()
        return self._endpoint.done >= self._endpoint.posts

    def close(self, why: str = "closed") -> None:
        """As the contract."""
        self._ours = True
        self._end(Broken(f"connection to {self._who()}: {why}"))
        self._release()

    def fence(self, why: str) -> None:
        """Take from the peer the right to write here, at once: whatever it has on its way does not arrive, and its next write
        fails at its side. What came whole before can still be received; then calls raise, as after every end.

        Costs a tenth of a millisecond, and waits for nobody.
        """
        if self._over.is_set():
            return
        self._endpoint.revoke()
        while self._poll():
            pass
        self._end(Broken(f"connection to {self._who()}: fenced: {why}"), lingers=True)

    async def aclose(self) -> None:
        """As the contract."""
        try:
            if self._why is None:
                self._stop_taking(Broken(f"connection to {self._who()}: closed"))
                self._ours = True
                self._events.unpark_all()
                with trio.move_on_after(FAREWELL_S):
                    await self._all_arrived()
                    await self._control.send([encode(Farewell(self._outgoing.pushed))])
                    await self._all_fetched()
                    await self._control.aclose()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self.close()

    async def _all_fetched(self) -> None:
        while self._outgoing.credit.fetched < self._outgoing.offered and not self._over.is_set():
            with trio.move_on_after(FETCHED_LOOK_S):  # that credit does not ring
                await self._over.wait()
            self._grant(rang=False)

    async def _all_arrived(self) -> None:
        while self._outgoing.queued() and not self._over.is_set():
            await self._room.park()
        if self._over.is_set():
            return
        # Everything before this one is done when it is: work requests complete in their order.
        self._endpoint.signal_next()
        self._write_credit(self._incoming.given, False)
        while not self._over.is_set() and self._endpoint.done < self._endpoint.posts:
            await self._completion()

    async def _beat(self) -> None:
        posts = -1
        try:
            while not self._over.is_set():
                with trio.move_on_after(BEAT_S):
                    await self._over.wait()
                    break
                self._poll()
                if self._endpoint.posts == posts and self._endpoint.has_room():
                    self._endpoint.signal_next()
                    self._write_credit(self._incoming.given, False)
                posts = self._endpoint.posts
            if not self._released.is_set():
                with trio.move_on_after(FENCED_LINGER_S):
                    await self._released.wait()
            self._release()
        except trio.Cancelled:
            self.close("its nursery was cancelled")
            raise

    def status(self) -> dict[str, object]:
        """How it is connected and what it has done, for people; counts since the beginning."""
        endpoint = self._endpoint
        return {
            "transport": "verbs",
            "peer": str(self.peer),
            "device": self._mine.device,
            "gid": self._mine.gid.hex(":", 2),
            "peer_device": self._its.device,
            "peer_gid": self._its.gid.hex(":", 2),
            "mtu_bytes": self._mtu_bytes,
            "ring_bytes": min(self._mine.ring_bytes, self._its.ring_bytes),
            "posts": endpoint.posts,
            "doorbells": endpoint.doorbells,
            "polls": endpoint.polls,
            "arms": endpoint.arms,
            "wakes": endpoint.wakes,
            "copied_bytes": self._outgoing.copied_bytes
            + self._incoming.copied_bytes
            + self._staging.copied_bytes,
            "offered": self._outgoing.offered,
            "fetched_bytes": self._fetching.fetched_bytes,
            "queued_bytes": self._outgoing.queued(),
            "sleeps": self.sleeps,
            "broken": None if self._why is None else str(self._why),
        }

    def _end(self, why: Broken, *, lingers: bool = False) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._outgoing.clear()
        self._stop_taking(why)
        self._events.unpark_all()
        self._control.close(str(why))
        if not lingers:
            self._release()

    def _release(self) -> None:
        if not self._released.is_set():
            self._released.set()
            trio.lowlevel.notify_closing(self._endpoint.descriptor)
            self._endpoint.close()
