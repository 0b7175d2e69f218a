"""Loading: scripts that are new, changed or gone become bindings that are active, or a problem that is told.

A base that is dirty is looked at as a whole, at one timestamp. A script whose code is what is active already is left
alone. What a module registers only running it can tell, so a `Job` goes to a runner and comes back; everything else is
decided here. All bindings of a script become active by one record, so nothing is ever half registered; a script with
any mistake leaves what was active as it was.

Source: docs/TRIGGERS.md 2, 10.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from storage import record
from triggers.binding import AFFINITY, BadBinding, Binding, validate
from triggers.follower import Definition, encode_definition
from triggers.registry import Base, Problem
from triggers.run import LoadFailed

if TYPE_CHECKING:
    from triggers.engine import Engine
    from triggers.library import Found

__all__ = ["Job", "Loading"]

BINDINGS_MAX = 1000
"""Of one script."""


class Job(NamedTuple):
    """A script to be asked what it registers; comes back with `Loading.loaded`."""

    base: int
    name: bytes
    timestamp: int
    found: Found


class Loading:
    """Keeps an engine's bindings as its scripts say."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: set[tuple[int, bytes]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be looked at and no script is being asked."""
        return not self._engine.registry.dirty and not self._under_way

    def jobs(self) -> list[Job]:
        """Look at the dirty bases; what only running a module can tell comes back as jobs."""
        engine = self._engine
        jobs: list[Job] = []
        for base, since in list(engine.registry.dirty.items()):
            if any(busy == base for busy, _ in self._under_way):
                continue  # changed again while it is being loaded: when that is over
            del engine.registry.dirty[base]
            jobs.extend(self._look(base, since))
        self._under_way.update((job.base, job.name) for job in jobs)
        return jobs

    def _look(self, base: int, since: int) -> list[Job]:
        engine = self._engine
        timestamp = engine.store.now()
        names = engine.library.names(base, timestamp)
        known = engine.registry.bases.get(base)
        if known is not None:
            for gone in set(known.problems) - set(names):
                del known.problems[gone]
        for owner in self._owners(base) - set(names):
            try:
                self._activate(base, owner, [])
            except LoadFailed as error:
                self._problem(base, owner, since, error)
        jobs = []
        for name in names:
            try:
                path = engine.base_path(base, timestamp)
                found = engine.library.find(base, path, name, timestamp)
                if self._is_active(base, name, found.script.id):
                    self._solved(base, name)
                elif found.tables is None:
                    jobs.append(Job(base, name, timestamp, found))
                else:
                    self._register(Job(base, name, timestamp, found), found.tables)
            except LoadFailed as error:
                self._problem(base, name, since, error)
        return jobs

    def loaded(self, job: Job, tables: list[dict[str, object]] | LoadFailed) -> None:
        """A script has said what it registers, or why it cannot."""
        self._under_way.discard((job.base, job.name))
        try:
            if isinstance(tables, LoadFailed):
                raise tables
            self._register(job, tables)
        except LoadFailed as error:
            self._problem(job.base, job.name, job.timestamp, error)

    def _register(self, job: Job, tables: list[dict[str, object]]) -> None:
        script = job.found.script
        bindings = self._bindings(script.name, script.base_path, tables)
        engine = self._engine
        consumers = []
        for binding in bindings:
            definition = Definition(binding, job.name, script.id, job.timestamp)
            match binding.start:
                case "now":
                    low = (engine.store.now(), engine.intake.head[1])
                case "start":
                    low = (0, 0)
                case timestamp:
                    low = (timestamp, engine.store.address_of_time(timestamp))
            name = binding.name.encode(errors="surrogateescape")
            consumers.append((name, encode_definition(definition), *low))
        self._activate(job.base, job.name, consumers)
        self._solved(job.base, job.name)

    def _bindings(
        self, script: str, base_path: str, tables: list[dict[str, object]]
    ) -> list[Binding]:
        if not tables:
            raise LoadFailed('it registers nothing; put @watch("...") before a function')
        if len(tables) > BINDINGS_MAX:
            raise LoadFailed(f"it registers {len(tables)} bindings; {BINDINGS_MAX} are the most")
        seen: Counter[object] = Counter()
        bindings = []
        for table in tables:
            rest = {key: value for key, value in table.items() if key != "handler"}
            handler = table.get("handler")
            seen[handler] += 1
            suffix = f"+{seen[handler]}" if seen[handler] > 1 else ""
            named = str(handler) if handler is not None else None
            try:
                binding = validate(rest, script=script, handler=named, suffix=suffix)
            except BadBinding as error:
                raise LoadFailed(str(error)) from error
            if binding.sandbox == "inproc" and not self._engine.options.may_inproc(base_path):
                raise LoadFailed(
                    f'{binding.name}: sandbox = "inproc" is for directories an administrator listed'
                )
            if binding.key == AFFINITY and self._engine.options.affinity is None:
                raise LoadFailed(
                    f'{binding.name}: affinity groups are of a cluster\'s pools; write key = "dir" or "group:NAME" here'
                )
            if binding.gang > self._engine.options.gang_max:
                raise LoadFailed(
                    f"{binding.name}: gang = {binding.gang}, and this node has {self._engine.options.gang_max} workers at most"
                )
            there = self._engine.options.cuda_devices() if binding.gpus else 0
            if binding.gpus > there:
                raise LoadFailed(
                    f"{binding.name}: gpu = {binding.gpus}, and this node has {there} CUDA devices (/dev/nvidia0 ...); "
                    f"without the key it runs anywhere, and ctx.gpu gives NumPy arrays where there is none"
                )
            bindings.append(binding)
        return bindings

    # --- leaves ------------------------------------------------------------------------------------------------

    def _owners(self, base: int) -> set[bytes]:
        """The scripts that have active bindings here; a replay belongs to none."""
        consumers = self._engine.store.deliveries.consumers(base)
        return {
            consumer.owner
            for _, _, consumer in consumers
            if consumer.active and not consumer.owner.startswith(REPLAY) and consumer.owner != b"."
        }

    def _is_active(self, base: int, script: bytes, script_id: str) -> bool:
        known = self._engine.registry.bases.get(base)
        if known is None:
            return False
        return any(
            follower.active
            and (newest := follower.newest) is not None
            and newest.script == script
            and newest.script_id == script_id
            and not newest.until
            for follower in known.followers.values()
        )

    def _activate(
        self, base: int, owner: bytes, consumers: list[tuple[bytes, bytes, int, int]]
    ) -> None:
        engine = self._engine
        engine.point("activating")
        try:
            outcome = engine.store.propose(record.Activate(base, owner, consumers))
        except OSError as error:
            raise LoadFailed(f"the log could not take it: {error}") from error
        engine.point("activated")
        if outcome.reason is None:
            engine.activated(base, owner)
            names = [name.decode(errors="replace") for name, *_ in consumers]
            engine.report.line(
                base, "reload", script=owner.decode(errors="replace"), bindings=names
            )

    def _problem(self, base: int, name: bytes, timestamp: int, error: LoadFailed) -> None:
        bases = self._engine.registry.bases
        known = bases.setdefault(base, Base(base))
        known.problems[name] = Problem(str(error), error.traceback, timestamp)
        text = name.decode(errors="replace")
        self._engine.report.line(base, "load-failed", script=text, message=str(error))

    def _solved(self, base: int, name: bytes) -> None:
        known = self._engine.registry.bases.get(base)
        if known is not None:
            known.problems.pop(name, None)


REPLAY = b"\x01replay "
"""What the owner of a replay begins with: no file of a `watch/` has such a name."""
