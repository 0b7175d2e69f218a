"""Whole trees go in and come out: cp, tar, rsync, find, du, df, and a past tree copied out while writers go on.

Each is compared with the same tree on the file system below the tests, byte for byte and attribute for attribute.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.mounted.program import finish, run, start_python
from tests.mounted.tree import copy_sample, differences, make_zoo, photograph

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


@pytest.mark.slow
def test_copy_of_a_large_tree_is_the_same_before_and_after_a_remount(mount, tmp_path: Path) -> None:
    """cp -a of 3,000 files of Python's own library and of pip, then diff -r; again from a cold start."""
    source = tmp_path / "source"
    assert copy_sample(source) > 2500
    run("cp", "-a", source, mount.path / "copy")
    run("diff", "-r", "--no-dereference", source, mount.path / "copy")
    before = photograph(source)
    assert differences(before, photograph(mount.path / "copy")) == []
    mount.remount()
    assert differences(before, photograph(mount.path / "copy")) == []
    run("rm", "-r", mount.path / "copy")
    assert os.listdir(mount.path) == []


def test_copy_of_a_zoo_keeps_every_attribute(mount, tmp_path: Path) -> None:
    """cp -a of links, holes, devices, pipes, sockets, odd names, odd times, set-id bits and extended attributes."""
    make_zoo(tmp_path / "zoo")
    run("cp", "-a", tmp_path / "zoo", mount.path / "zoo")
    before = photograph(tmp_path / "zoo")
    assert differences(before, photograph(mount.path / "zoo")) == []
    mount.remount()
    assert differences(before, photograph(mount.path / "zoo")) == []
    run("cp", "-a", mount.path / "zoo", tmp_path / "back")
    assert differences(before, photograph(tmp_path / "back")) == []


def test_the_zoo_can_be_made_on_the_mount(place, tmp_path: Path) -> None:
    """The same tree made call by call on both sides looks the same."""
    make_zoo(tmp_path / "zoo")
    make_zoo(place / "zoo")
    assert differences(photograph(tmp_path / "zoo"), photograph(place / "zoo")) == []
    assert os.stat(place / "zoo/holes").st_blocks * 512 < 1_000_000


def test_tar_round_trip(place, tmp_path: Path) -> None:
    """tar a tree in, tar it out again: nanoseconds, holes, links, owners and attributes survive."""
    make_zoo(tmp_path / "zoo")
    (tmp_path / "zoo/socket").unlink()  # tar leaves sockets out
    options = ("--format=posix", "--xattrs", "--xattrs-include=*", "--sparse")
    archive = tmp_path / "in.tar"
    run("tar", "-C", tmp_path / "zoo", *options, "-cf", archive, ".")
    (place / "zoo").mkdir()
    run("tar", "-C", place / "zoo", *options, "-xpf", archive)
    before = photograph(tmp_path / "zoo")
    assert differences(before, photograph(place / "zoo")) == []
    run("tar", "-C", place / "zoo", *options, "-cf", place / "out.tar", ".")
    (tmp_path / "back").mkdir()
    run("tar", "-C", tmp_path / "back", *options, "-xpf", place / "out.tar")
    assert differences(before, photograph(tmp_path / "back")) == []


def test_rsync_round_trip(place, tmp_path: Path) -> None:
    """rsync -aHAX there and back; a second run finds nothing to do, by times and by content."""
    make_zoo(tmp_path / "zoo")
    mode = ("rsync", "-aHAX", "--itemize-changes")
    run(*mode, "--sparse", f"{tmp_path}/zoo/", f"{place}/zoo/")
    before = photograph(tmp_path / "zoo")
    assert differences(before, photograph(place / "zoo")) == []
    assert run(*mode, "--delete", f"{tmp_path}/zoo/", f"{place}/zoo/") == ""
    assert run(*mode, "--checksum", "--delete", f"{place}/zoo/", f"{tmp_path}/zoo/") == ""
    run(*mode, f"{place}/zoo/", f"{tmp_path}/back/")
    assert differences(before, photograph(tmp_path / "back")) == []


