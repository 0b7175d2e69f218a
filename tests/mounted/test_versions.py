"""What becomes a version and what it costs, and how the past looks through the kernel: sizes, attributes, refusals."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path
from random import Random

import pytest

from tests.mounted.program import Actor, run

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name.replace("/", "-")
    path.mkdir()
    return path


def count(path: Path) -> int:
    return len(os.listdir(path.with_name(path.name + "@@")))


def log_bytes(mount) -> int:
    return json.loads((mount.path / ".cascade/status").read_text())["store"]["log_bytes"]


# --- When ---------------------------------------------------------------------------------------------------------


def test_a_version_for_each_dirty_close_fsync_and_autocommit(place: Path) -> None:
    """Close after a write: one. fsync: one. Reading, closing clean, syncing twice: none. Kept open: one after 5 s."""
    path = place / "f"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.close(descriptor)
    assert count(path) == 1  # an empty file is a content
    descriptor = os.open(path, os.O_RDWR)
    os.read(descriptor, 10)
    os.close(descriptor)
    assert count(path) == 1
    descriptor = os.open(path, os.O_RDWR)
    for number in range(20):
        os.pwrite(descriptor, b"x", number)
    assert count(path) == 1
    os.fsync(descriptor)
    assert count(path) == 2
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    assert count(path) == 2
    os.pwrite(descriptor, b"y", 0)
    os.close(descriptor)
    assert count(path) == 3
    os.truncate(path, 1)
    assert count(path) == 4
    path.write_text("same")
    path.write_text("same")
    assert count(path) == 6
    run("touch", path)
    path.chmod(0o600)
    assert count(path) == 6


@pytest.mark.slow
def test_a_file_kept_open_becomes_a_version_after_five_seconds(place: Path) -> None:
    """A log that is never closed nor synced: what was written is in the past soon, while the writer goes on."""
    path = place / "log"
    with open(path, "wb", buffering=0) as log:
        log.write(b"one ")
        deadline = time.monotonic() + 10
        while count(path) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        log.write(b"two ")
        assert (place / "log@v1").read_bytes() == b"one "
        assert path.read_bytes() == b"one two "
    assert (place / "log@v2").read_bytes() == b"one two "


def test_two_handles_share_one_draft(place: Path) -> None:
    """Two writers in one file: the close of one makes a version of what both wrote, the other's close of the rest."""
    with Actor(place) as left, Actor(place) as right:
        for actor in (left, right):
            actor.do("f = os.open('f', os.O_RDWR | os.O_CREAT, 0o644)")
        left.do("os.pwrite(f, b'left', 0)")
        right.do("os.pwrite(f, b'right', 4)")
        left.do("os.close(f)")
        assert (place / "f@v-0").read_bytes() == b"leftright"
        right.do("os.pwrite(f, b'RIGHT', 4)")
        assert (place / "f@v-0").read_bytes() == b"leftright"
        assert (place / "f").read_bytes() == b"leftRIGHT"
        right.do("os.close(f)")
        assert (place / "f@v-0").read_bytes() == b"leftRIGHT"


def test_requests_are_handled_in_their_order(place: Path) -> None:
    """`> f`, then at once `>> f`, 200 times: the emptied file is a version too, which only the last close, unanswered, makes."""
    path = place / "f"
    for number in range(200):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
    assert count(path) == 400
    for number in range(200):
        assert (place / f"f@v{2 * number + 1}").read_bytes() == b""
        assert (place / f"f@v{2 * number + 2}").read_bytes() == b"%d" % number


# --- What it costs --------------------------------------------------------------------------------------------------


def test_a_small_change_of_a_big_file_stores_little(mount) -> None:
    """4 KiB over a 64 MiB file stores about 4 KiB; 100 bytes appended about 100; a rename or chmod next to nothing."""
    path = mount.path / "big"
    size = 64 * 1024 * 1024
    random = Random(1)
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(random.randbytes(1024 * 1024))
    assert log_bytes(mount) < size * 1.01
    turns = 20

    def cost(change) -> float:
        before = log_bytes(mount)
        for number in range(turns):
            change(number)
        return (log_bytes(mount) - before) / turns

    def overwrite(number: int) -> None:
        with open(path, "r+b", buffering=0) as file:
            file.seek(number * 3_000_000 + 1234)
            file.write(bytes([number]) * 4096)

    def append(number: int) -> None:
        with open(path, "ab") as file:
            file.write(bytes([number]) * 100)

    assert cost(overwrite) < 4096 + 600
    assert cost(append) < 100 + 600
    assert cost(lambda number: os.rename(path, path) or path.chmod(0o600 + number % 2)) < 400
    assert cost(lambda number: os.truncate(path, size - number)) < 600
    empty = mount.path / "empty"
    assert cost(lambda number: empty.write_bytes(b"")) < 800
    assert count(path) == 1 + 3 * turns
    with open(mount.path / "big@v1", "rb") as file:
        again = Random(1)
        for _ in range(64):
            assert file.read(1024 * 1024) == again.randbytes(1024 * 1024)
    assert path.stat().st_size == size - turns + 1


