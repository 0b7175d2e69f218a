"""Goal: runs go where their models are, and waiting is short; a node that ends stops nothing.

Method: a simulation in virtual time, drawn from a seed: nodes with memory for some of the models, least recently used goes first; runs
come at random, of a skewed mix. The same runs are dispatched by a hash of their key, which is what there is without.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict, deque
from statistics import mean

import pytest
import xxhash

from triggers.allocation import Allocator, Model, Standing, bits_of

MODELS = 4
RESIDENT_MAX = 2
LOAD_S = 0.25
RUN_S = 0.03
PUBLISH_S = 0.1
MIX = (0.45, 0.30, 0.15, 0.10)
SIZE = 250_000_000
BANDWIDTH = SIZE / LOAD_S


class Host:
    """A node of the simulation: one run at a time, the models it holds, what waits."""

    def __init__(self):
        self.resident = OrderedDict()
        self.waiting = deque()
        self.busy = None
        self.dead = False


class World:
    """Virtual time; `allocator` None: by hash."""

    def __init__(self, names, allocator=None):
        self.now, self.until = 0.0, float("inf")
        self.hosts = {name: Host() for name in names}
        self.allocator = allocator
        self.events, self.ties = [], itertools.count()
        self.took, self.hits, self.moved = {}, [], set()
        if allocator is not None:
            for kind in range(MODELS):  # each ran once, so what it uses is known
                allocator.ended(("m", f"{kind}"), RUN_S, (Model((kind,), SIZE),))
            self.publish()

    def at(self, when, do):
        heapq.heappush(self.events, (when, next(self.ties), do))

    def run(self):
        while self.events:
            self.now, _, do = heapq.heappop(self.events)
            do()

    def publish(self):
        for name, host in self.hosts.items():
            if not host.dead:
                resident = bits_of((model,) for model in host.resident)
                self.allocator.heard(name, Standing(resident=resident))
        if self.now < self.until:
            self.at(self.now + PUBLISH_S, self.publish)

    def arrive(self, run):
        number, model, _ = run
        if self.allocator is None:
            alive = sorted(name for name, host in self.hosts.items() if not host.dead)
            name = alive[xxhash.xxh3_64_intdigest(b"key %d" % number) % len(alive)]
        else:
            name = self.allocator.choose(("m", f"{model}"), self.hosts)
        self.give(run, name)

    def give(self, run, name):
        if self.allocator is not None:
            self.allocator.began(("m", f"{run[1]}"), f"{run[0]}", name)
        self.hosts[name].waiting.append(run)
        self.look(name)

    def look(self, name):
        host = self.hosts[name]
        if host.busy is not None or not host.waiting or host.dead:
            return
        run = host.waiting.popleft()
        number, model, _ = run
        if self.allocator is not None and number not in self.moved:
            self.moved.add(number)
            better = self.allocator.adjusted(("m", f"{model}"), f"{number}", name, self.hosts)
            if better != name:
                self.allocator.moved(f"{number}", name)
                self.give(run, better)
                self.look(name)
                return
        hit = model in host.resident
        self.hits.append(hit)
        host.resident[model] = True
        host.resident.move_to_end(model)
        while len(host.resident) > RESIDENT_MAX:
            host.resident.popitem(last=False)
        host.busy = run
        self.at(self.now + RUN_S + (0 if hit else LOAD_S), lambda: self.end(name, run))

    def end(self, name, run):
        host = self.hosts[name]
        if host.dead or host.busy is not run:
            return
        host.busy = None
        self.took[run[0]] = self.now - run[2]
        if self.allocator is not None:
            self.allocator.moved(f"{run[0]}", name)
            self.allocator.ended(("m", f"{run[1]}"), RUN_S, (Model((run[1],), SIZE),))
        self.look(name)

    def kill(self, name):
        host = self.hosts[name]
        host.dead = True
        if self.allocator is not None:
            self.allocator.lost(name)
        lost = [*([host.busy] if host.busy else []), *host.waiting]
        host.waiting.clear()
        for run in lost:
            self.arrive(run)


def simulate(seed, *, compass, runs=3000, rate=9.0, kill=None, names=("a", "b")):
    draw = random.Random(seed)
    world = World(names, Allocator("a", BANDWIDTH) if compass else None)
    when = 0.0
    for number in range(runs):
        when += draw.expovariate(rate)
        (model,) = draw.choices(range(MODELS), MIX)
        run = (number, model, when)
        world.at(when, lambda run=run: world.arrive(run))
    world.until = when
    if kill is not None:
        world.at(when / 2, lambda: world.kill(kill))
    world.run()
    assert len(world.took) == runs, "each was done"
    return mean(world.took.values()), mean(world.hits)


@pytest.mark.parametrize("seed", range(3))
def test_a_skewed_mix_is_done_sooner_than_by_hash_and_finds_its_models(seed):
    by_hash_s, hash_hits = simulate(seed, compass=False)
    compass_s, hits = simulate(seed, compass=True)
    assert by_hash_s >= 1.5 * compass_s, (by_hash_s, compass_s)
    assert hits >= 0.8 > hash_hits, (hits, hash_hits)


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_end_of_any_node_stops_nothing(name):
    simulate(7, compass=True, runs=600, rate=2.0, kill=name)


def test_where_all_is_alike_it_runs_at_home_until_there_is_more_than_that():
    allocator = Allocator("b")
    for name in "abc":
        allocator.heard(name, Standing(slots=2))
    assert (allocator.slots("abc"), allocator.slots("b"), allocator.nodes) == (
        6,
        2,
        {"a", "b", "c"},
    )
    kind = ("f", "k")
    chosen = []
    for number in range(6):
        chosen.append(allocator.choose(kind, "abc"))
        allocator.began(kind, f"{number}", chosen[-1])
    assert chosen[0] == "b"
    assert sorted(chosen) == ["a", "a", "b", "b", "c", "c"]


def test_a_model_that_is_there_is_worth_a_wait_that_is_shorter_than_bringing_it():
    allocator = Allocator("a")
    model, kind = Model((7, 9), 10**9), ("f", "k")
    allocator.ended(kind, 0.1, (model,))
    allocator.heard("a", Standing())
    allocator.heard("b", Standing(resident=bits_of([model.identity]), waiting=5))
    assert allocator.choose(kind, "ab") == "b", "half a second there, a second to bring it here"
    assert allocator.choose(("f", "another key"), "ab") == "b", "as its handler's last run"
    assert allocator.choose(kind, "a") == "a", "of some only"
    assert allocator.choose(("g", "k"), "ab") == "a"
    assert allocator.choose(kind, "ab", devices=1) == "a", "none has a device: at home"
    allocator.heard("b", Standing(resident=0, waiting=5))
    assert allocator.adjusted(kind, "r", "b", "ab") == "a", "it has gone there meanwhile"
    allocator.lost("a")
    assert allocator.adjusted(kind, "r", "a", "ab") == "b"
    allocator.lost("b")
    assert allocator.choose(kind, "ab") == "a", "nobody is known: at home"
