"""Writes of any shape against a twin in memory, through every way a process has to write a file.

The same seed makes the same operations. A failure prints the seed and the step. What each close and fsync left behind
is compared with the versions at the end: once written, no version changes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.mounted.program import Actor, finish, run, start_python

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


LARGEST = 1_500_000
STEPS = 250
PAGE = 4096


class Twin:
    """One file on the mount and what it should hold."""

    def __init__(self, path: Path, random: Random) -> None:
        self.path = path
        self.random = random
        self.content = bytearray()
        self.versions: list[bytes] = []
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.is_dirty = True

    # --- what happens to it

    def some_bytes(self) -> bytes:
        length = self.random.choice((1, 7, 100, 4096, 5000, 65_535, 65_536, 131_073, 300_000))
        return self.random.randbytes(self.random.randint(1, length))

    def some_offset(self) -> int:
        size = len(self.content)
        choices = (
            0,
            size,
            size // 2,
            self.random.randint(0, size),
            self.random.randint(0, size) & -PAGE,
        )
        return min(self.random.choice((*choices, size + self.random.randint(0, 20_000))), LARGEST)

    def lay(self, offset: int, data: bytes) -> None:
        self.content.extend(bytes(max(0, offset - len(self.content))))
        self.content[offset : offset + len(data)] = data
        self.is_dirty = True

    def write(self) -> None:
        offset, data = self.some_offset(), self.some_bytes()
        assert os.pwrite(self.descriptor, data, offset) == len(data)
        self.lay(offset, data)

    def write_vector(self) -> None:
        offset, parts = self.some_offset(), [self.some_bytes() for _ in range(3)]
        assert os.pwritev(self.descriptor, parts, offset) == sum(map(len, parts))
        self.lay(offset, b"".join(parts))

    def write_by_path(self) -> None:
        offset, data = self.some_offset(), self.some_bytes()
        with open(self.path, "r+b", buffering=self.random.choice((0, 8192))) as file:
            file.seek(offset)
            assert file.write(data) == len(data)
        self.lay(offset, data)
        self.committed()

    def append(self) -> None:
        data = self.some_bytes()
        with open(self.path, "ab", buffering=0) as file:
            assert file.write(data) == len(data)
        self.lay(len(self.content), data)
        self.committed()

    def write_direct(self) -> None:
        offset, pages = self.some_offset() & -PAGE, self.random.randint(1, 20)
        block = mmap.mmap(-1, pages * PAGE)
        block.write(self.random.randbytes(pages * PAGE))
        descriptor = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        assert os.pwritev(descriptor, [block], offset) == len(block)
        os.close(descriptor)
        self.lay(offset, block[:])
        self.committed()

    def write_mapped(self) -> None:
        if not self.content:
            return
        start = self.random.randint(0, len(self.content) - 1) & -PAGE
        with mmap.mmap(self.descriptor, len(self.content) - start, offset=start) as mapped:
            for _ in range(self.random.randint(1, 4)):
                at = self.random.randint(0, len(mapped) - 1)
                data = self.some_bytes()[: len(mapped) - at]
                mapped[at : at + len(data)] = data
                self.lay(start + at, data)
            if self.random.random() < 0.5:
                mapped.flush()
            else:  # seen by read(2) without
                at = self.random.randint(0, len(self.content))
                assert os.pread(self.descriptor, 5000, at) == self.content[at : at + 5000]

    def truncate(self) -> None:
        size = self.random.choice(
            (0, self.some_offset(), self.random.randint(0, len(self.content)))
        )
        if self.random.random() < 0.5:
            os.ftruncate(self.descriptor, size)
        else:
            os.truncate(self.path, size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self.is_dirty = True

    def splice_in(self) -> None:
        offset, data = self.some_offset(), self.some_bytes()[:60_000]
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        rest = len(data)
        while rest:
            rest -= os.splice(reading, self.descriptor, rest, offset_dst=offset + len(data) - rest)
        os.close(reading)
        self.lay(offset, data)

    def copy_range(self) -> None:
        start, length = self.some_offset(), self.random.randint(1, 200_000)
        target = self.some_offset()
        if start < target + length and target < start + length:
            return  # EINVAL
        data = bytes(self.content[start : start + length])
        done = 0
        while done < len(data):
            done += os.copy_file_range(
                self.descriptor, self.descriptor, len(data) - done, start + done, target + done
            )
        if data:
            self.lay(target, data)

    # --- what ends a session, and what is looked at

    def committed(self) -> None:
        self.versions.append(bytes(self.content))
        self.is_dirty = False

    def sync(self) -> None:
        self.random.choice((os.fsync, os.fdatasync))(self.descriptor)
        if self.is_dirty:
            self.committed()

    def reopen(self) -> None:
        os.close(self.descriptor)
        if self.is_dirty:
            self.committed()
        self.descriptor = os.open(self.path, os.O_RDWR)

    def look(self) -> None:
        assert os.fstat(self.descriptor).st_size == os.stat(self.path).st_size == len(self.content)
        at, length = self.random.randint(0, len(self.content)), self.random.randint(1, 400_000)
        assert os.pread(self.descriptor, length, at) == self.content[at : at + length]

    def look_whole(self) -> None:
        assert self.path.read_bytes() == self.content
        end = os.open(self.path, os.O_RDONLY)
        assert os.lseek(end, 0, os.SEEK_END) == len(self.content)
        os.close(end)

    def steps(self) -> list[Callable[[], None]]:
        return [
            *(self.write, self.write_vector, self.write_by_path, self.append, self.write_direct),
            *(self.write_mapped, self.truncate, self.splice_in, self.copy_range),
            *(self.sync, self.reopen, self.look, self.look, self.look_whole),
        ]


@pytest.mark.parametrize("seed", range(4))
def test_any_writes_read_back_as_from_a_plain_file(mount, seed: int) -> None:
    """pwrite, pwritev, O_APPEND, O_DIRECT, mmap, truncate, splice and copy_file_range, mixed, against a bytearray."""
    random = Random(seed)
    path = mount.path / "file"
    twin = Twin(path, random)
    for number in range(STEPS):
        step = random.choice(twin.steps())
        try:
            step()
            twin.look()
        except BaseException:
            print(f"seed {seed}, step {number}: {step.__name__}")
            raise
    twin.look_whole()
    os.close(twin.descriptor)
    if twin.is_dirty:
        twin.committed()
    assert path.read_bytes() == twin.content
    mount.remount()
    assert path.read_bytes() == twin.versions[-1]
    listing = path.with_name("file@@")
    names = sorted(os.listdir(listing), key=lambda name: int(name[1:]))
    past = [(listing / name).read_bytes() for name in names]
    for number, content in enumerate(twin.versions):
        if content not in past:
            again = [
                name
                for name, old in zip(names, past, strict=True)
                if (listing / name).read_bytes() != old
            ]
            sizes = [(name, len(old)) for name, old in zip(names, past, strict=True)]
            pytest.fail(
                f"seed {seed}: version {number} of {len(twin.versions)}, {len(content)} bytes, is lost; "
                f"there are {sizes}; read again, these differ: {again}"
            )


def test_what_one_process_wrote_another_reads_at_once(mount) -> None:
    """Nothing is closed, nothing synced: each write, truncation and mapped store of one is there for the other."""
    path = mount.path / "shared"
    with Actor(mount.path) as left, Actor(mount.path) as right:
        left.do("f = os.open('shared', os.O_RDWR | os.O_CREAT, 0o644)")
        right.do("f = os.open('shared', os.O_RDWR)")
        for turn in range(20):
            writer, reader = (left, right) if turn % 2 else (right, left)
            data = bytes([65 + turn]) * (turn * 997 + 1)
            offset = turn * 5000
            writer.do(f"os.pwrite(f, {data!r}, {offset})")
            assert reader.ask(f"os.pread(f, 100000, {offset})") == data
            assert reader.ask("os.fstat(f).st_size") == offset + len(data)
            assert reader.ask("os.stat('shared').st_size") == offset + len(data)
        left.do("os.ftruncate(f, 10)")
        assert right.ask("os.fstat(f).st_size") == 10
        assert right.ask("os.pread(f, 100, 0)") == path.read_bytes()
        right.do("os.truncate('shared', 10000)")
        left.do("m = mmap.mmap(f, 10000)")
        right.do("m = mmap.mmap(f, 10000)")
        left.do("m[5000:5005] = b'LEFT.'")
        assert right.ask("m[4999:5006]") == b"\0LEFT.\0"
        assert right.ask("os.pread(f, 5, 5000)") == b"LEFT."
        right.do("os.pwrite(f, b'RIGHT', 7000)")
        assert left.ask("m[7000:7005]") == b"RIGHT"
        left.do("m[0:5] = b'CLOSE'; m.close(); os.close(f)")
        assert right.ask("m[0:5]") == b"CLOSE"
        assert path.read_bytes()[:5] == b"CLOSE"
        right.do("m[9990:9994] = b'LAST'; os.close(f); m.close()")
    assert path.read_bytes()[9990:9994] == b"LAST"
    mount.remount()
    after = path.read_bytes()
    assert (after[:5], after[5000:5005], after[7000:7005]) == (b"CLOSE", b"LEFT.", b"RIGHT")
    assert after[9990:9994] == b"LAST"


def test_a_mapping_outlives_its_descriptor(mount) -> None:
    """numpy and databases close the descriptor and write on through the mapping: those bytes are kept too."""
    path = mount.path / "mapped"
    with Actor(mount.path) as other:
        other.do(
            """
            f = os.open('mapped', os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(f, 100000)
            m = mmap.mmap(f, 100000)
            os.close(f)
            m[50000:50004] = b'late'
            """
        )
        assert path.read_bytes()[50000:50004] == b"late"
        other.do("m[60000:60005] = b'later'; m.flush()")
        assert path.read_bytes()[60000:60005] == b"later"
        other.do("m[70000:70006] = b'latest'; m.close()")
    mount.remount()
    after = path.read_bytes()
    assert (after[50000:50004], after[60000:60005], after[70000:70006]) == (
        b"late",
        b"later",
        b"latest",
    )


def test_a_mapping_of_a_killed_process_is_kept(mount) -> None:
    """Stores through MAP_SHARED belong to the file the moment they are made: the writer's kill -9 loses none."""
    path = mount.path / "mapped"
    path.write_bytes(bytes(200_000))
    with Actor(mount.path) as other:
        other.do("f = os.open('mapped', os.O_RDWR); m = mmap.mmap(f, 200000)")
        other.do("m[100000:100006] = b'killed'")
    assert path.read_bytes()[100000:100006] == b"killed"
    mount.remount()
    assert path.read_bytes()[100000:100006] == b"killed"


def test_ftruncate_under_a_mapping(mount) -> None:
    """Grow under a mapping and store there; shrink and grow again: what was cut off is zeros, not the old bytes."""
    path = mount.path / "f"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"a" * 3 * PAGE)
    mapped = mmap.mmap(descriptor, 0)
    os.ftruncate(descriptor, 5 * PAGE)
    mapped.resize(5 * PAGE)
    mapped[4 * PAGE : 4 * PAGE + 3] = b"new"
    os.ftruncate(descriptor, PAGE + 100)
    os.ftruncate(descriptor, 5 * PAGE)
    assert mapped[PAGE : PAGE + 100] == b"a" * 100
    assert mapped[PAGE + 100 :] == bytes(4 * PAGE - 100)
    mapped.close()
    os.close(descriptor)
    mount.remount()
    assert path.read_bytes() == b"a" * (PAGE + 100) + bytes(4 * PAGE - 100)


