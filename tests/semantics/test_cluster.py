"""SEMANTICS 14: several mounts of a cluster show one tree, and their kernels forget what others have changed.

Method: two trees without a kernel over faces of the same three shards in memory. What one does, the other shows as soon
as it has followed; what it would tell its kernel is looked at.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from random import Random

import pytest

from cascadefs.vpath import format_time
from storage.cluster.turns import Turns
from storage.errors import Reason, Refused
from storage.namespace import ROOT
from storage.record import Close
from tests.semantics.conftest import FakeClock, Tree
from tests.storage.cluster.orders import make_orders

EXCHANGE = 2


@pytest.fixture
def cluster():
    clock = FakeClock()
    return make_orders(3, clock), clock


@pytest.fixture
def mounts(cluster):
    """Two mounts. A directory whose name ends with a digit lives in that shard."""
    made = [Tree.on(*cluster), Tree.on(*cluster)]
    yield made
    for tree in made:
        tree.close_all()


def known(tree: Tree, *paths: str) -> None:
    """Have the kernel know these."""
    for path in paths:
        tree.open(path, os.O_RDONLY)


def test_what_one_mount_closes_another_opens(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    one.put("d1/f", "first")
    two.follow()
    assert two.cat("d1/f") == b"first"
    two.put("d1/f", "second")
    one.follow()
    assert one.cat("d1/f") == b"second"
    assert one.cat("d1/f@v1") == b"first"
    assert one.versions("d1/f") == two.versions("d1/f") == ["v1", "v2"]


def test_who_opens_sees_what_was_closed_before_without_having_followed(mounts) -> None:
    one, two = mounts
    one.put("f", "first")
    two.follow()
    number = two.stat("f").number
    two.fs.remember(number)
    one.put("f", "second and longer")
    file = two.open("f")
    assert two.read(file) == b"second and longer"
    assert two.follow() == [(number, None)], "the kernel is told as well"
    two.close(file)
    one.mkdir("d")
    assert "d" in two.ls()
    one.put("d/new", "new")
    assert two.cat("d/new") == b"new"
    one.put("d/new", "newer")
    assert two.cat("d/new@v2") == b"newer"
    two.fs.forget(number, 1)


def test_a_name_that_means_something_else_by_now_is_looked_up_again(mounts) -> None:
    one, two = mounts
    one.put("f", "old")
    two.follow()
    number = two.fs.lookup(ROOT, b"f", two.caller).number
    one.save("f", "new")
    with pytest.raises(Refused) as caught:
        two.fs.open(number, os.O_RDONLY, two.caller)
    assert caught.value.reason is Reason.MOVED
    two.fs.forget(number, 1)
    assert two.cat("f") == b"new"
    one.unlink("f")
    number = two.fs.lookup(ROOT, b"f", two.caller).number
    with pytest.raises(Refused) as caught:
        two.fs.open(number, os.O_RDONLY, two.caller)
    assert caught.value.reason is Reason.MOVED
    two.fs.forget(number, 1)
    assert two.errno("stat", "f") == "ENOENT"


def test_a_directory_of_a_shard_that_is_behind_is_found_by_its_name(mounts) -> None:
    one, two = mounts
    two.mkdir("d1")
    assert stat.S_ISDIR(one.stat("d1").mode)
    assert one.ls("d1") == []


def test_the_shard_is_told(mounts) -> None:
    one, two = mounts
    one.mkdir("d2")
    one.mkdir("d2/below")
    one.put("d2/below/f", "x")
    one.put("f", "x")
    two.follow()
    for path, shard in (("", "0"), ("f", "0"), ("d2", "2"), ("d2/below/f", "2")):
        assert two.cascade(path, "shard") == shard
    assert two.cascade("d2/below/f", "store_version").startswith("2:")


def test_a_directory_says_where_those_made_in_it_live(mounts) -> None:
    one, _ = mounts
    one.mkdir("d")
    one.setxattr("d", "user.cascade.home", "1")
    one.mkdir("d/x")
    assert one.cascade("d/x", "shard") == "1"
    assert one.errno("setxattr", "d", "user.cascade.home", "seven") == "EINVAL"
    one.put("d/f", "x")
    assert one.errno("setxattr", "d/f", "user.cascade.home", "1") == "ENOTDIR"


@pytest.mark.parametrize("call", ["rename", "link"])
def test_between_shards_names_are_not_moved_or_linked(mounts, call) -> None:
    one, _ = mounts
    one.mkdir("d1")
    one.mkdir("d2")
    one.put("d1/f", "x")
    assert one.errno(call, "d1/f", "d2/f") == "EXDEV"
    assert one.errno(call, "d1/f", "f") == "EXDEV"
    assert one.errno(call, "d1/f", "d1/g") is None
    assert one.errno("rename", "d1", "d2/d1") == "EXDEV"
    assert one.errno("rename", "d1", "moved") is None
    assert one.cat("moved/g") == b"x"


def test_bytes_are_copied_between_shards(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    one.mkdir("d2")
    data = Random(1).randbytes(300_000)
    one.put("d1/f", data)
    one.put("d2/f", "")
    source, target = one.open("d1/f"), one.open("d2/f", os.O_RDWR)
    copied = 0
    while copied < len(data):
        copied += one.fs.ranges.copy(source.handle, copied, target.handle, copied, len(data))
    one.close(source)
    one.close(target)
    two.follow()
    assert two.cat("d2/f") == data


def test_a_directory_of_another_shard_is_removed_when_it_is_empty(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    two.follow()
    two.put("d1/f", "x")
    assert one.errno("rmdir", "d1") == "ENOTEMPTY"
    two.unlink("d1/f")
    one.rmdir("d1")
    assert two.errno("put", "d1/g", "late") == "ENOENT"
    two.follow()
    assert two.ls() == []


def test_a_directory_of_another_shard_that_is_gone_has_its_past(mounts) -> None:
    one, _ = mounts
    one.mkdir("d1")
    one.mkdir("d2")
    one.put("d1/f", "x")
    one.unlink("d1/f")
    one.put("f", "of the root")
    one.unlink("f")
    closed = Close(one.stat("d1").number)
    assert one.store.faces[1].propose(closed).reason is None, "the first half of its removal"
    one.put("d2/f", "between the halves")
    one.rmdir("d1")
    assert one.ls(".@deleted") == ["d1", "f"]
    assert one.ls("d1@deleted") == one.ls(".@deleted/d1") == []
    between = one.getxattr("d2/f", "user.cascade.commit_time").decode()
    assert one.ls(f".@{between}") == ["d1", "d2"]
    assert one.ls(f".@{between}/d1") == [], "what has a name then can be visited"


def test_a_time_is_one_cut_through_all_shards(mounts) -> None:
    one, two = mounts
    for shard in range(3):
        one.mkdir(f"d{shard}")
    times = []
    for tick in range(5):
        for shard in range(3):
            one.put(f"d{shard}/f", str(tick))
        one.wait(1)
        times.append(format_time(one.store.now()).decode())
        one.wait(1)
    for tick, time in enumerate(times):
        assert {two.cat(f".@{time}/d{shard}/f") for shard in range(3)} == {b"%d" % tick}


def test_a_time_that_a_shard_has_not_reached_is_asked_again(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.mkdir("d1")
    one.wait(5)
    time = one.now()
    one.wait(5)
    orders[2].pause()
    later = format_time(one.clock.time_ns // 1000 - 1_000_000).decode()
    assert two.errno("ls", f".@{later}") == "EAGAIN"
    assert two.ls(f".@{time}") == ["d1"]
    orders[2].resume()
    assert two.ls(f".@{later}") == ["d1"]


def test_the_kernel_forgets_what_others_have_made_and_removed(mounts) -> None:
    one, two = mounts
    one.put("f", "x")
    one.follow()
    two.follow()
    f = two.stat("f").number
    known(two, "f")
    one.put("new", "x")
    assert (ROOT, b"new") in (stale := two.follow())
    assert (ROOT, None) in stale
    one.put("f", "changed")
    assert two.follow() == [(f, None)]
    one.chmod("f", 0o600)
    assert two.follow() == [(f, None)]
    one.link("f", "g")
    assert {(ROOT, b"g"), (f, None)} <= set(two.follow())
    one.rename("f", "h")
    assert {(ROOT, b"f"), (ROOT, b"h"), (f, None)} <= set(two.follow())
    one.unlink("h")
    assert {(ROOT, b"h"), (f, None)} <= set(two.follow())
    one.mkdir(".@tag-then")
    assert two.follow() == []
    assert one.follow() == [], "what one did itself it has told already"


def test_what_the_kernel_does_not_know_is_not_spoken_of(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    one.put("d1/f", "x")
    two.follow()
    one.put("d1/f", "y")
    one.put("d1/g", "z")
    assert two.follow() == []


def test_open_files_and_unsaved_writes_go_on_whatever_others_do(mounts) -> None:
    one, two = mounts
    one.put("f", "0123456789")
    two.follow()
    file = two.open("f", os.O_RDWR)
    two.write(file, b"AB", 2)
    one.put("f", "other content")
    two.follow()
    assert two.read(file).startswith(b"otABr cont")
    one.rename("f", "g")
    two.follow()
    two.write(file, b"C", 4)
    two.close(file)
    one.follow()
    assert one.cat("g").startswith(b"otABC cont")
    assert one.versions("g") == ["v1", "v2"]


def test_what_several_mounts_append_at_once_is_all_there(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "begin\n")
    two.follow()
    here, there = (tree.open("f", os.O_WRONLY | os.O_APPEND) for tree in mounts)
    one.write(here, b"one\n")
    two.write(there, b"two\n")
    two.close(there)
    one.close(here)
    assert one.cat("f") == two.cat("f") == b"begin\ntwo\none\n"
    here = one.open("f", os.O_WRONLY | os.O_APPEND)
    one.write(here, b"on its way\n")
    orders[0].meanwhile = lambda: two.append("f", "quicker\n")
    one.close(here)
    assert two.cat("f") == b"begin\ntwo\none\nquicker\non its way\n"
    assert len(two.versions("f")) == 5, "one for each of them"


def test_what_is_appended_goes_to_the_end_there_is_then(mounts) -> None:
    one, two = mounts
    one.put("f", "0123456789")
    two.follow()
    here = one.open("f", os.O_WRONLY | os.O_APPEND)
    known = one.stat("f").size
    two.put("f", "new")
    one.write(here, b"AB", known)
    one.write(here, b"CD", known + 2)
    assert one.follow() == [(here.number, None)], "its kernel believes in another end"
    assert one.cat("f") == b"newABCD", "also before it is closed"
    two.append("f", " other")
    one.follow()
    assert one.stat("f").size == len("new otherABCD")
    two.put("f", "")
    one.close(here)
    assert two.cat("f") == b"ABCD", "nothing was left in front of it"
    data = Random(2).randbytes(1_200_000)
    here = one.open("f", os.O_WRONLY | os.O_APPEND)
    one.write(here, data[:700_000])
    one.write(here, data[700_000:])
    two.append("f", "x" * 99_999)
    one.close(here)
    assert two.cat("f") == b"ABCD" + b"x" * 99_999 + data


def test_what_is_written_elsewhere_than_at_the_end_lies_where_it_was_written(mounts) -> None:
    one, two = mounts
    for change in ("write", "cut", "mapped"):
        one.put("f", "0123456789")
        two.follow()
        file = one.open("f", os.O_RDWR | os.O_APPEND)
        one.write(file, b"AB")
        if change == "cut":
            one.ftruncate(file, 11)
        else:
            offset = 4 if change == "write" else 0
            assert one.fs.write(file.handle, offset, b"xy", appends=False) == 2
        two.append("f", "other")
        one.close(file)
        expected = {"write": b"0123xy6789AB", "cut": b"0123456789A", "mapped": b"xy23456789AB"}
        assert two.cat("f") == expected[change]


def test_who_makes_a_file_and_writes_nothing_cuts_off_nobody(mounts) -> None:
    one, two = mounts
    file = one.open("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    two.append("f", "two")
    one.close(file)
    assert two.cat("f") == b"two"


def test_a_file_removed_elsewhere_is_there_for_who_has_it_open(mounts) -> None:
    one, two = mounts
    one.put("f", "content")
    two.follow()
    file = two.open("f", os.O_RDWR)
    one.unlink("f")
    two.follow()
    assert two.read(file) == b"content"
    two.write(file, b"nobody's", 0)
    assert two.errno("stat", "f") == "ENOENT"
    two.close(file)
    one.follow()
    assert one.errno("cat", "f") == "ENOENT"
    assert one.cat("f@v1") == b"content"


def test_two_who_make_the_same_name_make_it_once(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    orders[0].meanwhile = lambda: two.put("f", "two")
    assert one.errno("open", "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    assert one.cat("f") == b"two"


def test_who_opens_or_makes_a_name_that_another_makes_meanwhile_opens_it(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    orders[0].meanwhile = lambda: two.put("f", "two")
    assert one.errno("open", "f", os.O_CREAT | os.O_WRONLY) == "ESTALE", "the kernel looks again"
    file = one.open("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    one.write(file, b" and one", 3)
    one.close(file)
    assert two.cat("f") == b"two and one"


def test_a_condition_holds_against_other_mounts(mounts) -> None:
    one, two = mounts
    one.put("f", "one")
    two.follow()
    file = two.open("f@if=v1", os.O_WRONLY)
    two.write(file, b"on condition")
    one.put("f", "first")
    with pytest.raises(Refused) as caught:
        two.close(file)
    assert caught.value.reason is Reason.CONDITION_FAILED
    two.follow()
    assert two.cat("f") == b"first"


def test_a_pause_of_the_leader_is_a_pause_for_programs(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "before")
    two.follow()
    file = two.open("f")
    orders[0].pause()
    thread = threading.Thread(target=lambda: one.put("f", "after"))
    thread.start()
    assert two.read(file) == b"before", "what is open is read without the leader"
    assert two.ls("f@@") == ["v1"], "and so is the past"
    orders[0].resume()
    two.close(file)
    thread.join()
    two.follow()
    assert two.cat("f") == b"after"


class Shared:
    """A mount asked by several threads, as the kernel asks one: each call holds it, and lets go where it waits."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.lock = threading.Lock()
        self.threads: list[threading.Thread] = []
        self.failures: list[Exception] = []
        tree.store.share(Turns(self.lock, always=True))

    def call(self, name: str, *arguments):
        with self.lock:
            return getattr(self.tree, name)(*arguments)

    def begin(self, name: str, *arguments) -> None:
        def run() -> None:
            try:
                self.call(name, *arguments)
            except Exception as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def end(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        self.tree.store.turns = None
        for face in self.tree.store.faces.values():
            face.turns = None


def until(condition) -> None:
    for _ in range(30_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("not within 30 s")


def test_who_waits_for_the_cluster_keeps_nobody_else_waiting(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    names = [f"f{number}" for number in range(5)]
    for name in names:
        one.put(name, "before")
    one.mkdir("d1")
    files = [one.open(name, os.O_WRONLY | os.O_TRUNC) for name in names]
    reading = one.open("f0@v1")
    for name, file in zip(names, files, strict=True):
        one.write(file, name.encode())
    two.follow()
    shared = Shared(one)
    orders[0].pause()
    for file in files:
        shared.begin("close", file)
    sequencer = orders[0]._faces[0]
    until(lambda: len(sequencer.pending) == len(names))
    until(lambda: one.store.turns.resting == len(names))
    assert shared.call("read", reading) == b"before"
    shared.call("put", "d1/f", "in a shard that has a leader")
    assert two.cat("d1/f") == b"in a shard that has a leader"
    orders[0].resume()
    shared.end()
    assert not shared.failures
    two.follow()
    assert [two.cat(name) for name in names] == [name.encode() for name in names]
    assert {len(two.versions(name)) for name in names} == {2}


def test_who_makes_the_first_file_of_a_shard_keeps_nobody_else_waiting(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    two.mkdir("d1")
    shared = Shared(one)
    shared.call("stat", "d1")
    orders[1].pause()
    shared.begin("mkdir", "d1/made")
    until(lambda: one.store.turns.resting == 1)
    shared.call("put", "f", "in a shard that has a leader")
    orders[1].resume()
    shared.end()
    assert not shared.failures
    assert one.exists("d1/made")


def test_what_is_on_its_way_is_changed_by_nobody(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "0123456789")
    one.put("g", "x")
    first, second, large = (one.open(name, os.O_RDWR) for name in ("f", "f", "g"))
    one.write(first, b"AB", 0)
    shared = Shared(one)
    orders[0].pause()
    sequencer = orders[0]._faces[0]
    shared.begin("close", first)
    until(lambda: len(sequencer.pending) == 1)
    shared.begin("write", second, b"CD", 4)
    shared.begin("write", large, b"L" * 100_000, 0)
    until(lambda: len(sequencer.pending) == 2)
    shared.begin("close", large)
    until(lambda: one.store.turns.resting == 4)
    assert shared.call("read", second) == b"AB23456789", "as it will be"
    orders[0].resume()
    shared.end()
    assert not shared.failures
    one.close(second)
    two.follow()
    assert [two.cat(name) for name in ("f@v2", "f@v3")] == [b"AB23456789", b"AB23CD6789"]
    assert two.cat("g@v2") == b"L" * 100_000
    assert one.fs.inodes.drafts == {}


def test_what_is_appended_while_more_is_on_its_way_comes_behind_it(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "begin ")
    two.follow()
    first, second = (one.open("f", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    late = two.open("f", os.O_WRONLY | os.O_APPEND)
    one.write(first, b"first ")
    two.write(late, b"other ")
    shared = Shared(one)
    orders[0].pause()
    shared.begin("close", first)
    until(lambda: len(orders[0]._faces[0].pending) == 1)
    shared.begin("write", second, b"second ")
    until(lambda: one.store.turns.resting == 2)
    orders[0].meanwhile = lambda: two.close(late)
    orders[0].resume()
    shared.end()
    assert not shared.failures
    one.close(second)
    assert two.cat("f") == b"begin other first second "


def test_the_kernel_forgets_what_it_read_before_it_was_moved(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "begin ")
    two.follow()
    first = one.open("f", os.O_RDWR | os.O_APPEND)
    late = two.open("f", os.O_WRONLY | os.O_APPEND)
    one.write(first, b"first ")
    two.write(late, b"other ")
    shared = Shared(one)
    orders[0].pause()
    sequencer = orders[0]._faces[0]
    shared.begin("close", first)
    until(lambda: one.store.turns.resting == 1)
    on_their_way, sequencer.pending = sequencer.pending, []
    orders[0].resume()
    two.close(late)
    stale = (first.number, None)
    until(lambda: stale in shared.call("follow"))  # Now it may read the file as it is not to be.
    with orders[0]._changed:
        sequencer.pending += on_their_way
        orders[0]._arrive()
    shared.end()
    assert not shared.failures
    assert stale in one.follow()
    assert one.cat("f") == b"begin other first "


def test_a_condition_that_is_met_beside_leaves_what_was_appended_behind_it(mounts) -> None:
    one, _ = mounts
    one.put("f", "0123")
    file = one.open("f", os.O_RDWR | os.O_APPEND)
    one.write(file, b"x")
    one.put("f@if=v1", "abcdefgh")
    assert one.cat("f") == b"abcdefghx"
    elsewhere = one.open("f", os.O_WRONLY)
    one.write(elsewhere, b"Z", 0)
    one.close(file)
    one.close(elsewhere)
    assert one.cat("f") == b"Zbcdefghx"


def test_a_version_that_is_on_its_way_is_waited_for_by_who_names_it(mounts, cluster) -> None:
    orders, _ = cluster
    one, _ = mounts
    made = one.open("f", os.O_CREAT | os.O_WRONLY)
    shared = Shared(one)
    # A leader tells of what is committed, not of what has just come.
    orders[0]._faces[0].certain_index = lambda: len(orders[0].records)
    orders[0].pause()
    shared.begin("close", made)
    until(lambda: one.store.turns.resting == 1)
    shared.begin("cat", "f@v1")
    until(lambda: one.store.turns.resting == 2 or shared.failures)
    orders[0].resume()
    shared.end()
    assert not shared.failures


def test_a_file_that_loses_its_last_name_while_it_is_on_its_way(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    one.put("f", "old")
    file = one.open("f", os.O_WRONLY | os.O_TRUNC)
    one.write(file, b"new")
    shared = Shared(one)
    orders[0].pause()
    sequencer = orders[0]._faces[0]
    shared.begin("close", file)
    until(lambda: len(sequencer.pending) == 1)
    shared.begin("unlink", "f")
    until(lambda: len(sequencer.pending) == 2)
    orders[0].resume()
    shared.end()
    assert not shared.failures
    assert one.errno("stat", "f") == "ENOENT"
    two.follow()
    assert two.cat("f@v2") == b"new"
    assert one.fs.inodes.drafts == {}


def test_a_cluster_that_refuses_refuses_each_who_waits(mounts, cluster) -> None:
    orders, _ = cluster
    one, two = mounts
    files = [one.open(name, os.O_CREAT | os.O_WRONLY) for name in ("f", "g")]
    for file in files:
        one.write(file, b"too much")
    shared = Shared(one)
    orders[0].pause()
    for file in files:
        shared.begin("close", file)
    until(lambda: len(orders[0]._faces[0].pending) == 2)
    orders[0].is_full = True
    orders[0].resume()
    shared.end()
    assert [error.errno for error in shared.failures] == [errno.ENOSPC] * 2
    orders[0].is_full = False
    for file in files:
        one.close(file)
    assert [two.cat(name) for name in ("f", "g")] == [b"too much"] * 2


def test_what_is_let_go_is_gone_on_every_mount(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    for text in ("one", "two", "three"):
        one.put("d1/f", text)
    two.follow()
    file = two.open("d1/f@v1")
    assert two.read(file) == b"one"
    one.setxattr("d1", "user.cascade.purge", "f@v1")
    two.follow()
    assert two.errno("read", file) == "EIDRM"
    two.close(file)
    for mount in mounts:
        assert mount.errno("cat", "d1/f@v1") == "EIDRM"
        assert mount.versions("d1/f") == ["v2", "v3"]
    assert one.errno("setxattr", "", "user.cascade.gc", "now") == "EOPNOTSUPP"


def test_policies_holds_and_labels_reach_into_other_shards(mounts) -> None:
    one, two = mounts
    one.mkdir("d1")
    one.mkdir("d1/e2")
    for text in ("one", "two", "three"):
        one.put("d1/e2/f", text)
        if text == "two":
            one.setxattr("", "user.cascade.label", "kept")
        one.wait(7200)
    one.setxattr("", "user.cascade.retention", "all:1h")
    one.setxattr("d1", "user.cascade.hold", "audit")
    two.follow()
    two.store.retention.run()
    assert two.versions("d1/e2/f") == ["v1", "v2", "v3"]
    assert two.errno("setxattr", "d1/e2", "user.cascade.purge", "f@v1") == "EPERM"
    one.removexattr("d1", "user.cascade.hold")
    two.follow()
    two.store.retention.run()
    one.follow()
    assert one.versions("d1/e2/f") == two.versions("d1/e2/f") == ["v2", "v3"]
