"""What a run staged comes to the content that its calls, one after the other, would have left.

Method: random calls on a few paths, against a dict of bytes; each plan is committed as one batch and read back.
"""

from __future__ import annotations

import array
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import record
from storage.namespace import ROOT
from triggers.access import Identity
from triggers.effects import Conflict, EffectRefused, plan
from triggers.handler.effects import addition
from triggers.run import Add, Append, Delete, Put, PutIf
from triggers.testing import Cascade

WHO = Identity(1000, 1000)


def commit(cascade: Cascade, *effects) -> list[tuple[str, int]]:
    planned = plan(cascade.store, ROOT, WHO, list(effects), 5)
    outcome = cascade.store.propose(record.Batch(list(planned.records)), planned.payload)
    assert outcome.reason is None
    return planned.outputs


PATHS = ["a", "d/b", "d/e/c"]
calls = st.one_of(
    st.builds(Put, st.sampled_from(PATHS), st.binary(max_size=5)),
    st.builds(Append, st.sampled_from(PATHS), st.binary(max_size=5)),
    st.builds(Delete, st.sampled_from(PATHS)),
)


def apply(model: dict[str, bytes], call) -> None:
    match call:
        case Put(path, data):
            model[path] = bytes(data)
        case Append(path, data):
            model[path] = model.get(path, b"") + bytes(data)
        case Delete(path):
            model.pop(path, None)


@settings(max_examples=60)
@given(st.lists(st.lists(calls, min_size=1, max_size=6), max_size=5))
def test_it_is_as_if_the_calls_were_made_one_by_one(runs):
    cascade, model = Cascade(), {}
    for run in runs:
        commit(cascade, *run)
        for call in run:
            apply(model, call)
        assert {path: cascade.get(path) for path in cascade.files()} == model


def test_large_bytes_are_staged_and_small_ones_travel_along():
    cascade = Cascade()
    large = bytes(range(256)) * 4000
    commit(cascade, Put("large", large), Put("small", b"x"))
    commit(cascade, Append("large", large))
    assert cascade.get("large") == large * 2
    assert cascade.get("large", 1) == large
    assert cascade.get("small") == b"x"


def test_outputs_are_the_versions_that_come_to_be():
    cascade = Cascade()
    assert commit(cascade, Put("a", b"1"), Put("a", b"2"), Put("d/b", b"")) == [
        ("a", 1),
        ("d/b", 1),
    ]
    assert commit(cascade, Append("a", b"3"), Delete("d/b"), Delete("none")) == [
        ("a", 2),
        ("d/b", 2),
    ]
    assert cascade.versions("a") == [b"2", b"23"]


def test_add_lays_numbers_over_numbers():
    cascade = Cascade()
    delta = array.array("d", [1.5, -2.0]).tobytes()
    commit(cascade, Add("v", 1, delta, "float64"), Add("v", 4, delta, "float64"))
    commit(cascade, Add("v", 0, delta, "float64"))
    vector = array.array("d")
    vector.frombytes(cascade.get("v"))
    assert list(vector) == [1.5, -0.5, -2.0, 0.0, 1.5, -2.0]


