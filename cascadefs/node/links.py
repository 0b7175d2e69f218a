"""One connection with each other node: dialled, kept up, and written to without waiting.

Of two nodes the one whose name sorts first dials. Whatever shard a message is about, it goes over the one connection with its
node. What cannot be sent at once waits in a bounded outbox; where nobody is connected it is dropped, for the core of
replication sends again what matters.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import trio

from storage import wire
from storage.transport import Broken, Rejected, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from storage.codec import Buffer
    from storage.membership.contract import Authority
    from storage.transport import Connection, Transport

    Improve = Callable[[trio.Nursery, Connection], Awaitable[Connection]]
    """Waits for a better connection with the same peer, for ever if need be, and leaves this one as it is."""

__all__ = ["Link", "Links", "Unreachable"]

OUTBOX_BYTES_MAX: Final = 32 * 1024 * 1024
"""What waits for one node; twice what one shard's core has on its way to a member."""

ASKED_MAX: Final = 256
"""Questions to one node that wait for an answer."""

DIAL_S: Final = 0.1
DIAL_S_MAX: Final = 2.0
"""Between two attempts to reach a node, at first and at most."""

LOOK_S: Final = 1.0
"""Between two looks whether the authority is obeyed."""

ANSWER_S_MAX: Final = 10.0

_log = logging.getLogger("cascadefs.node")


class Unreachable(Exception):
    """A node could not be asked, or did not answer."""


class Link:
    """The connection with one node, when there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connection: Connection | None = None
        self.dropped = 0
        self._outbox: deque[tuple[Sequence[Buffer], int, bool]] = deque()
        self._bytes = 0
        self._news = trio.Event()
        self._asked: dict[int, tuple[trio.Event, list[tuple[wire.Answer, list[memoryview]]]]] = {}
        self._request = 0

    def post(self, message: Sequence[Buffer], size_bytes: int, *, bulk: bool = False) -> None:
        """Send, now or from the outbox; dropped if nobody is connected or too much waits."""
        connection = self.connection
        if connection is None or self._bytes + size_bytes > OUTBOX_BYTES_MAX:
            self.dropped += 1
            return
        if not self._outbox:
            try:
                connection.send_nowait(message, bulk=bulk)
                return
            except trio.WouldBlock:
                pass
            except Broken:
                return
        self._outbox.append((message, size_bytes, bulk))
        self._bytes += size_bytes
        self._news.set()

    async def drain(self, connection: Connection) -> None:
        """Send what waits, for as long as the connection is the link's."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._outbox:
                message, size, bulk = self._outbox.popleft()
                self._bytes -= size
                await connection.send(message, bulk=bulk)

    def attach(self, connection: Connection) -> None:
        """A connection came to be; an older one ends."""
        if self.connection is not None:
            self.connection.close("another connection took its place")
        self._reset()
        self.connection = connection

    def detach(self, connection: Connection) -> None:
        """A connection is no more."""
        if self.connection is connection:
            _log.info("node %s is not connected any more: %s", self.name, connection.broken())
            self.connection = None
            self._reset()

    def _reset(self) -> None:
        self._outbox.clear()
        self._bytes = 0
        for event, _ in self._asked.values():
            event.set()

    async def ask(
        self,
        question: Callable[[int], wire.Message],
        parts: Sequence[Buffer] = (),
        seconds: float = ANSWER_S_MAX,
    ) -> tuple[wire.Answer, list[memoryview]]:
        """Ask with a number of ours and wait for the answer, for so long.

        Raises:
            Unreachable: there is no connection, it ended, or no answer came in time.
        """
        if self.connection is None:
            raise Unreachable(f"node {self.name} is not connected")
        if len(self._asked) >= ASKED_MAX:
            raise Unreachable(f"node {self.name} has too many questions to answer")
        self._request += 1
        request = self._request
        event, answers = self._asked.setdefault(request, (trio.Event(), []))
        try:
            buffers = wire.encode(question(request), parts)
            self.post(buffers, sum(map(len, buffers)))
            with trio.move_on_after(seconds):
                await event.wait()
        finally:
            del self._asked[request]
        if not answers:
            raise Unreachable(f"node {self.name} did not answer")
        return answers[0]

    def answered(self, answer: wire.Answer, parts: list[memoryview]) -> None:
        """An answer came; to nobody's question any more, it is let go."""
        waiting = self._asked.get(answer.request)
        if waiting is not None:
            waiting[1].append((answer, parts))
            waiting[0].set()


