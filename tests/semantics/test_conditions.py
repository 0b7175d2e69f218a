"""SEMANTICS 6: writing on a condition, by name and by handle; exactly one of those who began at a version wins."""

from __future__ import annotations

import errno
import os

import pytest

from cascadefs.errnos import errno_of
from cascadefs.filesystem import Caller, Changes, Filesystem, FilesystemOptions
from storage.errors import Reason, Refused
from storage.namespace import ROOT
from storage.store import LocalStore

WRITE, CREATE, EMPTY = os.O_WRONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC


def says(call, *arguments) -> str | None:
    """The errno of a call by handle, by name; None if there is none."""
    try:
        call(*arguments)
    except (OSError, Refused) as error:
        return os.strerror(error.errno if isinstance(error, OSError) else errno_of(error))
    return None


STALE = os.strerror(116)


def set_on(tree, file, name: str, value: str, pid: int = 0) -> None:
    """fsetxattr(2) on a descriptor, by a thread."""
    caller = Caller(0, 0, pid)
    tree.fs.setxattr(file.number, b"user.cascade." + name.encode(), value.encode(), 0, caller)


def open_by(tree, pid: int, path: str, flags: int = WRITE):
    tree.caller = Caller(0, 0, pid)
    return tree.open(path, flags)


@pytest.mark.parametrize("name", ["f@if=v2", "f@if-v2"])
def test_the_live_file_is_written_if_its_head_is_that_version(tree, name):
    tree.put("f", "one")
    tree.put("f", "two")
    assert tree.cat(name) == b"two"
    tree.put(name, "three")
    assert tree.cat("f") == b"three"
    assert tree.versions("f") == ["v1", "v2", "v3"]
    assert tree.ls() == ["f"]


def test_an_extension_may_stand_behind_the_condition(tree):
    tree.put("f.csv", "one")
    tree.put("f@if=v1.csv", "two")
    assert tree.cat("f.csv") == b"two"


@pytest.mark.parametrize("name", ["f@if=v1", "f@if=v3", "f@if=v0", "new@if=v1", "f@if-v1"])
def test_a_condition_that_is_not_met_is_estale(tree, name):
    tree.put("f", "one")
    tree.put("f", "two")
    assert tree.errno("stat", name) == "ESTALE"
    assert tree.errno("cat", name) == "ESTALE"
    assert tree.errno("put", name, "x") == "ESTALE"
    assert tree.ls() == ["f"]


def test_version_0_means_must_not_exist(tree):
    assert tree.errno("stat", "new@if=v0") == "ENOENT"
    tree.put("new@if=v0", "one", mode=0o600)
    assert (tree.cat("new"), tree.stat("new").mode & 0o777) == (b"one", 0o600)
    assert tree.errno("put", "new@if=v0", "x") == "ESTALE"
    tree.unlink("new")
    tree.put("new@if=v0", "again")
    assert tree.versions("new") == ["v1", "v3"]


def test_what_was_removed_can_be_made_again_on_condition_of_its_removal(tree):
    tree.put("f", "one")
    tree.unlink("f")
    assert tree.errno("put", "f@if=v1", "x") == "ESTALE"
    tree.put("f@if=v2", "again")
    assert tree.versions("f") == ["v1", "v3"]


