"""mkdir(2), mkfifo(2), mknod(2), symlink(2), link(2): what comes to be, and what of its parents and times."""

from __future__ import annotations

import os
import stat

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OTHER, OWNER, ROOT, acting
from tests.posix.observation import Observation, links, make, moved, opened, outcome, shape, write

KINDS = ("file", "directory", "symlink", "fifo", "socket", "char", "block", "full")


def kinds(see: Observation) -> None:
    """Everything by everybody."""
    os.chmod(".", 0o777)
    for caller in EVERYBODY:
        for kind in KINDS:
            path = f"{caller.name} {kind}"
            with acting(caller):
                see.call(f"make {path}", make, kind, path)
            see(f"is {path}", shape(path))


def times(see: Observation) -> None:
    """The parent's times move, and the new thing is as young as its parent's last change."""
    for kind in KINDS[:-1]:
        see(f"{kind}", moved(lambda k=kind: make(k, k), ".", kind))
        status, parent = os.lstat(kind), os.stat(".")
        see(
            f"{kind} is new",
            status.st_mtime_ns == status.st_ctime_ns == status.st_atime_ns,
        )
        see(f"{kind} as its parent", status.st_mtime_ns == parent.st_mtime_ns == parent.st_ctime_ns)
        see(f"{kind} again", moved(lambda k=kind: make(k, k), ".", kind))


def what_is_there(see: Observation) -> None:
    """EEXIST for everything over everything."""
    for there in KINDS:
        make(there, f"there {there}")
        for kind in KINDS:
            if kind == "full":
                continue
            see.call(f"{kind} over {there}", make, kind, f"there {there}")
        write("source")
        see.call(f"link over {there}", os.link, "source", f"there {there}")
        see(f"{there} is", shape(f"there {there}"))


def nlink_of_directories(see: Observation) -> None:
    """Two, and one for each directory inside."""
    os.mkdir("d")
    see("empty", links("d"))
    for number in range(5):
        os.mkdir(f"d/{number}")
        write(f"d/file{number}")
        see(f"with {number}", links("d"))
    os.mkdir("e")
    os.rename("d/0", "e/0")
    see("moved out", [links("d"), links("e"), links("e/0")])
    os.rename("d/1", "d/one")
    see("renamed inside", links("d"))
    libc.renameat2("d/one", "d/file0", libc.RENAME_EXCHANGE)
    see("exchanged inside", links("d"))
    libc.renameat2("d/2", "e/0", libc.RENAME_EXCHANGE)
    see("exchanged", [links("d"), links("e")])
    libc.renameat2("d/2", "d/file2", libc.RENAME_EXCHANGE)
    write("e/file")
    libc.renameat2("d/3", "e/file", libc.RENAME_EXCHANGE)
    see("a directory for a file", [links("d"), links("e")])
    os.rename("d/4", "e/0")
    see("over an empty one", [links("d"), links("e")])
    os.rmdir("e/0")
    see("removed", links("e"))
    see("this", links("."))


def device_numbers(see: Observation) -> None:
    for major, minor in ((0, 0), (1, 3), (255, 255), (256, 256), (4095, 1048575), (8, 70000)):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            path = f"{kind}-{major}-{minor}"
            see.call(f"make {path}", os.mknod, path, kind | 0o600, os.makedev(major, minor))
            see(path, shape(path))
    for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0):
        see.call(f"with a number {kind}", os.mknod, f"n{kind}", kind | 0o600, os.makedev(9, 9))
        status = os.stat(f"n{kind}")
        see(f"is {kind}", [stat.S_IFMT(status.st_mode), status.st_rdev])


def strange_types(see: Observation) -> None:
    for caller in (ROOT, OTHER):
        os.chmod(".", 0o777)
        for kind in range(16):
            path = f"{caller.name}-{kind:o}"
            with acting(caller):
                see.call(path, libc.mknod, path, kind << 12 | 0o644, 0x103)
            see(f"is {path}", shape(path))


def devices_open(see: Observation) -> None:
    """A device node leads to its device."""
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod("none", stat.S_IFCHR | 0o666, os.makedev(200, 200))
    descriptor = os.open("null", os.O_RDWR)
    see.call("write to null", os.write, descriptor, b"x" * 10)
    see.call("read of null", os.read, descriptor, 10)
    see.call("zero", opened, "zero", os.O_RDONLY)
    with acting(OTHER):
        see.call("zero by another", opened, "zero", os.O_RDONLY)
        see.call("null by another", opened, "null", os.O_RDWR)
    see.call("none", opened, "none", os.O_RDONLY)


