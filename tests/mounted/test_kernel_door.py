"""What only the kernel door can do, and how few requests it needs for it.

Method: mounts through it, whichever door the other tests take. Requests are counted by the daemon and never timed: what a
program costs is the difference between two looks at the status, less what a look costs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.mounted.conftest import environment, is_over, mounts_below
from tests.mounted.program import run

pytestmark = pytest.mark.mounted

BLOCK = 4096
CHUNK = 256 * 1024
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def door() -> str:
    return "kernel"


@pytest.fixture(scope="module")
def kernel_mount(tmp_path_factory, door):
    with mounts_below(tmp_path_factory.mktemp("kernel"), door) as make:
        yield make()


@pytest.fixture
def place(kernel_mount, request) -> Path:
    path = kernel_mount.path / request.node.name.partition("[")[0]
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def versions(path: Path) -> int:
    return int(os.getxattr(path, "user.cascade.head"))


# --- Byte ranges ------------------------------------------------------------------------------------------------------


def test_fallocate_against_a_real_file(place: Path, tmp_path: Path) -> None:
    """Every mode at many places: the file reads and measures like one on a disk, before and after its commit."""
    data = content(1, 3 * CHUNK + 1234)
    ours, theirs = place / "f", tmp_path / "f"
    descriptors = []
    for path in (ours, theirs):
        path.write_bytes(data)
        descriptors.append(os.open(path, os.O_RDWR))
    draw = random.Random(2)
    for turn in range(60):
        mode = draw.choice(
            (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
        )
        offset, length = draw.randrange(5 * CHUNK), draw.randint(1, CHUNK + 100)
        written = content(turn, draw.choice((10, 5000, 70_000)))
        at = draw.randrange(4 * CHUNK)
        for descriptor in descriptors:
            fallocate(descriptor, mode, offset, length)
            os.pwrite(descriptor, written, at)
            if turn % 7 == 0:
                os.fsync(descriptor)
        assert os.fstat(descriptors[0]).st_size == os.fstat(descriptors[1]).st_size, turn
        assert ours.read_bytes() == theirs.read_bytes(), turn
    for descriptor in descriptors:
        os.close(descriptor)
    newest = versions(ours)
    assert (place / f"f@v{newest}").read_bytes() == theirs.read_bytes()
    assert (place / "f@v1").read_bytes() == data


def test_what_fallocate_cannot_do_is_refused(place: Path) -> None:
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * 10 * BLOCK)
    with pytest.raises(OSError, match="fallocate") as refused:
        fallocate(descriptor, COLLAPSE, 0, BLOCK)
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="fallocate") as refused:
        fallocate(descriptor, 0, 0, 1 << 47)
    assert refused.value.errno == errno.ENOSPC, "it cannot be there, so it is not promised"
    os.posix_fallocate(descriptor, 0, 20 * BLOCK)
    assert os.fstat(descriptor).st_size == 20 * BLOCK
    os.close(descriptor)
    run("fallocate", "--punch-hole", "--offset", "4096", "--length", "4096", place / "f")
    assert (place / "f").read_bytes()[BLOCK : 2 * BLOCK] == bytes(BLOCK)


@pytest.mark.parametrize("committed", [True, False])
def test_holes_are_found(place: Path, committed: bool) -> None:
    """SEEK_DATA and SEEK_HOLE walk a sparse file exactly where it was written, drafts included."""
    descriptor = os.open(place / f"f{committed}", os.O_RDWR | os.O_CREAT)
    stretches = [(0, BLOCK), (CHUNK - 100, 200), (5 * CHUNK, 70_000), (9 * CHUNK + 7, 1)]
    for offset, length in stretches:
        os.pwrite(descriptor, b"x" * length, offset)
    os.ftruncate(descriptor, 20 * CHUNK)
    if committed:
        os.fsync(descriptor)
    found, at = [], 0
    while True:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, at - start))
    assert found == stretches
    assert os.lseek(descriptor, 20 * CHUNK - 1, os.SEEK_HOLE) == 20 * CHUNK - 1
    with pytest.raises(OSError, match="No such device or address"):
        os.lseek(descriptor, 20 * CHUNK, os.SEEK_HOLE)
    os.close(descriptor)


def test_a_sparse_file_is_copied_sparse(place: Path) -> None:
    with (place / "a").open("wb") as file:
        file.seek(50 * CHUNK)
        file.write(b"end")
    run("cp", "--sparse=always", place / "a", place / "b")
    assert (place / "b").read_bytes() == (place / "a").read_bytes()
    assert (place / "b").stat().st_blocks < 100


def test_copying_shares_bytes(place: Path, kernel_mount) -> None:
    """cp of 40 MB of the past to a live file adds next to nothing to the log, and the copy stays what it was."""
    data = content(3, 40_000_000)
    (place / "f").write_bytes(data)
    (place / "f").write_bytes(b"something else")
    before = kernel_mount.status()["store"]["log_bytes"]
    run("cp", place / "f@v1", place / "copy")
    assert kernel_mount.status()["store"]["log_bytes"] - before < 100_000
    assert (place / "copy").read_bytes() == data
    (place / "f").write_bytes(b"")
    with (place / "copy").open("r+b") as file:
        file.write(b"X")
    assert (place / "copy").read_bytes() == b"X" + data[1:]
    assert (place / "copy@v1").read_bytes() == data


def test_copy_file_range_against_a_real_file(place: Path, tmp_path: Path) -> None:
    """Pieces copied between and inside files, over data, holes and drafts: as on a disk."""
    draw = random.Random(4)
    descriptors = []
    for root in (place, tmp_path):
        for name in ("a", "b"):
            (root / name).write_bytes(content(5, 2 * CHUNK + 99))
        descriptors.append([os.open(root / name, os.O_RDWR) for name in ("a", "b")])
    for turn in range(80):
        source, target = draw.randrange(2), draw.randrange(2)
        start, at = draw.randrange(3 * CHUNK), draw.randrange(4 * CHUNK)
        length = draw.randint(1, CHUNK)
        if source == target and start < at + length and at < start + length:
            continue
        small, place_of_small = content(turn, draw.choice((1, 3000))), draw.randrange(3 * CHUNK)
        for files in descriptors:
            copied = os.copy_file_range(files[source], files[target], length, start, at)
            assert copied == max(0, min(length, os.fstat(files[source]).st_size - start)) or (
                source == target
            )
            os.pwrite(files[source], small, place_of_small)
            if turn % 9 == 0:
                os.ftruncate(files[target], 3 * CHUNK)
                os.fsync(files[target])
        for name in ("a", "b"):
            assert (place / name).read_bytes() == (tmp_path / name).read_bytes(), turn
    for files in descriptors:
        for descriptor in files:
            os.close(descriptor)
    for name in ("a", "b"):
        assert (place / name).read_bytes() == (tmp_path / name).read_bytes()


def test_copies_in_a_volatile_store_are_copies(make_mount) -> None:
    place = make_mount(volatile=True).path
    data = content(6, 30_000_000)
    (place / "f").write_bytes(data)
    run("cp", place / "f", place / "g")
    (place / "f").unlink()
    assert (place / "g").read_bytes() == data


# --- What else has an opcode ------------------------------------------------------------------------------------------


def test_statx_tells_the_birth(place: Path) -> None:
    (place / "f").write_text("x")
    born = run("stat", "--format=%W", place / "f").strip()
    assert int(born) > 1_600_000_000
    (place / "f").write_text("y")
    assert run("stat", "--format=%W", place / "f").strip() == born


def test_ioctls_are_refused_as_on_any_file_system_without_them(place: Path) -> None:
    (place / "f").write_text("x")
    with (place / "f").open() as file, pytest.raises(OSError, match="Inappropriate ioctl"):
        fcntl.ioctl(file, 0x80086601, bytes(8))


def test_locks_keep_processes_apart(place: Path) -> None:
    (place / "f").write_text("x")
    code = """
        import fcntl, sys
        with open(sys.argv[1], "r+") as file:
            for lock in (lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
                         lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)):
                try:
                    lock()
                    print("free")
                except BlockingIOError:
                    print("locked")
    """
    other = [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines()), place / "f"]
    with (place / "f").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert subprocess.run(other, capture_output=True, text=True).stdout == "locked\nlocked\n"
    assert subprocess.run(other, capture_output=True, text=True).stdout == "free\nfree\n"


def test_a_program_started_meanwhile_ends_no_write_session(place: Path) -> None:
    """A child inherits the descriptor and closes it, as `subprocess` does: still one version."""
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"half")
        os.set_inheritable(file.fileno(), True)
        subprocess.run(["true"], close_fds=True)
        subprocess.run(["true"], close_fds=False)
        file.write(b" done")
    assert versions(place / "f") == 1
    assert (place / "f").read_bytes() == b"half done"


# --- Passthrough ------------------------------------------------------------------------------------------------------


def reads(mount) -> tuple[int, int]:
    status = mount.status()
    return status["requests"].get("read", 0), status["passthrough"]["opens"]


def test_large_versions_are_read_by_the_kernel_alone(place: Path, kernel_mount) -> None:
    """Read with O_DIRECT: the first open has the version copied, and from then on nothing is asked of us."""
    data = content(7, 5_000_000)
    (place / "f").write_bytes(data)
    (place / "f").write_bytes(b"now")
    mount = kernel_mount
    before = reads(mount)
    idle = reads(mount)
    descriptor = os.open(place / "f@v1", os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 5_001_216) as room:
        assert os.preadv(descriptor, [room], 0) == len(data)
        assert room[: len(data)] == data
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == data
    os.close(descriptor)
    assert (place / "f@v1").read_bytes() == data
    after = reads(mount)
    assert after[0] - idle[0] == idle[0] - before[0], "only what looking at the status costs"
    assert after[1] - idle[1] == 2


def test_a_version_is_passed_through_where_the_page_cache_does_not_help(
    place: Path, kernel_mount
) -> None:
    """Read once, it comes from us; again, from the page cache; forgotten and read again and again, past us."""
    data = content(12, 5_000_000)
    (place / "f").write_bytes(data)
    (place / "f").write_bytes(b"now")
    passed = []
    for turn in range(5):
        opens = reads(kernel_mount)[1]
        descriptor = os.open(place / "f@v1", os.O_RDONLY)
        assert os.pread(descriptor, 6_000_000, 0) == data
        if turn:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        passed.append(reads(kernel_mount)[1] - opens)
    assert passed == [0, 0, 0, 1, 1]


def test_a_version_is_read_in_one_mode_by_all(place: Path) -> None:
    """Opens while another is open, by other paths too, and after a mapping outlived its descriptor: never EIO."""
    data = content(8, 2_000_000)
    (place / "f").write_bytes(data)
    (place / "f").write_bytes(b"now")
    paths = [place / "f@v1", place / "f@@" / "v1"]
    for first in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
        held = [os.open(paths[0], first)]
        held += [os.open(path, how) for path in paths for how in (os.O_RDONLY, os.O_DIRECT)]
        room = mmap.mmap(-1, 2_002_944)
        for descriptor in held:
            assert os.preadv(descriptor, [room], 0) == len(data)
            assert room[: len(data)] == data
        address = libc_mmap(held[0], len(data))
        for descriptor in held:
            os.close(descriptor)
        assert ctypes.string_at(address, 10) == data[:10]
        for path in paths:
            assert path.read_bytes() == data
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(len(data)))


def libc_mmap(descriptor: int, length: int) -> int:
    libc.mmap.restype = ctypes.c_void_p
    return libc.mmap(
        None, ctypes.c_size_t(length), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0)
    )


def test_more_versions_than_are_kept_come_and_go(place: Path, kernel_mount) -> None:
    for number in range(8):
        (place / "f").write_bytes(content(number, 50_000_000))
    for number in (*range(1, 9), *range(1, 9)):
        descriptor = os.open(place / f"f@v{number}", os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapping:
            assert mapping[:] == content(number - 1, 50_000_000)
        os.close(descriptor)
    assert kernel_mount.status()["passthrough"]["kept_bytes"] <= 256 * 2**20


# --- Users ------------------------------------------------------------------------------------------------------------


_AS_A_USER = """
    import os, sys, time
    from pathlib import Path
    # Everything is imported first: this interpreter may lie where nobody else may read.
    import trio, encodings.idna, encodings.ascii, logging.handlers
    import cascadefs.daemon, cascadefs.filesystem, cascadefs.fuse.mountpoint, cascadefs.kernel.door, storage.store
    home = Path(sys.argv[1])
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    (home / "mnt").mkdir()
    settings = cascadefs.daemon.Settings(mountpoint=home / "mnt", data=home / "data", door="kernel")
    cascadefs.daemon.start_detached(settings, lambda records: None)
    try:
        path = home / "mnt" / "f"
        path.write_bytes(b"x" * 3_000_000)
        path.write_bytes(b"y")
        assert (home / "mnt" / "f@v1").read_bytes() == b"x" * 3_000_000
        assert b'"door": "kernel"' in (home / "mnt/.cascade/status").read_bytes()
    finally:
        cascadefs.fuse.mountpoint.unmount(home / "mnt")
    print("done")
