"""Extended attributes: flags, limits, name spaces, who may, sizes asked for."""

from __future__ import annotations

import fcntl
import os

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OWNER, ROOT, TEAM, acting
from tests.posix.observation import Observation, make, moved, opened, outcome, write

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
KINDS = ("file", "directory", "symlink", "fifo", "socket", "char")

NAMES = (
    b"user.a",
    b"user.",
    b"user",
    b"user..",
    b"user.a.b",
    b"user.\xff",
    b"trusted.a",
    b"trusted.",
    b"security.a",
    b"security.",
    b"system.a",
    b"system.",
    b"os2.a",
    b"other.a",
    b"nodot",
    b".",
    b".a",
    b"",
    b"USER.a",
)


def _names(path: str) -> str:
    return outcome(lambda: sorted(os.listxattr(path, follow_symlinks=False)))


def flags(see: Observation) -> None:
    write("f")
    for there in (False, True):
        for flag in (0, CREATE, REPLACE, CREATE | REPLACE, 4):
            if there:
                libc.setxattr("f", b"user.a", b"old")
            see(
                f"{flag} {there}",
                moved(lambda f=flag: libc.setxattr("f", b"user.a", b"new", f), "f"),
            )
            see(f"value {flag} {there}", outcome(os.getxattr, "f", "user.a"))
            see(f"removed {flag} {there}", moved(lambda: os.removexattr("f", "user.a"), "f"))


def names_and_kinds(see: Observation) -> None:
    """Every name on everything by root and by the owner."""
    for kind in KINDS:
        for caller in (ROOT, OWNER):
            path = f"{kind} {caller.name}"
            if kind in ("char", "socket", "fifo"):
                make(kind, path)
            else:
                make(kind, path)
            os.lchown(path, caller.uid, caller.gid)
            with acting(caller):
                for name in NAMES:
                    see.call(f"get {name!r} of {path}", libc.getxattr, path, name, 100)
                    see.call(f"set {name!r} of {path}", libc.setxattr, path, name, b"value")
                    see.call(f"get again {name!r} of {path}", libc.getxattr, path, name, 100)
                    see.call(
                        f"remove absent {name!r} of {path}",
                        lambda p=path, n=name: os.removexattr(p, n + b"x", follow_symlinks=False),
                    )
                see(f"names of {path}", _names(path))
                for name in NAMES:
                    see.call(
                        f"remove {name!r} of {path}",
                        lambda p=path, n=name: os.removexattr(p, n, follow_symlinks=False),
                    )
                see(f"names left of {path}", _names(path))


def lengths(see: Observation) -> None:
    """Names to 255 bytes and values to a block; beyond 64 KiB never."""
    write("f")
    for length in (1, 100, 249, 250, 251, 255, 256, 1000):
        name = b"user." + b"n" * length
        see.call(f"name of {len(name)} bytes", libc.setxattr, "f", name, b"v")
        see.call(f"get of {len(name)} bytes", libc.getxattr, "f", name, 10)
        see.call(f"remove {len(name)} bytes", os.removexattr, "f", name)
    for length in (0, 1, 2, 100, 1000, 2000, 65_537, 100_000):
        see.call(f"value of {length} bytes", libc.setxattr, "f", b"user.a", b"v" * length)
        see.call(f"then {length}", lambda: len(os.getxattr("f", "user.a")))


def values_beyond_a_block(see: Observation) -> None:
    """ext4 keeps what fits in a block of 4 KiB, all attributes together."""
    write("f")
    for length in (5_000, 65_536):
        see.call(f"value of {length} bytes", libc.setxattr, "f", b"user.a", b"v" * length)
        see.call(f"then {length}", lambda: len(os.getxattr("f", "user.a")))


def sizes(see: Observation) -> None:
    """A buffer of no size asks for the size; one too small is ERANGE."""
    write("f")
    libc.setxattr("f", b"user.a", b"0123456789")
    libc.setxattr("f", b"user.empty", b"")
    for room in (0, 1, 9, 10, 11, 65_536, 100_000):
        see.call(f"get {room}", libc.getxattr, "f", b"user.a", room)
        see.call(f"get empty {room}", libc.getxattr, "f", b"user.empty", room)
        see.call(f"get absent {room}", libc.getxattr, "f", b"user.none", room)
        see.call(f"list {room}", libc.listxattr, "f", room)
    write("g")
    for room in (0, 1, 100):
        see.call(f"list of none {room}", libc.listxattr, "g", room)


