"""Limits on live bytes and on what history holds: who is refused what, what counts where, what goes; and what df shows."""

from __future__ import annotations

import os

import pytest

from storage.errors import Refused

QUOTA = "user.cascade.quota"
BUDGET = "user.cascade.history_budget"


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


@pytest.mark.local_store
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


# --- how much history may hold ------------------------------------------------------------------------------------------


def rewritten(tree, path: str, count: int, size: int = 1000) -> None:
    for number in range(count):
        tree.put(path, bytes([65 + number]) * size)
        tree.wait(60)


def test_history_beyond_its_budget_loses_its_oldest_versions(tree):
    tree.mkdir("d")
    rewritten(tree, "d/f", 6)
    rewritten(tree, "elsewhere", 6)
    tree.setxattr("d", BUDGET, "3K")
    assert tree.getxattr("d", BUDGET) == b"3K"
    assert tree.listxattr("d") == []
    assert tree.cascade("d", "history_bytes") is None
    tree.store.retention.run()
    assert tree.versions("d/f") == ["v3", "v4", "v5", "v6"]
    assert tree.errno("cat", "d/f@v2") == "EIDRM"
    assert tree.cascade("d", "history_bytes") == "3000"
    assert len(tree.versions("elsewhere")) == 6
    tree.removexattr("d", BUDGET)
    assert tree.cascade("d", "history_bytes") is None
    rewritten(tree, "d/f", 6)
    tree.store.retention.run()
    assert len(tree.versions("d/f")) == 10


def test_a_writer_is_never_refused_for_what_history_holds(tree):
    tree.setxattr("", BUDGET, "0")
    for number in range(20):
        tree.put("f", b"%02d" % number * 1000)
        if number % 5 == 0:
            tree.store.retention.run()
    assert tree.cat("f") == b"19" * 1000
    assert tree.versions("f") == ["v16", "v17", "v18", "v19", "v20"]


def test_what_is_labelled_held_open_or_a_min_is_beyond_the_budget(tree):
    for name in ("labelled", "held", "open"):
        tree.mkdir(name)
        rewritten(tree, f"{name}/f", 2)
    rewritten(tree, "f", 5)
    tree.setxattr(
        "labelled", "user.cascade.label", f"l={tree.cascade('labelled/f@v1', 'commit_time')}"
    )
    tree.setxattr("held", "user.cascade.hold", "case 7")
    tree.setxattr("", "user.cascade.retention", "all:forever;min=2")
    tree.setxattr("open", "user.cascade.retention", "all:forever")
    tree.setxattr("labelled", "user.cascade.retention", "all:forever")
    file = tree.open("open/f@v1")
    tree.setxattr("", BUDGET, "0")
    tree.store.retention.run()
    for name in ("labelled", "held", "open"):
        assert tree.versions(f"{name}/f") == ["v1", "v2"], name
    assert tree.versions("f") == ["v4", "v5"]
    assert tree.read(file) == b"A" * 1000
    tree.close(file)
    tree.store.retention.run()
    assert tree.versions("open/f") == ["v2"]


def test_a_file_counts_where_it_is_and_what_was_removed_where_it_was(tree):
    for path in ("a", "a/sub", "b"):
        tree.mkdir(path)
    rewritten(tree, "b/f", 3)
    tree.rename("b/f", "a/sub/f")
    rewritten(tree, "a/gone", 1)
    tree.unlink("a/gone")
    tree.setxattr("a", BUDGET, "1M")
    tree.setxattr("b", BUDGET, "1M")
    tree.store.retention.run()
    assert tree.cascade("a", "history_bytes") == "3000"
    assert tree.cascade("b", "history_bytes") == "0"


def test_bytes_that_versions_share_count_once(tree):
    tree.put("f", "x" * 5000)
    for _ in range(10):
        tree.append("f", "y" * 10)
    tree.setxattr("f", "user.cascade.restore", "v1")
    tree.setxattr("", BUDGET, "1M")
    tree.store.retention.run()
    assert tree.cascade("", "history_bytes") == "100"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5G", "10 G", "10P"])
def test_a_malformed_budget_is_einval(tree, text):
    tree.mkdir("d")
    assert tree.errno("setxattr", "d", BUDGET, text) == "EINVAL"
    assert tree.errno("getxattr", "d", BUDGET) == "ENODATA"


