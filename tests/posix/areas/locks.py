"""flock(2), fcntl(2) locks and leases between processes."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

from tests.posix.observation import Observation, opened, outcome, write

SHARED, EXCLUSIVE, NONBLOCKING, FREE = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
OFD_GETLK, OFD_SETLK = 36, 37


def _elsewhere(action: Callable[[], object]) -> str:
    """What an action comes to in another process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, outcome(action).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        result = pipe.read().decode()
    os.waitpid(child, 0)
    return result


def _lock(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def _try_flock(how: int) -> None:
    descriptor = os.open("f", os.O_RDWR)
    try:
        fcntl.flock(descriptor, how | NONBLOCKING)
    finally:
        os.close(descriptor)


def _try_lockf(kind: int, start: int, length: int, command: int = fcntl.F_SETLK) -> None:
    descriptor = os.open("f", os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, command, _lock(kind, start, length))
    finally:
        os.close(descriptor)


def _held(start: int, length: int) -> str:
    descriptor = os.open("f", os.O_RDWR)
    kind, _, at, size, pid = struct.unpack(
        "hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, _lock(fcntl.F_WRLCK, start, length))
    )
    return f"{kind} {at} {size} {'parent' if pid == os.getppid() else pid}"


def flock(see: Observation) -> None:
    """Shared and exclusive, between descriptors and between processes, converted, dropped by the last close."""
    write("f")
    for how in (SHARED, EXCLUSIVE):
        descriptor = os.open("f", os.O_RDONLY)
        see.call(f"hold {how}", fcntl.flock, descriptor, how)
        for wanted in (SHARED, EXCLUSIVE):
            see(f"{wanted} beside {how}", _elsewhere(lambda w=wanted: _try_flock(w)))
            see(f"{wanted} beside {how} here", outcome(_try_flock, wanted))
        see.call(f"again {how}", fcntl.flock, descriptor, how)
        see.call(f"convert {how}", fcntl.flock, descriptor, SHARED)
        see(f"exclusive beside a converted {how}", _elsewhere(lambda: _try_flock(EXCLUSIVE)))
        see(f"shared beside a converted {how}", _elsewhere(lambda: _try_flock(SHARED)))
        copy = os.dup(descriptor)
        os.close(descriptor)
        see(f"after closing one of two {how}", _elsewhere(lambda: _try_flock(EXCLUSIVE)))
        os.close(copy)
        see(f"after closing both {how}", _elsewhere(lambda: _try_flock(EXCLUSIVE)))
    descriptor = os.open("f", os.O_RDONLY)
    fcntl.flock(descriptor, EXCLUSIVE)
    see("unlocked by a child", _elsewhere(lambda: fcntl.flock(descriptor, FREE)))
    see("is free", _elsewhere(lambda: _try_flock(EXCLUSIVE)))
    see.call(
        "of a directory", lambda: fcntl.flock(os.open(".", os.O_RDONLY), EXCLUSIVE | NONBLOCKING)
    )
    see.call("of O_PATH", lambda: fcntl.flock(os.open("f", os.O_PATH), EXCLUSIVE))
    see.call("of nothing", fcntl.flock, descriptor, 0)


RANGES = ((0, 0), (0, 10), (5, 10), (10, 5), (20, 0), (100, 1))


def ranges(see: Observation) -> None:
    """fcntl(2) locks: every range against every range, read against write."""
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
        for held in RANGES:
            fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(kind, *held))
            for wanted in RANGES:
                for other in (fcntl.F_RDLCK, fcntl.F_WRLCK):
                    see(
                        f"{other} {wanted} beside {kind} {held}",
                        _elsewhere(lambda o=other, w=wanted: _try_lockf(o, *w)),
                    )
            see(f"told of {kind} {held}", _elsewhere(lambda: _held(0, 0)))
            fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_UNLCK))
    see("free", _elsewhere(lambda: _held(0, 0)))


def splitting(see: Observation) -> None:
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 0, 100))
    fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_UNLCK, 40, 20))
    for start in (0, 39, 40, 59, 60, 99, 100):
        see(f"at {start}", _elsewhere(lambda s=start: _held(s, 1)))
    fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_RDLCK, 10, 10))
    for start in (9, 10, 19, 20):
        see(f"read at {start}", _elsewhere(lambda s=start: _held(s, 1)))


def lost_by_any_close(see: Observation) -> None:
    """POSIX: closing any descriptor of the file drops the process's locks on it; a child inherits none."""
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 0, 10))
    see("held", _elsewhere(lambda: _try_lockf(fcntl.F_WRLCK, 0, 10)))
    see(
        "not inherited",
        _elsewhere(lambda: fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 0, 10))),
    )
    opened("f", os.O_RDONLY)
    see("lost", _elsewhere(lambda: _try_lockf(fcntl.F_WRLCK, 0, 10)))


