"""The process of a node: real clocks, disks, sockets and etcd around a `Node`, signals, and a clean stop.

It stays in the foreground, for whoever keeps services keeps it; its log goes to standard error or to the file that
node.toml names. Ready is said once, on a descriptor, when others can reach the node. SIGTERM, SIGINT and SIGHUP end it
in order: connections close, logs are synced and marked, indexes are saved. A kill -9 at any point is safe.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.machine import (
    SystemClock,
    boot_id,
    log_handler,
    memory_bytes,
    raise_descriptor_limit,
    set_up_logging,
)
from cascadefs.node.admission import Admission
from cascadefs.node.desk import Desk
from cascadefs.node.faces import Faces
from cascadefs.node.node import Node
from cascadefs.node.programs import Programs
from cascadefs.node.recollection import FILE as RECOLLECTION
from cascadefs.node.recollection import Recollection, told
from cascadefs.node.transport import NodeTransport, Refrain, open_transport
from storage.cluster.home import is_volatile
from storage.disk import RealDisk
from storage.errors import Unusable
from storage.index import LmdbIndex
from storage.limits import SEGMENT_BYTES
from storage.membership.contract import Unavailable
from storage.membership.etcd import open_etcd
from storage.membership.http import open_gateway, tls_context
from storage.superblock import DirectoryLock
from storage.transport import Identity, Role, TcpTransport
from storage.transport.certificates import Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cascadefs.configuration import Etcd
    from cascadefs.configuration import Node as Settings
    from cascadefs.node.scripts import Scripts
    from storage.clock import Clock
    from storage.membership.contract import Authority
    from storage.membership.etcd import EtcdAuthority
    from storage.membership.known import Known
    from storage.transport.carrier import Offer

__all__ = ["NotStarted", "serve"]

SPARE_SEGMENTS: Final = 2
"""The room below which a disk counts as full: for the next segment, and for one being written again."""

PLENTY_SEGMENTS: Final = 4
"""Below this a node leaves leading to others that have more: before anything has to be refused."""

SWITCH_S: Final = 0.0005
"""How long a thread that applies records may keep the network's from going on: every TLS write gives up the interpreter, and
with the default of 5 ms waits that long to have it again. Median of a put, 3 replicas on 2 busy cores: 4.4 ms, then 2.5 ms."""

AUTHORITY_S: Final = 1.0
"""Between two attempts to read an authority that is away when a node starts."""

_log = logging.getLogger("cascadefs")


class NotStarted(Exception):
    """There is no node; the message is "thing: why; remedy"."""


def serve(settings: Settings, *, ready_fd: int | None = None, insecure: bool = False) -> int:
    """Serve in this process until a signal ends it; the exit status.

    Args:
        settings: of node.toml, its paths absolute.
        ready_fd: gets ``ready`` and a line feed when others can reach the node, and is closed.
        insecure: no certificates; the node listens on loopback only.

    Raises:
        NotStarted: the directory is in use or of another cluster, certificates are missing ...
    """
    handler = log_handler(Path(settings.log)) if settings.log else logging.StreamHandler(sys.stderr)
    set_up_logging(handler)
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_S)
    data = Path(settings.data)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(data)
        try:
            admission = Admission(None if insecure else _credentials(settings), SystemClock())
            transport = _transport(settings, admission, insecure=insecure)
            try:
                return trio.run(_run, settings, data, transport, admission, ready_fd)
            finally:
                transport.close()
        finally:
            lock.release()
    except* (Unusable, ValueError) as errors:
        raise NotStarted(_first(errors)) from errors
    except* OSError as errors:
        error = errors.exceptions[0]
        raise NotStarted(
            f"{getattr(error, 'filename', None) or settings.listen}: {error}"
        ) from errors
    raise AssertionError("either served or raised")


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _transport(settings: Settings, admission: Admission, *, insecure: bool) -> NodeTransport:
    turned_away = Refrain(lambda why: _log.warning("turned away: %s", why))

    def make_tcp(offer: Offer) -> TcpTransport:
        contexts = None if credentials is None else credentials.contexts()
        tcp = TcpTransport(
            who,
            contexts,
            insecure_loopback=insecure,
            offer=offer,
            source=_own_address(settings.listen),
            turned_away=turned_away,
        )
        tcp.refuses = admission.refuses
        return tcp

    credentials = admission.credentials
    who = (
        Identity(settings.cluster, Role.NODE, settings.name)
        if credentials is None
        else credentials.identity
    )
    return open_transport(settings.transport, make_tcp, turned_away)


def _own_address(listen: str) -> str | None:
    """Where a node dials from: the address it listens at, so that others, and routes and firewalls, know it by one."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if found.is_unspecified or found.is_loopback else str(found)


