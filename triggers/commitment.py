"""The commitment: all that a run did becomes one record, with the note that its events are done.

Effects are planned against the tree of now, by whoever holds the store; so the record is refused only for what cannot be
seen from there. Where others propose, too, that is what they did in the meantime: then it is planned again.

Source: docs/TRIGGERS.md 7, 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage import record
from storage.errors import Reason
from storage.namespace.deliveries import FINISH_DONE
from triggers import provenance
from triggers.access import Identity
from triggers.effects import Conflict, EffectRefused, plan
from triggers.run import Failed, timestamp_text
from triggers.spelling import spelt
from triggers.verdict import AGAIN_MS, TEXT_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.clock import Clock
    from storage.store import Store
    from triggers.effects import Plan
    from triggers.marks import Marks
    from triggers.options import Options, Watcher
    from triggers.queue import Pending
    from triggers.run import Done
    from triggers.start import Started

__all__ = ["Commitment"]

PLANS_MAX = 16
"""Of one run, where others change what it writes between the plan and the record: behind that the run fails, and is tried again."""

STATE_BYTES_MAX = 1024 * 1024
"""That one run leaves: it is read whole by the next run of each key."""

LARGE = "what the run did, and what it read, is more than one record holds; do it in several"


class Commitment:
    """Of one engine. Whoever calls holds the store."""

    def __init__(
        self,
        store: Store,
        marks: Marks,
        clock: Clock,
        options: Options,
        point: Callable[[str], None],
        watcher: Watcher | None,
    ) -> None:
        """See `Engine` for the arguments."""
        self._store = store
        self._marks = marks
        self._clock = clock
        self._options = options
        self._point = point
        self._watcher = watcher

    def commit(self, started: Started, good: list[Pending], result: Done) -> Failed | None:
        """One record for all that a run did; what was wrong with it, if anything."""
        try:
            failure = self._commit_or_raise(started, good, result)
        except OSError as error:
            # The disk is full, or worse: nothing was committed, and it may be better later.
            failure = Failed("retry", f"the log could not take it: {error}", after_ms=AGAIN_MS)
        if failure is None:
            return None
        return msgspec.structs.replace(
            failure,
            output=result.output,
            log=result.log,
            started_ns=result.started_ns,
            duration_ns=result.duration_ns,
        )

    def _commit_or_raise(
        self, started: Started, good: list[Pending], result: Done
    ) -> Failed | None:
        run, follower, definition = started.run, started.follower, started.definition
        effects = result.effects
        if definition.outputs:
            effects = [effect for effect in effects if effect.path in definition.outputs]
        if result.effects and definition.binding.dispatch == "all":
            return Failed("exception", 'dispatch = "all" forbids effects; every replica runs it')
        keys = {pending.event.key for pending in good}
        states = [(spelt(key), state) for key, state in result.states.items() if key in keys]
        if sum(len(state) for _, state in states) > STATE_BYTES_MAX:
            return Failed(
                "exception", f"state: larger than {STATE_BYTES_MAX >> 20} MiB; use a file"
            )
        options = self._options
        who = Identity(run.script.uid, run.script.gid, run.script.groups)
        shard = options.shard if options.is_shared else None
        reason = None
        for _ in range(PLANS_MAX if options.is_shared else 1):
            try:
                planned = plan(
                    self._store, follower.base, who, effects, self._clock.now_ns(), options.reserved, shard
                )  # fmt: skip
            except Conflict as error:
                for pending in good:
                    pending.fresh = True
                return Failed("retry", str(error), after_ms=0)
            except EffectRefused as error:
                return Failed("exception", str(error))
            self._point("effects staged")
            outcome = self._marks.propose(
                self._finish(started, good, result, planned, states), planned.payload
            )
            self._point("committed")
            reason = outcome.reason
            if reason is None:
                if self._watcher is not None and planned.records:
                    self._watcher.applied(list(planned.records))
                return None
            if reason is Reason.ARGUMENT_TOO_LARGE:
                return Failed("exception", LARGE)
        assert reason is not None, "it was proposed at least once"
        return Failed("retry", f"the commit was refused: {reason.value}", after_ms=AGAIN_MS)

    def _finish(
        self,
        started: Started,
        good: list[Pending],
        result: Done,
        planned: Plan,
        states: list[tuple[str, bytes]],
    ) -> record.Finish:
        follower = started.follower
        # Where others propose too, somebody's record may come in front of this one: then it does nothing.
        guards = planned.guards if self._options.is_shared else []
        return record.Finish(
            follower.base, follower.name, self._marks.epoch(),
            [pending.position for pending in good], FINISH_DONE,
            self._marks.low(follower, (pending.position for pending in good)),
            [*guards, *planned.records], planned.conditions, list(states),
            provenance.encode(self._provenance(started, good, result, planned.outputs)),
        )  # fmt: skip

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
            run.events[0].attempt, first.hops, first.root, reads[:kept], left_out, written[:kept], result.node or self._options.node,
            result.started_ns, result.duration_ns, result.result[:TEXT_KEPT],
        )  # fmt: skip