def who(see: Observation) -> None:
    """user. goes by the mode, trusted. is root's."""
    for mode in (0o644, 0o666, 0o600, 0o444, 0o060, 0o000):
        for kind in ("file", "directory"):
            path = f"{kind}{mode:o}"
            make(kind, path)
            libc.setxattr(path, b"user.a", b"u")
            libc.setxattr(path, b"trusted.a", b"t")
            libc.setxattr(path, b"security.a", b"s")
            os.chown(path, OWNER.uid, TEAM)
            os.chmod(path, mode)
            for caller in EVERYBODY:
                with acting(caller):
                    for name in (b"user.a", b"trusted.a", b"security.a"):
                        key = f"{name!r} {path} {caller.name}"
                        see.call(f"get {key}", libc.getxattr, path, name, 100)
                        see.call(f"set {key}", libc.setxattr, path, name, b"new")
                        see.call(f"remove {key} none", os.removexattr, path, name + b"x")
                    see(f"names {path} {caller.name}", _names(path))


def sticky_directories(see: Observation) -> None:
    """user. attributes of a sticky directory are its owner's to set."""
    os.mkdir("d")
    os.chown("d", OWNER.uid, TEAM)
    os.chmod("d", 0o1777)
    for caller in EVERYBODY:
        with acting(caller):
            see.call(f"{caller.name}", libc.setxattr, "d", b"user.a", b"x")
            see.call(f"{caller.name} removes", os.removexattr, "d", "user.a")


def by_descriptors_and_links(see: Observation) -> None:
    write("f")
    os.symlink("f", "link")
    see.call("set by a link", os.setxattr, "link", "user.a", b"1")
    see("of the file", _names("f"))
    see.call("set on the link", lambda: os.setxattr("link", "user.a", b"1", follow_symlinks=False))
    see.call(
        "trusted on the link", lambda: os.setxattr("link", "trusted.a", b"1", follow_symlinks=False)
    )
    see("of the link", _names("link"))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
        descriptor = os.open("f", flags)
        see.call(f"get {flags}", os.getxattr, descriptor, "user.a")
        see.call(f"set {flags}", os.setxattr, descriptor, "user.b", b"2")
        see(f"list {flags}", outcome(lambda d=descriptor: sorted(os.listxattr(d))))
    os.link("f", "g")
    see("of the other name", _names("g"))
    os.rename("f", "h")
    see("moved along", _names("h"))
    opened("h", os.O_WRONLY | os.O_TRUNC)
    see("truncated", _names("h"))


def many(see: Observation) -> None:
    write("f")
    for number in range(60):
        libc.setxattr("f", b"user.n%03d" % number, b"%d" % number)
    see("all", _names("f"))
    see("values", [os.getxattr("f", f"user.n{n:03}").decode() for n in range(60)])
    for number in range(0, 60, 2):
        os.removexattr("f", f"user.n{number:03}")
    see("half", _names("f"))
    write("other")
    see("of another", _names("other"))


def binary_values(see: Observation) -> None:
    write("f")
    for value in (b"", b"\0", b"\0\0", b"a\0b", bytes(range(256)), b"\n"):
        libc.setxattr("f", b"user.a", value)
        see(f"{value!r}", os.getxattr("f", "user.a") == value)


ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")


def acls(see: Observation) -> None:
    """POSIX ACLs: stored and enforced by ext4."""
    write("f")
    os.mkdir("d")
    see.call("get", libc.getxattr, "f", b"system.posix_acl_access", 100)
    see.call("set", libc.setxattr, "f", b"system.posix_acl_access", ACL)
    see.call("set a default", libc.setxattr, "d", b"system.posix_acl_default", ACL)
    see.call("remove", os.removexattr, "f", "system.posix_acl_access")


def capabilities(see: Observation) -> None:
    """File capabilities are kept, and gone after a write."""
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    write("f")
    see.call("set", libc.setxattr, "f", b"security.capability", value)
    see.call("bad", libc.setxattr, "f", b"security.capability", b"nonsense")
    see.call("get", lambda: os.getxattr("f", "security.capability") == value)
    os.chown("f", OWNER.uid, OWNER.gid)
    see.call("after chown", libc.getxattr, "f", b"security.capability", 100)
    libc.setxattr("f", b"security.capability", value)
    os.chmod("f", 0o666)
    see.call("after chmod", libc.getxattr, "f", b"security.capability", 100)
    with acting(OWNER):
        descriptor = os.open("f", os.O_WRONLY)
        os.write(descriptor, b"x")
        os.close(descriptor)
    see.call("after a write", libc.getxattr, "f", b"security.capability", 100)


FS_IOC_GETFLAGS = 0x80086601


def inode_flags(see: Observation) -> None:
    """What lsattr(1) asks with."""
    write("f")
    descriptor = os.open("f", os.O_RDONLY)
    see.call("get", lambda: len(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8))))
