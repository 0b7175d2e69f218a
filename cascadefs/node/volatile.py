"""A volatile shard's place on this node: its log in memory, made again from a snapshot, or empty for another life.

Nothing is found at a start: whoever begins is a newcomer. One that lacks what its leader has let go of asks it for a
snapshot. Where all members are newcomers everything is lost; the authority's epoch says so by force, and its leader begins another life
of the shard (CLUSTER, "Volatile shards").
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from cascadefs.node.links import Unreachable
from storage import wire
from storage.member import Member, MemoryLog, MemoryNote
from storage.namespace.sessions import Sessions
from storage.replication import Note, Options
from storage.sequencer import START
from storage.snapshot import LIFE_INDICES, Snapshot, Snapshotted, collect
from storage.table import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from cascadefs.node.faces import Faces
    from cascadefs.node.links import Links
    from cascadefs.node.seat import Ground
    from storage.replication import Epoch

__all__ = ["Snapshots", "VolatileSeat"]

REOPEN_S: Final = 1.0
"""Before a replica that broke begins again, and between two questions for a snapshot."""

LOOK_S: Final = 5.0
"""Between two looks whether the shard still lies here."""

KEPT_NS: Final = 30 * 10**9
"""How long a snapshot that nobody asks for is kept ..."""

KEPT_MAX: Final = 8
"""... and how many, of all shards: each holds on to what was let go since it was made."""

_log = logging.getLogger("cascadefs.node")


class _Beginning(NamedTuple):
    """What a replica begins again with."""

    log: MemoryLog
    snapshot: Snapshot
    """What the log stands for in front of its base."""
    epoch: Epoch | None
    """To serve in, and never to lead."""


class VolatileSeat:
    """As `Seat`, in memory. In the thread of the network's loop."""

    def __init__(
        self,
        ground: Ground,
        shard: int,
        options: Options,
        links: Links,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Nothing is made before `open`.

        Args:
            ground: of the node.
            shard: its number.
            options: of its pool; not durable.
            links: to the leader that has a snapshot.
            is_wanted: whether the shard lies here, or is to.
        """
        assert not options.durable
        self.shard = shard
        self.options = options
        self.member: Member | None = None
        self._ground = ground
        self._links = links
        self._is_wanted = is_wanted
        self._life: int | None = None
        self._life_wanted = trio.Event()

    async def open(self, epoch: Epoch | None, *, makes: bool) -> Member:
        """The replica on an empty log; as `Seat.open`."""
        ground = self._ground
        self.member = Member(
            self.shard,
            ground.node,
            MemoryLog.begin(ground.identity, self.shard),
            MemoryNote(),
            epoch,
            ground.clock,
            ground.steady_ns,
            ground.post,
            options=self.options,
            note=Note(0, True) if makes else None,
            requests=(),
        )
        self.member.lease_until_ns = ground.lease_until_ns
        return self.member

    def may_adopt(self, epoch: Epoch) -> bool:
        """Whether the replica may serve in an epoch now; before one that is forced there is another life.

        Even if it was filled again: what it has may lack the last that was acknowledged, and in its place would come other records
        under the same indices and addresses, which whoever has seen the first would take for them.
        """
        member = self.member
        assert member is not None
        serves = member.replica.epoch
        is_news = serves is None or serves.number < epoch.number
        if not (is_news and epoch.forced and epoch.leader == self._ground.node):
            return True
        if member.log.last_index >= epoch.number * LIFE_INDICES:
            return True  # This life has begun.
        self._life = epoch.number
        self._life_wanted.set()
        return False

    async def run(self, epoch: Callable[[], Epoch | None]) -> None:
        """Serve until cancelled, and begin again when the log broke, lags too far behind, or all was lost."""
        member = self.member
        assert member is not None
        while True:
            found: list[_Beginning] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.run)
                for wait in (self._broken, self._lagging, self._anew, self._unwanted):
                    nursery.start_soon(self._first, wait, member, epoch, found, nursery)
            log, snapshot, serves = found[0]
            member.replace(log, MemoryNote(), serves, snapshot, _last_numbers(snapshot))
            member.behind = trio.Event()
            _log.info("shard %d: begins at record %d", self.shard, log.last_index)

    async def _first(
        self,
        wait: Callable[[Member, Callable[[], Epoch | None]], Awaitable[_Beginning]],
        member: Member,
        epoch: Callable[[], Epoch | None],
        found: list[_Beginning],
        nursery: trio.Nursery,
    ) -> None:
        one = await wait(member, epoch)
        if not found:
            found.append(one)
        nursery.cancel_scope.cancel()

    async def _broken(self, member: Member, epoch: Callable[[], Epoch | None]) -> _Beginning:
        await member.wait_failure()
        await trio.sleep(REOPEN_S)  # noqa: TID251  # The others hear of it meanwhile.
        return self._empty(epoch())

    def _empty(self, epoch: Epoch | None) -> _Beginning:
        log = MemoryLog.begin(self._ground.identity, self.shard)
        return _Beginning(log, Snapshot(START, 0, [], [], []), epoch)

    async def _lagging(self, member: Member, epoch: Callable[[], Epoch | None]) -> _Beginning:
        while True:
            await member.behind.wait()
            member.behind = trio.Event()
            serves = member.replica.epoch
            snapshot = await self._fetch(serves.leader) if serves is not None else None
            if snapshot is not None and snapshot.place.index > member.committed:
                log = MemoryLog.install(self._ground.identity, self.shard, snapshot)
                return _Beginning(log, snapshot, epoch())

    async def _unwanted(self, member: Member, epoch: Callable[[], Epoch | None]) -> _Beginning:
        """The shard lies elsewhere now: what is held here is nobody's."""
        while self._is_wanted() or not member.log.last_index:  # noqa: ASYNC110  # Nobody tells.
            await trio.sleep(LOOK_S)  # noqa: TID251  # As above.
        return self._empty(epoch())

    async def _fetch(self, leader: str) -> Snapshot | None:
        async def ask(number: int, piece: int) -> tuple[int, bytes | memoryview | None]:
            answer, parts = await self._links.get(leader).ask(
                lambda request: wire.ReadSnapshot(request, self.shard, number, piece, True)
            )
            return answer.errno, parts[0] if parts else None

        try:
            return await collect(ask)
        except Unreachable:
            return None

    async def _anew(self, member: Member, epoch: Callable[[], Epoch | None]) -> _Beginning:
        while True:
            await self._life_wanted.wait()
            self._life_wanted = trio.Event()
            assert self._life is not None
            if member.log.last_index < self._life * LIFE_INDICES:
                break  # Not asked for once more while it was begun.
        _log.error("shard %d: all members are gone, and all it held: it begins empty", self.shard)
        log = MemoryLog.begin_life(self._ground.identity, self.shard, self._life)
        # In the epoch before: the one to come is led.
        snapshot = Snapshot(log.base, 0, log.epochs(), [], [])
        return _Beginning(log, snapshot, member.replica.epoch)


def _last_numbers(snapshot: Snapshot) -> Callable[[int], int]:
    """The last number of each client, as of a snapshot."""
    rows = MemoryTable()
    rows.load([row for row in snapshot.rows if row[0][:1] == b"Z"])
    numbers = Sessions(rows).all()
    return lambda client: numbers.get(client, 0)


class Snapshots:
    """What volatile shards here are, for those that cannot have their past. Any thread asks; one at a time makes one."""

    def __init__(
        self,
        faces: Faces,
        members: Mapping[int, Member],
        steady_ns: Callable[[], int],
        random: Random,
    ) -> None:
        self._faces = faces
        self._members = members
        self._steady_ns = steady_ns
        self._random = random
        self._kept: dict[int, tuple[Snapshotted, int]] = {}

    async def piece(self, asked: wire.ReadSnapshot) -> bytes | int:
        """A piece, or why there is none: an errno as `wire.ReadSnapshot` has it."""
        member = self._members.get(asked.shard)
        if member is None or not isinstance(member.log, MemoryLog) or not member.replica.in_sync:
            return errno.EAGAIN
        kept = self._kept.get(asked.number)
        if kept is None:
            if asked.number:
                return errno.ESTALE
            while len(self._kept) >= KEPT_MAX:
                self._kept.pop(min(self._kept, key=lambda number: self._kept[number][1]))
            made = await trio.to_thread.run_sync(self._make, asked.shard, member)
            if made is None:
                return errno.EAGAIN
        else:
            made = kept[0]
        member.log.held_until_ns = self._kept_until(made)
        try:
            return made.piece(asked.piece, payloads=asked.payloads)
        except IndexError:
            return errno.ESTALE

    def _kept_until(self, made: Snapshotted) -> int:
        until_ns = self._steady_ns() + KEPT_NS
        self._kept[made.number] = made, until_ns
        return until_ns

    def _make(self, shard: int, member: Member) -> Snapshotted | None:
        with self._faces.exclusive() as faces:
            face, log = faces.get(shard), member.log
            if face is None or not isinstance(log, MemoryLog) or not face.is_volatile:
                return None
            face.catch_up()
            if face.applied_index < max(log.base_index, 1):
                return None
            # From here on nobody trims what is behind it.
            log.held_until_ns = self._steady_ns() + KEPT_NS
            snapshot = face.snapshot(log, self._faces.releasing[shard].staged)
        return Snapshotted(self._random.getrandbits(62) | 1, snapshot)

    def forget_old(self) -> None:
        """Let go of snapshots that nobody asks for. In the thread of the network's loop."""
        now_ns = self._steady_ns()
        self._kept = {number: one for number, one in self._kept.items() if one[1] > now_ns}
