"""What is known of scripts that run elsewhere: from what is in the log, which is here, too.

A mount of a cluster runs no scripts; nodes do. How far bindings are, what failed and why, are rows of each shard that follow from
its records, so they are answered here without asking anybody. Dead letters are done again, or forgotten, by the
same record as elsewhere. What only the engine has, queues, running runs and their output, is not known here.

Source: docs/TRIGGERS.md, "On a cluster".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from storage import record
from storage.errors import Reason, Refused
from storage.namespace import ROOT
from triggers.change import path_of
from triggers.follower import decode_definition
from triggers.marks import PAUSED, REGISTRAR_NAME
from triggers.operator import AS_WAS, BadCommand, bases_text, event_position
from triggers.provenance import decode_letter

if TYPE_CHECKING:
    from storage.namespace.deliveries import Consumer, Deliveries
    from storage.store import Store
    from triggers.chronicle import Chronicle
    from triggers.follower import Definition
    from triggers.provenance import Letter
    from triggers.queue import Position

__all__ = ["Onlooker", "Seen", "filled", "status_text"]

_ENGINES = ("state", "stalled", "pending", "lag_s", "running", "p50_ms", "p99_ms", "last_error")
"""Of a binding's status, what its engine alone knows."""


class Seen(NamedTuple):
    """A binding that is at work elsewhere."""

    base: int
    name: bytes
    consumer: Consumer

    @property
    def text(self) -> str:
        """Its name."""
        return self.name.decode(errors="surrogateescape")

    @property
    def output(self) -> Chronicle:
        """What it printed is where it runs."""
        raise Refused(Reason.UNSUPPORTED)


