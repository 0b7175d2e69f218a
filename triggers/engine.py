"""The engine: from commits to runs, and from results to records. It decides everything and waits for nothing.

Theory of operation. `pump` looks at what was committed, in the order of the log, and queues events (`intake`). `start` gives the runs that may begin now; whoever drives executes them and
comes back with `finish`, which makes the effects, the state, the cursor and the provenance one record. What a run does
is therefore in the log or it never was; a crash at any point is a start from the marks (`Follower`).

A driver (`triggers.dispatcher`) supplies time, tasks and a `Runner`. The engine has none of them, so tests drive it by
hand, and stop it at every numbered point (`point`).

Not for several threads at once: whoever calls holds the store.

Sources: docs/TRIGGERS.md; etcd-io/raft for the shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import record
from storage.namespace.deliveries import FINISH_SKIPPED
from triggers import provenance
from triggers.change import path_of
from triggers.commitment import Commitment
from triggers.follower import REPLAYED, Follower
from triggers.intake import Intake
from triggers.lag import Lag
from triggers.library import Library
from triggers.marks import PAUSED, REGISTRAR_NAME, Deposed, Marks
from triggers.options import Options
from triggers.queue import Pending
from triggers.registry import Registry
from triggers.repertoire import Repertoire
from triggers.report import Report
from triggers.run import Failed
from triggers.schedule import Schedule
from triggers.start import Start, Started
from triggers.verdict import AGAIN_MS, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.clock import Clock
    from storage.store import Store
    from triggers.follower import Key
    from triggers.options import Watcher
    from triggers.queue import Position
    from triggers.run import Done

__all__ = ["Deposed", "Engine", "Options", "Started"]


class Engine:
    """See the module."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Random,
        options: Options | None = None,
        *,
        point: Callable[[str], None] = lambda _name: None,
        watcher: Watcher | None = None,
    ) -> None:
        """Nothing happens before `open`.

        Args:
            store: with a past; held by whoever calls.
            clock: the wall clock.
            random: for jitter.
            options: how to run.
            point: called with a name at each place where a crash must do no harm.
            watcher: who is told of effects.
        """
        self.store = store
        self.clock = clock
        self.options = options or Options()
        self.registry = Registry()
        self.library = Library(store, self.options.may_run_as)
        self.report = Report(clock, self.options.traced)
        self.schedule = Schedule()
        self.running: dict[str, Started] = {}
        self.workers = self.options.workers
        """Runs at a time; may be changed."""
        self.wake: Callable[[], None] = lambda: None
        """Called, from any thread, when somebody asked for something that `start` should know of at once."""
        self.told: Callable[[], None] = lambda: None
        """Called, from any thread, when `pump` has something new to look at; by whoever commits, so it must be cheap."""
        self.point = point
        self.intake = Intake(
            store,
            self.registry,
            self.report,
            self.options.node,
            lambda: self.told(),
            self.schedule.add,
            self._ordered,
            self.options.affinity,
        )
        self.replays: set[Key] = set()
        """Bindings that are replays, and end."""
        options = self.options
        self.repertoire = Repertoire(store, self.registry, self.library, options)
        self.lag = Lag(store, self.registry, self.report, clock)
        self._marks = Marks(store, self.registry, self.intake, options.shard)
        self._verdicts = Verdicts(self._marks, self.repertoire, self.report, clock, random, point)
        self._starting = Start(store, self.repertoire, self._verdicts, self.report, options, point)
        self._commitment = Commitment(store, self._marks, clock, options, point, watcher)

    # --- start and end -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take up what the store says is not done, and listen.

        Raises:
            OSError: the log could not take the beginning of a new epoch.
        """
        if self.options.is_shared:
            self._marks.epoch()  # From here on nobody else does what this engine finds undone.
        deliveries = self.store.deliveries
        registrar = deliveries.consumer(*self._marks.registrar)
        if registrar is not None:
            self.intake.head = registrar.low_timestamp, registrar.low_address
        for base, name, consumer in deliveries.consumers():
            over = REPLAYED in name and not consumer.active
            if name != REGISTRAR_NAME and not (over and self._is_over((base, name))):
                self._take_up((base, name))
        for base_ in self.registry.bases.values():
            base_.rebuild()
        self.store.listen(self.intake.observe)

    def close(self) -> None:
        """Note the marks and listen no more. What runs is forgotten: it will run again.

        Where others take over, nothing is noted: that might have to wait for them.
        """
        self.store.listen(None)
        if not self.options.is_shared:
            self._marks.close()

    def _is_over(self, key: Key) -> bool:
        """Whether nothing is left of a replay that ended."""
        deliveries = self.store.deliveries
        return not deliveries.letters(*key) and not deliveries.rearmed(*key)

    def _take_up(self, key: Key) -> Follower:
        """A consumer of the store comes to life."""
        deliveries = self.store.deliveries
        consumer = deliveries.consumer(*key)
        assert consumer is not None
        low = (consumer.low_timestamp, consumer.low_address)
        follower = Follower(key, low, deliveries.definitions(*key), self.options.is_open)
        follower.known_done = set(deliveries.done(*key))
        follower.attempted = deliveries.attempts(*key)
        follower.queue.paused = deliveries.state(*key, PAUSED) is not None
        self.registry.add(follower)
        if (newest := follower.newest) is not None and newest.until:
            self.replays.add(key)
        for position, (letter, as_was) in deliveries.rearmed(*key).items():
            self.rearm(follower, position, letter, as_was=as_was)
        return follower

    def rearm(self, follower: Follower, position: Position, letter: bytes, *, as_was: bool) -> None:
        """A dead letter is to be done again, by the newest version of its binding or the one it was given up by."""
        dead = provenance.decode_letter(letter)
        pending = Pending(dead.event, dead.address, position[0] // 1000)
        pending.rearmed = True
        newest = next(since for since, definition in follower.definitions if definition)
        pending.definition = dead.definition if as_was else newest
        follower.queue.add(pending)
        self.schedule.add(follower.key)

    def _ordered(self, said: record.Activate | record.Rearm) -> None:
        """A record that says what is to be done came by: known already, if it is this engine's own."""
        if isinstance(said, record.Activate):
            if self._is_behind(
                said
            ):  # An engine before this one sent it, of scripts as it knew them.
                self.activated(said.base, said.owner)
                self.registry.dirty.setdefault(said.base, self.intake.head[0])
            return
        follower = self.registry.get((said.base, said.consumer))
        if follower is None or not said.again:
            return
        rearmed = self.store.deliveries.rearmed(*follower.key)
        for position in said.events:
            if position in rearmed and follower.queue.find(position) is None:
                letter, as_was = rearmed[position]
                self.rearm(follower, position, letter, as_was=as_was)

    def _is_behind(self, said: record.Activate) -> bool:
        """Whether the store has newer versions of bindings than this engine."""
        deliveries = self.store.deliveries
        for base, name, consumer in deliveries.consumers(said.base):
            if consumer.owner == said.owner and name != REGISTRAR_NAME:
                follower = self.registry.get((base, name))
                if follower is None and consumer.active:
                    return True
                if follower and deliveries.definitions(base, name)[0][0] > follower.since:
                    return True
        return False

    def pump(self) -> bool:
        """Look at what was committed; whether there is more to look at."""
        more = self.intake.pump()
        self._marks.advance_now_and_then()
        self.lag.look()
        return more

    # --- runs --------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self.clock.now_ns() // 1_000_000

    def start(self) -> list[Started]:
        """The runs that may begin now; each must come back with `finish`."""
        started: list[Started] = []
        now_ms = self.now_ms()
        while len(self.running) < self.workers:
            if self.schedule.next(lambda key: self._start(key, now_ms, started)) is None:
                break
        return started

    def next_ms(self) -> int | None:
        """When `start` may have something that it has not now, by the wall clock; None: only after a change."""
        if len(self.running) >= self.workers:
            return None
        now_ms = self.now_ms()
        times = [
            follower.queue.next_ms(now_ms)
            for follower in map(self.registry.get, self.schedule)  # type: ignore[arg-type]  # keys were added
            if follower is not None and not self._is_busy(follower)
        ]
        return min((time for time in times if time is not None), default=None)

    def _is_busy(self, follower: Follower) -> bool:
        limit = follower.queue.binding.concurrency or self.workers
        return follower.queue.running >= limit

    def _start(self, key: object, now_ms: int, started: list[Started]) -> bool | None:
        """Whether a run of a binding began; None if it has no events at all."""
        follower = self.registry.get(key)  # type: ignore[arg-type]  # what was added with an event
        if follower is None or not len(follower.queue):
            return None
        if self._is_busy(follower):
            return False
        taken = follower.queue.take(now_ms)
        if taken.skipped:
            try:
                self._verdicts.finish_without(follower, taken.skipped, FINISH_SKIPPED)
            except OSError:
                follower.queue.put_back(taken.skipped, now_ms + AGAIN_MS, partial=True)
            else:
                follower.queue.done(taken.skipped, ran=False)
        if not taken.events:
            return False
        begun = self._starting.begin(follower, taken.events)
        if begun is not None:
            started.append(begun)
            self.running[begun.run.id] = begun
        return True

    def base_path(self, base: int, timestamp: int) -> str:
        """A directory's path from the root of the store, for people."""
        return path_of(self.store, base, timestamp)

    def finish(self, started: Started, result: Done | Failed) -> None:
        """A run ended: make its effects part of the log, or see to it that it is tried again or given up."""
        run, events, follower = started.run, started.events, started.follower
        definition = started.definition
        self.running.pop(run.id, None)
        self.repertoire.came_back(len(events))
        self.schedule.ran(follower.key, result.duration_ns / 1e6)
        if isinstance(result, Failed):
            self.report.ended(follower, run, result)
            self._verdicts.failed(follower, definition, events, result)
            return
        marked = [pending for pending in events if pending.event.id in result.failed]
        good = [pending for pending in events if pending.event.id not in result.failed]
        failure = self._commitment.commit(started, good, result) if good else None
        self.report.ended(follower, run, failure or result)  # whoever reads "done" finds it done
        if failure is not None:
            self._verdicts.failed(follower, definition, events, failure)
            return
        if good:
            follower.queue.done(good, partial=bool(marked))
            self.point("queue updated")
        for index, pending in enumerate(marked):
            reason = Failed("exception", result.failed[pending.event.id], output=result.output)
            pending.group_max = 1
            more = index < len(marked) - 1
            self._verdicts.failed(follower, definition, [pending], reason, partial=more)

    def pause(self, follower: Follower, *, paused: bool) -> None:
        """Start no more runs of a binding, or go on. Where others take over it is noted for them; elsewhere it ends with the engine.

        Raises:
            OSError: the log could not take that; nothing has changed.
        """
        if self.options.is_shared:
            self._marks.note(follower, PAUSED, b"" if paused else None)
        follower.queue.paused = paused

    def skip(self, follower: Follower, pending: Pending) -> None:
        """See `Verdicts.skip`."""
        self._verdicts.skip(follower, pending)

    # --- versions ----------------------------------------------------------------------------------------------

    def activated(self, base: int, owner: bytes) -> None:
        """The store has new versions of a script's bindings: take them up."""
        deliveries = self.store.deliveries
        for _, name, consumer in deliveries.consumers(base):
            if consumer.owner != owner or name == REGISTRAR_NAME:
                continue
            follower = self.registry.get((base, name))
            if follower is None:
                self._take_up((base, name))
                continue
            for since, row in reversed(deliveries.definitions(base, name)):
                if since > follower.since:
                    follower.define(since, row)
        self.repertoire.reloaded()
        if base in self.registry.bases:
            self.registry.bases[base].rebuild()
