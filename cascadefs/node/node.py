"""A node: the shards it holds, its connections, and what it says about itself. One trio loop, one thread.

Made of what is given: transport, authority, disks and clocks; so the same node runs in a process of its own, and many of
them in one test. `serve` makes the real ones.

Life: listen, then be seen (a presence under a lease), then hold what the authority says: a seat for each shard this
node is a member of, or is wished to be.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cascadefs.node.links import Links, Unreachable
from cascadefs.node.seat import Ground, Seat
from cascadefs.node.session import Session
from cascadefs.node.steward import Steward, ask, epoch_of, stranded
from storage import record, wire
from storage.codec import HEAD_BYTES
from storage.errors import Corruption, Unusable
from storage.limits import SEGMENT_BYTES
from storage.member import Line
from storage.membership.contract import Unavailable
from storage.membership.reconfigure import Patience, Reconfigurer, Replica
from storage.membership.values import Epoch as Recorded
from storage.membership.values import Presence, View
from storage.namespace import ROOT
from storage.replication import EPOCH_KIND, Options, Role
from storage.scrub import Scrub
from storage.sequencer import START
from storage.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from cascadefs.node.faces import Faces
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

__all__ = ["Node"]

LEASE_S: Final = 3.0
RESEND_S: Final = 1.0
"""A proposal of a face here that has not moved for so long is handed to the leader again."""

SCRUB_RECORDS_MAX: Final = 2000
SCRUB_REST_S: Final = 24 * 3600.0

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
        scrub_bytes_per_s: int = 0,
        scrub_rest_s: float = SCRUB_REST_S,
        owner: tuple[int, int] = (0, 0),
        call: Call | None = None,
        patience: Patience | None = None,
        faces: Faces | None = None,
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
            scrub_bytes_per_s: how fast each log is read again; 0: not at all.
            scrub_rest_s: from the end of one such reading to the next.
            owner: user and group of the root directory, where this node makes it.
            call: executes operations of clients; None: refused.
            patience: how long to wait before membership is changed.
            faces: keeps a face of each shard here; None: records are kept and applied by nobody.
        """
        self.name = name
        self.authority = authority
        self.members: dict[int, Member] = {}
        self.call = call
        self.links = Links(name, transport, authority, self._serve)
        self.addresses: tuple[str, ...] = ()
        self.faces = faces
        self.extra_status: Callable[[], dict[str, object]] = dict
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
        self._scrub_bytes_per_s = scrub_bytes_per_s
        self._scrub_rest_s = scrub_rest_s
        self._owner = owner
        self._reconfigurer = Reconfigurer(name, patience)
        self._presence = Presence(name, random.getrandbits(62), ())
        self._lease: Lease | None = None
        self._seats: dict[int, Seat] = {}
        self._stewards: dict[int, Steward] = {}
        self._opened: dict[int, trio.Event] = {}
        self._lines: dict[int, set[Line]] = {}
        self._applied: dict[int, Callable[[], int]] = {}
        self._mending: dict[tuple[int, int], trio.Event] = {}
        self._scrubs: dict[int, Scrub] = {}
        self._sessions = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._encoded: tuple[int, bytes] = (-1, b"")

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Started when the node is seen by others.

        Raises:
            OSError: it cannot listen there.
            Unavailable: the authority could not be read at first.
        """
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            listener = await self._transport.listen(nursery, self._address)
            self.addresses = self._advertise or (listener.address,)
            self._presence = msgspec.structs.replace(self._presence, addresses=self.addresses)
            async with self.authority.hold(self._presence, self._lease_s) as lease:
                self._lease = lease
                nursery.start_soon(self._accept, nursery, listener)
                nursery.start_soon(self.links.run)
                nursery.start_soon(self._resend)
                nursery.start_soon(self._watch_room)
                nursery.start_soon(self._tell_stranded)
                task_status.started()
                await self._hold_seats(nursery)

    async def _accept(self, nursery: trio.Nursery, listener: Any) -> None:
        while True:
            connection = await listener.accept()
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        """One connection, dialled or accepted, to its end."""
        is_node = connection.peer.role.value == "node"
        link = self.links.get(connection.peer.name) if is_node else None
        self._sessions += 1
        try:
            async with trio.open_nursery() as nursery:
                if link is not None:
                    link.attach(connection)
                    nursery.start_soon(self._drain, link, connection)
                    self._forward_all()
                await Session(self, connection).run()
                nursery.cancel_scope.cancel()
        finally:
            self._sessions -= 1
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
        place, sessions = START, dict[int, int]()
        if self.faces is not None:
            place, sessions = await trio.to_thread.run_sync(self.faces.prepare, shard)
        seat = Seat(
            ground,
            shard,
            self._disk_of(shard),
            Options(durable=pool.durability == "disk", replicas_min=pool.replicas_min),
            place,
            lambda: self._applied[shard]() if shard in self._applied else 0,
            lambda client: sessions.get(client, 0),
        )
        self._seats[shard] = seat
        try:
            member = await seat.open(epoch_of(view.epochs.get(shard)), makes=makes)
        except (OSError, Unusable, Corruption) as error:
            _log.critical("shard %d cannot be opened: %s", shard, error)
            return  # Tried again when this node starts again.
        self.members[shard] = member
        member.followers.add(lambda: self._publish(shard))
        member.on_epoch.add(lambda: self._epoch_changed(shard))
        nursery.start_soon(self._run_seat, seat, member)
        if self.faces is not None:
            nursery.start_soon(self._attach_face, self.faces, shard)
        self._opened.setdefault(shard, trio.Event()).set()

    async def _attach_face(self, faces: Faces, shard: int) -> None:
        line = self.line(shard)
        try:
            face = await trio.to_thread.run_sync(faces.attach, line)
        except (OSError, Corruption) as error:
            _log.critical("shard %d: no index can be made: %s", shard, error)
            return
        self._applied[shard] = lambda: face.applied_index

    async def _run_seat(self, seat: Seat, member: Member) -> None:
        steward = Steward(
            self.name, seat.shard, self.authority, self._reconfigurer, self._steady_ns
        )
        self._stewards[seat.shard] = steward
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steward.run, member)
            nursery.start_soon(self._scrub, seat, member)
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
            if member.replica.role is Role.LEADER:
                if not await trio.to_thread.run_sync(_is_blank, member):
                    return
                member.propose(client, [(1, root, ())], 0, None)
            await trio.sleep(RESEND_S / 10)  # noqa: TID251  # Once in a shard's life.

    async def _tell_stranded(self) -> None:
        """Let the others know which logs here may have lost something, once that has stood for a while."""
        before = self._presence.stranded
        while True:
            await trio.sleep(RESEND_S)  # noqa: TID251  # A new member is out of sync for a moment, too.
            found = stranded(self.name, list(self.members.values()))
            if found == before and found != self._presence.stranded and self._lease is not None:
                self._presence = msgspec.structs.replace(self._presence, stranded=found)
                try:
                    await self._lease.change_presence(self._presence)
                except Unavailable as error:
                    _log.warning("cannot say what is stranded here: %s", error)
            before = found

    async def _watch_room(self) -> None:
        while True:
            is_full = not await trio.to_thread.run_sync(self._has_room)
            for member in self.members.values():
                if member.is_full != is_full:
                    _log.warning("the disk is %s", "full" if is_full else "no longer full")
                member.is_full = is_full
            await trio.sleep(RESEND_S)  # noqa: TID251  # A disk fills while others use it, too.

    # --- faces here -------------------------------------------------------------------------------------------

    def line(self, shard: int) -> Line:
        """A face's sequencer over the replica of a shard that is here (`wait_seat`); another thread may use it."""
        member = self.members[shard]
        token = trio.lowlevel.current_trio_token()

        def kick(line: Line) -> None:
            token.run_sync_soon(self._forward, line)

        def mend(address: int) -> None:
            trio.from_thread.run(self.mend, member, address, trio_token=token)

        line = Line(member, self._random.getrandbits(63) | 1, kick, mend)
        self._lines.setdefault(shard, set()).add(line)
        self._publish(shard)
        return line

    def lines(self) -> list[Line]:
        """Of all faces here."""
        return [line for lines in self._lines.values() for line in lines]

    def drop_line(self, line: Line) -> None:
        """A face ended."""
        line.close()
        self._lines.get(line.shard, set()).discard(line)

    def _publish(self, shard: int) -> None:
        member = self.members[shard]
        frontier = member.frontier
        at = (frontier.timestamp_us, frontier.index) if frontier is not None else (0, 0)
        for line in self._lines.get(shard, ()):
            line.publish(member.committed, at)

    def _epoch_changed(self, shard: int) -> None:
        for line in self._lines.get(shard, ()):
            line.sent = 0
            self._forward(line)

    def _forward_all(self) -> None:
        for lines in self._lines.values():
            for line in lines:
                line.sent = 0
                self._forward(line)

    def _forward(self, line: Line) -> None:
        """Hand a face's new proposals to the leader."""
        unsent = line.unsent()
        member = self.members[line.shard]
        leader = member.epoch_message().leader
        if not unsent or not leader:
            return
        line.sent = unsent[-1].number
        if leader == self.name:
            member.propose(
                line.client,
                [(it.number, it.metadata, it.payload) for it in unsent],
                max(it.after for it in unsent),
                self.told,
            )
            return
        for first in range(0, len(unsent), wire.PROPOSALS_MAX):
            batch = unsent[first : first + wire.PROPOSALS_MAX]
            sizes = [sum(map(len, it.payload)) for it in batch]
            proposals = [
                (it.number, size, it.metadata) for it, size in zip(batch, sizes, strict=True)
            ]
            parts = [b"".join(it.payload) for it, size in zip(batch, sizes, strict=True) if size]
            message = wire.Propose(
                line.shard, line.client, proposals, max(it.after for it in batch)
            )
            buffers = wire.encode(message, parts)
            self.links.post(leader, buffers, sum(map(len, buffers)))

    async def _resend(self) -> None:
        while True:
            await trio.sleep(RESEND_S)  # noqa: TID251  # What was dropped anywhere comes again by this.
            for lines in self._lines.values():
                for line in lines:
                    first = next(iter(list(line.outstanding)), 0)
                    if first and first == line.stuck:
                        line.sent = 0
                        self._forward(line)
                    line.stuck = first

    def told(self, message: wire.Message) -> None:
        """What a leader says to a proposer here."""
        match message:
            case wire.Rejected(shard=shard, client=client):
                for line in self._lines.get(shard, ()):
                    if line.client == client:
                        line.reject(message)
            case wire.Expecting(shard=shard, client=client):
                for line in self._lines.get(shard, ()):
                    if line.client == client and line.sent:
                        line.sent = 0
                        trio.lowlevel.current_trio_token().run_sync_soon(self._forward, line)
            case _:
                pass  # An epoch: the authority says so, too.

    # --- damage -----------------------------------------------------------------------------------------------

    async def mend(self, member: Member, address: int) -> None:
        """Put back a record that is damaged here, as another node has it.

        Raises:
            Corruption: nobody has it whole.
        """
        key = (member.shard, address)
        under_way = self._mending.get(key)
        if under_way is not None:
            await under_way.wait()
            return
        self._mending[key] = trio.Event()
        try:
            await self._mend(member, address)
        finally:
            self._mending.pop(key).set()

    async def _mend(self, member: Member, address: int) -> None:
        seat = self._seats[member.shard]
        seat.damaged += 1
        said = "no other node has it"
        epoch = self.authority.view.epochs.get(member.shard)
        for name in epoch.members if epoch is not None else ():
            if name == self.name:
                continue
            try:
                answer, parts = await self.links.get(name).ask(
                    lambda request: wire.ReadFrame(request, member.shard, address)
                )
                if answer.errno == errno.ENODATA:
                    member.log.left_out.add(address)  # Nobody will ask for it: no damage.
                    return
                if answer.errno or not parts or len(parts[0]) < HEAD_BYTES:
                    said = f"{name}: {answer.why}"
                    continue
                raw = bytes(parts[0])
                await trio.to_thread.run_sync(member.log.put_back, address, raw)
            except (Unreachable, Corruption, OSError) as error:
                said = f"{name}: {error}"
                continue
            seat.mended += 1
            _log.warning(
                "shard %d: the record at %d was damaged and is put back from %s",
                member.shard,
                address,
                name,
            )
            return
        raise Corruption(f"shard {member.shard}: the record at {address} is damaged; {said}")

    async def _scrub(self, seat: Seat, member: Member) -> None:
        if not self._scrub_bytes_per_s:
            return
        said: set[int] = set()
        while True:
            scrub = self._scrubs[seat.shard] = Scrub(member.log)
            log = member.log
            more = True
            while more and log is member.log:
                await trio.sleep(1.0)  # noqa: TID251  # So that it takes no more than its share of the disk.
                if member.failure is not None:
                    continue
                more = await trio.to_thread.run_sync(
                    scrub.step, self._scrub_bytes_per_s, SCRUB_RECORDS_MAX
                )
                await self._mend_found(member, scrub, said)
            if log is member.log:
                await trio.sleep(self._scrub_rest_s)  # noqa: TID251  # Once a day.

    async def _mend_found(self, member: Member, scrub: Scrub, said: set[int]) -> None:
        found, scrub.addresses = scrub.addresses, []
        for address in found:
            if not member.is_committed(address):
                continue
            try:
                await self.mend(member, address)
            except Corruption as error:
                if address not in said:
                    said.add(address)
                    _log.error("scrub: %s", error)

    # --- what is told -----------------------------------------------------------------------------------------

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

    async def status_json(self) -> bytes:
        """Figures for people and programs."""
        view = self.authority.view
        return msgspec.json.encode(
            {
                "node": self.name,
                "addresses": list(self.addresses),
                "authority": self.authority.standing.name.lower(),
                "revision": view.revision,
                "lease_ms": max(0, ((self._lease_until_ns() or 0) - self._steady_ns()) // 10**6)
                if self._lease is not None
                else 0,
                "connected": self.links.connected(),
                "sessions": self._sessions,
                "shards": [
                    {
                        **member.status(),
                        "membership": self._stewards[shard].why if shard in self._stewards else "",
                        "mended": self._seats[shard].mended,
                        "damaged": self._seats[shard].damaged,
                        "scrub": self._scrubs[shard].status() if shard in self._scrubs else None,
                    }
                    for shard, member in sorted(self.members.items())
                ],
                "faces": self.faces.status() if self.faces is not None else None,
                **self.extra_status(),
            }
        )


def _is_blank(member: Member) -> bool:
    """Whether a log holds nothing but the beginnings of epochs."""
    return all(frame.kind == EPOCH_KIND for frame in member.log.frames())


def encode_view(view: View) -> bytes:
    """A view as msgpack, its mappings as maps."""
    fields = {name: getattr(view, name) for name in view.__struct_fields__}
    plain = {k: dict(v) if hasattr(v, "items") else v for k, v in fields.items()}
    return msgspec.msgpack.encode(plain)
