"""Where things should lie.

Goal: keys spread evenly, only the expected share moves when shards or nodes come and go, and what people say about affinity
does what they say. Method: counts over many keys; examples; and a few placements written down, for what is hashed must never change.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.placement import (
    RULE_CHARACTERS_MAX,
    RuleError,
    affinity_key,
    check_rule,
    choose_nodes,
    home_shard,
    rank,
)

KEYS = [b"experiments/run%d" % number for number in range(10_000)]


def test_ten_thousand_keys_over_three_shards_are_within_a_tenth_of_even():
    counts = Counter(home_shard("root", key, (0, 1, 2)) for key in KEYS)
    for count in counts.values():
        assert abs(count - len(KEYS) / 3) < len(KEYS) / 3 / 10


def test_a_new_shard_takes_its_share_and_nothing_else_moves():
    before = {key: home_shard("root", key, (0, 1, 2)) for key in KEYS}
    after = {key: home_shard("root", key, (0, 1, 2, 3)) for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {3}
    assert abs(len(moved) - len(KEYS) / 4) < len(KEYS) / 4 / 10


@given(st.binary(), st.sets(st.integers(0, 255), min_size=1))
def test_a_home_is_one_of_the_shards_whatever_their_order(key, shards):
    home = home_shard("root", key, sorted(shards))
    assert home in shards
    assert home == home_shard("root", key, sorted(shards, reverse=True))
    if len(shards) > 1:
        # Losing another shard moves nothing.
        other = next(shard for shard in sorted(shards) if shard != home)
        assert home == home_shard("root", key, shards - {other})


def test_pools_do_not_put_the_same_names_together():
    same = sum(home_shard("a", key, (0, 1)) == home_shard("b", key, (0, 1)) for key in KEYS)
    assert abs(same - len(KEYS) / 2) < len(KEYS) / 20


def test_placements_written_down():
    assert [home_shard("root", b"a/b%d" % n, range(4)) for n in range(12)] == [
        0,
        3,
        2,
        2,
        1,
        3,
        3,
        1,
        0,
        1,
        3,
        2,
    ]
    assert rank(["n1", "n2", "n3"], b"shard 0") == ["n3", "n2", "n1"]
    assert rank(["n1", "n2", "n3"], b"shard 1") == ["n1", "n3", "n2"]


# --- nodes ---------------------------------------------------------------------------------------------------------

NODES = {f"n{number}": ("ssd",) if number % 2 else ("ssd", "gpu") for number in range(10)}


def test_shards_spread_over_nodes_and_so_do_their_leaders():
    chosen = [choose_nodes(shard, NODES, (), 3) for shard in range(256)]
    leaders = Counter(nodes[0] for nodes in chosen)
    members = Counter(name for nodes in chosen for name in nodes)
    assert set(leaders) == set(NODES)
    assert max(members.values()) < 1.35 * 256 * 3 / 10
    assert all(len(set(nodes)) == 3 for nodes in chosen)


def test_a_new_node_takes_only_what_it_will_hold():
    less = {name: labels for name, labels in NODES.items() if name != "n9"}
    moved = 0
    for shard in range(256):
        before, after = choose_nodes(shard, less, (), 3), choose_nodes(shard, NODES, (), 3)
        gone = set(before) - set(after)
        assert gone <= {before[-1]}
        assert set(after) - set(before) in (set(), {"n9"})
        moved += len(gone)
    assert moved < 1.35 * 256 * 3 / 10


def test_labels_say_which_nodes_may():
    assert all("gpu" in NODES[name] for name in choose_nodes(7, NODES, ("gpu",), 3))
    assert len(choose_nodes(7, NODES, ("gpu", "ssd"), 9)) == 5
    assert choose_nodes(7, NODES, ("tape",), 3) == []
    assert choose_nodes(7, {}, (), 3) == []
    assert len(choose_nodes(7, NODES, (), 99)) == 10


# --- affinity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("below", "rule", "spread", "key"),
    [
        (b"a", "", 0, None),
        (b"a", "", 1, b"a"),
        (b"a/b", "", 1, None),
        (b"a/b", "", 2, b"a/b"),
        (b"a/b/c", "", 2, None),
        (b"run7/logs", r"run\d+", 0, b"run7"),
        (b"run7/logs/deep/er", r"run\d+", 0, b"run7"),
        (b"x/patient-12/scan-3", r"(patient-\d+)/", 0, b"patient-12"),
        (b"x/other", r"(patient-\d+)/", 0, None),
        (b"x", r"(patient-\d+)/", 1, b"x"),
        (b"x", r"y*", 1, b"x"),
        (b"x", r"(y)?x", 0, None),
        (b"\xff\xfe/run1", r"run\d", 0, b"run1"),
        (b"a\nb", r"a.b", 0, None),
    ],
)
def test_the_affinity_key(below, rule, spread, key):
    assert affinity_key(below, rule, spread) == key


def test_an_affinity_rule_is_checked_before_it_is_kept():
    check_rule("")
    check_rule(r"^([^/]+)/run\d{4}")
    for rule in ("(", r"(a)\1", "a{2,1}", "x" * (RULE_CHARACTERS_MAX + 1)):
        with pytest.raises(RuleError):
            check_rule(rule)


def test_a_rule_that_would_backtrack_for_ever_does_not():
    rule = "(a*)*b"
    check_rule(rule)
    assert affinity_key(b"a" * 4000, rule, 0) is None