def of_open_files(see: Observation) -> None:
    """Open file description locks keep descriptors of one process apart, and outlive other closes."""
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    see.call("hold", fcntl.fcntl, descriptor, OFD_SETLK, _lock(fcntl.F_WRLCK, 0, 10))
    see("another here", outcome(_try_lockf, fcntl.F_WRLCK, 5, 1, OFD_SETLK))
    see("beside it", outcome(_try_lockf, fcntl.F_WRLCK, 10, 1, OFD_SETLK))
    see("elsewhere", _elsewhere(lambda: _try_lockf(fcntl.F_WRLCK, 5, 1)))
    opened("f", os.O_RDONLY)
    see("after a close", _elsewhere(lambda: _try_lockf(fcntl.F_WRLCK, 5, 1)))
    os.close(descriptor)
    see("dropped", _elsewhere(lambda: _try_lockf(fcntl.F_WRLCK, 5, 1)))


def need_access(see: Observation) -> None:
    write("f")
    reader, writer = os.open("f", os.O_RDONLY), os.open("f", os.O_WRONLY)
    for name, descriptor in (("reader", reader), ("writer", writer)):
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK):
            see.call(
                f"{name} {kind}",
                lambda d=descriptor, k=kind: len(fcntl.fcntl(d, fcntl.F_SETLK, _lock(k))),
            )
    see.call(
        "negative", lambda: fcntl.fcntl(reader, fcntl.F_SETLK, _lock(fcntl.F_RDLCK, -1, 5)) and None
    )
    see.call(
        "backwards", lambda: len(fcntl.fcntl(reader, fcntl.F_SETLK, _lock(fcntl.F_RDLCK, 10, -5)))
    )
    see.call("bad kind", lambda: fcntl.fcntl(reader, fcntl.F_SETLK, _lock(17)) and None)


def deadlock(see: Observation) -> None:
    """Two that wait for each other: one is told EDEADLK."""
    write("f")
    descriptor = os.open("f", os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 0, 1))
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        own = os.open("f", os.O_RDWR)
        fcntl.fcntl(own, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 1, 1))
        os.write(told, b"x")
        result = outcome(fcntl.fcntl, own, fcntl.F_SETLKW, _lock(fcntl.F_WRLCK, 0, 1))
        os._exit(1 if result == "EDEADLK" else 0)
    os.read(ready, 1)
    mine = outcome(
        lambda: fcntl.fcntl(descriptor, fcntl.F_SETLKW, _lock(fcntl.F_WRLCK, 1, 1)) and None
    )
    os.close(descriptor)
    _, status = os.waitpid(child, 0)
    see("one was told", sorted([mine == "EDEADLK", os.waitstatus_to_exitcode(status) == 1]))


def waiting(see: Observation) -> None:
    """Who waits gets the lock when it is let go, and when its holder dies."""
    write("f")
    for way in ("unlock", "die"):
        for call in (fcntl.flock, fcntl.lockf):
            ready, told = os.pipe()
            ends, end = os.pipe()
            child = os.fork()
            if child == 0:
                own = os.open("f", os.O_RDWR)
                call(own, EXCLUSIVE)
                os.write(told, b"x")
                os.read(ends, 1)
                if way == "unlock":
                    call(own, FREE)
                    os.write(told, b"y")
                os._exit(0)
            os.read(ready, 1)
            descriptor = os.open("f", os.O_RDWR)
            see.call(f"{call.__name__} {way} before", call, descriptor, EXCLUSIVE | NONBLOCKING)
            os.write(end, b"x")
            see.call(f"{call.__name__} {way}", call, descriptor, EXCLUSIVE)
            os.close(descriptor)
            os.waitpid(child, 0)


def leases(see: Observation) -> None:
    write("f")
    reader = os.open("f", os.O_RDONLY)
    see.call("read lease", fcntl.fcntl, reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    see.call("told", fcntl.fcntl, reader, fcntl.F_GETLEASE)
    see.call("let go", fcntl.fcntl, reader, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os.close(reader)
    writer = os.open("f", os.O_RDWR)
    see.call("write lease", fcntl.fcntl, writer, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    see.call("told of it", fcntl.fcntl, writer, fcntl.F_GETLEASE)
    other = os.open(".", os.O_RDONLY)
    see.call("of a directory", fcntl.fcntl, other, fcntl.F_SETLEASE, fcntl.F_RDLCK)
