"""How long history is kept: policies, what is never let go, purge, and what a name of the past answers when it is gone."""

from __future__ import annotations

import json
import os

import pytest

from storage.errors import Reason, Refused

POLICY = "user.cascade.retention"
HOLD = "user.cascade.hold"
PURGE = "user.cascade.purge"
LABEL = "user.cascade.label"
HOUR = 3600
DAY = 24 * HOUR


def let_go(tree) -> None:
    tree.store.retention.run()


def saved(tree, path: str, *contents: str, apart: int = HOUR) -> list[str]:
    """A version each, so many seconds apart; when each was there, in canonical spelling."""
    times = []
    for content in contents:
        tree.put(path, content)
        tree.wait(1)
        times.append(tree.now())
        tree.wait(apart - 1)
    return times


def test_without_a_policy_everything_is_kept(tree):
    saved(tree, "f", "one", "two", "three")
    tree.wait(10_000 * DAY)
    let_go(tree)
    assert tree.versions("f") == ["v1", "v2", "v3"]


def test_content_that_is_pruned_is_eidrm_and_its_record_is_known(tree):
    times = saved(tree, "f.txt", "one", "two", "three")
    tree.setxattr("", POLICY, "all:1s")
    let_go(tree)
    for path in ("f.txt@v1", "f@v2.txt", "f.txt@@/v1.txt", f"f.txt@{times[0]}"):
        assert tree.errno("stat", path) == "EIDRM", path
        assert tree.errno("cat", path) == "EIDRM", path
    assert tree.errno("cat", "f.txt@v9") == "ENOENT"
    assert tree.cat("f.txt@v3") == tree.cat("f.txt") == b"three"
    assert tree.versions("f.txt") == ["v3.txt"]
    lines = [json.loads(line) for line in tree.cat("f.txt@@/.log").splitlines()]
    assert [(line["version"], line["gone"]) for line in lines] == [
        (3, None),
        (2, "pruned"),
        (1, "pruned"),
    ]
    assert tree.cascade("f.txt", "pruned") == "2"
    assert tree.cascade("f.txt", "head") == "3"
    tree.put("f.txt", "four")
    assert tree.cascade("f.txt", "version") == "4"


def test_a_policy_keeps_the_last_version_before_each_boundary(tree):
    tree.setxattr("", POLICY, "all:2h,day:30d")
    saved(tree, "f", *map(str, range(12)), apart=8 * HOUR)
    let_go(tree)
    # Written at 10, 18 and 2 o'clock: midnight shows the one of 18, and now the last.
    assert tree.versions("f") == ["v2", "v5", "v8", "v11", "v12"]


def test_a_directory_is_exact_on_a_boundary_and_eidrm_off_the_grid(tree):
    tree.mkdir("d")
    tree.setxattr("d", POLICY, "all:2h,day:30d")
    times = saved(tree, "d/f", *map(str, range(12)), apart=8 * HOUR)
    let_go(tree)
    assert tree.errno("ls", f"d@{times[3]}") == "EIDRM"
    assert tree.errno("ls", "d/.@-30h") == "EIDRM"
    assert tree.cat("d@20261123T000000Z/f") == b"4"
    assert tree.cat("d@20261123T000000Z/f") == tree.cat("d/f@20261123T000000Z")
    assert tree.errno("ls", "d@-1h") is None
    # A single file is exact whenever its own record says so.
    assert tree.cat("d/f@20261122T190000Z") == b"4"
    listed = tree.ls("d@@")
    assert "20261123T000000Z" in listed
    assert times[3] not in listed
    assert all(tree.errno("ls", f"d@@/{name}") is None for name in listed)


def test_the_nearest_directory_with_a_policy_decides(tree):
    for path in ("a", "a/b", "c"):
        tree.mkdir(path)
    tree.setxattr("", POLICY, "all:1s")
    tree.setxattr("a", POLICY, "all:forever")
    for path in ("a/f", "a/b/f", "c/f"):
        saved(tree, path, "one", "two")
    let_go(tree)
    assert tree.versions("a/f") == tree.versions("a/b/f") == ["v1", "v2"]
    assert tree.versions("c/f") == ["v2"]


