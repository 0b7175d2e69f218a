"""SEMANTICS 5: the errno of every refusal, as a program gets it.

Method: a row of the table, a test; `cascadefs.errnos` maps what the file system says (its completeness: tests/cascadefs).
"""

from __future__ import annotations

import os

import pytest

from storage.errors import Corruption


@pytest.fixture
def past(tree):
    """A tree with a past: f has versions 1 (one), 2 (a tombstone) and 3; d/g is in a directory."""
    tree.wait(60)
    tree.put("f", "one")
    tree.unlink("f")
    tree.put("f", "three")
    tree.mkdir("d")
    tree.put("d/g", "g")
    tree.symlink("f", "d/s")
    tree.mkdir("d/e")
    return tree


@pytest.mark.parametrize(
    "path",
    [
        "never@v1",
        "never@-1s",
        "f@v0",
        "f@v4",
        "f@v2",
        "f@v-1",
        "f@v-3",
        f"f@v{2**63}",
        f"f@v{2**64}",
        "f@v99999999999999999999",
        "f@t=2026-11-21T10:00:30",
        "f@-59s",
        "f@t=1999",
        "f@t=0001",
        "f@t=1969-12-31T23:59:59",
        "f@-99999999w",
        "f@-99999999999999999999w",
        "f@t=2099",
        "f@t=9999",
        "f@t=2026-11-21T10:01:01",
        "d@tag-never",
        "d@tag=never",
        "f@tag-never",
        "f@deleted",
        "d@v2",
        ".@t=2020",
        ".@tag-never",
        ".@v1",
        "never@@",
        "f@@/v4",
        "d@@/2020",
        "d@@/tag-never",
    ],
)
def test_what_never_was_is_enoent(past, path):
    assert past.errno("stat", path) == "ENOENT"
    assert past.errno("open", path) == "ENOENT"


@pytest.mark.parametrize(
    "name", ["f@t=", "f@t=yesterday", "f@t=20261321", "f@t=12345", "f@e=x", "f@tag=1", "f@if=3"]
)
def test_a_malformed_value_is_einval_on_lookup_and_create(past, name):
    assert past.errno("stat", name) == "EINVAL"
    assert past.errno("put", name, "x") == "EINVAL"
    assert past.errno("mkdir", name) == "EINVAL"


@pytest.mark.parametrize("name", ["f@vx", "f@2x", "f@v", "f@-1", "f@tag-", "f@e2026"])
def test_bare_text_that_is_no_spec_is_a_name(past, name):
    assert past.errno("stat", name) == "ENOENT"
    past.put(name, "x")
    assert past.cat(name) == b"x"


def test_every_change_of_the_past_is_erofs(past):
    moment = past.now()
    files = ("f@v1", f"d@{moment}/g", "f@@/v1", ".cascade/README", "f@@/.log")
    for path in files:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT):
            assert past.errno("open", path, flags) == "EROFS", (path, flags)
        for call, arguments in (
            ("truncate", (path, 0)),
            ("chmod", (path, 0o600)),
            ("chown", (path, 1, 1)),
            ("utime", (path, 0)),
            ("setxattr", (path, "user.a", "b")),
            ("setxattr", (path, "user.cascade.restore", "v1")),
            ("removexattr", (path, "user.a")),
            ("unlink", (path,)),
            ("rename", (path, "moved")),
            ("link", (path, "linked")),
        ):
            assert past.errno(call, *arguments) == "EROFS", (path, call)
    assert sorted(past.ls()) == ["d", "f"]


def test_nothing_can_be_made_or_removed_below_the_past(past):
    moment = past.now()
    past.mkdir("d@tag-x")
    for directory in (
        f"d@{moment}",
        f".@{moment}",
        "d@tag-x",
        "d@@",
        "f@@",
        ".@deleted",
        ".cascade",
    ):
        for call, arguments in (
            ("put", (f"{directory}/new", "x")),
            ("mkdir", (f"{directory}/new",)),
            ("symlink", ("f", f"{directory}/new")),
            ("mknod", (f"{directory}/new", 0o100644)),
            ("link", ("f", f"{directory}/new")),
            ("rename", ("f", f"{directory}/new")),
        ):
            assert past.errno(call, *arguments) == "EROFS", (directory, call)
    for call, path in (("unlink", "g"), ("rmdir", "e"), ("unlink", "s")):
        assert past.errno(call, f"d@{moment}/{path}") == "EROFS"
    assert past.errno("rename", f"d@{moment}/g", "g") == "EROFS"  # mv out of history
    assert past.errno("rename", f"d@{moment}/e", "d/e2") == "EROFS"
    assert past.errno("rename", f"d@{moment}", "d2") == "EROFS"
    assert past.errno("rmdir", f"d@{moment}") == "EROFS"


@pytest.mark.parametrize("name", ["f@v9", "f@20990101T000000Z", "d@v2"])
def test_creating_a_spec_of_a_base_with_history_is_einval(past, name):
    for call, arguments in (
        ("put", (name, "x")),
        ("mkdir", (name,)),
        ("symlink", ("f", name)),
        ("mknod", (name, 0o010600)),
        ("link", ("f", name)),
        ("rename", ("d/g", name)),
    ):
        assert past.errno(call, *arguments) == "EINVAL", call


def test_a_spec_on_a_file_used_as_a_directory_is_enotdir(past):
    for path in ("f@v1/x", "f@t=now/x", "f@@/v1/x", "f@@/.log/x", ".cascade/README/x"):
        assert past.errno("stat", path) == "ENOTDIR", path
    for path in ("f@v1", "f@@/v1", ".cascade/README"):
        assert past.errno("ls", path) == "ENOTDIR", path


def test_making_a_label_that_is_there_is_eexist(past):
    past.mkdir("d@tag-x")
    first = past.cascade("d@tag-x", "resolved_time")
    assert past.errno("mkdir", "d@tag-x") == "EEXIST"
    assert past.errno("mkdir", "d@tag=x") == "EEXIST"
    assert past.cascade("d@tag-x", "resolved_time") == first


@pytest.mark.parametrize("text", ["1", "", "a b", "x" * 65, "ä"])
def test_a_bad_label_is_einval(past, text):
    assert past.errno("mkdir", f"d@tag={text}") == "EINVAL"


def test_removing_a_label_that_is_not_there_is_enoent(past):
    assert past.errno("rmdir", "d@tag-x") == "ENOENT"
    past.mkdir("d@tag-x")
    past.rmdir("d@tag-x")
    assert past.errno("rmdir", "d@tag-x") == "ENOENT"
    assert past.errno("stat", "d@tag-x") == "ENOENT"


def test_a_label_on_what_is_no_directory_is_enotdir(past):
    assert past.errno("mkdir", "f@tag-x") == "ENOTDIR"


@pytest.mark.local_store
def test_damage_is_no_errno_of_its_own_but_an_error_of_the_read(past):
    past.put("big", b"A" * 100_000)
    past.store.publish()
    (segment,) = (past.directory / "log").glob("*.seg")
    with segment.open("r+b") as file:
        at = segment.read_bytes().find(b"A" * 1000)
        file.seek(at + 500)
        file.write(b"B")
    with pytest.raises(Corruption):
        past.cat("big")
    with pytest.raises(Corruption):
        past.cat("big@v1")


def test_a_directory_is_not_opened_as_a_file(past):
    moment = past.now()
    for path in ("f@@", ".cascade", f"d@{moment}"):
        assert past.errno("open", path) == "EISDIR", path
