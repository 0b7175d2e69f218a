"""SEMANTICS 7: a directory restored by attribute is what it was, in one record, whatever happened to it meanwhile."""

from __future__ import annotations

import os
import random
import stat as modes

import pytest

EXCHANGE = 2

VERBS = [
    "put",
    "put",
    "save",
    "append",
    "mkdir",
    "unlink",
    "rmdir",
    "rename",
    "rename",
    "exchange",
    "link",
    "symlink",
    "chmod",
    "xattr",
]


def state(tree, path: str) -> dict[str, object]:
    """All that a path shows, recursively: what is there, its content, mode, owner, mtime, attributes and links."""
    found: dict[str, object] = {}
    groups: dict[int, int] = {}

    def look(here: str) -> None:
        stat = tree.stat(here)
        what: list[object] = [stat.mode, stat.uid, stat.gid, stat.mtime_ns]
        if modes.S_ISREG(stat.mode):
            what += [tree.cat(here), stat.nlink, groups.setdefault(stat.number, len(groups))]
        elif modes.S_ISLNK(stat.mode):
            what.append(tree.readlink(here))
        if not modes.S_ISLNK(stat.mode):
            names = tree.listxattr(here)
            what.append([(name, tree.getxattr(here, name.decode())) for name in names])
        found[here[len(path) :]] = what
        if modes.S_ISDIR(stat.mode):
            for name in tree.ls(here):
                look(f"{here}/{name}")

    look(path)
    return found


def restore(tree, path: str, moment: str) -> int:
    """Restore; how many records it took."""
    before = tree.records()
    tree.setxattr(path, "user.cascade.restore", moment)
    return tree.records() - before


def made(tree) -> None:
    tree.mkdir("d")
    tree.mkdir("d/sub")
    tree.put("d/f", "one", mode=0o640)
    tree.put("d/sub/g", "two")
    tree.symlink("f", "d/l")
    tree.link("d/f", "d/sub/hard")
    tree.mknod("d/pipe", modes.S_IFIFO | 0o600)
    tree.setxattr("d/f", "user.a", "1")


def test_a_directory_is_restored_in_one_record_and_at_one_time(tree):
    made(tree)
    moment, then = tree.now(), state(tree, "d")
    tree.wait(60)
    tree.put("d/f", "ONE")
    tree.chmod("d/f", 0o600)
    tree.setxattr("d/f", "user.b", "2")
    tree.put("d/later", "x")
    tree.mkdir("d/later.d")
    tree.put("d/later.d/h", "x")
    tree.unlink("d/sub/g")
    tree.unlink("d/l")
    tree.unlink("d/pipe")
    tree.chmod("d/sub", 0o700)
    assert restore(tree, "d", moment) == 1
    assert state(tree, "d") == then
    assert tree.cascade("d/f", "commit_time") == tree.cascade("d/sub/g", "commit_time")
    assert tree.versions("d/f") == ["v1", "v2", "v3"]
    assert tree.cat("d/later@v1") == b"x", "what came later stays in its history"


def test_a_restore_is_undone_by_another(tree):
    made(tree)
    moment = tree.now()
    tree.wait(60)
    tree.put("d/f", "ONE")
    tree.put("d/later", "x")
    tree.unlink("d/sub/g")
    before, now = tree.now(), state(tree, "d")
    tree.wait(60)
    restore(tree, "d", moment)
    assert tree.ls("d") == ["f", "l", "pipe", "sub"]
    assert restore(tree, "d", before) == 1
    assert state(tree, "d") == now


def test_what_moved_moves_back_and_keeps_its_history(tree):
    made(tree)
    moment, then = tree.now(), state(tree, "d")
    inodes = [tree.stat(path).number for path in ("d/f", "d/sub", "d/sub/g")]
    tree.rename("d/sub/g", "d/moved")
    tree.rename("d/sub", "d/elsewhere")
    tree.rename("d/f", "d/elsewhere/g")
    restore(tree, "d", moment)
    assert state(tree, "d") == then
    assert [tree.stat(path).number for path in ("d/f", "d/sub", "d/sub/g")] == inodes
    assert tree.cat("d/sub/g@v1") == b"two"
    assert tree.cascade("d/sub/g", "origin") == "d/moved"


