"""The command behind scripts/simulate: whole clusters on virtual time, one seed each."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.cluster import Cluster

__all__ = ["lives"]


def lives(seeds: Sequence[int]) -> tuple[Counter[str], list[Violation]]:
    """Counts of some runs, and what was violated in them."""
    counts: Counter[str] = Counter()
    violations = []
    for seed in seeds:
        cluster = Cluster(seed)
        try:
            cluster.run()
        except Violation as violation:
            violations.append(violation)
        counts += cluster.checks.counts
        counts["seeds"] += 1
    return counts, violations


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if everything held, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Run simulated clusters that have every kind of trouble, and check what they promise.",
    )
    parser.add_argument(
        "--seeds", type=int, default=200, help="how many clusters, one after the other"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, help="stop after so much real time instead")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--verbose", action="store_true", help="with --seed: every message")
    parser.add_argument(
        "--nodes", type=int, help="what the protocol costs with so many nodes, no trouble"
    )
    chosen = parser.parse_args(arguments)
    if chosen.nodes is not None:
        from tests.simulation.cluster.scale import print_costs

        print_costs(chosen.nodes)
        return 0
    if chosen.seed is not None:
        return _one(chosen.seed, chosen.verbose)
    return _many(chosen.first, chosen.seeds, chosen.seconds)


def _one(seed: int, verbose: bool) -> int:
    cluster = Cluster(seed)
    if verbose:
        cluster.trace = print
    print(f"{cluster.plan}\n{cluster.faults}")
    try:
        cluster.run()
    except Violation as violation:
        _print_counts(cluster.checks.counts)
        if violation.checker == "broke":
            raise
        print(violation)
        return 1
    _print_counts(cluster.checks.counts)
    print(f"history {cluster.checks.digest()}")
    return 0


def _many(first: int, seeds: int, seconds: float | None) -> int:
    began = time.monotonic()  # noqa: TID251  # real time is what is asked for
    counts: Counter[str] = Counter()
    failed = 0
    seed = first
    while seed < first + seeds if seconds is None else time.monotonic() - began < seconds:  # noqa: TID251
        found, violations = lives([seed])
        counts += found
        for violation in violations:
            failed += 1
            print(violation, flush=True)
        seed += 1
    took = time.monotonic() - began  # noqa: TID251
    _print_counts(counts)
    print(
        f"figure: cluster simulation: {failed} violations in {counts['seeds']:,} seeds,"
        f" {counts['virtual ms'] / 3_600_000:.2f} simulated hours;"
        f" {counts['events'] / took:,.0f} events a second of real time"
    )
    return 1 if failed else 0


def _print_counts(counts: Counter[str]) -> None:
    for what, count in sorted(counts.items()):
        print(f"  {count:>12,} {what}")


if __name__ == "__main__":
    sys.exit(main())
