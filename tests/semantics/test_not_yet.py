"""What the grammar knows and this version does not do is refused, not pretended."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["f@e=2026", "f@e20261121T100000Z", "f@e=2026,t=now", "d@e=2026"])
def test_event_time_is_refused(tree, name):
    tree.put("f", "one")
    tree.mkdir("d")
    assert tree.errno("stat", name) == "EOPNOTSUPP"
    assert tree.errno("put", name, "x") == "EOPNOTSUPP"


@pytest.mark.parametrize(
    "name", ["f@if=v3", "f@if-v1", "new@if=v0", "new@if-v0.csv", "f@if=v1.csv"]
)
def test_conditional_writes_are_refused_also_where_the_base_is_unknown(tree, name):
    tree.put("f", "one")
    assert tree.errno("stat", name) == "EOPNOTSUPP"
    assert tree.errno("put", name, "x") == "EOPNOTSUPP"
    assert tree.errno("mkdir", name) == "EOPNOTSUPP"
    assert tree.ls() == ["f"]


def test_directories_but_the_root_have_no_control_directory(tree):
    tree.mkdir("d")
    assert tree.errno("stat", "d/.cascade") == "ENOENT"
    assert tree.errno("mkdir", "d/.cascade") == "EPERM"
