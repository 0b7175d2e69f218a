"""RDMA as a transport: another one for control, and verbs for the messages.

Addresses, identities, greetings and who is turned away are the control transport's (`TcpTransport`, with certificates);
connected by it, the two sides tell each other their queue pairs, connect them, try packets of both sizes, and from then on
messages go by RDMA. The control connection stays: it is how the end of a process is noticed at once.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections import deque
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, TypeVar

import trio

from storage.transport.contract import Broken, Rejected
from storage.transport.verbs.attributes import (
    Attributes,
    Message,
    Misfit,
    Ready,
    Unable,
    agree,
    decode,
    encode,
)
from storage.transport.verbs.connection import VerbsConnection
from storage.transport.verbs.device import Device
from storage.transport.verbs.endpoint import Endpoint
from storage.transport.verbs.fabric import Fabric, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.transport.contract import Connection, Listener, Role, Transport

__all__ = ["VerbsListener", "VerbsTransport", "address_towards"]

JOIN_S = 30.0
"""From a control connection to messages by RDMA; the other side may have a hundred others to join first."""

ADDRESS_S = 4.0
"""How long the network may take to tell a peer's hardware address."""

ACCEPTED_MAX = 16
PENDING_MAX = 256
"""Connections that are there and nobody has taken yet; whoever dials beyond that waits in the socket's queue."""

JOINING_AT_ONCE_MAX = 16
"""Each registers memory and stands still for a moment. Others wait for their turn, of `JOIN_S`; those without RDMA do not."""

assert JOINING_AT_ONCE_MAX < PENDING_MAX

Said = TypeVar("Said", bound=Message)


