"""What people ask of triggers: how they are, and to do something again, later, or not at all.

Commands are one line of words each, as `.cascade/ctl` takes them and the command line sends them:

    retry EVENT | retry --as-was EVENT | drop EVENT | skip EVENT | pause BINDING | resume BINDING | kill RUN
    replay BINDING from TIME to TIME | replay BINDING events EVENT EVENT ... | remake PATH of TIME

A binding may be named by its script's name alone, or by base and name ("farm/thumbs.sh"), if that means one.

Source: docs/TRIGGERS.md 4, 9, 11.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from storage import record
from storage.namespace import ROOT
from triggers import provenance
from triggers.replay import Replays, Unmakeable

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.chronicle import Chronicle
    from triggers.engine import Engine
    from triggers.follower import Follower
    from triggers.provenance import Letter
    from triggers.queue import Position

__all__ = ["BadCommand", "Operator", "bases_text", "event_position", "metrics_of"]

_SPAN = re.compile(r"(.+) from (\S+) to (\S+)")
_EVENTS = re.compile(r"(.+) events ([0-9. ]+)")
_REMAKE = re.compile(r"(.+) of (\S+)")
_POSITION = re.compile(r"([0-9]{1,19})\.([0-9]{1,9})")

AS_WAS = "--as-was "

RUNNING_PATHS_MAX = 4
"""Shown of what a run is about; a batch may be of thousands."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadCommand(ValueError):
    """A command cannot be done; the message says why and what would do."""