@pytest.mark.parametrize("paths", [("d/a", "d/b"), ("d/x", "d/y")])
def test_names_exchanged_are_exchanged_back(tree, paths):
    tree.mkdir("d")
    tree.put("d/a", "a")
    tree.put("d/b", "b")
    for name in "xy":
        tree.mkdir(f"d/{name}")
        tree.put(f"d/{name}/in {name}", name)
    moment, then = tree.now(), state(tree, "d")
    tree.rename(*paths, EXCHANGE)
    restore(tree, "d", moment)
    assert state(tree, "d") == then


def test_a_directory_turned_inside_out_comes_back(tree):
    tree.mkdir("d")
    tree.mkdir("d/a")
    tree.mkdir("d/a/b")
    tree.put("d/a/b/f", "f")
    moment, then = tree.now(), state(tree, "d")
    tree.rename("d/a/b", "d/b")
    tree.rename("d/a", "d/b/a")
    restore(tree, "d", moment)
    assert state(tree, "d") == then


def test_a_type_that_changed_changes_back(tree):
    made(tree)
    moment, then = tree.now(), state(tree, "d")
    tree.unlink("d/sub/g")
    tree.unlink("d/sub/hard")
    tree.rmdir("d/sub")
    tree.put("d/sub", "a file now")
    tree.unlink("d/l")
    tree.mkdir("d/l")
    tree.put("d/l/x", "x")
    restore(tree, "d", moment)
    assert state(tree, "d") == then


def test_a_file_saved_anew_gets_its_content_back_as_its_next_version(tree):
    made(tree)
    moment, then = tree.now(), state(tree, "d")
    tree.save("d/sub/g", "saved")
    restore(tree, "d", moment)
    assert state(tree, "d") == then
    assert tree.versions("d/sub/g") == ["v1", "v2", "v3"]


def test_any_instant_of_the_directory_restores_it(tree):
    made(tree)
    tree.mkdir("d@tag-rel1")
    then = state(tree, "d")
    tree.wait(3600)
    tree.put("d/f", "ONE")
    for spec in ("tag-rel1", "tag=rel1", "-30m", "t=2026-11-21T10:30", "20261121T103000Z"):
        tree.put("d/later", "x")
        restore(tree, "d", spec)
        assert state(tree, "d") == then, spec
    assert restore(tree, "d", "tag-rel1") == 0, "nothing is to be done"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("v1", "ENOENT"),
        ("t=2020", "ENOENT"),
        ("tag-none", "ENOENT"),
        ("t=x", "EINVAL"),
        ("deleted", "EINVAL"),
    ],
)
def test_what_is_no_instant_of_a_directory_restores_nothing(tree, spec, says):
    made(tree)
    records = tree.records()
    assert tree.errno("setxattr", "d", "user.cascade.restore", spec) == says
    assert tree.records() == records


def test_the_root_can_be_restored(tree):
    tree.put("f", "one")
    moment = tree.now()
    tree.unlink("f")
    tree.put("g", "x")
    restore(tree, "", moment)
    assert (tree.ls(), tree.cat("f")) == (["f"], b"one")


def test_what_is_being_written_becomes_a_version_first(tree):
    made(tree)
    moment, then = tree.now(), state(tree, "d")
    file = tree.open("d/f", os.O_WRONLY)
    tree.write(file, b"unsaved")
    restore(tree, "d", moment)
    assert tree.cat("d/f@v2") == b"unsaved"
    assert state(tree, "d") == then
    tree.close(file)
    assert tree.versions("d/f") == ["v1", "v2", "v3"]


def test_who_could_not_do_it_by_hand_restores_nothing(tree):
    tree.mkdir("d", 0o777)
    with tree.user(1000):
        tree.put("d/mine", "one")
    tree.put("d/roots", "one")
    moment = tree.now()
    with tree.user(1000):
        tree.put("d/mine", "two")
        tree.put("d/more", "x")
    tree.put("d/roots", "two")
    records = tree.records()
    with tree.user(1000), pytest.raises(OSError, match="denied"):
        tree.setxattr("d", "user.cascade.restore", moment)
    assert tree.records() == records


def test_an_owner_restores_what_is_his(tree):
    tree.mkdir("home")
    tree.chown("home", 1000, 100)
    with tree.user(1000):
        tree.mkdir("home/d")
        tree.put("home/d/f", "one")
        tree.put("home/d/g", "g")
        moment, then = tree.now(), state(tree, "home/d")
        tree.put("home/d/f", "two")
        tree.unlink("home/d/g")
        tree.put("home/d/h", "x")
        assert restore(tree, "home/d", moment) == 1
        assert state(tree, "home/d") == then


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happened_the_directory_is_what_it_was(tree, seed):
    rng = random.Random(seed)
    tree.mkdir("d")
    happen(tree, rng, 25)
    moment, then = tree.now(), state(tree, "d")
    tree.wait(10)
    happen(tree, rng, rng.choice([3, 10, 40]))
    before, now = tree.now(), state(tree, "d")
    tree.wait(10)
    assert restore(tree, "d", moment) <= 1
    assert state(tree, "d") == then
    assert state(tree, f"d@{before}") == now, "the past is as it was"
    tree.wait(10)
    restore(tree, "d", before)
    assert state(tree, "d") == now


