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

import contextlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from storage import record
from storage.namespace import ROOT
from storage.namespace.deliveries import FINISH_DEAD, FINISH_DONE, FINISH_SKIPPED
from triggers import provenance
from triggers.access import Identity
from triggers.change import Paths
from triggers.cut import StoreCut
from triggers.effects import Conflict, EffectRefused, plan
from triggers.follower import Follower
from triggers.intake import Intake
from triggers.library import Library
from triggers.queue import Pending
from triggers.registry import Registry
from triggers.report import Report
from triggers.run import Done, Failed, LoadFailed, Run, Script, timestamp_text
from triggers.schedule import Schedule
from triggers.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.clock import Clock
    from storage.namespace import Outcome
    from storage.record import Part, Record
    from storage.store import Store
    from triggers.follower import Definition, Key
    from triggers.queue import Position

__all__ = ["Engine", "Options", "Started"]

REGISTRAR = (ROOT, b".")
"""The consumer that looks for scripts: its mark is how far the log was searched."""

ADVANCE_RECORDS = 4096
"""Commits after which the marks of whoever has nothing pending are noted."""

UNUSED_EVENTS_MAX = 1000
"""Pending of a binding up to which they are looked through for scripts that nobody needs any more."""

STATE_BYTES_MAX = 1024 * 1024
"""That one run leaves: it is read whole by the next run of each key."""

TEXT_KEPT = 64 * 1024
"""Of a traceback, a message, a result: they are in the log."""

BACKOFF_FACTOR = 4
BACKOFF_MS_MAX = 30_000
AGAIN_MS = 1000
"""Until what the log did not take is tried again."""


class Options(NamedTuple):
    """How triggers run on this node."""

    workers: int = 2
    """Runs at a time, of all bindings together."""

    may_run_as: Callable[[int], str | None] = lambda _uid: None
    """Why nothing may run as a user; None if it may."""

    groups_of: Callable[[int, int], tuple[int, ...]] = lambda _uid, _gid: ()
    """Supplementary groups of a user."""

    may_inproc: Callable[[str], bool] = lambda _base_path: False
    """Whether an administrator lets scripts of a base run in this process."""

    node: str = ""
    mountpoint: str | None = None
    """Where the store is mounted, for executables that read the cut as a directory."""

    reserved: Callable[[int, bytes], bool] = lambda _directory, _name: False
    """Whether a name would be taken for history."""

    is_open: Callable[[int], bool] = lambda _inode: False
    """Whether somebody has an inode open for writing."""


class Watcher(Protocol):
    """Who is told what the engine does to the tree: a mount, whose kernel has caches."""

    def applied(self, records: list[Part]) -> None:
        """These took effect, not by way of the mount."""
        ...


