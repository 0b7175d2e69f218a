"""How a site wants its RDMA device used, and which of the device's addresses that means. Pure.

Everything a new site can get wrong ends here or in `device` as `Unusable`, with what to do about it (docs/RDMA.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from storage import errors
from storage.transport.verbs.attributes import MTUS_BYTES
from storage.transport.verbs.ring import RING_BYTES_MAX, RING_BYTES_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Fabric", "GidEntry", "Unusable", "choose_gid"]

ROCE_V2 = "RoCE v2"


class Unusable(errors.Unusable):
    """RDMA cannot be used here as it is configured; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """What may be configured. Everything has a value that suits most sites.

    Raises:
        Unusable: A value that cannot be.
    """

    device: str | None = None
    """Name, as ``rdma link`` has it; None where there is one only."""

    port: int = 1

    gid: str | int | None = None
    """An address of the device, or its index in the device's table; None: that of the interface towards the peer."""

    mtu_bytes: int | None = None
    """Size of packets; None: the port's. The smaller of both sides counts."""

    ring_bytes: int = 1024 * 1024
    """Of memory the peer writes into, and as much again for what we send: twice this is registered for a connection."""

    fetch_bytes: int = 4 * 1024 * 1024
    """Of memory where messages lie that a peer fetches (catch-up, payloads asked for); registered when it is first needed. 0: all
    is pushed, both ways."""

    timeout_exponent: int = 14
    retry_count: int = 3
    """A packet is sent again after 4.096 us * 2**timeout_exponent (67 ms), so often; then the connection is broken."""

    traffic_class: int = 0
    """Of the packets, for networks that treat RoCE apart."""

    polls_before_sleep: int = 4
    """How often a receiver looks again, letting other tasks run between, before it sleeps until the device wakes it."""

    def __post_init__(self) -> None:
        size = self.ring_bytes
        if not RING_BYTES_MIN <= size <= RING_BYTES_MAX or size & (size - 1):
            raise Unusable(
                f"ring_bytes = {size}: use a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}"
            )
        if not 0 <= self.fetch_bytes <= RING_BYTES_MAX:
            raise Unusable(f"fetch_bytes = {self.fetch_bytes}: use 0 to {RING_BYTES_MAX}")
        if not 0 <= self.retry_count <= 6:
            # Soft-RoCE takes 7 as "for ever", and so a dead peer would never be noticed.
            raise Unusable(f"retry_count = {self.retry_count}: use 0 to 6")
        if not 1 <= self.timeout_exponent <= 20:
            # 0 means "for ever".
            raise Unusable(
                f"timeout_exponent = {self.timeout_exponent}: use 1 to 20 (8 us to 4.3 s)"
            )
        if self.mtu_bytes is not None and self.mtu_bytes not in MTUS_BYTES:
            raise Unusable(f"mtu_bytes = {self.mtu_bytes}: use one of {MTUS_BYTES}")
        if not 0 <= self.traffic_class <= 255 or not 1 <= self.port <= 255:
            raise Unusable("traffic_class and port are numbers of one byte, ports from 1 on")
        if not 0 <= self.polls_before_sleep <= 1000:
            raise Unusable(f"polls_before_sleep = {self.polls_before_sleep}: use 0 to 1000")

    @property
    def silence_s(self) -> float:
        """How long a peer that does not answer goes unnoticed while something is sent to it, at least."""
        return 4.096e-6 * (1 << self.timeout_exponent) * (self.retry_count + 1)


@dataclass(frozen=True, slots=True)
class GidEntry:
    """One address of a port."""

    index: int
    address: IPv6Address
    kind: str  # "InfiniBand", "RoCE v1" or "RoCE v2"

    def __str__(self) -> str:
        return f"{self.index}: {self.address.ipv4_mapped or self.address} ({self.kind})"


def choose_gid(
    entries: Sequence[GidEntry], wanted: str | int | None, towards_peer: str | None
) -> GidEntry:
    """Which address to use; `towards_peer` is our IP address on the way to the peer, if known.

    Without a wish: on InfiniBand the first, on Ethernet the RoCE v2 one of that IP address, else the first RoCE v2 one that
    is an IPv4 address, else the first RoCE v2 one.

    Raises:
        Unusable: There is none such; the message lists what there is.
    """
    there_are = "; ".join(map(str, entries)) or "none: give its network interface an address"
    if wanted is not None:
        for entry in entries:
            if entry.index == wanted or (
                isinstance(wanted, str) and _same(wanted, entry) and entry.kind != "RoCE v1"
            ):
                return entry
        raise Unusable(f"gid = {wanted!r} is no address of the device; there are {there_are}")
    usable = [entry for entry in entries if entry.kind == ROCE_V2]
    if not usable:
        usable = [entry for entry in entries if entry.kind == "InfiniBand"]
    if not usable:
        raise Unusable(
            f"the device has no address for RoCE v2 or InfiniBand; there are {there_are}"
        )
    for entry in usable:
        if towards_peer is not None and _same(towards_peer, entry):
            return entry
    return next((entry for entry in usable if entry.address.ipv4_mapped is not None), usable[0])


def _same(text: str, entry: GidEntry) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address in (entry.address, entry.address.ipv4_mapped)
