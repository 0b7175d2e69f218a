"""How nodes let history go: by policy where a shard is led, and from the log of every replica (SEMANTICS 7 and 14).

Theory of operation. What goes is decided once, by the shard's leader, and said in `Prune` and `Drop` records, so all replicas let
go of the same; two who decide at a time after a change of leader do no harm. Each node sweeps its own table, and writes again the segments of its own log in which that
table knows dead payloads: when, is its own affair, as addresses stay good.

Nobody knows what mounts have open, or what their drafts share. So time is the measure, and *the frontier* the clock: a table
that is complete up to there knows who shares what until then. Nothing is decided about what was
replaced less than `OPEN_US` before; a payload outlives the last content that showed it by `SHARED_US`, longer than any draft
lives, with a full disk by `OPEN_US`; and what was staged and never named outlives its client's session (`STAGED_US`).

Steps take the lock of the faces on worker threads, a few milliseconds each; proposals are made without waiting with it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from storage import stream
from storage.cluster.sayings import ClusterSayings
from storage.log import Log
from storage.member import MemoryLog
from storage.namespace.sessions import SESSION_US
from storage.replication import Role
from storage.retention import Bounds, Retention
from storage.sequencer import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cascadefs.node.faces import Faces
    from storage.clock import Clock
    from storage.cluster.face import Face
    from storage.log import Condensation
    from storage.member import Member
    from storage.namespace import Namespace, Outcome
    from storage.record import Record
    from storage.retention import Job

__all__ = ["Grace", "Keeper"]

REST_S: Final = 1.0
"""Between two looks whether any history is to be let go."""

STEP_S: Final = 0.01
"""Between two steps of 2 ms each: a fifth of the time is nobody's to complain about."""

STEPS_MAX: Final = 500
"""Of one shard, before the next has its turn."""

CLEAN_REST_S: Final = 10.0
"""Between two looks for segments to write again, where nothing was done: each costs up to 1 ms."""

FRESH_US: Final = 60_000_000
"""How old the frontier of a table may be for it to be asked what is held and for how long."""

_HOUR_US: Final = 3600 * 1_000_000

_log = logging.getLogger("cascadefs.node")


@dataclass(frozen=True, slots=True)
class Grace:
    """How long is kept what somebody may still have open, share or name, in microseconds; see the module."""

    open_us: int = _HOUR_US
    shared_us: int = 25 * _HOUR_US
    """A draft lives for a day at most (`cascadefs mount --autocommit`)."""
    staged_us: int = 2 * SESSION_US


class _Kept:
    """One shard's housekeeping here."""

    def __init__(self, keeper: Keeper, face: Face, clock: Clock) -> None:
        self.face = face
        self.proposed = 0
        """Records on their way."""
        self.retention = Retention(face, clock, sayings=keeper.sayings, propose=self._propose)

    def _propose(self, proposal: Record) -> None:
        self.proposed += 1
        try:
            self.face.begin(proposal, (), self._came)
        except BaseException:
            self.proposed -= 1
            raise

    def _came(self, outcome: Outcome | OSError) -> None:
        del outcome  # Refused or lost: it is decided again at the next pass.
        self.proposed -= 1


