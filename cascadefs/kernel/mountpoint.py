"""Getting mounted: mount(2) where we may, fusermount3 for everybody else.

fusermount3 is set-user-id root: it checks what an ordinary user may, opens the device, mounts, and sends the descriptor
back through a socket (SCM_RIGHTS) whose number it is told in ``_FUSE_COMMFD``. Sources: mount(2), fusermount3(1),
Documentation/filesystems/fuse.rst, and libfuse's mount.c for which options are whose.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MountRefused", "attach", "detach", "set_read_ahead"]

DEVICE: Final = "/dev/fuse"
SOURCE: Final = b"cascadefs"
TYPE: Final = b"fuse.cascadefs"

FUSERMOUNT_SECONDS: Final = 30.0

_NOSUID, _NODEV = 1 << 1, 1 << 2
_MNT_DETACH: Final = 2

_FLAGS: Final[dict[str, tuple[int, bool]]] = {
    "rw": (1 << 0, False),
    "ro": (1 << 0, True),
    "suid": (_NOSUID, False),
    "nosuid": (_NOSUID, True),
    "dev": (_NODEV, False),
    "nodev": (_NODEV, True),
    "exec": (1 << 3, False),
    "noexec": (1 << 3, True),
    "async": (1 << 4, False),
    "sync": (1 << 4, True),
    "dirsync": (1 << 7, True),
    "noatime": (1 << 10, True),
    "nodiratime": (1 << 11, True),
    "nosymfollow": (1 << 8, True),
}
"""Options that are flags of mount(2): the bit, and whether it is set or cleared."""

_OF_THE_KERNEL: Final = frozenset({"allow_other", "default_permissions", "max_read", "blksize"})
"""Options that fuse itself reads from the last argument of mount(2)."""

_ALWAYS: Final = ("default_permissions",)


class MountRefused(Exception):
    """Nothing is mounted; the message says why."""


def attach(path: Path, options: Sequence[str]) -> int:
    """Mount on a directory and answer the descriptor of the device, which is ours to close.

    Requests gather there until somebody reads them; the connection ends when the last descriptor is closed.

    Raises:
        MountRefused: nothing is mounted.
    """
    if os.geteuid() == 0:
        flags, data = split_options(options)
        try:
            return _mount(path, flags, data)
        except OSError as error:
            # In a container root may be root without the right to mount, and fusermount3 may have it.
            if error.errno != errno.EPERM:
                raise MountRefused(error.strerror) from error
    return _fusermount(path, options)


def detach(path: Path) -> None:
    """Take the mount there out of the tree, though processes may still use it.

    Raises:
        OSError: it stays.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
            return
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    command = ["fusermount3", "-u", "-z", "--", str(path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=FUSERMOUNT_SECONDS
    )
    if done.returncode != 0:
        raise OSError(errno.EIO, done.stderr.decode(errors="replace").strip(), str(path))


def set_read_ahead(path: Path, length_bytes: int) -> bool:
    """Let the kernel read this far ahead in files of the mount there; whether we may (it takes root, and sysfs).

    INIT can only lower what a mount begins with, so this is for after it. It goes with the mount. Asks the mount nothing.
    """
    try:
        descriptor = os.open(path, os.O_PATH)
        try:
            about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        finally:
            os.close(descriptor)
        (mount,) = (line.split()[1] for line in about.splitlines() if line.startswith("mnt_id:"))
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            number, _, device, _ = line.split(" ", 3)
            if number == mount:
                setting = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
                setting.write_text(f"{length_bytes // 1024}")
                return True
    except (OSError, ValueError):
        pass
    return False


def split_options(options: Sequence[str]) -> tuple[int, list[str]]:
    """The flags for mount(2), and what fuse itself is to read.

    Raises:
        MountRefused: an option is neither.
    """
    flags = _NOSUID | _NODEV
    data = list(_ALWAYS)
    for option in options:
        if option in _FLAGS:
            bit, is_set = _FLAGS[option]
            flags = flags | bit if is_set else flags & ~bit
        elif option.partition("=")[0] in _OF_THE_KERNEL:
            if option not in data:
                data.append(option)
        else:
            raise MountRefused(f"unknown option {option!r}")
    return flags, data


def _mount(path: Path, flags: int, data: Sequence[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        words = [
            f"fd={device}",
            "rootmode=40000",
            f"user_id={os.getuid()}",
            f"group_id={os.getgid()}",
            *data,
        ]
        done = libc.mount(
            SOURCE, os.fsencode(path), TYPE, ctypes.c_ulong(flags), ",".join(words).encode()
        )
        if done != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    except BaseException:
        os.close(device)
        raise
    return device


def _fusermount(path: Path, options: Sequence[str]) -> int:
    words = ["fsname=cascadefs", "subtype=cascadefs", *_ALWAYS, *options]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            done = subprocess.run(
                ["fusermount3", "-o", ",".join(words), "--", str(path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C", "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                timeout=FUSERMOUNT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MountRefused(str(error)) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise MountRefused(said or f"fusermount3 ended with {done.returncode}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountRefused("fusermount3 sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]
