"""Set-user-id and set-group-id bits, and file capabilities, end when somebody changes a file: as on a disk.

Method: a program becomes each of three users in turn and changes files of every kind of mode in every way, here and in a
directory of the disk; the modes left must be the same, at once and after a remount.

One difference is the kernel's: where it clears the bits itself (the pyfuse3 door) it leaves the set-group-id bit of a
file its group may not execute. These are left out. And where user 0 writes to a file with both bits and capabilities, the
kernel announces it by the very requests of a chown(2) of nothing, which ends the bits: no file here has both for user 0.
"""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest

from tests.mounted.program import run

pytestmark = pytest.mark.mounted

_CHANGE_AS_USERS = """
    import ctypes, json, mmap, os, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

    def opened(path, flags=os.O_RDWR):
        return os.open(path, flags, 0o644)

    def write(path):
        os.write(opened(path), b"y")

    def fallocate(path):
        if libc.fallocate(opened(path), 0, ctypes.c_long(0), ctypes.c_long(5000)):
            raise OSError(ctypes.get_errno(), "fallocate")

    def copy(path):
        descriptor = opened(path)
        os.copy_file_range(descriptor, descriptor, 10, 0, 50)

    def mapped(path):
        with mmap.mmap(opened(path), 100) as mapping:
            mapping[0] = 65

    ways = {
        "nothing": lambda path: None,
        "write": write,
        "mapping": mapped,
        "truncate": lambda path: os.truncate(path, 5),
        "ftruncate": lambda path: os.ftruncate(opened(path), 5),
        "open": lambda path: opened(path, os.O_WRONLY | os.O_TRUNC),
        "create": lambda path: opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        "fallocate": fallocate,
        "copy": copy,
        "chown": lambda path: os.chown(path, -1, 2000),
        "chmod": lambda path: os.chmod(path, 0o6711),
        "utime": lambda path: os.utime(path),
    }
    users = {"root": (0, 0, []), "owner": (1000, 1000, [2000]), "other": (1001, 1001, [])}
    for way in sys.argv[2:]:
        for user, (uid, gid, groups) in users.items():
            for mode in (0o6777, 0o6767, 0o4777, 0o2777, 0o0777):
                path = f"{sys.argv[1]}/{way}-{user}-{mode:o}"
                with open(path, "xb") as file:
                    file.write(b"x" * 100)
                os.chown(path, 1000, 2000)
                os.chmod(path, mode)
                if user != "root" or not mode & 0o6000:
                    os.setxattr(path, "security.capability", capability)
                os.stat(path)
                child = os.fork()
                if child == 0:
                    try:
                        os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
                        ways[way](path)
                    except OSError as error:
                        os._exit(error.errno)
                    os._exit(0)
                failed = os.waitpid(child, 0)[1]
                assert failed in (0, 1 << 8), (path, failed >> 8)
"""

WAYS = [
    "nothing",
    "write",
    "mapping",
    "truncate",
    "ftruncate",
    "open",
    "create",
    "fallocate",
    "copy",
    "chown",
    "chmod",
    "utime",
]


def left(directory: Path) -> dict[str, tuple[str, list[str]]]:
    """What is left of the bits, and of the capability."""
    return {
        path.name: (oct(stat.S_IMODE(path.stat().st_mode)), os.listxattr(path))
        for path in directory.iterdir()
    }


@pytest.mark.parametrize("door", ["kernel", "pyfuse3"])
def test_bits_end_as_on_a_disk(make_public_mount, public_path: Path, door: str) -> None:
    mount = make_public_mount("--door", door, "-o", "allow_other")
    script = textwrap.dedent(_CHANGE_AS_USERS)
    ways = [way for way in WAYS if way != "fallocate" or door == "kernel"]
    places = mount.path / "place", public_path / "place"
    for place in places:
        place.mkdir()
        place.chmod(0o777)
        run(sys.executable, "-c", script, place, *ways)
    ours, disks = map(left, places)
    if door == "pyfuse3":
        kept = {name for name in ours if "other-6767" in name}
        ours, disks = ({n: m for n, m in d.items() if n not in kept} for d in (ours, disks))
    assert len(disks) >= len(ways) * 14
    assert ours == disks
    mount.remount()
    again = left(mount.path / "place")
    assert {name: mode for name, mode in again.items() if name in ours} == ours
