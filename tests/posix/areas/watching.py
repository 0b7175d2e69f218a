"""inotify(7): programs that watch a tree are told of what is done to it through the mount, in order."""

from __future__ import annotations

import ctypes
import os
import struct

from tests.posix import libc
from tests.posix.observation import Observation, opened, read, write

EVENT = struct.Struct("iIII")
ALL = 0xFFF
NAMES = {
    0x1: "access",
    0x2: "modify",
    0x4: "attrib",
    0x8: "close_write",
    0x10: "close",
    0x20: "open",
    0x40: "moved_from",
    0x80: "moved_to",
    0x100: "create",
    0x200: "delete",
    0x400: "delete_self",
    0x800: "move_self",
    0x8000: "ignored",
}


class Watch:
    """Events of some paths since they were asked for last."""

    def __init__(self, *paths: str) -> None:
        self._descriptor = libc.libc.inotify_init1(os.O_NONBLOCK)
        self._paths = {
            libc.libc.inotify_add_watch(
                self._descriptor, os.fsencode(path), ctypes.c_uint(ALL)
            ): path
            for path in paths
        }

    def told(self) -> list[str]:
        events = []
        while True:
            try:
                data = os.read(self._descriptor, 65_536)
            except BlockingIOError:
                return events
            at = 0
            while at < len(data):
                watch, mask, _, length = EVENT.unpack_from(data, at)
                name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0").decode()
                words = "+".join(word for bit, word in NAMES.items() if mask & bit)
                events.append(f"{self._paths[watch]} {words} {name}".strip())
                at += EVENT.size + length


ACTIONS = {
    "creat": lambda: opened("d/f", os.O_CREAT | os.O_WRONLY),
    "write": lambda: write("d/f"),
    "read": lambda: read("d/f") and None,
    "truncate": lambda: os.truncate("d/f", 3),
    "chmod": lambda: os.chmod("d/f", 0o600),
    "chown": lambda: os.chown("d/f", 1, 1),
    "utime": lambda: os.utime("d/f"),
    "setxattr": lambda: os.setxattr("d/f", "user.a", b""),
    "link": lambda: os.link("d/f", "d/g"),
    "symlink": lambda: os.symlink("f", "d/s"),
    "mkdir": lambda: os.mkdir("d/e"),
    "mkfifo": lambda: os.mkfifo("d/p"),
    "rename": lambda: os.rename("d/f", "d/h"),
    "rename over": lambda: os.rename("d/g", "d/s"),
    "rename away": lambda: os.rename("d/h", "h"),
    "rename back": lambda: os.rename("h", "d/h"),
    "exchange": lambda: libc.renameat2("d/h", "d/e", libc.RENAME_EXCHANGE),
    "list": lambda: os.listdir("d") and None,
    "unlink": lambda: os.unlink("d/e"),
    "rmdir": lambda: os.rmdir("d/h"),
    "unlink of none": lambda: os.unlink("d/none"),
}


def directory(see: Observation) -> None:
    os.mkdir("d")
    watch = Watch("d")
    for name, action in ACTIONS.items():
        see.call(name, action)
        see(f"told of {name}", watch.told())


def file(see: Observation) -> None:
    write("f")
    watch = Watch("f")
    descriptor = os.open("f", os.O_RDWR)
    for name, action in {
        "write": lambda: os.write(descriptor, b"x"),
        "read": lambda: os.pread(descriptor, 1, 0),
        "ftruncate": lambda: os.ftruncate(descriptor, 1),
        "fchmod": lambda: os.fchmod(descriptor, 0o600),
        "rename": lambda: os.rename("f", "g"),
        "link": lambda: os.link("g", "h"),
        "unlink": lambda: os.unlink("g"),
        "unlink the last": lambda: os.unlink("h"),
        "close": lambda: os.close(descriptor),
    }.items():
        see.call(name, action)
        see(f"told of {name}", watch.told())
