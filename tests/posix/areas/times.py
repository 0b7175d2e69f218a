"""utimensat(2): who may set which times, to what; and which times every call moves."""

from __future__ import annotations

import os
import time

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OTHER, OWNER, TEAM, acting
from tests.posix.observation import Observation, make, moved, opened, outcome, read, tick, write

NOW, OMIT = (0, libc.UTIME_NOW), (0, libc.UTIME_OMIT)
SOME = (1_000_000_000, 123_456_789)


def _times(path: str) -> list[int]:
    status = os.lstat(path)
    return [status.st_atime_ns, status.st_mtime_ns]


def setting(see: Observation) -> None:
    """Seconds before 1970, beyond 2038, nanoseconds to the last."""
    write("f")
    for seconds in (
        0,
        1,
        -1,
        -2,
        -(2**31),
        2**31 - 1,
        2**31,
        2**32,
        2**33,
        15_032_385_535,
        1_234_567_890,
    ):
        for nanoseconds in (0, 1, 999_999_999, 500_000_000, 123_456_789):
            for other in ((5, 6), (seconds, nanoseconds)):
                key = f"{seconds}.{nanoseconds:09} {other}"
                see.call(f"set {key}", libc.utimensat, "f", (seconds, nanoseconds), other)
                see(key, _times("f"))
                see.call(f"set back {key}", libc.utimensat, "f", other, (seconds, nanoseconds))
                see(f"back {key}", _times("f"))


def bad_values(see: Observation) -> None:
    write("f")
    libc.utimensat("f", SOME, SOME)
    for nanoseconds in (-1, 1_000_000_000, 2**31 - 1, (1 << 30) - 3, 1 << 30):
        see.call(f"atime {nanoseconds}", libc.utimensat, "f", (0, nanoseconds), SOME)
        see.call(f"mtime {nanoseconds}", libc.utimensat, "f", SOME, (0, nanoseconds))
    see("untouched", _times("f"))
    see.call("flags", libc.utimensat, "f", SOME, SOME, 0x8000)


def omitting(see: Observation) -> None:
    """UTIME_NOW and UTIME_OMIT in every combination: what is set, what is left, and whether ctime moves."""
    for kind in ("file", "directory", "symlink", "fifo", "char"):
        make(kind, kind)
        for one, atime in (("now", NOW), ("omit", OMIT), ("some", SOME)):
            for two, mtime in (("now", NOW), ("omit", OMIT), ("some", SOME)):
                libc.utimensat(kind, (7, 7), (8, 8), libc.AT_SYMLINK_NOFOLLOW)
                before = time.clock_gettime_ns(5)
                seen = moved(
                    lambda k=kind, a=atime, m=mtime: libc.utimensat(
                        k, a, m, libc.AT_SYMLINK_NOFOLLOW
                    ),
                    kind,
                )
                now = [
                    value if value < 2 * 10**18 and value < before else "now"
                    for value in _times(kind)
                ]
                see(f"{kind} {one} {two}", [list(seen.values()), now])


def who(see: Observation) -> None:
    """The owner sets any time; who may write, only now; nobody else."""
    pairs = {
        "now now": (NOW, NOW),
        "omit omit": (OMIT, OMIT),
        "some some": (SOME, SOME),
        "now omit": (NOW, OMIT),
        "omit now": (OMIT, NOW),
        "some omit": (SOME, OMIT),
        "now some": (NOW, SOME),
    }
    for mode in (0o644, 0o666, 0o464, 0o446, 0o444, 0o000):
        for kind in ("file", "directory"):
            path = f"{kind}{mode:o}"
            make(kind, path)
            os.chown(path, OWNER.uid, TEAM)
            os.chmod(path, mode)
            for caller in EVERYBODY:
                for word, (atime, mtime) in pairs.items():
                    with acting(caller):
                        see.call(f"{path} {word} {caller.name}", libc.utimensat, path, atime, mtime)
                with acting(caller):
                    see.call(f"{path} utime {caller.name}", os.utime, path)


def links(see: Observation) -> None:
    write("f")
    os.symlink("f", "link")
    libc.utimensat("f", (1, 1), (2, 2))
    libc.utimensat("link", (3, 3), (4, 4), libc.AT_SYMLINK_NOFOLLOW)
    see("file", _times("f"))
    see("link", _times("link"))
    libc.utimensat("link", (5, 5), (6, 6))
    see("through", [_times("f"), _times("link")[1]])  # its atime moves: it was read
    descriptor = os.open("f", os.O_RDONLY)
    see.call("futimens", libc.utimensat, None, (9, 9), (10, 10), 0, descriptor)
    see("by a descriptor", _times("f"))
    see.call("of O_PATH", libc.utimensat, None, SOME, SOME, 0, os.open("f", os.O_PATH))


