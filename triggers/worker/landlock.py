"""Landlock: which files this process may touch, decided by itself, for ever (landlock(7), linux/landlock.h).

Three system calls by ctypes; glibc wraps none of them. Rights that a kernel does not know are left out, which the
caller sees from `version()`: 1 files, 2 links between directories, 3 truncation, 4 TCP, 5 device controls, 6 signals and
abstract sockets out of the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["restrict", "version"]

# The same numbers on every architecture that has them.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FILES_V1 = (1 << 13) - 1
TCP = 0b11  # bind, connect
SCOPES = 0b11  # abstract unix sockets, signals
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""Rights that a rule for something else than a directory may have."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def version() -> int:
    """The version of the kernel's interface; 0 if it has none, or has it switched off."""
    size, flags = ctypes.c_size_t(0), ctypes.c_uint32(GET_VERSION)
    return max(0, int(_libc.syscall(CREATE_RULESET, None, size, flags)))


def restrict(
    readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], *, tcp: bool = False
) -> None:
    """Leave this process reading and executing below `readable`, all rights below `writable`, no TCP, no way out.

    `devices` may be opened for reading and writing. What does not exist is left out. `tcp` leaves TCP allowed, to
    whoever has a network of its own. Needs no_new_privs.

    Raises:
        OSError: the kernel refuses, or has no Landlock.
    """
    abi = version()
    files = FILES_V1 | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    files |= IOCTL_DEV if abi >= 5 else 0
    # struct landlock_ruleset_attr: what is decided about files, network, ways out; all else stays allowed.
    fields = (files, 0 if tcp else TCP, SCOPES)[: 3 if abi >= 6 else 2 if abi >= 4 else 1]
    attribute = struct.pack(f"={len(fields)}Q", *fields)
    size = ctypes.c_size_t(len(attribute))
    ruleset = _call(CREATE_RULESET, attribute, size, ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
        for path in writable:
            _allow(ruleset, path, files & ~IOCTL_DEV)
        for path in devices:
            _allow(ruleset, path, files & (READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV))
        _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not to be reached: nothing to allow
        return
    try:
        if not os.path.isdir(path):
            rights &= ON_FILES
        attribute = struct.pack("=Qi", rights, fd)  # struct landlock_path_beneath_attr
        kind = ctypes.c_int(RULE_PATH_BENEATH)
        _call(ADD_RULE, ctypes.c_int(ruleset), kind, attribute, ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    answer = int(_libc.syscall(number, *arguments))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return answer
