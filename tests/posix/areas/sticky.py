"""The sticky bit: in a directory with it, only who owns the name's file or the directory removes or moves the name."""

from __future__ import annotations

import os

from tests.posix import libc
from tests.posix.caller import MEMBER, OTHER, OWNER, ROOT, TEAM, Caller, acting
from tests.posix.observation import Observation, make, opened, outcome, write

CALLERS = (ROOT, OWNER, OTHER, MEMBER)
KINDS = ("file", "directory", "symlink", "fifo", "socket")


def _removal(kind: str) -> object:
    return (os.rmdir if kind == "directory" else os.unlink)("sticky/victim")


ACTIONS = {
    "remove": _removal,
    "rename out": lambda kind: os.rename("sticky/victim", "out"),
    "rename inside": lambda kind: os.rename("sticky/victim", "sticky/new"),
    "rename over": lambda kind: os.rename(f"mine {kind}", "sticky/victim"),
    "exchange": lambda kind: libc.renameat2(f"mine {kind}", "sticky/victim", libc.RENAME_EXCHANGE),
    "exchange from": lambda kind: libc.renameat2(
        "sticky/victim", f"mine {kind}", libc.RENAME_EXCHANGE
    ),
    "link": lambda kind: os.link("sticky/victim", "linked", follow_symlinks=False),
}


def removing(see: Observation) -> None:
    for of_directory in (ROOT, OWNER, OTHER):
        for of_file in (ROOT, OWNER, OTHER):
            for kind in KINDS:
                _try(see, 0o1777, of_directory, of_file, kind)
            for mode in (0o0777, 0o1775, 0o1770):
                _try(see, mode, of_directory, of_file, "file")


def _stage(where: str, mode: int, of_directory: Caller, of_file: Caller, kind: str) -> None:
    os.mkdir(where)
    os.chmod(where, 0o777)
    os.mkdir(f"{where}/sticky")
    make(kind, f"{where}/sticky/victim")
    os.lchown(f"{where}/sticky/victim", of_file.uid, of_file.gid)
    make(kind, f"{where}/mine {kind}")
    os.chown(f"{where}/sticky", of_directory.uid, TEAM)
    os.chmod(f"{where}/sticky", mode)


def _try(see: Observation, mode: int, of_directory: Caller, of_file: Caller, kind: str) -> None:
    stage = f"{mode:o}-{of_directory.name}-{of_file.name}-{kind}"
    _stage(stage, mode, of_directory, of_file, kind)
    for caller in CALLERS:
        results = {}
        for name, action in ACTIONS.items():
            os.chdir(stage)
            os.lchown(f"mine {kind}", caller.uid, caller.gid)
            with acting(caller):
                results[name] = outcome(action, kind)
            os.chdir("..")
            if results[name] == "ok":
                stage += "+"
                _stage(stage, mode, of_directory, of_file, kind)
        see(
            f"{mode:o} directory of {of_directory.name}, {kind} of {of_file.name}, {caller.name}",
            results,
        )


def opening(see: Observation) -> None:
    """The kernel's own protection of others' files in sticky directories (fs.protected_regular) is the same."""
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    for owner in CALLERS:
        path = f"sticky/{owner.name}"
        write(path)
        os.chown(path, owner.uid, owner.gid)
        os.chmod(path, 0o666)
        for caller in CALLERS:
            with acting(caller):
                for word, flags in (("creat", os.O_CREAT | os.O_WRONLY), ("open", os.O_WRONLY)):
                    see.call(f"{word} {owner.name}'s as {caller.name}", opened, path, flags)


def setting(see: Observation) -> None:
    """Who may set the bit, and on what."""
    for kind in ("file", "directory", "fifo"):
        make(kind, kind)
        os.chown(kind, OWNER.uid, OWNER.gid)
        for caller in CALLERS:
            with acting(caller):
                result = outcome(os.chmod, kind, 0o1755)
            see(f"{kind} {caller.name}", f"{result} {os.lstat(kind).st_mode & 0o7777:04o}")
            os.chmod(kind, 0o644)