class Onlooker:
    """As far as it can be, `triggers.operator.Operator` without an engine. Whoever calls holds the store."""

    unknown = frozenset({b"events", b"log", b"metrics"})
    """See `Operator`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- commands ----------------------------------------------------------------------------------------------

    def command(self, line: str, base: int = ROOT) -> None:
        """Do what one line says: `retry` or `drop` a dead letter.

        Raises:
            BadCommand: it names what is not there.
            Refused: UNSUPPORTED for everything else, which only the engine can do.
        """
        word, _, name = line.strip().partition(" ")
        if word not in ("retry", "drop"):
            raise Refused(Reason.UNSUPPORTED)
        as_was = word == "retry" and name.startswith(AS_WAS)
        named, position = event_position(name.removeprefix(AS_WAS) if as_was else name)
        for seen in self.followers(base) if base != ROOT else self._all():
            known = (seen.text, f"{seen.base:x}/{seen.text}", self._full_name(seen))
            if named in known and position in self._deliveries(seen.base).letters(*seen[:2]):
                self.rearm(seen, position, again=word == "retry", as_was=as_was)
                return
        raise BadCommand(f"{name} is not among the dead letters")

    def refused(self, line: str, why: str, base: int) -> None:
        """A command was not done; the stream of events is where scripts run."""

    def rearm(self, seen: Seen, position: Position, *, again: bool, as_was: bool = False) -> None:
        """Have a dead letter done again, where scripts run; or forget it.

        Raises:
            BadCommand: there is no such dead letter.
        """
        view = self._store.view(self._store.shard_of(seen.base))
        proposal = record.Rearm(seen.base, seen.name, [position], again, as_was)
        if view.propose(proposal).reason is not None:
            raise BadCommand(f"{position[0]}.{position[1]} is not among the dead letters")

    # --- answers -----------------------------------------------------------------------------------------------

    def followers(self, base: int) -> list[Seen]:
        """The bindings of a base."""
        found = self._deliveries(base).consumers(base)
        return [Seen(*one) for one in found if one[1] != REGISTRAR_NAME]

    def letters(self, seen: Seen) -> list[tuple[str, Letter]]:
        """The dead letters of a binding, oldest first, by the name of their directory in `failed/`."""
        deliveries = self._deliveries(seen.base)
        found = []
        for position in deliveries.letters(seen.base, seen.name):
            row = deliveries.letter(seen.base, seen.name, position)
            if row is not None:
                found.append((f"{position[0]}.{position[1]}", decode_letter(row)))
        return found

    def events(self, base: int) -> Chronicle:
        """The stream of what happens is where scripts run."""
        raise Refused(Reason.UNSUPPORTED)

    def status(self, only: int | None = None) -> dict[str, object]:
        """How every binding is, or those of one base, JSON-able; None for what only the engine knows."""
        bases: dict[int, list[dict[str, object]]] = {}
        for seen in self._all() if only is None else self.followers(only):
            bases.setdefault(seen.base, []).append(self._binding_status(seen))
        return {
            "where": "on the nodes, where node.toml has triggers",
            "bases": [
                {
                    "path": self._path(base),
                    "shard": self._store.shard_of(base),
                    "bindings": bindings,
                    "problems": {},
                    "warnings": [],
                }
                for base, bindings in bases.items()
            ],
        }

    def _binding_status(self, seen: Seen) -> dict[str, object]:
        consumer, newest = seen.consumer, self._newest(seen)
        deliveries = self._deliveries(seen.base)
        return {
            "name": seen.text,
            "state": self._state(seen),
            "stalled": None,
            "script": newest.script_id if newest is not None else "",
            "watch": list(newest.binding.watch) if newest is not None else [],
            "pending": None,
            "lag_s": None,
            "running": None,
            "done": consumer.done,
            "skipped": consumer.skipped,
            "failed": len(deliveries.letters(seen.base, seen.name)),
            "retries": consumer.retries,
            "p50_ms": None,
            "p99_ms": None,
            "last_error": "",
        }

    def status_text(self, only: int | None = None) -> str:
        """For people: where scripts run, and a line for each binding."""
        return status_text(self.status(only))

    def metrics(self, only: int | None = None) -> str:
        """Figures are where scripts run."""
        raise Refused(Reason.UNSUPPORTED)

    # --- leaves ------------------------------------------------------------------------------------------------

    def _deliveries(self, base: int) -> Deliveries:
        return self._store.view(self._store.shard_of(base)).deliveries

    def _all(self) -> list[Seen]:
        return [
            Seen(*one)
            for shard in self._store.shards
            for one in self._store.view(shard).deliveries.consumers()
            if one[1] != REGISTRAR_NAME
        ]

    def meant(self, said: str) -> dict[str, int]:
        """The bindings that what is said behind the word of a command may begin with, in the whole tree: shards by full name."""
        found = {}
        for seen in self._all():
            names = [seen.text, f"{seen.base:x}/{seen.text}", self._full_name(seen)]
            if seen.consumer.active:
                names.append(seen.text.partition(":")[0])
            if any(said == name or said.startswith((f"{name}/", f"{name} ")) for name in names):
                found[self._full_name(seen)] = self._store.shard_of(seen.base)
        return found

    def _state(self, seen: Seen) -> str:
        if self._deliveries(seen.base).state(seen.base, seen.name, PAUSED) is not None:
            return "paused"
        return "active" if seen.consumer.active else "retired"

    def _newest(self, seen: Seen) -> Definition | None:
        rows = self._deliveries(seen.base).definitions(seen.base, seen.name)
        return next((decode_definition(row) for _, row in rows if row), None)

    def _path(self, base: int) -> str:
        view = self._store.view(self._store.shard_of(base))
        return path_of(self._store, base, view.now())

    def _full_name(self, seen: Seen) -> str:
        path = self._path(seen.base)
        return f"{path}/{seen.text}" if path else seen.text


def filled(status: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """What the log says of bindings, with what their engines say of them where they do.

    Counts stay those of the log that is here: whoever finds there that a run is done finds here what it wrote.
    """
    engines = {base["path"]: base for base in told.get("bases", [])}
    bases = []
    for base in status["bases"]:
        engine = engines.pop(base["path"], {})
        known = {one["name"]: one for one in engine.get("bindings", [])}
        bindings = [
            {**one, **{key: known[one["name"]][key] for key in _ENGINES}}
            if one["name"] in known
            else one
            for one in base["bindings"]
        ]
        said = {key: engine.get(key, base[key]) for key in ("problems", "warnings")}
        bases.append({**base, **said, "bindings": bindings})
    bases += engines.values()  # Whose scripts were never active, or are not yet here.
    return {**status, "running": told.get("running", []), "bases": bases}


def status_text(status: dict[str, Any]) -> str:
    """For people: where scripts run, and a line for each binding."""
    where = "scripts run on the nodes (where node.toml has triggers); what waits and what runs, its leader knows"
    return "\n".join([where, *bases_text(status)]) + "\n"
