"""Pieces and dirty maps say of every byte what a plain array of bytes says.

Method: random writes, places, cuts on a `DirtyMap` and on a bytearray; random overlays and clips on rows of pieces and
on a list that names the source of each byte. Then counted: how many bytes small appends make the store write again.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.extents import (
    DirtyMap,
    Span,
    bytes_stored,
    clip,
    mergeable,
    overlay,
    overlay_all,
    pack,
    split_by_chunk,
    unpack,
)
from storage.limits import CHUNK_BYTES, PIECES_PER_CHUNK_MAX

SPACE = 300
ROUGH = CHUNK_BYTES // 4  # from here on `DirtyMap.write` keeps the caller's bytes

# --- pieces ---------------------------------------------------------------------------------------------------------

PIECE = st.tuples(
    st.integers(0, SPACE - 1), st.integers(1, 60), st.sampled_from([8, 16, 24]), st.integers(0, 40)
)


def sources(pieces: list[tuple[int, int, int, int]], size: int) -> list[tuple[int, int] | None]:
    """The source of each byte: (address, offset there), or None in a hole."""
    found: list[tuple[int, int] | None] = [None] * size
    for start, length, address, offset in pieces:
        for i in range(length):
            assert found[start + i] is None, "disjoint"
            found[start + i] = (address, offset + i)
    return found


@given(st.lists(st.one_of(PIECE, st.integers(0, SPACE)), max_size=40))
def test_overlay_and_clip_are_assignment(steps) -> None:
    row: list[tuple[int, int, int, int]] = []
    twin: list[tuple[int, int] | None] = [None] * (SPACE + 100)
    for step in steps:
        before = list(row)
        if isinstance(step, int):
            new = clip(row, step)
            twin[step:] = [None] * (len(twin) - step)
        else:
            new = overlay(row, step)
            start, length, address, offset = step
            twin[start : start + length] = [(address, offset + i) for i in range(length)]
        assert row == before, "rows are values: the old one is another version's"
        row = new
        assert sources(row, len(twin)) == twin
        assert row == sorted(row)
        assert all(piece[1] > 0 for piece in row)
        for one, two in pairwise(row):
            joined = one[0] + one[1] == two[0] and one[2] == two[2] and one[3] + one[1] == two[3]
            assert not joined, "what continues is one piece"
        assert bytes_stored(row) == sum(source is not None for source in twin)
        assert unpack(pack(row)) == row
        assert len(pack(row)) == 20 * len(row)


@given(st.lists(PIECE, max_size=12), st.lists(PIECE, max_size=12), st.booleans())
def test_many_pieces_laid_at_once_are_one_after_the_other(before, added, apart) -> None:
    row: list[tuple[int, int, int, int]] = []
    for piece in before:
        row = overlay(row, piece)
    if apart:  # ascending and disjoint, as the pages of a vector are
        rest: list[tuple[int, int, int, int]] = []
        for piece in added:
            rest = overlay(rest, piece)
        added = rest
    expected = row
    for piece in added:
        expected = overlay(expected, piece)
    kept = list(row)
    assert overlay_all(row, added) == expected
    assert row == kept


def test_a_range_cut_in_two_and_joined_again_is_one_piece() -> None:
    row = overlay(overlay([(0, 100, 8, 0)], (40, 10, 16, 0)), (40, 10, 8, 40))
    assert row == [(0, 100, 8, 0)]


@given(st.integers(0, 3 * CHUNK_BYTES), st.integers(0, 3 * CHUNK_BYTES))
def test_a_range_is_cut_at_chunk_borders_and_nowhere_else(offset, length) -> None:
    parts = list(split_by_chunk(offset, length))
    at = offset
    for chunk, start, size, done in parts:
        assert chunk * CHUNK_BYTES + start == at
        assert done == at - offset
        assert 0 < size <= CHUNK_BYTES - start
        at += size
    assert at == offset + length
    assert all(start == 0 for _, start, _, _ in parts[1:])


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), max_size=120))
def test_what_is_worth_merging_lies_without_a_hole_and_shortens_the_row(gaps) -> None:
    row = []
    at = 0
    for number, (gap, length) in enumerate(gaps):
        at += gap if gap > 25 else 0
        row.append((at, length, 8 * number, 0))
        at += length
    window = mergeable(row)
    if len(row) <= PIECES_PER_CHUNK_MAX:
        assert window is None
    elif window is not None:
        low, high = window
        inside = [piece for piece in row if low <= piece[0] < high]
        assert len(inside) >= PIECES_PER_CHUNK_MAX // 4
        assert sum(piece[1] for piece in inside) == high - low
        assert max(piece[1] for piece in inside) * 2 <= high - low
        assert len(overlay(row, (low, high - low, 10**6, 0))) == len(row) - len(inside) + 1


@given(st.lists(st.integers(1, 9000), min_size=PIECES_PER_CHUNK_MAX + 1, max_size=60))
def test_a_long_row_without_holes_always_has_something_worth_merging(lengths) -> None:
    row = []
    at = 0
    for number, length in enumerate(lengths):
        row.append((at, length, 8 * number, 0))
        at += length
    assert mergeable(row) is not None


def test_scattered_pieces_are_left_alone_until_there_are_far_too_many() -> None:
    row = [(200 * at + 7, 100, 8 * at, 0) for at in range(16 * PIECES_PER_CHUNK_MAX)]
    assert mergeable(row) is None
    last = 200 * len(row) + 7
    assert mergeable([*row, (last, 50, 0, 0)]) == (7, last + 50)


def worked(writes: list[tuple[int, int]]) -> tuple[int, int]:
    """Write into one chunk, merging as a shard does; (bytes written again, longest row)."""
    row: list[tuple[int, int, int, int]] = []
    again = longest = 0
    for number, (start, size) in enumerate(writes):
        window = mergeable(row)
        if window is not None:
            again += window[1] - window[0]
            row = overlay(row, (window[0], window[1] - window[0], 10**9 + number, 0))
        row = overlay(row, (start, size, number, 0))
        longest = max(longest, len(row))
    return again, longest


@pytest.mark.parametrize(("size", "times"), [(1000, 1.5), (100, 2.7), (20, 4.1)])
def test_small_appends_are_written_again_a_bounded_number_of_times(size, times) -> None:
    writes = [(at, size) for at in range(0, CHUNK_BYTES - size, size)]
    again, longest = worked(writes)
    assert longest == PIECES_PER_CHUNK_MAX + 1
    assert again <= times * CHUNK_BYTES


def test_small_overwrites_are_written_again_a_bounded_number_of_times() -> None:
    random = Random(1)
    blocks = [(0, CHUNK_BYTES), *((random.randrange(64) * 4096, 4096) for _ in range(1000))]
    again, longest = worked(blocks)
    assert longest <= PIECES_PER_CHUNK_MAX + 2
    assert again <= 1.6 * 4096 * 1000


# --- the dirty map --------------------------------------------------------------------------------------------------

AT = st.integers(0, SPACE)
LENGTH = st.integers(1, 60)
STEP = st.one_of(
    st.tuples(st.just("write"), AT, LENGTH),
    st.tuples(st.just("on"), AT, LENGTH),  # a write that continues the one before
    st.tuples(st.just("place"), AT, LENGTH),
    st.tuples(st.just("cut"), AT, LENGTH),
)


def bytes_of(span: Span, places: dict[int, bytes]) -> bytes:
    if span.data is None:
        return places[span.address][span.offset : span.offset + span.length]
    return bytes(span.view())


@given(st.lists(STEP, max_size=60), AT, LENGTH, st.booleans())
def test_a_dirty_map_is_an_array_of_bytes(steps, look, width, hold) -> None:
    dirty = DirtyMap()
    twin: list[int | None] = [None] * 5000
    in_memory = [False] * 5000
    places: dict[int, bytes] = {}
    end = 0
    held = []
    for number, (what, at, length) in enumerate(steps):
        data = bytes((number * 7 + i) % 251 for i in range(length))
        start = end if what == "on" else at
        match what:
            case "write" | "on":
                dirty.write(start, memoryview(data) if number % 2 else data)
            case "place":
                places[number] = b"junk" + data
                dirty.place(start, length, number, 4)
            case "cut":
                dirty.cut(start)
                twin[start:] = [None] * (len(twin) - start)
                in_memory[start:] = [False] * (len(in_memory) - start)
        if what != "cut":
            end = start + length
            twin[start:end] = list(data)
            in_memory[start:end] = [what != "place"] * length
        spans = list(dirty)
        assert len(spans) == len(dirty)
        assert [span.start for span in spans] == sorted(span.start for span in spans)
        found: list[int | None] = [None] * len(twin)
        for span in spans:
            assert found[span.start : span.end] == [None] * span.length, "disjoint"
            found[span.start : span.end] = list(bytes_of(span, places))
        assert found == twin
        assert dirty.memory_bytes == sum(in_memory)
        if hold:
            # Whoever still looks at a buffer neither sees it change nor stands in the way of the next write.
            held.append([(span.view(), bytes(span.view())) for span in spans if span.data])
        stop = look + width
        parts = dirty.overlapping(look, stop)
        expected = twin[look:stop]
        assert b"".join(bytes_of(part, places) for part in parts) == bytes(
            byte for byte in expected if byte is not None
        )
        assert all(look <= part.start < part.end <= stop for part in parts)
        gaps = dirty.gaps(look, stop)
        holes = {at for low, high in gaps for at in range(low, high)}
        assert holes == {at for at in range(look, stop) if twin[at] is None}
        assert dirty.overlapping(look, look) == []
        assert dirty.gaps(look, look) == []
    if len(dirty) <= 64:
        assert dirty.span_bytes == sum(byte is not None for byte in twin)
    for views in held:
        for view, then in views:
            assert bytes(view) == then


@pytest.mark.parametrize("step", [1, 100, 4096, ROUGH - 1])
def test_writes_that_continue_each_other_gather_in_chunks(step) -> None:
    dirty = DirtyMap()
    total = 3 * CHUNK_BYTES if step > 1 else 5000
    for at in range(0, total, step):
        dirty.write(at, b"x" * step)
    reach = -(-total // step) * step
    assert dirty.memory_bytes == reach
    assert len(dirty) <= reach // (CHUNK_BYTES - step) + 1
    assert all(span.length <= CHUNK_BYTES for span in dirty)


def test_large_writes_are_kept_and_not_copied() -> None:
    dirty = DirtyMap()
    data = bytes(ROUGH)
    dirty.write(0, data)
    (span,) = dirty
    assert span.data is data
    dirty.write(ROUGH, b"more")  # and what continues them is a span of its own
    assert len(dirty) == 2


def test_a_gathered_buffer_overwritten_in_the_middle_goes_on_behind() -> None:
    dirty = DirtyMap()
    dirty.write(0, b"aaaa")
    dirty.write(4, b"bbbb")
    dirty.write(2, b"XX")
    dirty.write(8, b"cc")
    assert b"".join(bytes(span.view()) for span in dirty) == b"aaXXbbbbcc"
    assert dirty.memory_bytes == 10
    assert dirty.gaps(0, 12) == [(10, 12)]