def test_truncation_by_path_while_others_have_it_open(place) -> None:
    """`> log` while a daemon holds the log open: its appends go to the new start, its old offset makes a hole."""
    path = place / "log"
    with Actor(place) as daemon:
        daemon.do("a = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)")
        daemon.do("w = os.open('log', os.O_WRONLY)")
        daemon.do("os.write(a, b'x' * 10000); os.lseek(w, 10000, 0)")
        os.truncate(path, 0)
        daemon.do("os.write(a, b'fresh')")
        assert path.read_bytes() == b"fresh"
        with open(path, "wb"):
            pass
        daemon.do("os.write(w, b'far')")
        assert path.read_bytes() == bytes(10000) + b"far"


def test_appends_of_eight_processes_lose_no_byte(place) -> None:
    """Eight loggers append lines to one file at once; every line is there, whole, in its writer's order."""
    script = """
        import os, sys
        who = int(sys.argv[1])
        f = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for n in range(150):
            line = b"%d %d " % (who, n) + b"." * (n * 31 % 500) + b"\\n"
            assert os.write(f, line) == len(line)
            if n % 50 == 49:
                os.close(f)
                f = os.open("log", os.O_WRONLY | os.O_APPEND)
    """
    finish([start_python(script, str(who), cwd=place) for who in range(8)])
    seen = [0] * 8
    for line in (place / "log").read_bytes().splitlines():
        who, number, dots = line.split(b" ")
        assert int(number) == seen[int(who)]
        assert dots == b"." * (int(number) * 31 % 500)
        seen[int(who)] += 1
    assert seen == [150] * 8


