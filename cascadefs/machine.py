"""What a process of ours has of its machine: clocks, the boot it lives in, its log, its descriptors."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import logging.handlers
import os
import resource
import time
from pathlib import Path
from typing import Final

__all__ = [
    "LOG_BYTES_MAX",
    "LOG_FILES_MAX",
    "SystemClock",
    "boot_id",
    "log_handler",
    "memory_bytes",
    "raise_descriptor_limit",
    "set_up_logging",
]

LOG_BYTES_MAX: Final = 1024 * 1024
"""Of daemon.log before it becomes daemon.log.1; with LOG_FILES_MAX, what a daemon may say on a disk in all."""

LOG_FILES_MAX: Final = 2


class SystemClock:
    """The wall clock."""

    def now_ns(self) -> int:
        """See `storage.clock.Clock`."""
        return time.time_ns()


def boot_id() -> str:
    """The machine's boot: another one after every start of the kernel (proc(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class _OneLine(logging.Formatter):
    """UTC, and one line an event: a traceback is joined with bars."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, entry: logging.LogRecord, datefmt: str | None = None) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(entry.created))
        return f"{second}.{int(entry.msecs):03}Z"

    def format(self, entry: logging.LogRecord) -> str:
        return " | ".join(line for line in super().format(entry).splitlines() if line.strip())


class _RotatingLog(logging.handlers.RotatingFileHandler):
    """Standard error goes along: what libfuse and a crash say there lands in the same file."""

    def doRollover(self) -> None:
        super().doRollover()
        if self.stream is None:
            return
        os.dup2(self.stream.fileno(), 1)
        os.dup2(self.stream.fileno(), 2)


def log_handler(log_file: Path | None) -> logging.Handler:
    """Where a process without a terminal writes; nowhere if it is None."""
    if log_file is None:
        return logging.NullHandler()
    return _RotatingLog(log_file, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX - 1)


def set_up_logging(handler: logging.Handler) -> None:
    """Log there, warnings and crashes, too."""
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    faulthandler.enable()


def raise_descriptor_limit() -> None:
    """As many open files as we may have: segments of the log are kept open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def memory_bytes() -> int:
    """The machine's memory, or what of it this process's control group may use, if that is less."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # No such control group, or without a limit.
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found
