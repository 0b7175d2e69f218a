"""The transport over TCP with TLS 1.3 and certificates of the cluster on both sides; without TLS to loopback, by choice.

Addresses are ``HOST:PORT`` and ``[IPv6]:PORT``; and ``unix:PATH`` for peers on this machine, whom the kernel names
(SO_PEERCRED): root and our own user are believed what they say they are, anybody else is a client that speaks for itself.

Who is at the other end is decided in `greeting`, before anybody sees a connection. A listener bounds what strangers cost: how many
may be greeting at once, for how long, and in how many bytes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
from typing import TYPE_CHECKING

import trio

from storage.transport import carrier
from storage.transport.contract import Broken, Rejected
from storage.transport.greeting import Stranger, greet
from storage.transport.stream import StreamConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from storage.transport.certificates import Credentials
    from storage.transport.contract import Identity, Role

__all__ = ["SILENCE_MS", "TcpListener", "TcpTransport"]

SILENCE_MS = 3_000
"""How long we bear hearing nothing from a peer; heartbeats come four times as often."""

GREETING_MS = 5_000
"""From dialling to being welcome; also how long a stranger may take."""

GREETING_AT_ONCE_MAX = 64
BACKLOG = 128
ACCEPTED_MAX = 16

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 30, 10, 3
"""Only behind the heartbeats: they notice first, unless this process is stopped."""


class TcpTransport:
    """`contract.Transport` over sockets."""

    def __init__(
        self,
        identity: Identity,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None,
        *,
        insecure_loopback: bool = False,
        silence_ms: int = SILENCE_MS,
        greeting_ms: int = GREETING_MS,
        offer: carrier.Offer = carrier.PLAIN,
        source: str | None = None,
        turned_away: Callable[[str], None] = lambda why: None,
    ) -> None:
        """Carry messages as `identity`, with TLS contexts to listen and to dial with (`Credentials.contexts`).

        Without them only with `insecure_loopback`, to loopback addresses, where every process of this machine is believed
        what it says. `turned_away` is told, in words, of each peer that a listener did not accept. `offer`: what may carry
        messages between nodes; what does is the connection's `carrier`, and anything but TCP is the caller's to do.
        `source`: the IP address to dial from, where peers have one of its kind.
        """
        if tls is None and not insecure_loopback:
            raise ValueError("no certificates: give some, or say insecure_loopback")
        self.identity = identity
        self.silence_ms = silence_ms
        self.offer = offer
        self._source = source
        self.turned_away = turned_away
        self.refuses: Callable[[Identity], str | None] = lambda peer: None
        """Says why a peer that the authority's certificate is of is not to be spoken with all the same; None: it may."""
        self._tls = tls
        self.greeting_s = greeting_ms / 1000

    def show(self, credentials: Credentials) -> None:
        """Show a renewed certificate from now on, of the same identity; connections that are, stay.

        Raises:
            OSError: its files are gone.
            ssl.SSLError: they do not belong together.
        """
        for context in self._tls or ():
            credentials.show(context)

    async def listen(self, nursery: trio.Nursery, address: str) -> TcpListener:
        """As the contract."""
        if address.startswith("unix:"):
            listening = _listen_unix(address[5:])
        else:
            family, where = (await self._resolve(address))[0]
            listening = socket.socket(family, socket.SOCK_STREAM)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(where)
            except BaseException:
                listening.close()
                raise
            host, port = listening.getsockname()[:2]
            address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        listening.setblocking(False)
        listening.listen(BACKLOG)
        return TcpListener(self, nursery, listening, address)

    async def connect(
        self,
        nursery: trio.Nursery,
        address: str,
        *,
        role: Role,
        name: str | None = None,
        offer: carrier.Offer | None = None,
    ) -> StreamConnection:
        """As the contract; `offer` in place of the transport's."""

        def check(peer: Identity) -> str | None:
            if peer.role is not role:
                return f"a {role.value} was dialled, and this is {peer}"
            if name is not None and peer.name != name:
                return f"{role.value} {name} was dialled, and this is {peer}"
            return self.refuses(peer)

        with trio.move_on_after(self.greeting_s):
            connected = await self._dial(address)
            return await self.introduce(
                nursery, connected, address, check, dialled=True, offer=offer or self.offer
            )
        raise Broken(f"{address}: no answer in {self.greeting_s:g} s")

    async def introduce(
        self,
        nursery: trio.Nursery,
        connected: socket.socket,
        address: str,
        check: Callable[[Identity], str | None],
        *,
        dialled: bool,
        offer: carrier.Offer,
    ) -> StreamConnection:
        """Make a connection of a connected socket, or close it; `check` says what is wrong with a peer.

        Raises:
            Rejected: As `connect`.
            Broken: As `connect`.
        """
        try:
            if connected.family != socket.AF_UNIX:
                _tune(connected)
            met = await greet(
                connected,
                self.identity,
                check,
                tls=None if self._tls is None else self._tls[dialled],
                silence_ms=self.silence_ms,
                dialled=dialled,
                offer=offer,
            )
        except Stranger as error:
            raise Rejected(f"{address}: {error}") from error
        except OSError as error:
            connected.close()
            raise Broken(f"{address}: {error.strerror or error}") from error
        connection = StreamConnection(
            nursery,
            met.wire,
            met.peer,
            address,
            silence_ms=self.silence_ms,
            peer_silence_ms=met.peer_silence_ms,
        )
        connection.carrier, connection.peer_offer = met.carrier, met.peer_offer
        return connection

    async def _resolve(self, address: str) -> list[tuple[int, tuple[str, int]]]:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal() or not host or ("/" in host):
            raise ValueError(
                f"{address!r} is no address; write HOST:PORT, [IPv6]:PORT or unix:PATH"
            )
        try:
            found = await trio.socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise Broken(f"{address}: {error.strerror or error}") from error
        if self._tls is None:
            for *_, where in found:
                if not ipaddress.ip_address(str(where[0]).partition("%")[0]).is_loopback:
                    raise ValueError(
                        f"{address} is open to others: without certificates only loopback addresses"
                    )
        return [(int(family), where) for family, *_, where in found]  # type: ignore[misc]  # IPv6 has four

    async def _dial(self, address: str) -> socket.socket:
        if address.startswith("unix:"):
            return await _connect(socket.AF_UNIX, address[5:], address)
        trouble: Broken | None = None
        for family, where in await self._resolve(address):
            try:
                return await _connect(family, where, address, self._source)
            except Broken as error:
                trouble = error
        assert trouble is not None
        raise trouble


