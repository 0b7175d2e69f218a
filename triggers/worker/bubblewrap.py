"""The command line of bubblewrap (`bwrap`, bwrap(1)) that confines an executable.

It sees the system's programs and libraries read-only, an empty /tmp, its script in /watch, the base as of the cut in
/in, and may write to /out only. No network, no other processes, no other users. Seccomp as for workers.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from triggers.worker.seccomp import PROGRAM_FD

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IN", "OUT", "WATCH", "command", "find"]

WATCH, IN, OUT = "/watch", "/in", "/out"

SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
CONFIGURATION = (
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
)
CONFIGURATION_PREFIXES = ("ImageMagick", "python", "perl")
"""Of directories in /etc that programs do not run without."""


def find() -> str | None:
    """Where bubblewrap is."""
    return shutil.which("bwrap")


def command(
    bwrap: str, watch: str, name: str, scratch: str, cut_directory: str | None, devices: list[str]
) -> list[str]:
    """Run `name` of the directory `watch`, with `scratch` to write to."""
    parts = [bwrap, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    parts += ["--ro-bind", "/usr", "/usr"]
    for path in SYSTEM:
        if os.path.islink(path):
            parts += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            parts += ["--ro-bind", path, path]
    for path in (*CONFIGURATION, *_configuration()):
        parts += ["--ro-bind-try", path, path]
    parts += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for device in devices:
        parts += ["--dev-bind-try", device, device]
    parts += ["--ro-bind", watch, WATCH, "--bind", scratch, OUT]
    if cut_directory is not None:
        parts += ["--ro-bind", cut_directory, IN]
    parts += ["--remount-ro", "/"]  # bubblewrap's own empty root
    return [*parts, "--chdir", "/tmp", "--seccomp", str(PROGRAM_FD), "--", f"{WATCH}/{name}"]


def _configuration() -> Iterator[str]:
    for entry in os.scandir("/etc"):
        if entry.name.startswith(CONFIGURATION_PREFIXES):
            yield entry.path
