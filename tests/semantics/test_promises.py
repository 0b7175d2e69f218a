"""SEMANTICS 0: what each call promises, as far as it can be seen without a mount and without pulling a plug.

Method: the disk of a machine that lost power is a copy of the data directory as it lies there, opened by another boot.
Torn writes and half a sync are the log's tests (tests/storage/log).
"""

from __future__ import annotations

import os

import pytest

from cascadefs.filesystem import Caller, Changes
from storage.errors import Reason, Refused
from storage.namespace import ROOT


def test_a_write_is_visible_when_it_returns(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"seen")
    assert tree.cat("f") == b"seen"
    tree.close(file)


def test_a_close_commits_and_a_later_open_sees_it(tree):
    tree.put("f", "one")
    assert tree.cat("f@v1") == b"one"
    assert tree.cat("f") == b"one"


@pytest.mark.local_store
def test_fsync_returns_when_it_is_on_the_disk(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"kept")
    assert tree.store.unsynced()
    tree.fsync(file)
    assert not tree.store.unsynced()
    tree.close(file)


@pytest.mark.local_store
def test_what_was_synced_is_there_after_a_power_cut(tree, tmp_path):
    tree.put("before", "1")
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"kept")
    tree.fsync(file)
    tree.write(file, b"draft")
    other = tree.after_power_cut(tmp_path / "copy")
    assert other.ls() == ["before", "f"]
    assert other.cat("f") == b"kept"
    assert other.versions("f") == ["v1"]
    other.close_all()
    tree.close(file)


@pytest.mark.local_store
def test_versions_times_and_labels_outlive_the_daemon(tree, tmp_path):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    tree.mkdir("d@tag-first")
    tree.put("d/f", "two")
    numbers = [tree.stat(p).number for p in ("d", "d/f", "d/f@v1", f"d@{moment}/f", f"d@{moment}")]
    other = tree.after_power_cut(tmp_path / "copy")
    assert other.cat("d/f@v1") == b"one"
    assert other.cat("d@tag-first/f") == b"one"
    assert numbers == [
        other.stat(p).number for p in ("d", "d/f", "d/f@v1", f"d@{moment}/f", f"d@{moment}")
    ]
    other.close_all()


def test_stopping_makes_every_draft_a_version(tree):
    file = tree.open("f", os.O_WRONLY | os.O_CREAT)
    tree.write(file, b"draft")
    tree.fs.commit_all()
    assert tree.cat("f@v1") == b"draft"
    tree.close(file)
    assert tree.versions("f") == ["v1"]


def test_a_mount_to_read_refuses_every_change(make_tree):
    tree = make_tree()
    tree.put("f", "one")
    tree.close_all()
    tree.open_store(boot_id="boot", read_only=True)
    assert tree.cat("f@v1") == b"one"
    for call, arguments in (
        ("put", ("f", "two")),
        ("put", ("g", "new")),
        ("mkdir", ("d",)),
        ("unlink", ("f",)),
        ("rename", ("f", "g")),
        ("chmod", ("f", 0o600)),
        ("setxattr", ("f", "user.a", "b")),
        ("mkdir", (".@tag-x",)),
    ):
        assert tree.errno(call, *arguments) == "EROFS", call


def test_posix_rename(tree):
    tree.put("f", "f")
    tree.mkdir("d")
    tree.mkdir("full")
    tree.put("full/g", "g")
    assert tree.errno("rename", "f", "d") == "EISDIR"
    assert tree.errno("rename", "d", "f") == "ENOTDIR"
    assert tree.errno("rename", "d", "full") == "ENOTEMPTY"
    assert tree.errno("rename", "full", "full/below") == "EINVAL"
    assert tree.errno("rename", "absent", "x") == "ENOENT"
    assert tree.errno("rename", "f", "full/g", 1) == "EEXIST"
    assert tree.errno("rename", "f", "g", 4) == "EINVAL"
    tree.rename("full", "d")
    assert tree.ls("d") == ["g"]