class Started(NamedTuple):
    """A run that was given out; comes back with `Engine.finish`."""

    run: Run
    cut: StoreCut
    events: list[Pending]
    follower: Follower
    definition: Definition


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
        self.report = Report(clock)
        self.schedule = Schedule()
        self.running: dict[str, Started] = {}
        self.wake: Callable[[], None] = lambda: None
        """Called, from any thread, when `pump` has something new to look at."""
        self._random = random
        self.point = point
        self._watcher = watcher
        self.intake = Intake(
            store,
            self.registry,
            self.report,
            self.options.node,
            lambda: self.wake(),
            self.schedule.add,
        )
        self.replays: set[Key] = set()
        """Bindings that are replays, and end."""
        self._epoch: int | None = None
        self._scripts: dict[tuple[int, str], Script] = {}
        self._reloaded = False
        self._until_look = 0
        """Events to come back before `take_unused` looks through what is pending again."""

    # --- start and end -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take up what the store says is not done, and listen."""
        deliveries = self.store.deliveries
        registrar = deliveries.consumer(*REGISTRAR)
        if registrar is not None:
            self.intake.head = registrar.low_timestamp, registrar.low_address
        for base, name, _ in deliveries.consumers():
            if (base, name) != REGISTRAR:
                self._take_up((base, name))
        for base_ in self.registry.bases.values():
            base_.rebuild()
        self.store.listen(self.intake.observe)

    def close(self) -> None:
        """Note the marks and listen no more. What runs is forgotten: it will run again."""
        self.store.listen(None)
        if self._epoch is not None or self.intake.noted:
            self._advance()

    def _take_up(self, key: Key) -> Follower:
        """A consumer of the store comes to life."""
        deliveries = self.store.deliveries
        consumer = deliveries.consumer(*key)
        assert consumer is not None
        low = (consumer.low_timestamp, consumer.low_address)
        follower = Follower(key, low, deliveries.definitions(*key), self.options.is_open)
        follower.known_done = set(deliveries.done(*key))
        follower.attempted = deliveries.attempts(*key)
        self.registry.add(follower)
        if (newest := follower.newest) is not None and newest.until:
            self.replays.add(key)
        for position, letter in deliveries.rearmed(*key).items():
            self.rearm(follower, position, letter)
        return follower

    def rearm(self, follower: Follower, position: Position, letter: bytes) -> None:
        """A dead letter is to be done again, by the newest version of its binding."""
        dead = provenance.decode_letter(letter)
        pending = Pending(dead.event, dead.address, position[0] // 1000)
        pending.rearmed = True
        newest = next(since for since, definition in follower.definitions if definition)
        pending.definition = newest
        follower.queue.add(pending)
        self.schedule.add(follower.key)

    def pump(self) -> bool:
        """Look at what was committed; whether there is more to look at."""
        more = self.intake.pump()
        if self.intake.noted >= ADVANCE_RECORDS:
            self._advance()
        return more

    # --- runs --------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self.clock.now_ns() // 1_000_000

    def start(self) -> list[Started]:
        """The runs that may begin now; each must come back with `finish`."""
        started: list[Started] = []
        now_ms = self.now_ms()
        while len(self.running) < self.options.workers:
            if self.schedule.next(lambda key: self._start(key, now_ms, started)) is None:
                break
        return started

    def next_ms(self) -> int | None:
        """When `start` may have something that it has not now, by the wall clock; None: only after a change."""
        if len(self.running) >= self.options.workers:
            return None
        now_ms = self.now_ms()
        times = [
            follower.queue.next_ms(now_ms)
            for follower in map(self.registry.get, self.schedule)  # type: ignore[arg-type]  # keys were added
            if follower is not None and not self._is_busy(follower)
        ]
        return min((time for time in times if time is not None), default=None)

    def _is_busy(self, follower: Follower) -> bool:
        limit = follower.queue.binding.concurrency or self.options.workers
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
                self._finish_without(follower, taken.skipped, FINISH_SKIPPED)
            except OSError:
                follower.queue.put_back(taken.skipped, now_ms + AGAIN_MS, partial=True)
            else:
                follower.queue.done(taken.skipped, ran=False)
        if not taken.events:
            return False
        begun = self._begin(follower, taken.events)
        if begun is not None:
            started.append(begun)
            self.running[begun.run.id] = begun
        return True

    def _begin(self, follower: Follower, events: list[Pending]) -> Started | None:
        version = follower.definition_of(events[0].definition)
        binding = version.binding
        too_far = [pending for pending in events if pending.event.hops > binding.hops]
        if too_far:
            message = f"{binding.hops} hops from {too_far[0].event.root}; does it feed itself?"
            others = [pending for pending in events if pending not in too_far]
            self._give_up(follower, version, too_far, Failed("hops", message), partial=bool(others))
            if others:
                follower.queue.put_back(others, 0)
            return None
        try:
            script = self._script(follower, version)
        except LoadFailed as error:
            failure = Failed("load", str(error), error.traceback)
            self._failed(follower, version, events, failure)
            return None
        self.point("run started")
        told = [
            msgspec.structs.replace(pending.event, attempt=pending.attempts + 1)
            for pending in events
        ]
        timestamp = max(event.timestamp for event in told)
        if events[0].fresh:
            timestamp = self.store.now()
        deliveries = self.store.deliveries
        states = {
            key: state
            for key in dict.fromkeys(event.key for event in told)
            if (state := deliveries.state(*follower.key, spelt(key))) is not None
        }
        run = Run(
            f"{told[0].id}~{told[0].attempt}" + (f"+{len(told) - 1}" if len(told) > 1 else ""),
            script, binding.handler, binding.name, told, timestamp, binding.batch > 1,
            binding.timeout_ms, binding.memory_bytes, binding.sandbox, binding.runtime,
            binding.inflight, binding.emit, states, self._cut_directory(script, timestamp),
        )  # fmt: skip
        who = Identity(script.uid, script.gid, script.groups)
        cut = StoreCut(self.store, follower.base, timestamp, who)
        self.report.started(follower, run)
        return Started(run, cut, events, follower, version)

    def _cut_directory(self, script: Script, timestamp: int) -> str | None:
        if self.options.mountpoint is None:
            return None
        below = f"/{script.base_path}" if script.base_path else ""
        return f"{self.options.mountpoint}/.cascade/at/{timestamp_text(timestamp)}{below}"

    def _script(self, follower: Follower, definition: Definition) -> Script:
        key = (follower.base, definition.script_id)
        script = self._scripts.get(key)
        if script is None:
            path = self.base_path(follower.base, definition.timestamp)
            found = self.library.find(follower.base, path, definition.script, definition.timestamp)
            groups = self.options.groups_of(found.script.uid, found.script.gid)
            script = msgspec.structs.replace(found.script, groups=groups)
            self._scripts[key] = script
        return script

    def base_path(self, base: int, timestamp: int) -> str:
        """A directory's path from the root of the store, for people."""
        chain = Paths(self.store).chain(base, timestamp)
        path = chain[-1][1] if chain else b"?"
        return path.rstrip(b"/").decode(errors="surrogateescape")

    def finish(self, started: Started, result: Done | Failed) -> None:
        """A run ended: make its effects part of the log, or see to it that it is tried again or given up."""
        run, events, follower = started.run, started.events, started.follower
        definition = started.definition
        self.running.pop(run.id, None)
        self._until_look -= len(events)
        self.schedule.ran(follower.key, result.duration_ns / 1e6)
        self.report.ended(follower, run, result)
        if isinstance(result, Failed):
            self._failed(follower, definition, events, result)
            return
        marked = [pending for pending in events if pending.event.id in result.failed]
        good = [pending for pending in events if pending.event.id not in result.failed]
        if good:
            failure = self._commit(started, good, result)
            if failure is not None:
                self._failed(follower, definition, events, failure)
                return
            follower.queue.done(good, partial=bool(marked))
            self.point("queue updated")
        for index, pending in enumerate(marked):
            reason = Failed("exception", result.failed[pending.event.id], output=result.output)
            pending.group_max = 1
            more = index < len(marked) - 1
            self._failed(follower, definition, [pending], reason, partial=more)

    def _commit(self, started: Started, good: list[Pending], result: Done) -> Failed | None:
        """One record for all that a run did; what was wrong with it, if anything."""
        try:
            return self._commit_or_raise(started, good, result)
        except OSError as error:
            # The disk is full, or worse: nothing was committed, and it may be better later.
            return Failed("retry", f"the log could not take it: {error}", after_ms=AGAIN_MS)

    def _commit_or_raise(
        self, started: Started, good: list[Pending], result: Done
    ) -> Failed | None:
        run, follower, definition = started.run, started.follower, started.definition
        if result.effects and definition.binding.dispatch == "all":
            return Failed("exception", 'dispatch = "all" forbids effects; every replica runs it')
        keys = {pending.event.key for pending in good}
        states = [(spelt(key), state) for key, state in result.states.items() if key in keys]
        if sum(len(state) for _, state in states) > STATE_BYTES_MAX:
            return Failed(
                "exception", f"state: larger than {STATE_BYTES_MAX >> 20} MiB; use a file"
            )
        try:
            planned = plan(
                self.store, follower.base, Identity(run.script.uid, run.script.gid, run.script.groups),
                result.effects, self.clock.now_ns(), self.options.reserved,
            )  # fmt: skip
        except Conflict as error:
            for pending in good:
                pending.fresh = True
            return Failed("retry", str(error), after_ms=0)
        except EffectRefused as error:
            return Failed("exception", str(error))
        self.point("effects staged")
        outcome = self._propose(
            record.Finish(
                follower.base, follower.name, self._epoch_now(),
                [pending.position for pending in good], FINISH_DONE,
                follower.low(self.intake.head, frozenset(pending.position for pending in good)),
                list(planned.records), planned.conditions,
                list(states),
                provenance.encode(self._provenance(started, good, result, planned.outputs)),
            ),
            planned.payload,
        )  # fmt: skip
        self.point("committed")
        if outcome.reason is not None:
            return Failed(
                "retry",
                f"the commit was refused: {outcome.reason.value}",
                after_ms=AGAIN_MS,
            )
        if self._watcher is not None and planned.records:
            self._watcher.applied(list(planned.records))
        return None

    def _provenance(
        self, started: Started, good: list[Pending], result: Done, outputs: list[tuple[str, int]]
    ) -> provenance.Provenance:
        run, cut, _, _, definition = started
        reads = [
            f"{read.path}@v{read.version}" + ("@latest" if read.latest else "")
            for read in cut.reads
        ]
        events = [pending.event for pending in good]
        first = max(events, key=lambda event: event.hops)
        triggers = [f"{event.path}@v{event.version}" for event in events]
        written = [f"{path}@v{version}" for path, version in outputs]
        kept = provenance.REFERENCES_MAX
        left_out = sum(max(0, len(some) - kept) for some in (triggers, reads, written))
        script = definition.script.decode(errors="surrogateescape")
        return provenance.Provenance(
            run.id, run.binding, run.script.base_path,
            f".cascade/watch/{script}@t={timestamp_text(definition.timestamp)}", definition.script_id,
            triggers[:kept], run.timestamp,
            run.events[0].attempt, first.hops, first.root, reads[:kept], left_out, written[:kept], self.options.node,
            result.started_ns, result.duration_ns, result.result[:TEXT_KEPT],
        )  # fmt: skip

    # --- failure -----------------------------------------------------------------------------------------------

    def _failed(
        self,
        follower: Follower,
        definition: Definition,
        events: list[Pending],
        failure: Failed,
        *,
        partial: bool = False,
    ) -> None:
        """Again, later; or no more. `partial`: others of the same run still have to come back."""
        binding = definition.binding
        now_ms = self.now_ms()
        follower.last_error, follower.last_error_ns = failure.message, self.clock.now_ns()
        if failure.kind in ("reject", "killed", "hops"):
            self._give_up(follower, definition, events, failure, partial=partial)
            return
        if len(events) > 1:
            follower.queue.put_back(events, now_ms + (failure.after_ms or 0), split=True)
            return
        (pending,) = events
        attempts = pending.attempts + 1
        if attempts >= binding.attempts:
            pending.attempts = attempts
            self._give_up(follower, definition, events, failure, partial=partial)
            return
        delay_ms = failure.after_ms
        if delay_ms is None:
            backoff = binding.backoff_ms * BACKOFF_FACTOR**pending.attempts
            delay_ms = round(min(backoff, BACKOFF_MS_MAX) * self._random.uniform(0.8, 1.2))
        pending.attempts = attempts
        self.point("attempt failed")
        with contextlib.suppress(OSError):  # then the count is in memory only
            self._propose(
                record.Attempt(
                    follower.base, follower.name, self._epoch_now(), [pending.position], attempts,
                    now_ms + delay_ms, failure.message.encode(errors="backslashreplace")[:1000],
                )
            )  # fmt: skip
        self.point("attempt noted")
        follower.queue.put_back(events, now_ms + delay_ms, partial=partial)
        self.report.event("retry", follower, pending.event, message=failure.message)

    def _give_up(
        self,
        follower: Follower,
        definition: Definition,
        events: list[Pending],
        failure: Failed,
        *,
        partial: bool = False,
    ) -> None:
        """Dead letters, or a key that stands still. `partial` as in `_failed`."""
        if definition.binding.on_fail == "block" and failure.kind not in ("reject", "hops"):
            follower.queue.block(events, partial=partial)
            self.report.event("blocked", follower, events[0].event, message=failure.message)
            return
        for pending in events:
            letter = provenance.Letter(
                pending.event, pending.address, pending.definition, failure.kind, failure.message[:TEXT_KEPT],
                max(pending.attempts, 1), failure.traceback[-TEXT_KEPT:], failure.output, self.clock.now_ns(),
            )  # fmt: skip
            try:
                self._finish_without(follower, [pending], FINISH_DEAD, provenance.encode(letter))
            except OSError:
                follower.queue.put_back([pending], self.now_ms() + AGAIN_MS, partial=True)
                continue
            self.report.event("dead", follower, pending.event, message=failure.message)
            follower.queue.done([pending], partial=True)
        if not partial:
            follower.queue.ended()

    def skip(self, follower: Follower, pending: Pending) -> None:
        """An event taken out of its queue is done without a run.

        Raises:
            OSError: the log could not take that; the event waits as before.
        """
        try:
            self._finish_without(follower, [pending], FINISH_SKIPPED)
        except OSError:
            follower.queue.put_back([pending], 0, partial=True)
            raise
        follower.queue.done([pending], ran=False)

    def _finish_without(
        self, follower: Follower, events: list[Pending], verdict: int, letter: bytes = b""
    ) -> None:
        """Events are done though nothing was done about them."""
        self._until_look -= len(events)
        positions = [pending.position for pending in events]
        outcome = self._propose(
            record.Finish(
                follower.base, follower.name, self._epoch_now(), positions, verdict,
                follower.low(self.intake.head, frozenset(positions)), letter=letter,
            )
        )  # fmt: skip
        assert outcome.reason is None, "nobody else finishes this consumer's events"
        self.point("given up" if verdict == FINISH_DEAD else "skipped")

    # --- marks -------------------------------------------------------------------------------------------------

    def _epoch_now(self) -> int:
        """This engine's epoch, begun with its first record: what an engine before it still sends is refused."""
        if self._epoch is None:
            epoch = self.store.deliveries.epoch() + 1
            self._propose(record.Adopt(epoch))
            self._epoch = epoch
        return self._epoch

    def _advance(self) -> None:
        """Note how far everybody has come, so that the next start has less to look at; if the log takes it."""
        self.intake.noted = 0
        with contextlib.suppress(OSError):
            self._note_marks()

    def _note_marks(self) -> None:
        epoch = self._epoch_now()
        if self.store.deliveries.consumer(*REGISTRAR) is None:
            self._propose(record.Activate(ROOT, REGISTRAR[1], [(REGISTRAR[1], b"", 0, 0)]))
        waiting = [*self.registry.dirty.values()]
        for base in self.registry.bases.values():
            waiting.extend(problem.timestamp for problem in base.problems.values())
        marks = []
        if not waiting:  # what could not be loaded is looked at again after a start
            marks.append((*REGISTRAR, *self.intake.head))
        marks.extend(
            (*follower.key, *follower.low(self.intake.head))
            for follower in self.registry.followers()
        )
        self._propose(record.Advance(epoch, marks))

    def _propose(self, proposal: Record, payload: list[memoryview] | None = None) -> Outcome:
        return self.store.propose(proposal, payload or ())

    def wanted_since(self) -> int | None:
        """From which timestamp on runs to come may read history; None if none are pending.

        No further back than each binding's `max_lag`: what is older may be let go, and its events then fail.
        """
        now_us = self.clock.now_ns() // 1000
        wanted = []
        for follower in self.registry.followers():
            oldest = follower.queue.oldest()
            since = oldest.event.timestamp if oldest is not None else None
            if not follower.live:
                since = min(follower.scanned, since or follower.scanned)
            if since is not None:
                wanted.append(max(since, now_us - follower.queue.binding.max_lag_ms * 1000) - 1)
        return min(wanted, default=None)

    # --- versions ----------------------------------------------------------------------------------------------

    def activated(self, base: int, owner: bytes) -> None:
        """The store has new versions of a script's bindings: take them up."""
        deliveries = self.store.deliveries
        for _, name, consumer in deliveries.consumers(base):
            if consumer.owner != owner or (base, name) == REGISTRAR:
                continue
            follower = self.registry.get((base, name))
            if follower is None:
                self._take_up((base, name))
                continue
            for since, row in reversed(deliveries.definitions(base, name)):
                if since > follower.since:
                    follower.define(since, row)
        self._reloaded = True
        self._until_look = 0
        if base in self.registry.bases:
            self.registry.bases[base].rebuild()

    def take_unused(self) -> list[str]:
        """The versions of scripts that ran and will not run again, each told once; for `Runner.retire`."""
        if not self._reloaded or self._until_look > 0:
            return []
        followers = list(self.registry.followers())
        if (
            most := max((len(follower.queue) for follower in followers), default=0)
        ) > UNUSED_EVENTS_MAX:
            self._until_look = most - UNUSED_EVENTS_MAX
            return []
        used = {
            definition.script_id
            for follower in followers
            for definition in (
                follower.newest if follower.active else None,
                *(follower.definition_of(one.definition) for one in follower.queue.events()),
            )
            if definition is not None
        }
        unused = [key for key in self._scripts if key[1] not in used]
        self._until_look = sum(len(follower.queue) for follower in followers)
        self._reloaded = self._until_look > 0
        for key in unused:
            del self._scripts[key]
        return [script_id for _, script_id in unused]