"""


def test_an_ordinary_user_mounts() -> None:
    """Through fusermount3; without passthrough, and everything works."""
    home = Path(f"/tmp/cascadefs-user-{os.getpid()}")
    home.mkdir()
    mode = os.stat("/dev/fuse").st_mode
    os.chown(home, 65534, 65534)
    os.chmod("/dev/fuse", 0o666)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_AS_A_USER), home],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
        )
        assert done.stdout == "done\n", done.stderr + (home / "data/daemon.log").read_text()
    finally:
        os.chmod("/dev/fuse", mode & 0o777)
        shutil.rmtree(home, ignore_errors=True)


_IN_A_USER_NAMESPACE = """
    import json, mmap, os, subprocess, sys
    from pathlib import Path
    home = Path(sys.argv[1])
    command = [sys.executable, "-m", "cascadefs.cli"]
    subprocess.run([*command, "mount", home / "mnt", "--data", home / "data", "--door", "kernel"], check=True)
    try:
        path = home / "mnt" / "f"
        for _ in range(2):
            path.write_bytes(b"x" * 3_000_000)
            path.write_bytes(b"y")
        for number in (1, 3):
            descriptor = os.open(f"{path}@v{number}", os.O_RDONLY | os.O_DIRECT)
            with mmap.mmap(-1, 3_002_368) as room:
                assert os.preadv(descriptor, [room], 0) == 3_000_000
                assert room[:3_000_000] == b"x" * 3_000_000
            with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapping:
                assert mapping[:] == b"x" * 3_000_000
            os.close(descriptor)
        print((home / "mnt/.cascade/status").read_text())
    finally:
        subprocess.run([*command, "umount", home / "mnt"], check=True)
