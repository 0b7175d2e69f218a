"""Who has the newest content open sees every write to it at once, whoever writes, however it is read.

This is what a head passed through to a file of its own could not give (docs/KERNEL_DOOR.md), so it is tried on a file as
large as the versions that are: followed by tail(1), read while it is overwritten, mapped by two processes, and replaced.

Method: two processes, one thing at a time, through both doors; random places and bytes from a seed, against a bytearray.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.mounted.conftest import mounts_below
from tests.mounted.program import Actor, end

pytestmark = pytest.mark.mounted

SIZE = 3_000_000
"""More than `cascadefs.kernel.backing.WORTH_BYTES_MIN`."""


@pytest.fixture(scope="module", params=["kernel", "pyfuse3"])
def any_mount(tmp_path_factory, request):
    with mounts_below(tmp_path_factory.mktemp("heads")) as make:
        yield make("--door", request.param)


@pytest.fixture
def path(any_mount, request) -> Path:
    made = any_mount.path / request.node.name.partition("[")[0]
    made.write_bytes(random.Random(1).randbytes(SIZE))
    return made


def expect_lines(output, wanted: list[bytes]) -> None:
    for line in wanted:
        assert output.readline() == line


def test_tail_follows_what_another_process_appends(path: Path) -> None:
    path.write_bytes(b"x" * SIZE + b"\nfirst\n")
    follower = subprocess.Popen(
        ["tail", "-n", "1", "-s", "0.02", "-f", path], stdout=subprocess.PIPE, process_group=0
    )
    try:
        assert follower.stdout is not None
        expect_lines(follower.stdout, [b"first\n"])
        with Actor(path.parent) as other:
            other.do(f"f = open({str(path)!r}, 'ab', buffering=0)")
            for turn in range(20):
                other.do(f"f.write(b'line {turn}\\n')")
                if turn % 5 == 4:  # a version in between changes nothing for who follows
                    other.do(f"f.close(); f = open({str(path)!r}, 'ab', buffering=0)")
                expect_lines(follower.stdout, [b"line %d\n" % turn])
    finally:
        end(follower)
    assert len(os.listdir(f"{path}@@")) >= 4


def test_a_reader_sees_what_overwrites_it(path: Path) -> None:
    """By read(2), O_DIRECT, and a mapping made before, through sessions and fsyncs and truncations."""
    twin = bytearray(path.read_bytes())
    draw = random.Random(2)
    reader, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY | os.O_DIRECT)
    mapped = mmap.mmap(reader, SIZE, prot=mmap.PROT_READ)
    room = mmap.mmap(-1, 8192)
    with Actor(path.parent) as other:
        other.do(f"f = os.open({str(path)!r}, os.O_RDWR)")
        for turn in range(60):
            at, size = draw.randrange(SIZE - 200_000), draw.choice((1, 5000, 150_000))
            seed = draw.randrange(256)
            other.do(f"os.pwrite(f, bytes([{seed}]) * {size}, {at})")
            twin[at : at + size] = bytes([seed]) * size
            if turn % 10 == 3:
                other.do("os.fsync(f)")
            if turn % 10 == 6:
                other.do(f"os.close(f); f = os.open({str(path)!r}, os.O_RDWR)")
            if turn % 20 == 9:
                cut = draw.randrange(SIZE // 2, SIZE)
                other.do(f"os.ftruncate(f, {cut}); os.ftruncate(f, {SIZE})")
                twin[cut:] = bytes(SIZE - cut)
            assert os.pread(reader, size, at) == twin[at : at + size]
            assert mapped[at : at + size] == twin[at : at + size]
            block = at // 4096 * 4096
            assert os.preadv(direct, [room], block) == 8192
            assert room[:] == twin[block : block + 8192]
    assert os.pread(reader, SIZE, 0) == mapped[:] == twin
    mapped.close()
    os.close(reader)
    os.close(direct)


def test_a_mapping_that_two_processes_write(path: Path) -> None:
    twin = bytearray(path.read_bytes())
    draw = random.Random(3)
    descriptor = os.open(path, os.O_RDWR)
    ours = mmap.mmap(descriptor, SIZE)
    with Actor(path.parent) as other:
        other.do(f"f = os.open({str(path)!r}, os.O_RDWR); m = mmap.mmap(f, {SIZE})")
        for turn in range(100):
            at, byte = draw.randrange(SIZE - 10), draw.randrange(256)
            twin[at : at + 10] = bytes([byte]) * 10
            if turn % 2:
                ours[at : at + 10] = bytes([byte]) * 10
                assert other.ask(f"m[{at}:{at + 10}]") == bytes([byte]) * 10
            else:
                other.do(f"m[{at}:{at + 10}] = bytes([{byte}]) * 10")
                assert ours[at : at + 10] == bytes([byte]) * 10
            if turn % 30 == 20:
                ours.flush()
                assert os.pread(descriptor, SIZE, 0) == twin
        other.do("m.flush(); os.fsync(f)")
    assert ours[:] == twin
    ours.close()
    os.close(descriptor)
    assert path.read_bytes() == twin
    newest = max(int(name[1:]) for name in os.listdir(f"{path}@@"))
    assert Path(f"{path}@v{newest}").read_bytes() == twin


def test_a_reader_keeps_a_file_that_is_replaced(path: Path) -> None:
    """Renamed over and unlinked: who has it open or mapped reads on in what it was; who opens it now reads the new."""
    old = path.read_bytes()
    with path.open("rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        beside = Path(f"{path}.new")
        beside.write_bytes(b"new" * 1_000_000)
        beside.rename(path)
        assert path.read_bytes() == b"new" * 1_000_000
        assert mapped[:] == old
        assert os.pread(reader.fileno(), SIZE, 0) == old
        path.unlink()
        assert mapped[:] == old
    with Path(f"{path}@v1").open("rb") as past:
        with mmap.mmap(past.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            path.write_bytes(b"again")
            assert mapped[:] == old
        assert past.read() == old