def fifos(see: Observation) -> None:
    """A FIFO carries bytes between its users."""
    os.mkfifo("fifo")
    see.call("a writer alone", opened, "fifo", os.O_WRONLY | os.O_NONBLOCK)
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    see.call("write", os.write, writer, b"through")
    see.call("read", os.read, reader, 100)
    see.call("seek", os.lseek, reader, 0, 0)
    see.call("truncate", os.truncate, "fifo", 0)
    see("shows", shape("fifo"))
    os.unlink("fifo")
    see.call("write unlinked", os.write, writer, b"still")
    see.call("read unlinked", os.read, reader, 100)
    see("unlinked", shape(reader))


def sockets(see: Observation) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        see.call("bind", server.bind, "socket")
        see("is", shape("socket"))
        see.call("bind again", lambda: socket.socket(socket.AF_UNIX).bind("socket"))
        server.listen()
        see.call("connect", client.connect, "socket")
        see.call("open", opened, "socket", os.O_RDONLY)
        os.rename("socket", "moved")
        see.call("connect to the moved", lambda: socket.socket(socket.AF_UNIX).connect("moved"))
        os.chmod("moved", 0o600)
        with acting(OTHER):
            see.call("connect refused", lambda: socket.socket(socket.AF_UNIX).connect("moved"))


def symlinks(see: Observation) -> None:
    for length in (1, 2, 59, 60, 61, 255, 256, 1000, 4094, 4095, 4096, 5000):
        target = "t" * length
        see.call(f"{length} bytes", os.symlink, target, f"link{length}")
        see(f"read {length}", outcome(lambda n=length, t=target: os.readlink(f"link{n}") == t))
        see(f"is {length}", shape(f"link{length}"))
    see.call("empty", os.symlink, "", "empty")
    for target in (b"\xff\xfe", b"a//b", b"/", b"..", b"with space", b"@v1", b"x@v1"):
        os.symlink(target, b"link " + target.replace(b"/", b"-"))
        see(f"{target!r}", os.readlink(b"link " + target.replace(b"/", b"-")) == target)
    see.call("readlink of a file", lambda: (write("file"), os.readlink("file")))
    see.call("readlink of a directory", os.readlink, ".")
    os.umask(0o077)
    os.symlink("x", "whatever the umask")
    see("whatever the umask", shape("whatever the umask"))
    os.symlink("closed/file", "into")
    os.mkdir("closed", 0o700)
    write("closed/file")
    with acting(OTHER):
        see.call("through a closed directory", os.stat, "into")
        see.call("the link itself", lambda: os.lstat("into") and None)
        see.call("its text", os.readlink, "into")


