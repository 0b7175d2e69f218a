"""A node: the shards it holds, its connections, and what it says about itself. One trio loop, one thread.

Made of what is given: transport, authority, disks and clocks; so the same node runs in a process of its own, and many of
them in one test. `serve` makes the real ones.

Life: listen, then be seen (a presence under a lease), then hold what the authority says: a seat for each shard this
node is a member of, or is wished to be.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cascadefs.node.afar import Afar
from cascadefs.node.clocks import Clocks
from cascadefs.node.keeping import Grace, Keeper
from cascadefs.node.layout import layout
from cascadefs.node.lines import Lines
from cascadefs.node.links import Links
from cascadefs.node.locks import Locks
from cascadefs.node.mending import SCRUB_REST_S, Mender
from cascadefs.node.seat import Ground, Seat
from cascadefs.node.session import Session
from cascadefs.node.steward import Steward, ask, epoch_of, stranded
from cascadefs.node.volatile import Snapshots, VolatileSeat
from storage import record, wire
from storage.errors import Corruption, Unusable
from storage.limits import SEGMENT_BYTES
from storage.member import MemoryLog
from storage.membership.contract import Unavailable
from storage.membership.reconfigure import Patience, Reconfigurer, Replica
from storage.membership.values import Epoch as Recorded
from storage.membership.values import Presence, View
from storage.namespace import ROOT
from storage.replication import EPOCH_KIND, Options, Role
from storage.sequencer import START
from storage.transport import Broken
from storage.transport import Role as Party

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from cascadefs.node.faces import Faces
    from cascadefs.node.links import Improve
    from storage.clock import Clock
    from storage.codec import Buffer
    from storage.disk import Disk
    from storage.member import Member
    from storage.membership.contract import Authority, Lease
    from storage.transport import Connection, Identity, Transport

    Call = Callable[
        [Identity, msgspec.Raw, Sequence[memoryview]], Awaitable[tuple[bytes, Sequence[Buffer]]]
    ]
    """Executes an operation of a client (`wire.Call`)."""

    Errands = Callable[
        [Identity, str, Sequence[memoryview]], Awaitable[tuple[bytes, Sequence[Buffer]]]
    ]
    """Does what another node asks for (`wire.Call`, its operation)."""

__all__ = ["Node"]

LEASE_S: Final = 3.0
SIGN_S: Final = 24 * 3600.0
"""Between two words to each shard that this node's faces go on (`storage.namespace.sessions`)."""

LOOK_S: Final = 1.0
"""Between two looks at what nobody tells: room on the disk, logs that stay out of sync."""

_log = logging.getLogger("cascadefs.node")