CHANGES = {
    "write": lambda d: os.write(d, b"x"),
    "write nothing": lambda d: os.write(d, b""),
    "pwrite behind": lambda d: os.pwrite(d, b"x", 5000),
    "append": lambda d: _appended(),
    "ftruncate": lambda d: os.ftruncate(d, 3),
    "ftruncate to the same": lambda d: os.ftruncate(d, os.fstat(d).st_size),
    "truncate": lambda d: os.truncate("f", 2),
    "truncate to the same": lambda d: os.truncate("f", os.fstat(d).st_size),
    "truncate longer": lambda d: os.truncate("f", 100),
    "fallocate": lambda d: os.posix_fallocate(d, 0, 200),
    "fallocate what is there": lambda d: os.posix_fallocate(d, 0, 1),
    "fsync": lambda d: os.fsync(d),
    "fdatasync": lambda d: os.fdatasync(d),
    "chmod": lambda d: os.chmod("f", 0o600),
    "fchmod": lambda d: os.fchmod(d, 0o644),
    "chown": lambda d: os.chown("f", 1, 1),
    "fchown to the same": lambda d: os.fchown(d, 1, 1),
    "chown of nothing": lambda d: os.chown("f", -1, -1),
    "setxattr": lambda d: os.setxattr("f", "user.a", b"1"),
    "setxattr to the same": lambda d: os.setxattr("f", "user.a", b"1"),
    "setxattr refused": lambda d: os.setxattr("f", "user.a", b"1", os.XATTR_CREATE),
    "getxattr": lambda d: os.getxattr("f", "user.a"),
    "listxattr": lambda d: os.listxattr("f"),
    "removexattr": lambda d: os.removexattr("f", "user.a"),
    "removexattr of none": lambda d: os.removexattr("f", "user.a"),
    "link": lambda d: os.link("f", "g"),
    "unlink of the other": lambda d: os.unlink("g"),
    "rename": lambda d: os.rename("f", "h"),
    "rename back": lambda d: os.rename("h", "f"),
    "rename to itself": lambda d: os.rename("f", "f"),
    "stat": lambda d: os.stat("f") and None,
    "access": lambda d: os.access("f", os.R_OK),
    "open": lambda d: opened("f", os.O_RDONLY),
    "open for writing": lambda d: opened("f", os.O_WRONLY),
    "open truncating": lambda d: opened("f", os.O_WRONLY | os.O_TRUNC),
    "creat of what is there": lambda d: opened("f", os.O_WRONLY | os.O_CREAT),
    "close": lambda d: os.close(os.dup(d)),
    "copy_file_range to": lambda d: os.copy_file_range(os.open("source", os.O_RDONLY), d, 5),
    "copy_file_range from": lambda d: os.copy_file_range(
        d, os.open("target", os.O_CREAT | os.O_WRONLY), 5, 0
    ),
    "mmap for reading": lambda d: _mapped(d, False),
    "mmap and msync": lambda d: _mapped(d, True),
    "seek": lambda d: os.lseek(d, 0, os.SEEK_SET),
    "flock": lambda d: _locked(d),
    "readlink beside": lambda d: os.readlink("link"),
}


def _appended() -> None:
    descriptor = os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"x")
    os.close(descriptor)


def _mapped(descriptor: int, changed: bool) -> None:
    import mmap

    os.ftruncate(descriptor, 10_000)
    with mmap.mmap(descriptor, 0) as mapping:
        if changed:
            tick()
            mapping[5:7] = b"zz"
            mapping.flush()