def test_posix_removal(tree):
    tree.put("f", "f")
    tree.mkdir("d")
    tree.put("d/g", "g")
    assert tree.errno("unlink", "d") == "EISDIR"
    assert tree.errno("rmdir", "f") == "ENOTDIR"
    assert tree.errno("rmdir", "d") == "ENOTEMPTY"
    assert tree.errno("unlink", "absent") == "ENOENT"
    tree.unlink("d/g")
    tree.rmdir("d")
    assert tree.ls() == ["f"]


def test_special_files(tree):
    for name, mode, rdev in (
        ("fifo", 0o010640, 0),
        ("socket", 0o140600, 0),
        ("device", 0o020600, 259),
    ):
        tree.mknod(name, mode, rdev)
        assert (tree.stat(name).mode, tree.stat(name).rdev) == (mode, rdev)
        assert tree.stat(f"{name}@v1").mode == mode


def test_names_are_255_bytes_not_text(tree):
    name = b"\xff" * 255
    tree.put(name, "x")
    assert tree.cat(name + b"@v1") == b"x"
    assert tree.ls(name + b"@@") == ["v1"]
    assert tree.errno("put", b"n" * 256, "") == "ENAMETOOLONG"
    assert tree.errno("stat", b"n" * 256) == "ENAMETOOLONG"
    assert tree.errno("mkdir", b"n" * 300) == "ENAMETOOLONG"
    assert tree.errno("stat", b"n" * 300 + b"@home") == "ENAMETOOLONG"
    assert tree.errno("mkdir", b"n" * 300 + b"@tag-x") == "ENAMETOOLONG"


def test_times_have_nanoseconds(tree):
    tree.put("f", "x")
    tree.utime("f", 1_234_567_890_123_456_789, 987_654_321_987_654_321)
    stat = tree.stat("f")
    assert (stat.mtime_ns, stat.atime_ns) == (1_234_567_890_123_456_789, 987_654_321_987_654_321)


@pytest.mark.local_store
def test_times_that_cannot_be_kept_become_the_nearest(tree, tmp_path):
    tree.put("f", "x")
    for asked_ns, kept_ns in ((2**65, 2**63 - 1), (-(2**65), -(2**63)), (-1, -1)):
        tree.utime("f", asked_ns, asked_ns)
        assert (tree.stat("f").mtime_ns, tree.stat("f").atime_ns) == (kept_ns, kept_ns)
    other = tree.after_power_cut(tmp_path / "copy")
    assert other.stat("f").mtime_ns == -1
    other.close_all()


def test_a_new_file_is_as_old_as_its_name(tree):
    """One moment for all: while it is written to and after, unless it is."""
    file = tree.open("f", os.O_CREAT | os.O_WRONLY)
    tree.wait(1)
    stat = tree.stat("f")
    assert stat.mtime_ns == stat.ctime_ns == tree.stat(".").mtime_ns
    tree.close(file)
    assert tree.stat("f").mtime_ns == tree.stat("f").ctime_ns == stat.mtime_ns


def test_chown_of_neither_owner_nor_group(tree):
    """It moves ctime and ends set-user-id bits, for those who may; the kernel sends it, and others' writes, as no change."""
    tree.put("f", "x")
    tree.chown("f", 5, 6)
    tree.chmod("f", 0o6755)
    before = tree.stat("f")
    tree.wait(1)
    with tree.user(7):
        tree._setattr("f", Changes())
    assert (tree.stat("f").mode, tree.stat("f").ctime_ns) == (before.mode, before.ctime_ns)
    with tree.user(5):
        tree._setattr("f", Changes())
    assert tree.stat("f").mode & 0o7777 == 0o755
    assert tree.stat("f").ctime_ns > before.ctime_ns
    assert tree.stat("f").mtime_ns == before.mtime_ns


def test_the_dots_of_a_directory_are_itself_and_the_one_above(tree):
    tree.mkdir("d")
    tree.mkdir("d/e")
    moment = tree.now()
    for path, above in (("d/e", "d"), ("d", "."), (f"d@{moment}/e", f"d@{moment}"), ("d@@", ".")):
        with tree._walk(path.encode(), follow=False) as stat:
            handle = tree.fs.opendir(stat.number, tree.caller)
            entries = tree.fs.readdir(handle, 0)
            dots = [(name, dot.number) for name, dot, _ in (next(entries), next(entries))]
            assert dots == [(b".", stat.number), (b"..", tree.stat(above).number)]
            tree.fs.releasedir(handle)