def test_an_appended_log_stays_cheap_and_readable(mount) -> None:
    """1,000 lines, each with an open and a close: 1,000 versions, a few hundred bytes each, old ones still exact."""
    path = mount.path / "log"
    before = log_bytes(mount)
    for number in range(1000):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"%04d %s\n" % (number, b"." * 94))
        os.close(descriptor)
    assert (log_bytes(mount) - before) / 1000 < 100 + 600
    whole = path.read_bytes()
    assert len(whole) == 100_000
    assert whole == b"".join(b"%04d %s\n" % (n, b"." * 94) for n in range(1000))
    for number in (1, 2, 31, 33, 500, 999, 1000):
        assert (mount.path / f"log@v{number}").read_bytes() == whole[: number * 100]
    mount.remount()
    assert path.read_bytes() == whole
    assert (mount.path / "log@v777").read_bytes() == whole[:77_700]


# --- The past through the kernel ------------------------------------------------------------------------------------


def test_a_version_has_its_size_time_and_mode(place: Path) -> None:
    """stat, ls -l and cp -p of old versions show then, not now; the names sort by extension where tools look at it."""
    path = place / "cfg.yaml"
    path.write_text("one\n")
    os.utime(path, ns=(1, 1_111_111_111_111_111_111))
    path.chmod(0o640)
    path.write_text("two, longer\n")
    path.chmod(0o600)
    os.chown(path, 7, 8)
    path.write_text("three\n")
    assert (place / "cfg.yaml@v1").read_text() == (place / "cfg@v1.yaml").read_text() == "one\n"
    second = (place / "cfg@v2.yaml").stat()
    assert (second.st_size, stat.S_IMODE(second.st_mode), second.st_uid) == (12, 0o640, 0)
    third = (place / "cfg@v3.yaml").stat()
    assert (stat.S_IMODE(third.st_mode), third.st_uid, third.st_gid) == (0o600, 7, 8)
    assert (place / "cfg@v-1.yaml").read_text() == "two, longer\n"
    assert sorted(os.listdir(place / "cfg.yaml@@")) == ["v1.yaml", "v2.yaml", "v3.yaml"]
    run("cp", "-p", place / "cfg@v2.yaml", place / "copy")
    assert (place / "copy").stat().st_mtime_ns == second.st_mtime_ns
    assert sorted(os.listdir(place)) == ["cfg.yaml", "copy"]


def test_chmod_and_chown_are_seen_in_time(place: Path) -> None:
    """They make no version, but a moment before shows the old mode, owner, times and attributes."""
    path = place / "f"
    path.write_text("x")
    os.setxattr(path, "user.a", b"old")
    moments = []
    for mode in (0o600, 0o640, 0o755):
        path.chmod(mode)
        os.chown(path, mode, mode)
        time.sleep(0.002)
        moments.append((time.time_ns(), mode))
        time.sleep(0.002)
    os.setxattr(path, "user.a", b"new")
    path.unlink()
    for moment, mode in moments:
        for then in (place / f"f@t={moment}", place / f".@t={moment}" / "f"):
            status = then.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (
                mode,
                mode,
                mode,
            )
            assert os.getxattr(then, "user.a") == b"old"


def test_deleted_and_renamed_things_are_found_again(place: Path) -> None:
    """After rm -r, the tree is in the directory's past; a renamed file's versions stay under the old name."""
    run(
        "sh",
        "-c",
        "mkdir -p d/e; echo 1 > d/e/f; echo 2 > d/e/f; ln -s f d/e/l; mv d/e/f d/e/g; echo 3 > d/e/g",
        cwd=place,
    )
    time.sleep(0.002)
    moment = time.time_ns()
    time.sleep(0.002)
    run("rm", "-r", place / "d")
    assert os.listdir(place) == []
    past = place / f"d@t={moment}"
    assert sorted(os.listdir(past / "e")) == ["g", "l"]
    assert (past / "e/g").read_text() == "3\n"
    assert os.readlink(past / "e/l") == "f"
    run("cp", "-a", past, place / "d")
    assert (place / "d/e/g").read_text() == "3\n"
    (place / "a").write_text("1")
    (place / "a").write_text("2")
    os.rename(place / "a", place / "b")
    assert (place / "a@v1").read_text() == "1"
    assert (place / "b").read_text() == "2"
    with pytest.raises(FileNotFoundError):
        (place / "a@v3").read_text()


