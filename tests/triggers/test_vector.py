"""Additions to numbers in a file come to what NumPy makes of them, and touch the pages they are in and no other.

Method: random additions and look-ups, against an array in memory; the file is a `bytearray` that notes what is asked of it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers import vector
from triggers.handler.effects import addition
from triggers.run import Add
from triggers.vector import PAGE_BYTES, Sum, gathered, pages, windows

ITEMS = 2000  # 8 pages of float32
places = st.one_of(
    st.integers(0, ITEMS),
    st.lists(st.integers(0, ITEMS), max_size=8),
    st.integers(0, ITEMS).map(lambda first: list(range(first, first + 300))),
)


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch):
    monkeypatch.setattr(vector, "GATHERED", vector.GATHERED)


class File:
    """Bytes, and which of them were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def read(self, ranges) -> bytes:
        self.asked += ranges
        assert all(0 <= start < end <= len(self.data) for start, end in ranges)
        return b"".join(self.data[start:end] for start, end in ranges)


def pages_of(ranges) -> set[int]:
    return {
        page for start, end in ranges for page in range(start // PAGE_BYTES, -(-end // PAGE_BYTES))
    }


@given(
    st.lists(places, min_size=1, max_size=5),
    st.integers(0, 4 * ITEMS + 3),
    st.sampled_from(["float32", "int64"]),
)
def test_additions_are_numpys_and_write_the_pages_they_touch(indices, size, dtype):
    numbers = np.random.default_rng(len(indices)).integers(-99, 99, size // 4 + 1)
    before = numbers.astype(dtype).tobytes()[:size]
    adds, touched = [], set()
    item = np.dtype(dtype).itemsize
    twin = np.zeros(2 * ITEMS, dtype)
    twin.view(np.uint8)[:size] = list(before)
    for number, index in enumerate(indices):
        delta = np.arange(number, number + np.size(index)) if np.ndim(index) else np.array(7)
        adds.append(addition("v", index, delta, dtype))
        np.add.at(twin, index, delta.astype(dtype))
        touched |= {one * item // PAGE_BYTES for one in np.ravel(index).astype(int).tolist()}
    added = Sum(adds)
    after = max(size, added.size_bytes)
    ranges = added.ranges(after)
    assert ranges == sorted(ranges)
    assert pages_of(ranges) == touched
    held = File(before.ljust(after, b"\0")).read(ranges)
    data = bytearray(before.ljust(after, b"\0"))
    total = added.applied(ranges, held)
    for start, end, parts in windows(ranges, 1500):
        window = total[start:end]
        assert sum(length for _, length, _ in parts) == len(window) <= 1500
        for offset, length, at in parts:
            data[offset : offset + length] = window[at : at + length]
    whole = after // item * item
    assert bytes(data[:whole]) == twin.tobytes()[:whole]
    assert data[whole:] == before.ljust(after, b"\0")[whole:]


@pytest.mark.parametrize("at_a_time", [3, 16_384])
@given(st.lists(st.integers(0, ITEMS), max_size=20), st.integers(0, 4 * ITEMS + 3))
def test_numbers_are_gathered_from_the_pages_they_are_in(at_a_time, indices, size):
    vector.GATHERED = at_a_time
    numbers = np.arange(1, size // 4 + 2, dtype="<f4")
    file = File(numbers.tobytes()[:size])
    wanted = np.array(indices, "<i8")
    found = np.frombuffer(gathered(wanted.tobytes(), 4, size, file.read), "<f4")
    assert found.tolist() == [float(i + 1) if 4 * i + 4 <= size else 0.0 for i in indices]
    assert pages_of(file.asked) == {4 * i // PAGE_BYTES for i in indices if 4 * i + 4 <= size}


def test_what_neighbours_is_one_range():
    assert pages(np.array([0, 300, 900, 901]), 4, 1 << 20) == [(0, 2048), (3072, 4096)]
    assert pages(np.arange(1 << 18), 4, 1 << 20) == [(0, 1 << 20)]
    assert pages(np.array([], int), 4, 1 << 20) == []


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_whole_number_does_not_wrap_around(dtype):
    most = np.iinfo(dtype).max
    held = np.array([0, most], dtype).tobytes()
    ranges = [(0, len(held))]
    assert Sum([addition("v", 0, [3], dtype)]).applied(ranges, held)[: len(held) // 2] != held
    with pytest.raises(OverflowError, match=dtype):
        Sum([addition("v", [0, 1], [1, 1], dtype)]).applied(ranges, held)
    with pytest.raises(OverflowError):  # nor on the way
        Sum([addition("v", [0, 0], [most, most], dtype)]).applied(ranges, held)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("v", -1, [1.0], "float32"), "negative"),
        (("v", [3, -4], [1.0, 2.0], "float32"), "-4 is negative"),
        (("v", [0.5], [1.0], "float32"), "whole number"),
        (("v", [True], [1.0], "float32"), "whole number"),
        (("v", [0, 1], [1.0], "float32"), "2 indices, and 1 numbers"),
        (("v.npy", 0, [1.0], "float32"), "header"),
        (("v", 0, [1.0], "float16"), "write one of float32"),
    ],
)
def test_what_is_no_place_is_said_at_once(arguments, error):
    with pytest.raises((TypeError, ValueError), match=error):
        addition(*arguments)


@pytest.mark.parametrize(
    ("indices", "item"),
    [(b"\xff" * 8, 4), (bytes(7), 4), (bytes(8), 3), ((1 << 46).to_bytes(8, "little"), 8)],
)
def test_what_no_program_of_ours_asks_is_refused(indices, item):
    with pytest.raises(ValueError, match=r"indices|an index"):
        gathered(indices, item, 100, File(bytes(100)).read)


@pytest.mark.parametrize(
    "add",
    [
        Add("v", -1, bytes(8), "float64"),
        Add("v", 0, bytes(7), "float64"),
        Add("v", 0, bytes(8), "float16"),
        Add("v", 0, bytes(8), "float64", bytes(16)),
        Add("v", 0, bytes(8), "float64", b"\xff" * 8),
        Add("v", 0, bytes(8), "float64", (1 << 46).to_bytes(8, "little")),
        Add("v", 1 << 46, bytes(8), "float64"),
    ],
    ids=str,
)
def test_what_no_worker_of_ours_sends_is_refused(add):
    with pytest.raises(ValueError, match="add"):
        Sum([add])