def test_a_policy_can_be_read_and_taken_away(tree):
    tree.mkdir("d")
    tree.setxattr("d", POLICY, "all:1s")
    assert tree.getxattr("d", POLICY) == b"all:1s"
    assert tree.listxattr("d") == []
    tree.removexattr("d", POLICY)
    saved(tree, "d/f", "one", "two")
    let_go(tree)
    assert tree.versions("d/f") == ["v1", "v2"]


@pytest.mark.parametrize("text", ["", "all", "all:7", "day:9d,hour:99d", "all:1h;keep=3"])
def test_a_malformed_policy_is_einval(tree, text):
    tree.mkdir("d")
    assert tree.errno("setxattr", "d", POLICY, text) == "EINVAL"
    assert tree.errno("getxattr", "d", POLICY) == "ENODATA"


def test_policies_are_of_directories_and_their_owners(tree):
    tree.put("f", "one")
    tree.mkdir("d", mode=0o777)
    assert tree.errno("setxattr", "f", POLICY, "all:1s") == "ENOTDIR"
    with tree.user(1000):
        assert tree.errno("setxattr", "d", POLICY, "all:1s") == "EPERM"
        assert tree.errno("setxattr", "d", HOLD, "mine") == "EPERM"
        tree.mkdir("d/mine")
        tree.setxattr("d/mine", POLICY, "all:1s")
        tree.removexattr("d/mine", POLICY)


def test_what_a_label_shows_is_kept(tree):
    tree.mkdir("d")
    tree.setxattr("d", POLICY, "all:1s")
    tree.put("d/f", "one")
    tree.mkdir("d@tag-rel1")
    saved(tree, "d/f", "two", "three")
    tree.wait(DAY)
    let_go(tree)
    assert tree.cat("d@tag-rel1/f") == tree.cat("d/f@v1") == b"one"
    assert tree.errno("cat", "d/f@v2") == "EIDRM"
    tree.rmdir("d@tag-rel1")
    let_go(tree)
    assert tree.errno("cat", "d/f@v1") == "EIDRM"


def test_a_label_can_name_another_time_and_be_moved(tree):
    tree.mkdir("d")
    times = saved(tree, "d/f", "one", "two", "three")
    tree.setxattr("d", LABEL, f"old={times[0]}")
    tree.setxattr("d", LABEL, "new")
    assert tree.cat("d@tag-old/f") == b"one"
    assert tree.cat("d@tag-new/f") == b"three"
    assert tree.errno("setxattr", "d", LABEL, "old") == "EEXIST"
    tree.setxattr("d", LABEL, f"!old={times[1]}")
    assert tree.cat("d@tag-old/f") == b"two"
    for text in ("", "9x", "x=yesterday", "a b"):
        assert tree.errno("setxattr", "d", LABEL, text) == "EINVAL"
    assert tree.errno("setxattr", "d", LABEL, "x=2031") == "ENOENT"
    assert tree.errno("setxattr", "d", LABEL, "x=2020") == "ENOENT"
    tree.setxattr("d", POLICY, "all:1s")
    assert tree.errno("setxattr", "d", LABEL, f"late={times[2]}") == "EIDRM"


@pytest.mark.parametrize("held", ["d/f", "d", ""])
def test_a_hold_keeps_everything_at_and_below(tree, held):
    tree.mkdir("d")
    tree.setxattr("d", POLICY, "all:1s")
    saved(tree, "d/f", "one", "two")
    tree.setxattr(held, HOLD, "case 7")
    let_go(tree)
    assert tree.versions("d/f") == ["v1", "v2"]
    assert tree.getxattr(held, HOLD) == b"case 7"
    assert tree.errno("setxattr", held, HOLD, "") == "EINVAL"
    tree.removexattr(held, HOLD)
    let_go(tree)
    assert tree.versions("d/f") == ["v2"]


