"""Mountpoints: what is mounted where, whether it is alive, and taking it down.

All of it works beside a dead or hanging mount: the table is read from /proc, and a mountpoint is touched only where
that is the question. Sources: proc(5) on mountinfo, umount(2), fusermount3(1).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "Busy",
    "Mount",
    "UnmountFailed",
    "is_dead",
    "mounted_at",
    "resolve",
    "unmount",
    "users_of",
]

TYPE: Final = "fuse.cascadefs"

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_FUSERMOUNT_SECONDS: Final = 30.0
_USERS_MAX: Final = 5


class UnmountFailed(Exception):
    """It is still mounted; the message says why."""


class Busy(UnmountFailed):
    """A process has a file or directory of it open, or works in it."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table."""

    path: Path
    type: str
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether it is a cascadefs."""
        return self.type == TYPE


def resolve(path: Path) -> Path:
    """The absolute path without symbolic links, asking a mount that may lie there nothing if it is named directly."""
    direct = Path(os.path.realpath(path.parent), path.name) if path.name not in ("", "..") else path
    return direct if mounted_at(direct) else Path(os.path.realpath(path))


def mounted_at(path: Path) -> Mount | None:
    """What is mounted exactly there (a resolved path); the topmost where mounts cover each other."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            place = Path(_unescape(left.split(" ")[4]))
            if place == path:
                kind, source, *_ = right.split(" ")
                found = Mount(place, kind, _unescape(source))
    return found


def _unescape(field: str) -> str:
    r"""Undo the octal that blanks, line ends and backslashes have in the table (``\040``)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def is_dead(path: Path) -> bool:
    """Whether the daemon of the mount there is gone.

    Asked with statfs(2): what stat(2) wants to know the kernel may remember long after the daemon.
    """
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmount what is mounted there.

    Args:
        path: a resolved path.
        lazy: take it out of the tree at once, though processes may still use it.

    Raises:
        Busy: it is in use; not if `lazy`.
        UnmountFailed: anything else.
    """
    if os.geteuid() == 0:
        _unmount_as_root(path, lazy=lazy)
    else:
        _unmount_as_user(path, lazy=lazy)


def _unmount_as_root(path: Path, *, lazy: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(path), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        raise Busy("in use")
    raise UnmountFailed(os.strerror(number))


def _unmount_as_user(path: Path, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=_FUSERMOUNT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnmountFailed(str(error)) from error
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace").strip()
    if "busy" in said:
        raise Busy("in use")
    raise UnmountFailed(said or f"fusermount3 ended with {done.returncode}")


def users_of(path: Path) -> list[str]:
    """Some processes that use the mount there, as "name (pid)"; only links are read, nothing of the mount."""
    prefix = f"{path}/"
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            targets = (os.readlink(link) for link in links)
            if any(target == str(path) or target.startswith(prefix) for target in targets):
                users.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
        except OSError:  # gone, or not ours to look at
            continue
        if len(users) == _USERS_MAX:
            break
    return users
