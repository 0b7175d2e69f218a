"""How much a process may use: setrlimit(2), from inside, before it runs anything foreign.

Bounds that need no privilege. What they cannot do: RLIMIT_NPROC counts all processes of the user, so it is set to what
the user has now and some more; and it binds no process of the machine's root. Memory is bounded per process, not per
group; a control group would do better, where an administrator delegates one.
"""

from __future__ import annotations

import glob
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triggers.worker.message import Limits

__all__ = ["apply", "count_gpus", "count_processes", "devices", "has_gpu"]

PAGE = resource.getpagesize()
CORE = (0, 0)


def apply(limits: Limits, uid: int) -> None:
    """Bound this process and its children.

    Raises:
        OSError, ValueError: a bound is above the one this process has itself.
    """
    with open("/proc/self/statm") as statm:
        pages = statm.read().split()
    _bound(resource.RLIMIT_DATA, int(pages[5]) * PAGE + limits.memory_bytes)
    if (
        not has_gpu()
    ):  # CUDA reserves address space by the terabyte; RLIMIT_DATA does not count that
        _bound(resource.RLIMIT_AS, int(pages[0]) * PAGE + limits.memory_bytes)
    _bound(resource.RLIMIT_FSIZE, limits.file_bytes)
    _bound(resource.RLIMIT_NOFILE, limits.open_files)
    _bound(resource.RLIMIT_NPROC, count_processes(uid) + limits.processes)
    resource.setrlimit(resource.RLIMIT_CORE, CORE)


def has_gpu() -> bool:
    """Whether there are device files of NVIDIA's driver."""
    return os.path.exists("/dev/nvidiactl")


def count_gpus() -> int:
    """Devices of NVIDIA's driver: /dev/nvidia0 and so on."""
    return len(glob.glob("/dev/nvidia[0-9]*")) if has_gpu() else 0


def devices() -> list[str]:
    """Device files that every process needs, and those of a GPU."""
    return [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        *sorted(glob.glob("/dev/nvidia*")),
    ]


def count_processes(uid: int) -> int:
    """Processes and threads of a user, as RLIMIT_NPROC counts them."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid:
                    with open(f"/proc/{entry.name}/stat", "rb") as stat:
                        # After the name, which may hold anything: state is field 3, num_threads field 20.
                        count += int(stat.read().rpartition(b")")[2].split()[17])
            except OSError:
                continue  # it has just ended
    return count


def _bound(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