class Keeper:
    """See the module. One task in the thread of the network's loop."""

    def __init__(
        self,
        faces: Faces,
        members: Mapping[int, Member],
        clock: Clock,
        has_room: Callable[[], bool],
        grace: Grace | None = None,
    ) -> None:
        """Nothing is done before `run`.

        Args:
            faces: the tables here, with their lock.
            members: the replicas here, by shard; more may come.
            clock: the wall clock.
            has_room: whether the disk takes payloads.
            grace: how long is kept what others may still use.
        """
        self.sayings = ClusterSayings(self._known, self._all_known)
        self.wanted_since: Callable[[int], int | None] = lambda shard: None
        """From which time on somebody here is still to read a shard's history."""
        self._faces = faces
        self._members = members
        self._clock = clock
        self._has_room = has_room
        self._grace = grace or Grace()
        self._kept: dict[int, _Kept] = {}
        self._abandoned: dict[int, tuple[int, int]] = {}
        self._look_at_s: dict[int, float] = {}
        self._said: dict[int, str] = {}

    async def run(self) -> None:
        """Until cancelled. What fails is said once, and tried again."""
        while True:
            await trio.sleep(REST_S)  # noqa: TID251  # Nothing waits for it.
            for shard, member in list(self._members.items()):
                if isinstance(member.log, MemoryLog):
                    continue  # It has no history.
                try:
                    await self._keep(shard, member)
                    self._said.pop(shard, None)
                except Unavailable:
                    pass  # The node is stopping.
                except (
                    Exception
                ) as error:  # The node goes on; what is not let go of costs space only.
                    why = str(error) or type(error).__name__
                    if self._said.get(shard) != why:
                        _log.error(
                            "shard %d: history could not be let go: %s", shard, why, exc_info=error
                        )
                    self._said[shard] = why

    async def _keep(self, shard: int, member: Member) -> None:
        steps = 0
        while steps < STEPS_MAX and await trio.to_thread.run_sync(self._step, shard, member):
            steps += 1
            await trio.sleep(STEP_S)  # noqa: TID251  # As above.
        now_s = trio.current_time()
        if not steps and now_s < self._look_at_s.get(shard, 0.0):
            return
        self._look_at_s[shard] = now_s + CLEAN_REST_S
        while member.failure is None and await self._clean(shard, member):  # noqa: ASYNC110  # Pace.
            await trio.sleep(STEP_S)  # noqa: TID251  # As above.

    async def _clean(self, shard: int, member: Member) -> bool:
        """Write one segment again, if one is worth it."""
        async with member.rewriting:
            job = await trio.to_thread.run_sync(self._choose, shard)
            kept = self._kept.get(shard)
            if job is None or kept is None:
                return False
            done = await trio.to_thread.run_sync(kept.retention.cleaning.run, job)
            await trio.to_thread.run_sync(self._finish, kept, job, done)
        return True

    # --- with the faces held, on worker threads --------------------------------------------------------------------

    def _step(self, shard: int, member: Member) -> bool:
        """Do a little; whether there is more to do."""
        with self._faces.exclusive() as faces:
            kept = self._kept_of(faces.get(shard))
            if kept is None:
                return False
            kept.face.catch_up()
            if kept.proposed:
                return True  # What was decided is not swept yet, nor counted.
            leads = member.replica.role is Role.LEADER and self._known(shard) is not None
            return kept.retention.step(decides=leads)

    def _choose(self, shard: int) -> Job | None:
        with self._faces.exclusive() as faces:
            kept = self._kept_of(faces.get(shard))
            return kept.retention.choose() if kept is not None else None

    def _finish(self, kept: _Kept, job: Job, done: Condensation | None) -> None:
        with self._faces.exclusive() as faces:
            if faces.get(kept.face.namespace.shard) is kept.face:
                kept.retention.cleaning.finish(job, done)

    def _kept_of(self, face: Face | None) -> _Kept | None:
        if face is None:
            return None
        shard = face.namespace.shard
        kept = self._kept.get(shard)
        if kept is None or kept.face is not face:
            kept = self._kept[shard] = _Kept(self, face, self._clock)
            retention = kept.retention
            retention.wanted_since = lambda: self._wanted_since(face)
            retention.is_full = lambda: not self._has_room()
            retention.cleaning.bounds = lambda: self._bounds(face)
        return kept

    def _wanted_since(self, face: Face) -> int:
        since = face.complete_until - self._grace.open_us
        wanted = self.wanted_since(face.namespace.shard)
        return since if wanted is None else min(since, wanted)

    def _bounds(self, face: Face) -> Bounds:
        grace, until = self._grace, face.complete_until
        shared_us = grace.shared_us if self._has_room() else grace.open_us
        return Bounds(
            dead_before=max(0, until - shared_us),
            abandoned_below=self._abandoned_below(face, max(0, until - grace.staged_us)),
            settled_below=face.applied_address,
        )

    def _abandoned_below(self, face: Face, timestamp: int) -> int:
        """An address in front of which everything is older than that; looked up now and then."""
        shard = face.namespace.shard
        before, found = self._abandoned.get(shard, (0, 0))
        if timestamp - before >= self._grace.staged_us // 100 or not before:
            log = self._members[shard].log
            assert isinstance(log, Log), "what is volatile has no history"
            found = stream.address_of_time(log, timestamp)
            self._abandoned[shard] = timestamp, found
        return found

    # --- what is said where ------------------------------------------------------------------------------------------

    def _known(self, shard: int) -> Namespace | None:
        """The tree of a shard, if it is here and up to date."""
        with self._faces.exclusive() as faces:
            face = faces.get(shard)
            if face is None:
                return None
            return face.namespace if self._is_fresh(face) else None

    def _all_known(self) -> Iterable[Namespace]:
        with self._faces.exclusive() as faces:
            return [face.namespace for face in faces.values() if self._is_fresh(face)]

    def _is_fresh(self, face: Face) -> bool:
        return face.complete_until >= self._clock.now_ns() // 1000 - FRESH_US

    def status(self, shard: int) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        kept = self._kept.get(shard)
        if kept is None:
            return {}
        found = kept.retention.status()
        names = (
            "busy",
            "passes",
            "pruned_versions",
            "segments_condensed",
            "bytes_won",
            "bytes_written",
        )
        return {name: found[name] for name in names} | {"trouble": self._said.get(shard, "")}
