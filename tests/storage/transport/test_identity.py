"""Identities as URIs.

Goal: one spelling, read back as it was, and nothing else accepted. Method: round trips, and examples of what is none.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.transport import EVERYBODY, Identity, IdMap, IdRange, Role
from storage.transport.identity import parse, spell

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
END = 2**32 - 1


@st.composite
def ranges(draw):
    first, target = draw(st.integers(0, END - 1)), draw(st.integers(0, END - 1))
    count = draw(st.integers(1, END - max(first, target)))
    return IdRange(first, target, count)


maps = st.lists(ranges(), max_size=5).map(lambda some: IdMap(tuple(some)))
identities = st.builds(Identity, names, st.sampled_from(Role), names, maps, maps)


@given(identities)
def test_what_is_spelled_is_read_back(who):
    assert parse(spell(who)) == who


@given(st.text(max_size=100))
def test_any_text_is_an_identity_or_none(text):
    for candidate in (text, f"cascadefs://c1/node/{text}", f"cascadefs://c1/node/n1?{text}"):
        try:
            who = parse(candidate)
        except ValueError:
            continue
        assert parse(spell(who)) == who


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://c1/node/n1",
        "cascadefs://c1/node",
        "cascadefs://c1/node/n1/more",
        "cascadefs://c1/node/",
        "cascadefs:///node/n1",
        "cascadefs://c1/king/n1",
        "cascadefs://c1/node/n1#x",
        "cascadefs://c1/node/n1?uid",
        "cascadefs://c1/node/n1?uid=",
        "cascadefs://c1/node/n1?uid=-5",
        "cascadefs://c1/node/n1?uid=5-4",
        "cascadefs://c1/node/n1?uid=01",
        "cascadefs://c1/node/n1?uid=4294967295",
        "cascadefs://c1/node/n1?uid=0-10:4294967290",
        "cascadefs://c1/node/n1?user=5",
        "cascadefs://me@c1:5/node/n1",
        "cascadefs://c1/node/n1?" + "&".join(["uid=1"] * 65),
        "cascadefs://c1/node/n1?" + "x" * 5000,
    ],
)
def test_what_is_no_identity(uri):
    with pytest.raises(ValueError, match=r"."):
        parse(uri)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "-x", "x" * 65, "a\n"])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="letters"):
        spell(Identity("c1", Role.NODE, name))
    with pytest.raises(ValueError, match="letters"):
        spell(Identity(name, Role.NODE, "n1"))


def test_maps_that_are_too_long():
    many = IdMap(tuple(IdRange(10**9 + i, 10**9 + i, 1) for i in range(500)))
    with pytest.raises(ValueError, match="too long"):
        spell(Identity("c1", Role.NODE, "n1", many))


def test_whom_a_peer_may_speak_for():
    few = IdMap((IdRange(1000, 5000, 10), IdRange(0, 65_534, 1)))
    assert [few.translate(n) for n in (0, 1, 999, 1000, 1009, 1010)] == [
        65_534,
        None,
        None,
        5000,
        5009,
        None,
    ]
    assert EVERYBODY.translate(0) == 0
    assert EVERYBODY.translate(END - 1) == END - 1
    assert EVERYBODY.translate(END) is None
    assert EVERYBODY.translate(-1) is None
    assert IdMap().translate(0) is None
