"""Goal: a version is moved to the device once, and the cache keeps its bound. Method: a stand-in for CuPy that counts (`card`)."""

from __future__ import annotations

import gc
import io

import numpy as np
import pytest

from tests.triggers.handler.card import Card
from triggers.handler.device import DeviceCache
from triggers.handler.effects import encode


def stored(count: int, dtype: str = "float32", value: float = 0) -> memoryview:
    return memoryview(encode("x.npy", np.full(count, value, dtype)))


def never():
    raise AssertionError("it was read again")


def test_the_second_use_moves_nothing_and_a_new_version_replaces_the_old():
    cache = DeviceCache(Card(1 << 20), 1 << 20)
    first = cache.get("m", (1, 1), lambda: stored(100, value=3))
    assert cache.get("m", (1, 1), never) is first
    assert (cache.moved_bytes, cache.hits, cache.holds("m")) == (400, 1, (1, 1))
    assert cache.xp.copies == 1
    second = cache.get("m", (1, 2), lambda: stored(50))
    assert cache.holds("m") == (1, 2)
    assert cache.size_bytes == 200
    assert first.tolist() == [3] * 100  # who still uses it keeps it
    assert second.shape == (50,)


def test_a_new_version_replaces_the_old_after_its_last_run():
    cache = DeviceCache(Card(1 << 20), 1 << 20)
    old = cache.get("m", (1, 1), lambda: stored(100), user="run 1")
    cache.get("m", (1, 1), never, user="run 2")
    new = cache.get("m", (1, 2), lambda: stored(50), user="run 3")
    assert cache.get("m", (1, 1), never, user="run 2") is old  # runs at two cuts, side by side
    assert cache.get("m", (1, 2), never, user="run 3") is new
    assert cache.size_bytes == 600
    cache.release("run 1")
    assert cache.size_bytes == 600
    cache.release("run 2")
    assert cache.size_bytes == 200
    assert cache.holds("m") == (1, 2)
    cache.release("run 3")
    assert cache.get("m", (1, 2), never) is new


def test_the_least_recently_used_goes_first_and_the_bound_is_kept():
    cache = DeviceCache(Card(1 << 20), 1000)
    for name in "ab":
        cache.get(name, (1, 1), lambda: stored(100))
    cache.get("a", (1, 1), never)
    cache.get("c", (1, 1), lambda: stored(100))
    assert [cache.holds(name) is not None for name in "abc"] == [True, False, True]
    assert cache.size_bytes == 800
    cache.get("huge", (1, 1), lambda: stored(1000))  # larger than everything: used, not kept
    assert cache.holds("huge") is None
    assert cache.size_bytes <= 1000


def test_what_a_run_uses_goes_last():
    cache = DeviceCache(Card(1 << 20), 1000)
    cache.get("a", (1, 1), lambda: stored(100), user="run")
    cache.get("b", (1, 1), lambda: stored(100))
    cache.get("c", (1, 1), lambda: stored(100))
    assert [cache.holds(name) is not None for name in "abc"] == [True, False, True]


def test_out_of_memory_evicts_and_goes_on():
    card = Card(900)
    cache = DeviceCache(card, 1 << 20)
    cache.get("a", (1, 1), lambda: stored(100))
    cache.get("b", (1, 1), lambda: stored(100))
    gc.collect()
    assert cache.get("c", (1, 1), lambda: stored(100)).shape == (100,)
    assert (cache.holds("a"), cache.holds("b")) == (None, (1, 1))
    assert card.freed == 1
    with pytest.raises(MemoryError):
        cache.get("d", (1, 1), lambda: stored(1000))
    assert cache.size_bytes == 0  # all of it was let go for that
    assert cache.get("e", (1, 1), lambda: stored(200)).shape == (200,)


@pytest.mark.parametrize("registers", [True, False])
def test_large_arrays_are_pinned_where_they_lie_or_pass_through_pinned_memory(
    registers, monkeypatch
):
    monkeypatch.setattr("triggers.handler.transfer.REGISTER_BYTES_MIN", 1000)
    card = Card(1 << 20, registers=registers)
    cache = DeviceCache(card, 1 << 20)
    large = cache.get("l", (1, 1), lambda: stored(1000, value=2))
    small = cache.get("s", (1, 1), lambda: stored(10, value=5))
    again = cache.get("m", (1, 1), lambda: stored(2000, value=7))
    assert [set(one.tolist()) for one in (large, small, again)] == [{2}, {5}, {7}]
    assert card.was_registered == (2 if registers else 0)
    assert cache.transfer.staged_bytes == (40 if registers else 12_040)
    assert card.copies == 3
    assert card.registered == {}


def test_an_array_in_fortrans_order_an_empty_one_and_those_no_card_has():
    cache = DeviceCache(Card(1 << 20), 1 << 20)
    numbers = np.asfortranarray(np.arange(12, dtype="int16").reshape(3, 4))
    moved = cache.get("f", (1, 1), lambda: memoryview(encode("f.npy", numbers)))
    np.testing.assert_array_equal(moved, numbers)
    assert moved.flags.f_contiguous
    assert cache.get("e", (1, 1), lambda: stored(0)).shape == (0,)
    for dtype in (">f4", "U3", "datetime64[s]"):
        with pytest.raises(ValueError, match="cannot be on a GPU"):
            cache.get(
                "x", (1, 1), lambda dtype=dtype: memoryview(encode("x.npy", np.zeros(2, dtype)))
            )


def test_an_archive_is_a_mapping_and_on_the_host_an_array_is_the_file_itself():
    file = io.BytesIO()
    np.savez(file, w=np.ones(3, "float32"), b=np.zeros(1))
    for xp in (np, Card(1 << 20)):
        cache = DeviceCache(xp, 1 << 20)
        model = cache.get("m.npz", (1, 1), lambda: memoryview(file.getvalue()))
        assert sorted(model) == ["b", "w"]
        assert model["w"].tolist() == [1, 1, 1]
        assert cache.moved_bytes == (0 if xp is np else 20)
    cache = DeviceCache(np, 1 << 20)
    data = stored(4)
    assert np.shares_memory(cache.get("x", (1, 1), lambda: data), np.frombuffer(data, "uint8"))
    assert cache.moved_bytes == 0
