"""The kinds of transport under one contract: what a test asks of each is a `Kind`, made per test.

Verbs, or another kind, is one more entry in `KINDS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from storage.transport import Connection, Identity, MemoryNetwork, Role, TcpTransport, Transport
from storage.transport.certificates import Authority, Credentials, Issued
from storage.transport.verbs import Fabric
from storage.transport.verbs.ring import RING_BYTES_MIN

NOW_NS = 1_800_000_000 * 10**9
"""A time of the tests' own for what is not shown to TLS."""

CLUSTER = "c1"
SILENCE_MS = 400


def node(name: str, cluster: str = CLUSTER) -> Identity:
    return Identity(cluster, Role.NODE, name)


class Kind(NamedTuple):
    """One kind of transport.

    make: a transport for an identity, and how many milliseconds of silence it bears.
    address: where to listen; the listener says where it is.
    """

    name: str
    make: Callable[[Identity, int], Transport]
    address: str

    @asynccontextmanager
    async def pair(self, silence_ms: int = 10_000):
        """(who dialled, who was dialled), connected; closed behind the test."""
        async with trio.open_nursery() as nursery:
            listener = await self.make(node("n1"), silence_ms).listen(nursery, self.address)
            near = await self.make(node("n2"), silence_ms).connect(
                nursery, listener.address, role=Role.NODE, name="n1"
            )
            far = await listener.accept()
            yield near, far
            nursery.cancel_scope.cancel()


class CertificateCache:
    """Certificates by what they say: made once a run, they cost milliseconds each."""

    def __init__(self, directory: Path, now_ns: int) -> None:
        self.directory = directory
        self.now_ns = now_ns
        self._authorities: dict[str, Authority] = {}
        self._made = 0

    def authority(self, cluster: str = CLUSTER, which: str = "the") -> Authority:
        key = f"{which} {cluster}"
        if key not in self._authorities:
            self._authorities[key] = Authority.create(cluster, now_ns=self.now_ns)
        return self._authorities[key]

    def install(self, authority: Authority, issued: Issued) -> Path:
        self._made += 1
        directory = self.directory / str(self._made)
        authority.install(issued, directory)
        return directory

    def credentials(self, identity: Identity) -> Credentials:
        authority = self.authority(identity.cluster)
        issued = authority.issue(identity, now_ns=self.now_ns)
        return Credentials.load(self.install(authority, issued), now_ns=self.now_ns)


def memory(request) -> Kind:
    network = MemoryNetwork()
    return Kind("memory", lambda who, ms: network.transport(who, silence_ms=ms), "somewhere")


def plain(request) -> Kind:
    def make(who: Identity, silence_ms: int) -> Transport:
        return TcpTransport(who, None, insecure_loopback=True, silence_ms=silence_ms)

    return Kind("plain", make, "127.0.0.1:0")


def unix(request) -> Kind:
    # Not below tmp_path: the path of a socket has 107 bytes at most (unix(7)).
    directory = tempfile.TemporaryDirectory(prefix="cascadefs-")
    request.addfinalizer(directory.cleanup)
    return plain(request)._replace(name="unix", address=f"unix:{directory.name}/s")


def tls(request) -> Kind:
    cache: CertificateCache = request.getfixturevalue("certificates")

    def make(who: Identity, silence_ms: int) -> Transport:
        contexts = cache.credentials(who).contexts()
        return TcpTransport(who, contexts, silence_ms=silence_ms)

    return Kind("tls", make, "127.0.0.1:0")


def verbs(request) -> Kind:
    from storage.transport.verbs.device import device_names
    from storage.transport.verbs.transport import VerbsTransport

    controls = tls(request)
    devices = device_names()
    assert devices, "no RDMA device here"

    def make(who: Identity, silence_ms: int) -> Transport:
        # Two where there are two. In the guest a device cannot talk to itself then (scripts/rdma/network).
        device = devices[0] if who.name == "n1" else devices[-1]
        fabric = Fabric(device=device, ring_bytes=RING_BYTES_MIN, timeout_exponent=16)
        control = controls.make(who, silence_ms)
        control.greeting_s = 60  # a guest on a busy machine stands still at times
        transport = VerbsTransport(control, fabric)
        request.addfinalizer(transport.close)
        return transport

    return Kind("verbs", make, controls.address)


KINDS = {"memory": memory, "plain": plain, "unix": unix, "tls": tls, "verbs": verbs}


async def take(connection: Connection, count: int) -> list[bytes]:
    """That many messages, copied."""
    messages: list[bytes] = []
    while len(messages) < count:
        messages += [bytes(message) for message in await connection.receive()]
    return messages


async def pause(seconds: float) -> None:
    """Let the others run, sockets too."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()
