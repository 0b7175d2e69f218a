"""Bytes between processes: appending, racing, mapping, copying, reading at the edges."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import signal
from collections.abc import Callable

from tests.posix import libc
from tests.posix.observation import Observation, make, opened, outcome, read, shape, write

PROCESSES = 8


def _together(count: int, action: Callable[[int], object]) -> list[str]:
    """What an action comes to in several processes, begun together; by number."""
    ready, go = os.pipe()
    pipes, children = [], []
    for number in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)  # ends when the parent closes its end
            try:
                os.write(writing, outcome(action, number).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
        children.append(child)
    os.close(ready)
    os.close(go)
    results = []
    for reading, child in zip(pipes, children, strict=True):
        with open(reading, "rb") as pipe:
            results.append(pipe.read().decode())
        os.waitpid(child, 0)
    return results


def appending(see: Observation) -> None:
    """Eight processes append lines: none is lost, torn or doubled."""
    lines = 150

    def append(number: int) -> None:
        descriptor = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for line in range(lines):
            os.write(descriptor, f"{number} {line:04} {'x' * (line % 97)}\n".encode())
        os.close(descriptor)

    see("results", _together(PROCESSES, append))
    content = read("log").decode().splitlines()
    see("lines", len(content))
    expected = {
        f"{n} {line:04} {'x' * (line % 97)}" for n in range(PROCESSES) for line in range(lines)
    }
    see("all of them", set(content) == expected)
    for number in range(PROCESSES):
        own = [line for line in content if line.startswith(f"{number} ")]
        see(f"in order {number}", own == sorted(own))


def appending_by_one_open_file(see: Observation) -> None:
    """Eight children of one open, which share its position, need no O_APPEND."""
    descriptor = os.open("log", os.O_WRONLY | os.O_CREAT)
    see(
        "results",
        _together(
            PROCESSES,
            lambda number: [os.write(descriptor, b"%d" % number * 10) for _ in range(50)] and None,
        ),
    )
    see("size", os.stat("log").st_size)
    content = read("log")
    see("each", [content.count(b"%d" % number * 10) >= 1 for number in range(PROCESSES)])


def racing(see: Observation) -> None:
    """Whoever makes a name exclusively is alone."""
    ways: dict[str, Callable[[int, int], object]] = {
        "creat": lambda n, who: opened(f"file{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "mkdir": lambda n, who: os.mkdir(f"dir{n}"),
        "link": lambda n, who: os.link("own", f"link{n}"),
        "symlink": lambda n, who: os.symlink(str(who), f"symlink{n}"),
        "mkfifo": lambda n, who: os.mkfifo(f"fifo{n}"),
        "rename noreplace": lambda n, who: libc.renameat2(
            f"own{who}.{n}", f"moved{n}", libc.RENAME_NOREPLACE
        ),
    }
    write("own")
    rounds = 20
    for who in range(PROCESSES):
        for number in range(rounds):
            write(f"own{who}.{number}", b"")
    for name, way in ways.items():

        def race(who: int, way: Callable[[int, int], object] = way) -> str:
            return "".join("1" if outcome(way, n, who) == "ok" else "0" for n in range(rounds))

        won = _together(PROCESSES, race)
        see(f"winners of {name}", [sum(int(line[n]) for line in won) for n in range(rounds)])


def removing_race(see: Observation) -> None:
    """A name is removed once, renamed away once."""
    rounds = 30
    for number in range(rounds):
        write(f"f{number}", b"")
        write(f"g{number}", b"")
        os.mkdir(f"d{number}")
    for name, way in {
        "unlink": lambda n, who: os.unlink(f"f{n}"),
        "rename": lambda n, who: os.rename(f"g{n}", f"g{n}.{who}"),
        "rmdir": lambda n, who: os.rmdir(f"d{n}"),
    }.items():
        won = _together(
            4,
            lambda who, w=way: "".join(
                "1" if outcome(w, n, who) == "ok" else "0" for n in range(rounds)
            ),
        )
        see(f"winners of {name}", [sum(int(line[n]) for line in won) for n in range(rounds)])


def replacing(see: Observation) -> None:
    """A file renamed over again and again is always there and always whole."""
    write("config", b"0" * 1000)

    def replace(number: int) -> str:
        if number == 0:
            for turn in range(200):
                write("new", str(turn % 10).encode() * 1000)
                os.rename("new", "config")
            return "replaced"
        torn = 0
        for _ in range(200):
            content = read("config")
            torn += content != content[:1] * 1000
        return f"torn {torn}"

    see("results", _together(4, replace))


def writing_together(see: Observation) -> None:
    """Four processes write their own blocks of one file: all arrive."""

    def blocks(number: int) -> None:
        descriptor = os.open("f", os.O_WRONLY | os.O_CREAT)
        for block in range(number, 200, 4):
            os.pwrite(descriptor, bytes([block % 251]) * 3000, block * 3000)
        os.close(descriptor)

    see("results", _together(4, blocks))
    see("content", read("f") == b"".join(bytes([block % 251]) * 3000 for block in range(200)))


def seen_at_once(see: Observation) -> None:
    """What one process wrote another reads, by its own descriptor, before any close."""
    writer = os.open("f", os.O_RDWR | os.O_CREAT)
    reader = os.open("f", os.O_RDONLY)
    draw = random.Random(1)
    model = bytearray()
    for turn in range(60):
        offset, data = draw.randrange(20_000), draw.randbytes(draw.randrange(1, 9000))
        os.pwrite(writer, data, offset)
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data
        if turn % 5 == 0:
            size = draw.randrange(25_000)
            os.ftruncate(writer, size)
            del model[size:]
            model.extend(bytes(size - len(model)))
        here = os.pread(reader, 100_000, 0)
        there = _together(1, lambda _: hashlib.sha256(read("f")).hexdigest())[0]
        see(
            f"{turn}",
            [
                here == model,
                there == hashlib.sha256(model).hexdigest(),
                os.fstat(reader).st_size == len(model),
            ],
        )


def vectors(see: Observation) -> None:
    descriptor = os.open("f", os.O_RDWR | os.O_CREAT)
    see.call("writev", os.writev, descriptor, [b"one ", b"", b"two ", b"three"])
    see.call("pwritev", os.pwritev, descriptor, [b"X", b"Y"], 4)
    buffers = [bytearray(3), bytearray(100)]
    see.call("preadv", os.preadv, descriptor, buffers, 0)
    see("read", [bytes(buffer).hex() for buffer in buffers])
    see.call("pwritev appending", os.pwritev, descriptor, [b"!"], 0, os.RWF_APPEND)
    see("content", repr(read("f")))
    see.call("pwritev synchronously", os.pwritev, descriptor, [b"s"], 0, os.RWF_DSYNC)


def edges(see: Observation) -> None:
    """Reading and writing at, across and behind the end, nothing, and in odd lengths."""
    write("f", b"0123456789" * 1000)
    descriptor = os.open("f", os.O_RDWR)
    for offset in (0, 1, 4095, 4096, 4097, 9_990, 9_999, 10_000, 10_001, 20_000):
        for length in (0, 1, 5, 4096, 100_000):
            see(
                f"pread {length} at {offset}",
                hashlib.sha256(os.pread(descriptor, length, offset)).hexdigest()[:12],
            )
    see.call("negative offset", os.pread, descriptor, 1, -1)
    see.call("negative offset of a write", os.pwrite, descriptor, b"x", -1)
    see.call("of a directory", lambda: os.read(os.open(".", os.O_RDONLY), 10))
    see.call("write of nothing behind the end", os.pwrite, descriptor, b"", 20_000)
    see("size", os.fstat(descriptor).st_size)
    see.call("write behind the end", os.pwrite, descriptor, b"x", 20_000)
    see("between", os.pread(descriptor, 12_000, 9_998)[:100].hex())
    see("shape", shape("f"))


def direct(see: Observation) -> None:
    """O_DIRECT, aligned, beside buffered readers and writers."""
    buffer = mmap.mmap(-1, 65_536)
    buffer[:] = b"D" * 65_536
    descriptor = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    see.call("write", os.pwritev, descriptor, [buffer], 0)
    see("read buffered", hashlib.sha256(read("f")).hexdigest()[:12])
    with open("f", "r+b", buffering=0) as file:
        file.write(b"B" * 100)
    into = mmap.mmap(-1, 65_536)
    see.call("read", os.preadv, descriptor, [into], 0)
    see("what was buffered", into[:110].hex())
    see.call("read behind the end", os.preadv, descriptor, [into], 65_536)


def mappings(see: Observation) -> None:
    """Stores through a shared mapping and write(2) are one file; a private one keeps to itself."""
    write("f", b"." * 20_000)
    descriptor = os.open("f", os.O_RDWR)
    with (
        mmap.mmap(descriptor, 0) as shared,
        mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as private,
    ):
        shared[0:5] = b"store"
        see("read after a store", repr(os.pread(descriptor, 6, 0)))
        see("read elsewhere", _together(1, lambda _: repr(read("f")[:6])))
        os.pwrite(descriptor, b"write", 100)
        see("mapped after a write", repr(shared[100:106]))
        private[200:207] = b"private"
        see("private stays private", repr(os.pread(descriptor, 8, 200)))
        _together(1, lambda _: _store("f", 300, b"child"))
        see("stored by a child", repr(shared[300:306]))
        shared.flush()
        os.ftruncate(descriptor, 30_000)
        see("grown", repr(os.pread(descriptor, 5, 19_998)))
    os.close(descriptor)
    see("closed", hashlib.sha256(read("f")).hexdigest()[:16])
    for flags, protection in (
        (os.O_RDONLY, mmap.PROT_WRITE),
        (os.O_RDONLY, mmap.PROT_READ),
        (os.O_WRONLY, mmap.PROT_READ),
        (os.O_WRONLY, mmap.PROT_WRITE),
        (os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE),
    ):
        for share in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            descriptor = os.open("f", flags)
            see.call(
                f"{flags} {protection} {share}",
                lambda d=descriptor, p=protection, s=share: mmap.mmap(
                    d, 100, flags=s, prot=p
                ).close(),
            )
    make("directory", "d")
    see.call(
        "of a directory", lambda: mmap.mmap(os.open("d", os.O_RDONLY), 100, prot=mmap.PROT_READ)
    )


def _store(path: str, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 0) as mapping:
        mapping[offset : offset + len(data)] = data
    os.close(descriptor)


def mappings_that_outlive(see: Observation) -> None:
    """A mapping keeps the file after close and unlink; stores before the unmapping arrive where there is a name."""
    write("kept", b"." * 10_000)
    write("gone", b"." * 10_000)
    kept, gone = os.open("kept", os.O_RDWR), os.open("gone", os.O_RDWR)
    first, second = mmap.mmap(kept, 0), mmap.mmap(gone, 0)
    os.close(kept)
    os.close(gone)
    os.unlink("gone")
    first[0:4] = second[0:4] = b"late"
    see("unlinked", repr(second[0:6]))
    first.flush()
    first.close()
    second.close()
    see("stored late", repr(read("kept")[:6]))


def bus_error(see: Observation) -> None:
    """Touching a mapping behind the end of the file: SIGBUS; the rest of the last page reads as zeros."""
    write("f", b"x" * 10_000)
    descriptor = os.open("f", os.O_RDWR)
    mapping = mmap.mmap(descriptor, 0)
    os.ftruncate(descriptor, 5_000)
    see("rest of the page", mapping[5_000:5_010].hex())
    for offset in (4_999, 8_191, 8_192, 9_999):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            _ = mapping[offset]
            os._exit(0)
        _, status = os.waitpid(child, 0)
        see(f"at {offset}", os.waitstatus_to_exitcode(status))


def copying(see: Observation) -> None:
    """copy_file_range(2): every bad argument, and pieces between and inside files."""
    data = random.Random(3).randbytes(300_000)
    write("a", data)
    write("b", b"")
    a, b = os.open("a", os.O_RDWR), os.open("b", os.O_RDWR)
    see.call("flags", libc.copy_file_range, a, 0, b, 0, 10, 1)
    see.call("from a writer", libc.copy_file_range, os.open("a", os.O_WRONLY), 0, b, 0, 10, 0)
    see.call("to a reader", libc.copy_file_range, a, 0, os.open("b", os.O_RDONLY), 0, 10, 0)
    see.call(
        "to an appender",
        libc.copy_file_range,
        a,
        0,
        os.open("b", os.O_WRONLY | os.O_APPEND),
        0,
        10,
        0,
    )
    see.call("from a directory", libc.copy_file_range, os.open(".", os.O_RDONLY), 0, b, 0, 10, 0)
    see.call("overlapping", libc.copy_file_range, a, 0, a, 5, 10, 0)
    see.call("to its place", libc.copy_file_range, a, 0, a, 0, 10, 0)
    see.call("negative", libc.copy_file_range, a, -1, b, 0, 10, 0)
    see.call("behind the end", libc.copy_file_range, a, 300_000, b, 0, 10, 0)
    see.call("far behind", libc.copy_file_range, a, 500_000, b, 0, 10, 0)
    see.call("nothing", libc.copy_file_range, a, 0, b, 0, 0, 0)
    see("untouched", os.fstat(b).st_size)
    model = bytearray()
    draw = random.Random(4)
    for turn in range(40):
        start, at, length = (
            draw.randrange(310_000),
            draw.randrange(400_000),
            draw.randrange(1, 120_000),
        )
        done, left = 0, length
        while left:
            copied = libc.copy_file_range(a, start + done, b, at + done, left, 0)
            if copied == 0:
                break
            done, left = done + copied, left - copied
        piece = data[start : start + length]
        if piece:
            model.extend(bytes(max(0, at + len(piece) - len(model))))
            model[at : at + len(piece)] = piece
        see(f"{turn}", [done == len(piece), read("b") == model])
    see.call("inside one", libc.copy_file_range, a, 0, a, 200_000, 1000, 0)
    see("then", read("a")[200_000:201_000] == data[:1000])
    os.lseek(a, 100, os.SEEK_SET)
    os.lseek(b, 200, os.SEEK_SET)
    see.call("by position", libc.copy_file_range, a, None, b, None, 50, 0)
    see("positions", [os.lseek(d, 0, os.SEEK_CUR) for d in (a, b)])


def sendfile_and_splice(see: Observation) -> None:
    data = random.Random(5).randbytes(100_000)
    write("a", data)
    source, target = os.open("a", os.O_RDONLY), os.open("b", os.O_WRONLY | os.O_CREAT)
    see.call("sendfile", os.sendfile, target, source, 0, 100_000)
    see("sent", read("b") == data)
    reading, writing = os.pipe()
    see.call("splice from", os.splice, source, writing, 4096, 0)
    see.call("splice to", os.splice, reading, target, 4096, None, 0)
    see("spliced", read("b")[:4096] == data[:4096])


def syncing(see: Observation) -> None:
    """fsync(2) and its kin of everything they take."""
    write("f")
    for name, flags in (("reader", os.O_RDONLY), ("writer", os.O_WRONLY), ("path", os.O_PATH)):
        descriptor = os.open("f", flags)
        see.call(f"fsync {name}", os.fsync, descriptor)
        see.call(f"fdatasync {name}", os.fdatasync, descriptor)
        see.call(f"syncfs {name}", lambda d=descriptor: _syncfs(d))
    directory = os.open(".", os.O_RDONLY)
    see.call("fsync directory", os.fsync, directory)
    see.call("fdatasync directory", os.fdatasync, directory)
    os.mkfifo("fifo")
    see.call("fsync fifo", os.fsync, os.open("fifo", os.O_RDWR))
    descriptor = os.open("f", os.O_RDWR)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    see.call("read after dropping the cache", os.read, descriptor, 100)


def _syncfs(descriptor: int) -> None:
    import ctypes

    if libc.libc.syncfs(descriptor) != 0:
        raise OSError(ctypes.get_errno(), "syncfs")
