"""chmod(2), fchmod(2): every mode, who may, and what it does to times."""

from __future__ import annotations

import os

from tests.posix.caller import EVERYBODY, OWNER, TEAM, acting
from tests.posix.observation import Observation, make, moved, outcome, perm, write

KINDS = ("file", "directory", "fifo", "socket", "char", "block")


def every_mode(see: Observation) -> None:
    for kind in ("file", "directory"):
        make(kind, kind)
        for mode in range(0, 0o10000, 7):
            os.chmod(kind, mode)
            see(f"{kind} {mode:04o}", perm(kind))


def who(see: Observation) -> None:
    for kind in KINDS:
        make(kind, kind)
        for caller in EVERYBODY:
            for owner in (0, OWNER.uid):
                os.chown(kind, owner, TEAM)
                os.chmod(kind, 0o600)
                with acting(caller):
                    results = moved(lambda k=kind: os.chmod(k, 0o640), kind)
                see(f"{kind} of {owner} by {caller.name}", f"{results} {perm(kind)}")


def through_links_and_descriptors(see: Observation) -> None:
    write("file")
    os.symlink("file", "link")
    see("by a link", moved(lambda: os.chmod("link", 0o611), "file"))
    see("the file", perm("file"))
    see("the link", perm("link"))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH):
        descriptor = os.open("file", flags)
        see.call(f"fchmod {flags}", os.fchmod, descriptor, 0o600 + flags % 7)
        see(f"after {flags}", perm("file"))
        see(f"through /proc {flags}", outcome(os.chmod, f"/proc/self/fd/{descriptor}", 0o644))
        os.close(descriptor)
    os.unlink("link")
    descriptor = os.open("file", os.O_RDWR)
    os.unlink("file")
    see("of an unlinked file", moved(lambda: os.fchmod(descriptor, 0o400), descriptor))
    see("shows", f"{os.fstat(descriptor).st_mode:o}")
    see.call("type bits are ignored", os.fchmod, descriptor, 0o140444)
    see("still a file", f"{os.fstat(descriptor).st_mode:o}")


def refused_leaves_times(see: Observation) -> None:
    write("file")
    os.chown("file", OWNER.uid, OWNER.gid)
    for caller in EVERYBODY[2:]:
        with acting(caller):
            see(caller.name, moved(lambda: os.chmod("file", 0o777), "file"))
    see("to the same mode", moved(lambda: os.chmod("file", 0o644), "file"))