class Links:
    """The links with all other nodes that live."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        authority: Authority,
        serve: Callable[[Connection], Awaitable[None]],
        improve: Improve | None = None,
    ) -> None:
        """Nothing is dialled before `run`.

        Args:
            name: this node's.
            transport: ours.
            authority: says who lives, and where.
            serve: serves a connection to its end, dialled or accepted; attaches it here.
            improve: of connections that were dialled.
        """
        self._name = name
        self._transport = transport
        self._authority = authority
        self._serve = serve
        self._improve = improve
        self._links: dict[str, Link] = {}
        self._dialling: dict[str, trio.CancelScope] = {}

    def get(self, name: str) -> Link:
        """The link with a node, connected or not."""
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = Link(name)
        return link

    def post(
        self, node: str, message: Sequence[Buffer], size_bytes: int, *, bulk: bool = False
    ) -> None:
        """See `storage.member.Post`."""
        self.get(node).post(message, size_bytes, bulk=bulk)

    def connected(self) -> list[str]:
        """Names of nodes there is a connection with."""
        return [name for name, link in self._links.items() if link.connection is not None]

    def status(self) -> dict[str, dict[str, object]]:
        """How each node is connected, and what that connection has moved."""
        return {
            name: {**link.connection.status(), **asdict(link.connection.counters)}
            for name, link in sorted(self._links.items())
            if link.connection is not None
        }

    async def run(self) -> None:
        """Dial whom we are to dial, for as long as they live."""
        async with trio.open_nursery() as nursery:
            while True:
                view = self._authority.view
                wanted = {name for name in view.live if name > self._name}
                if self._authority.trouble is not None:
                    # Who obeys an authority that this node does not has to hear of newer epochs, and may not see it alive.
                    wanted |= view.nodes.keys() - {self._name}
                for name in wanted - self._dialling.keys():
                    self._dialling[name] = trio.CancelScope()
                    nursery.start_soon(self._keep, nursery, name, self._dialling[name])
                for name in self._dialling.keys() - wanted:
                    self._dialling.pop(name).cancel()
                with trio.move_on_after(LOOK_S):
                    await self._authority.wait_view(view.revision)

    async def _keep(self, nursery: trio.Nursery, name: str, scope: trio.CancelScope) -> None:
        said = ""
        pause_s = DIAL_S
        with scope:
            while True:
                if name < self._name and self.get(name).connection is not None:
                    await trio.sleep(DIAL_S_MAX)  # noqa: TID251  # It has dialled, as ever.
                    continue
                try:
                    connection = await self._dial(nursery, name)
                except Broken as error:
                    if str(error) != said:
                        level = logging.ERROR if isinstance(error, Rejected) else logging.INFO
                        _log.log(level, "node %s: %s", name, error)
                        said = str(error)
                else:
                    pause_s = DIAL_S
                    await self._serve_best(nursery, connection)
                await trio.sleep(pause_s)  # noqa: TID251  # A retry at the edge.
                pause_s = min(2 * pause_s, DIAL_S_MAX)

    async def _serve_best(self, nursery: trio.Nursery, connection: Connection) -> None:
        """Serve a connection to its end; where a better one takes its place, that."""
        better: list[Connection] = [connection]

        async def improve() -> None:
            if self._improve is not None:
                better.append(await self._improve(nursery, connection))
                connection.close("there is a better one")

        while better:
            connection = better.pop()
            async with trio.open_nursery() as meanwhile:
                meanwhile.start_soon(improve)
                await self._serve(connection)
                meanwhile.cancel_scope.cancel()

    async def _dial(self, nursery: trio.Nursery, name: str) -> Connection:
        view = self._authority.view
        known = view.live.get(name) or view.nodes.get(name)
        error: Broken | None = None
        for address in known.addresses if known else ():
            try:
                return await self._transport.connect(nursery, address, role=Role.NODE, name=name)
            except Broken as broken:
                error = broken
        raise error or Broken(f"node {name} does not say where it is")