def _credentials(settings: Settings) -> Credentials:
    credentials = Credentials.load(Path(settings.credentials), now_ns=SystemClock().now_ns())
    who = credentials.identity
    if (who.role, who.name, who.cluster) != (Role.NODE, settings.name, settings.cluster):
        raise Unusable(
            f"{settings.credentials}: is the certificate of {who} of cluster {who.cluster}, and this is node "
            f"{settings.name} of cluster {settings.cluster}; have one issued with `cascadefs cluster add`"
        )
    return credentials


@contextlib.asynccontextmanager
async def _authority(etcd: Etcd, known: Known) -> AsyncIterator[EtcdAuthority]:
    tls = None
    if etcd.ca:
        certificate = Path(etcd.certificate) if etcd.certificate else None
        tls = tls_context(Path(etcd.ca), certificate, Path(etcd.key) if etcd.key else None)
    async with (
        open_gateway(etcd.endpoints, etcd.prefix, tls=tls, timeout_s=etcd.timeout_s) as gateway,
        open_etcd(gateway, time.monotonic_ns, known) as authority,
    ):
        yield authority


async def _run(
    settings: Settings,
    data: Path,
    transport: NodeTransport,
    admission: Admission,
    ready_fd: int | None,
) -> int:
    boot = boot_id()
    clock = SystemClock()

    def directory_of(shard: int) -> Path:
        return data / "shards" / f"{shard:03d}"

    def disk_of(shard: int) -> RealDisk:
        return RealDisk(directory_of(shard))

    def space() -> tuple[int, int, int]:
        found = os.statvfs(data)
        unit = found.f_frsize
        return found.f_blocks * unit, found.f_bfree * unit, found.f_bavail * unit

    def space_bytes() -> tuple[int, int, int]:
        """In all, free, free to users."""
        found = os.statvfs(data)
        unit = found.f_frsize
        return found.f_blocks * unit, found.f_bfree * unit, found.f_bavail * unit

    def has_room() -> bool:
        return space_bytes()[2] > SPARE_SEGMENTS * SEGMENT_BYTES

    def has_plenty() -> bool:
        return space_bytes()[2] > PLENTY_SEGMENTS * SEGMENT_BYTES

    faces = Faces(
        disk_of, lambda shard: LmdbIndex(directory_of(shard)), clock, time.monotonic_ns, boot
    )
    stopping = trio.Event()
    recollection = Recollection(data / RECOLLECTION)
    admission.see(recollection.found.view)
    async with (
        _authority(settings.etcd, recollection.found) as authority,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_obey_signals, stopping, nursery.cancel_scope)
        nursery.start_soon(recollection.run, authority)
        faces.is_volatile = lambda shard: is_volatile(authority.view, shard)
        await _wait_authority(authority, settings)
        programs = Programs(faces, clock, lambda: authority.view, data)
        node = Node(
            settings.name,
            transport,
            authority,
            disk_of,
            clock,
            time.monotonic_ns,
            random.SystemRandom(),
            address=settings.listen,
            advertise=settings.advertise,
            boot_id=bytes.fromhex(boot.replace("-", "")),
            lease_s=settings.lease_s,
            has_room=has_room,
            has_plenty=has_plenty,
            scrub_bytes_per_s=int(settings.scrub_mib_per_s * 2**20),
            scrub_rest_s=settings.scrub_rest_s,
            owner=(os.getuid(), os.getgid()),
            faces=faces,
            call=programs.call,
            improve=transport.improve,
        )
        node.volatile_bytes_max = settings.volatile_mib * 2**20 or memory_bytes() // 2
        node.extra_status = lambda: {
            "pid": os.getpid(),
            "data": str(data),
            "space_bytes": space(),
            "calls": programs.executed,
            "transport": transport.status(authority.view.nodes),
            "certificate": admission.status(),
            "triggers": scripts.status() if scripts is not None else {"mode": "off"},
        }
        node.told = lambda: told(node, authority)
        _bring_from_afar(node, faces, programs)
        desk = Desk(node, programs, lambda: scripts)
        programs.order, programs.order_of_mount = desk.of_program, desk.of_mount
        scripts = _scripts(settings, clock, faces, programs, node)
        try:
            nursery.start_soon(_follow, faces)
            nursery.start_soon(admission.run, authority, node.connections)
            nursery.start_soon(admission.renew, transport.show)
            if scripts is not None:
                nursery.start_soon(_run_scripts, scripts)
                assert node.keeper is not None, "it was given faces"
                node.keeper.wanted_since = scripts.wanted_since
            await nursery.start(node.run)
            _log.info("node %s serves at %s", settings.name, ", ".join(node.addresses))
            if settings.http:
                nursery.start_soon(_serve_page, settings, node, programs, scripts, clock, data)
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            await stopping.wait()
            nursery.cancel_scope.cancel()
        finally:
            faces.stop()
            for line in node.lines.all():
                line.close()
            node.afar.close()
            with trio.CancelScope(shield=True):
                if scripts is not None:
                    scripts.stop()
                    await trio.to_thread.run_sync(scripts.wait_end)
                await trio.to_thread.run_sync(faces.close)
    _log.info("node %s has stopped", settings.name)
    return 0