def test_rsync_mirrors_changes_and_deletions(place, tmp_path: Path) -> None:
    """A mirror kept up to date: changed, renamed, deleted and new files; --inplace and --append too."""
    source, mirror = tmp_path / "source", place / "mirror"
    source.mkdir()
    for number in range(50):
        (source / f"{number}.txt").write_text(f"{number}\n" * 100)
    run("rsync", "-a", f"{source}/", f"{mirror}/")
    for number in range(0, 50, 5):
        (source / f"{number}.txt").unlink()
    for number in range(1, 50, 5):
        (source / f"{number}.txt").write_text("changed, and of another size\n")
    os.rename(source / "2.txt", source / "second.txt")
    run("rsync", "-a", "--delete", f"{source}/", f"{mirror}/")
    assert differences(photograph(source), photograph(mirror)) == []
    with open(source / "3.txt", "a") as file:
        file.write("appended\n")
    with open(source / "4.txt", "r+") as file:
        file.write("PATCHED")
    os.utime(source / "4.txt", (1, 1))  # as long as before: rsync looks at times, in seconds
    run("rsync", "-a", "--append-verify", f"{source}/3.txt", f"{mirror}/")
    run("rsync", "-a", "--inplace", "--no-whole-file", f"{source}/", f"{mirror}/")
    assert differences(photograph(source), photograph(mirror)) == []


def test_a_past_tree_is_copied_out_while_writers_go_on(place, tmp_path: Path) -> None:
    """cp -a mnt/d@T/. elsewhere/ gives exactly the tree of T, though writers change all of it meanwhile."""
    directory = place / "d"
    directory.mkdir()
    for name in ("x", "y", "z"):
        (directory / name / "deep").mkdir(parents=True)
        for number in range(30):
            (directory / name / "deep" / f"{number}.txt").write_text(f"{name} {number} at first\n")
        os.link(directory / name / "deep" / "0.txt", directory / name / "linked")
        os.symlink("deep/1.txt", directory / name / "link")
        os.chmod(directory / name / "deep" / "2.txt", 0o640)
        os.setxattr(directory / name / "deep" / "3.txt", "user.kept", b"yes")
    then = photograph(directory)
    time.sleep(0.01)  # T has microseconds, and the last change must lie before it
    moment = time.time_ns()
    instant = f"d@t={moment}"
    writer = """
        import os, itertools
        from pathlib import Path
        d = Path(".")
        print("writing")
        for turn in itertools.count():
            if (d / "stop").exists():
                break
            for number in range(30):
                path = d / "deep" / f"{number}.txt"
                if number % 3 == 0:
                    path.write_text(f"later {turn}\\n" * 20)
                elif number % 3 == 1:
                    (d / "new").write_text(f"renamed over {turn}\\n")
                    os.rename(d / "new", path)
                else:
                    path.unlink(missing_ok=True)
                    path.write_text("again\\n")
                    path.chmod(0o600)
            os.rename(d / "deep", d / "moved")
            os.rename(d / "moved", d / "deep")
    """
    writers = [start_python(writer, cwd=directory / name) for name in ("x", "y", "z")]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    try:
        for number in range(2):
            target = tmp_path / str(number)
            target.mkdir()
            run("cp", "-a", f"{place / instant}/.", target)
            assert differences(then, photograph(target)) == []
        os.rename(place / "d", place / "elsewhere")
        os.rename(place / "elsewhere", place / "d")
    finally:
        for name in ("x", "y", "z"):
            (directory / name / "stop").touch()
        finish(writers)
    assert photograph(directory) != then
    assert differences(then, photograph(place / instant)) == []
    run("rsync", "-aHX", "--modify-window=-1", f"{place / instant}/", f"{tmp_path}/again/")
    assert differences(then, photograph(tmp_path / "again")) == []