class VerbsTransport:
    """`contract.Transport` over the RDMA device that `fabric` says, with a control transport beside it.

    Raises:
        Unusable: The device cannot be used so; the message says why and what to do.
    """

    def __init__(
        self,
        control: Transport,
        fabric: Fabric | None = None,
        *,
        draw: random.Random | None = None,
        turned_away: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.identity = control.identity
        self.device = Device(fabric or Fabric())
        self.control = control
        self.turned_away = turned_away
        self._draw = draw or random.SystemRandom()

    def close(self) -> None:
        """Let go of the device, when all connections are closed."""
        self.device.close()

    async def listen(self, nursery: trio.Nursery, address: str) -> VerbsListener:
        """As the contract.

        Raises:
            Unusable: A connection's memory could not be registered, or there is no address; better told now.
        """
        self.device.try_memory()
        return VerbsListener(self, nursery, await self.control.listen(nursery, address))

    async def connect(
        self, nursery: trio.Nursery, address: str, *, role: Role, name: str | None = None
    ) -> VerbsConnection:
        """As the contract."""
        control = await self.control.connect(nursery, address, role=role, name=name)
        return await self.join(nursery, control)

    async def join(self, nursery: trio.Nursery, control: Connection) -> VerbsConnection:
        """Make a connection of a control connection; or close that.

        Raises:
            Rejected: One of the two cannot; the message says which, why, and what to do.
            Broken: The peer went, or packets do not get through.
        """
        who = f"{control.peer} at {control.address}"
        try:
            with trio.move_on_after(JOIN_S):
                return await self._join(nursery, control)
            raise Broken(f"{who}: no queue pair in {JOIN_S:g} s")
        except Unusable as error:
            with contextlib.suppress(Broken), trio.move_on_after(1):
                await control.send([encode(Unable(str(error)))])
                await control.aclose()
            control.close("no RDMA from here")
            raise Rejected(f"{who}: no RDMA from here: {error}") from error
        except Misfit as error:
            control.close(str(error))
            raise Rejected(f"{who}: {error}") from error
        except BaseException:
            control.close("no queue pair")
            raise

    async def _join(self, nursery: trio.Nursery, control: Connection) -> VerbsConnection:
        device = self.device
        said: deque[memoryview] = deque()
        endpoint = Endpoint(device, device.gid(await address_towards(control.address)))
        try:
            mine = endpoint.attributes(self._draw.getrandbits(24), self._draw.getrandbits(32))
            await control.send([encode(mine)])
            its = await _expect(control, said, Attributes)
            mtu_bytes = agree(mine, its)
            await _acquaint(IPv6Address(mine.gid), IPv6Address(its.gid))
            endpoint.connect(mine, its, mtu_bytes)
            await control.send([encode(Ready())])
            await _expect(control, said, Ready)
        except BaseException:
            endpoint.close()
            raise
        connection = VerbsConnection(
            nursery, control, endpoint, mine, its, mtu_bytes, device.fabric
        )
        try:
            for message in said:
                connection.told(message)
            await connection.introduce()
        except BaseException as error:
            connection.close(f"not introduced: {error!r:.200}")
            raise
        return connection


class VerbsListener:
    """`contract.Listener`: control connections that were accepted, joined side by side."""

    def __init__(
        self,
        transport: VerbsTransport,
        nursery: trio.Nursery,
        control: Listener,
        *,
        joins: Callable[[Connection], bool] = lambda control: True,
    ) -> None:
        """`joins`: whether a connection that was accepted is one for control; another is given as it is."""
        self.address = control.address
        self._transport = transport
        self._nursery = nursery
        self._control = control
        self._joins = joins
        self._room = trio.Semaphore(PENDING_MAX)
        self._joining = trio.Semaphore(JOINING_AT_ONCE_MAX)
        self._give, self._take = trio.open_memory_channel["Connection"](ACCEPTED_MAX)
        nursery.start_soon(self._listen, name=f"listen for RDMA at {self.address}")

    async def accept(self) -> Connection:
        """As the contract."""
        try:
            return await self._take.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Broken(f"{self.address}: no longer listening") from None

    def close(self) -> None:
        """As the contract."""
        self._control.close()
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                self._take.receive_nowait().close("the listener was closed")
        self._give.close()
        self._take.close()

    async def _listen(self) -> None:
        try:
            while True:
                await self._room.acquire()
                control = await self._control.accept()
                self._nursery.start_soon(self._join, control)
        except Broken:
            return
        finally:
            self.close()

    async def _join(self, control: Connection) -> None:
        connection: Connection | None = None
        try:
            if self._joins(control):
                async with self._joining:
                    connection = await self._transport.join(self._nursery, control)
            else:
                connection = control
            await self._give.send(connection)
        except Broken as why:
            self._transport.turned_away(str(why))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            assert connection is not None
            connection.close("the listener was closed")
        finally:
            self._room.release()


async def _expect(control: Connection, said: deque[memoryview], kind: type[Said]) -> Said:
    """The peer's next message, which must be of this kind."""
    if not said:
        said += await control.receive()
    message = decode(said.popleft())
    if isinstance(message, Unable):
        raise Rejected(f"{control.peer} at {control.address} cannot use RDMA: {message.why}")
    if not isinstance(message, kind):
        raise Misfit(f"it said {type(message).__name__} where {kind.__name__} was to come")
    return message


async def address_towards(address: str) -> str | None:
    """Our IP address on the way to a peer's address; None if that is none of IP. Nothing is sent.

    Raises:
        Broken: Its name is not known any more.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or address.startswith("unix:"):
        return None
    try:
        found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    except OSError as error:
        raise Broken(f"{address}: {error.strerror or error}") from error
    family, _, _, _, where = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(where)
        except OSError:
            return None
        return str(asking.getsockname()[0])


async def _acquaint(mine: IPv6Address, its: IPv6Address) -> None:
    """Have the kernel learn the hardware address of a peer's IPv4 address; connecting a queue pair would do it with the
    whole process standing still, for seconds where nobody answers.

    Raises:
        Unusable: Nobody answers.
    """
    ours, theirs = mine.ipv4_mapped, its.ipv4_mapped
    if ours is None or theirs is None or ours == theirs:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        with contextlib.suppress(
            OSError
        ):  # an address without an interface: the queue pair will say it
            asking.bind((str(ours), 0))
        with trio.move_on_after(ADDRESS_S):
            while True:
                with contextlib.suppress(
                    OSError
                ):  # again: an interface just come up loses the first question
                    asking.sendto(b"", (str(theirs), 9))  # "discard" (RFC 863)
                if not _is_incomplete(str(theirs)):
                    return
                await trio.sleep(0.01)  # noqa: TID251  # nothing tells when the table has it
    raise Unusable(
        f"{theirs}, the peer's RDMA address, does not answer {ours}, ours: are both on one network? (gid)"
    )


def _is_incomplete(address: str) -> bool:
    """Whether the kernel asks for an address's hardware address and has no answer (proc(5), /proc/net/arp)."""
    with open("/proc/net/arp") as table:
        rows = [line.split() for line in table][1:]
    return any(row[0] == address and row[2] == "0x0" for row in rows)
