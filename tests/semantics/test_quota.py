"""Quotas on live bytes: who is refused what, what counts where, and that history does not count."""

from __future__ import annotations

import os

import pytest

QUOTA = "user.cascade.quota"


def used(tree, path: str) -> int:
    return int(tree.cascade(path, "live_bytes"))


def test_a_write_beyond_the_quota_is_edquot_and_what_was_there_stays(tree):
    tree.mkdir("d")
    tree.setxattr("d", QUOTA, "1000")
    tree.put("d/f", "x" * 900)
    assert tree.errno("put", "d/g", "y" * 200) == "EDQUOT"
    assert tree.errno("append", "d/f", "z" * 200) == "EDQUOT"
    assert tree.errno("truncate", "d/f", 2000) == "EDQUOT"
    assert tree.cat("d/f") == b"x" * 900
    tree.put("d/g", "y" * 100)
    assert used(tree, "d") == 1000
    tree.unlink("d/f")
    tree.put("d/h", "z" * 800)
    assert used(tree, "d") == 900


def test_history_does_not_count(tree):
    tree.mkdir("d")
    tree.setxattr("d", QUOTA, "1K")
    for _ in range(20):
        tree.put("d/f", "x" * 1000)
    assert used(tree, "d") == 1000
    assert len(tree.versions("d/f")) >= 20


def test_everything_below_counts_and_every_quota_above_is_asked(tree):
    for path in ("a", "a/b", "a/b/c"):
        tree.mkdir(path)
    tree.put("a/b/c/there", "x" * 100)
    tree.setxattr("a", QUOTA, "1000")
    tree.setxattr("a/b", QUOTA, "500")
    tree.put("a/b/c/f", "x" * 300)
    tree.put("a/f", "x" * 500)
    assert (used(tree, "a"), used(tree, "a/b")) == (900, 400)
    assert tree.errno("put", "a/b/c/g", "x" * 101) == "EDQUOT"
    assert tree.errno("put", "a/g", "x" * 101) == "EDQUOT"
    tree.put("elsewhere", "x" * 5000)
    tree.removexattr("a/b", QUOTA)
    tree.unlink("a/f")
    tree.put("a/b/c/g", "x" * 600)
    assert used(tree, "a") == 1000
    assert tree.errno("getxattr", "a/b", "user.cascade.live_bytes") == "ENODATA"


def test_files_take_their_bytes_along_and_directories_stay_within_a_quota(tree):
    tree.mkdir("a")
    tree.mkdir("b")
    tree.mkdir("b/sub")
    tree.mkdir("b/other")
    tree.setxattr("a", QUOTA, "1000")
    tree.put("b/f", "x" * 300)
    tree.rename("b/f", "a/f")
    assert used(tree, "a") == 300
    tree.link("a/f", "a/g")
    assert used(tree, "a") == 300
    tree.unlink("a/f")
    assert used(tree, "a") == 300
    tree.put("a/h", "x" * 200)
    tree.rename("a/h", "a/g")  # Over it.
    assert used(tree, "a") == 200
    tree.rename("a/g", "b/g")
    assert used(tree, "a") == 0
    assert tree.errno("rename", "b/sub", "a/sub") == "EXDEV"
    tree.rename("b/sub", "b/other/sub")
    tree.mkdir("a/own")
    assert tree.errno("rename", "a/own", "b/own") == "EXDEV"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5G", "10 G", "10P"])
def test_a_malformed_quota_is_einval(tree, text):
    tree.mkdir("d")
    assert tree.errno("setxattr", "d", QUOTA, text) == "EINVAL"


def test_quotas_are_given_by_root_to_directories(tree):
    tree.mkdir("d", mode=0o777)
    tree.put("f", "x")
    assert tree.errno("setxattr", "f", QUOTA, "1M") == "ENOTDIR"
    with tree.user(1000):
        tree.mkdir("d/mine")
        assert tree.errno("setxattr", "d/mine", QUOTA, "1M") == "EPERM"
    tree.setxattr("d", QUOTA, "2K")
    assert tree.getxattr("d", QUOTA) == b"2K"
    with tree.user(1000):
        assert tree.errno("removexattr", "d", QUOTA) == "EPERM"
        assert tree.errno("put", "d/mine/f", "x" * 3000) == "EDQUOT"


def test_an_open_file_is_refused_at_the_write(tree):
    tree.mkdir("d")
    tree.setxattr("d", QUOTA, "1000")
    file = tree.open("d/f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"x" * 1000)
    with pytest.raises(OSError, match="quota"):
        tree.write(file, b"y", 1000)
    tree.write(file, b"z" * 10, 0)
    tree.close(file)
    assert tree.cat("d/f") == b"z" * 10 + b"x" * 990


def test_quotas_outlive_a_lost_index(tree, tmp_path):
    tree.mkdir("d")
    tree.put("d/f", "x" * 700)
    tree.setxattr("d", QUOTA, "1000")
    tree.put("d/f", "x" * 800)
    other = tree.after_power_cut(tmp_path / "copy")
    assert used(other, "d") == 800
    assert other.errno("put", "d/g", "x" * 300) == "EDQUOT"


def test_a_file_is_not_restored_beyond_the_quota(tree):
    tree.mkdir("d")
    tree.put("d/f", bytes(100_000))
    tree.put("d/f", "one")
    tree.setxattr("d", "user.cascade.quota", "10K")
    assert tree.errno("setxattr", "d/f", "user.cascade.restore", "v1") == "EDQUOT"
    assert tree.cat("d/f") == b"one"