def test_a_set_group_id_directory_hands_its_group_down(tree):
    tree.mkdir("d")
    tree.chown("d", 0, 77)
    tree.chmod("d", 0o2775)
    tree.put("d/f", "x")
    tree.mkdir("d/e")
    assert tree.stat("d/f").gid == 77
    assert (tree.stat("d/e").gid, tree.stat("d/e").mode & 0o7777) == (77, 0o2755)


def test_stored_attributes_and_acls(tree):
    tree.put("f", "x")
    tree.setxattr("f", "user.colour", "red")
    tree.setxattr("f", "trusted.t", b"\0\1")
    assert sorted(tree.listxattr("f")) == [b"trusted.t", b"user.colour"]
    assert tree.errno("setxattr", "f", "user.colour", "blue", 1) == "EEXIST"
    assert tree.errno("setxattr", "f", "user.shape", "round", 2) == "ENODATA"
    assert tree.errno("setxattr", "f", "user.long", b"x" * 65_537) == "E2BIG"
    # Kept but not enforced would be the worst answer.
    for name in ("system.posix_acl_access", "security.selinux"):
        assert tree.errno("setxattr", "f", name, b"x") == "EOPNOTSUPP"
        assert tree.errno("getxattr", "f", name) == "EOPNOTSUPP"


def test_names_of_attributes(tree):
    """What xattr(7) knows: a name space, and a name in it; those of `trusted.` are for root to see."""
    tree.put("f", "x")
    for name in ("colour", "user", "os2.colour", "USER.colour", "system.colour"):
        assert tree.errno("setxattr", "f", name, b"x") == "EOPNOTSUPP"
        assert tree.errno("removexattr", "f", name) == "EOPNOTSUPP"
    for name in ("user.", "trusted.", "security."):
        assert tree.errno("setxattr", "f", name, b"x") == "EINVAL"
        assert tree.errno("getxattr", "f", name) == "EINVAL"
    tree.setxattr("f", "trusted.t", "x")
    tree.setxattr("f", "user.u", "x")
    with tree.user(5):
        assert tree.listxattr("f") == [b"user.u"]


@pytest.mark.local_store
def test_statfs_and_blocks(tree):
    usage = tree.fs.statfs()
    assert usage.blocks >= usage.blocks_free >= usage.blocks_available > 0
    assert usage.name_bytes_max == 255
    tree.put("f", b"x" * 100_000)
    tree.put("f", b"y")
    assert tree.stat("f@v1").blocks == (100_000 + 511) // 512
    assert tree.stat("f").blocks == 1


def test_an_emptied_file_shows_no_blocks_before_its_close(tree):
    tree.put("f", b"x" * 100_000)
    file = tree.open("f", os.O_WRONLY | os.O_TRUNC)
    assert (tree.stat("f").size, tree.stat("f").blocks) == (0, 0)
    tree.close(file)


@pytest.mark.parametrize("size", [2**48 + 1, 2**60])
def test_a_file_larger_than_can_be(tree, size):
    tree.put("f", "x")
    assert tree.errno("truncate", "f", size) == "EFBIG"
    assert tree.versions("f") == ["v1"]


def test_a_file_that_came_without_the_kernel_is_not_opened_by_its_create(tree):
    """A CREATE is checked for its directory only: of a name that is there the kernel shall look, and check the file."""
    tree.put("f", "one", mode=0o600)
    for flags, reason in ((0, Reason.CONDITION_FAILED), (os.O_EXCL, Reason.EXISTS)):
        with pytest.raises(Refused) as refused:
            tree.fs.create(ROOT, b"f", 0o644, os.O_RDWR | os.O_TRUNC | flags, Caller(1000, 100))
        assert refused.value.reason is reason
    assert tree.cat("f") == b"one"
