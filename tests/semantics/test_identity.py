"""SEMANTICS 4: what a thing of the past is, to stat, to caches and to permission checks.

Method: the same thing by several paths, before and after others change; access by users whom the modes of then or of now
deny. The kernel's half of the check (the modes that are shown) is done by the harness as default_permissions does it.
"""

from __future__ import annotations

import pytest

from cascadefs.filesystem.interface import FOREVER_S


def test_numbers_lie_in_their_ranges(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    assert tree.stat("d/f").number < 2**48
    assert 2**48 <= tree.stat("d/f@v1").number < 2**52
    for path in (
        f"d@{moment}",
        f".@{moment}",
        "d/f@@",
        "d@@",
        ".@deleted",
        ".cascade",
        ".cascade/README",
    ):
        assert 2**52 <= tree.stat(path).number < 2**53, path


def test_one_version_by_many_paths_is_one_node(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    first = tree.now()
    tree.put("d/g", "another file changes")
    second = tree.now()
    fid = tree.cascade("d/f", "fid")
    paths = [
        "d/f@v1",
        "d/f@v-0",
        f"d/f@{first}",
        f"d/f@{second}",
        f"d@{first}/f",
        f"d@{second}/f",
        f".@{second}/d/f",
        "d/f@@/v1",
        f".cascade/at/{first}/d/f",
        f".cascade/by-id/{fid}/v1",
    ]
    assert len({tree.stat(path).number for path in paths}) == 1
    tree.put("d/f", "two")
    assert tree.stat("d/f@v1").number == tree.stat(f"d@{second}/f").number
    assert tree.stat("d/f@v2").number != tree.stat("d/f@v1").number


def test_a_metadata_change_makes_another_node(tree):
    tree.put("f", "one", mode=0o644)
    first = tree.now()
    tree.chmod("f", 0o600)
    second = tree.now()
    assert tree.stat(f"f@{first}").number == tree.stat("f@v1").number
    assert tree.stat(f"f@{second}").number != tree.stat("f@v1").number
    assert tree.cat(f"f@{second}") == tree.cat("f@v1")


def test_a_directory_of_the_past_is_one_node_per_instant_and_path(tree):
    # The kernel keeps one dentry per directory: with one node for two paths it would move between them.
    tree.mkdir("d")
    first = tree.now()
    tree.put("other", "x")
    second = tree.now()
    numbers = [
        tree.stat(path).number
        for path in (f"d@{first}", f"d/.@{first}", f".@{first}/d", f"d@{second}")
    ]
    assert len(set(numbers)) == 4
    assert tree.stat(f"d@{first}").number == numbers[0]


def test_renaming_keeps_the_number(tree):
    tree.put("f", "one")
    number = tree.stat("f").number
    tree.rename("f", "g")
    tree.link("g", "h")
    assert tree.stat("g").number == tree.stat("h").number == number


def test_two_nodes_whose_hashes_agree_get_two_numbers(tree, monkeypatch):
    monkeypatch.setattr("cascadefs.filesystem.node._FILE_NUMBERS", 1)
    tree.put("f", "one")
    tree.put("f", "two")
    fs, caller = tree.fs, tree.caller
    first, second = fs.lookup(1, b"f@v1", caller), fs.lookup(1, b"f@v2", caller)
    assert second.number == first.number + 1
    assert fs.lookup(1, b"f@v1", caller).number == first.number
    for number, count in ((first.number, 2), (second.number, 1)):
        fs.forget(number, count)


def test_what_never_changes_may_be_cached_for_ever_and_nothing_else(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    tree.mkdir("d@tag-x")
    tree.wait(1)
    for path in ("d/f", "d/f@v1", f"d@{moment}", f"d@{moment}/f", f"d/f@{moment}"):
        assert tree.timeout(path) == FOREVER_S, path
    for path in ("d/f@v-0", "d@-0s", "d@t=now", "d@tag-x", "d/f@@", "d@@", ".cascade", ".@deleted"):
        assert tree.timeout(path) == 0, path


def test_times_of_the_past(tree):
    tree.put("f", "one")
    tree.utime("f", mtime_ns=5_000_000_001, atime_ns=9_000_000_009)
    changed = tree.store.now()
    stat = tree.stat("f@t=now")
    assert stat.mtime_ns == 5_000_000_001
    assert stat.atime_ns == stat.mtime_ns
    assert stat.ctime_ns // 1000 <= changed
    assert (
        tree.stat("f@v1").ctime_ns < stat.ctime_ns
    )  # The commit, not the change of times after it.
    tree.wait(1000)
    assert tree.stat("f@t=now").ctime_ns == stat.ctime_ns
    tree.cat("f@v1")
    assert tree.stat("f@v1").atime_ns == tree.stat("f@v1").mtime_ns


def test_live_times(tree):
    tree.put("f", "one")
    tree.wait(10)
    file = tree.open("f", 1)
    tree.write(file, b"x")
    written_ns = tree.clock.now_ns()
    tree.wait(10)
    tree.close(file)
    stat = tree.stat("f")
    assert (stat.mtime_ns, stat.ctime_ns) == (written_ns, written_ns)
    assert tree.stat("f@v2").ctime_ns == tree.clock.now_ns()  # In the past: the commit.


def test_directories_that_are_made_up_are_as_old_as_what_they_show(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    tree.put("d/f", "two")
    newest = tree.stat("d/f@v2").ctime_ns
    tree.wait(1000)
    tree.put("elsewhere", "x")
    for path in ("d/f@@", "d@@", "d/f@@/.log", "d@@/.log"):
        stat = tree.stat(path)
        assert (stat.mtime_ns, stat.ctime_ns, stat.atime_ns) == (newest,) * 3, path
    tree.put("d/f", "three")
    assert tree.stat("d/f@@").mtime_ns > newest


def test_modes_and_owners_are_those_of_then_write_bits_kept(tree):
    tree.put("f", "one", mode=0o664)
    tree.chown("f", 7, 8)
    moment = tree.now()
    tree.chown("f", 1, 1)
    tree.chmod("f", 0o400)
    stat = tree.stat(f"f@{moment}")
    assert (stat.mode & 0o7777, stat.uid, stat.gid) == (0o664, 7, 8)
    assert tree.errno("append", f"f@{moment}", "x") == "EROFS"


def test_link_counts_are_those_of_then(tree):
    tree.mkdir("d")
    tree.put("d/a", "one")
    one = tree.now()
    tree.link("d/a", "d/b")
    tree.mkdir("d/e")
    two = tree.now()
    tree.unlink("d/a")
    tree.rmdir("d/e")
    assert tree.stat(f"d@{one}/a").nlink == 1
    assert tree.stat(f"d@{two}/a").nlink == tree.stat(f"d@{two}/b").nlink == 2
    assert tree.stat("d/b").nlink == 1
    assert [tree.stat(p).nlink for p in (f"d@{one}", f"d@{two}", "d")] == [2, 3, 2]


def test_symbolic_links_of_the_past(tree):
    tree.mkdir("d")
    tree.put("f", "live root")
    tree.put("d/f", "then")
    tree.symlink("f", "d/relative")
    tree.symlink("../f", "d/up")
    tree.symlink("/f", "d/absolute")
    moment = tree.now()
    tree.put("f", "live root now")
    tree.put("d/f", "now")
    for name in ("relative", "up", "absolute"):
        assert tree.readlink(f"d@{moment}/{name}") == tree.readlink(f"d/{name}")
    assert tree.cat(f"d@{moment}/relative") == b"then"
    assert (
        tree.cat(f"d@{moment}/up") == b"live root now"
    )  # Above the snapshot's root: the live tree.
    assert tree.cat(f"d@{moment}/absolute") == b"live root now"
    assert tree.readlink("d/relative@v1") == b"f"
    assert (
        tree.cat("d/relative@v1") == b"now"
    )  # The link itself, where it is: beside the live file.


def test_only_links_can_be_read_as_links(tree):
    tree.put("f", "one")
    for path in ("f", "f@v1", "f@@", ".cascade/README"):
        assert tree.errno("readlink", path) == "EINVAL"


# --- Access: then and now --------------------------------------------------------------------------------------------


def secret(tree):
    """A tree where user 1000 may read everything; and the moment of that."""
    tree.mkdir("d")
    tree.mkdir("d/e")
    tree.put("d/e/f", "one")
    return tree.now()


PATHS = ("d/e/f@v1", "d@{t}/e/f", "d/e@{t}/f", ".@{t}/d/e/f", ".cascade/at/{t}/d/e/f")


@pytest.mark.parametrize("path", PATHS)
def test_allowed_then_and_now(tree, path):
    moment = secret(tree)
    with tree.user(1000):
        assert tree.cat(path.format(t=moment)) == b"one"


@pytest.mark.parametrize("path", PATHS)
def test_a_mode_taken_away_now_closes_the_past(tree, path):
    moment = secret(tree)
    tree.chmod("d/e/f", 0o600)
    with tree.user(1000):
        assert tree.errno("cat", path.format(t=moment)) == "EACCES"
        assert tree.errno("getxattr", path.format(t=moment), "user.cascade.hash") == "EACCES"
    assert tree.cat(path.format(t=moment)) == b"one"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("directory", ["d", "d/e"])
def test_a_directory_closed_now_closes_the_past_below(tree, path, directory):
    moment = secret(tree)
    tree.chmod(directory, 0o700)
    with tree.user(1000):
        assert tree.errno("cat", path.format(t=moment)) == "EACCES"


@pytest.mark.parametrize("path", PATHS)
def test_opening_it_now_does_not_open_the_past(tree, path):
    tree.mkdir("d")
    tree.mkdir("d/e")
    tree.put("d/e/f", "one", mode=0o600)
    moment = tree.now()
    tree.chmod("d/e/f", 0o644)
    with tree.user(1000):
        assert tree.errno("cat", path.format(t=moment)) == "EACCES"


def test_a_directory_closed_then_stays_closed(tree):
    tree.mkdir("d", 0o700)
    tree.put("d/f", "one")
    moment = tree.now()
    tree.chmod("d", 0o755)
    with tree.user(1000):
        assert tree.errno("cat", f"d@{moment}/f") == "EACCES"
        assert tree.errno("ls", f"d@{moment}") == "EACCES"
        assert tree.cat("d/f") == b"one"


def test_what_is_gone_is_closed_by_the_directories_it_was_in(tree):
    moment = secret(tree)
    fid = tree.cascade("d/e/f", "fid")
    tree.unlink("d/e/f")
    with tree.user(1000):
        for path in PATHS:
            assert tree.cat(path.format(t=moment)) == b"one"
    tree.chmod("d/e", 0o700)
    with tree.user(1000):
        for path in (*PATHS, f".cascade/by-id/{fid}/v1"):
            assert tree.errno("cat", path.format(t=moment)) == "EACCES", path


def test_by_id_is_for_the_owner(tree):
    """What lay in a closed directory, and was moved out of it since, is not read around that directory."""
    tree.mkdir("d", 0o777)
    tree.mkdir("d/closed", 0o700)
    tree.put("d/closed/f", "of then")
    fid = tree.cascade("d/closed/f", "fid")
    tree.rename("d/closed/f", "d/f")
    tree.chown("d/f", 1000, 1000)
    with tree.user(1000):
        assert tree.cat(f".cascade/by-id/{fid}/v1") == b"of then"
    with tree.user(1001):
        assert tree.cat("d/f") == b"of then"
        assert tree.errno("cat", f".cascade/by-id/{fid}/v1") == "EACCES"


def test_a_path_by_number_is_no_way_around_permissions(tree):
    moment = secret(tree)
    fid = tree.cascade("d/e/f", "fid")
    del moment
    tree.chmod("d", 0o700)
    with tree.user(1000):
        assert tree.errno("cat", f".cascade/by-id/{fid}/v1") == "EACCES"


def test_listing_a_directory_of_the_past_needs_reading_now(tree):
    moment = secret(tree)
    tree.chmod("d/e", 0o711)
    with tree.user(1000):
        assert tree.errno("ls", f"d@{moment}/e") == "EACCES"
        assert tree.cat(f"d@{moment}/e/f") == b"one"


def test_names_of_what_is_deleted_and_instants_are_for_who_may_list(tree):
    secret(tree)
    tree.unlink("d/e/f")
    tree.chmod("d/e", 0o711)
    with tree.user(1000):
        assert tree.errno("ls", "d/e/.@deleted") == "EACCES"
        assert tree.errno("ls", "d/e@@") == "EACCES"
        assert (
            tree.cat("d/e/.@deleted/f") == b"one"
        )  # As with live names: known ones can be reached.


def test_owners_and_groups_are_asked_now_too(tree):
    moment = secret(tree)
    tree.chown("d/e/f", 1000, 50)
    tree.chmod("d/e/f", 0o040)
    with tree.user(1001, 50):
        assert tree.cat(f"d@{moment}/e/f") == b"one"
    with tree.user(1001, 60, groups=(50,)):
        assert tree.cat(f"d@{moment}/e/f") == b"one"
    with tree.user(1001, 60):
        assert tree.errno("cat", f"d@{moment}/e/f") == "EACCES"
    with tree.user(1000, 50):
        assert tree.errno("cat", f"d@{moment}/e/f") == "EACCES"


def test_what_is_narrower_now_is_asked_for_every_time(tree):
    moment = secret(tree)
    assert tree.timeout(f"d@{moment}/e") == FOREVER_S
    tree.chmod("d/e", 0o750)
    assert tree.timeout(f"d@{moment}/e") == 0


def test_removing_what_was_closed_does_not_open_its_past(tree):
    tree.mkdir("d")
    tree.mkdir("d/closed", 0o700)
    tree.put("d/closed/f", "secret")
    fid = tree.cascade("d/closed/f", "fid")
    tree.unlink("d/closed/f")
    tree.rmdir("d/closed")
    with tree.user(1000):
        assert tree.errno("cat", f".cascade/by-id/{fid}/v1") == "EACCES"
