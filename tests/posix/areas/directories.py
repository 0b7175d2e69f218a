"""Reading directories: every entry once, places that stay good, while names come and go."""

from __future__ import annotations

import os
import stat

from tests.posix import libc
from tests.posix.caller import OTHER, OWNER, acting
from tests.posix.libc import DirectoryStream
from tests.posix.observation import Observation, make, opened, outcome, write

ENTRIES = int(os.environ.get("CASCADEFS_POSIX_ENTRIES", "20000"))
"""In a large directory. 200,000 now and then: they take minutes."""

LOOKS = 8

KINDS = ("file", "directory", "symlink", "fifo", "socket", "char", "block")


def types(see: Observation) -> None:
    """d_type and d_ino are those of stat(2), of the dots too."""
    os.makedirs("top/d")
    for kind in KINDS:
        make(kind, f"top/d/{kind}")
    for path in ("top/d", "top"):
        stream = DirectoryStream(path)
        for name, number, kind in sorted(iter(stream.read, None)):
            status = os.lstat(os.path.join(path, name.decode()))
            see(f"{path} {name!r} is itself", number == status.st_ino)
            see(f"{path} {name!r} is of its type", kind == stat.S_IFMT(status.st_mode) >> 12)
        stream.close()


def dots(see: Observation) -> None:
    os.makedirs("a/b")
    os.mkdir("c")
    os.rename("a/b", "c/b")
    for path in (".", "a", "c", "c/b"):
        stream = DirectoryStream(path)
        entries = {name: number for name, number, _ in iter(stream.read, None)}
        see(f"dots of {path}", sorted(name.decode() for name in entries if name.startswith(b".")))
        see(f"dot of {path}", entries[b"."] == os.stat(path).st_ino)
        see(f"dots of {path} lead up", entries[b".."] == os.stat(f"{path}/..").st_ino)
        stream.close()


def places(see: Observation) -> None:
    """telldir(3) and seekdir(3): from every place the rest is what it was, also after others' changes."""
    os.mkdir("d")
    for number in range(300):
        write(f"d/{number:03}", b"")
    stream = DirectoryStream("d")
    read, places = [], []
    while True:
        place = stream.tell()
        entry = stream.read()
        if entry is None:
            break
        places.append(place)
        read.append(entry[0])
    see("entries", len(read))
    see("each once", len(set(read)) == len(read))
    see("places differ", len(set(places)) == len(places))
    for index in (0, 1, 2, 3, 50, 150, 299, 301):
        stream.seek(places[index])
        see(f"from {index}", stream.rest() == sorted(read[index:]))
    for index in (301, 200, 7, 250):
        stream.seek(places[index])
        see(f"next at {index}", stream.read()[0] == read[index])
    stream.rewind()
    see("rewound", stream.rest() == sorted(read))
    gone = [name for name in read[100:120] if not name.startswith(b".")]
    for name in gone:
        os.unlink(b"d/" + name)
    stream.rewind()
    see("rewound after removals", stream.rest() == sorted(set(read) - set(gone)))
    write("d/new", b"")
    stream.rewind()
    see("rewound after a new one", b"new" in stream.rest())
    stream.close()


def places_while_changed(see: Observation) -> None:
    """Half read, then names removed that were read, and that were not: the rest, each once, nothing twice."""
    os.mkdir("d")
    for number in range(5000):
        write(f"d/{number:04}", b"")
    stream = DirectoryStream("d")
    first = [stream.read()[0] for _ in range(2000)]
    others = {b"%04d" % number for number in range(5000)} - set(first)
    removed = {name for name in first if name.isdigit() and int(name) % 3 == 0}
    removed |= set(sorted(others)[::7])
    for name in removed:
        os.unlink(b"d/" + name)
    for number in range(500):
        write(f"d/new{number}", b"")
    rest = stream.rest()
    see("nothing twice", len(set(rest) | set(first)) == len(rest) + len(first))
    see("all that stayed", others - removed <= set(rest))
    stream.close()


def removing_while_reading(see: Observation) -> None:
    """`rm -r` reads and removes in turn, and ends with an empty directory."""
    os.mkdir("d")
    for number in range(3000):
        write(f"d/{number}", b"")
    stream = DirectoryStream("d")
    count = 0
    while (entry := stream.read()) is not None:
        if entry[0] not in (b".", b".."):
            os.unlink(b"d/" + entry[0])
            count += 1
    stream.close()
    see("removed", count)
    see("left", os.listdir("d"))
    see.call("rmdir", os.rmdir, "d")


