"""truncate(2), ftruncate(2), posix_fallocate(3), fallocate(2), holes and where they are found."""

from __future__ import annotations

import os

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OWNER, TEAM, acting
from tests.posix.observation import Observation, make, moved, outcome, read, shape, write

BLOCK = 4096
MEBI = 1 << 20


def truncate(see: Observation) -> None:
    """To every size from every size: length, content, times."""
    sizes = (0, 1, 7, 4095, 4096, 4097, 70_000, 262_144, 300_000)
    data = bytes(range(256)) * 1200
    for start in sizes:
        for end in sizes:
            for name in ("truncate", "ftruncate"):
                write("f", data[:start])
                descriptor = os.open("f", os.O_RDWR)
                if name == "truncate":
                    seen = moved(lambda e=end: os.truncate("f", e), "f")
                else:
                    seen = moved(lambda d=descriptor, e=end: os.ftruncate(d, e), "f")
                os.close(descriptor)
                kept = min(start, end)
                good = read("f") == data[:kept] + bytes(end - kept)
                see(f"{name} {start} to {end}", [list(seen.values()), good, os.stat("f").st_size])


def bad_sizes(see: Observation) -> None:
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    reader = os.open("f", os.O_RDONLY)
    for size in (-1, -(2**62), 2**40, 2**44 - BLOCK):
        see.call(f"truncate {size}", os.truncate, "f", size)
        see.call(f"ftruncate {size}", os.ftruncate, descriptor, size)
        see(f"is {size}", os.stat("f").st_size)
    os.truncate("f", 7)
    see.call("of a reader", os.ftruncate, reader, 3)
    see.call("of O_PATH", lambda: os.ftruncate(os.open("f", os.O_PATH), 3))
    for kind in ("directory", "fifo", "socket", "char"):
        make(kind, kind)
        see.call(f"of {kind}", os.truncate, kind, 0)
    see("is", shape("f"))


def enormous(see: Observation) -> None:
    """Sizes that no file can have."""
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    for size in (2**63 - 1, 2**62):
        see.call(f"truncate {size}", os.truncate, "f", size)
        see.call(f"ftruncate {size}", os.ftruncate, descriptor, size)
        see.call(f"pwrite at {size}", os.pwrite, descriptor, b"x", size)
    see("is", shape("f"))


def who(see: Observation) -> None:
    for mode in (0o644, 0o666, 0o444, 0o020, 0o002, 0o200, 0o000):
        for caller in EVERYBODY:
            path = f"{mode:o} {caller.name}"
            write(path)
            os.chown(path, OWNER.uid, TEAM)
            os.chmod(path, mode)
            with acting(caller):
                see(path, list(moved(lambda p=path: os.truncate(p, 3), path).values()))


def posix_fallocate(see: Observation) -> None:
    """Room: never shorter, content untouched."""
    for start in (0, 10, 5000):
        for offset, length in (
            (0, 1),
            (0, 10),
            (5, 10_000),
            (100_000, 1),
            (4096, 4096),
            (0, 0),
            (-1, 5),
            (5, -1),
        ):
            key = f"{start}: {offset}+{length}"
            write("f", b"d" * start)
            descriptor = os.open("f", os.O_RDWR)
            see(
                key,
                list(
                    moved(
                        lambda d=descriptor, o=offset, n=length: os.posix_fallocate(d, o, n), "f"
                    ).values()
                ),
            )
            see(f"content {key}", read("f") == b"d" * start + bytes(os.stat("f").st_size - start))
            see(f"size {key}", os.stat("f").st_size)
            os.close(descriptor)
    write("f")
    reader = os.open("f", os.O_RDONLY)
    see.call("of a reader", os.posix_fallocate, reader, 0, 10)
    os.mkfifo("fifo")
    see.call("of a fifo", lambda: os.posix_fallocate(os.open("fifo", os.O_RDWR), 0, 10))


MODES = {
    "keep size": libc.KEEP_SIZE,
    "plain": 0,
    "punch": libc.PUNCH_HOLE | libc.KEEP_SIZE,
    "punch without keep": libc.PUNCH_HOLE,
    "zero": libc.ZERO_RANGE,
    "zero, keep size": libc.ZERO_RANGE | libc.KEEP_SIZE,
    "collapse": libc.COLLAPSE_RANGE,
    "insert": libc.INSERT_RANGE,
    "unknown": 0x400,
}


def fallocate(see: Observation) -> None:
    """Every mode at block and at odd places: size, content, times."""
    data = bytes(range(1, 256)) * 300
    for name, mode in MODES.items():
        for offset, length in (
            (0, BLOCK),
            (BLOCK, 3 * BLOCK),
            (100, 200),
            (4000, 10_000),
            (70_000, 20_000),
            (200_000, 5000),
            (0, 200_000),
        ):
            key = f"{name} {offset}+{length}"
            write("f", data)
            descriptor = os.open("f", os.O_RDWR)
            action = moved(
                lambda d=descriptor, m=mode, o=offset, n=length: libc.fallocate(d, m, o, n), "f"
            )
            got = read("f")
            see(key, [*action.values(), len(got), _hash(got)])
            os.close(descriptor)