def _locked(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def of_every_call(see: Observation) -> None:
    """Which of mtime and ctime each call moves, of the file and of its directory."""
    os.mkdir("d")
    os.chdir("d")
    write("f")
    write("source")
    write("target")
    os.symlink("f", "link")
    descriptor = os.open("f", os.O_RDWR)
    for name, change in CHANGES.items():
        seen = moved(lambda c=change: c(descriptor), descriptor, ".")
        see(name, list(seen.values()))


def of_directories(see: Observation) -> None:
    """Which times of a directory calls on what is inside move, and of what they do not."""
    os.makedirs("d/sub")
    write("d/f")
    changes = {
        "creat": lambda: opened("d/new", os.O_CREAT | os.O_WRONLY),
        "write inside": lambda: write("d/f"),
        "chmod inside": lambda: os.chmod("d/f", 0o600),
        "mkdir": lambda: os.mkdir("d/dir"),
        "mkdir deeper": lambda: os.mkdir("d/sub/dir"),
        "mkfifo": lambda: os.mkfifo("d/fifo"),
        "symlink": lambda: os.symlink("x", "d/link"),
        "link": lambda: os.link("d/f", "d/hard"),
        "rename inside": lambda: os.rename("d/new", "d/newer"),
        "rename over": lambda: os.rename("d/newer", "d/hard"),
        "rename out": lambda: os.rename("d/fifo", "fifo"),
        "rename in": lambda: os.rename("fifo", "d/fifo"),
        "unlink": lambda: os.unlink("d/fifo"),
        "rmdir": lambda: os.rmdir("d/dir"),
        "unlink of none": lambda: os.unlink("d/none"),
        "mkdir of what is there": lambda: os.mkdir("d/sub"),
        "chmod": lambda: os.chmod("d", 0o700),
        "setxattr": lambda: os.setxattr("d", "user.a", b"b"),
        "lookup": lambda: os.stat("d/f") and None,
        "exchange": lambda: libc.renameat2("d/f", "d/sub", libc.RENAME_EXCHANGE),
    }
    for name, change in changes.items():
        seen = moved(change, "d", ".")
        see(name, list(seen.values()))


def of_reading(see: Observation) -> None:
    """atime: ext4 moves it by the rule of `relatime`."""
    write("f", b"x" * 10_000)
    os.mkdir("d")
    write("d/f")
    os.symlink("f", "link")
    for path, action in (
        ("f", lambda: read("f")),
        ("d", lambda: os.listdir("d")),
        ("link", lambda: os.readlink("link")),
    ):
        libc.utimensat(path, (5, 0), (10, 0), libc.AT_SYMLINK_NOFOLLOW)
        see(f"read {path}", moved(lambda a=action: a() and None, path, names=("atime",))[path])
        libc.utimensat(path, (5, 0), (10, 0), libc.AT_SYMLINK_NOFOLLOW)
        see(
            f"stat {path}", moved(lambda p=path: os.lstat(p) and None, path, names=("atime",))[path]
        )
    with acting(OTHER):
        see("readable", outcome(lambda: read("f") and None))


def stay_when_refused(see: Observation) -> None:
    write("f")
    os.chown("f", OWNER.uid, OWNER.gid)
    os.mkdir("d")
    for name, action in {
        "chmod": lambda: os.chmod("f", 0o777),
        "chown": lambda: os.chown("f", OTHER.uid, -1),
        "truncate": lambda: os.truncate("f", 0),
        "open truncating": lambda: opened("f", os.O_WRONLY | os.O_TRUNC),
        "utimes": lambda: os.utime("f"),
        "setxattr": lambda: os.setxattr("f", "user.a", b""),
        "unlink": lambda: os.unlink("f"),
        "rename": lambda: os.rename("f", "g"),
        "link": lambda: os.link("f", "g"),
        "mkdir": lambda: os.mkdir("d/d"),
    }.items():
        with acting(OTHER):
            see(name, moved(action, "f", ".", "d"))


def survive(see: Observation) -> None:
    """Times set on an open file stay as set by its close, fsync and reopening."""
    for sync in (False, True):
        for before in (False, True):
            name = f"{sync} {before}"
            descriptor = os.open(name, os.O_CREAT | os.O_RDWR)
            if before:
                os.write(descriptor, b"data")
            libc.utimensat(None, (11, 12), (13, 14), 0, descriptor)
            see(f"{name} open", _times(name))
            if sync:
                os.fsync(descriptor)
                see(f"{name} synced", _times(name))
            os.close(descriptor)
            see(f"{name} closed", _times(name))
            tick()
            opened(name, os.O_RDWR)
            see(f"{name} opened", _times(name))
            os.rename(name, f"{name} moved")
            see(f"{name} moved", _times(f"{name} moved"))
            os.link(f"{name} moved", name)
            see(f"{name} linked", _times(name))


def births(see: Observation) -> None:
    """A birth is known, and what happens afterwards does not move it."""
    for kind in ("file", "directory", "symlink", "fifo"):
        make(kind, kind)
        birth = libc.birth_ns(kind)
        seen = [birth is not None and birth <= os.lstat(kind).st_ctime_ns]
        tick()
        changes = [
            lambda k=kind: libc.utimensat(k, SOME, SOME, libc.AT_SYMLINK_NOFOLLOW),
            lambda k=kind: os.lchown(k, 1, 1),
            lambda k=kind: os.rename(k, f"{k} moved"),
        ]
        if kind == "file":
            changes.insert(0, lambda: write("file"))
        for change in changes:
            change()
            path = kind if os.path.lexists(kind) else f"{kind} moved"
            seen.append(birth is not None and libc.birth_ns(path) == birth)
        see(kind, seen)
