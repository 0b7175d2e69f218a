"""A TCP proxy that does what networks do: delay, little rate, silence in one direction, resets. For tests.

It stands between who dials it and one target; its faults are switched while it runs, for connections there are and those
to come. ``forth`` is the way from who dialled to the target, ``back`` the other.

    async with trio.open_nursery() as nursery:
        proxy = await Proxy("127.0.0.1:7001").start(nursery)
        ... dial proxy.address ...
        proxy.back.swallow = True          # half-open: the target's bytes vanish, its kernel hears they arrived
        proxy.forth.delay_ms = 50
        proxy.forth.rate_bytes_s = 100_000
        proxy.back.stall = True            # bytes wait, and in the end their sender does
        proxy.back.cut_after_bytes = 1000  # reset when so many more have gone through: death inside a message
        proxy.refuse = True                # new connections are reset
        proxy.reset()                      # all there are, now
        proxy.mend()                       # all well again; connections that lost bytes are reset, as they must be

`running_proxy` is the same for tests without trio: a thread, whose proxy has faults that may be set from any thread, and
`reset` and `mend` that may be called from any.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

CHUNK_BYTES = 64 * 1024
CHUNKS_ON_THE_WAY_MAX = 64
LOOK_AGAIN_S = 0.005
"""How soon a fault that was switched takes hold."""


@dataclass
class Way:
    """What is wrong in one direction."""

    delay_ms: float = 0
    rate_bytes_s: float | None = None
    swallow: bool = False
    stall: bool = False
    cut_after_bytes: int | None = None
    passed_bytes: int = 0

    def mend(self) -> None:
        self.delay_ms, self.rate_bytes_s, self.cut_after_bytes = 0, None, None
        self.swallow = self.stall = False


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    near: trio.SocketStream
    far: trio.SocketStream
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lost_bytes: bool = False

    def reset(self) -> None:
        for stream in (self.near, self.far):
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)  # close sends a reset (socket(7), SO_LINGER)
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            stream.socket.close()
        self.scope.cancel()


class Proxy:
    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = host.strip("[]"), int(port)
        self.address = ""
        self.forth, self.back = Way(), Way()
        self.refuse = False
        self.links: set[Link] = set()
        self.accepted = 0

    async def start(self, nursery: trio.Nursery, port: int = 0) -> Proxy:
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        self.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, self._serve, [listener])
        return self

    def reset(self) -> None:
        for link in list(self.links):
            link.reset()

    def mend(self) -> None:
        self.refuse = False
        self.forth.mend()
        self.back.mend()
        for link in list(self.links):
            if link.lost_bytes:
                link.reset()

    async def _serve(self, near: trio.SocketStream) -> None:
        self.accepted += 1
        try:
            far = await trio.open_tcp_stream(*self.target)
        except OSError:
            Link(near, near).reset()
            return
        link = Link(near, far)
        if self.refuse:
            link.reset()
            return
        self.links.add(link)
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, link, near, far, self.forth)
                    nursery.start_soon(self._pump, link, far, near, self.back)
        finally:
            self.links.discard(link)
            near.socket.close()
            far.socket.close()

    async def _pump(
        self, link: Link, source: trio.SocketStream, target: trio.SocketStream, way: Way
    ) -> None:
        give, take = trio.open_memory_channel[tuple[float, bytes]](CHUNKS_ON_THE_WAY_MAX)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver, link, take, target, way)
                async with give:
                    while data := await source.receive_some(CHUNK_BYTES):
                        await give.send((trio.current_time(), data))
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            link.reset()

    async def _deliver(
        self,
        link: Link,
        take: trio.MemoryReceiveChannel[tuple[float, bytes]],
        target: trio.SocketStream,
        way: Way,
    ) -> None:
        async for came_s, data in take:
            while way.stall or trio.current_time() < came_s + way.delay_ms / 1000:
                wait_s = came_s + way.delay_ms / 1000 - trio.current_time()
                await trio.sleep(LOOK_AGAIN_S if way.stall else min(wait_s, LOOK_AGAIN_S))
            if way.rate_bytes_s:
                await trio.sleep(len(data) / way.rate_bytes_s)
            if way.swallow:
                link.lost_bytes = True
                continue
            if way.cut_after_bytes is not None and len(data) >= way.cut_after_bytes:
                await target.send_all(data[: way.cut_after_bytes])
                await self._taken(target)
                link.reset()
                return
            await target.send_all(data)
            way.passed_bytes += len(data)
            if way.cut_after_bytes is not None:
                way.cut_after_bytes -= len(data)
        if not way.swallow:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await target.send_eof()

    @staticmethod
    async def _taken(target: trio.SocketStream) -> None:
        # A reset overtakes what is under way; the point of a cut is that so many bytes arrive.
        await trio.sleep(0.01)


class ThreadProxy:
    """A proxy whose loop runs in another thread."""

    def __init__(self, proxy: Proxy, token: trio.lowlevel.TrioToken) -> None:
        self._proxy = proxy
        self._token = token
        self.address = proxy.address
        self.forth, self.back = proxy.forth, proxy.back

    @property
    def refuse(self) -> bool:
        return self._proxy.refuse

    @refuse.setter
    def refuse(self, value: bool) -> None:
        self._proxy.refuse = value

    def reset(self) -> None:
        self._call(self._proxy.reset)

    def mend(self) -> None:
        self._call(self._proxy.mend)

    def _call(self, function: Callable[[], None]) -> None:
        trio.from_thread.run_sync(function, trio_token=self._token)


@contextlib.contextmanager
def running_proxy(target: str) -> Iterator[ThreadProxy]:
    """A proxy in a thread of its own, for the length of a block."""
    started: list[ThreadProxy] = []
    scopes: list[trio.CancelScope] = []
    ready = threading.Event()

    async def main() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            async with trio.open_nursery() as nursery:
                proxy = await Proxy(target).start(nursery)
                started.append(ThreadProxy(proxy, trio.lowlevel.current_trio_token()))
                ready.set()
                await trio.sleep_forever()

    def run() -> None:
        try:
            trio.run(main)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name=f"proxy to {target}", daemon=True)
    thread.start()
    ready.wait()
    (proxy,) = started
    try:
        yield proxy
    finally:
        proxy._call(scopes[0].cancel)
        thread.join()