"""


def test_root_without_the_right_to_register_files(tmp_path: Path) -> None:
    """Root of a user namespace may mount and agree on passthrough, and is then refused: everything is read through us."""
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            sys.executable,
            "-c",
            textwrap.dedent(_IN_A_USER_NAMESPACE),
            tmp_path,
        ],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "data/daemon.log").read_text()
    status = json.loads(done.stdout)
    assert status["passthrough"] == {
        "enabled": False,
        "opens": 0,
        "kept": 1,
        "kept_bytes": 3_000_000,
    }
    assert status["requests"]["read"] >= 6
    assert status["errors"] == {}
    assert (tmp_path / "data/daemon.log").read_text().count("no passthrough") == 1


def test_a_killed_daemon_leaves_nobody_waiting(make_mount) -> None:
    mount = make_mount()
    descriptor = os.open(mount.path / "f", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x")
    mount.kill()
    for call in (lambda: os.write(descriptor, b"y"), lambda: os.close(descriptor)):
        with pytest.raises(OSError, match="not connected") as refused:
            call()
        assert refused.value.errno == errno.ENOTCONN
    mount.mount()
    assert (mount.path / "f").exists()
    mount.umount()
    assert is_over(mount.pid, 0)


# --- How many requests ------------------------------------------------------------------------------------------------


class Counter:
    def __init__(self, mount) -> None:
        self._path = mount.path / ".cascade/status"
        first = self._look()
        self._look_costs = difference(first, self._look())

    def _look(self) -> dict[str, int]:
        return json.loads(self._path.read_bytes())["requests"]

    def during(self, call) -> dict[str, int]:
        """Requests of one call, by opcode."""
        before = self._look()
        call()
        return difference(self._look_costs, difference(before, self._look()))


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    names = before.keys() | after.keys()
    counts = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def counter(kernel_mount) -> Counter:
    return Counter(kernel_mount)


def fill(place: Path, count: int) -> None:
    for number in range(count):
        (place / f"{number:04}").write_bytes(b"x" * 100)


def test_a_listing_costs_its_opening(place: Path, counter: Counter) -> None:
    """`ls -l` of 500 files: attributes come with the names; the second time nothing does. (Its xattrs are ls's own idea.)"""
    fill(place, 500)
    run("ls", "-l", place)
    again = counter.during(lambda: run("ls", "-l", place))
    again.pop("getxattr")
    assert again.keys() <= {"opendir", "releasedir", "getattr"}, again
    assert sum(again.values()) <= 4
    names = counter.during(lambda: run("ls", place))
    assert names.keys() <= {"opendir", "releasedir", "getattr"}, names
    assert sum(names.values()) <= 3


def test_find_asks_for_no_file_twice(place: Path, counter: Counter) -> None:
    for number in range(10):
        (place / f"d{number}").mkdir()
        fill(place / f"d{number}", 20)
    run("find", place, "-size", "+1")
    again = counter.during(lambda: run("find", place, "-size", "+1"))
    assert again.get("lookup", 0) + again.get("readdirplus", 0) + again.get("readdir", 0) == 0
    assert again.pop("getattr", 0) <= 11
    assert again.pop("statfs", 0) <= 1
    assert again == {"opendir": 11, "releasedir": 11}


def test_a_listing_kept_by_the_kernel_follows_every_change(place: Path, counter: Counter) -> None:
    """Names made, removed, moved, linked and replaced are in the next listing at once."""
    fill(place, 20)
    assert len(os.listdir(place)) == 20
    assert counter.during(lambda: os.listdir(place)).keys() <= {"opendir", "releasedir", "getattr"}
    (place / "new").write_text("x")
    assert len(os.listdir(place)) == 21
    (place / "new").rename(place / "newer")
    os.link(place / "newer", place / "linked")
    os.symlink("x", place / "symbolic")
    (place / "sub").mkdir()
    assert {"newer", "linked", "symbolic", "sub"} <= set(os.listdir(place))
    (place / "sub").rmdir()
    (place / "0000").unlink()
    os.rename(place / "0001", place / "0002")
    listed = os.listdir(place)
    assert not {"sub", "0000", "0001", "new"} & set(listed)
    assert len(listed) == 21


def test_reading_files_again_reads_nothing(place: Path, counter: Counter) -> None:
    """1,000 files, opened and read twice: no look-up, no read, no flush the second time."""
    fill(place, 1000)

    def read_all() -> None:
        for number in range(1000):
            descriptor = os.open(place / f"{number:04}", os.O_RDONLY)
            assert len(os.read(descriptor, 200)) == 100
            os.close(descriptor)

    first = counter.during(read_all)
    assert first["open"] == first["release"] == 1000
    assert first.get("read", 0) <= 1000
    assert counter.during(read_all) == {"open": 1000, "release": 1000}


_AN_EPOCH = """
    import os, random, sys
    files = [os.path.join(top, name) for top, _, names in os.walk(sys.argv[1]) for name in names]
    random.Random(int(sys.argv[2])).shuffle(files)
    workers, total = [], 0
    for worker in range(4):
        reading, writing = os.pipe()
        if os.fork() == 0:
            count = 0
            for path in files[worker::4]:
                assert os.stat(path).st_size == 100
                with open(path, "rb", buffering=0) as file:
                    count += len(file.read())
            os.write(writing, b"%d" % count)
            os._exit(0)
        workers.append(reading)
    for reading in workers:
        total += int(os.read(reading, 20))
        os.wait()
    print(len(files), total)
"""


def test_an_epoch_of_training_opens_and_closes(place: Path, counter: Counter) -> None:
    """10,000 files in 20 directories, listed, shuffled, and read by 4 workers: in the end only opened.

    Once, after a file's pages came, the kernel asks for its attributes again: it thinks that reading moved atime.
    """
    for number in range(20):
        (place / f"class{number}").mkdir()
        fill(place / f"class{number}", 500)

    def epoch(seed: int) -> None:
        said = run(sys.executable, "-c", textwrap.dedent(_AN_EPOCH), place, str(seed))
        assert said == "10000 1000000\n"

    epoch(0)
    second, third = (counter.during(lambda seed=seed: epoch(seed)) for seed in (1, 2))
    for again in (second, third):
        assert again.pop("open") == again.pop("release") == 10_000
        assert again.pop("opendir") == again.pop("releasedir") == 21
        again.pop("ioctl", 0)  # is it a terminal? Python asks
    assert second.pop("getattr") <= 10_021
    # Where memory is short the kernel may drop a page and ask for it again.
    assert second.keys() | third.keys() <= {"read", "getattr"}
    assert sum(second.values()) + sum(third.values()) <= 20


def test_what_is_known_is_not_asked_again(place: Path, counter: Counter) -> None:
    """stat, access, readlink, look-ups of what is there and what is not, listings: after the first time, no request."""
    fill(place, 50)
    os.symlink("0001", place / "link")

    def ask() -> None:
        for number in range(50):
            os.stat(place / f"{number:04}")
            os.access(place / f"{number:04}", os.R_OK)
            assert not (place / f"absent{number}").exists()
        os.stat(place)
        os.readlink(place / "link")
        os.stat(place / "link")

    ask()
    assert counter.during(ask) == {}
    (place / "0007").write_bytes(b"longer than before, so that it shows" * 10)
    (place / "absent3").write_bytes(b"")
    assert (place / "0007").stat().st_size == 360
    assert (place / "absent3").exists()
    os.unlink(place / "absent3")
    ask()
    assert counter.during(ask) == {}


def test_sequential_reads_are_large(place: Path, counter: Counter) -> None:
    """The kernel reads half a MiB ahead, so 32 MiB that it does not have are about 64 requests."""
    (place / "f").write_bytes(content(11, 32 << 20))
    descriptor = os.open(place / "f", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read_all() -> None:
        while os.read(descriptor, 1 << 20):
            pass

    asked = counter.during(read_all)
    os.close(descriptor)
    assert asked.keys() <= {"read", "getattr"}, asked
    assert asked["read"] <= 80


def test_a_write_is_one_request(place: Path, counter: Counter) -> None:
    """Whether a file has capabilities is asked once, not before each write(2)."""

    def write_all() -> None:
        descriptor = os.open(place / "f", os.O_WRONLY | os.O_CREAT, 0o644)
        for _ in range(1000):
            os.write(descriptor, b"x" * BLOCK)
        os.close(descriptor)

    asked = counter.during(write_all)
    assert asked.pop("write") == 1000
    assert asked.pop("getattr", 0) <= 1, "of the directory, where it changed before"
    assert asked == {"lookup": 1, "create": 1, "getxattr": 1, "flush": 1, "release": 1}


def test_git_status_and_an_import(place: Path, counter: Counter) -> None:
    package = place / "package"
    package.mkdir()
    for number in range(30):
        (package / f"m{number}.py").write_text(f"VALUE = {number}\n")
    (package / "__init__.py").write_text("from . import m0, m1, m2\n")
    run("git", "init", "-q", cwd=place)
    run("git", "add", ".", cwd=place)
    for _ in range(2):
        run("git", "status", "--porcelain", cwd=place)
        run(sys.executable, "-c", "import package", cwd=place)
    status = counter.during(lambda: run("git", "status", "--porcelain", cwd=place))
    # Opening files and locking the index are requests by their nature; of what it only looks at, it needs to ask nothing.
    assert status.get("getattr", 0) <= 12, status
    assert status.get("lookup", 0) <= 6, status
    assert status.get("readdir", 0) + status.get("readdirplus", 0) <= 1, (
        status
    )  # it made .git/index.lock
    imported = counter.during(lambda: run(sys.executable, "-c", "import package", cwd=place))
    assert imported.get("lookup", 0) == 0, imported
    assert imported.get("read", 0) == 0, imported
    assert imported["open"] <= 6, imported