def _hash(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


def _extents(descriptor: int) -> list[tuple[int, int]]:
    found, at = [], 0
    while True:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return found
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, at - start))


def holes(see: Observation) -> None:
    """SEEK_DATA and SEEK_HOLE on block borders, where every file system must agree, after writes, cuts and punches."""
    descriptor = os.open("f", os.O_RDWR | os.O_CREAT)
    unit = 64 * BLOCK

    def look(key: str) -> None:
        for sync in (False, True):
            if sync:
                os.fsync(descriptor)
            see(f"{key}, {'synced' if sync else 'fresh'}", _extents(descriptor))

    os.pwrite(descriptor, b"x" * unit, 2 * unit)
    look("one stretch")
    os.pwrite(descriptor, b"x" * unit, 7 * unit)
    look("two stretches")
    os.ftruncate(descriptor, 12 * unit)
    look("a hole at the end")
    os.ftruncate(descriptor, 8 * unit)
    look("cut")
    os.ftruncate(descriptor, 3 * unit)
    look("cut to one")
    os.pwrite(descriptor, b"x" * unit, 0)
    look("one before")
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        for offset in (0, 5, unit, unit + 5, 2 * unit, 3 * unit - 1, 3 * unit, 4 * unit, -1):
            see.call(f"seek {whence} {offset}", os.lseek, descriptor, offset, whence)
    os.ftruncate(descriptor, 0)
    see.call("data of nothing", os.lseek, descriptor, 0, os.SEEK_DATA)
    see.call("hole of nothing", os.lseek, descriptor, 0, os.SEEK_HOLE)


def punched(see: Observation) -> None:
    """Where a hole was punched there is no data any more, and no room taken."""
    unit = 64 * BLOCK
    for sync in (False, True):
        name = f"f{sync}"
        write(name, b"x" * 8 * unit)
        descriptor = os.open(name, os.O_RDWR)
        if sync:
            os.fsync(descriptor)
        for first, count in ((2, 2), (7, 1)):
            result = outcome(
                libc.fallocate,
                descriptor,
                libc.PUNCH_HOLE | libc.KEEP_SIZE,
                first * unit,
                count * unit,
            )
            os.fsync(descriptor)
            room = os.fstat(descriptor).st_blocks * 512 // unit
            see(f"{first}, {'synced' if sync else 'fresh'}", [result, _extents(descriptor), room])
        os.close(descriptor)


def holes_read_as_zeros(see: Observation) -> None:
    descriptor = os.open("f", os.O_RDWR | os.O_CREAT)
    for offset in (0, 5 * MEBI, 5 * MEBI + 17, 1 << 34):
        os.pwrite(descriptor, b"data", offset)
    see("size", os.fstat(descriptor).st_size)
    for offset in (4, 1000, 5 * MEBI - 10, 5 * MEBI + 10, MEBI << 10, (1 << 34) - 5):
        see(f"at {offset}", os.pread(descriptor, 20, offset).hex())
    see("sparse", os.fstat(descriptor).st_blocks < 1000)
    os.fsync(descriptor)
    see("sparse after fsync", os.fstat(descriptor).st_blocks < 1000)
    see("at the end", outcome(os.pread, descriptor, 10, 1 << 34))
    see("behind the end", outcome(os.pread, descriptor, 10, 1 << 35))


def cut_and_grown_reads_as_zeros(see: Observation) -> None:
    """What was cut away does not come back, whatever is in the page cache."""
    for sync in (False, True):
        for size in (1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 70_000):
            write("f", b"S" * 100_000)
            descriptor = os.open("f", os.O_RDWR)
            os.pread(descriptor, 100_000, 0)
            os.ftruncate(descriptor, size)
            if sync:
                os.fsync(descriptor)
            os.ftruncate(descriptor, 100_000)
            see(f"{size} {sync}", read("f") == b"S" * size + bytes(100_000 - size))
            os.close(descriptor)


def blocks(see: Observation) -> None:
    """st_blocks says whether there is anything, in units of 512 bytes."""
    write("empty", b"")
    see("empty", os.stat("empty").st_blocks)
    write("f", b"x" * 64 * BLOCK)
    descriptor = os.open("f", os.O_RDWR)
    os.fsync(descriptor)
    see("full", os.stat("f").st_blocks >= 64 * BLOCK // 512)
    see("not twice", os.stat("f").st_blocks < 2 * 64 * BLOCK // 512)
    os.ftruncate(descriptor, 0)
    os.fsync(descriptor)
    see("cut", os.stat("f").st_blocks)
    os.ftruncate(descriptor, MEBI)
    os.fsync(descriptor)
    see("grown", os.stat("f").st_blocks)
    see("block size", os.stat("f").st_blksize)
