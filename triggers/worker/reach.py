"""An interpreter below a private directory, such as root's home, made reachable for workers of other users.

A worker imports lazily, as its script's owner, who may not be allowed into the directory that Python was installed in.
The zygote, if it is root, then makes a mount namespace of its own in which that directory shows nothing but the
interpreter: an empty directory is laid over it, and the needed ones are bound into it. No other process sees this.
Mounts of this file system that others have are let go there, as they could not end otherwise.

Source: mount_namespaces(7), mount(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

__all__ = ["make_reachable", "unreachable"]

MS_BIND, MS_REC, MS_SLAVE, MS_NOSUID, MS_NODEV = 4096, 16384, 1 << 19, 2, 4
CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
PASS = 0o001
OURS = "fuse.cascadefs"

_libc = ctypes.CDLL(None, use_errno=True)


def make_reachable(mountpoint: str = "") -> list[str]:
    """Make what Python needs reachable for everybody; what stays out of reach, in words.

    `mountpoint`: the mount whose scripts these are, which stays; empty: none.
    """
    needed = sorted(
        {sys.prefix, sys.base_prefix, *(path for path in sys.path if os.path.isdir(path))}
    )
    closed = unreachable(needed)
    if not closed:
        return []
    try:
        _cover(closed, needed)
        _let_go(mountpoint)
    except OSError as error:
        return [f"{directory}: closed to other users, and {error}" for directory in sorted(closed)]
    return []


def unreachable(paths: list[str]) -> set[str]:
    """The topmost directories on the way to `paths` that not everybody may pass."""
    closed = set()
    for path in paths:
        real, way = os.path.realpath(path), ""
        for part in real.strip("/").split("/"):
            way = f"{way}/{part}"
            if not os.stat(way).st_mode & PASS:
                closed.add(way)
                break
    return closed


def _cover(closed: set[str], needed: list[str]) -> None:
    """In a mount namespace of our own, show nothing of the closed directories but what is needed."""
    _check(_libc.unshare(CLONE_NEWNS), "no mount namespace")
    _mount("none", "/", MS_REC | MS_SLAVE)
    for directory in closed:
        inside = [p for p in map(os.path.realpath, needed) if p.startswith(f"{directory}/")]
        inside = [p for p in inside if not any(p != q and p.startswith(f"{q}/") for q in inside)]
        held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in set(inside)}
        _mount("tmpfs", directory, MS_NOSUID | MS_NODEV, "tmpfs", "mode=755,size=1m")
        for path, fd in held.items():
            os.makedirs(path)
            _mount(f"/proc/self/fd/{fd}", path, MS_BIND | MS_REC)
            os.close(fd)


def _let_go(mountpoint: str) -> None:
    """A namespace that has another mount, too, would keep it from ending, where unmounting does not propagate to here."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        lines = [line.partition(" - ") for line in table]
    found = [left.split(" ")[4] for left, _, right in lines if right.split(" ")[0] == OURS]
    for field in reversed(found):
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
        if place != mountpoint:
            _libc.umount2(os.fsencode(place), MNT_DETACH)  # Should it fail, it is as it was.


def _mount(source: str, target: str, flags: int, kind: str = "", data: str = "") -> None:
    answer = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(answer, f"mount on {target}")


def _check(answer: int, what: str) -> None:
    if answer != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