def test_many_adds_of_one_run_are_one_version_that_writes_what_they_touch():
    cascade = Cascade()
    draw = np.random.default_rng(1)
    cascade.put("w", bytes(1 << 20))
    twin = np.zeros(1 << 18, np.float32)
    for count in (100, 3000):  # what fits the record's own frame, and what does not
        adds = []
        for _ in range(5):
            places, delta = draw.integers(0, 1 << 18, count), draw.integers(-9, 9, count)
            np.add.at(twin, places, delta.astype(np.float32))
            adds.append(addition("w", places, delta, "float32"))
        twin[7:9] += 1
        adds.append(addition("w", 7, [1, 1], "float32"))
        planned = plan(cascade.store, ROOT, WHO, adds, 5)
        (written,) = planned.records
        pages = len(
            np.unique(np.concatenate([np.frombuffer(a.indices, "<i8") for a in adds]) // 256)
        )
        assert sum(length for _, length, _, _ in written.extents) <= (pages + 1) * 1024
        assert cascade.store.propose(record.Batch([written]), planned.payload).reason is None
        assert cascade.get("w") == twin.tobytes()
    assert cascade.version("w") == 3


@pytest.mark.parametrize(
    ("effects", "says"),
    [
        ([Put("/a", b"")], "relative to the base"),
        ([Put("a/../b", b"")], "relative to the base"),
        ([Put("x/.cascade/watch/y", b"")], "not for scripts"),
        ([Put("n" * 256, b"")], "longer than 255"),
        ([Put("d", b"")], "not a regular file"),
        ([Put("f/x", b"")], "f is not a directory"),
        ([Put("new", b""), Put("new/x", b"")], "a file and a directory"),
        ([Put("new/x", b""), Put("new", b"")], "a file and a directory"),
        ([Put("theirs/x", b"")], "may not make it"),
        ([Put("theirs/f", b"")], "may not write it"),
        ([Delete("theirs/f")], "may not remove it"),
        ([Put("closed/mine/new", b"")], "may not pass"),
        ([Append("closed/mine/f", b"")], "may not pass"),
        ([Delete("closed/mine/f")], "may not pass"),
        ([Add("v", -1, b"", "float32")], "an index from 0"),
        ([Add("v", 0, b"abc", "float32")], "no whole number"),
        ([Add("v", 0, bytes(4), "float16")], "one of float32"),
        ([Add("v", 0, bytes(8)), Add("v", 0, bytes(8), "int64")], "one type a run"),
        ([Add("v", 0, bytes(8), "float32", bytes(8))], "2 numbers, and another number of indices"),
        ([Add("v", 0, bytes(4), "float32", b"\xff" * 8)], "indices from 0"),
        ([Add("v", 2**46, bytes(8), "float64")], "an index from 0"),
        ([Put("v", b""), Add("v", 0, bytes(4))], "choose one"),
    ],
)
def test_what_cannot_be_is_refused_whole(effects, says):
    cascade = Cascade()
    cascade.put("f", "x")
    cascade.put("d/x", "x")
    cascade.uid = 7
    cascade.put("theirs/f", "x")
    cascade.put("closed/f", "x")
    closed = cascade.store.binding(ROOT, b"closed").inode
    cascade.uid = 1000
    cascade.put("closed/mine/f", "x")
    cascade.store.propose(record.SetAttributes(closed, mode=0o700))
    with pytest.raises(EffectRefused, match=says):
        plan(cascade.store, ROOT, WHO, [Put("first", b""), *effects], 5)


def test_there_is_a_bound():
    effects = [Put(f"many/{number}", b"x") for number in range(20_001)]
    cascade = Cascade()
    with pytest.raises(EffectRefused, match="20000 are the most"):
        plan(cascade.store, ROOT, WHO, effects, 5)
    commit(cascade, *effects[1:2000])
    assert len(cascade.files("many")) == 1999


def test_without_numpy_an_addition_is_refused(monkeypatch):
    add = addition("v", 0, [1], "float32")
    cascade = Cascade()
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(EffectRefused, match=r"cascadefs\[arrays\]"):
        plan(cascade.store, ROOT, WHO, [add], 5)


def test_additions_in_too_many_places_are_refused(monkeypatch):
    monkeypatch.setattr("triggers.effects.RANGES_MAX", 3)
    cascade = Cascade()
    commit(cascade, addition("v", [0, 1000, 2000], [1, 1, 1], "float32"))
    with pytest.raises(EffectRefused, match="4 places of the file at once; 3 are the most"):
        plan(cascade.store, ROOT, WHO, [addition("v", [0, 1000, 1400, 2000], [1] * 4, "int32")], 5)


def test_additions_all_over_a_large_file_are_refused_and_dense_ones_are_not(monkeypatch):
    monkeypatch.setattr("triggers.effects.PAGES_BYTES_MAX", 4096)
    cascade = Cascade()
    commit(cascade, addition("v", np.arange(100_000), np.ones(100_000), "float32"))
    everywhere = np.arange(0, 100_000, 250)  # a number in each page: one range of them all
    with pytest.raises(EffectRefused, match="all over 0 MiB of the file"):
        plan(cascade.store, ROOT, WHO, [addition("v", everywhere, everywhere, "float32")], 5)


def test_put_if_expects_a_version():
    cascade = Cascade()
    commit(cascade, PutIf("a", b"1", 0))
    commit(cascade, PutIf("a", b"2", 1), Append("a", b"!"))
    assert cascade.versions("a") == [b"1", b"2!"]
    for expect in (0, 1, 3):
        with pytest.raises(Conflict, match=f"version 2, expected was {expect}"):
            plan(cascade.store, ROOT, WHO, [PutIf("a", b"", expect)], 5)
    cascade.delete("a")
    assert plan(cascade.store, ROOT, WHO, [PutIf("a", b"", 0)], 5).conditions == [(ROOT, b"a", 0)]
