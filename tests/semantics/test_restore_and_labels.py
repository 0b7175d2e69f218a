"""SEMANTICS 7, as far as it is there: bringing the past back, and giving a moment a name."""

from __future__ import annotations

import os

import pytest


def test_restoring_by_copy_commits_a_new_version(tree):
    tree.put("f", "one")
    tree.put("f", "two")
    tree.put("f", tree.cat("f@v1"))
    assert tree.versions("f") == ["v1", "v2", "v3"]
    assert tree.cat("f") == b"one"
    assert tree.cat("f@v2") == b"two"


@pytest.mark.local_store
def test_restoring_by_attribute_shares_the_bytes(tree):
    content = bytes(range(256)) * 4000  # A million bytes, four chunks.
    tree.put("f", content)
    tree.put("f", "short")
    before = tree.log_bytes()
    tree.setxattr("f", "user.cascade.restore", "v1")
    assert tree.log_bytes() - before < 1000
    assert tree.cat("f") == tree.cat("f@v3") == content
    assert tree.cat("f@v2") == b"short"
    assert tree.fs.take_invalidations()[0] != (b"f", 1)
    tree.append("f", "!")
    assert tree.cat("f@v4") == content + b"!"
    assert tree.cat("f@v1") == tree.cat("f@v3") == content


@pytest.mark.parametrize("spec", ["v1", "-10s", "t=2026-11-21T10:00:01", "v-1"])
def test_any_spec_of_the_same_name_restores(tree, spec):
    tree.put("f", b"x" * 10)
    tree.truncate("f", 300_000)  # With a hole behind.
    tree.wait(1)
    tree.store.now()
    tree.wait(10)
    tree.save("f", "by rename")
    tree.setxattr("f", "user.cascade.restore", spec)
    restored = tree.cat("f")
    assert restored == tree.cat("f@v-0")
    assert restored[:10] == b"x" * 10
    assert len(restored) == (10 if spec == "v1" else 300_000)


def test_restoring_tells_the_kernel_to_forget_its_pages(tree):
    tree.put("f", "one")
    tree.put("f", "two")
    tree.fs.take_invalidations()
    tree.setxattr("f", "user.cascade.restore", "v1")
    assert tree.fs.take_invalidations() == [(tree.stat("f").number, None)]


def test_restoring_keeps_what_others_are_writing_in_history(tree):
    tree.put("f", "one")
    file = tree.open("f", os.O_WRONLY | os.O_APPEND)
    tree.write(file, b" and a half")
    tree.setxattr("f", "user.cascade.restore", "v1")
    assert tree.cat("f@v2") == b"one and a half"
    assert tree.cat("f") == tree.cat("f@v3") == b"one"
    tree.close(file)
    assert tree.versions("f") == ["v1", "v2", "v3"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("v9", "ENOENT"),
        ("v0", "ENOENT"),
        ("t=2020", "ENOENT"),
        ("t=garbage", "EINVAL"),
        ("", "ENOENT"),
        ("@", "EINVAL"),
        ("v1/x", "ENOENT"),
        ("if=v1", "EINVAL"),
    ],
)
def test_a_bad_spec_restores_nothing(tree, spec, says):
    tree.put("f", "one")
    assert tree.errno("setxattr", "f", "user.cascade.restore", spec) == says
    assert tree.versions("f") == ["v1"]
    assert tree.fs.status()["drafts"] == 0


def test_a_file_of_several_names_is_not_restored_by_attribute(tree):
    tree.put("a", "one")
    tree.put("a", "two")
    tree.link("a", "b")
    for name in ("a", "b"):
        assert tree.errno("setxattr", name, "user.cascade.restore", "v1") == "EOPNOTSUPP"
    tree.unlink("b")
    tree.setxattr("a", "user.cascade.restore", "v1")
    assert tree.cat("a") == b"one"


def test_only_content_that_could_be_read_then_and_now_is_restored(tree):
    tree.put("f", "secret", mode=0o600)
    tree.put("f", "public")
    tree.chmod("f", 0o666)
    with tree.user(1000):
        assert tree.errno("setxattr", "f", "user.cascade.restore", "v1") == "EACCES"
        assert tree.cat("f") == b"public"


