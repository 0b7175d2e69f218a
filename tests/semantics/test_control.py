"""SEMANTICS 9: `.cascade` is found by name, never listed, and nobody's to make, move or remove."""

from __future__ import annotations

import json


def test_it_is_in_the_root_found_by_name_and_never_listed(tree):
    tree.mkdir("d")
    assert tree.exists(".cascade")
    assert tree.ls() == ["d"]
    assert tree.ls("d") == []
    assert tree.ls(".cascade") == ["README", "at", "by-id", "status"]
    assert tree.errno("stat", "d/.cascade") == "ENOENT"


def test_what_is_in_it(tree):
    tree.put("f", "one")
    assert b"f" in tree.cat(".cascade/README")
    status = json.loads(tree.cat(".cascade/status"))
    assert status["versions_committed"] == 1
    assert status["store"]["live_inodes"] == 2
    assert tree.ls(".cascade/at/now") == ["f"]
    assert tree.ls(".cascade/at") == []
    assert tree.ls(".cascade/by-id") == []
    assert tree.errno("stat", ".cascade/tags") == "ENOENT"


def test_status_is_made_anew_by_every_open(tree):
    before = json.loads(tree.cat(".cascade/status"))["versions_committed"]
    tree.put("f", "one")
    assert json.loads(tree.cat(".cascade/status"))["versions_committed"] == before + 1


def test_nobody_makes_moves_or_removes_it(tree):
    tree.put("f", "one")
    tree.mkdir("d")
    for name, refusals in (
        (".cascade", {"EEXIST", "EPERM", "EROFS", "EISDIR"}),
        ("d/.cascade", {"EPERM"}),
    ):
        for call, arguments in (
            ("put", (name, "x")),
            ("mkdir", (name,)),
            ("symlink", ("f", name)),
            ("link", ("f", name)),
            ("mknod", (name, 0o100644)),
            ("rename", ("f", name)),
            ("rename", ("d", name)),
        ):
            assert tree.errno(call, *arguments) in refusals | {"EINVAL"}, (name, call)
    for call, arguments in (
        ("rmdir", (".cascade",)),
        ("unlink", (".cascade",)),
        ("rename", (".cascade", "x")),
        ("unlink", (".cascade/README",)),
        ("rename", (".cascade/README", "x")),
        ("chmod", (".cascade", 0o777)),
    ):
        assert tree.errno(call, *arguments) == "EROFS", call
    assert tree.ls() == ["d", "f"]
    assert tree.ls("d") == []


def test_it_can_have_another_name(make_tree):
    tree = make_tree(control_name=b".history")
    tree.put("f", "one")
    assert tree.cat(".history/at/now/f") == b"one"
    assert tree.errno("stat", ".cascade") == "ENOENT"
    tree.put(".cascade", "mine")
    assert tree.ls() == [".cascade", "f"]


def test_text_is_read_in_pieces_and_again(tree):
    tree.put("f", "x" * 10)
    for number in range(50):
        tree.put("f", str(number))
    whole = tree.cat("f@@/.log")
    assert len(whole.splitlines()) == 51
    file = tree.open("f@@/.log")
    pieces = [tree.read(file, offset, 1000) for offset in range(0, len(whole), 1000)]
    assert b"".join(pieces) == whole
    assert tree.read(file, 0, 100) == whole[:100]
    assert tree.read(file, len(whole), 10) == b""
    tree.close(file)