def large(see: Observation) -> None:
    """A large directory, listed again and again while another process makes, moves and removes names in it."""
    os.mkdir("d")
    for number in range(ENTRIES):
        os.symlink("x", f"d/stays{number}")  # the fewest requests for a name
    stays = {f"stays{number}" for number in range(ENTRIES)}
    child = os.fork()
    if child == 0:
        for number in range(2000):
            os.symlink("x", f"d/comes{number}")
            if number % 2:
                os.rename(f"d/comes{number}", f"d/moved{number}")
            if number % 5 == 0:
                os.unlink(f"d/comes{number}" if number % 2 == 0 else f"d/moved{number}")
        os._exit(0)
    twice = missed = 0
    for look in range(LOOKS):
        if look == LOOKS - 1:
            os.waitpid(child, 0)
        names = os.listdir("d")
        twice += len(names) - len(set(names))
        missed += len(stays - set(names))
    see("twice", twice)
    see("missed", missed)
    see("in the end", len(names) - ENTRIES)
    see("found", all(os.path.lexists(f"d/stays{number}") for number in range(0, ENTRIES, 97)))
    see("not found", outcome(os.lstat, f"d/stays{ENTRIES}"))


def descriptors(see: Observation) -> None:
    """The *at calls by a directory's descriptor, after it moved and was removed."""
    os.mkdir("d")
    here = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
    see.call("open", lambda: os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here)))
    see.call("mkdir", os.mkdir, "sub", dir_fd=here)
    see.call("stat", lambda: os.stat("f", dir_fd=here) and None)
    see.call("rename", lambda: os.rename("f", "g", src_dir_fd=here, dst_dir_fd=here))
    see.call("link", lambda: os.link("g", "h", src_dir_fd=here, dst_dir_fd=here))
    os.rename("d", "e")
    see("listed", sorted(os.listdir(here)))
    see.call("unlink", lambda: [os.unlink(name, dir_fd=here) for name in ("g", "h")] and None)
    see.call("rmdir", os.rmdir, "sub", dir_fd=here)
    os.rmdir("e")
    for name, call in {
        "open": lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here),
        "mkdir": lambda: os.mkdir("sub", dir_fd=here),
        "stat": lambda: os.stat("f", dir_fd=here),
        "list": lambda: os.listdir(here),
        "rename into": lambda: (write("x"), os.rename("x", "y", dst_dir_fd=here)),
        "symlink": lambda: os.symlink("a", "b", dir_fd=here),
        "fstat": lambda: os.fstat(here).st_nlink,
    }.items():
        see(f"removed, {name}", outcome(call))


def refused(see: Observation) -> None:
    os.mkdir("d", 0o700)
    write("d/f")
    here = os.open("d", os.O_RDONLY)
    os.chmod("d", 0o400)
    os.chown("d", OWNER.uid, OWNER.gid)
    with acting(OTHER):
        see.call("open", opened, "d", os.O_RDONLY)
        see.call("list by a descriptor", lambda: os.listdir(here))
        see.call("stat by a descriptor", lambda: os.stat("f", dir_fd=here))
    with acting(OWNER):
        see.call("list without search", lambda: os.listdir("d"))
        see.call("stat without search", lambda: os.stat("d/f"))
        see.call("chdir without search", os.chdir, "d")
    write("file")
    see.call("of a file", lambda: os.listdir("file"))


def handles(see: Observation) -> None:
    """open_by_handle_at(2), of what the kernel still knows."""
    write("f", b"by handle")
    os.mkdir("d")
    os.symlink("f", "link")
    mount = os.open(".", os.O_RDONLY)
    for path, flags in (("f", os.O_RDONLY), ("d", os.O_RDONLY), ("link", os.O_PATH)):
        try:
            handle = libc.name_to_handle_at(path)
        except OSError as error:
            see(f"handle of {path}", str(error.errno))
            continue
        number = os.lstat(path).st_ino

        def reopened(handle=handle, flags=flags, number=number) -> bool:
            descriptor = libc.open_by_handle_at(mount, handle, flags)
            try:
                return os.fstat(descriptor).st_ino == number
            finally:
                os.close(descriptor)

        see.call(f"open {path}", reopened)
        os.rename(path, f"{path} moved")
        see.call(f"open {path} moved", reopened)
        if path != "d":
            os.unlink(f"{path} moved")
            see.call(f"open {path} removed", reopened)
        with acting(OTHER):
            see.call(f"open {path} by another", reopened)


def statistics(see: Observation) -> None:
    status = os.statvfs(".")
    see("names", status.f_namemax)
    see("block", status.f_bsize)
    see("fragment", status.f_frsize)
    see("some are free", 0 < status.f_bavail <= status.f_bfree <= status.f_blocks)
    see("some inodes are free", 0 < status.f_ffree <= status.f_files)
    see(
        "path limits",
        [os.pathconf(".", name) for name in ("PC_NAME_MAX", "PC_PATH_MAX", "PC_LINK_MAX")][:2],
    )
