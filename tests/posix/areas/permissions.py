"""Who may do what: every mode of files and directories, for owner, group, supplementary group, others and root."""

from __future__ import annotations

import os

from tests.posix import libc
from tests.posix.caller import EVERYBODY, MATE, MEMBER, OTHER, OWNER, ROOT, TEAM, acting
from tests.posix.observation import Observation, make, opened, outcome, write

USERS = (OWNER, MEMBER, MATE, OTHER)

MODES = sorted(
    {bits << shift for bits in range(8) for shift in (0, 3, 6)}
    | {0o007, 0o070, 0o700, 0o077, 0o707, 0o770, 0o777, 0o644, 0o640, 0o600, 0o755, 0o466, 0o646}
)


def file_modes(see: Observation) -> None:
    """open(2), access(2), truncate(2) and execve(2) by every mode."""
    write("file", b"#!/bin/true\n")
    os.chown("file", OWNER.uid, TEAM)
    for mode in MODES:
        os.chmod("file", mode)
        for caller in EVERYBODY:
            with acting(caller):
                granted = "".join(
                    letter
                    for letter, flags in (
                        ("r", os.O_RDONLY),
                        ("w", os.O_WRONLY),
                        ("+", os.O_RDWR),
                        ("t", os.O_RDONLY | os.O_TRUNC),
                        ("a", os.O_WRONLY | os.O_APPEND),
                        ("c", os.O_WRONLY | os.O_CREAT),
                    )
                    if outcome(opened, "file", flags) == "ok"
                )
                asked = "".join(str(int(os.access("file", bits))) for bits in range(8))
                cut = outcome(os.truncate, "file", 5)
            see(f"{mode:03o} {caller.name}", f"{granted} {asked} {cut}")


def searching(see: Observation) -> None:
    """Looking up through, listing and entering directories of every mode."""
    os.mkdir("directory")
    write("directory/file")
    os.mkdir("directory/below")
    write("directory/below/file")
    os.chown("directory", OWNER.uid, TEAM)
    for mode in MODES:
        os.chmod("directory", mode)
        for caller in EVERYBODY:
            with acting(caller):
                results = (
                    outcome(lambda: os.stat("directory/file") and None),
                    outcome(lambda: os.stat("directory/absent") and None),
                    outcome(lambda: os.stat("directory/below/file") and None),
                    outcome(opened, "directory/file", os.O_RDONLY),
                    outcome(lambda: len(os.listdir("directory"))),
                    outcome(lambda: os.access("directory/file", os.F_OK)),
                    outcome(opened, "directory", os.O_RDONLY),
                    outcome(opened, "directory", os.O_PATH),
                    outcome(opened, "directory", os.O_WRONLY),
                )
            see(f"{mode:03o} {caller.name}", " ".join(results))


ACTIONS = {
    "creat": lambda: opened("directory/new", os.O_CREAT | os.O_WRONLY),
    "creat what is there": lambda: opened("directory/there", os.O_CREAT | os.O_RDONLY),
    "mkdir": lambda: os.mkdir("directory/new"),
    "mkfifo": lambda: os.mkfifo("directory/new"),
    "symlink": lambda: os.symlink("x", "directory/new"),
    "link": lambda: os.link("mine", "directory/new"),
    "rename in": lambda: os.rename("mine", "directory/new"),
    "rename over": lambda: os.rename("mine", "directory/there"),
    "rename out": lambda: os.rename("directory/there", "out"),
    "rename inside": lambda: os.rename("directory/there", "directory/new"),
    "exchange": lambda: libc.renameat2("mine", "directory/there", libc.RENAME_EXCHANGE),
    "unlink": lambda: os.unlink("directory/there"),
    "rmdir": lambda: os.rmdir("directory/empty"),
    "mkdir of what is there": lambda: os.mkdir("directory/there"),
    "unlink of what is not there": lambda: os.unlink("directory/absent"),
}


def _stage(where: str) -> None:
    os.mkdir(where)
    os.chmod(where, 0o777)
    os.mkdir(f"{where}/directory")
    write(f"{where}/directory/there")
    os.mkdir(f"{where}/directory/empty")
    write(f"{where}/mine")
    os.chown(f"{where}/directory", OWNER.uid, TEAM)


