"""Goal: blame tells of every line and byte a version that brought it, and bisect finds the first bad one.

Method: random histories against twins that look at everything at once. Which of two equal lines is "the same" as before is
anybody's choice, so of lines it is checked what must hold whatever was chosen.
"""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cascadefs.cli.history.attribution import JOINED_BYTES, Lines, Ranges
from cascadefs.cli.history.halving import Halving

texts = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=8)


def blamed(history: list[list[bytes]]) -> list[int | None]:
    """What `Lines` says of the newest, given oldest first and numbered from 1."""
    lines = Lines(history[-1], len(history))
    for number in range(len(history) - 1, 0, -1):
        if lines.is_done:
            break
        lines.before(history[number - 1], number)
    lines.end()
    return lines.told


@given(st.lists(texts, min_size=1, max_size=8))
def test_a_line_is_in_every_version_since_the_one_that_brought_it(history):
    told = blamed(history)
    assert len(told) == len(history[-1])
    for line, version in zip(history[-1], told, strict=True):
        assert version is not None
        assert all(line in text for text in history[version - 1 :])
    for version in set(told):  # In order, as one text holds them.
        brought = [line for line, by in zip(history[-1], told, strict=True) if by == version]
        rest = iter(history[version - 1])
        assert all(line in rest for line in brought)


def test_lines_by_hand():
    history = [[b"a", b"b", b"c"], [b"a", b"B", b"c"], [b"new", b"a", b"B", b"c"]]
    assert blamed(history) == [3, 1, 2, 1]
    assert blamed([[b"a"]]) == [1]
    assert blamed([[b"a"], []]) == []
    assert blamed([[b"a"], [], [b"a"]]) == [3], "it was away"


def test_nothing_more_is_asked_when_every_line_is_told():
    lines = Lines([b"x", b"y"], 2)
    lines.before([b"z"], 1)
    assert lines.is_done
    assert lines.told == [2, 2]


contents = st.lists(
    st.lists(st.sampled_from([0, 0, 0, 1]), max_size=120).map(bytes), min_size=1, max_size=6
)


@given(contents)
def test_bytes_are_told_by_their_places(history):
    ranges = Ranges(len(history[-1]), len(history))
    for number in range(len(history) - 1, 0, -1):
        now, then = history[number], history[number - 1]
        ranges.before(
            lambda offset, length, now=now: now[offset : offset + length],
            lambda offset, length, then=then: then[offset : offset + length],
            len(then),
            number,
        )
    ranges.end()
    found = ranges.in_order()
    told = [version for start, end, version in found for _ in range(start, end)]
    assert len(told) == len(history[-1])
    assert all(end == start for (_, end, _), (start, _, _) in itertools.pairwise(found))
    for place, version in enumerate(told):
        last = len(history)
        while (
            last > 1
            and history[last - 2][place : place + 1] == history[last - 1][place : place + 1]
        ):
            last -= 1
        # Chance equals between changes that are close count as changed.
        assert version >= last
        if version > last:
            near = range(max(0, place - JOINED_BYTES), place + JOINED_BYTES + 1)
            before, after = history[version - 2], history[version - 1]
            assert any(before[at : at + 1] != after[at : at + 1] for at in near)


@given(st.integers(1, 200), st.data())
def test_halving_finds_the_first_bad_one_in_few_steps(count, data):
    first_bad = data.draw(st.integers(1, count))
    unknown = data.draw(st.sets(st.integers(1, count - 1), max_size=5)) if count > 1 else set()
    halving = Halving(0, count)
    while (index := halving.next) is not None:
        halving.judge(index, None if index in unknown else index < first_bad)
    assert halving.good < first_bad <= halving.bad
    assert set(range(halving.good + 1, halving.bad)) == set(halving.between) <= unknown
    assert halving.runs <= 2 + count.bit_length() + 2 * len(unknown) + 2