def test_ten_thousand_entries_in_one_directory(place) -> None:
    """A directory of 10,000 files: listed whole, each once, in any way; removed while it is listed."""
    directory = place / "many"
    directory.mkdir()
    names = {f"{number:05}-" + "x" * (number % 50) for number in range(10_000)}
    for name in names:
        os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    listed = os.listdir(directory)
    assert len(listed) == len(names)
    assert set(listed) == names
    assert set(run("find", ".", "-type", "f", "-printf", "%f\\n", cwd=directory).split()) == names
    assert len(run("ls", "-lU", directory).splitlines()) == len(names) + 1
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(directory) == []
    os.rmdir(directory)


def test_removed_while_somebody_else_lists_it(place) -> None:
    """The listing read on is the kernel's new one, of another handle, which has none of what was removed."""
    directory = place / "many"
    directory.mkdir()
    for number in range(3000):
        (directory / f"{number:05}").touch()
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
            if entry.name == "00499":
                os.listdir(directory)
    assert os.listdir(directory) == []


def test_find_by_time_and_attributes(place) -> None:
    """find -newer, -mmin, -perm, -samefile, -size, -xtype and -delete."""
    for name in ("old", "mark", "new"):
        (place / name).write_text(name)
    os.utime(place / "old", ns=(0, 10**18))
    os.utime(place / "mark", ns=(0, 10**18 + 1))
    os.utime(place / "new", ns=(0, 10**18 + 2))
    os.link(place / "old", place / "old too")
    os.symlink("nothing", place / "broken")
    os.chmod(place / "new", 0o4711)

    def find(*predicates: str) -> set[str]:
        found = run("find", ".", "-mindepth", "1", *predicates, "-printf", "%P\\n", cwd=place)
        return set(found.splitlines())

    assert find("-newer", "mark") == {"new", "broken"}
    assert find("-type", "f", "!", "-newer", "mark") == {"old", "old too", "mark"}
    assert find("-perm", "-4000") == {"new"}
    assert find("-samefile", "old") == {"old", "old too"}
    assert find("-size", "-4c", "-type", "f") == {"old", "old too", "new"}
    assert find("-xtype", "l") == {"broken"}
    run("find", ".", "-samefile", "old", "-delete", cwd=place)
    assert find() == {"mark", "new", "broken"}


def test_du_and_df(place) -> None:
    """du counts what is stored and each hard link once; df has room and names the file system."""
    (place / "d").mkdir()
    (place / "d/full").write_bytes(os.urandom(1_000_000))
    os.link(place / "d/full", place / "d/again")
    with open(place / "d/sparse", "wb") as file:
        file.truncate(50_000_000)
    stored = int(run("du", "-s", "--block-size=1", place / "d").split()[0])
    assert 1_000_000 <= stored < 1_200_000
    apparent = int(run("du", "-s", "--apparent-size", "--block-size=1", place / "d").split()[0])
    assert 51_000_000 <= apparent < 51_100_000
    total, used, free = map(int, run("df", "--output=size,used,avail", "-B1", place).split()[-3:])
    assert total >= used + free
    assert free > 1_000_000
    free_files = int(run("df", "--output=iavail", place).split()[-1])
    assert free_files > 1000


_RESTORE_AGAIN_AND_AGAIN = """
    import os, sys
    path, *moments = sys.argv[1:]
    for _ in range(15):
        for moment in moments:
            try:
                os.setxattr(path, "user.cascade.restore", moment.encode())
            except FileNotFoundError:
                pass
"""


def test_a_directory_and_one_in_it_are_restored_at_once(mount) -> None:
    """Each is answered when the kernel has forgotten names, for which it waits for the directory the other one holds."""
    inner = mount.path / "outer/inner"
    inner.mkdir(parents=True)
    moments = []
    for content in ("one", "two"):
        for number in range(20):
            (inner / f"{content}{number}").write_text(content)
            (inner.parent / f"{content}{number}").write_text(content)
        moments.append(os.getxattr(mount.path, "user.cascade.stable_time").decode())
    restoring = [
        start_python(_RESTORE_AGAIN_AND_AGAIN, path, *moments)
        for path in (inner.parent, inner, inner.parent, inner)
    ]
    finish(restoring)
    assert "one0" in os.listdir(inner)
