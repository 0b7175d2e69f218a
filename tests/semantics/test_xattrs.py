"""SEMANTICS 10: what `user.cascade.*` answers, by name, and what can be set."""

from __future__ import annotations

import pytest
import xxhash

NOT_YET_READ = ["writer", "escapes"]


def test_version_and_head(tree):
    tree.put("f", "one")
    tree.put("f", "two")
    moment = tree.now()
    tree.put("f", "three")
    for path, version in (("f", "3"), ("f@v1", "1"), (f"f@{moment}", "2"), (f".@{moment}/f", "2")):
        assert tree.cascade(path, "version") == version
        assert tree.cascade(path, "head") == "3"
    tree.mkdir("d")
    assert tree.cascade("d", "version") == "1"


def test_a_draft_has_no_version_of_its_own(tree):
    file = tree.open("f", 0o101)
    tree.write(file, b"x")
    assert tree.cascade("f", "version") is None
    tree.fsync(file)
    assert tree.cascade("f", "version") == "1"
    tree.write(file, b"y")
    assert tree.cascade("f", "version") == "1"
    tree.close(file)


def test_versions_are_told_after_a_listing_too(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    with tree._walk(b"d", follow=False) as stat:
        handle = tree.fs.opendir(stat.number, tree.caller)
        for name, entry, _ in tree.fs.readdir(handle, 2):
            assert name == b"f"
            tree.fs.remember(entry.number)
            # The kernel now has the entry and looks nothing up.
            assert tree.fs.getxattr(entry.number, b"user.cascade.version", tree.caller) == b"1"
            tree.fs.forget(entry.number, 1)
        tree.fs.releasedir(handle)


def test_numbers_are_those_of_the_name_last_reached(tree):
    tree.put("a", "one")
    tree.put("a", "two")
    tree.link("a", "b")
    assert (tree.cascade("a", "version"), tree.cascade("b", "version")) == ("2", "1")
    assert tree.stat("a@v2").number != tree.stat("a@v1").number
    assert (tree.cascade("b@v1", "version"), tree.cascade("a@t=now", "version")) == ("1", "2")
    assert tree.cascade("a@t=now", "canonical") == "a@v2"
    assert tree.cascade("b@t=now", "canonical") == "b@v1"


def test_commit_time_and_resolved_time(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    committed = tree.cascade("d/f", "commit_time")
    tree.wait(10)
    moment = tree.now()
    tree.chmod("d/f", 0o600)
    assert tree.cascade("d/f@v1", "commit_time") == committed
    assert tree.cascade("d/f@t=now", "commit_time") == committed
    assert tree.cascade(f"d@{moment}", "resolved_time") == moment
    assert tree.cat(f"d/f@{committed}") == b"one"
    # Of a file: since when it was as shown.
    assert tree.cascade(f"d/f@{moment}", "resolved_time") == committed
    assert tree.cascade("d/f", "resolved_time") is None


def test_hash_is_of_the_committed_content(tree):
    for content in (b"", b"x" * 3_000_000):
        tree.put("f", content)
        assert tree.cascade("f@v-0", "hash") == xxhash.xxh3_64_hexdigest(content)
    assert tree.cascade("f@v1", "hash") == xxhash.xxh3_64_hexdigest(b"")
    tree.mkdir("d")
    assert tree.cascade("d", "hash") is None


def test_origin_and_moved_to(tree):
    tree.mkdir("d")
    tree.put("a", "one")
    tree.put("a", "two")
    tree.rename("a", "d/b")
    assert tree.cascade("d/b", "origin") == "a"
    assert tree.cascade("a@v1", "moved_to") == tree.cascade("a@v2", "moved_to") == "d/b"
    tree.put("a", "four")
    assert tree.cascade("a@v2", "moved_to") == "d/b"
    assert tree.cascade("a@v4", "moved_to") is None
    assert tree.cascade("a@v4", "origin") is None
    tree.put("c", "x")
    tree.rename("c", "a")
    assert tree.cascade("a@v4", "moved_to") is None  # Replaced, not moved.
    tree.unlink("a")
    assert tree.cascade("a@v5", "moved_to") is None  # Removed.


def test_labels_of_a_directory(tree):
    tree.mkdir("d")
    assert tree.cascade("d", "labels") is None
    tree.mkdir("d@tag-two")
    tree.mkdir("d@tag-one")
    assert tree.cascade("d", "labels") == tree.cascade("d@t=now", "labels") == "one two"


def test_the_stores_own_numbers(tree):
    tree.put("f", "one")
    first = tree.cascade("f", "store_version")
    tree.put("f", "two")
    assert first == tree.cascade("f@v1", "store_version") != tree.cascade("f", "store_version")
    assert first == f"0:{tree.stat('f@v1').ctime_ns // 1000}"
    assert tree.cascade("f", "fid") == tree.cascade("f@v1", "fid") == str(tree.stat("f").number)
    assert tree.cascade("f", "shard") == "0"
    assert tree.cascade("f@v1", "stored_bytes") == "3"
    assert tree.cascade("f", "stable_time").startswith("20261121T100000")


def test_none_is_listed_settings_included(tree):
    tree.mkdir("d")
    tree.setxattr("d", "user.mine", "x")
    tree.setxattr("d", "user.cascade.at_names", "literal")
    assert tree.listxattr("d") == tree.listxattr("d@t=now") == [b"user.mine"]
    assert tree.listxattr("d@@") == tree.listxattr(".cascade") == []
    assert tree.getxattr("d", "user.cascade.at_names") == b"literal"


@pytest.mark.parametrize("name", ["no_such", "", *NOT_YET_READ])
def test_an_unknown_one_is_enodata(tree, name):
    tree.put("f", "one")
    for path in ("f", "f@v1", "f@@", ".cascade", ".cascade/README"):
        assert tree.errno("getxattr", path, f"user.cascade.{name}") == "ENODATA"


@pytest.mark.parametrize("name", ["version", "head", "hash", "no_such"])
def test_what_cannot_be_set_is_refused(tree, name):
    tree.put("f", "one")
    assert tree.errno("setxattr", "f", f"user.cascade.{name}", "x") == "EOPNOTSUPP"
    assert tree.errno("removexattr", "f", f"user.cascade.{name}") == "ENODATA"


def test_setting_in_history_is_erofs(tree):
    tree.put("f", "one")
    for name in (
        "user.mine",
        "user.cascade.restore",
        "user.cascade.at_names",
        "user.cascade.version",
    ):
        assert tree.errno("setxattr", "f@v1", name, "x") == "EROFS"


def test_users_attributes_of_the_past(tree):
    tree.put("f", "one")
    tree.setxattr("f", "user.a", "1")
    tree.setxattr("f", "user.b", "1")
    moment = tree.now()
    tree.setxattr("f", "user.a", "2")
    tree.removexattr("f", "user.b")
    assert tree.getxattr(f"f@{moment}", "user.a") == b"1"
    assert tree.listxattr(f"f@{moment}") == [b"user.a", b"user.b"]
    assert tree.listxattr("f@v1") == []
    assert tree.getxattr("f", "user.a") == b"2"
    assert tree.errno("getxattr", "f", "user.b") == "ENODATA"
