"""open(2): every flag on everything, O_EXCL and O_TRUNC, what opening does to times, and what a descriptor may."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

from tests.posix.caller import EVERYBODY, OTHER, OWNER, ROOT, TEAM, acting
from tests.posix.observation import Observation, make, moved, opened, outcome, read, shape, write

FLAGS = {
    name: getattr(os, name)
    for name in (
        "O_CREAT",
        "O_EXCL",
        "O_TRUNC",
        "O_APPEND",
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_PATH",
        "O_SYNC",
        "O_DSYNC",
        "O_NOATIME",
        "O_CLOEXEC",
        "O_NONBLOCK",
    )
}
ACCESS = {"O_RDONLY": os.O_RDONLY, "O_WRONLY": os.O_WRONLY, "O_RDWR": os.O_RDWR, "3": 3}
KINDS = ("absent", "file", "directory", "symlink", "fifo", "socket", "char")


def flags(see: Observation) -> None:
    """Every pair of flags with every access on everything."""
    names = list(FLAGS)
    pairs = (
        [(a,) for a in names] + [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] + [()]
    )
    for kind in KINDS:
        if kind == "char":
            os.mknod("char", 0o020666, os.makedev(1, 3))
        else:
            make(kind, kind)
        for access, bits in ACCESS.items():
            for pair in pairs:
                wanted = bits | os.O_NONBLOCK
                for name in pair:
                    wanted |= FLAGS[name]
                see.call(f"{kind} {access} {' '.join(pair)}", opened, kind, wanted)
                if kind in ("absent", "symlink"):
                    made = "absent" if kind == "absent" else "nowhere"
                    if os.path.lexists(made):
                        see(f"made by {kind} {access} {' '.join(pair)}", shape(made))
                        os.unlink(made)


def truncating(see: Observation) -> None:
    """O_TRUNC needs the right to write, empties the file, and moves its times though it was empty."""
    for mode in (0o644, 0o444, 0o222, 0o000):
        for caller in EVERYBODY:
            for access in ("O_RDONLY", "O_WRONLY", "O_RDWR"):
                path = f"{mode:o}-{caller.name}-{access}"
                write(path)
                os.chown(path, OWNER.uid, TEAM)
                os.chmod(path, mode)
                with acting(caller):
                    seen = moved(lambda p=path, a=access: opened(p, ACCESS[a] | os.O_TRUNC), path)
                see(path, seen)
                see(f"is {path}", shape(path))
    write("empty", b"")
    see("empty", moved(lambda: opened("empty", os.O_WRONLY | os.O_TRUNC), "empty"))
    see(
        "creat", moved(lambda: opened("empty", os.O_WRONLY | os.O_TRUNC | os.O_CREAT), "empty", ".")
    )
    see("not truncating", moved(lambda: opened("empty", os.O_RDWR | os.O_CREAT), "empty", "."))
    see("for reading", moved(lambda: opened("empty", os.O_RDONLY), "empty", "."))


def truncating_under_others(see: Observation) -> None:
    """Another descriptor sees the truncation at once, and a gap behind it."""
    write("file", b"0123456789")
    descriptor = os.open("file", os.O_RDWR)
    os.lseek(descriptor, 8, os.SEEK_SET)
    opened("file", os.O_WRONLY | os.O_TRUNC)
    see("size", os.fstat(descriptor).st_size)
    see.call("read", os.read, descriptor, 10)
    see.call("write behind", os.write, descriptor, b"X")
    see("content", repr(read("file")))


def creating(see: Observation) -> None:
    """A file may be made with a mode that forbids what its descriptor may."""
    os.chmod(".", 0o777)
    for mode in (0o000, 0o200, 0o400, 0o100, 0o777):
        for caller in (ROOT, OWNER):
            path = f"{mode:o}-{caller.name}"
            with acting(caller):
                descriptor = os.open(path, os.O_CREAT | os.O_RDWR, mode)
                see.call(f"write {path}", os.write, descriptor, b"data")
                see.call(f"read {path}", os.pread, descriptor, 10, 0)
                see.call(f"again {path}", opened, path, os.O_RDWR)
                see.call(f"exclusively {path}", opened, path, os.O_CREAT | os.O_EXCL)
                os.close(descriptor)
            see(f"is {path}", shape(path))


def noatime(see: Observation) -> None:
    """O_NOATIME is for the owner."""
    write("file")
    os.chown("file", OWNER.uid, OWNER.gid)
    for caller in (ROOT, OWNER, OTHER):
        with acting(caller):
            see.call(caller.name, opened, "file", os.O_RDONLY | os.O_NOATIME)


def fcntl_flags(see: Observation) -> None:
    """F_GETFL tells and F_SETFL changes what can be changed."""
    write("file")
    descriptor = os.open("file", os.O_RDWR)
    see("first", fcntl.fcntl(descriptor, fcntl.F_GETFL))
    for name in ("O_APPEND", "O_NONBLOCK", "O_NOATIME", "O_SYNC", "O_TRUNC"):
        see.call(f"set {name}", fcntl.fcntl, descriptor, fcntl.F_SETFL, FLAGS[name])
        see(f"then {name}", fcntl.fcntl(descriptor, fcntl.F_GETFL))
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"+")
    see("appended", repr(read("file")))
    fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"-")
    see("not appended", repr(read("file")))


def busy_programs(see: Observation) -> None:
    """ETXTBSY, both ways."""
    shutil.copy("/usr/bin/sleep", "sleep")
    os.chmod("sleep", 0o755)
    writer = os.open("sleep", os.O_WRONLY)
    see.call("run while it is written", lambda: subprocess.run(["./sleep", "0"]).returncode)
    os.close(writer)
    running = subprocess.Popen(["./sleep", "60"])
    try:
        for name, bits in ACCESS.items():
            see.call(f"open {name} while it runs", opened, "sleep", bits)
        see.call("truncate while it runs", os.truncate, "sleep", 0)
        see.call("rename", os.rename, "sleep", "renamed")
        see.call("unlink", os.unlink, "renamed")
        see("still runs", running.poll())
    finally:
        running.kill()
        running.wait()


def truncating_a_program(see: Observation) -> None:
    """O_RDONLY with O_TRUNC, which POSIX leaves undefined, of a program that runs."""
    shutil.copy("/usr/bin/sleep", "sleep")
    os.chmod("sleep", 0o755)
    running = subprocess.Popen(["./sleep", "60"])
    try:
        outcome(opened, "sleep", os.O_RDONLY | os.O_TRUNC)  # by then the program may be dead
        see("emptied", os.stat("sleep").st_size == 0)
    finally:
        running.kill()
        running.wait()


def offsets(see: Observation) -> None:
    """Positions belong to the open file, not to its descriptors; O_APPEND writes go to the end."""
    write("file", b"0123456789")
    first = os.open("file", os.O_RDWR)
    shared, own = os.dup(first), os.open("file", os.O_RDWR | os.O_APPEND)
    os.read(first, 4)
    see("shared", os.lseek(shared, 0, os.SEEK_CUR))
    see("own", os.lseek(own, 0, os.SEEK_CUR))
    see.call("append", os.write, own, b"A")
    see("behind it", os.lseek(own, 0, os.SEEK_CUR))
    see.call("pwrite of an appender", os.pwrite, own, b"P", 0)
    see("content", repr(read("file")))
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, 17):
        for offset in (0, 5, -1, 2**40, 2**63 - 1):
            see.call(f"seek {whence} {offset}", os.lseek, first, offset, whence)
        os.lseek(first, 0, os.SEEK_SET)


def limits(see: Observation) -> None:
    """RLIMIT_FSIZE and the largest offsets."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    see.call("below", os.pwrite, descriptor, b"x" * 100, 9_900)
    see.call("across", os.pwrite, descriptor, b"x" * 100, 9_950)
    see.call("at", os.pwrite, descriptor, b"x", 10_000)
    see.call("truncate", os.truncate, "file", 10_001)
    see.call("ftruncate", os.ftruncate, descriptor, 10_001)
    see.call("truncate to it", os.truncate, "file", 10_000)
    see.call("fallocate", os.posix_fallocate, descriptor, 0, 10_001)
    see("is", shape("file"))