def test_what_is_open_is_kept_until_it_is_closed(tree):
    tree.setxattr("", POLICY, "all:1s")
    saved(tree, "f", "one", "two", "three")
    tree.put("gone", "still read")
    tree.wait(DAY)
    past, unlinked = tree.open("f@v1"), tree.open("gone")
    tree.unlink("gone")
    tree.wait(DAY)
    let_go(tree)
    assert tree.read(past) == b"one"
    assert tree.read(unlinked) == b"still read"
    assert tree.errno("cat", "f@v2") == "EIDRM"
    tree.close(past)
    tree.close(unlinked)
    let_go(tree)
    assert tree.errno("cat", "f@v1") == "EIDRM"
    assert tree.errno("cat", "gone@v1") == "EIDRM"


def test_listings_show_what_can_be_opened(tree):
    tree.setxattr("", POLICY, "all:1d")
    saved(tree, "old", "one", "two")
    tree.unlink("old")
    tree.wait(2 * DAY)
    tree.put("new", "one")
    tree.unlink("new")
    assert tree.ls(".@deleted") == ["new", "old"]
    let_go(tree)
    assert tree.ls(".@deleted") == ["new"]
    assert tree.ls("old@@") == []
    assert tree.errno("cat", "old@deleted") == "EIDRM"
    lines = [json.loads(line) for line in tree.cat("old@@/.log").splitlines()]
    assert [line["kind"] for line in lines] == ["delete", "write", "create"]


def test_min_and_max_versions(tree):
    tree.setxattr("", POLICY, "all:1s;min=2")
    saved(tree, "f", "1", "2", "3", "4")
    let_go(tree)
    assert tree.versions("f") == ["v3", "v4"]
    tree.setxattr("", POLICY, "all:forever;max=3")
    saved(tree, "f", "5", "6", "7")
    let_go(tree)
    assert tree.versions("f") == ["v5", "v6", "v7"]


def test_names_that_come_and_go_within_ephemeral_never_were(tree):
    tree.setxattr("", POLICY, "all:forever;ephemeral=60s")
    tree.save("f", "one")  # Written beside and renamed over.
    tree.put("tmp", "x")
    tree.wait(5)
    tree.unlink("tmp")
    tree.put("long", "x")
    tree.wait(120)
    tree.unlink("long")
    tree.wait(120)
    assert tree.cat("tmp@deleted") == b"x"
    let_go(tree)
    assert tree.errno("stat", "tmp@v1") == "ENOENT"
    assert tree.ls(".@deleted") == ["long"]
    assert tree.cat("f") == tree.cat("f@v1") == b"one"


def test_a_dropped_name_that_was_looked_up_before_is_gone_and_not_damaged(tree):
    tree.put("tmp", "x" * 100)
    tree.wait(5)
    tree.unlink("tmp")
    with tree._walk(b"tmp@v1", follow=True) as stat:
        tree.setxattr("", POLICY, "all:1s;ephemeral=60s")
        tree.wait(120)
        let_go(tree)
        with pytest.raises(Refused) as refused:
            tree.fs.open(stat.number, os.O_RDONLY, tree.caller)
        assert refused.value.reason is Reason.PRUNED


@pytest.mark.local_store
def test_other_content_does_not_depend_on_what_is_pruned(tree):
    tree.setxattr("", POLICY, "all:1s")
    tree.put("f", "a" * 100)
    tree.setxattr("f", "user.cascade.restore", "v1")
    for number in range(50):
        tree.append("f", f"{number},")
        tree.wait(HOUR)
    expected = "a" * 100 + "".join(f"{number}," for number in range(50))
    let_go(tree)
    tree.store.retention.clean(pressed=True)
    assert tree.cat("f").decode() == expected
    assert tree.cat("f@v52").decode() == expected


def test_purge_lets_go_of_one_version_for_good(tree):
    saved(tree, "f", "one", "two", "three")
    tree.mkdir("d")
    file = tree.open("f@v2")
    tree.setxattr("", PURGE, "f@v2")
    assert tree.errno("read", file) == "EIDRM"
    tree.close(file)
    assert tree.errno("cat", "f@v2") == "EIDRM"
    assert tree.versions("f") == ["v1", "v3"]
    lines = [json.loads(line) for line in tree.cat("f@@/.log").splitlines()]
    assert [line["gone"] for line in lines] == [None, "purged", None]
    assert tree.errno("setxattr", "", PURGE, "f@v2") == "EIDRM"
    assert tree.errno("setxattr", "", PURGE, "f@v3") == "EBUSY"
    assert tree.errno("setxattr", "", PURGE, "f@v9") == "ENOENT"
    for text in ("", "f", "f@v-1", "f@t=2020", "d@v1"):
        assert tree.errno("setxattr", "", PURGE, text) in ("EINVAL", "ENOENT"), text
    file = tree.open("f")
    tree.unlink("f")
    assert tree.errno("setxattr", "", PURGE, "f@v3") == "EBUSY"  # Somebody has it open.
    assert tree.read(file) == b"three"
    tree.close(file)
    tree.setxattr("", PURGE, "f@v3")
    assert tree.errno("cat", "f@v3") == "EIDRM"
    assert tree.cat("f@v1") == b"one"