def test_what_is_neither_file_nor_directory_is_not_restored_by_attribute(tree):
    tree.mknod("pipe", 0o010644)
    assert tree.errno("setxattr", "pipe", "user.cascade.restore", "v1") == "EINVAL"


# --- Labels ------------------------------------------------------------------------------------------------------------


def test_mkdir_of_a_tag_names_this_moment(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    tree.mkdir("d@tag-run7")
    tree.put("d/f", "two")
    tree.put("d/g", "new")
    for path in ("d@tag-run7", "d@tag=run7", "d@@/tag-run7", "d/.@tag-run7"):
        assert tree.ls(path) == ["f"], path
        assert tree.cat(f"{path}/f") == b"one"
    assert tree.ls() == ["d"]


def test_the_root_can_be_labelled(tree):
    tree.put("f", "one")
    tree.mkdir(".@tag-start")
    tree.put("f", "two")
    assert tree.cat(".@tag-start/f") == b"one"
    tree.rmdir(".@tag-start")
    assert not tree.exists(".@tag-start")


def test_a_label_does_not_move_until_it_is_dropped(tree):
    tree.mkdir("d")
    tree.mkdir("d@tag-x")
    tree.put("d/f", "one")
    assert tree.errno("mkdir", "d@tag-x") == "EEXIST"
    assert tree.ls("d@tag-x") == []
    tree.rmdir("d@tag-x")
    tree.mkdir("d@tag-x")
    assert tree.ls("d@tag-x") == ["f"]


def test_a_labelled_directory_can_be_renamed_and_removed(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    tree.mkdir("d@tag-x")
    tree.rename("d", "e")
    assert tree.cat("e@tag-x/f") == tree.cat("d@tag-x/f") == b"one"
    tree.unlink("e/f")
    tree.rmdir("e")
    assert tree.cat("e@tag-x/f") == b"one"


def test_a_label_costs_one_record(tree):
    tree.mkdir("d")
    for number in range(100):
        tree.mknod(f"d/{number}", 0o100644)
    before = tree.records()
    tree.mkdir("d@tag-x")
    assert tree.records() == before + 1


def test_a_literal_entry_of_that_name_wins(tree):
    tree.mkdir("d@tag-x")  # No d yet: a plain name.
    tree.mkdir("d")
    tree.put("d@tag-x/f", "literal")
    assert tree.errno("mkdir", "d@tag-x") == "EEXIST"
    assert tree.errno("rmdir", "d@tag-x") == "ENOTEMPTY"
    assert tree.cat("d@tag-x/f") == b"literal"
    tree.unlink("d@tag-x/f")
    tree.rmdir("d@tag-x")
    assert tree.ls() == ["d"]


def test_restoring_ends_set_id_bits_as_writing_does(tree):
    tree.put("f", "one")
    tree.put("f", "two")
    tree.chmod("f", 0o6777)
    tree.setxattr("f", "user.cascade.restore", "v1")
    assert tree.stat("f").mode & 0o7777 == 0o6777, "root may leave them"
    with tree.user(1000):
        tree.setxattr("f", "user.cascade.restore", "v2")
    assert (tree.cat("f"), tree.stat("f").mode & 0o7777) == (b"two", 0o777)


def test_labels_are_the_owners(tree):
    tree.mkdir("w")
    tree.chmod("w", 0o777)
    tree.mkdir("w/d")
    tree.mkdir("w/d@tag-kept")
    with tree.user(1000):
        assert tree.errno("mkdir", "w/d@tag-x") == "EPERM"
        assert tree.errno("rmdir", "w/d@tag-kept") == "EPERM"
    tree.chown("w/d", 1000, 100)
    with tree.user(1000):
        tree.mkdir("w/d@tag-x")
        tree.rmdir("w/d@tag-kept")
    assert tree.cascade("w/d", "labels") == "x"
