"""Patterns match as Bash's do.

Goal: what the page promises of every form, and linear time. Method: tables of cases; random globs and paths against
wcmatch, which implements Bash's rules by back-tracking.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from wcmatch import glob

from triggers.pattern import BadPattern, Pattern, Union

BASH = glob.GLOBSTAR | glob.BRACE | glob.EXTGLOB | glob.DOTGLOB | glob.FORCEUNIX

CASES = [
    ("a.txt", "a.txt", True),
    ("a.txt", "sub/a.txt", False),
    ("*.jpg", "1.jpg", True),
    ("*.jpg", ".jpg", True),
    ("*.jpg", "sub/1.jpg", False),
    ("frames/*.jpg", "frames/sub/1.jpg", False),
    ("frames/**/*.jpg", "frames/1.jpg", True),
    ("frames/**/*.jpg", "frames/a/b/1.jpg", True),
    ("frames/**", "frames/a/b/1.jpg", True),
    ("frames/**", "frames", False),
    ("**", "a", True),
    ("**/x", "x", True),
    ("a**b/c", "axxb/c", True),
    ("a**b/c", "ax/b/c", False),
    ("{a,b}/*.{npy,json}", "b/1.json", True),
    ("{a,b}/*.{npy,json}", "c/1.json", False),
    ("{1..3}.txt", "2.txt", True),
    ("?.txt", "é.txt", True),
    ("?.txt", "\udcff.txt", True),
    ("[a-c]x", "bx", True),
    ("[!a-c]x", "bx", False),
    ("[^a-c]x", "dx", True),
    ("[]]x", "]x", True),
    ("[a-]x", "-x", True),
    ("[[:digit:]]x", "7x", True),
    ("[![:digit:]]x", "7x", False),
    ("[x", "[x", True),
    (r"\*x", "*x", True),
    (r"\*x", "ax", False),
    ("@(a|b)c", "bc", True),
    ("*(a|b)c", "abbac", True),
    ("?(a)c", "c", True),
    ("+(a)c", "c", False),
    ("a\nb", "a\nb", True),
    ("*", "a\nb", True),
    ("*", "\udcff", True),
    ("a.b", "axb", False),
    ("re:cam(?P<n>[0-9]+)/.*", "cam12/a/b", True),
    ("re:cam", "cam1", False),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), CASES)
def test_cases(pattern, path, expected):
    assert Pattern((pattern,)).matches(path) is expected
    union = Union([("other", Pattern(("zzz",))), ("this", Pattern((pattern,)))])
    assert union.matching(path) == (["this"] if expected else [])


def test_exclusions_take_out_of_all():
    pattern = Pattern(("frames/*.npy", "more/**", "!**/x*"))
    assert pattern.matches("frames/1.npy")
    assert not pattern.matches("frames/x.npy")
    assert not pattern.matches("more/a/xy")
    assert Union([(1, pattern)]).matching("frames/x.npy") == []


def test_named_groups():
    pattern = Pattern(("re:cam(?P<camera>[0-9]+)/(?P<rest>a)?.*", "*.x"))
    assert pattern.group_names == {"camera", "rest"}
    assert pattern.groups("cam12/b") == {"camera": "12"}
    assert pattern.groups("q.x") == {}


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("/abs/*", "below the directory"),
        ("a/../b", "no '.' or '..'"),
        ("./a", "no '.' or '..'"),
        ("dir/", r"say dir/\*\*"),
        ("a//b", "a pattern is of files"),
        ("!(a)", "no !|only exclusions"),
        ("x!(a)", "begins with '!'"),
        ("@(a", "has no \\)"),
        ("re:(?<=a)b", "invalid perl operator"),
        ("re:(", "missing"),
        ("{1..5000}", "more than 1000"),
        ("", "only exclusions"),
        ("!x", "only exclusions"),
        ("[z-a]", "invalid character class range"),
    ],
)
def test_what_is_no_pattern_says_why(pattern, says):
    with pytest.raises(BadPattern, match=says):
        Pattern((pattern,))


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "re:(a*)*b", "re:(a|aa)+$", "**/" * 30 + "b"])
def test_no_pattern_takes_for_ever(pattern):
    # By back-tracking each of these would outlive the machine.
    assert not Pattern((pattern,)).matches("a" * 4000 + "c")
    assert not Pattern((pattern,)).matches("/".join("a" * 1000) + "c")


def test_a_union_of_many_says_which_in_order():
    union = Union([(i, Pattern((f"d{i % 100}/**",))) for i in range(1000)])
    assert union.matching("d7/x") == list(range(7, 1000, 100))
    assert union.matching("nothing") == []
    assert Union([]).matching("x") == []


pieces = st.sampled_from(
    ["a", "b", "ab", ".", "*", "?", "**", "[ab]", "[!a]", "{a,b}", "@(a|b)", "+(a)", "\\*", "-"]
)
globs = st.lists(st.lists(pieces, min_size=1, max_size=4).map("".join), min_size=1, max_size=4).map(
    "/".join
)
paths = st.lists(st.text("ab.*-", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)


@given(globs, paths)
def test_as_wcmatch_does(pattern, path):
    names = path.split("/")
    assume(not {".", ".."} & set(names))
    try:
        ours = Pattern((pattern,))
    except BadPattern:
        return
    theirs = [re.compile(source) for source in glob.translate(pattern, flags=BASH)[0]]
    assert ours.matches(path) == any(expression.match(path) for expression in theirs)