@pytest.mark.parametrize("kept", ["f@v1", "d@tag-t/g", "d@tag-t"])
def test_nothing_changes_the_past(place: Path, kept: str) -> None:
    """Writing, truncating, removing, renaming, linking, chmod, utime and xattrs of the past: EROFS, and nothing moved."""
    (place / "f").write_text("one")
    (place / "f").write_text("two")
    (place / "d").mkdir()
    (place / "d/g").write_text("g")
    os.mkdir(place / "d@tag-t")
    (place / "d/g").write_text("later")
    path = place / kept
    actions = [
        lambda: os.chmod(path, 0o777),
        lambda: os.chown(path, 1, 1),
        lambda: os.utime(path, ns=(1, 1)),
        lambda: os.setxattr(path, "user.x", b"x"),
        lambda: os.rename(path, place / "stolen"),
    ]
    if path.is_dir():
        actions += [
            lambda: (path / "new").write_text("x"),
            lambda: os.mkdir(path / "new"),
            lambda: os.symlink("x", path / "new"),
            lambda: os.mkfifo(path / "new"),
            lambda: os.link(place / "f", path / "new"),
            lambda: os.rename(place / "f", path / "new"),
            lambda: os.unlink(path / "g"),
        ]
    else:
        actions += [
            lambda: os.open(path, os.O_RDWR),
            lambda: os.open(path, os.O_WRONLY | os.O_APPEND),
            lambda: os.truncate(path, 0),
            lambda: os.link(path, place / "stolen"),
        ]
        if "/" in kept:
            actions += [lambda: os.unlink(path)]
    for action in actions:
        with pytest.raises(OSError, match="Read-only file system"):
            action()
    assert (place / "f@v1").read_text() == "one"
    assert (place / "d@tag-t/g").read_text() == "g"
    assert sorted(os.listdir(place)) == ["d", "f"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("f@v0", errno.ENOENT),
        ("f@v3", errno.ENOENT),
        ("f@v99999999999999999999", errno.ENOENT),
        ("f@t=yesterday", errno.EINVAL),
        ("f@t=2000", errno.ENOENT),
        ("f@t=2999", errno.ENOENT),
        ("f@vx", errno.ENOENT),
        ("never@v1", errno.ENOENT),
        ("f@v1/x", errno.ENOTDIR),
        ("f@v1@v1", errno.ENOENT),
        ("d@tag-absent", errno.ENOENT),
        ("d@-1h", errno.ENOENT),
    ],
)
def test_what_is_not_there_has_the_right_errno(place: Path, name: str, number: int) -> None:
    """SEMANTICS 5, through the kernel: twice, so that what the kernel remembers is right too; and then it comes to be."""
    (place / "f").write_text("one")
    (place / "f").write_text("two")
    (place / "d").mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(number)):
            os.stat(place / name)
    if name == "f@v3":
        (place / "f").write_text("three")
        assert (place / name).read_text() == "three"


def test_a_version_cannot_be_forged(place: Path) -> None:
    """A name that means a version of something with history cannot be created; of anything else it can."""
    (place / "model.pt").write_text("real")
    forgeries = [
        lambda path: path.write_text("forged"),
        lambda path: path.mkdir(),
        lambda path: os.symlink("x", path),
        lambda path: os.link(place / "model.pt", path),
        lambda path: os.rename(place / "model.pt", path),
    ]
    for name in ("model@v12.pt", "model.pt@v12", "model.pt@t=2024", "model.pt@20240101T000000Z"):
        for forge in forgeries:
            with pytest.raises(OSError, match="Invalid argument"):
                forge(place / name)
    (place / "other@v12").write_text("a plain name")
    assert (place / "other@v12").read_text() == "a plain name"
    assert (place / "model.pt").read_text() == "real"


def test_an_old_version_can_be_mapped_and_read_at_random(place: Path) -> None:
    """mmap, pread, O_DIRECT and sendfile of a version that was overwritten page by page since."""
    import mmap

    path = place / "f"
    data = Random(3).randbytes(1_000_000)
    path.write_bytes(data)
    expected = [data]
    for number in range(5):
        with open(path, "r+b") as file:
            file.seek(number * 150_000)
            file.write(bytes([number]) * 50_000)
        expected.append(path.read_bytes())
    for number, content in enumerate(expected, start=1):
        descriptor = os.open(place / f"f@v{number}", os.O_RDONLY)
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == content
        assert os.pread(descriptor, 70_000, 140_001) == content[140_001:210_001]
        os.close(descriptor)
        run("cmp", place / f"f@v{number}", "-", stdin=content)
