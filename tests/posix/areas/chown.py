"""chown(2), lchown(2), fchown(2): who may give what to whom, and what it does to modes and times."""

from __future__ import annotations

import os

from tests.posix.caller import EVERYBODY, MEMBER, OTHER, OWNER, TEAM, acting
from tests.posix.observation import Observation, make, moved, outcome, shape, write

KINDS = ("file", "directory", "fifo", "socket", "symlink", "char")

TARGETS = [
    (-1, -1),
    (OWNER.uid, -1),
    (-1, OWNER.gid),
    (OWNER.uid, OWNER.gid),
    (OTHER.uid, -1),
    (-1, OTHER.gid),
    (-1, TEAM),
    (OWNER.uid, TEAM),
    (0, 0),
    (OTHER.uid, OTHER.gid),
    (-1, 10_777),
    (2**31, 2**32 - 2),
]


def who(see: Observation) -> None:
    for kind in KINDS:
        for caller in EVERYBODY:
            for owner in (OWNER.uid, caller.uid):
                for uid, gid in TARGETS:
                    path = f"{kind} {owner} {caller.name} {uid}:{gid}"
                    if os.path.lexists(path):
                        continue
                    make(kind, path)
                    os.lchown(path, owner, 0)
                    with acting(caller):
                        result = outcome(os.lchown, path, uid, gid)
                    see(path, f"{result} {shape(path)}")


def times(see: Observation) -> None:
    for kind in KINDS:
        make(kind, kind)
        for caller in EVERYBODY:
            for uid, gid in (
                (-1, -1),
                (caller.uid, caller.gid),
                (caller.uid, -1),
                (-1, caller.gid),
                (1, 1),
            ):
                os.lchown(kind, caller.uid, caller.gid)
                with acting(caller):
                    seen = moved(lambda k=kind, u=uid, g=gid: os.lchown(k, u, g), kind)
                see(f"{kind} {caller.name} {uid}:{gid}", seen)


def links(see: Observation) -> None:
    write("file")
    os.symlink("file", "link")
    see("follows", moved(lambda: os.chown("link", 5, 6), "file"))
    see("the file", shape("file"))
    see("the link", shape("link"))
    see("does not follow", moved(lambda: os.lchown("link", 7, 8), "link", "file"))
    see("the file still", shape("file"))
    see("the link now", shape("link"))
    os.link("file", "other")
    see("of two names", moved(lambda: os.chown("file", 9, 9), "other"))
    see("other name", shape("other"))
    descriptor = os.open("file", os.O_RDONLY)
    see("by a descriptor", moved(lambda: os.fchown(descriptor, 10, 11), "file"))
    os.unlink("file")
    os.unlink("other")
    see("of an unlinked file", moved(lambda: os.fchown(descriptor, 12, 13), descriptor))
    see("unlinked", shape(descriptor))
    path = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    see.call("fchown of O_PATH", os.fchown, path, 1, 1)
    see.call("by an empty path", os.chown, f"/proc/self/fd/{path}", 1, 1)
    see("and", shape("link"))


def large_numbers(see: Observation) -> None:
    write("file")
    for number in (0, 1, 65_533, 65_534, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 2):
        see.call(f"to {number}", os.chown, "file", number, number)
        see(f"shows {number}", shape("file"))


def giving_away_a_group(see: Observation) -> None:
    """An owner may hand a file to each of his groups, and no other."""
    write("file")
    for group in (MEMBER.gid, *MEMBER.groups, OTHER.gid, 0, OWNER.gid):
        os.chown("file", MEMBER.uid, MEMBER.gid)
        with acting(MEMBER):
            see.call(f"to {group}", os.chown, "file", -1, group)
            see.call(f"to {group} and oneself", os.chown, "file", MEMBER.uid, group)
            see.call(f"to {group} and somebody", os.chown, "file", OTHER.uid, group)
