"""Set-user-id and set-group-id: who may set them, what clears them, what directories hand down, what exec makes of them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

from tests.posix import libc
from tests.posix.caller import EVERYBODY, MATE, MEMBER, OTHER, OWNER, ROOT, TEAM, acting
from tests.posix.observation import Observation, make, opened, outcome, perm, write

BITS = (
    0o6777,
    0o6755,
    0o4755,
    0o2755,
    0o2745,
    0o2705,
    0o6711,
    0o6600,
    0o7777,
    0o4644,
    0o2644,
    0o2674,
)


def setting(see: Observation) -> None:
    """chmod(2) by everybody, of files whose group they are and are not in."""
    for kind in ("file", "directory", "fifo"):
        for group in (OWNER.gid, TEAM, OTHER.gid, 0):
            name = f"{kind}-{group}"
            make(kind, name)
            for caller in EVERYBODY:
                os.chown(name, caller.uid, group)
                for bits in BITS:
                    os.chmod(name, 0o600)
                    with acting(caller):
                        result = outcome(os.chmod, name, bits)
                    see(f"{kind} of {caller.name}:{group} {bits:o}", f"{result} {perm(name)}")


CHANGES = {
    "write": lambda: _through(lambda descriptor: os.write(descriptor, b"x")),
    "empty write": lambda: _through(lambda descriptor: os.write(descriptor, b"")),
    "pwrite beyond": lambda: _through(lambda descriptor: os.pwrite(descriptor, b"x", 100)),
    "truncate": lambda: os.truncate("file", 1),
    "truncate longer": lambda: os.truncate("file", 100),
    "truncate to the same": lambda: os.truncate("file", 7),
    "ftruncate": lambda: _through(lambda descriptor: os.ftruncate(descriptor, 1)),
    "open truncating": lambda: opened("file", os.O_WRONLY | os.O_TRUNC),
    "open appending": lambda: opened("file", os.O_WRONLY | os.O_APPEND),
    "fallocate": lambda: _through(lambda descriptor: os.posix_fallocate(descriptor, 0, 100)),
    "copy_file_range": lambda: _through(_copy),
    "setxattr": lambda: os.setxattr("file", "user.a", b"b"),
    "utimes": lambda: os.utime("file"),
    "link": lambda: os.link("file", "other name"),
    "rename": lambda: _there_and_back(),
    "chown to oneself": lambda: os.chown("file", os.geteuid(), -1),
    "chown of nothing": lambda: os.chown("file", -1, -1),
    "chgrp": lambda: os.chown("file", -1, os.getegid()),
    "chgrp to the team": lambda: os.chown("file", -1, TEAM),
    "chmod to the same": lambda: os.chmod("file", os.stat("file").st_mode & 0o7777),
    "read": lambda: opened("file", os.O_RDONLY),
}


def _through(action) -> object:
    descriptor = os.open("file", os.O_RDWR)
    try:
        return action(descriptor)
    finally:
        os.close(descriptor)


def _there_and_back() -> None:
    os.rename("file", "x")
    os.rename("x", "file")


def _copy(descriptor: int) -> int:
    source = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    try:
        return os.copy_file_range(source, descriptor, 2, 0, 5)
    finally:
        os.close(source)


def clearing(see: Observation) -> None:
    """What clears the bits of a regular file, by everybody who may write to it."""
    for bits in (0o6777, 0o4777, 0o2777, 0o6666, 0o2767, 0o6776):
        for caller in EVERYBODY:
            for name, change in CHANGES.items():
                stage = f"{bits:o}-{caller.name}-{name}"
                os.mkdir(stage)
                os.chmod(stage, 0o777)
                os.chdir(stage)
                write("file")
                os.chown("file", OWNER.uid, TEAM)
                os.chmod("file", bits)
                with acting(caller):
                    result = outcome(change)
                see(f"{name} of {bits:o} by {caller.name}", f"{result} {perm('file')}")
                os.chdir("..")


def clearing_of_others(see: Observation) -> None:
    """chown(2) leaves the bits of directories alone."""
    for kind in ("directory", "fifo", "socket", "file"):
        for bits in (0o6777, 0o2777, 0o2767, 0o4700):
            for caller in (ROOT, OWNER):
                for uid, gid in (
                    (-1, -1),
                    (OWNER.uid, -1),
                    (-1, OWNER.gid),
                    (OTHER.uid, OTHER.gid),
                ):
                    name = f"{kind} {bits:o} {caller.name} {uid}:{gid}"
                    make(kind, name)
                    os.chown(name, OWNER.uid, OWNER.gid)
                    os.chmod(name, bits)
                    with acting(caller):
                        result = outcome(os.chown, name, uid, gid)
                    see(name, f"{result} {perm(name)}")


def inheriting(see: Observation) -> None:
    """A set-group-id directory hands down its group, and its bit to directories; without it the group is the maker's."""
    makers = {
        "creat": lambda path, mode: opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode),
        "mkdir": os.mkdir,
        "mknod": lambda path, mode: libc.mknod(path, stat.S_IFREG | mode),
        "mkfifo": os.mkfifo,
        "symlink": lambda path, mode: os.symlink("x", path),
    }
    for bits in (0o2777, 0o0777, 0o6777, 0o4777, 0o3777):
        for group in (TEAM, 0, OTHER.gid):
            top = f"{bits:o}-{group}"
            os.mkdir(top)
            os.chown(top, OWNER.uid, group)
            os.chmod(top, bits)
            for caller in EVERYBODY:
                for name, maker in makers.items():
                    for mode in (0o777, 0o2777, 0o6775, 0o2745, 0o1700):
                        path = f"{top}/{caller.name}-{name}-{mode:o}"
                        with acting(caller):
                            result = outcome(maker, path, mode)
                        status = os.lstat(path)
                        see(path, f"{result} {perm(path)} {status.st_uid}:{status.st_gid}")


