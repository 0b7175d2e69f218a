"""One replica of one shard on this node: joins the pure core (`storage.replication`) with log, note, peers and followers.

Theory of operation. Whatever happens (a message, a proposal, a sync that ended, a tick) is told to the core, and then
`pump` does what the core has ready, in its order: cut, append, begin a sync, send, publish. All of that is plain calls in
the network's thread, so a message costs no switch of tasks. What may take its time runs on worker threads and
is told when it is done: syncs, one at a time, so that what gathers meanwhile shares the next (group commit); the note; and
reading old frames for somebody who lags.

Frames stand at the same address in every member's log: the driver sends along where the leader's stand
(`wire.Place`), and an adopted frame that would not be the same to the byte is refused.

An error of the disk ends the replica's part in the epoch (`Replica.fail`); `reopen` begins again on the log as it is found.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec
import trio

from storage import wire
from storage.errors import Corruption
from storage.log import Frame as LogFrame
from storage.log import Log
from storage.member.filling import Filling
from storage.member.memory import MemoryLog
from storage.member.proposals import Proposals
from storage.member.syncing import Syncing
from storage.member.tail import Tail, sequenced
from storage.replication import (
    RECORD_KIND,
    Append,
    Ask,
    Epoch,
    Frame,
    Frontier,
    Holdings,
    Note,
    Replica,
    Role,
    Wanted,
    split,
)
from storage.sequencer import ENVELOPED, open_envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.clock import Clock
    from storage.codec import Buffer
    from storage.member.note import Notes
    from storage.member.proposals import Answers
    from storage.replication import Message, Options
    from storage.snapshot import Snapshot

    MemberLog: TypeAlias = Log | MemoryLog

__all__ = ["Member", "Post", "requests_behind"]

TICK_S: Final = 0.025

LEAVE_OUT_S: Final = 1.0

TRIM_TICKS: Final = 10
"""Heads of a volatile log are let go of every so many ticks."""

HEADS_KEPT: Final = 4096
"""The newest heads of a volatile log, for mounts and members that are a little behind."""

HELD_NS: Final = 30 * 10**9
"""How long after somebody was given a part of a volatile log, or a snapshot, what follows is kept for it."""

SYNC_TICKS: Final = 40
"""A log goes to the disk every so many ticks even if nobody waits for it."""

REQUESTS_MAX: Final = 65_536
"""Records at the end of the log whose clients are all told to the core; more than any cut takes away."""

Requests: TypeAlias = tuple[tuple[int, int, int], ...]

PLACES_MAX: Final = 65_536
"""Frames whose places are remembered to be sent; of others the log is asked."""

_log = logging.getLogger("cascadefs.member")

assert RECORD_KIND == ENVELOPED


class Post(Protocol):
    """The way to the other members."""

    def __call__(
        self, node: str, message: Sequence[Buffer], size_bytes: int, *, bulk: bool = False
    ) -> None:
        """Send (`bulk`: as `storage.transport.Connection`), or drop if there is no connection or too much waits for it. Never waits."""
        ...


class Member:
    """See the module. All calls in the thread of the network's loop unless they say otherwise."""

    def __init__(
        self,
        shard: int,
        node: str,
        log: MemberLog,
        notes: Notes,
        epoch: Epoch | None,
        clock: Clock,
        steady_ns: Callable[[], int],
        post: Post,
        *,
        options: Options,
        note: Note | None = None,
        applied: int = 0,
        requests: Requests | None = None,
        last_number: Callable[[int], int] = lambda client: 0,
    ) -> None:
        """A replica on its log.

        Args:
            shard: its number.
            node: this node's name.
            log: opened; the member's from now on, and closed with it.
            notes: beside it.
            epoch: the newest the authority has, read just now.
            clock: the wall clock.
            steady_ns: the monotonic clock.
            post: the way to other members.
            options: of the core.
            note: what to begin with instead of what the file says.
            applied: the last record any face here has applied: it surely was committed.
            requests: what `requests_behind` says of it, if that was asked already.
            last_number: the last number of a client that the face here has applied; asked for clients not met yet.
        """
        self.shard = shard
        self.node = node
        self.log = log
        self.tail = Tail()
        self.committed = 0
        self.frontier = Frontier(0, 0)
        self.followers: set[Callable[[], None]] = set()
        """Called when something was committed, or the frontier moved."""
        self.on_epoch: set[Callable[[], None]] = set()
        """Called when who leads may have changed."""
        self.proposals = Proposals(shard, node, self.epoch_message)
        self.failure: str | None = None
        """Why the log takes nothing more."""
        self.lease_until_ns: Callable[[], int | None] = lambda: None
        """Until when the authority surely keeps this node's lease; asked at every tick."""
        self.installed: Snapshot | None = None
        """Of a volatile shard: what its log began with, until the face here has it."""
        self.applied: Callable[[], int] = lambda: 0
        """The last record that the face here has applied; what is behind it is not trimmed."""
        self.behind = trio.Event()
        """Of a volatile shard: its leader has let go of what is missing here."""
        self.counts = {"appended": 0, "cut": 0, "sent": 0, "received": 0, "syncs": 0, "filled": 0}
        self._notes = notes
        self._clock = clock
        self._steady_ns = steady_ns
        self._post = post
        self._last_number = last_number
        self._settled: dict[int, int] = {}
        self._options = options
        self._arrived: dict[tuple[int, int], wire.Place] = {}
        self._places: dict[int, wire.Place] = {}
        self._filling = Filling()
        self._committed_address = 0
        self._cuts = 0
        self.rewriting = trio.Lock()
        """Held by whoever writes a sealed segment again, puts back a record, or exchanges the log: one at a time."""
        self._failed = trio.Event()
        self._sync_wanted = False
        self._syncing: Syncing | None = None
        self._note_wanted = trio.Event()
        self._note: Note | None = None
        self._wanted: deque[Wanted] = deque()
        self._wanted_news = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self.replica = self._new_replica(epoch, note, applied, requests)

    def _new_replica(
        self, epoch: Epoch | None, note: Note | None, applied: int, requests: Requests | None = None
    ) -> Replica:
        log = self.log
        holdings = Holdings(
            last_index=log.last_index,
            last_timestamp=log.last_timestamp,
            durable_index=log.durable_index,
            commit_index=min(applied, log.last_index),
            lineage=tuple((number, first) for first, number in log.epochs()),
            requests=requests_behind(log, applied) if requests is None else requests,
            note=note or self._trusted_note(),
        )
        return Replica(
            self.node,
            holdings,
            epoch,
            self._steady_ns(),
            self._clock.now_ns(),
            options=self._options,
            last_number=self._last_settled,
        )

    def _last_settled(self, client: int) -> int:
        return self._settled.get(client) or self._last_number(client)

    def _trusted_note(self) -> Note:
        """The note as kept, less what a power cut, a disk or an operator has made untrue."""
        found = self._notes.found
        if found is None:
            return Note(0, False)
        lost = self.log.recovery.durable_lost > 0 or self.log.recovery.broken
        if lost or (not self._options.durable and not self._notes.is_of_this_boot):
            return Note(found.bound_us, False)
        return found

    # --- life -------------------------------------------------------------------------------------------------

    def replace(
        self,
        log: MemoryLog,
        notes: Notes,
        epoch: Epoch | None,
        snapshot: Snapshot,
        last_number: Callable[[int], int],
    ) -> None:
        """Begin again on a volatile log that has nothing of the one before; as `reopen`, which is for the same log.

        Args:
            log: behind the snapshot.
            notes: beside it.
            epoch: to begin in; never led.
            snapshot: what it stands for, which the face here begins anew with.
            last_number: as of a new `Member`.
        """
        self.installed = snapshot._replace(payloads=[])
        self._last_number = last_number
        self.reopen(log, notes, epoch, log.base_index, (), is_same=False)

    def reopen(
        self,
        log: MemberLog,
        notes: Notes,
        epoch: Epoch | None,
        applied: int,
        requests: Requests,
        *,
        is_same: bool = True,
    ) -> None:
        """Begin again on a log opened anew, after `close`; followers stay. Not while `run` runs."""
        self.log, self._notes = log, notes
        self.failure = None
        self._failed = trio.Event()
        self._cuts += 1
        self.tail.drop_after(0)
        for kept in (self._arrived, self._places, self._wanted, self.proposals):
            kept.clear()
        self._filling = Filling()
        self.committed = self._committed_address = 0
        # What the face knew was asked for at the start, and `requests` tells only of what it has not applied by now.
        if is_same:
            self._settled.update(self.replica.settled_numbers())
        else:
            self._settled.clear()
        self.replica = self._new_replica(epoch, None, applied, requests)

    def is_committed(self, address: int) -> bool:
        """Whether an address lies in what is committed; whatever a peer asks for is checked so."""
        if address <= self._committed_address:
            return True
        # Right after a start it is not known where that ends, but for a log that is committed to its end.
        return self.committed >= self.log.last_index and address <= self.log.last_address

    async def run(self) -> None:
        """Serve until cancelled. The log is closed by `close`."""
        self._syncing = Syncing(f"sync shard {self.shard}")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick)
                nursery.start_soon(self._keep_notes)
                nursery.start_soon(self._read_for_others)
                nursery.start_soon(self._leave_out)
                if self._sync_wanted:
                    self._sync()
                self.pump()
        finally:
            syncing, self._syncing = self._syncing, None
            await syncing.aclose()

    async def _tick(self) -> None:
        ticks = 0
        while True:
            ticks += 1
            is_behind = self.log.durable_index < self.log.last_index
            if ticks % SYNC_TICKS == 0 and is_behind and not self._is_syncing():
                self._sync()  # In memory durability nobody else asks for it.
            self.replica.lease_until_ns = self.lease_until_ns()
            self.replica.tick(self._steady_ns(), self._clock.now_ns())
            self._offer()
            self.pump()
            if ticks % TRIM_TICKS == 0 and isinstance(self.log, MemoryLog):
                self._trim(self.log)
            await trio.sleep(TICK_S)  # noqa: TID251  # The core wants to know the time now and then.

    def _trim(self, log: MemoryLog) -> None:
        """Let go of old heads of a volatile log: what is committed, all members have."""
        applied = self.applied()
        if applied >= log.base_index:
            self.installed = None
        if self._steady_ns() >= log.held_until_ns:
            log.trim(min(self.committed, applied, log.last_index - HEADS_KEPT))

    def _sync(self) -> None:
        """Have what is appended on the disk. What is wanted while a sync runs shares the next one."""
        syncing = self._syncing
        self._sync_wanted = syncing is None or syncing.is_busy
        if syncing is not None and not syncing.is_busy and self.failure is None:
            syncing.begin(self.log.sync, partial(self._synced, self.log, self._cuts))

    def _is_syncing(self) -> bool:
        return self._syncing is not None and self._syncing.is_busy

    def _synced(self, log: MemberLog, cuts: int, durable: int | OSError) -> None:
        """A sync of a log ended that began so many cuts ago."""
        if isinstance(durable, OSError):
            self.fail(f"a sync failed: {durable}")
        else:
            self.counts["syncs"] += 1
            if self._failed.is_set():
                return  # Meanwhile.
            if cuts == self._cuts and log is self.log:
                self.replica.persisted(durable)
            else:
                self._sync_wanted = True
        self.pump()
        if self._sync_wanted:
            self._sync()

    async def _keep_notes(self) -> None:
        while True:
            await self._note_wanted.wait()
            self._note_wanted = trio.Event()
            note = self._note
            assert note is not None
            try:
                await trio.to_thread.run_sync(
                    partial(self._notes.keep, note, durable=self._options.durable)
                )
            except OSError as error:
                self.fail(f"the note could not be kept: {error}")
            else:
                self.replica.kept(note)
            self.pump()

    async def _read_for_others(self) -> None:
        while True:
            while not self._wanted:
                await self._wanted_news.wait()
                self._wanted_news = trio.Event()
            wanted = self._wanted.popleft()
            log, cuts = self.log, self._cuts
            if isinstance(log, MemoryLog):
                log.held_until_ns = self._steady_ns() + HELD_NS
                if wanted.first_index <= log.base_index:
                    self._tell_behind(wanted.member, log.base_index)
                    self.replica.supply(wanted.member, ())
                    continue
            try:
                found = await trio.to_thread.run_sync(self._filling.read, log, wanted)
            except (OSError, Corruption) as error:
                _log.warning("shard %d: cannot read for %s: %s", self.shard, wanted.member, error)
                found = []
            if cuts != self._cuts or log is not self.log:
                found = []
            for frame, place in found:
                self._note_place(frame.index, place)
            self.counts["filled"] += len(found)
            self.replica.supply(wanted.member, [frame for frame, _ in found])
            self.pump()

    def _tell_behind(self, node: str, base: int) -> None:
        epoch = self.replica.epoch
        message = wire.encode(wire.Behind(self.shard, epoch.number if epoch else 0, base))
        self._post(node, message, sum(map(len, message)))

    async def _leave_out(self) -> None:
        """Condense segments that were filled from condensed ones: their missing payloads are no damage from then on."""
        while True:
            await trio.sleep(LEAVE_OUT_S)  # noqa: TID251  # Nothing waits for it.
            for number in {address // self.log.segment_bytes for address in self.log.left_out}:
                try:
                    async with self.rewriting:
                        log = self.log
                        assert isinstance(log, Log), "in memory nothing is written again"
                        # What is committed is never cut, so nothing changes this segment meanwhile.
                        is_settled = self.is_committed((number + 1) * log.segment_bytes)
                        if self.failure is not None or not is_settled or number not in log.sealed():
                            continue
                        await trio.to_thread.run_sync(log.condense, number, frozenset[int](), 1)
                except OSError as error:
                    _log.warning("shard %d: segment %d stays long: %s", self.shard, number, error)

    def close(self) -> None:
        """Close log and note. Harmless when repeated."""
        self._notes.close()
        self.log.close()

    # --- what comes in ----------------------------------------------------------------------------------------

    def step(self, sender: str, message: Message, places: Sequence[wire.Place]) -> None:
        """A message of the core came from a member; `pump` is for the caller, once for all that came together."""
        self.counts["received"] += 1
        if isinstance(message, Append):
            last = self.log.last_index
            for frame, place in zip(message.frames, places, strict=False):
                if frame.index > last - PLACES_MAX:
                    self._arrived[frame.index, frame.epoch] = place
        self.replica.step(self._steady_ns(), sender, message)

    def adopt(self, epoch: Epoch) -> None:
        """The authority has an epoch of this shard, perhaps known already."""
        before = self.replica.epoch
        self.replica.adopt(self._steady_ns(), epoch)
        self.pump()
        if before is None or before.number != epoch.number:
            for told in list(self.on_epoch):
                told()

    def teach(self, learners: Sequence[str]) -> None:
        """As the leader, fill these nodes' logs."""
        self.replica.teach(self._steady_ns(), learners)
        self.pump()

    def propose(
        self,
        client: int,
        proposals: Sequence[tuple[int, bytes, Sequence[Buffer]]],
        after: int,
        answer: Answers | None,
    ) -> None:
        """Have records of a client appended, in order: (number, metadata, payload). What became of them comes by.

        `pump` is for the caller, once for all that came together.

        Args:
            client: whose they are.
            proposals: numbers ascending.
            after: the greatest timestamp the client has seen.
            answer: gets what a proposer has to know (`wire.Epoch`, `Expecting`, `Rejected`).
        """
        self.proposals.add(client, proposals, after, answer)
        self._offer()

    def _offer(self) -> None:
        self.proposals.offer(self.replica, self._steady_ns())

    def certain_index(self) -> int | None:
        """What everything that was committed so far, by anybody, is at or below; None if that is not known here."""
        self.replica.lease_until_ns = self.lease_until_ns()
        first = self.replica.leads_from(self._steady_ns())
        return self.committed if first is not None and self.committed >= first else None

    def ask_frontier(self, timestamp: int) -> None:
        """Have the frontier come to a timestamp soon. Any thread."""
        self._token.run_sync_soon(self._ask, timestamp)

    def _ask(self, timestamp: int) -> None:
        self.replica.ask(self._steady_ns(), timestamp)
        self.pump()

    def greet(self, node: str) -> None:
        """Say to a node which epoch this is: where it is in a newer one it answers so, and where in an older it asks the authority.

        For whoever serves in an epoch that others have left, and whom none of them writes to.
        """
        epoch = self.replica.epoch
        if epoch is not None:
            self._send(node, Ask(epoch.number, 0))

    # --- what goes out ----------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Do all that the core has ready."""
        replica = self.replica
        while (ready := replica.ready()) is not None:
            if ready.note is not None:
                self._note = ready.note
                self._note_wanted.set()
            try:
                if ready.cut is not None:
                    self._cut(ready.cut)
                for frame in ready.append:
                    self._append(frame)
            except (OSError, Corruption) as error:
                self.fail(str(error))
                continue
            if ready.append:
                self._forget_arrived()
                replica.appended(self.log.last_index)
            if ready.sync:
                self._sync()
            for node, message in ready.send:
                try:
                    self._send(node, message)
                except (OSError, Corruption) as error:  # As if it were lost on the way.
                    _log.warning("shard %d: nothing to send %s: %s", self.shard, node, error)
            if ready.wanted:
                self._wanted.extend(ready.wanted)
                self._wanted_news.set()
            self._publish(ready.commit_index, ready.frontier)

    def fail(self, why: str) -> None:
        """The log, or what stands beside it, takes nothing more."""
        if self.failure is None:
            _log.error("shard %d: this replica is broken: %s", self.shard, why)
        self.failure = why
        self._failed.set()
        self.replica.fail(why)

    def fail_soon(self, why: str) -> None:
        """As `fail`. Any thread."""
        self._token.run_sync_soon(self.fail, why)

    async def wait_failure(self) -> None:
        """Until the replica is broken."""
        await self._failed.wait()

    def _cut(self, index: int) -> None:
        self._cuts += 1
        self.counts["cut"] += self.log.last_index - index
        self.log.truncate_after(index)
        self.tail.drop_after(index)
        for behind in [i for i in self._places if i > index]:
            del self._places[behind]
        self._filling.clear()

    def _append(self, frame: Frame) -> None:
        log = self.log
        place = self._arrived.get((frame.index, frame.epoch))
        if place is not None:
            self._adopt(frame, place)
        elif self.replica.role is not Role.LEADER:
            raise Corruption(f"shard {self.shard}: record {frame.index} came without its place")
        else:
            assert frame.index == log.last_index + 1
            log.epoch = frame.epoch
            log.append(frame.kind, frame.timestamp, frame.metadata, frame.payload)
            place = wire.Place(log.last_address, log.last_checksum)
        self.counts["appended"] += 1
        self._note_place(frame.index, place)
        self.tail.add(
            sequenced(
                frame.kind,
                frame.index,
                frame.timestamp,
                place.address,
                place.checksum,
                frame.metadata,
            )
        )

    def _forget_arrived(self) -> None:
        last = self.log.last_index
        for key in [key for key in self._arrived if key[0] <= last]:
            del self._arrived[key]
        if len(self._arrived) > PLACES_MAX:
            self._arrived.clear()  # They come again.

    def _adopt(self, frame: Frame, place: wire.Place) -> None:
        length = place.left_out_bytes or sum(map(len, frame.payload))
        self.log.adopt(
            LogFrame(
                frame.kind,
                frame.epoch,
                frame.index,
                frame.timestamp,
                frame.metadata,
                length,
                place.address,
                place.left_out_checksum,
                place.checksum,
            ),
            None if place.left_out_bytes else frame.payload,
        )

    def _note_place(self, index: int, place: wire.Place) -> None:
        self._places[index] = place
        if len(self._places) > PLACES_MAX:
            del self._places[next(iter(self._places))]

    def _place_of(self, frame: Frame) -> wire.Place:
        place = self._places.get(frame.index)
        if place is None:
            found = next(self.log.frames(index=frame.index))
            place = wire.Place(found.address, found.checksum)
        return place

    def _send(self, node: str, message: Message) -> None:
        head, parts = split(message)
        frames = message.frames if isinstance(message, Append) else ()
        places = [self._place_of(frame) for frame in frames]
        buffers = wire.encode(wire.Peer(self.shard, msgspec.Raw(head), places), parts)
        self.counts["sent"] += 1
        # What is committed already is for somebody who lags: no put waits for that.
        fills = bool(frames) and frames[-1].index <= self.committed
        self._post(node, buffers, sum(map(len, buffers)), bulk=fills)

    def _publish(self, committed: int, frontier: Frontier) -> None:
        # A replica that began anew may know an older frontier; what was promised stands.
        frontier = max(frontier, self.frontier)
        if committed == self.committed and frontier == self.frontier:
            return
        moved = committed > self.committed
        self.committed, self.frontier = committed, frontier
        record = self.tail.get(committed)
        if record is not None:
            self._committed_address = record.address
        for told in list(self.followers):
            told()
        if moved and self.proposals:
            self._token.run_sync_soon(self._retry)

    def _retry(self) -> None:
        self._offer()
        self.pump()

    # --- what is known ----------------------------------------------------------------------------------------

    def epoch_message(self) -> wire.Epoch:
        """Who leads, as far as is known here."""
        epoch = self.replica.epoch
        if epoch is None:
            return wire.Epoch(self.shard, 0, "", [])
        return wire.Epoch(self.shard, epoch.number, epoch.leader, list(epoch.members))

    def _frontier_lag_ms(self) -> int | None:
        """How far behind the wall clock the past is final here; None before that is known."""
        if not self.frontier.timestamp_us:
            return None
        return max(0, self._clock.now_ns() // 10**6 - self.frontier.timestamp_us // 1000)

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        replica, log = self.replica, self.log
        epoch = replica.epoch
        return {
            "shard": self.shard,
            "role": replica.role.name.lower(),
            "epoch": epoch.number if epoch else 0,
            "leader": epoch.leader if epoch else None,
            "members": list(epoch.members) if epoch else [],
            "in_sync": replica.in_sync,
            "last_index": log.last_index,
            "committed": self.committed,
            "durable": log.durable_index,
            "frontier_us": self.frontier.timestamp_us,
            "frontier_lag_ms": self._frontier_lag_ms(),
            "log_bytes": log.taken_bytes,
            "volatile": isinstance(log, MemoryLog),
            "syncs": log.syncs,
            "waiting": len(self.proposals),
            "failure": self.failure or replica.trouble,
            **self.counts,
        }


def requests_behind(log: MemberLog, index: int) -> Requests:
    """(index, client, number) of the clients' records behind one, in order; of very many the older ones once a client.

    Reads all heads there: for a worker thread, if there may be many.
    """
    found: list[tuple[int, int, int]] = []
    for frame in log.frames(index=min(index, log.last_index) + 1):
        if frame.kind == ENVELOPED:
            client, number, _ = open_envelope(frame.kind, frame.metadata)
            found.append((frame.index, client, number))
            if len(found) >= 2 * REQUESTS_MAX:
                older = {it[1]: it for it in found[:REQUESTS_MAX]}
                found[:REQUESTS_MAX] = sorted(older.values())
    return tuple(found)
