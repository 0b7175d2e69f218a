"""SEMANTICS 1: what a version is, how it is numbered, and what is not one.

Method: sessions of a program, call by call, on a tree without a kernel (conftest); then what `@vN` and `@@` show.
"""

from __future__ import annotations

import json
import os

import pytest

from storage import record
from storage.errors import Reason, Refused
from storage.namespace import ROOT

NOREPLACE, EXCHANGE = 1, 2


def log(tree, path):
    return [json.loads(line) for line in tree.cat(f"{path}@@/.log").splitlines()]


def test_each_close_of_a_dirty_handle_is_one_version(tree):
    for text in ("one", "two", "three"):
        tree.put("f", text)
    assert tree.versions("f") == ["v1", "v2", "v3"]
    assert [tree.cat(f"f@v{n}") for n in (1, 2, 3)] == [b"one", b"two", b"three"]


def test_many_writes_and_truncations_of_a_session_are_one_version(tree):
    file = tree.open("f", os.O_RDWR | os.O_CREAT)
    for offset in range(0, 100, 10):
        tree.write(file, b"0123456789", offset)
    tree.ftruncate(file, 42)
    tree.ftruncate(file, 50)
    tree.close(file)
    assert tree.versions("f") == ["v1"]
    assert tree.cat("f") == (b"0123456789" * 5)[:42] + bytes(8)


def test_fsync_makes_a_version_and_the_next_write_begins_another(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"a")
    tree.fsync(file)
    assert tree.versions("f") == ["v1"]
    tree.write(file, b"b")
    tree.close(file)
    assert [tree.cat("f@v1"), tree.cat("f@v2")] == [b"a", b"ab"]


def test_fsync_and_close_without_a_write_between_make_one_version(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"a")
    tree.fsync(file)
    tree.fsync(file)
    tree.close(file)
    assert tree.versions("f") == ["v1"]


def test_a_draft_of_very_many_pieces_becomes_a_version_early(tree, monkeypatch):
    """One record has to name them all; 100,000 pieces are a matter of hours for most programs, of seconds for a few."""
    monkeypatch.setattr("cascadefs.filesystem.files.DRAFT_SPANS_MAX", 10)
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    for number in range(25):
        tree.write(file, b"x", 2 * number)
    assert tree.versions("f") == ["v1", "v2"]
    tree.close(file)
    assert tree.versions("f") == ["v1", "v2", "v3"]
    assert tree.cat("f@v2") == b"x\0" * 19 + b"x"
    assert tree.cat("f") == b"x\0" * 24 + b"x"


def test_a_file_that_stays_open_becomes_a_version_by_autocommit(make_tree):
    tree = make_tree(autocommit_s=5.0)
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"a")
    tree.wait(4)
    tree.keep_house()
    assert tree.versions("f") == []
    tree.wait(1)
    tree.keep_house()
    assert tree.cat("f@v1") == b"a"
    tree.write(file, b"b")
    tree.close(file)
    assert tree.versions("f") == ["v1", "v2"]


def test_open_and_close_without_a_write_is_no_version(tree):
    tree.put("f", "one")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        tree.close(tree.open("f", flags))
    assert tree.versions("f") == ["v1"]


def test_a_file_created_and_closed_without_a_write_is_version_1(tree):
    tree.close(tree.open("f", os.O_WRONLY | os.O_CREAT))
    assert tree.cat("f@v1") == b""


def test_mknod_of_a_file_is_version_1(tree):
    tree.mknod("f", 0o100644)
    assert tree.cat("f@v1") == b""


