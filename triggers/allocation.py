"""Allocation: on which replica's node a run should happen, so that it is done soonest. Pure.

Theory of operation. Whoever leads a shard decides for each of its runs. A node costs a run what waits there already, the time to
bring the models it lacks, and the run itself; the least wins. A node says now and then what its workers hold, as a bitmap
(`bits_of`), and how much waits; in between what it was given since is counted in. A run is placed when it begins to wait, and
looked at once more when its turn comes (`adjusted`): what was known at first may be old by then, and moving more often
would only have runs chase each other.

A bitmap has one bit for each model, by hash: two models may share one, which then costs a load that was not expected, and never
more than that. Nothing here is needed for what is right: any node can do any run.

Source: Compass (Yang et al., "Compass: A Decentralized Scheduler for Latency-Sensitive ML Workflows", 2024), simplified to
one stage at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import xxhash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from triggers.run import Run

__all__ = ["Allocator", "Habits", "Kind", "Model", "Standing", "bits_of", "kind_of"]

BITS = 1024
"""Of a bitmap. With 32 models at a node one more is taken for resident there by mistake once in 32 times."""

BANDWIDTH_BYTES_PER_S = 1e9
"""At which a node brings a model to where it is used: out of the page cache, through sealed memory, to a device."""

HOP_S = 0.002
"""What it costs to hand a run to another node and its result back. Measured between processes of one busy machine: 1 ms."""

RUN_S = 0.02
"""Taken for the length of a run of which nothing is known."""

WEIGHT = 0.25
"""Of the newest run in the average of a binding's."""

MARGIN = 0.8
"""Of what it would cost where it is, at most, for a run to be moved when its turn comes."""


KINDS_MAX = 10_000
"""Of which is remembered what they used."""

Kind: TypeAlias = tuple[str, str]
"""What runs have in common: the handler of a script's version, and the key of the event."""


class Model(NamedTuple):
    """Something large that a run uses and that stays where it was used: a content by its identity, or a script's version."""

    identity: tuple[object, ...]
    size_bytes: int


class Standing(NamedTuple):
    """What a node says of itself."""

    slots: int = 1
    """Runs at a time."""

    waiting: int = 0
    """Runs there, running or not, that are not the asker's."""

    resident: int = 0
    """Bitmap of the models that its workers hold."""

    devices: int = 0
    """CUDA devices."""


def bits_of(identities: Iterable[tuple[object, ...]]) -> int:
    """The bitmap of models."""
    bitmap = 0
    for identity in identities:
        bitmap |= 1 << (xxhash.xxh3_64_intdigest(repr(identity).encode()) % BITS)
    return bitmap


def kind_of(run: Run) -> Kind:
    """The kind of a run."""
    return f"{run.script.id}/{run.handler}", run.events[0].key


class Habits:
    """What the last run of each kind used, and the next will probably use; of an unknown key, what its handler used last."""

    def __init__(self) -> None:
        self._models: OrderedDict[Kind, tuple[Model, ...]] = OrderedDict()

    def of(self, kind: Kind) -> tuple[Model, ...]:
        """What is known."""
        found = self._models.get(kind)
        return self._models.get((kind[0], ""), ()) if found is None else found

    def used(self, kind: Kind, models: tuple[Model, ...]) -> None:
        """A run has used these."""
        for one in (kind, (kind[0], "")):
            self._models[one] = models
            self._models.move_to_end(one)
        while len(self._models) > KINDS_MAX:
            self._models.popitem(last=False)


class _Node:
    """A node, as the allocator knows it."""

    __slots__ = ("expected", "given", "standing")

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.given: dict[str, float] = {}
        """Runs that were given to it and have not come back: by name, what each may take (s)."""
        self.expected = 0
        """Bitmap of the models that those bring there."""

    def backlog_s(self, average_s: float, without: str = "") -> float:
        ours = sum(took for name, took in self.given.items() if name != without)
        return (ours + self.standing.waiting * average_s) / max(1, self.standing.slots)

    def lacks(self, models: Iterable[Model]) -> int:
        there = self.standing.resident | self.expected
        return sum(model.size_bytes for model in models if not there & bits_of([model.identity]))


class Allocator:
    """See the module. One for each who leads; times are seconds."""

    def __init__(self, home: str, bandwidth: float = BANDWIDTH_BYTES_PER_S) -> None:
        """`home`: the node that leads, to which no run has to be handed."""
        self.home = home
        self._bandwidth = bandwidth
        self._nodes: dict[str, _Node] = {}
        self._averages_s: dict[str, float] = {}
        self.habits = Habits()

    # --- what is known ---

    def heard(self, name: str, standing: Standing) -> None:
        """A node has said how it is."""
        known = self._nodes.get(name)
        if known is None:
            self._nodes[name] = _Node(standing)
            return
        known.standing = standing
        if not known.given:
            known.expected = 0  # what was brought there is in the bitmap by now, or gone again

    def lost(self, name: str) -> None:
        """A node is no more, or takes no runs."""
        self._nodes.pop(name, None)

    @property
    def nodes(self) -> set[str]:
        """Those that a run may go to."""
        return set(self._nodes)

    def slots(self, among: Collection[str]) -> int:
        """Runs at a time, of some nodes together."""
        return sum(self._nodes[name].standing.slots for name in self._nodes.keys() & among)

    # --- decisions ---

    def choose(self, kind: Kind, among: Collection[str], devices: int = 0) -> str:
        """The node, of some, for a run of a kind: soonest done; the home node if all are alike, or none is known."""
        costs = self._costs(kind, among, devices, "")
        return min(
            costs, key=lambda name: (costs[name], name != self.home, name), default=self.home
        )

    def adjusted(
        self, kind: Kind, run: str, name: str, among: Collection[str], devices: int = 0
    ) -> str:
        """The node for a run whose turn has come at one: that one, unless another is clearly better by now."""
        costs = self._costs(kind, among, devices, run)
        best = min(costs, key=lambda one: (costs[one], one != name, one), default=name)
        if name not in costs:
            return best
        return best if costs[best] < MARGIN * costs[name] else name

    def began(self, kind: Kind, run: str, name: str) -> None:
        """A run was given to a node."""
        node = self._nodes.get(name)
        if node is not None:
            models = self.habits.of(kind)
            node.given[run] = self._average_s(kind) + node.lacks(models) / self._bandwidth
            node.expected |= bits_of(model.identity for model in models)

    def moved(self, run: str, name: str) -> None:
        """A run is not at a node any more, whatever became of it."""
        node = self._nodes.get(name)
        if node is not None:
            node.given.pop(run, None)

    def ended(self, kind: Kind, seconds: float, models: tuple[Model, ...]) -> None:
        """A run has ended, took so long, and used these models."""
        before = self._averages_s.get(kind[0], seconds)
        self._averages_s[kind[0]] = before + WEIGHT * (seconds - before)
        self.habits.used(kind, models)

    def _average_s(self, kind: Kind) -> float:
        return self._averages_s.get(kind[0], RUN_S)

    def _costs(
        self, kind: Kind, among: Collection[str], devices: int, run: str
    ) -> dict[str, float]:
        models, average_s = self.habits.of(kind), self._average_s(kind)
        return {
            name: node.backlog_s(average_s, run)
            + node.lacks(models) / self._bandwidth
            + (HOP_S if name != self.home else 0)
            for name, node in self._nodes.items()
            if name in among and node.standing.devices >= devices
        }
