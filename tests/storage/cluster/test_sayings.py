"""What is said above a shard root holds below it, and what cannot be known lets nothing go.

Method: a store over two shards in memory; the trees are then asked as who has both, or only one of them.
"""

from __future__ import annotations

import pytest

from storage import record
from storage.attributes import DIRECTORY
from storage.cluster.sayings import ClusterSayings
from storage.namespace import ROOT
from storage.retention import HOLD, RETENTION, Rules
from tests.storage.cluster.orders import TickingClock, make_orders, make_store


@pytest.fixture
def store():
    clock = TickingClock()
    return make_store(make_orders(2, clock), clock, choose=lambda path: int(path[-1:]))


def mkdir(store, directory: int, name: bytes) -> int:
    inode = store.allocate_inode(directory, name, DIRECTORY | 0o755)
    outcome = store.propose(record.Create(directory, name, inode, DIRECTORY | 0o755, 0, 0))
    assert outcome.reason is None
    return inode


def rules(store, *shards: int) -> Rules:
    trees = {shard: store.faces[shard].namespace for shard in shards}
    return Rules(ClusterSayings(trees.get, trees.values))


def test_policies_holds_and_labels_reach_below_a_shard_root(store) -> None:
    above = mkdir(store, ROOT, b"a0")
    below = mkdir(store, above, b"b1")
    inside = mkdir(store, below, b"c1")
    store.propose(record.SetXattr(above, RETENTION, b"all:1h"))
    found = rules(store, 0, 1)
    policy = found.policy(inside)
    assert policy is not None
    assert policy.versions_min == 0
    assert not found.is_held(inside)
    at = store.now()
    store.propose(record.Label(above, b"l", at))
    store.propose(record.SetXattr(above, HOLD, b"audit"))
    found = rules(store, 0, 1)
    assert found.is_held(inside)
    assert found.is_labelled(inside, at, at + 1)


def test_what_is_nearer_wins(store) -> None:
    below = mkdir(store, ROOT, b"b1")
    store.propose(record.SetXattr(ROOT, RETENTION, b"all:1h"))
    store.propose(record.SetXattr(below, RETENTION, b"all:2h;min=7"))
    policy = rules(store, 0, 1).policy(below)
    assert policy is not None
    assert policy.versions_min == 7


def test_a_shard_root_that_was_renamed_is_below_who_has_it_now(store) -> None:
    one, two = mkdir(store, ROOT, b"x0"), mkdir(store, ROOT, b"y0")
    below = mkdir(store, one, b"b1")
    store.propose(record.SetXattr(two, HOLD, b"audit"))
    assert not rules(store, 0, 1).is_held(below)
    outcome = store.propose(record.Rename(one, b"b1", two, b"b1", 0))
    held = rules(store, 0, 1).is_held(below)
    assert held == (outcome.reason is None)


def test_nothing_is_let_go_below_what_is_not_known(store) -> None:
    below = mkdir(store, ROOT, b"b1")
    store.propose(record.SetXattr(below, RETENTION, b"all:1h"))
    assert rules(store, 1).is_held(below)
    assert not rules(store, 0, 1).is_held(below)
    assert not rules(store, 0).is_held(ROOT)