class TcpListener:
    """`contract.Listener` on a listening socket."""

    def __init__(
        self,
        transport: TcpTransport,
        nursery: trio.Nursery,
        listening: socket.socket,
        address: str,
    ) -> None:
        self.address = address
        self.turned_away = 0
        self._transport = transport
        self._nursery = nursery
        self._socket = listening
        self._greeting = trio.Semaphore(GREETING_AT_ONCE_MAX)
        self._give, self._take = trio.open_memory_channel[StreamConnection](ACCEPTED_MAX)
        self._closed = False
        nursery.start_soon(self._listen, name=f"listen at {address}")

    async def accept(self) -> StreamConnection:
        """As the contract."""
        try:
            return await self._take.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Broken(f"{self.address}: no longer listening") from None

    def close(self) -> None:
        """As the contract."""
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        # Connections that nobody took go; tasks still greeting find the channel closed.
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._take.receive_nowait().close("the listener was closed")
        self._give.close()
        self._take.close()

    async def _listen(self) -> None:
        try:
            while True:
                await self._greeting.acquire()
                connected, address = await self._next()
                self._nursery.start_soon(self._greet, connected, address)
        except trio.ClosedResourceError:
            return
        finally:
            self.close()

    async def _next(self) -> tuple[socket.socket, str]:
        while True:
            try:
                connected, where = self._socket.accept()
            except (BlockingIOError, ConnectionError):
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                if self._closed:
                    raise trio.ClosedResourceError from error
                # Out of descriptors or memory: it passes, and the others wait in the kernel.
                await trio.sleep(0.1)  # noqa: TID251  # nothing tells when there are some again
            else:
                connected.setblocking(False)
                if connected.family == socket.AF_UNIX:
                    return connected, self.address
                host, port = where[:2]
                return connected, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _greet(self, connected: socket.socket, address: str) -> None:
        transport = self._transport
        connection: StreamConnection | None = None
        try:
            with trio.move_on_after(transport.greeting_s):
                connection = await transport.introduce(
                    self._nursery,
                    connected,
                    address,
                    transport.refuses,
                    dialled=False,
                    offer=transport.offer,
                )
            if connection is None:
                raise Broken(f"{address}: no greeting in {transport.greeting_s:g} s")
            await self._give.send(connection)
        except Broken as why:
            self.turned_away += 1
            transport.turned_away(str(why))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            assert connection is not None
            connection.close("the listener was closed")
        finally:
            self._greeting.release()


def _tune(connected: socket.socket) -> None:
    tcp = socket.IPPROTO_TCP
    connected.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connected.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connected.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


async def _connect(
    family: int, where: tuple[str, int] | str, address: str, source: str | None = None
) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        if source is not None and (":" in source) == (family == socket.AF_INET6):
            connected.bind((source, 0))
        with contextlib.suppress(BlockingIOError):
            connected.connect(where)
        await trio.lowlevel.wait_writable(connected)
        error = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except OSError as error:
        connected.close()
        raise Broken(f"{address}: {error.strerror or error}") from error
    except BaseException:
        connected.close()
        raise
    return connected


def _listen_unix(path: str) -> socket.socket:
    """A listening socket in place of one that a process before us left; anybody may dial (`greeting` knows who it is)."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        os.chmod(path, 0o666)
    except BaseException:
        listening.close()
        raise
    return listening