def resolution(see: Observation) -> None:
    """Chains of links as long as the kernel follows."""
    write("0")
    for number in range(1, 45):
        os.symlink(str(number - 1), str(number))
        path = str(number)
        for name, call in {
            "open": lambda p: opened(p, os.O_RDONLY),
            "creat": lambda p: opened(p, os.O_WRONLY | os.O_CREAT),
            "creat below": lambda p: opened(f"{p}/x", os.O_WRONLY | os.O_CREAT),
            "stat": lambda p: os.stat(p) and None,
            "lstat": lambda p: os.lstat(p) and None,
            "chmod": lambda p: os.chmod(p, 0o600),
            "chown": lambda p: os.chown(p, 1, 1),
            "lchown": lambda p: os.lchown(p, 1, 1),
            "truncate": lambda p: os.truncate(p, 1),
            "utime": os.utime,
            "access": lambda p: os.access(p, os.R_OK),
            "setxattr": lambda p: os.setxattr(p, "user.a", b""),
            "link": lambda p: os.link(p, f"hard {p}"),
            "link following": lambda p: libc.linkat(p, f"soft {p}", libc.AT_SYMLINK_FOLLOW),
            "rename below": lambda p: os.rename(f"{p}/x", "y"),
            "mkdir below": lambda p: os.mkdir(f"{p}/x"),
            "unlink below": lambda p: os.unlink(f"{p}/x"),
        }.items():
            see.call(f"{name} by {number}", call, path)
    os.mkdir("d")
    os.symlink("d", "link")
    see.call("mkdir by a link", os.mkdir, "link/new")
    see.call(
        "mkdir on a dangling link", lambda: (os.symlink("no", "dangling"), os.mkdir("dangling"))
    )
    see.call("creat by a dangling link", opened, "dangling", os.O_CREAT | os.O_WRONLY)
    see("what it made", shape("no"))
    see.call("exclusively", opened, "dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.unlink("no")
    see.call("nofollow", opened, "dangling", os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY)
    see.call("rename over a link", lambda: os.rename("0", "link"))
    see("is now", shape("link"))


def hard_links(see: Observation) -> None:
    for kind in ("file", "symlink", "fifo", "socket", "char"):
        make(kind, kind)
        see(
            f"link {kind}",
            moved(
                lambda k=kind: os.link(k, f"{k} 2", follow_symlinks=False), kind, ".", f"{kind} 2"
            ),
        )
        see(f"{kind} is", [shape(kind), shape(f"{kind} 2")])
        see(f"same {kind}", os.path.samestat(os.lstat(kind), os.lstat(f"{kind} 2")))
        see(f"unlink {kind}", moved(lambda k=kind: os.unlink(k), f"{kind} 2", "."))
        see(f"left of {kind}", shape(f"{kind} 2"))
    os.mkdir("d")
    for caller in (ROOT, OWNER):
        os.chmod(".", 0o777)
        with acting(caller):
            see.call(f"of a directory, {caller.name}", os.link, "d", f"d2 {caller.name}")
            see.call(f"of dot, {caller.name}", os.link, ".", f"d3 {caller.name}")
    os.symlink("file 2", "to")
    see.call("following", libc.linkat, "to", "followed", libc.AT_SYMLINK_FOLLOW)
    see("followed", shape("followed"))
    see.call("not following", libc.linkat, "to", "link of link", 0)
    see("not followed", shape("link of link"))
    see.call("over itself", os.link, "file 2", "file 2")
    for number in range(100):
        os.link("file 2", f"n{number}")
    see("a hundred", links("file 2"))
    see.call("bad flags", libc.linkat, "file 2", "x", 0x8000)


def hard_links_of_others(see: Observation) -> None:
    """The kernel's protection of others' files (fs.protected_hardlinks) is the same."""
    os.chmod(".", 0o777)
    for mode in (0o600, 0o644, 0o666, 0o4777, 0o2777, 0o2767):
        for kind in ("file", "fifo"):
            path = f"{kind}{mode:o}"
            make(kind, path)
            os.chown(path, OWNER.uid, OWNER.gid)
            os.chmod(path, mode)
            for caller in EVERYBODY:
                with acting(caller):
                    see.call(f"{path} by {caller.name}", os.link, path, f"{path} {caller.name}")


def of_descriptors(see: Observation) -> None:
    """linkat(2) of an open file, by /proc and by AT_EMPTY_PATH."""
    write("file")
    descriptor = os.open("file", os.O_RDWR)
    see.call("by /proc", libc.linkat, f"/proc/self/fd/{descriptor}", "a", libc.AT_SYMLINK_FOLLOW)
    see.call("by descriptor", libc.linkat, "", "b", libc.AT_EMPTY_PATH, descriptor)
    see("links", links("file"))
    for name in ("file", "a", "b"):
        os.unlink(name)
    see("unlinked", shape(descriptor))
    see.call(
        "of an unlinked file",
        libc.linkat,
        f"/proc/self/fd/{descriptor}",
        "c",
        libc.AT_SYMLINK_FOLLOW,
    )


def temporary(see: Observation) -> None:
    """O_TMPFILE: a file without a name, which linkat(2) may give one."""
    see.call("for reading", opened, ".", os.O_TMPFILE | os.O_RDONLY, 0o600)
    see.call("of a file", lambda: (write("f"), opened("f", os.O_TMPFILE | os.O_RDWR, 0o600)))
    see.call("made", opened, ".", os.O_TMPFILE | os.O_RDWR, 0o600)
    see.call("exclusively", opened, ".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)

    def named() -> str:
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(descriptor, b"temporary")
        seen = [shape(descriptor), os.listdir(".")]
        source = f"/proc/self/fd/{descriptor}"
        seen.append(outcome(libc.linkat, source, "named", libc.AT_SYMLINK_FOLLOW))
        seen.append(outcome(libc.linkat, source, "again", libc.AT_SYMLINK_FOLLOW))
        os.write(descriptor, b" and more")
        seen.append(shape("named"))
        os.close(descriptor)
        return f"{seen} {shape('again')}"

    see.call("named", named)

    def not_to_be_named() -> str:
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
        source = f"/proc/self/fd/{descriptor}"
        return outcome(libc.linkat, source, "never", libc.AT_SYMLINK_FOLLOW)

    see.call("not to be named", not_to_be_named)
