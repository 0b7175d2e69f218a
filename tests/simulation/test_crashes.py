"""The crash programme: thousands of lives of a store on a disk that lies, each from one seed; none may break a promise.

Method: `World` has what must hold and how a life goes, `Faults` what can go wrong. That the programme can fail is shown
by `MUTANTS`: each planted bug must be noticed.

The short form runs with all tests. The long one: ``CASCADEFS_SEEDS=100000 python -m pytest -rP tests/simulation``; its
figures are those of docs/RELIABILITY.md (``scripts/reliability --long``). One seed again: ``CASCADEFS_SEED=7 ... -k one_seed``.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Violation, World

SEEDS = int(os.environ.get("CASCADEFS_SEEDS", "1000"))
SEED = int(os.environ.get("CASCADEFS_SEED", "1"))
SHARE = 200
"""Seeds of one piece of work."""

SEEDS_TO_NOTICE_MAX = 1500
"""Within so many lives a planted bug has to be noticed; most are in ten."""


def lives(seeds: range) -> tuple[Counter[str], list[str]]:
    """Figures of some lives, and what was violated in them."""
    figures: Counter[str] = Counter()
    violations = []
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except Violation as violation:
            violations.append(str(violation))
        figures += world.figures
    return figures, violations


@pytest.mark.slow
@pytest.mark.timeout(max(60, SEEDS // 10))
def test_no_life_breaks_a_promise() -> None:
    shares = [range(at, min(at + SHARE, SEEDS)) for at in range(0, SEEDS, SHARE)]
    figures: Counter[str] = Counter()
    violations: list[str] = []
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=spawning) as pool:
        for found, broken in pool.map(lives, shares):
            figures += found
            violations += broken
    print(f"figure: crash programme: {len(violations)} violations in {SEEDS:,} seeds")
    for what, count in sorted(figures.items()):
        print(f"figure:   {count:>9,} {what}")
    assert not violations, "\n".join(violations[:10])
    # A programme that does nothing finds nothing.
    for what in ("power cuts", "kills", "syncs refused", "writes refused", "bits turned"):
        assert figures[what] > SEEDS // 10, what
    assert figures["versions read"] > 10 * SEEDS
    assert figures["ends while opening"] > SEEDS // 10


def test_one_seed() -> None:
    """The place to look at one violation: the same seed gives the same life, to the last figure."""
    first, second = World(SEED), World(SEED)
    first.run()
    second.run()
    assert first.figures == second.figures
    assert first.noted == second.noted


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_noticed(monkeypatch, name: str) -> None:
    MUTANTS[name](monkeypatch)
    for seed in range(SEEDS_TO_NOTICE_MAX):
        try:
            World(seed).run()
        except Violation as violation:
            print(f"figure: planted bug noticed after {seed + 1} lives: {name}")
            print(violation)
            return
    pytest.fail(f"{name}: {SEEDS_TO_NOTICE_MAX} lives, and nobody noticed")