def test_a_shells_redirection_is_one_version(tree):
    tree.put("f", "old")
    file = tree.open("f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    tree.close_duplicate(file)  # dup2(3, 1); close(3)
    tree.write(file, b"new\n")
    tree.close(file)
    assert tree.versions("f") == ["v1", "v2"]
    assert tree.cat("f@v2") == b"new\n"


def test_a_close_of_any_descriptor_of_a_handle_that_wrote_is_a_version(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"a")
    tree.close_duplicate(file)
    assert tree.cat("f@v1") == b"a"
    tree.close(file)
    assert tree.versions("f") == ["v1"]


def test_truncating_by_open_is_a_version(tree):
    tree.put("f", "text")
    tree.close(tree.open("f", os.O_WRONLY | os.O_TRUNC))
    assert tree.cat("f@v2") == b""
    assert tree.cat("f@v1") == b"text"


def test_truncating_by_path_is_a_session_of_its_own(tree):
    tree.put("f", "text")
    tree.truncate("f", 2)
    tree.truncate("f", 4)
    assert [tree.cat(f"f@v{n}") for n in (1, 2, 3)] == [b"text", b"te", b"te\0\0"]


def test_a_truncation_by_path_joins_the_session_of_whoever_has_the_file_open(tree):
    tree.put("f", "text")
    file = tree.open("f", os.O_WRONLY)
    tree.write(file, b"T")
    tree.truncate("f", 2)
    assert tree.versions("f") == ["v1"]
    tree.close(file)
    assert tree.cat("f@v2") == b"Te"


def test_the_same_bytes_again_are_a_version_that_log_can_fold(tree):
    tree.put("f", "same")
    tree.put("f", "same")
    tree.put("f", "else")
    assert tree.versions("f") == ["v1", "v2", "v3"]
    assert [line["same"] for line in log(tree, "f")] == [False, True, False]


def test_writes_are_seen_at_once_by_every_handle_and_are_no_version_yet(tree):
    tree.put("f", "old")
    writer, reader = tree.open("f", os.O_WRONLY), tree.open("f")
    tree.write(writer, b"NEW+")
    assert tree.read(reader) == b"NEW+"
    assert tree.stat("f").size == 4
    assert tree.cat("f@v1") == b"old"
    assert tree.cat("f@t=now") == b"old"
    tree.close(reader)  # A clean handle commits nothing.
    assert tree.versions("f") == ["v1"]
    tree.close(writer)
    assert tree.cat("f@v2") == b"NEW+"


def test_two_writers_share_a_draft_and_the_first_close_makes_the_version(tree):
    first = tree.open("f", os.O_WRONLY | os.O_CREAT)
    second = tree.open("f", os.O_WRONLY)
    tree.write(first, b"1111")
    tree.write(second, b"2", 1)
    tree.close(first)
    assert tree.cat("f@v1") == b"1211"
    tree.close(second)
    assert tree.versions("f") == ["v1"]
    second = tree.open("f", os.O_WRONLY)
    tree.write(second, b"3")
    tree.close(second)
    assert tree.cat("f@v2") == b"3211"


def test_appending_from_two_handles_loses_nothing(tree):
    tree.put("f", "")
    first, second = (tree.open("f", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    for number in range(10):
        tree.write(first if number % 2 else second, b"%d" % number)
    tree.close(first)
    tree.close(second)
    assert tree.cat("f") == b"0123456789"


def test_holes_stay_holes_in_every_version(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"island", 1_000_000)
    tree.ftruncate(file, 3_000_000)
    tree.close(file)
    tree.append("f", "end")
    for path, size in (("f@v1", 3_000_000), ("f", 3_000_003)):
        content = tree.cat(path)
        assert len(content) == tree.stat(path).size == size
        assert content[:1_000_000].count(0) == 1_000_000
        assert content[1_000_000:1_000_006] == b"island"
        assert tree.stat(path).blocks * 512 < 10_000


def test_an_unlinked_file_lives_on_in_its_handles_and_becomes_no_version(tree):
    tree.put("f", "old")
    file = tree.open("f", os.O_RDWR)
    tree.unlink("f")
    tree.write(file, b"NEW")
    assert tree.read(file) == b"NEW"
    assert tree.fs.getattr(file.number).nlink == 0
    assert not tree.exists("f")
    tree.close(file)
    assert tree.versions("f") == ["v1"]
    assert tree.cat("f@v1") == b"old"
    assert tree.fs.status()["drafts"] == 0


def test_a_name_that_a_program_removed_is_asked_for_again_and_not_opened(tree):
    """The kernel has looked it up and has not heard yet: what is written must not go into a file that has no name."""
    tree.put("f", "old")
    number = tree.stat("f").number
    tree.fs.lookup(ROOT, b"f", tree.caller)  # It keeps that reference.
    removal = record.Unlink(ROOT, b"f")
    tree.store.propose(removal)
    tree.fs.changed_beside([removal])
    for flags in (os.O_WRONLY | os.O_TRUNC, os.O_RDONLY):
        with pytest.raises(Refused) as refused:
            tree.fs.open(number, flags, tree.caller)
        assert refused.value.reason is Reason.MOVED
    tree.fs.forget(number, 1)
    tree.put("f", "new")
    assert tree.cat("f") == b"new"
    file = tree.open("f", os.O_RDONLY)
    tree.store.propose(removal)
    tree.fs.changed_beside([removal])
    again = tree.fs.open(
        file.number, os.O_RDONLY, tree.caller
    )  # By its descriptor (/proc/self/fd).
    tree.fs.release(again.handle)
    tree.close(file)


def test_a_file_unlinked_before_its_first_close_never_has_a_version(tree):
    for _ in range(3):
        file = tree.open("f", os.O_RDWR | os.O_CREAT)
        tree.write(file, b"scratch")
        tree.unlink("f")
        tree.close(file)
    assert tree.versions("f") == []
    tree.put("f", "kept")
    assert tree.versions("f") == ["v4"]  # Each removal took a number.


def test_unlink_takes_a_number_and_creating_again_counts_on(tree):
    tree.put("f", "one")
    tree.unlink("f")
    tree.put("f", "three")
    assert tree.versions("f") == ["v1", "v3"]
    assert tree.errno("cat", "f@v2") == "ENOENT"
    assert [(line["version"], line["kind"]) for line in log(tree, "f")] == [
        (3, "create"),
        (2, "delete"),
        (1, "create"),
    ]


def test_rename_over_a_name_appends_to_its_history(tree):
    tree.put("f", "one")
    tree.save("f", "two")
    tree.save("f", "three")
    assert [tree.cat(f"f@v{n}") for n in (1, 2, 3)] == [b"one", b"two", b"three"]
    assert [line["moved_from"] for line in log(tree, "f")] == ["f.tmp", "f.tmp", None]
    assert [line["kind"] for line in log(tree, "f")] == ["move", "move", "create"]


@pytest.mark.local_store
def test_rename_over_shares_the_bytes(tree):
    tree.put("f", "one")
    tree.put("g", b"x" * 1_000_000)
    before = tree.log_bytes()
    tree.rename("g", "f")
    assert tree.log_bytes() - before < 1000


def test_a_plain_rename_leaves_a_tombstone_and_begins_a_history(tree):
    tree.put("a", "one")
    tree.put("a", "two")
    tree.rename("a", "b")
    assert tree.versions("a") == ["v1", "v2"]
    assert tree.versions("b") == ["v1"]
    assert tree.cat("b@v1") == b"two"
    (newest, *_) = log(tree, "a")
    assert (newest["version"], newest["kind"], newest["moved_to"]) == (3, "moved", "b")
    assert log(tree, "b")[0]["moved_from"] == "a"


def test_renaming_a_directory_touches_no_history_below(tree):
    tree.mkdir("a")
    tree.put("a/f", "one")
    tree.put("a/f", "two")
    before = tree.now()
    tree.rename("a", "b")
    assert [tree.cat(f"b/f@v{n}") for n in (1, 2)] == [b"one", b"two"]
    assert tree.cat(f"a@{before}/f") == b"two"
    assert not tree.exists(f"b@{before}")


def test_exchange_gives_both_names_a_version(tree):
    tree.put("a", "A")
    tree.put("b", "B")
    tree.rename("a", "b", EXCHANGE)
    assert (tree.cat("a@v2"), tree.cat("b@v2")) == (b"B", b"A")
    assert (tree.cat("a@v1"), tree.cat("b@v1")) == (b"A", b"B")
    assert tree.errno("rename", "a", "b", NOREPLACE) == "EEXIST"
    assert tree.cascade("a", "version") == "2"


def test_a_rename_is_one_record(tree):
    tree.put("a", "A")
    tree.put("b", "B")
    before = tree.records()
    tree.rename("a", "b")
    assert tree.records() == before + 1


def test_renaming_one_name_of_a_file_over_another_does_nothing(tree):
    tree.put("a", "A")
    tree.link("a", "b")
    tree.rename("a", "b")
    assert tree.ls() == ["a", "b"]
    assert (tree.versions("a"), tree.versions("b")) == (["v1"], ["v1"])


def test_a_commit_gives_a_version_to_every_name_bound_then(tree):
    tree.put("a", "one")
    tree.put("a", "two")
    tree.link("a", "b")
    tree.put("b", "three")
    assert tree.versions("a") == ["v1", "v2", "v3"]
    assert tree.versions("b") == ["v1", "v2"]
    assert [tree.cat(p) for p in ("a@v2", "b@v1", "a@v3", "b@v2")] == [
        b"two",
        b"two",
        b"three",
        b"three",
    ]
    tree.unlink("a")
    tree.put("b", "four")
    assert tree.versions("a") == ["v1", "v2", "v3"]
    assert tree.versions("b") == ["v1", "v2", "v3"]


def test_metadata_changes_make_no_version_but_a_timeline(tree):
    tree.put("f", "one", mode=0o644)
    before = tree.now()
    tree.chmod("f", 0o600)
    between = tree.now()
    tree.chown("f", 7, 8)
    tree.utime("f", 5_000_000_001)
    tree.setxattr("f", "user.colour", "red")
    assert tree.versions("f") == ["v1"]
    assert tree.stat(f"f@{before}").mode & 0o777 == 0o644
    assert tree.stat(f"f@{between}").mode & 0o777 == 0o600
    assert tree.stat(f"f@{between}").uid == 0
    assert tree.stat("f@t=now").mtime_ns == 5_000_000_001
    assert tree.getxattr("f@t=now", "user.colour") == b"red"
    assert tree.listxattr(f"f@{between}") == []


def test_a_version_shows_the_metadata_at_its_commit(tree):
    tree.put("f", "one", mode=0o644)
    tree.chmod("f", 0o600)
    tree.put("f", "two")
    tree.chmod("f", 0o755)
    assert [tree.stat(f"f@v{n}").mode & 0o777 for n in (1, 2)] == [0o644, 0o600]


def test_directories_and_symbolic_links_have_a_version_for_each_binding(tree):
    tree.mkdir("d")
    tree.put("d/f", "text")
    tree.symlink("d/f", "s")
    assert tree.ls("d@v1") == []  # The directory when it got this name.
    assert tree.readlink("s@v1") == b"d/f"
    tree.unlink("s")
    tree.symlink("elsewhere", "s")
    assert tree.readlink("s@v3") == b"elsewhere"
    tree.rename("d", "e")
    assert tree.ls("e@v1") == ["f"]
    assert tree.errno("stat", "e@v2") == "ENOENT"


def test_numbers_are_dense_and_never_used_again(tree):
    for _ in range(3):
        tree.put("f", "x")
        tree.put("f", "y")
        tree.unlink("f")
    numbers = [line["version"] for line in log(tree, "f")]
    assert numbers == list(range(9, 0, -1))


def test_times_of_commits_increase_whatever_the_clock_does(tree):
    tree.put("f", "1")
    tree.clock.time_ns -= 3600 * 10**9
    tree.put("f", "2")
    tree.put("f", "3")
    times = [line["timestamp"] for line in log(tree, "f")]
    assert times == sorted(set(times), reverse=True)
    assert int(tree.cascade("f", "clock_skew_us")) > 3_599_000_000


def test_a_file_without_a_name_gets_name_and_version_in_one_step(tree):
    tree.mkdir("d")
    tree.chmod("d", 0o2775)
    tree.chown("d", 0, 7)
    file = tree.open_unnamed("d")
    tree.write(file, b"one")
    tree.fsync(file)  # on nobody's disk: who would find it there?
    tree.write(file, b" two")
    assert tree.ls("d") == []
    assert tree.fs.getattr(file.number).nlink == 0
    records = tree.records()
    tree.link_open(file, "d/f")
    assert tree.records() == records + 1, "nobody ever sees the name without the content"
    assert tree.versions("d/f") == ["v1"]
    assert tree.cat("d/f@v1") == tree.cat("d/f") == b"one two"
    assert (tree.stat("d/f").nlink, tree.stat("d/f").gid) == (1, 7)
    tree.close(file)
    assert tree.versions("d/f") == ["v1"], "nothing was written after the link"
    again = tree.open_unnamed("d")
    assert tree.errno("link_open", again, "d/f") == "EEXIST"
    tree.unlink("d/f")
    tree.link_open(again, "d/f")
    tree.write(again, b"later", 0)
    tree.link_open(again, "d/g")
    tree.close(again)
    assert tree.versions("d/f") == ["v1", "v3", "v4"]  # the second is the removal
    assert [tree.cat(f"d/f@v{n}") for n in (3, 4)] == [b"", b"later"]
    assert [tree.cat(f"d/g@v{n}") for n in (1, 2)] == [b"", b"later"]


@pytest.mark.local_store
def test_a_file_never_named_is_gone_with_its_last_user(tree, tmp_path):
    tree.put("f", "here")
    inodes = tree.store.counters.live_inodes
    file = tree.open_unnamed("")
    tree.write(file, b"x" * 100_000)
    with tree._refusals():
        tree.fs.setxattr(file.number, b"user.x", b"y", 0, tree.caller)
    numbers = [file.number]
    other = tree.after_power_cut(tmp_path / "other")
    assert other.store.attributes(file.number) is None, "nor does it outlive the daemon"
    assert other.cat("f") == b"here"
    other.store.close()
    tree.close(file)
    for _ in range(3):
        file = tree.open_unnamed("")
        numbers.append(file.number)
        tree.close(file)
    tree.keep_house()
    assert [tree.store.attributes(number) for number in numbers] == [None] * 4
    assert tree.store.counters.live_inodes == inodes
    assert tree.fs.status()["drafts"] == 0