class Operator:
    """Commands and answers over one engine. Whoever calls holds the store."""

    unknown: frozenset[bytes] = frozenset()
    """What of all that is served beside scripts cannot be told."""

    def __init__(self, engine: Engine, kill: Callable[[str], bool]) -> None:
        """`kill` ends a run and says whether there was one."""
        self._engine = engine
        self._kill = kill
        self.replays = Replays(engine)

    # --- commands ----------------------------------------------------------------------------------------------

    def command(self, line: str, base: int = ROOT) -> None:
        """Do what one line says.

        Args:
            line: as above.
            base: where it was said: only the bindings there can be meant, in the root's all.

        Raises:
            BadCommand: it says nothing known, or names what is not there.
        """
        word, _, name = line.strip().partition(" ")
        match word:
            case "retry" | "drop":
                as_was = word == "retry" and name.startswith(AS_WAS)
                event = self._event(name.removeprefix(AS_WAS) if as_was else name, base)
                self.rearm(*event, again=word == "retry", as_was=as_was)
            case "skip":
                self._skip(*self._event(name, base))
            case "pause" | "resume":
                self._engine.pause(self.binding(name, base), paused=word == "pause")
            case "kill":
                started = self._engine.running.get(name)
                mine = started is not None and base in (ROOT, started.follower.base)
                if not mine or not self._kill(name):
                    raise BadCommand(f"no run {name} is under way; .cascade/status lists them")
            case "replay" if said := _SPAN.fullmatch(name):
                since, until = self._instant(said[2]), self._instant(said[3])
                if until < since:
                    raise BadCommand("a replay goes from the earlier to the later time")
                self.replays.begin(self.binding(said[1], base), since, until)
            case "replay" if said := _EVENTS.fullmatch(name):
                self._replay(self.binding(said[1], base), said[2].split())
            case "remake" if said := _REMAKE.fullmatch(name):
                self._remake(said[1], self._instant(said[2]), base)
            case _:
                raise BadCommand(
                    f"{line.strip()!r}: say retry, drop or skip EVENT; pause or resume BINDING; kill RUN; "
                    f"replay BINDING from TIME to TIME, or events EVENT EVENT; or remake PATH of TIME"
                )
        self._engine.report.line(base, "command", line=line.strip())
        self._engine.wake()

    def refused(self, line: str, why: str, base: int) -> None:
        """A command was not done: say why where whoever gave it can read it."""
        self._engine.report.line(base, "refused", line=line.strip(), message=why)

    def binding(self, name: str, base: int = ROOT) -> Follower:
        """The binding that a name means, of a base or (the root's) of all.

        Raises:
            BadCommand: there is none, or several.
        """
        known = [one for one in self._engine.registry.followers() if base in (ROOT, one.base)]
        exact = [one for one in known if name in (one.text, self._full_name(one))]
        found = exact or [one for one in known if one.active and one.text.partition(":")[0] == name]
        if len(found) == 1:
            return found[0]
        if not found:
            raise BadCommand(f"there is no binding {name}; .cascade/status lists them")
        names = ", ".join(self._full_name(follower) for follower in found)
        raise BadCommand(f"{name} may be {names}; say which")

    def _full_name(self, follower: Follower) -> str:
        path = self._engine.base_path(follower.base, self._engine.store.now())
        return f"{path}/{follower.text}" if path else follower.text

    def _event(self, name: str, base: int) -> tuple[Follower, Position]:
        """An event by its id, BASE/BINDING/TIMESTAMP.ORDINAL, or BINDING/TIMESTAMP.ORDINAL."""
        above, position = event_position(name)
        for follower in self._engine.registry.followers():
            if base in (ROOT, follower.base) and follower.event_id(position) == name:
                return follower, position
        return self.binding(above, base), position

    def rearm(
        self, follower: Follower, position: Position, *, again: bool, as_was: bool = False
    ) -> None:
        """Do a dead letter, or what holds up its key, again; or forget it.

        Args:
            follower: whose.
            position: of the event.
            again: or forget it.
            as_was: with the script that it was given up by, not with the newest; what holds up its key has it anyway.

        Raises:
            BadCommand: there is no such dead letter.
        """
        engine = self._engine
        blocked = next((p for p in follower.queue.blocked() if p.position == position), None)
        if blocked is not None:
            if again:
                follower.queue.unblock(blocked)
            else:
                self._skip(follower, position)
            return
        letter = engine.store.deliveries.letter(*follower.key, position)
        if letter is not None and as_was:
            given_up_by = provenance.decode_letter(letter).definition
            if all(since != given_up_by for since, _ in follower.definitions):
                raise BadCommand(f"{position[0]}.{position[1]}: what it ran with is not known")
        outcome = engine.store.propose(record.Rearm(*follower.key, [position], again, as_was))
        if outcome.reason is not None or letter is None:
            name = follower.event_id(position)
            raise BadCommand(f"{name} is not among the dead letters")
        if again:
            engine.rearm(follower, position, letter, as_was=as_was)
            engine.wake()

    def _skip(self, follower: Follower, position: Position) -> None:
        pending = follower.queue.find(position)
        if pending is None or not follower.queue.withdraw(pending):
            name = follower.event_id(position)
            raise BadCommand(f"{name} is not waiting; what runs can be killed")
        self._engine.skip(follower, pending)

    def _replay(self, follower: Follower, places: list[str]) -> None:
        positions = []
        for place in places:
            said = _POSITION.fullmatch(place)
            if said is None:
                raise BadCommand(f"{place} is no event; they look like 1763719200000000.0")
            positions.append((int(said[1]), int(said[2])))
        since, until = min(positions)[0] - 1, max(positions)[0]
        self.replays.begin(follower, since, until, positions)

    def _remake(self, path: str, timestamp: int, base: int) -> None:
        try:
            self.replays.remake(None if base == ROOT else base, path, timestamp)
        except Unmakeable as error:
            raise BadCommand(str(error)) from error

    def _instant(self, text: str) -> int:
        """A time as people write it (UTC), "now", or microseconds."""
        if text == "now":
            return self._engine.store.now()
        if text.isdigit() and len(text) > 11:
            return int(text)
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise BadCommand(f"{text} is no time; write 2026-01-05T10:00, or now") from None
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        return round((parsed - EPOCH).total_seconds() * 1_000_000)

    # --- answers -----------------------------------------------------------------------------------------------

    def letters(self, follower: Follower) -> list[tuple[str, Letter]]:
        """The dead letters of a binding, oldest first, by the name of their directory in `failed/`."""
        deliveries = self._engine.store.deliveries
        found = []
        for position in deliveries.letters(*follower.key):
            row = deliveries.letter(*follower.key, position)
            if row is not None:
                found.append((f"{position[0]}.{position[1]}", provenance.decode_letter(row)))
        return found

    def events(self, base: int) -> Chronicle:
        """The stream of what happens in a base; in the root's, of everything."""
        report = self._engine.report
        return report.events if base == ROOT else report.events_of(base)

    def followers(self, base: int) -> list[Follower]:
        """The bindings of a base."""
        known = self._engine.registry.bases.get(base)
        return list(known.followers.values()) if known is not None else []

    def status(self, only: int | None = None) -> dict[str, object]:
        """How every binding is, or those of one base, JSON-able."""
        engine = self._engine
        now_us = engine.clock.now_ns() // 1000
        bases = []
        for base in engine.registry.bases.values():
            if only not in (None, base.inode):
                continue
            bindings = [
                self._binding_status(follower, now_us) for follower in base.followers.values()
            ]
            problems = {
                name.decode(errors="replace"): {
                    "message": problem.message,
                    "traceback": problem.traceback,
                }
                for name, problem in base.problems.items()
            }
            bases.append(
                {
                    "path": engine.base_path(base.inode, engine.store.now()),
                    "bindings": bindings,
                    "problems": problems,
                    "warnings": base.warnings,
                }
            )
        return {
            "running": [
                {
                    "run": run_id,
                    "binding": one.follower.text,
                    "base": engine.base_path(one.follower.base, engine.store.now()),
                    "paths": [event.path for event in one.run.events[:RUNNING_PATHS_MAX]],
                    "timestamp": one.run.events[0].timestamp,
                }
                for run_id, one in engine.running.items()
                if only in (None, one.follower.base)
            ],
            "bases": bases,
        }

    def _binding_status(self, follower: Follower, now_us: int) -> dict[str, object]:
        consumer = self._engine.store.deliveries.consumer(*follower.key)
        newest = follower.newest
        assert consumer is not None
        assert newest is not None
        oldest = follower.queue.oldest()
        durations = sorted(follower.durations_ms)
        stalled = self._engine.lag.stalled(follower)
        return {
            "name": follower.text,
            "state": _state(follower, is_stalled=stalled is not None),
            "stalled": stalled._asdict() if stalled is not None else None,
            "script": newest.script_id,
            "watch": list(newest.binding.watch),
            "pending": len(follower.queue),
            "lag_s": round(max(0, now_us - oldest.event.timestamp) / 1e6, 3) if oldest else 0.0,
            "running": follower.queue.running,
            "done": consumer.done,
            "skipped": consumer.skipped,
            "failed": len(self._engine.store.deliveries.letters(*follower.key)),
            "retries": consumer.retries,
            "p50_ms": round(durations[len(durations) // 2], 3) if durations else None,
            "p99_ms": round(durations[len(durations) * 99 // 100], 3) if durations else None,
            "last_error": follower.last_error,
        }

    def status_text(self, only: int | None = None) -> str:
        """For people: a line for each binding, and what is wrong."""
        lines = bases_text(self.status(only))
        return "\n".join(lines or ["no scripts: put one into DIRECTORY/.cascade/watch/"]) + "\n"

    def metrics(self, only: int | None = None) -> str:
        """Prometheus text (exposition format 0.0.4)."""
        return metrics_of(self.status(only))


def bases_text(status: dict[str, object]) -> list[str]:
    """What a status says, as lines for people; nothing for what is not known."""
    lines = []
    for base in status["bases"]:  # type: ignore[attr-defined]  # as made above
        lines.append(f"/{base['path']}" + (f" (shard {base['shard']})" if "shard" in base else ""))
        for one in base["bindings"]:
            waits = (
                f"pending {one['pending']} ({one['lag_s']} s)  running {one['running']}  "
                if one["pending"] is not None
                else ""
            )
            lines.append(
                f"  {one['name']:<32} {one['state']:<10} {waits}done {one['done']}  skipped {one['skipped']}  "
                f"failed {one['failed']}  {_durations(one)}script {one['script'][:8]}  "
                f"{' '.join(one['watch'])}"
            )
            if one["stalled"]:
                lines.append(f"    stalled: {_stalled_text(one['stalled'])}")
            if one["last_error"]:
                lines.append(f"    last error: {one['last_error']}")
        for name, problem in base["problems"].items():
            lines.append(f"  {name}: not active: {problem['message']}")
            lines += [f"    {line}" for line in problem["traceback"].splitlines()]
        lines += [f"  warning: {warning}" for warning in base["warnings"]]
    return lines


def metrics_of(status: dict[str, object]) -> str:
    """What a status says, as Prometheus text (exposition format 0.0.4); nothing for what is not known."""
    figures = {
        "pending": ("gauge", "Events not done."),
        "lag_s": ("gauge", "Age of the oldest event not done, in seconds."),
        "running": ("gauge", "Runs under way."),
        "done": ("counter", "Events done."),
        "skipped": ("counter", "Events skipped because they were superseded."),
        "failed": ("gauge", "Dead letters."),
        "retries": ("counter", "Attempts that failed and were tried again."),
    }
    known = [
        (f"base={_label(base['path'])},binding={_label(one['name'])}", one)
        for base in status["bases"]  # type: ignore[attr-defined]  # as made above
        for one in base["bindings"]
    ]
    lines = []
    for key, (kind, said) in figures.items():
        name = f"cascadefs_trigger_{key.replace('_s', '_seconds') if key == 'lag_s' else key}"
        name += "_total" if kind == "counter" else ""
        lines += [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{labels}}} {one[key]}" for labels, one in known if one[key] is not None]
    name = "cascadefs_trigger_run_seconds"
    lines += [f"# HELP {name} Duration of the last 256 runs.", f"# TYPE {name} gauge"]
    lines += [
        f'{name}{{{labels},quantile="{quantile}"}} {one[key] / 1000:.6f}'
        for labels, one in known
        for key, quantile in (("p50_ms", "0.5"), ("p99_ms", "0.99"))
        if one[key] is not None
    ]
    return "\n".join(lines) + "\n"


def event_position(name: str) -> tuple[str, Position]:
    """(binding, place) that an event's name says.

    Raises:
        BadCommand: it is none.
    """
    above, _, place = name.rpartition("/")
    said = _POSITION.fullmatch(place)
    if said is None:
        raise BadCommand(f"{name} is no event; they look like thumbs.sh/1763719200000000.0")
    return above, (int(said[1]), int(said[2]))


def _state(follower: Follower, *, is_stalled: bool) -> str:
    words = ["active" if follower.active else "retired"]
    if follower.queue.paused:
        words = ["paused"]
    if follower.queue.blocked():
        words = ["blocked"]
    if is_stalled:
        words = ["stalled"] if words == ["active"] else [*words, "stalled"]
    if not follower.live:
        words.append("catching up")
    return ", ".join(words)


def _durations(one: dict[str, object]) -> str:
    return f"p50 {one['p50_ms']} ms  p99 {one['p99_ms']} ms  " if one["p50_ms"] is not None else ""


def _stalled_text(stalled: dict[str, object]) -> str:
    """What it means, and what to do."""
    return (
        f"the oldest event has waited longer than max_lag keeps its history; {stalled['lost']} versions are gone, "
        f"the oldest that can be read is {stalled['reachable'] or 'none of the first thousand'}"
    )


def _label(text: str) -> str:
    """The value of a Prometheus label, quoted."""
    plain = text.encode(errors="backslashreplace").decode()
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
