"""What proc(5) says of the processes that ask: their groups, the process a thread belongs to, and a capability; and of the boot.

The kernel numbers them as they are numbered where the file system was mounted; one that is not seen from there has the
number 0. Where /proc shows another namespace than ours, its numbers mean other processes, and nothing is believed.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final

__all__ = ["boot_id", "groups_of", "may_keep_set_id", "process_of"]

_CAP_FSETID: Final = 1 << 4


def boot_id() -> str:
    """What tells this boot of the machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process; none if it is gone or out of sight."""
    return frozenset(map(int, _field(pid, "Groups").split()))


def process_of(pid: int) -> int | None:
    """The process a thread belongs to; None if it is gone or out of sight."""
    number = _field(pid, "Tgid")
    return int(number) if number else None


def may_keep_set_id(pid: int) -> bool:
    """Whether a process of user 0 has CAP_FSETID; one that is gone or out of sight has what user 0 has by rights."""
    effective = _field(pid, "CapEff")
    return not effective or bool(int(effective, 16) & _CAP_FSETID)


def _field(pid: int, name: str) -> str:
    """A field of a process's status; empty if there is none."""
    if not pid or not _is_of_our_namespace(os.getpid()):
        return ""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
    except OSError:
        pass
    return ""


@functools.cache
def _is_of_our_namespace(own_pid: int) -> bool:
    """Whether /proc knows this process, `own_pid`, by the number it has itself; asked once a process."""
    try:
        return os.readlink("/proc/self") == str(own_pid)
    except OSError:
        return False
