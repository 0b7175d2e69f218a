"""A shard whose records are ordered elsewhere: its face in this process.

Theory of operation. A proposal is handed to the sequencer; then what comes by in the committed stream is applied, others'
records too, until one's own was. So the outcome is computed here, and nobody has to send it. *Whoever holds the shard applies*: a proposer
while it waits, and whoever calls `catch_up` when nobody proposes. After a failure of the table the sequencer is followed
again from the place the table was published with.

What a proposer looked at may have changed before its record is ordered; records are total, so that is a refusal. Where
bytes are written again that were read before (`Shard.commit`, neighbours of overlong chunks), `Still` makes it one.

The log is the node's own, appended to by whoever replicates it, or a `DistantLog`.

A pause of the cluster is only a pause here: a proposer waits, and the shard's holder with it, unless it lets go of the shard
meanwhile (`turns`). `Unavailable` ends the wait, when
whoever made the sequencer closes it. The proposal may take effect all the same.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from storage import extents, record
from storage.clock import HybridClock
from storage.errors import Corruption, NotHere, Reason
from storage.limits import INODES_PER_SHARD, PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX
from storage.namespace import DONE, REFUSED, Counters, Outcome
from storage.namespace.keys import first_inode
from storage.sequencer import (
    SUBMITTED_BYTES_MAX,
    SUBMITTED_MAX,
    Astray,
    Place,
    Rejected,
    Sequenced,
    Unavailable,
)
from storage.shard import PUBLISH_RECORDS_MAX, Position, Shard
from storage.snapshot import LIFE_INDICES, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.attributes import Attributes
    from storage.clock import Clock
    from storage.cluster.turns import Turns
    from storage.distant import DistantLog
    from storage.extents import DirtyMap
    from storage.log import Log
    from storage.member import MemoryLog
    from storage.sequencer import Sequencer
    from storage.table import MemoryTable, Table

__all__ = ["RESERVED_INODES", "Face"]

TAKE_SECONDS: Final = 60.0
"""How long one look at the stream waits; whoever waits looks again. Only bounds how long a thread sits in one call."""

REPLAY_SECONDS: Final = 60.0
"""How long the stream may rest while records that were applied before are applied again."""

STAGED_BYTES: Final = PAYLOAD_BYTES_MAX + 1024
"""A piece of a staged write, with its record, is not longer."""

RESERVED_INODES: Final = 256
"""Inode numbers asked for at once: one record for so many new files; what is left at the end of a process is lost."""

LIFE_INODES: Final = 2**28
"""Inode numbers that a life of a volatile shard has before those of the next."""


def first_inode_of(shard: int, index: int) -> int:
    """The least inode number that a volatile shard gives out in the life that began with an index.

    Never one of the life before: who has that open must not find another file.
    """
    lives = INODES_PER_SHARD // LIFE_INODES - 1024  # The last may be long.
    return first_inode(shard) + index // LIFE_INDICES % lives * LIFE_INODES


PARTS_OF_A_PUT: Final = 4
"""Of its record. One of many puts is as much for a start to apply again as the records of each would be."""

NOTHING: Final = record.encode(record.Reserve(0))


class _Seen(NamedTuple):
    """What became of a proposal of this face."""

    address: int
    outcome: Outcome
    next_inode: int


class Face(Shard):
    """See the module. `recover` must be called once before anything else."""

    def __init__(
        self,
        sequencer: Sequencer,
        log: Log | DistantLog,
        table: Table,
        clock: Clock,
        *,
        steady_ns: Callable[[], int],
        hybrid: HybridClock | None = None,
        memory: MemoryTable | None = None,
    ) -> None:
        """What has come to be seen of the shard is what `table` holds; nothing is taken before `recover`.

        Args:
            sequencer: of this face alone.
            log: where payloads are read.
            table: of this face alone; it is closed with it.
            clock: the wall clock.
            steady_ns: a clock that goes forward only, for how long somebody waits.
            hybrid: one for all faces of a store: the greatest timestamp seen on any of them.
            memory: of a volatile shard, the table once more: it keeps no past, and begins anew from a snapshot.
        """
        self._memory = memory
        super().__init__(
            sequencer.identity,
            log,
            table,
            clock,
            hybrid if hybrid is not None else HybridClock(),
            keep_past=memory is None,
            forgets=memory is not None,
            number=sequencer.shard,
        )
        self._sequencer = sequencer
        self.namespace.deliveries.keeps_provenance = sequencer.log is None
        self.abandoned_below = 0  # Drafts are others', and nobody knows which of them live.
        self.on_others: Callable[[int, record.Record], None] | None = None
        """Told (timestamp, record) of each record of another client that took effect, once. Must not raise or propose."""
        self._number = 0
        """Of the last proposal. Those who wait for one know it by this, so it goes on where the client becomes another."""
        self._number_before = 0
        """The last one of the clients before: what the sequencer calls 1 is the next."""
        self._seen: dict[int, _Seen | Rejected | None] = {}
        """Proposals that somebody waits for, by number."""
        self._begun: dict[int, Callable[[Outcome | OSError], None]] = {}
        """Proposals that nobody waits for, and who is told what becomes of them, by number."""
        self._under_way: dict[int, int] = {}
        """The bytes of each proposal that was handed over and has not come by, by number."""
        self._under_way_bytes = 0
        self.on_applied: Callable[[int, int, record.Record, Outcome], None] | None = None
        """Of a volatile shard, told (timestamp, address, record, outcome) of each record, while what it `released` can be had."""
        self.on_anew: list[Callable[[Face], None]] = []
        """Of a volatile shard, told when it has begun anew: anything in it may be something else. Must not raise or propose."""
        self._told_index = self.applied_index = self._position.index
        """The last record that was applied, and told of. May be read by any thread."""
        self.turns: Turns | None = None
        """How who waits lets go of the shard, where somebody may."""
        self._waiting = 0
        self._is_beginning = False
        """Somebody fetches the whole shard, and others have it meanwhile as it was: nothing is taken or handed over."""
        self.is_retired = False
        """Another face is asked in this one's place: who waits is told to ask again (`NotHere`)."""
        self._inodes = range(0)
        self._steady_ns = steady_ns

    def _next_inode(self, reached: int, published: int) -> int:
        """Numbers are given out by records: applying those again gives the same."""
        del reached
        return published

    @property
    def is_volatile(self) -> bool:
        """Whether the newest is all that is kept."""
        return self._memory is not None

    @property
    def is_near(self) -> bool:
        """Whether the shard has a replica in this process."""
        return self._sequencer.log is not None

    @property
    def has_proposed(self) -> bool:
        """Whether anybody waits for what becomes of a proposal. May be read by any thread."""
        return bool(self._seen or self._begun)

    @property
    def is_waiting(self) -> bool:
        """Whether a proposer is applying what comes: nobody else need. May be read by any thread."""
        return self._waiting > 0 or self._is_beginning

    # --- following -----------------------------------------------------------------------------------------------

    @property
    def applied_address(self) -> int:
        """Where the last record applied stands in the log."""
        return self._position.address

    @property
    def applied_timestamp(self) -> int:
        """Its timestamp."""
        return self._position.timestamp

    def snapshot(self, log: MemoryLog, staged: frozenset[int]) -> Snapshot:
        """A volatile shard as it is here, with the payloads that its contents or drafts refer to."""
        assert self._memory is not None
        self.publish()
        position, refers = self._position, self.namespace.refers
        return Snapshot(
            Place(position.index, position.address, position.checksum),
            position.timestamp,
            log.epochs(),
            self._memory.rows(),
            [(at, data) for at, data in log.held() if refers(at) or at in staged],
        )

    def recover(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Follow from where the table is and apply what there is at once; how many records that was.

        Never waits: what comes later is for `catch_up`.

        Raises:
            Astray: the table is not of this log.
            Corruption: a record makes no sense to this version.
        """
        self._follow()
        before = self._position.index
        while self._take_or_begin_anew():
            if self._unpublished >= self._publish_at:
                self.publish()
            if progress is not None:
                progress(self._position.index - before, self._sequencer.last_index() - before)
        return self._position.index - before

    def _take_or_begin_anew(self) -> bool:
        try:
            return self._take_and_apply(0.0)
        except Astray:
            if self._memory is None:
                raise
            self._begin_anew(self._memory)
            return True

    def _follow(self) -> None:
        position = self._position
        self._sequencer.follow(Place(position.index, position.address, position.checksum))

    def catch_up(self) -> bool:
        """Apply what has come, without waiting; whether there was anything.

        Raises:
            OSError: the index cannot be brought up to the log; tried again at the next call.
        """
        some = False
        while self._advance(0.0):
            some = True
        return some

    def _advance(self, timeout_s: float) -> bool:
        """Apply what comes within a time; False if nothing did."""
        if self._failure is not None:
            self._refuse_failed()
        if self._is_beginning:
            return False
        before = self._position.index
        try:
            some = self._take_and_apply(timeout_s)
        except Rejected as rejected:
            self._give_up(rejected)
            some = True
        except Unavailable:
            raise
        except Astray as error:
            if self._memory is None:
                raise OSError(errno.EIO, f"this is not the shard it was: {error}") from error
            self._begin_anew(self._memory)
            some = True
        except Exception as error:
            # With the record that could not be applied, if it was one: who cannot apply it now either has failed.
            self._bring_up(error, self._position.index + 1)
            some = self._position.index > before
        if self._unpublished >= self._publish_at:
            self.publish()
        return some

    def _take_and_apply(self, timeout_s: float) -> bool:
        taken = self._sequencer.take(timeout_s)
        for one in taken:
            self._apply(one)
        return bool(taken)

    def _begin_anew(self, table: MemoryTable) -> None:
        """What comes next is let go everywhere, or all of the shard was lost: go on from a snapshot.

        What was proposed here may have taken effect or not: nobody can say.

        Raises:
            Unavailable: the sequencer was closed.
        """
        snapshot = self._fetch_whole()
        shard, counters, place = self.namespace.shard, self.namespace.counters, snapshot.place
        table.load(snapshot.rows)
        if snapshot.rows:
            self._load()
        else:
            counters.restore(Counters(first_inode_of(shard, place.index)).pack())
            timestamp = snapshot.timestamp
            self._position = Position(
                self._identity, place.index, place.address, timestamp, place.checksum
            )
        self.namespace.reload()
        self._unpublished = 1
        self._failure = None
        self.publish()
        self._hybrid.observe(self._position.timestamp)
        self._inodes = range(0)
        self._number_before = self._number
        why = f"volatile shard {shard} began anew; the change may be lost"
        for number, seen in self._seen.items():
            if seen is None:
                self._seen[number] = Rejected(errno.ESTALE, why, number)
        begun, self._begun = self._begun, {}
        for done in begun.values():
            done(OSError(errno.ESTALE, why))
        self._under_way.clear()
        self._under_way_bytes = 0
        self._told_index = self.applied_index = self._position.index
        self._follow()
        for told in self.on_anew:
            told(self)

    def _fetch_whole(self) -> Snapshot:
        begin_anew, turns = self._sequencer.begin_anew, self.turns
        if turns is None or not turns.lets_go:
            return begin_anew()
        self._is_beginning = True
        try:
            return turns.apart(begin_anew)
        finally:
            self._is_beginning = False
            turns.tell()

    def _give_up(self, rejected: Rejected) -> None:
        """What was submitted from a number on is not in the log.

        No number is used for something else: what was sent of it may be on its way yet, and would pass for that. So each is
        used up by a record of nothing.
        """
        first = self._number_before + rejected.number
        for number, seen in self._seen.items():
            if number >= first and seen is None:
                self._seen[number] = rejected
        for number in [number for number in self._under_way if number >= first]:
            self._came_by(number)
        for number in [number for number in self._begun if number >= first]:
            self._begun.pop(number)(OSError(rejected.errno, rejected.strerror))
        for number in range(first, self._number + 1):
            self._sequencer.submit(number - self._number_before, NOTHING, ())

    def wait_and_apply(self, timeout_s: float) -> bool:
        """Apply what comes within a time; whether anything did. As `catch_up` otherwise."""
        return self._advance(timeout_s)

    def wait_more(self, index: int, timeout_s: float) -> None:
        """Wait until there is something behind an index, applied by now or not, or for so long; the shard need not be held."""
        self._sequencer.wait_more(index, timeout_s)

    def _pause(self, timeout_s: float) -> None:
        """Wait for something to be applied, at most so long: by us, or by whoever has the shard meanwhile."""
        turns = self.turns
        if turns is None or not turns.lets_go:
            self._advance(timeout_s)
            return
        if self._is_beginning:
            turns.doze(timeout_s)
        else:
            turns.rest(self, timeout_s)
        if self.is_retired:
            raise NotHere(self.namespace.shard)
        if self._failure is not None:
            raise OSError(errno.EIO, self._failure)

    def _apply(self, one: Sequenced) -> None:
        self._execute(one)
        self.applied_index = one.index

    def _execute(self, one: Sequenced) -> None:
        if not one.metadata:
            self._reached(one.index, one.address, one.timestamp, one.checksum)
            return
        try:
            decoded = record.decode(one.metadata)
        except msgspec.DecodeError as error:
            raise Corruption(
                f"record {one.index} of shard {self.namespace.shard} cannot be read by this version: {error}"
            ) from error
        assert one.index == self._position.index + 1, "the stream has no gaps"
        namespace = self.namespace
        accepted = namespace.sessions.accept(one.timestamp, one.client, one.number)
        outcome = DONE
        if accepted:
            outcome = namespace.apply(one.timestamp, one.address, decoded)
        self._reached(one.index, one.address, one.timestamp, one.checksum)
        if isinstance(decoded, record.Batch):
            self._unpublished += (len(decoded.records) - 1) // PARTS_OF_A_PUT
        if self._memory is not None:
            if self.on_applied is not None:
                self.on_applied(one.timestamp, one.address, decoded, outcome)
            namespace.released.clear()
        self._hybrid.observe(one.timestamp)
        if not accepted:
            return
        is_own = one.client == self._sequencer.client
        number = self._number_before + one.number
        if is_own:
            self._came_by(number)
        if is_own and self._seen.get(number, DONE) is None:
            self._seen[number] = _Seen(one.address, outcome, namespace.counters.next_inode)
        if one.index <= self._told_index:
            return
        self._told_index = one.index
        if self.listener is not None:
            self.listener(one.timestamp, one.address, decoded)
        if not is_own and outcome.reason is None and self.on_others is not None:
            self.on_others(one.timestamp, decoded)
        if is_own and number in self._begun:
            self._begun.pop(number)(outcome)

    def _start_over(self, error: Exception) -> Outcome:
        self._bring_up(error, self._position.index)
        return DONE

    def _bring_up(self, error: Exception, target: int) -> None:
        """The table failed and forgets what was not published: follow the stream again from there to an index."""
        self.index_trouble = str(error) or type(error).__name__
        try:
            self._table.abandon()
            self.namespace.reload()
            self._load()
            self._unpublished = 0
            self._follow()
            while self._position.index < target:
                try:
                    if not self._take_and_apply(REPLAY_SECONDS):
                        raise TimeoutError("the stream rests")
                except Rejected as rejected:
                    self._give_up(rejected)
        except Unavailable:
            self._failure = "the index is behind the log, and nobody can be asked any more"
            raise
        except Exception as again:
            why = str(again) or type(again).__name__
            self._failure = f"the index could not be brought up to the log ({why})"
            raise OSError(errno.EIO, self._failure) from again
        self._publish_at = 2 * max(self._unpublished, PUBLISH_RECORDS_MAX)

    # --- changes -------------------------------------------------------------------------------------------------

    def _append(self, proposal: record.Record, payload: Sequence[bytes | memoryview]) -> Outcome:
        metadata = record.encode(proposal)
        if len(metadata) > RECORD_BYTES_MAX:
            return REFUSED[Reason.ARGUMENT_TOO_LARGE]
        return self._wait_for(self._submit(metadata, payload)).outcome

    def begin(
        self,
        proposal: record.Record,
        payload: Sequence[bytes | memoryview],
        done: Callable[[Outcome | OSError], None],
    ) -> None:
        """Propose a record and go on; `done` is told what became of it, by whoever applies it, with the shard held.

        `done` must not raise or propose. Waits only while as much is on its way as may be. `payload` must not change before
        then.

        Raises:
            OSError: as `propose`; nothing was proposed.
        """
        metadata = record.encode(proposal)
        if len(metadata) > RECORD_BYTES_MAX:
            done(REFUSED[Reason.ARGUMENT_TOO_LARGE])
            return
        number = self._submit(metadata, payload)
        del self._seen[number]
        self._begun[number] = done

    def _submit(
        self, metadata: bytes, payload: Sequence[bytes | memoryview], *, more: bool = False
    ) -> int:
        """Hand over a proposal, as soon as no more is on its way than may be, whoever proposed it; `more`: see `Sequencer`."""
        if self._failure is not None:
            self._refuse_failed()
        size = len(metadata) + sum(map(len, payload))
        while self._is_beginning or not self._has_room(size):
            self._pause(TAKE_SECONDS)
        number = self._number + 1
        said = number - self._number_before
        self._sequencer.submit(said, metadata, payload, self._hybrid.last_us, more=more)
        self._number = number
        self._seen[number] = None
        self._under_way[number] = size
        self._under_way_bytes += size
        return number

    def _has_room(self, size: int, count: int = 1) -> bool:
        """Whether so many proposals more may be on their way, with so many bytes together; a single one always may."""
        if not self._under_way and count == 1:
            return True
        total = self._under_way_bytes + size
        return len(self._under_way) + count <= SUBMITTED_MAX and total <= SUBMITTED_BYTES_MAX

    def _came_by(self, number: int) -> None:
        self._under_way_bytes -= self._under_way.pop(number, 0)

    def _wait_for(self, number: int) -> _Seen:
        """Apply what comes by until a proposal did.

        Raises:
            Unavailable: the sequencer was closed; the proposal may take effect, or not.
            Rejected: the leader could not take it; nothing happened.
            OSError: the index cannot be brought up to the log; likewise as for `Unavailable`.
        """
        self._waiting += 1
        try:
            while (seen := self._seen[number]) is None:
                self._pause(TAKE_SECONDS)
        finally:
            self._waiting -= 1
            del self._seen[number]
            sequencer = self._sequencer
            if sequencer.on_more is not None and sequencer.last_index() > self.applied_index:
                sequencer.on_more()
        if isinstance(seen, Rejected):
            raise OSError(seen.errno, seen.strerror)
        return seen

    def stage(self, inode: int, offset: int, data: bytes | memoryview) -> list[record.Extent]:
        """See `Shard.stage`. All that may be is on its way at once."""
        view = memoryview(data)
        staged: list[record.Extent] = []
        awaited: list[tuple[int, int, int]] = []  # number, offset, length
        try:
            for _, _, length, done in extents.split_by_chunk(offset, len(view)):
                piece = record.encode(record.Write(inode, offset + done))
                # What leaves together comes with one message to each member, and one sync.
                more = done + length < len(view) and self._has_room(2 * STAGED_BYTES, count=2)
                number = self._submit(piece, (view[done : done + length],), more=more)
                awaited.append((number, offset + done, length))
            while awaited:
                number, at, size = awaited.pop(0)
                staged.append((at, size, self._wait_for(number).address, 0))
        finally:
            for number, _, _ in awaited:
                del self._seen[number]
        return staged

    def commit(
        self,
        inode: int,
        dirty: DirtyMap,
        size: int,
        keep: int | None,
        mtime_ns: int,
        changed_ns: int,
        before: Sequence[record.Part] = (),
        after: Sequence[record.Part] = (),
    ) -> Outcome:
        """See `Shard.commit`."""
        rest = (inode, dirty, size, keep, mtime_ns, changed_ns)
        if inode in self.namespace.overlong:
            # What lies beside the draft is written again as it is read now: not if somebody else commits meanwhile.
            attributes = self.namespace.attributes(inode)
            if attributes is not None:
                still = record.Still(inode, attributes.content)
                outcome = super().commit(*rest, [still, *before], after)
                if outcome.reason is not Reason.CONDITION_FAILED:
                    return outcome
                self.namespace.overlong.pop(inode, None)
        return super().commit(*rest, before, after)

    def allocate_inode(self) -> int:
        """A number of this shard that no inode has had; now and then a record."""
        if not self._inodes:
            self._inodes = self._reserve(RESERVED_INODES)
        inode, self._inodes = self._inodes[0], self._inodes[1:]
        return inode

    def _reserve(self, count: int) -> range:
        seen = self._wait_for(self._submit(record.encode(record.Reserve(count)), ()))
        assert seen.outcome.reason is None, "a bounded number is always granted"
        return range(seen.next_inode - count, seen.next_inode)

    def read(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        offset: int,
        length: int,
    ) -> bytes | bytearray | memoryview:
        """See `Shard.read`. In a volatile shard bytes may be let go while they are asked for: then those that are now.

        Raises:
            OSError: ESTALE, if the file is not in its shard any more.
        """
        try:
            return super().read(inode, attributes, timestamp, offset, length)
        except Corruption:
            if self._memory is None:
                raise
            self.refresh()
        now = self.namespace.attributes(inode)
        if now is None or timestamp is not None:
            raise OSError(errno.ESTALE, "a volatile pool keeps the newest content only")
        return super().read(inode, now, None, offset, length)

    def retire(self) -> None:
        """Another face takes this one's place."""
        self.is_retired = True
        if self.turns is not None:
            self.turns.tell()

    def keep_session(self) -> None:
        """Have the shard hear of this client, which has proposed before and may again."""
        if self._number > self._number_before:
            self._append(record.Reserve(0), ())

    def keep_session_nowait(self) -> None:
        """The same without waiting. Where much is on its way, that is a sign of life, too."""
        if self._number > self._number_before and self._has_room(len(NOTHING)):
            self.begin(record.Reserve(0), (), lambda outcome: None)

    def forget(self, inode: int) -> None:
        """History is kept: nothing to do."""

    # --- time and durability ---------------------------------------------------------------------------------------

    def settle(self, timestamp: int, timeout_s: float) -> bool:
        """Apply everything that will ever have committed up to a timestamp; False if that takes longer.

        Raises:
            OSError: as `catch_up`.
        """
        sequencer = self._sequencer
        deadline_ns = self._steady_ns() + int(timeout_s * 1e9)
        while True:
            stable, index = sequencer.frontier()
            if stable >= timestamp and self._position.index >= index:
                self._hybrid.observe(timestamp)
                return True
            if stable < timestamp:
                sequencer.ask_frontier(timestamp)
            left_s = (deadline_ns - self._steady_ns()) / 1e9
            if left_s <= 0:
                return False
            self._pause(min(left_s, SETTLE_LOOK_SECONDS))

    def refresh(self) -> None:
        """Apply everything that anybody has committed before this call.

        Raises:
            Unavailable: the sequencer was closed.
            OSError: as `catch_up`.
        """
        certain_index, turns = self._sequencer.certain_index, self.turns
        if turns is not None and turns.lets_go:
            try:
                target = turns.apart(certain_index)
            except Unavailable as error:
                if self.is_retired:
                    raise NotHere(self.namespace.shard) from error
                raise
        else:
            target = certain_index()
        self.reach(target)

    def reach(self, index: int) -> None:
        """Apply everything up to an index that is committed.

        Raises:
            Unavailable: the sequencer was closed.
            OSError: as `catch_up`.
        """
        while self._position.index < index:
            self._pause(TAKE_SECONDS)

    def ask_frontier(self, timestamp: int) -> None:
        """See `Sequencer`, which may know already."""
        if self._sequencer.frontier()[0] < timestamp:
            self._sequencer.ask_frontier(timestamp)

    @property
    def frontier(self) -> int:
        """Up to where, in time, the sequencer knows that nothing more can commit."""
        return self._sequencer.frontier()[0]

    @property
    def complete_until(self) -> int:
        """Up to which time everything that will ever have committed is applied here; 0 if that is not known."""
        stable, index = self._sequencer.frontier()
        return stable if self._position.index >= index else 0

    async def wait_durable(self, index: int | None = None, who: int = 0) -> None:
        """See `Shard.wait_durable`. Cancelled or not, nothing is left behind."""
        del who
        target = self._position.index if index is None else index
        sequencer = self._sequencer
        while sequencer.durable_index() < target:
            await trio.to_thread.run_sync(
                sequencer.wait_durable, target, DURABLE_LOOK_SECONDS, abandon_on_cancel=True
            )

    def close(self, *, keep: bool = False) -> bool:
        """Close the table; log and sequencer are whose they were. See `Shard.close`."""
        whole = False
        begun, self._begun = self._begun, {}
        for done in begun.values():
            done(Unavailable("the shard was closed; the change may take effect, or not"))
        try:
            if keep:
                self.publish()
                if self._failure is None and not self._unpublished:
                    self._table.sync()
                    whole = True
        finally:
            self._table.close()
        return whole


SETTLE_LOOK_SECONDS: Final = 0.02
"""Between two looks whether a frontier has come, when no record did."""

DURABLE_LOOK_SECONDS: Final = 1.0
"""How long one worker thread waits; bounds how long an abandoned one stays."""
