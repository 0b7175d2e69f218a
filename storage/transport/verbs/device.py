"""The RDMA device: an open one, with one port and one address of it, and what it says of itself.

Sources: ibv_query_port(3), ibv_query_gid_table(3), ibv_get_async_event(3).
"""

from __future__ import annotations

import os
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Final

import trio

from storage.transport.verbs.attributes import MTUS_BYTES
from storage.transport.verbs.endpoint import Endpoint
from storage.transport.verbs.fabric import GidEntry, Unusable, choose_gid
from storage.transport.verbs.library import (
    Context,
    PyverbsError,
    event_descriptor,
    get_device_list,
    next_descriptors,
    verbs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.transport.verbs.fabric import Fabric

__all__ = ["Device", "device_names"]

OPEN_TRIES_MAX: Final = 100


def device_names() -> list[str]:
    """The RDMA devices of this machine, by name."""
    return sorted(device.name.decode() for device in get_device_list())


class Device:
    """An open device, used as `fabric` says.

    Raises:
        Unusable: It cannot be; the message says why and what to do.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.is_extended = True  # until its driver says otherwise (`posting`)
        self.fetches = fabric.fetch_bytes > 0  # until there is no memory for it (`fetching`)
        names = device_names()
        if not names:
            raise Unusable(
                "this machine has no RDMA device: is the card's driver loaded (modprobe mlx5_ib, ib_uverbs)? "
                "A software one: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE"
            )
        if fabric.device is None and len(names) > 1:
            raise Unusable(f"there are several RDMA devices, {', '.join(names)}: name one (device)")
        self.name = fabric.device or names[0]
        if self.name not in names:
            raise Unusable(f"there is no RDMA device {self.name!r}; there are {', '.join(names)}")
        self._watchers: set[Callable[[str | None], None]] = set()
        self.context, self._descriptor = self._open()
        try:
            self._port = self._active_port()
        except BaseException:
            self.close()
            raise
        self.link = "InfiniBand" if self._port.link_layer == 1 else "Ethernet"
        mtu_bytes = MTUS_BYTES[self._port.active_mtu - 1]
        self.mtu_bytes = min(mtu_bytes, fabric.mtu_bytes or mtu_bytes)

    def _open(self) -> tuple[Any, int]:
        for _ in range(OPEN_TRIES_MAX):
            candidates = next_descriptors()
            try:
                context = Context(name=self.name)
            except PyverbsError as error:
                raise Unusable(
                    f"{self.name} cannot be opened ({error}): are /dev/infiniband/uverbs* open to this user?"
                ) from error
            descriptor = event_descriptor(candidates)
            if descriptor is not None:
                return context, descriptor
            context.close()  # another thread opened one just then
        raise Unusable(f"the descriptor of the events of {self.name} is not to be found")

    # --- What it says of itself

    async def watch(self, told: Callable[[str | None], None]) -> None:
        """Have every event that may end a connection told, until cancelled; any number of tasks may.

        `told` gets what has happened to the device or its port, or None: something to one of the queue pairs, and each has to
        look at its own.
        """
        # Each task has a descriptor of its own, since a loop waits for one only once. Whoever runs first takes the events for all.
        own = os.dup(self._descriptor)
        self._watchers.add(told)
        try:
            while True:
                await trio.lowlevel.wait_readable(own)
                self._take_events()
        finally:
            self._watchers.discard(told)
            os.close(own)

    def _take_events(self) -> None:
        while True:
            try:
                event = self.context.get_async_event()
            except PyverbsError:  # the descriptor is non-blocking, and there are no more
                return
            kind = event.event_type
            event.ack()  # a queue pair cannot be closed before
            trouble = self._trouble(kind)
            for told in list(self._watchers):
                told(trouble)

    def _trouble(self, kind: int) -> str | None:
        if kind == verbs.IBV_EVENT_DEVICE_FATAL:
            return f"the RDMA device {self.name} is gone"
        try:
            # Events of a port do not say of which, and some come in pairs with the opposite: what counts is what is.
            if self.context.query_port(self.fabric.port).state == verbs.IBV_PORT_ACTIVE:
                return None
        except PyverbsError as error:
            return f"the RDMA device {self.name} does not answer ({error})"
        return f"port {self.fabric.port} of {self.name}, our way to the RDMA network, is down"

    def _active_port(self) -> Any:
        where = f"port {self.fabric.port} of {self.name}"
        try:
            port = self.context.query_port(self.fabric.port)
        except PyverbsError as error:
            raise Unusable(f"there is no {where}: ports count from 1 ({error})") from error
        if port.state != verbs.IBV_PORT_ACTIVE:
            raise Unusable(f"{where} is down: see to its cable and network interface (rdma link)")
        return port

    def gids(self) -> list[GidEntry]:
        """The port's addresses, in the order of their index."""
        kinds = {0: "InfiniBand", 1: "RoCE v1", 2: "RoCE v2"}
        return [
            GidEntry(entry.gid_index, IPv6Address(entry.gid_str()), kinds.get(entry.gid_type, "?"))
            for entry in self.context.query_gid_table(self._port.gid_tbl_len)
            if entry.port_num == self.fabric.port
        ]

    def gid(self, towards_peer: str | None) -> GidEntry:
        """The address to use for a peer.

        Raises:
            Unusable: As `choose_gid`.
        """
        return choose_gid(self.gids(), self.fabric.gid, towards_peer)

    @property
    def lid(self) -> int:
        """The port's local identifier; 0 on Ethernet."""
        return int(self._port.lid)

    def try_memory(self) -> None:
        """Register as much as a connection will, and let it go: so that a limit is told at the start.

        Raises:
            Unusable: As `Endpoint`.
        """
        Endpoint(self, self.gid(None)).close()

    def close(self) -> None:
        """Close it. Endpoints first."""
        self.context.close()
