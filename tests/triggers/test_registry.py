"""Warnings of circles: exactly the knots there are, and found without asking every pattern about every directory.

Method: graphs and patterns of all kinds against the plain definition.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from triggers.binding import validate
from triggers.follower import Definition
from triggers.pattern import Pattern
from triggers.registry import _cycles, _may_match, _Prefixes, loops

NAMES = "abcdefg"

graphs = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(NAMES), max_size=3) for name in NAMES}
)


def reach(edges: dict[str, list[str]], start: str) -> set[str]:
    """All that can be come to from a name, in one step at least."""
    found: set[str] = set()
    todo = list(edges[start])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(edges[name])
    return found


@given(graphs)
def test_each_knot_has_one_way_round(edges):
    reached = {name: reach(edges, name) for name in NAMES}
    knots = {
        frozenset(other for other in NAMES if other in reached[name] and name in reached[other])
        for name in NAMES
        if name in reached[name]
    }
    ways = list(_cycles(edges))
    assert {frozenset(knot) for knot in knots} == {
        next(knot for knot in knots if set(way) <= knot) for way in ways
    }
    assert len(ways) == len(knots)
    for way in ways:
        assert all(
            after in edges[before] for before, after in zip(way, [*way[1:], way[0]], strict=True)
        )
        assert way[0] == min(next(knot for knot in knots if set(way) <= knot))


parts = st.sampled_from(["a", "b", "ab", "*", "**", "x?", "[ab]", "{a,b}", "@(a|b)", "x"])
patterns = st.lists(parts, min_size=1, max_size=4).map("/".join) | st.sampled_from(
    ["re:a/.*", "re:(x|b)+/x", "\\a/*"]
)
directories = st.lists(st.sampled_from(["a", "b", "ab", "x"]), min_size=1, max_size=3).map("/".join)


@given(st.lists(patterns, min_size=1, max_size=8), directories)
def test_no_pattern_that_may_match_is_left_out(texts, directory):
    known = [(str(number), Pattern((text, "!b/**"))) for number, text in enumerate(texts)]
    near = dict(_Prefixes(known).of(directory))
    for name, pattern in known:
        if _may_match(pattern, directory):
            assert name in near


def definition(name: str, watch: str, emit: str, **more: object) -> Definition:
    table = {"watch": watch, "emit": emit, **more}
    return Definition(validate(table, script=name), name.encode(), "id", 0)


def test_a_circle_is_told_once_and_not_if_one_of_it_says_so():
    three = [definition(name, f"{name}/*", f"{to}/") for name, to in ("ab", "bc", "ca")]
    (said,) = loops(three)
    assert "a -> b -> c -> a" in said
    assert loops([*three[:2], definition("c", "c/*", "a/", loop=True)]) == []
    assert loops(three[:2]) == []
    assert loops([definition("own", "a/*", "a/")]) == [], "its own output fires it only with `self`"
    assert len(loops([definition("own", "a/*", "a/", self=True)])) == 1