def test_the_condition_is_checked_again_when_it_commits(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", WRITE)
    tree.write(file, b"lost")
    tree.put("f", "two")
    assert says(tree.fs.save, file.handle) == STALE
    assert says(tree.fs.write, file.handle, 0, b"x") == STALE
    assert says(tree.fs.flush, file.handle) == STALE
    tree.fs.release(file.handle)
    tree.fs.forget(file.number, 1)
    assert tree.cat("f") == b"two"
    assert tree.versions("f") == ["v1", "v2"]


def test_of_two_writers_the_first_to_commit_wins(tree):
    tree.put("f", "one")
    a, b = tree.open("f@if=v1", EMPTY), tree.open("f@if=v1", EMPTY)
    tree.write(a, b"from a")
    tree.write(b, b"from b, longer")
    tree.close(b)
    assert says(tree.fs.flush, a.handle) == STALE
    tree.fs.release(a.handle)
    tree.fs.forget(a.number, 1)
    assert tree.cat("f") == b"from b, longer"
    assert tree.versions("f") == ["v1", "v2"]
    tree.put("f@if=v2", "the next one is not disturbed")
    assert tree.cat("f") == b"the next one is not disturbed"


def test_of_two_makers_of_one_name_the_first_to_commit_wins(tree):
    a, b = tree.open("lock@if=v0", CREATE), tree.open("lock@if=v0", CREATE)
    assert tree.errno("stat", "lock") == "ENOENT", "there is nothing before the commit"
    tree.close(a)
    assert says(tree.fs.flush, b.handle) == STALE, "also of one that wrote nothing"
    tree.fs.release(b.handle)
    tree.fs.forget(b.number, 1)
    assert tree.cat("lock") == b""
    assert tree.versions("lock") == ["v1"]


def test_what_is_written_on_a_condition_is_seen_when_it_is_committed(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", os.O_RDWR)
    tree.write(file, b"TWO!", 0)
    assert tree.read(file) == b"TWO!"
    assert tree.fs.getattr(file.number).size == 4
    assert (tree.cat("f"), tree.stat("f").size) == (b"one", 3)
    tree.close(file)
    assert tree.cat("f") == b"TWO!"


def test_a_reader_keeps_the_version_it_opened(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1")
    tree.put("f", "two, longer")
    assert tree.read(file) == b"one"
    tree.close(file)


def test_a_winner_goes_on_from_its_own_version(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", WRITE)
    tree.write(file, b"two")
    tree.fsync(file)
    tree.write(file, b"three", 0)
    tree.close(file)
    assert tree.cat("f") == b"three"
    assert tree.versions("f") == ["v1", "v2", "v3"]


def test_a_writer_without_a_condition_is_laid_over_the_new_version(tree):
    tree.put("f", "0123456789")
    plain = tree.open("f", WRITE)
    tree.write(plain, b"AB", 0)
    tree.put("f@if=v1", "a longer content than before")
    assert tree.cat("f") == b"AB" + b"longer content than before"
    tree.close(plain)
    assert tree.cat("f@v2") == b"a longer content than before"
    assert tree.cat("f@v3") == b"ABlonger content than before"


def test_the_kernel_forgets_what_it_knew_of_the_file(tree):
    tree.mkdir("d")
    directory = tree.stat("d").number
    tree.fs.take_invalidations()
    tree.put("d/f@if=v0", "one")
    inode = tree.stat("d/f").number
    assert tree.fs.take_invalidations() == [(inode, None), (directory, b"f"), (directory, None)]
    tree.put("d/f@if=v1", "two")
    assert tree.fs.take_invalidations() == [(inode, None)]


def test_each_look_up_is_another_writer_and_none_is_remembered(tree):
    tree.put("f", "one")
    a, b = tree.open("f@if=v1"), tree.open("f@if=v1")
    assert a.number != b.number
    assert min(a.number, b.number) >= 2**52
    tree.close(a)
    tree.close(b)
    assert tree.timeout("f@if=v1") == 0.0


@pytest.mark.local_store
def test_what_was_made_on_a_condition_and_given_up_leaves_nothing(tree):
    records = tree.records()
    file = tree.open("f@if=v0", CREATE)
    tree.write(file, b"x")
    tree.fs.removexattr(file.number, b"user.cascade.if_version", tree.caller)
    assert says(tree.fs.flush, file.handle) == STALE
    tree.fs.release(file.handle)
    tree.fs.forget(file.number, 1)
    assert (tree.ls(), tree.records()) == ([], records)


def test_large_drafts_are_staged_and_kept_apart(tree):
    block = bytes(range(256)) * 400
    tree.put("f", b"one")
    a, b = tree.open("f@if=v1", EMPTY), tree.open("f@if=v1", EMPTY)
    for n in range(20):
        tree.write(a, block)
        tree.write(b, bytes([n]) * len(block))
    tree.close(a)
    assert says(tree.fs.flush, b.handle) == STALE
    tree.fs.release(b.handle)
    tree.fs.forget(b.number, 1)
    assert tree.cat("f") == block * 20


def test_modes_and_times_by_a_conditional_name(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", WRITE)
    tree.write(file, b"two")
    tree.fs.setattr(file.number, Changes(mode=0o600, mtime_ns=5), file.handle, tree.caller)
    tree.close(file)
    stat = tree.stat("f")
    assert (stat.mode & 0o777, stat.mtime_ns) == (0o600, 5)
    tree.truncate("f@if=v2", 1)
    assert tree.cat("f") == b"t"
    assert tree.versions("f") == ["v1", "v2", "v3"]


@pytest.mark.parametrize("name", ["f@if=v1", "new@if=v0"])
def test_nothing_else_is_made_or_removed_on_a_condition(tree, name):
    tree.put("f", "one")
    tree.put("g", "one")
    assert tree.errno("mkdir", name) in ("EINVAL", "EEXIST")
    assert tree.errno("symlink", "f", name) in ("EINVAL", "EEXIST")
    assert tree.errno("link", "g", name) in ("EINVAL", "EEXIST")
    assert tree.errno("rename", "g", name) == "EINVAL"
    assert tree.errno("unlink", name) in ("EROFS", "ENOENT")
    assert tree.ls() == ["f", "g"]


@pytest.mark.parametrize("base", [".cascade", "f@v1", "."])
def test_a_condition_makes_no_name_that_could_not_be_made_otherwise(tree, base):
    tree.put("f", "one")
    assert tree.errno("put", f"{base}@if=v0", "x") in ("EPERM", "EINVAL")
    assert tree.ls() == ["f"]


def test_conditions_are_of_regular_files(tree):
    tree.mkdir("d")
    tree.symlink("f", "l")
    assert tree.errno("stat", "d@if=v1") == "EINVAL"
    assert tree.errno("stat", "l@if=v1") == "EINVAL"
    assert tree.errno("stat", "d@if=v0") == "ESTALE"


def test_a_mount_to_read_makes_nothing_on_a_condition(make_tree):
    tree = make_tree()
    tree.put("f", "one")
    tree.store.close()
    tree.open_store("boot", read_only=True)
    assert tree.cat("f@if=v1") == b"one"
    assert tree.errno("put", "f@if=v1", "x") == "EROFS"
    assert tree.errno("put", "new@if=v0", "x") == "EROFS"


def test_drafts_on_a_condition_outlive_the_daemons_stop_if_it_is_met(make_tree):
    tree = make_tree()
    tree.put("f", "one")
    a, b = tree.open("f@if=v1", EMPTY), tree.open("new@if=v0", CREATE)
    tree.write(a, b"two")
    tree.write(b, b"made")
    tree.fs.commit_all()
    assert (tree.cat("f@v2"), tree.cat("new")) == (b"two", b"made")
    tree.close(a)
    tree.close(b)


def test_on_a_volatile_mount_conditions_work_too(tree):
    store = LocalStore.open_volatile(tree.clock)
    fs, me = Filesystem(store, tree.clock, FilesystemOptions()), Caller(0, 0)

    def opened(name: bytes, flags: int):
        try:
            return fs.open(fs.lookup(ROOT, name, me).number, flags, me).handle
        except Refused as refusal:
            if refusal.reason is not Reason.ABSENT:
                raise
            return fs.create(ROOT, name, 0o644, flags, me)[0].handle

    def put(name: bytes, data: bytes) -> None:
        handle = opened(name, EMPTY)
        fs.write(handle, 0, data)
        fs.flush(handle)
        fs.release(handle)

    large = bytes(range(256)) * 1024
    put(b"f@if=v0", large)
    a, b, reader = opened(b"f@if=v1", EMPTY), opened(b"f@if=v1", EMPTY), opened(b"f@if=v1", 0)
    for handle in (a, b):
        fs.write(handle, 0, large)
        fs.write(handle, len(large), large)
    put(b"g", large)
    fs.flush(a)
    assert says(fs.flush, b) == STALE
    assert says(fs.read, reader, 0, 10) == STALE
    fs.release(b)
    assert bytes(fs.read(opened(b"f", 0), 0, 1 << 20)) == large * 2
    put(b"f@if=v2", b"three")
    assert bytes(fs.read(opened(b"f", 0), 0, 10)) == b"three"
    assert bytes(fs.read(opened(b"g", 0), 0, 1 << 20)) == large
    assert store._shard.log.payload_bytes < 2 * len(large), "drafts that lost are let go"
    store.close()


# --- by handle ------------------------------------------------------------------------------------------------------


def test_a_handle_may_be_given_a_condition(tree):
    tree.put("f", "one")
    file = tree.open("f", WRITE)
    set_on(tree, file, "if_version", "1")
    assert tree.cascade("f", "if_version") == "1"
    tree.write(file, b"two")
    assert tree.cat("f") == b"two", "seen at once, as ever"
    tree.close(file)
    assert tree.versions("f") == ["v1", "v2"]
    assert tree.cascade("f", "if_version") is None


@pytest.mark.parametrize("value", ["2", "v2", "0"])
def test_a_handles_condition_that_is_not_met_is_estale(tree, value):
    tree.put("f", "one")
    file = tree.open("f", WRITE)
    assert says(set_on, tree, file, "if_version", value) == STALE
    tree.close(file)
    assert tree.versions("f") == ["v1"]


@pytest.mark.parametrize("value", ["", "x", "v", "01", "-1", "1" * 20])
def test_a_handles_condition_that_is_none_is_einval(tree, value):
    tree.put("f", "one")
    file = tree.open("f", WRITE)
    assert says(set_on, tree, file, "if_version", value) == os.strerror(22)
    tree.close(file)


def test_of_two_handles_with_a_condition_one_wins(tree):
    tree.put("f", "one")
    a, b = open_by(tree, 1, "f"), open_by(tree, 2, "f")
    set_on(tree, a, "if_version", "1", pid=1)
    assert says(set_on, tree, b, "if_version", "1", 2) == STALE
    tree.write(a, b"two")
    tree.close(a)
    assert says(set_on, tree, b, "if_version", "1", 2) == STALE
    set_on(tree, b, "if_version", "2", pid=2)
    tree.write(b, b"TWO")
    tree.close(b)
    assert tree.versions("f") == ["v1", "v2", "v3"]


def test_a_plain_writer_ends_a_handles_claim(tree):
    tree.put("f", "one")
    a, b = open_by(tree, 1, "f"), open_by(tree, 2, "f")
    set_on(tree, a, "if_version", "1", pid=1)
    tree.write(a, b"lost, and long")
    tree.write(b, b"ONE")
    assert tree.cat("f") == b"ONE", "what the claim's handle wrote is dropped"
    assert says(tree.fs.write, a.handle, 0, b"x") == STALE
    tree.close(b)
    for call in (tree.fs.save, tree.fs.flush):
        assert says(call, a.handle) == STALE
    tree.fs.release(a.handle)
    tree.fs.forget(a.number, 1)
    assert tree.cat("f@v2") == b"ONE"
    assert tree.versions("f") == ["v1", "v2"]


@pytest.mark.parametrize("how", ["rename", "restore", "truncate", "unlink", "condition"])
def test_whatever_moves_the_head_ends_a_handles_claim(tree, how):
    tree.put("f", "one")
    tree.put("f", "two")
    tree.put("other", "three")
    file = tree.open("f", WRITE)
    set_on(tree, file, "if_version", "2")
    tree.write(file, b"lost")
    if how == "rename":
        tree.rename("other", "f")
    elif how == "restore":
        tree.setxattr("f", "user.cascade.restore", "v1")
    elif how == "truncate":
        tree.truncate("f", 1)
    elif how == "unlink":
        tree.unlink("f")
    else:
        tree.put("f@if=v2", "three")
    assert says(tree.fs.flush, file.handle) == STALE
    tree.fs.release(file.handle)
    tree.fs.forget(file.number, 1)
    assert b"lost" not in [tree.cat(f"f@{name}") for name in tree.versions("f")]


def test_a_claim_needs_a_handle_that_has_not_written(tree):
    tree.put("f", "one")
    assert says(tree.setxattr, "f", "user.cascade.if_version", "1") == os.strerror(9)
    file = tree.open("f", WRITE)
    tree.write(file, b"x")
    assert says(set_on, tree, file, "if_version", "1") == os.strerror(22)
    tree.close(file)
    reader = tree.open("f")
    assert says(set_on, tree, reader, "if_version", "2") == os.strerror(9)
    tree.close(reader)


def test_a_claim_ends_with_its_handle(tree):
    tree.put("f", "one")
    file, other = open_by(tree, 1, "f"), open_by(tree, 2, "f")
    set_on(tree, file, "if_version", "1", pid=1)
    tree.close(file)
    set_on(tree, other, "if_version", "1", pid=2)
    tree.write(other, b"two")
    tree.close(other)
    assert tree.versions("f") == ["v1", "v2"]


def test_a_claim_can_be_given_up(tree):
    tree.put("f", "one")
    file = tree.open("f", WRITE)
    set_on(tree, file, "if_version", "1")
    tree.write(file, b"lost")
    tree.fs.removexattr(file.number, b"user.cascade.if_version", Caller(0, 0))
    assert tree.cat("f") == b"one"
    assert says(tree.fs.flush, file.handle) == STALE
    tree.fs.release(file.handle)
    tree.fs.forget(file.number, 1)
    assert tree.versions("f") == ["v1"]


def test_what_is_written_on_a_claim_is_not_committed_before_its_close(make_tree):
    tree = make_tree(autocommit_s=5.0)
    tree.put("f", "one")
    file, other = open_by(tree, 1, "f"), open_by(tree, 2, "f")
    set_on(tree, file, "if_version", "1", pid=1)
    tree.write(file, b"two")
    tree.wait(60)
    tree.keep_house()
    tree.fsync(other)
    assert tree.versions("f") == ["v1"]
    tree.close(file)
    tree.close(other)
    assert tree.versions("f") == ["v1", "v2"]


def test_who_may_what_through_a_condition_is_as_of_now(tree):
    tree.put("f", "one")
    tree.chown("f", 1000, 100)
    with tree.user(1000):
        file = tree.open("f@if=v1", os.O_RDWR)
        me = tree.caller
    tree.chown("f", 0, 0)
    tree.chmod("f", 0o600)
    stat = tree.fs.getattr(file.number)
    assert (stat.uid, stat.mode & 0o777) == (0, 0o600)
    denied = os.strerror(errno.EPERM)
    for changes in (Changes(mode=0o4777), Changes(gid=100), Changes(mtime_ns=0)):
        assert says(tree.fs.setattr, file.number, changes, file.handle, me) == denied
    assert tree.stat("f").mode & 0o7777 == 0o600
    tree.close(file)


@pytest.mark.parametrize(("uid", "left"), [(1000, 0), (0, 0o6000)])
def test_set_id_bits_end_with_the_commit_of_somebody_else(tree, uid, left):
    tree.put("f", "one")
    tree.chmod("f", 0o777)
    with tree.user(uid):
        file = tree.open("f@if=v1", WRITE)
    tree.chmod("f", 0o6777)
    tree.write(file, b"two")
    tree.close(file)
    assert (tree.cat("f"), tree.stat("f").mode & 0o6000) == (b"two", left)


def test_opening_on_a_condition_and_writing_nothing_leaves_set_id_bits(tree):
    tree.put("f", "one")
    tree.chmod("f", 0o6777)
    with tree.user(1000):
        tree.close(tree.open("f@if=v1", WRITE))
    assert tree.stat("f").mode & 0o6000 == 0o6000


def test_flags_of_setxattr_hold_through_a_condition(tree):
    tree.put("f", "one")
    tree.setxattr("f", "user.a", "1")
    file = tree.open("f@if=v1", os.O_RDWR)
    me = tree.caller
    there = os.strerror(errno.EEXIST)
    assert says(tree.fs.setxattr, file.number, b"user.a", b"2", os.XATTR_CREATE, me) == there
    assert tree.getxattr("f", "user.a") == b"1"
    tree.close(file)
