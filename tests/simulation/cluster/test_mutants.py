"""The programme bites: each bug planted in the core, its driver or a mount is noticed by the checker it is for.

Method: plant one, run seeds until that checker says so; how many that took is printed. A violation names the command that
shows it again.
"""

from __future__ import annotations

import pytest

from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.cluster import Cluster
from tests.simulation.cluster.mutants import MUTANTS

SEEDS_TO_NOTICE_MAX = 300
"""Within so many clusters a planted bug has to be noticed by its checker."""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    for seed in range(SEEDS_TO_NOTICE_MAX):
        cluster = Cluster(seed)
        cluster.faults.kinds = mutant.kinds or cluster.faults.kinds
        try:
            cluster.run()
        except Violation as violation:
            if violation.checker in mutant.checkers:
                print(f"figure: planted bug noticed after {seed + 1} clusters: {name}")
                print(violation)
                return
    pytest.fail(f"{name}: {SEEDS_TO_NOTICE_MAX} clusters, and nobody of {mutant.checkers} noticed")


def test_every_checker_has_a_bug_to_notice() -> None:
    noticing = {checker for mutant in MUTANTS.values() for checker in mutant.checkers}
    assert noticing == {
        "agreement",
        "cuts",
        "durability",
        "frontier",
        "gaps",
        "immutability",
        "linearizability",
        "progress",
        "requests",
        "trouble",  # The core's own: a leader and a follower that contradict each other.
    }
