"""The start of a run: events that were taken from a queue become something that a runner can execute.

Source: docs/TRIGGERS.md 5, 6, 9 (hops, long paths).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from triggers.access import Identity
from triggers.cut import StoreCut
from triggers.run import PATH_CHARACTERS_MAX, Failed, LoadFailed, Run, timestamp_text
from triggers.spelling import spelt

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.store import Store
    from triggers.follower import Definition, Follower
    from triggers.options import Options
    from triggers.queue import Pending
    from triggers.repertoire import Repertoire
    from triggers.report import Report
    from triggers.run import Event, Script
    from triggers.verdict import Verdicts

__all__ = ["Start", "Started"]


class Started(NamedTuple):
    """A run that was given out; comes back with `Engine.finish`."""

    run: Run
    cut: StoreCut
    events: list[Pending]
    follower: Follower
    definition: Definition


class Start:
    """Of one engine. Whoever calls holds the store."""

    def __init__(
        self,
        store: Store,
        repertoire: Repertoire,
        verdicts: Verdicts,
        report: Report,
        options: Options,
        point: Callable[[str], None],
    ) -> None:
        """See `Engine` for the arguments."""
        self._store = store
        self._repertoire = repertoire
        self._verdicts = verdicts
        self._report = report
        self._options = options
        self._point = point

    def begin(self, follower: Follower, events: list[Pending]) -> Started | None:
        """The run of these events; None if there is none, and they have their verdict."""
        version = follower.definition_of(events[0].definition)
        binding = version.binding
        hopeless = {
            pending.position: why
            for pending in events
            if (why := _hopeless(pending.event, binding.hops)) is not None
        }
        if hopeless:
            others = [pending for pending in events if pending.position not in hopeless]
            left = len(events)
            for pending in events:
                if (why := hopeless.get(pending.position)) is not None:
                    left -= 1
                    self._verdicts.give_up(follower, version, [pending], why, partial=left > 0)
            if others:
                follower.queue.put_back(others, 0)
            return None
        try:
            script = self._repertoire.script(follower, version)
        except LoadFailed as error:
            failure = Failed("load", str(error), error.traceback)
            self._verdicts.failed(follower, version, events, failure)
            return None
        self._point("run started")
        told = [
            msgspec.structs.replace(pending.event, attempt=pending.attempts + 1)
            for pending in events
        ]
        timestamp = version.cut or max(event.timestamp for event in told)
        if events[0].fresh:
            timestamp = self._store.now()
        deliveries = self._store.deliveries
        states = {
            key: state
            for key in dict.fromkeys(event.key for event in told)
            if (state := deliveries.state(*follower.key, spelt(key))) is not None
        }
        run = Run(
            f"{told[0].id}~{told[0].attempt}" + (f"+{len(told) - 1}" if len(told) > 1 else ""),
            script, binding.handler, binding.name, told, timestamp, binding.batch > 1,
            binding.timeout_ms, binding.memory_bytes, binding.sandbox, binding.runtime,
            binding.inflight, binding.emit, states, self._cut_directory(script, timestamp), binding.gang, binding.gpus,
        )  # fmt: skip
        who = Identity(script.uid, script.gid, script.groups)
        cut = StoreCut(self._store, follower.base, timestamp, who)
        self._report.started(follower, run)
        return Started(run, cut, events, follower, version)

    def _cut_directory(self, script: Script, timestamp: int) -> str | None:
        options = self._options
        if options.mountpoint is None or not options.may_enter(script.uid):
            return None
        below = f"/{script.base_path}" if script.base_path else ""
        return f"{options.mountpoint}/.cascade/at/{timestamp_text(timestamp)}{below}"


def _hopeless(event: Event, hops_max: int) -> Failed | None:
    """Why nothing will ever be run about an event; None: something will."""
    if event.hops > hops_max:
        return Failed("hops", f"{hops_max} hops from {event.root}; does it feed itself?")
    if event.path_characters:
        length = f"its path has {event.path_characters} characters"
        return Failed("path", f"{length}; {PATH_CHARACTERS_MAX} are the most that a run is told")
    return None