def test_what_is_purged_while_it_is_open_is_not_copied_either(tree):
    tree.put("f", "aaaaaaaaaa")
    written = tree.open("f", os.O_RDWR)
    tree.write(written, b"BBB", 3)
    tree.close(written)
    tree.append("f", "c")
    tree.put("g", "")
    file, target = tree.open("f@v2"), tree.open("g", os.O_RDWR)
    tree.setxattr("", PURGE, "f@v2")
    let_go(tree)
    with pytest.raises(Refused) as refused:
        tree.fs.ranges.copy(file.handle, 0, target.handle, 0, 10)
    assert refused.value.reason is Reason.PRUNED


def test_purge_is_the_owners_and_not_below_a_hold(tree):
    tree.mkdir("d", mode=0o777)
    saved(tree, "d/f", "one", "two")
    with tree.user(1000):
        assert tree.errno("setxattr", "d", PURGE, "f@v1") == "EPERM"
        tree.put("d/mine", "1")
        tree.put("d/mine", "2")
        tree.setxattr("d", PURGE, "mine@v1")
    tree.setxattr("", HOLD, "case 7")
    assert tree.errno("setxattr", "d", PURGE, "f@v1") == "EPERM"
    assert tree.cat("d/f@v1") == b"one"


def test_what_history_holds_can_be_asked(tree):
    tree.put("f", "x" * 1000)
    tree.put("f", "y" * 500)
    tree.append("f", "z" * 10)
    assert tree.cascade("f", "live_bytes") == "510"
    assert tree.cascade("f", "history_versions") == "2"
    assert (
        tree.cascade("f", "history_bytes") == "1000"
    )  # The 500 are shared with what it holds now.
    assert tree.cascade("f", "pruned") == "0"


@pytest.mark.local_store
def test_a_pass_can_be_asked_for_and_says_what_it_found(tree):
    saved(tree, "f", "one", "two", "three")
    tree.setxattr("", POLICY, "all:90m")

    def work() -> dict:
        while tree.store.retention.step() or tree.store.retention.choose() is not None:
            pass
        return json.loads(tree.cat(".cascade/status"))["store"]["retention"]

    tree.setxattr("", "user.cascade.gc", "dry")
    said = work()
    assert said["lines"]["pruned"] == {"versions": 1, "bytes": 3}
    assert said["asked"] == said["done"] == 1
    tree.setxattr("", "user.cascade.gc", "now")
    assert work()["done"] == 2
    assert tree.versions("f") == ["v2", "v3"]
    tree.mkdir("d", mode=0o777)
    assert tree.errno("setxattr", "d", "user.cascade.gc", "now") == "EINVAL"
    assert tree.errno("setxattr", "", "user.cascade.gc", "later") == "EINVAL"
    with tree.user(1000):
        assert tree.errno("setxattr", "", "user.cascade.gc", "now") in ("EPERM", "EACCES")


@pytest.mark.local_store
def test_all_of_it_outlives_a_lost_index(tree, tmp_path):
    tree.setxattr("", POLICY, "all:1s;ephemeral=60s")
    saved(tree, "f", "one", "two", "three")
    tree.save("g", "one")
    tree.setxattr("", HOLD, "not yet")
    tree.removexattr("", HOLD)
    let_go(tree)
    other = tree.after_power_cut(tmp_path / "copy")
    assert other.versions("f") == ["v3"]
    assert other.errno("cat", "f@v1") == "EIDRM"
    assert other.cat("f") == b"three"