def directory_modes(see: Observation) -> None:
    """Making, moving and removing names in directories of every mode of each class."""
    stage = "stage"
    _stage(stage)
    for mode in (0, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700, 0o777, 0o030, 0o003, 0o733):
        for caller in EVERYBODY:
            for name, action in ACTIONS.items():
                os.chdir(stage)
                os.chmod("directory", mode)
                os.chown("mine", caller.uid, caller.gid)
                os.chown("directory/there", caller.uid, caller.gid)
                with acting(caller):
                    result = outcome(action)
                key = f"{name} {mode:03o} {caller.name}"
                see(key, f"{result} {sorted(os.listdir('directory'))}")
                os.chdir("..")
                if result == "ok":
                    stage = key.replace(" ", "-")
                    _stage(stage)


def moving_directories(see: Observation) -> None:
    """A directory that gets another parent is changed itself: its `..` is."""
    for caller in EVERYBODY:
        for mode in (0o755, 0o777, 0o577, 0o775):
            for kind in ("directory", "file"):
                for stays in (True, False):
                    stage = f"{caller.name}-{mode:o}-{kind}-{stays}"
                    os.mkdir(stage)
                    os.chmod(stage, 0o777)
                    os.chdir(stage)
                    os.mkdir("to")
                    os.chmod("to", 0o777)
                    make(kind, "moved")
                    os.chown("moved", OWNER.uid, TEAM)
                    os.chmod("moved", mode)
                    with acting(caller):
                        see.call(stage, os.rename, "moved", "new" if stays else "to/new")
                    os.chdir("..")


def effective_and_real(see: Observation) -> None:
    """access(2) asks for the real user, faccessat(2) with AT_EACCESS for the effective one."""
    write("file")
    os.chown("file", OWNER.uid, OWNER.gid)
    for mode in (0o600, 0o060, 0o006, 0o000, 0o777, 0o100):
        os.chmod("file", mode)
        for real, effective in ((ROOT, OWNER), (OWNER, ROOT), (OTHER, OWNER), (OWNER, OTHER)):
            os.setresuid(real.uid, effective.uid, 0)
            try:
                asked = [
                    int(os.access("file", bits, effective_ids=who))
                    for who in (False, True)
                    for bits in range(8)
                ]
            finally:
                os.setresuid(0, 0, 0)
            see(f"{mode:03o} real {real.name}, effective {effective.name}", asked)


def descriptors_keep_rights(see: Observation) -> None:
    """What a descriptor was opened for stays allowed, whatever becomes of the modes."""
    write("file")
    os.chown("file", OWNER.uid, OWNER.gid)
    with acting(OWNER):
        reading = os.open("file", os.O_RDONLY)
        writing = os.open("file", os.O_WRONLY)
    os.chmod("file", 0)
    os.chown("file", 0, 0)
    with acting(OWNER):
        see.call("pread", os.pread, reading, 10, 0)
        see.call("pwrite", os.pwrite, writing, b"x", 0)
        see.call("ftruncate", os.ftruncate, writing, 3)
        see.call("ftruncate of a reader", os.ftruncate, reading, 3)
        see.call("read of a writer", os.read, writing, 1)
        see.call("write of a reader", os.write, reading, b"x")
        see.call("fchmod", os.fchmod, writing, 0o600)
        see.call("fchown", os.fchown, writing, OWNER.uid, OWNER.gid)
        see.call("fsync of a reader", os.fsync, reading)
        see.call("open again", opened, "file", os.O_RDONLY)
        see.call("open again by /proc", opened, f"/proc/self/fd/{reading}", os.O_RDONLY)


def groups(see: Observation) -> None:
    """A right of the group is had by primary and supplementary groups, and by as many as there are."""
    write("file")
    os.chown("file", 0, TEAM)
    os.chmod("file", 0o060)
    for count in (1, 2, 33, 100, 1000):
        many = tuple(range(20_000, 20_000 + count - 1))
        for position in ("first", "last", "absent"):
            groups = {"first": (TEAM, *many), "last": (*many, TEAM), "absent": many}[position]
            with acting(OTHER._replace(groups=groups)):
                see.call(f"{count} groups, {position}", opened, "file", os.O_RDWR)
            with acting(OTHER._replace(groups=groups)):
                see.call(f"{count} groups, {position}, access", os.access, "file", os.W_OK)