def happen(tree, rng, steps: int) -> None:
    """Random changes below d; those that cannot be are not."""

    def inside() -> list[str]:
        found, pending = ["d"], ["d"]
        while pending:
            here = pending.pop()
            for name in tree.ls(here):
                found.append(f"{here}/{name}")
                if modes.S_ISDIR(tree.stat(f"{here}/{name}").mode):
                    pending.append(f"{here}/{name}")
        return sorted(found)

    for _ in range(steps):
        paths = inside()
        directories = [path for path in paths if modes.S_ISDIR(tree.stat(path).mode)]
        here = f"{rng.choice(directories)}/{rng.choice('abcd')}"
        there, other = rng.choice(paths), rng.choice(paths)
        if "d" in (there, other):  # Itself stays where it is.
            continue
        verb = rng.choice(VERBS)
        if verb in ("put", "save"):
            tree.errno(verb, here, str(rng.random()))
        elif verb == "append":
            tree.errno("append", there, "more")
        elif verb in ("mkdir", "unlink", "rmdir"):
            tree.errno(verb, here if verb == "mkdir" else there)
        elif verb == "rename":
            tree.errno("rename", there, here)
        elif verb == "exchange":
            tree.errno("rename", there, other, EXCHANGE)
        elif verb == "link":
            tree.errno("link", there, here)
        elif verb == "symlink":
            tree.errno("symlink", "to", here)
        elif verb == "chmod":
            tree.errno("chmod", there, rng.choice([0o700, 0o755, 0o600]))
        else:
            tree.errno("setxattr", there, "user.x", str(rng.random()))


def test_attributes_of_what_the_caller_may_not_write_are_not_restored(tree):
    tree.mkdir("d")
    tree.chown("d", 1000, 100)
    tree.put("d/f", "one")
    tree.setxattr("d/f", "user.a", "1")
    moment = tree.now()
    tree.setxattr("d/f", "user.a", "2")
    with tree.user(1000):
        assert tree.errno("setxattr", "d", "user.cascade.restore", moment) == "EACCES"
    assert tree.getxattr("d/f", "user.a") == b"2"


def test_a_set_group_id_bit_is_restored_by_who_could_set_it(tree):
    tree.mkdir("d")
    tree.chown("d", 1000, 100)
    tree.put("d/f", "one")
    tree.chown("d/f", 1000, 50)
    tree.chmod("d/f", 0o2755)
    moment = tree.now()
    tree.chmod("d/f", 0o755)
    with tree.user(1000):
        assert tree.errno("setxattr", "d", "user.cascade.restore", moment) == "EACCES"
    assert tree.stat("d/f").mode & 0o7777 == 0o755
    with tree.user(1000, groups=(50,)):
        restore(tree, "d", moment)
    assert tree.stat("d/f").mode & 0o7777 == 0o2755


def test_no_directory_is_restored_from_one_quota_into_another(tree):
    tree.mkdir("d")
    tree.mkdir("d/a")
    tree.mkdir("d/b")
    tree.mkdir("d/a/moved")
    moment = tree.now()
    tree.rename("d/a/moved", "d/b/moved")
    tree.setxattr("d/b", "user.cascade.quota", "1M")
    assert tree.errno("setxattr", "d", "user.cascade.restore", moment) == "EXDEV"
    assert tree.exists("d/b/moved")


def test_a_restore_that_is_refused_ends_no_claim(tree):
    tree.mkdir("d")
    tree.chmod("d", 0o777)
    tree.put("d/f", "one")
    moment = tree.now()
    tree.put("d/f", "two")
    file = tree.open("d/f", os.O_WRONLY)
    tree.fs.setxattr(file.number, b"user.cascade.if_version", b"2", 0, tree.caller)
    tree.write(file, b"three")
    with tree.user(1000):
        assert tree.errno("setxattr", "d", "user.cascade.restore", moment) == "EACCES"
    tree.close(file)
    assert tree.cat("d/f") == b"three"
