"""unlink(2) and rmdir(2): what goes, what stays, whose times move."""

from __future__ import annotations

import os

from tests.posix import libc
from tests.posix.caller import OWNER, ROOT, acting
from tests.posix.observation import Observation, links, make, moved, outcome, shape, write

KINDS = ("file", "directory", "full", "symlink", "fifo", "socket", "char", "absent")


def kinds(see: Observation) -> None:
    os.chmod(".", 0o777)
    for caller in (ROOT, OWNER):
        for kind in KINDS:
            for name, call in (("unlink", os.unlink), ("rmdir", os.rmdir)):
                path = f"{name} {kind} {caller.name}"
                make(kind, path)
                with acting(caller):
                    see(path, list(moved(lambda c=call, p=path: c(p), path, ".").values()))


def directories(see: Observation) -> None:
    os.makedirs("d/e")
    see("of a full one", moved(lambda: os.rmdir("d"), "d", "."))
    see("of the inner one", moved(lambda: os.rmdir("d/e"), "d", "."))
    see("links", links("d"))
    for path in ("d/.", "d/..", ".", "..", "d/", "/"):
        see.call(f"rmdir {path}", os.rmdir, path)
    os.mkdir("d")
    for path in ("d/.", "d/..", ".", "..", "d/", "/"):
        see.call(f"unlink {path}", os.unlink, path)
    for inside in KINDS[:-1]:
        os.mkdir(f"with {inside}")
        make(inside, f"with {inside}/x")
        see.call(f"with {inside}", os.rmdir, f"with {inside}")
    here = os.open("d", os.O_RDONLY)
    see("open and removed", moved(lambda: os.rmdir("d"), here, "."))
    see("shows", shape(here))
    see("lists", outcome(os.listdir, here))
    os.mkdir("d")
    see("another of that name", os.path.samestat(os.stat("d"), os.fstat(here)))
    see("utime", outcome(os.utime, here))
    see("chmod", outcome(os.fchmod, here, 0o700))


def by_links(see: Observation) -> None:
    os.mkdir("d")
    os.symlink("d", "link")
    see.call("rmdir of a link", os.rmdir, "link")
    see.call("rmdir of a link with a slash", os.rmdir, "link/")
    see.call("unlink of a link with a slash", os.unlink, "link/")
    see.call("unlink of a link", os.unlink, "link")
    see("left", shape("d"))


def hard_links(see: Observation) -> None:
    write("a")
    for name in ("b", "c"):
        os.link("a", name)
    for name in ("a", "b", "c"):
        see(f"{name}", list(moved(lambda n=name: os.unlink(n), "c", ".").values()))


def unlinked_and_open(see: Observation) -> None:
    """A file without a name is a file still, for who has it open."""
    descriptor = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, b"before ")
    other = os.open("f", os.O_RDONLY)
    see("unlinked", moved(lambda: os.unlink("f"), descriptor, "."))
    see("shows", shape(other))
    see("listed", os.listdir("."))
    for name, action in {
        "write": lambda: os.write(descriptor, b"after"),
        "read": lambda: os.pread(other, 100, 0),
        "fchmod": lambda: os.fchmod(descriptor, 0o640),
        "fchown": lambda: os.fchown(descriptor, 5, 6),
        "futimens": lambda: os.utime(descriptor, ns=(5, 6)),
        "setxattr": lambda: os.setxattr(descriptor, "user.a", b"b"),
        "getxattr": lambda: os.getxattr(other, "user.a"),
        "listxattr": lambda: os.listxattr(other),
        "fsync": lambda: os.fsync(descriptor),
        "fdatasync": lambda: os.fdatasync(other),
        "ftruncate": lambda: os.ftruncate(descriptor, 6),
        "read again": lambda: os.pread(other, 100, 0),
        "fallocate": lambda: os.posix_fallocate(descriptor, 0, 100),
        "seek": lambda: os.lseek(descriptor, 0, os.SEEK_END),
        "by /proc": lambda: os.close(os.open(f"/proc/self/fd/{other}", os.O_RDONLY)),
        "stat by /proc": lambda: os.stat(f"/proc/self/fd/{other}").st_size,
        "truncate by /proc": lambda: os.truncate(f"/proc/self/fd/{other}", 3),
        "chmod by /proc": lambda: os.chmod(f"/proc/self/fd/{other}", 0o600),
        "large": lambda: os.pwrite(descriptor, b"x" * 3_000_000, 10),
    }.items():
        see(name, list(moved(action, descriptor).values()))
        see(f"after {name}", shape(other))
    write("f", b"another")
    see("another of that name", shape("f"))
    see("not this one", shape(other))
    os.close(descriptor)
    see("read after a close", repr(os.pread(other, 4, 0)))
    see("shows after a close", shape(other))


def mountpoints(see: Observation) -> None:
    """What another file system is mounted on stays where it is."""
    os.makedirs("d/mounted")
    write("file")
    os.mkdir("other")
    libc.mount_memory("d/mounted")
    try:
        see.call("rmdir", os.rmdir, "d/mounted")
        see.call("rename", os.rename, "d/mounted", "elsewhere")
        see.call("rename over", os.rename, "other", "d/mounted")
        see.call("exchange", libc.renameat2, "other", "d/mounted", libc.RENAME_EXCHANGE)
        see.call("rename what is above", os.rename, "d", "e")
        see.call("link into it", os.link, "file", "e/mounted/file")
        see.call("its own device", lambda: os.stat("e/mounted").st_dev != os.stat("e").st_dev)
        see.call("rmdir of what is above", os.rmdir, "e")
    finally:
        libc.unmount("e/mounted")
    see.call("rmdir afterwards", os.rmdir, "e/mounted")