def test_sparse_files(mount, tmp_path: Path) -> None:
    """A terabyte of nothing with an island in it: true size, few blocks, zeros between, copied as sparse."""
    path = mount.path / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"island")
    status = path.stat()
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 < 1_000_000
    with open(path, "rb") as file:
        file.seek((1 << 39) - 10)
        assert file.read(26) == bytes(10) + b"island" + bytes(10)
        file.seek((1 << 40) - 3)
        assert file.read() == bytes(3)
    mount.remount()
    with open(path, "rb") as file:
        file.seek(1 << 39)
        assert file.read(6) == b"island"
    os.truncate(path, 0)
    os.truncate(path, 1 << 40)
    with open(path, "rb") as file:
        file.seek(1 << 39)
        assert file.read(6) == bytes(6)


def test_copy_tools(place, tmp_path: Path) -> None:
    """cp --reflink=auto, cp --sparse, dd of every kind, cat, sendfile, split and truncate(1) all copy the same bytes."""
    data = Random(5).randbytes(1_234_567)
    source = place / "source"
    source.write_bytes(data)
    run("cp", "--reflink=auto", "source", "1", cwd=place)
    run("cp", "--sparse=always", "source", "2", cwd=place)
    run("dd", "if=source", "of=3", "bs=1000", "status=none", cwd=place)
    run(
        "dd",
        "if=source",
        "of=4",
        "bs=1M",
        "oflag=direct",
        "iflag=fullblock",
        "status=none",
        cwd=place,
    )
    run("dd", "if=source", "of=5", "bs=64k", "conv=fsync", "oflag=dsync", "status=none", cwd=place)
    run("sh", "-c", "cat < source > 6; cat source | cat > 7; tee 8 < source > /dev/null", cwd=place)
    run("sh", "-c", "split -b 100000 source part. && cat part.* > 9", cwd=place)
    with open(source, "rb") as file, open(place / "10", "wb") as target:
        sent = 0
        while sent < len(data):
            sent += os.sendfile(target.fileno(), file.fileno(), sent, len(data) - sent)
    run(
        "sh", "-c", "cp source 11; truncate -s 1000000 11; tail -c +1000001 source >> 11", cwd=place
    )
    run(
        "dd",
        "if=source",
        "of=1",
        "bs=10",
        "count=1",
        "seek=3",
        "skip=3",
        "conv=notrunc",
        "status=none",
        cwd=place,
    )
    for number in range(1, 12):
        assert (place / str(number)).read_bytes() == data, number


