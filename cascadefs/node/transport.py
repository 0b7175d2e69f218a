"""How a node reaches others: all by TCP, and other nodes by RDMA where node.toml says so and both have it.

One address for everybody. In the greeting two nodes tell each other what they have (`storage.transport.carrier`); where that is
verbs, the TCP connection becomes the control connection of one by RDMA. Mounts and programs stay with TCP: they need no card, no locked
memory, and the network of the cards need not reach them.

Falling back, where it is configured, is the dialler's: it dials again and likes TCP better. It says so, here and by `status`, tries
RDMA again once a minute, and changes over when that works.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.configuration import fabric
from storage.errors import Unusable
from storage.transport import Broken, Rejected, Role
from storage.transport.carrier import PLAIN, TCP, VERBS, Offer
from storage.transport.stream import StreamConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cascadefs.configuration import Transport as Settings
    from storage.transport import Connection, Identity, Listener, TcpTransport
    from storage.transport.certificates import Credentials
    from storage.transport.verbs.transport import VerbsTransport

__all__ = ["NodeTransport", "Refrain", "open_transport"]

AGAIN_S: Final = 60.0
"""From falling back to the next attempt by RDMA, and between two."""

REFRAIN_S: Final = 600.0
REFRAINS_MAX: Final = 256

_log = logging.getLogger("cascadefs.node")


class Refrain:
    """Tells in words, and the same again only after a while: who is turned away dials again every two seconds, from another port."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def __call__(self, why: str) -> None:
        """Tell it, if that was not done in the last ten minutes. In a trio loop."""
        same = re.sub(r":\d+", "", why)
        now_s = trio.current_time()
        if now_s >= self._told.get(same, now_s):
            if len(self._told) >= REFRAINS_MAX:
                self._told.clear()
            self._told[same] = now_s + REFRAIN_S
            self._tell(why)


def open_transport(
    settings: Settings,
    make_tcp: Callable[[Offer], TcpTransport],
    turned_away: Callable[[str], None],
) -> NodeTransport:
    """What node.toml asks for; close it when the node has ended.

    Args:
        settings: the table ``[transport]``.
        make_tcp: a TCP transport that offers these carriers to other nodes.
        turned_away: told, in words, of each peer that could not be joined.

    Raises:
        Unusable: verbs cannot be used, and there is no fallback; the message says why and what to do.
    """
    if settings.kind == "tcp":
        return NodeTransport(settings, make_tcp(PLAIN))
    try:
        from storage.transport.verbs.transport import VerbsTransport

        offer = (VERBS, TCP) if settings.fallback else (VERBS,)
        tcp = make_tcp(offer)
        verbs = VerbsTransport(tcp, fabric(settings), turned_away=turned_away)
        try:
            verbs.device.try_memory()
        except BaseException:
            verbs.close()
            raise
    except Unusable as error:
        if not settings.fallback:
            raise Unusable(f"[transport]: {error}") from error
        _log.error("nodes are reached by TCP, for here is no RDMA: %s", error)
        return NodeTransport(settings, make_tcp(PLAIN), trouble=f"no RDMA: {error}")
    return NodeTransport(settings, tcp, verbs)


class NodeTransport:
    """`storage.transport.Transport` of a node; see the module."""

    def __init__(
        self,
        settings: Settings,
        tcp: TcpTransport,
        verbs: VerbsTransport | None = None,
        *,
        trouble: str = "",
        again_s: float = AGAIN_S,
    ) -> None:
        """By TCP, and verbs between nodes if there are `verbs`, whose control `tcp` is then; `trouble`: why there are none."""
        self.identity: Identity = tcp.identity
        self._settings = settings
        self._tcp = tcp
        self._verbs = verbs
        self._trouble = trouble
        self._again_s = again_s
        # Nodes that are reached by TCP though both have verbs, and why.
        self._fallen: dict[str, str] = {}

    def close(self) -> None:
        """Let go of the device, when all connections are closed."""
        if self._verbs is not None:
            self._verbs.close()

    def show(self, credentials: Credentials) -> None:
        """See `TcpTransport.show`."""
        self._tcp.show(credentials)

    async def listen(self, nursery: trio.Nursery, address: str) -> Listener:
        """As the contract."""
        listener = await self._tcp.listen(nursery, address)
        if self._verbs is None:
            return listener
        from storage.transport.verbs.transport import VerbsListener

        def joins(control: Connection) -> bool:
            assert isinstance(control, StreamConnection), "the TCP transport's own"
            return control.carrier == VERBS

        return VerbsListener(self._verbs, nursery, listener, joins=joins)

    async def connect(
        self, nursery: trio.Nursery, address: str, *, role: Role, name: str | None = None
    ) -> Connection:
        """As the contract."""
        control = await self._tcp.connect(nursery, address, role=role, name=name)
        peer = control.peer.name
        if self._verbs is None or control.carrier == TCP:
            self._fallen.pop(peer, None)
            return control
        try:
            connection = await self._verbs.join(nursery, control)
        except Broken as error:
            if not self._settings.fallback:
                raise
            why = error
        else:
            self._fallen.pop(peer, None)
            return connection
        control = await self._tcp.connect(
            nursery, address, role=role, name=name, offer=(TCP, VERBS)
        )
        if control.carrier != TCP:
            control.close("it takes no TCP from a node")
            raise Rejected(f"{why}; and it does not fall back to TCP") from why
        self._fell(peer, str(why))
        return control

    async def improve(self, nursery: trio.Nursery, connection: Connection) -> Connection:
        """A connection by RDMA in place of one that fell back, as soon as there can be one; waits for ever where this is none.

        Cancelled: the connection is as it was.
        """
        peer = connection.peer
        while self._verbs is not None and peer.name in self._fallen:
            await trio.sleep(self._again_s)  # noqa: TID251  # A retry at the edge.
            try:
                control = await self._tcp.connect(
                    nursery, connection.address, role=peer.role, name=peer.name, offer=(VERBS,)
                )
                better = await self._verbs.join(nursery, control)
            except Broken as error:
                self._fell(peer.name, str(error))
                continue
            self._fallen.pop(peer.name, None)
            _log.info("node %s is reached by RDMA again", peer.name)
            return better
        await trio.sleep_forever()
        raise AssertionError("it slept for ever")

    def _fell(self, name: str, why: str) -> None:
        if name not in self._fallen:
            _log.error("node %s is reached by TCP, for RDMA does not work: %s", name, why)
        self._fallen[name] = why

    def status(self, nodes: Collection[str] | None = None) -> dict[str, object]:
        """What is configured, and what is not as it was meant, in words; what was with others than these `nodes` is forgotten."""
        for name in self._fallen.keys() - set(self._fallen if nodes is None else nodes):
            del self._fallen[name]
        troubles = [self._trouble] if self._trouble else []
        troubles += [f"reaches {name} by TCP: {why}" for name, why in sorted(self._fallen.items())]
        found: dict[str, object] = {
            "kind": self._settings.kind,
            "fallback": self._settings.fallback,
            "troubles": troubles,
        }
        if self._verbs is not None:
            device = self._verbs.device
            found |= {
                "device": device.name,
                "link": device.link,
                "port": device.fabric.port,
                "gids": [str(entry) for entry in device.gids()],
                "mtu_bytes": device.mtu_bytes,
            }
        return found
