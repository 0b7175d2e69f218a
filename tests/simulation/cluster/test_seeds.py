"""The cluster programme: many small clusters with every kind of trouble, each from one seed; none may break a promise.

Method: `Cluster` is the run, `Faults` and `Trouble` what goes wrong, `checkers` what must hold. That it can fail is shown by
test_mutants.py. More: ``scripts/simulate --seeds 100000``, or ``CASCADEFS_CLUSTER_SEEDS=100000 python -m pytest ...``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.cluster.__main__ import lives
from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.cluster import Cluster
from tests.simulation.cluster.mutants import MUTANTS

SEEDS = int(os.environ.get("CASCADEFS_CLUSTER_SEEDS", "300"))
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(max(240, SEEDS))
def test_no_cluster_breaks_a_promise() -> None:
    counts, violations = lives(range(SEEDS))
    print(f"figure: cluster simulation: {len(violations)} violations in {SEEDS:,} seeds")
    for what, count in sorted(counts.items()):
        print(f"figure:   {count:>12,} {what}")
    assert not violations, "\n".join(map(str, violations[:10]))
    # A programme that does nothing finds nothing.
    for what in ("kill", "power cut", "partition", "pause", "ends at an epoch", "frames cut"):
        assert counts[what] > SEEDS // 10, what
    for what in ("changes made", "calls answered", "reads of a cut"):
        assert counts[what] > 5 * SEEDS, what
    assert counts["runs in which a shard lost all that had it"] < SEEDS // 20
    assert counts["searches given up"] == 0


def test_one_seed_is_one_history() -> None:
    """Also in another process, where sets have another order."""
    first, second = Cluster(5), Cluster(5)
    first.run()
    second.run()
    assert first.checks.digest() == second.checks.digest()
    assert first.checks.counts == second.checks.counts
    command = [sys.executable, "-m", "tests.simulation.cluster", "--seed", "5"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert f"history {first.checks.digest()}" in said.stdout


def test_another_seed_is_another_history() -> None:
    first, second = Cluster(1), Cluster(2)
    first.run()
    second.run()
    assert first.checks.digest() != second.checks.digest()


def test_a_violation_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS["the_frontier_goes_back"].plant(monkeypatch)
    with pytest.raises(Violation) as caught:
        Cluster(0).run()
    assert str(caught.value).endswith("again: scripts/simulate --seed 0")
    with pytest.raises(Violation) as again:
        Cluster(0).run()
    assert str(again.value) == str(caught.value)