def test_reads_and_writes_at_the_edges(place) -> None:
    """At the end, behind it, zero bytes, one byte at a time, and offsets no file system takes."""
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    assert os.pread(descriptor, 10, 0) == b""
    assert os.pwrite(descriptor, b"", 100) == 0
    assert os.fstat(descriptor).st_size == 0
    for number in range(300):
        os.write(descriptor, bytes([number % 256]))
    assert os.pread(descriptor, 1000, 0) == bytes(number % 256 for number in range(300))
    assert os.pread(descriptor, 10, 300) == b""
    assert os.pread(descriptor, 10, 1 << 50) == b""
    with pytest.raises(OSError, match="Invalid argument"):
        os.pread(descriptor, 1, -1)
    with pytest.raises(OSError, match=r"File too large|Invalid argument"):
        os.pwrite(descriptor, b"x", (1 << 63) - 1)
    with pytest.raises(OSError, match="File too large"):
        os.ftruncate(descriptor, (1 << 62))
    assert os.fstat(descriptor).st_size == 300
    os.close(descriptor)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("door", ["kernel"])
def test_room_is_given_taken_and_zeroed_by_fallocate(make_mount, seed: int) -> None:
    """fallocate, with --keep-size, --punch-hole and --zero-range, among writes: against a bytearray, and after a remount."""
    mount = make_mount()
    random = Random(seed)
    twin = Twin(mount.path / "file", random)
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    keep_size, punch_hole, zero_range = 1, 2, 16
    for _ in range(150):
        twin.write()
        mode = random.choice(
            (0, keep_size, punch_hole | keep_size, zero_range, zero_range | keep_size)
        )
        start, length = twin.some_offset(), random.randint(1, 300_000)
        result = fallocate(twin.descriptor, mode, ctypes.c_int64(start), ctypes.c_int64(length))
        assert result == 0, os.strerror(ctypes.get_errno())
        if not mode & keep_size:
            twin.content.extend(bytes(max(0, start + length - len(twin.content))))
        if mode & (punch_hole | zero_range):
            end = min(start + length, len(twin.content))
            twin.content[start:end] = bytes(max(0, end - start))
        twin.look()
        random.choice(
            (twin.sync, twin.truncate, twin.write_mapped, twin.copy_range, twin.look_whole)
        )()
        twin.look()
    twin.look_whole()
    at = 0
    while at < len(twin.content):  # whatever is said to be a hole holds zeros
        hole = os.lseek(twin.descriptor, at, os.SEEK_HOLE)
        try:
            at = os.lseek(twin.descriptor, hole, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            at = len(twin.content)
        assert not any(twin.content[hole:at])
    os.close(twin.descriptor)
    mount.remount()
    assert twin.path.read_bytes() == twin.content


@pytest.mark.parametrize("door", ["kernel"])
def test_copies_of_a_big_file_cost_next_to_nothing(make_mount) -> None:
    """cp of 20 MB, of the live file and of an old version (restore), shares the bytes through copy_file_range."""
    mount = make_mount()
    data = Random(2).randbytes(20_000_000)
    (mount.path / "big").write_bytes(data)
    with open(mount.path / "big", "r+b") as file:
        file.write(b"changed")
    before = mount.status()["store"]["log_bytes"]
    run("cp", "big", "copy", cwd=mount.path)
    run("cp", "big@v1", "big", cwd=mount.path)
    assert mount.status()["store"]["log_bytes"] - before < 100_000
    assert (mount.path / "copy").read_bytes() == b"changed" + data[7:]
    assert (mount.path / "big").read_bytes() == data
    os.unlink(mount.path / "big")
    mount.remount()
    assert (mount.path / "copy").read_bytes() == b"changed" + data[7:]
