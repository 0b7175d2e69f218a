"""The machine: what can be said of it in neutral terms, its caches, and what processes cost.

Sources: proc(5) on mountinfo, meminfo and schedstat; Documentation/admin-guide/sysctl/vm.rst on drop_caches.
"""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

__all__ = ["cpu_ns", "describe", "disk_bytes", "drop_caches", "file_system_of", "resident_bytes"]


def describe(work: Path) -> dict[str, object]:
    """What a reader of figures wants to know; no names of hosts or places."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    return {
        "kind": "virtual machine" if _is_virtual() else "machine",
        "processors": os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "kernel": f"Linux {release}",
        "file_system": file_system_of(work),
        "python": platform.python_version(),
        "caches_dropped_by": "drop_caches" if os.geteuid() == 0 else "posix_fadvise",
    }


def _is_virtual() -> bool:
    return "hypervisor" in Path("/proc/cpuinfo").read_text()


def file_system_of(path: Path) -> str:
    """The type of the file system a path lies on."""
    best, kind = "", "unknown"
    resolved = f"{path.resolve()}/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        place = left.split(" ")[4].rstrip("/") + "/"
        if resolved.startswith(place) and len(place) >= len(best):
            best, kind = place, right.split(" ")[0]
    return kind


def drop_caches(directory: Path) -> None:
    """Forget cached pages and names: all of the machine's as root, else the pages of the files below a directory."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def cpu_ns(pid: int | None) -> int:
    """Processor time of all threads a process has now, exact to the nanosecond (not of threads that ended)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            total += int((task / "schedstat").read_text().split()[0])
    return total


def resident_bytes(pid: int) -> dict[str, int]:
    """Resident memory: all of it, and of that what is not shared pages of files, which the kernel may take back."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            fields[name] = int(value.split()[0]) * 1024
    return {"all": fields["VmRSS"], "anonymous": fields["RssAnon"]}


def disk_bytes(path: Path) -> int:
    """Space taken on the disk by a file, or by all files below a directory; holes take none."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(entry.lstat().st_blocks * 512 for entry in paths)