def _bring_from_afar(node: Node, faces: Faces, programs: Programs) -> None:
    """Let programs ask for shards that are not here."""

    def holds(shard: int) -> bool:
        view = node.authority.view
        epoch, placed = view.epochs.get(shard), view.shards.get(shard)
        members = () if epoch is None else epoch.members
        return node.name in (*members, *(() if placed is None else placed.wished))

    async def bring(shard: int) -> None:
        cluster = node.authority.view.cluster
        assert cluster is not None
        line = node.afar.line(shard, int(cluster.identity, 16), faces.apart)
        try:
            await trio.to_thread.run_sync(faces.attach_afar, line)
        except BaseException:
            node.afar.close(shard)
            raise

    def leave(shard: int) -> None:
        trio.from_thread.run_sync(node.afar.close, shard)

    programs.holds, programs.bring, programs.leave = holds, bring, leave


def _scripts(
    settings: Settings, clock: Clock, faces: Faces, programs: Programs, node: Node
) -> Scripts | None:
    if settings.triggers == "off":
        return None
    # The machinery of workers, which a node without scripts does not load.
    from cascadefs.host import Host
    from cascadefs.node.scripts import Scripts

    host = Host(
        clock,
        random.Random(),
        mode=settings.triggers,
        steady_ns=time.monotonic_ns,
        node=settings.name,
    )
    return Scripts(host, faces, programs, node)


async def _serve_page(
    settings: Settings,
    node: Node,
    programs: Programs,
    scripts: Scripts | None,
    clock: Clock,
    data: Path,
) -> None:
    from cascadefs.node.page import Page  # and what serves browsers, only where it is asked for

    await Page(settings, node, programs, scripts, clock).run(data)


async def _run_scripts(scripts: Scripts) -> None:
    await trio.to_thread.run_sync(scripts.run, abandon_on_cancel=True)


async def _follow(faces: Faces) -> None:
    await trio.to_thread.run_sync(faces.follow, abandon_on_cancel=True)


async def _wait_authority(authority: Authority, settings: Settings) -> None:
    """Until the authority was read, and is the one meant: nothing can be done before."""
    said = False
    while True:
        try:
            view = await authority.read()
        except Unavailable as error:
            if authority.trouble is not None:
                return  # It tells what has been; an operator may ask this node what was since.
            if not said:
                _log.warning("waiting for the authority: %s", error)
            said = True
            await trio.sleep(AUTHORITY_S)  # noqa: TID251  # A retry at the edge.
            continue
        if view.cluster is None:
            raise Unusable(
                "etcd: knows no cluster at this prefix; found one with `cascadefs cluster init`"
            )
        if view.cluster.identity != settings.cluster:
            raise Unusable(
                f"etcd: holds cluster {view.cluster.identity}, and node.toml is of {settings.cluster}; is this the right "
                "etcd and prefix?"
            )
        if settings.name not in view.nodes:
            raise Unusable(
                f"etcd: knows no node {settings.name}; add it with `cascadefs cluster add`"
            )
        return


async def _obey_signals(stopping: trio.Event, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            _log.info("stopping: %s", signal.Signals(number).name)
            stopping.set()
            scope.cancel()