class Node:
    """See the module. All calls in the thread of the network's loop unless they say otherwise."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        authority: Authority,
        disk_of: Callable[[int], Disk],
        clock: Clock,
        steady_ns: Callable[[], int],
        random: Random,
        *,
        address: str,
        advertise: tuple[str, ...] = (),
        boot_id: bytes,
        segment_bytes: int = SEGMENT_BYTES,
        lease_s: float = LEASE_S,
        has_room: Callable[[], bool] = lambda: True,
        has_plenty: Callable[[], bool] = lambda: True,
        scrub_bytes_per_s: int = 0,
        scrub_rest_s: float = SCRUB_REST_S,
        owner: tuple[int, int] = (0, 0),
        call: Call | None = None,
        patience: Patience | None = None,
        faces: Faces | None = None,
        grace: Grace | None = None,
        improve: Improve | None = None,
    ) -> None:
        """Nothing is done before `run`.

        Args:
            name: this node's, as the authority and its certificate have it.
            transport: to listen and dial with.
            authority: opened; who opened it closes it.
            disk_of: a shard's own directory.
            clock: the wall clock.
            steady_ns: the monotonic clock, the one the authority's leases are measured by.
            random: for jitter, and names of faces.
            address: where to listen.
            advertise: where others reach it, if not there.
            boot_id: the machine's, 16 bytes.
            segment_bytes: of logs made here; the same on all nodes.
            lease_s: how long others wait for a node that says nothing.
            has_room: whether the disk takes payloads.
            has_plenty: whether it will for long; if not, leading is left to others.
            scrub_bytes_per_s: how fast each log is read again; 0: not at all.
            scrub_rest_s: from the end of one such reading to the next.
            owner: user and group of the root directory, where this node makes it.
            call: executes operations of clients; None: refused.
            patience: how long to wait before membership is changed.
            faces: keeps a face of each shard here; None: records are kept and applied by nobody.
            grace: how long history is kept that others may still use.
            improve: finds a better way to a node that is connected; None: there is one way.
        """
        self.name = name
        self.authority = authority
        self.members: dict[int, Member] = {}
        self.call = call
        self.errands: Errands | None = None
        """Set before `run`, on a node that does runs for others; None: refused."""
        self.links = Links(name, transport, authority, self._serve, improve)
        self.mender = Mender(name, self.links, authority)
        self.lines = Lines(
            name, self.members, self.links.post, self.mender.mend, self.links.get, random
        )
        self.afar = Afar(self.links, self.epoch_of, random)
        self.locks = Locks(name, self.members, self.links.post, self._knows_locks, steady_ns)
        self.clocks = Clocks(name, self.links, clock)
        self.addresses: tuple[str, ...] = ()
        self.http = ""
        """Where its page is, as others are told; empty: nowhere."""
        self.faces = faces
        self.volatile_bytes_max = 2**63
        """Of all volatile shards here together: beyond it what brings bytes is refused."""
        self.keeper = (
            Keeper(faces, self.members, clock, has_room, grace) if faces is not None else None
        )
        self.connections: set[Connection] = set()
        """All that are served."""
        self.told: Callable[[], dict[str, object]] = dict
        """What an operator is told of the authority (`recollection.Told`)."""
        self.snapshots = (
            Snapshots(faces, self.members, steady_ns, random) if faces is not None else None
        )
        self.extra_status: Callable[[], dict[str, object]] = dict
        self.on_epoch: Callable[[], None] = lambda: None
        """Called when who leads a shard that is here may have changed."""
        self._transport = transport
        self._disk_of = disk_of
        self._clock = clock
        self._steady_ns = steady_ns
        self._random = random
        self._address = address
        self._advertise = advertise
        self._boot_id = boot_id
        self._segment_bytes = segment_bytes
        self._lease_s = lease_s
        self._has_room = has_room
        self._has_plenty = has_plenty
        self._scrub_bytes_per_s = scrub_bytes_per_s
        self._scrub_rest_s = scrub_rest_s
        self._owner = owner
        self._reconfigurer = Reconfigurer(name, patience)
        self._presence = Presence(name, random.getrandbits(62), (), locks=True, orders=True)
        self._lease: Lease | None = None
        self._is_full = False
        self._seats: dict[int, Seat | VolatileSeat] = {}
        self._unopened: dict[int, str] = {}
        self._stewards: dict[int, Steward] = {}
        self._opened: dict[int, trio.Event] = {}
        self._applied: dict[int, Callable[[], int]] = {}
        self._sessions = 0
        self._encoded: tuple[int, bytes] = (-1, b"")

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Started when the node is seen by others.

        Raises:
            OSError: it cannot listen there.
            Unavailable: the authority could not be read at first.
        """
        async with trio.open_nursery() as nursery:
            listener = await self._transport.listen(nursery, self._address)
            self.addresses = self._advertise or (listener.address,)
            self._presence = msgspec.structs.replace(
                self._presence, addresses=self.addresses, runs=self.errands is not None
            )
            # Before it is seen operators may ask what it knows: it may wait for one of them.
            nursery.start_soon(self._accept, nursery, listener)
            async with self.authority.hold(self._presence, self._lease_s) as lease:
                self._lease = lease
                nursery.start_soon(self.links.run)
                nursery.start_soon(self.lines.run)
                nursery.start_soon(self.locks.run)
                nursery.start_soon(self.afar.run)
                nursery.start_soon(self.clocks.run)
                nursery.start_soon(self._watch_room)
                nursery.start_soon(self._tell_presence)
                if self.faces is not None:
                    nursery.start_soon(self._keep_sessions, self.faces)
                if self.keeper is not None:
                    nursery.start_soon(self.keeper.run)
                task_status.started()
                await self._hold_seats(nursery)

    async def _accept(self, nursery: trio.Nursery, listener: Any) -> None:
        while True:
            connection = await listener.accept()
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        """One connection, dialled or accepted, to its end."""
        if self._lease is None and connection.peer.role is not Party.CLIENT:
            connection.close("this node waits for its authority")
            return
        is_node = connection.peer.role.value == "node"
        link = self.links.get(connection.peer.name) if is_node else None
        self._sessions += 1
        self.connections.add(connection)
        try:
            async with trio.open_nursery() as nursery:
                if link is not None:
                    link.attach(connection)
                    for member in self.members.values():
                        member.greet(connection.peer.name)
                    nursery.start_soon(self._drain, link, connection)
                    self.lines.resend()
                await Session(self, connection).run()
                nursery.cancel_scope.cancel()
        finally:
            self._sessions -= 1
            self.connections.discard(connection)
            if link is not None:
                link.detach(connection)

    async def _drain(self, link: Any, connection: Connection) -> None:
        with contextlib.suppress(Broken):  # Whoever receives hears of it, too.
            await link.drain(connection)

    async def _hold_seats(self, nursery: trio.Nursery) -> None:
        while True:
            view = self.authority.view
            self._reconfigurer.see(self._steady_ns(), view)
            wait_s = LEASE_S
            for shard, placed in view.shards.items():
                if shard in self._seats:
                    continue
                epoch = view.epochs.get(shard)
                if epoch is not None and self.name in (*epoch.members, *placed.wished):
                    await self._open(nursery, shard, view, makes=False)
                elif epoch is None:
                    wait_s = min(wait_s, await self._begin(nursery, shard, view))
            with trio.move_on_after(wait_s):
                await self.authority.wait_view(view.revision)

    async def _begin(self, nursery: trio.Nursery, shard: int, view: View) -> float:
        """Make a shard that nobody has made, if that is for this node; in how many seconds to look again."""
        decision = self._reconfigurer.decide(self._steady_ns(), shard, Replica())
        if decision.change is None:
            return LEASE_S if decision.again_ns is None else decision.again_ns / 1e9
        assert isinstance(decision.change.new, Recorded)
        await self._open(nursery, shard, view, makes=True)
        if shard in self.members:
            await ask(self.authority, decision.change, f"shard {shard}: {decision.why}")
        return LEASE_S

    async def _open(self, nursery: trio.Nursery, shard: int, view: View, *, makes: bool) -> None:
        pool = view.pools[view.shards[shard].pool]
        assert view.cluster is not None
        ground = Ground(
            self.name,
            int(view.cluster.identity, 16),
            self._segment_bytes,
            self._boot_id,
            self._clock,
            self._steady_ns,
            self.links.post,
            self._lease_until_ns,
            self._has_room,
        )
        try:
            place, sessions = START, dict[int, int]()
            if self.faces is not None:
                place, sessions = await trio.to_thread.run_sync(self.faces.prepare, shard)

            def applied() -> int:
                return self._applied[shard]() if shard in self._applied else 0

            seat: Seat | VolatileSeat
            if pool.volatile:
                options = Options(durable=False, replicas_min=pool.replicas_min)
                seat = VolatileSeat(
                    ground, shard, options, self.links, lambda: self._is_wanted(shard)
                )
            else:
                seat = Seat(
                    ground,
                    shard,
                    self._disk_of(shard),
                    Options(durable=pool.durability == "disk", replicas_min=pool.replicas_min),
                    place,
                    applied,
                    lambda client: sessions.get(client, 0),
                )
            member = await seat.open(epoch_of(view.epochs.get(shard)), makes=makes)
        except (OSError, Unusable, Corruption) as error:
            if self._unopened.get(shard) != str(error):
                _log.critical("shard %d cannot be opened: %s", shard, error)
            self._unopened[shard] = str(error)
            return  # Tried again, soon.
        member.applied = applied
        self._seats[shard] = seat
        self.members[shard] = member
        for name in self.links.connected():
            member.greet(name)
        member.followers.add(lambda: self.lines.publish(shard))
        member.on_epoch.add(lambda: self.lines.resend(shard))
        member.on_epoch.add(lambda: self.on_epoch())
        nursery.start_soon(self._run_seat, seat, member)
        if self.faces is not None:
            nursery.start_soon(self._attach_face, self.faces, shard)
        self._opened.setdefault(shard, trio.Event()).set()

    def _is_wanted(self, shard: int) -> bool:
        """Whether a shard lies here, or is to."""
        view = self.authority.view
        epoch, placed = view.epochs.get(shard), view.shards.get(shard)
        members = epoch.members if epoch is not None else ()
        return epoch is None or self.name in (*members, *(placed.wished if placed else ()))

    async def _attach_face(self, faces: Faces, shard: int) -> None:
        line, said = self.lines.make(shard), ""
        while True:
            try:
                face = await trio.to_thread.run_sync(faces.attach, line)
                break
            except (OSError, Corruption) as error:
                if str(error) != said:
                    said = str(error)
                    _log.critical("shard %d: no index can be made: %s", shard, error)
            # A record may be damaged, and who has it whole not reached yet.
            await trio.sleep(LEASE_S)  # noqa: TID251  # A retry at the edge.
        self._applied[shard] = lambda: face.applied_index

    async def _keep_sessions(self, faces: Faces) -> None:
        while True:
            await trio.sleep(SIGN_S)  # noqa: TID251  # Nothing tells but time.
            try:
                await trio.to_thread.run_sync(faces.keep_sessions)
            except OSError as error:
                _log.warning("shards may forget this node's numbers: %s", error)

    async def _run_seat(self, seat: Seat | VolatileSeat, member: Member) -> None:
        steward = Steward(
            self.name, seat.shard, self.authority, self._reconfigurer, self._steady_ns
        )
        self._stewards[seat.shard] = steward
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steward.run, member)
            if isinstance(seat, VolatileSeat):
                steward.may_adopt = seat.may_adopt
            else:
                nursery.start_soon(
                    self.mender.scrub, member, self._scrub_bytes_per_s, self._scrub_rest_s
                )
            if seat.shard == 0:
                nursery.start_soon(self._plant, member)
            await seat.run(lambda: epoch_of(self.authority.view.epochs.get(seat.shard)))

    def _lease_until_ns(self) -> int | None:
        return self._lease.until_ns if self._lease is not None else 0

    async def wait_seat(self, shard: int) -> Member:
        """The replica of a shard, as soon as it is opened here."""
        await self._opened.setdefault(shard, trio.Event()).wait()
        return self.members[shard]

    async def _plant(self, member: Member) -> None:
        """As the leader of a shard without a record, make the root directory."""
        client = self._random.getrandbits(63) | 1
        uid, gid = self._owner
        root = record.encode(record.Create(0, b"", ROOT, 0o40755, uid, gid))
        while True:
            try:
                if member.committed and not await trio.to_thread.run_sync(_is_blank, member):
                    return
            except (OSError, Corruption):
                return  # What is damaged was written once.
            if member.replica.role is Role.LEADER:
                member.propose(client, [(1, root, ())], 0, None)
                member.pump()
            await trio.sleep(LOOK_S / 10)  # noqa: TID251  # Once in a shard's life.

    async def _tell_presence(self) -> None:
        """Let the others know which logs here may have lost something, and of a full disk, once that has stood for a while."""
        before = self._presence
        while True:
            await trio.sleep(LOOK_S)  # noqa: TID251  # A new member is out of sync for a moment, too.
            found = msgspec.structs.replace(
                self._presence,
                stranded=stranded(self.name, list(self.members.values())),
                full=self._is_full,
                http=self.http,
            )
            if found == before and found != self._presence and self._lease is not None:
                try:
                    await self._lease.change_presence(found)
                    self._presence = found
                except Unavailable as error:
                    _log.warning("cannot say how it is here: %s", error)
            before = found

    async def _watch_room(self) -> None:
        while True:
            is_full = not await trio.to_thread.run_sync(self._has_room)
            self._is_full = is_full or not await trio.to_thread.run_sync(self._has_plenty)
            if self.snapshots is not None:
                self.snapshots.forget_old()
            self._watch_memory()
            for member in self.members.values():
                if isinstance(member.log, MemoryLog):
                    continue
                if member.proposals.is_full != is_full:
                    _log.warning("the disk is %s", "full" if is_full else "no longer full")
                member.proposals.is_full = is_full
            await trio.sleep(LOOK_S)  # noqa: TID251  # A disk fills while others use it, too.

    def _watch_memory(self) -> None:
        """Refuse bytes for volatile shards where those here hold as much as they may together."""
        here = [one for one in self.members.values() if isinstance(one.log, MemoryLog)]
        is_full = sum(member.log.taken_bytes for member in here) >= self.volatile_bytes_max
        for member in here:
            if member.proposals.is_full != is_full:
                said = "full" if is_full else "no longer full"
                _log.warning("shard %d: memory for volatile pools is %s", member.shard, said)
            member.proposals.is_full = is_full
            member.proposals.what = "memory for volatile pools"

    # --- what is told -----------------------------------------------------------------------------------------

    def _knows_locks(self, name: str) -> bool:
        presence = self.authority.view.live.get(name)
        return presence is not None and presence.locks

    def leads(self) -> set[int]:
        """The shards whose leader is here. May be asked by any thread."""
        members = list(self.members.items())
        return {shard for shard, member in members if member.replica.role is Role.LEADER}

    def epoch_of(self, shard: int) -> wire.Epoch:
        """Who leads a shard that is not here."""
        epoch = self.authority.view.epochs.get(shard)
        if epoch is None:
            return wire.Epoch(shard, 0, "", [])
        return wire.Epoch(shard, epoch.epoch, epoch.leader, list(epoch.members))

    def encode_view(self, view: View) -> bytes:
        """The placement map as mounts get it."""
        if self._encoded[0] != view.revision:
            self._encoded = (view.revision, encode_view(view))
        return self._encoded[1]

    def time_us(self) -> int:
        """By this node's clock, microseconds since 1970."""
        return self._clock.now_ns() // 1000

    @property
    def is_seen(self) -> bool:
        """Whether it has begun; before, it executes nothing."""
        return self._lease is not None

    async def status_json(self) -> bytes:
        """Figures for people and programs."""
        view = self.authority.view
        return msgspec.json.encode(
            {
                "node": self.name,
                "addresses": list(self.addresses),
                "authority": self.authority.standing.name.lower(),
                "authority_trouble": self.authority.trouble,
                "time_us": self.time_us(),
                "clocks": self.clocks.wrong,
                "revision": view.revision,
                "cluster": layout(view),
                "lease_ms": max(0, ((self._lease_until_ns() or 0) - self._steady_ns()) // 10**6)
                if self._lease is not None
                else 0,
                "connected": self.links.connected(),
                "links": self.links.status(),
                "sessions": self._sessions,
                "shards": [
                    {
                        **member.status(),
                        "membership": self._stewards[shard].why if shard in self._stewards else "",
                        "locks": self.locks.status(shard),
                        **self.mender.status(shard),
                        "history": self.keeper.status(shard) if self.keeper is not None else None,
                    }
                    for shard, member in sorted(self.members.items())
                ],
                "faces": self.faces.status() if self.faces is not None else None,
                **self.extra_status(),
            }
        )


_KEPT: Final = ("certificates", "recovered")
"""Of a view, what is for nodes and operators alone."""


def _is_blank(member: Member) -> bool:
    """Whether a log holds nothing but the beginnings of epochs."""
    return all(frame.kind == EPOCH_KIND for frame in member.log.frames())


def encode_view(view: View) -> bytes:
    """A view as msgpack, its mappings as maps."""
    fields = {name: getattr(view, name) for name in view.__struct_fields__ if name not in _KEPT}
    plain = {k: dict(v) if hasattr(v, "items") else v for k, v in fields.items()}
    return msgspec.msgpack.encode(plain)