def umask(see: Observation) -> None:
    """What is made has the mode asked for less the umask."""
    for mask in (0o000, 0o022, 0o077, 0o777, 0o027, 0o111, 0o7777):
        os.umask(mask)
        for mode in (0o777, 0o666, 0o7777, 0o4755, 0o2755, 0o1755, 0o000, 0o421):
            for name, maker in (
                ("creat", lambda path, m: opened(path, os.O_CREAT | os.O_WRONLY, m)),
                ("mkdir", os.mkdir),
                ("mkfifo", os.mkfifo),
                ("mknod", lambda path, m: libc.mknod(path, stat.S_IFREG | m)),
            ):
                path = f"{name}-{mask:o}-{mode:o}"
                maker(path, mode)
                see(path, perm(path))
    os.umask(0o022)


def executing(see: Observation) -> None:
    """A program of somebody else's runs as him, where the mount allows it (`-o suid`)."""
    shutil.copy("/usr/bin/id", "id")
    for owner, group, bits in (
        (OWNER.uid, OWNER.gid, 0o4755),
        (OWNER.uid, OWNER.gid, 0o2755),
        (OWNER.uid, TEAM, 0o6755),
        (OWNER.uid, TEAM, 0o2745),
        (OWNER.uid, TEAM, 0o0755),
        (0, 0, 0o6755),
        (OWNER.uid, OWNER.gid, 0o700),
        (OWNER.uid, OWNER.gid, 0o611),
    ):
        os.chown("id", owner, group)
        os.chmod("id", bits)
        for caller in (ROOT, OWNER, MEMBER, MATE, OTHER):
            with acting(caller):
                for what in ("-u", "-g"):
                    said = outcome(
                        lambda w=what: subprocess.run(
                            ["./id", w], capture_output=True, text=True
                        ).stdout.strip()
                    )
                    see(f"{owner}:{group} {bits:o} {what} by {caller.name}", said)