def test_budgets_are_of_directories_and_their_owners(tree):
    tree.put("f", "x")
    tree.mkdir("d", mode=0o777)
    assert tree.errno("setxattr", "f", BUDGET, "1M") == "ENOTDIR"
    with tree.user(1000):
        assert tree.errno("setxattr", "d", BUDGET, "1M") == "EPERM"
        tree.mkdir("d/mine")
        tree.setxattr("d/mine", BUDGET, "1M")


def test_a_dry_pass_says_what_the_budget_would_let_go(tree):
    rewritten(tree, "f", 6)
    tree.setxattr("", BUDGET, "2000")
    assert tree.store.retention.run(dry=True)["budget"] == (3, 3000)
    assert len(tree.versions("f")) == 6


@pytest.mark.local_store
def test_what_a_budget_let_go_outlives_a_lost_index(tree, tmp_path):
    rewritten(tree, "f", 6)
    tree.setxattr("", BUDGET, "1K")
    tree.store.retention.run()
    other = tree.after_power_cut(tmp_path / "copy")
    assert other.versions("f") == ["v5", "v6"]
    rewritten(other, "f", 2)
    other.store.retention.run()
    assert other.versions("f") == ["v7", "v8"]


# --- df -----------------------------------------------------------------------------------------------------------------


def held(tree) -> int:
    usage = tree.fs.statfs()
    return (usage.blocks - usage.blocks_free) * usage.block_bytes


@pytest.mark.local_store
def test_df_shows_what_the_store_holds_history_too(tree):
    size = 1_000_000
    before = held(tree)
    tree.put("f", b"x" * size)
    assert 0.99 * size < held(tree) - before < 1.1 * size
    tree.put("f", b"y" * size)
    both = held(tree) - before
    assert 1.99 * size < both < 2.1 * size
    tree.setxattr("f", "user.cascade.restore", "v1")
    tree.unlink("f")
    # Shared bytes are there once, and removing frees nothing.
    assert both <= held(tree) - before < 2.1 * size


@pytest.mark.local_store
def test_df_says_what_is_free_on_the_disk_below_whatever_the_quota(tree):
    tree.setxattr("", QUOTA, "1M")
    below, usage = os.statvfs(tree.store.directory), tree.fs.statfs()
    # Others write to that disk, too.
    assert abs(usage.blocks_free * usage.block_bytes - below.f_bfree * below.f_frsize) < 2**30
    assert usage.blocks_available <= usage.blocks_free


@pytest.mark.local_store
def test_df_goes_down_when_retention_lets_go_and_the_cleaner_has_been(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    for number in range(9):
        tree.write(file, bytes([number]) * 8_000_000, 0)
        tree.fsync(file)
    tree.close(file)
    tree.setxattr("", BUDGET, "0")
    tree.store.retention.run()
    before = held(tree)
    tree.store.retention.clean()
    assert before - held(tree) > 60_000_000
    assert tree.cat("f") == b"\x08" * 8_000_000


@pytest.mark.local_store
def test_bytes_of_a_discarded_draft_come_back_without_a_restart(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    for number in range(9):
        tree.write(file, bytes([number]) * 8_000_000, number * 8_000_000)
    tree.unlink("f")
    kept = tree.open("kept", os.O_WRONLY | os.O_CREAT)
    tree.write(kept, b"x" * 300_000)
    tree.fsync(
        kept
    )  # All that was appended before it is then on the disk, too: only that is cleaned.
    tree.write(kept, b"y" * 300_000, 0)
    before = held(tree)
    tree.store.retention.clean()
    assert held(tree) == before  # It can be read still.
    tree.close(file)
    tree.store.retention.clean()
    assert before - held(tree) > 60_000_000
    tree.close(kept)
    assert tree.cat("kept") == b"y" * 300_000
    assert tree.cat("kept@v1") == b"x" * 300_000


@pytest.mark.local_store
def test_bytes_of_a_lost_conditional_write_come_back_without_a_restart(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", os.O_WRONLY)
    for number in range(9):
        tree.write(file, bytes([number]) * 8_000_000, number * 8_000_000)
    tree.put("f", "two")
    with pytest.raises(Refused, match="the condition names"):
        tree.close(file)
    last = tree.open("last", os.O_WRONLY | os.O_CREAT)
    tree.write(last, b"x")
    tree.fsync(last)
    before = held(tree)
    tree.store.retention.clean()
    assert before - held(tree) > 60_000_000
    assert tree.cat("f") == b"two"
    assert tree.cat("f@v1") == b"one"
