"""A forked process gives up what it does not need: docs/TRIGGERS.md 12.

Levels. `strict`: another user, no new privileges, bounds, a session of its own, no files but the interpreter's and its
scratch directory (Landlock), no sockets and none of the calls that reach out of a process (seccomp); the workers of a gang
have sockets, in a network of their own (`network`). `normal`: the same without Landlock, and sockets are allowed.

What a machine lacks is found once (`probe`) and said; a strict process on a machine that cannot confine it is refused,
never started unconfined.
"""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING

from triggers.worker import landlock, limits, seccomp

if TYPE_CHECKING:
    from triggers.worker.message import Spawn
    from triggers.worker.network import Network

__all__ = ["Confinement", "adopt_orphans", "become", "confine", "probe"]

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
CAPABILITY_VERSION_3 = 0x20080522

SYSTEM_READABLE = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/fonts",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
)

TOPOLOGY = ("/sys/bus/pci/devices", "/sys/class/net", *glob.glob("/sys/devices/pci*"))
"""What libraries of collectives look at to find out which device is near which: gloo does not start without."""

OWN_CGROUP, CGROUPS = "/proc/self/cgroup", "/sys/fs/cgroup"

_libc = ctypes.CDLL(None, use_errno=True)


class Confinement:
    """What this machine can do: the version of Landlock (0: none), filters by level, and what is missing, in words."""

    def __init__(
        self, landlock_version: int, filters: dict[str, bytes], problems: list[str]
    ) -> None:
        self.landlock_version = landlock_version
        self.filters = filters
        self.problems = problems


def probe() -> Confinement:
    """Find out what this machine can do."""
    problems = []
    abi = landlock.version()
    if abi == 0:
        problems.append(
            "the kernel has no Landlock (or not in its lsm= list): strict scripts are refused"
        )
    elif abi < 4:
        problems.append(f"Landlock {abi} does not know TCP; seccomp alone keeps the network shut")
    filters = {}
    try:
        filters = {
            "strict": seccomp.program(network=False, sessions=False),
            "normal": seccomp.program(network=True, sessions=False),
            "gang": seccomp.program(network=False, loopback=True, sessions=False),
            "command": seccomp.program(network=False, sessions=True),
        }
    except seccomp.Missing as error:
        problems.append(f"no seccomp: {error}; scripts are refused unless inproc")
    return Confinement(abi, filters, problems)


def become(spawn: Spawn, network: Network | None = None) -> None:
    """Take on session, bounds, network and identity of a process to be. What comes after has no way back.

    Raises:
        OSError, ValueError: this process may not.
    """
    os.setsid()
    os.umask(0o022)
    limits.apply(spawn.limits, spawn.uid)
    if network is not None:
        network.enter()
    if os.getuid() == 0:
        os.setgroups(spawn.groups)
        os.setresgid(spawn.gid, spawn.gid, spawn.gid)
        if spawn.uid == 0:
            # bubblewrap maps root into its namespace with them, and drops them itself before it runs anything.
            if not (spawn.command and spawn.sandbox == "strict"):
                _drop_capabilities()
        else:
            os.setresuid(spawn.uid, spawn.uid, spawn.uid)
    elif os.getuid() != spawn.uid:
        raise PermissionError(f"the daemon runs as user {os.getuid()}, cannot become {spawn.uid}")
    elif network is not None:
        _drop_capabilities()  # of the user namespace around it
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    adopt_orphans()
    # After the change of user, which clears it. The forking process may have died meanwhile.
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(spawn: Spawn, confinement: Confinement) -> None:
    """Leave this process with what its level allows. Needs `become` before it.

    Raises:
        OSError: the kernel refuses, or lacks what the level is made of.
    """
    filter_program = confinement.filters.get("gang" if spawn.network else spawn.sandbox)
    if filter_program is None or (spawn.sandbox == "strict" and not confinement.landlock_version):
        raise OSError(f"sandbox {spawn.sandbox}: " + "; ".join(confinement.problems))
    if spawn.sandbox == "strict":
        prefixes = {
            sys.prefix,
            sys.base_prefix,
            sys.exec_prefix,
            *(path for path in sys.path if path),
        }
        readable = [
            *SYSTEM_READABLE,
            *prefixes,
            *_own_limits(),
            *(TOPOLOGY if spawn.network else ()),
        ]
        landlock.restrict(readable, spawn.writable, limits.devices(), tcp=bool(spawn.network))
    seccomp.load(filter_program)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is left behind."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _own_limits() -> list[str]:
    """The files that tell a process what its control group lets it use: DuckDB aborts where it may not read them."""
    # Kept open: a rule is about an inode, and this one lives no longer than it is held.
    os.open(OWN_CGROUP, os.O_PATH | os.O_CLOEXEC)
    with open(OWN_CGROUP, encoding="utf-8", errors="surrogateescape") as groups:
        own = [line.rstrip("\n").split(":", 2)[1:] for line in groups]
    v1 = [f"{CGROUPS}/{kind}{path}" for kinds, path in own for kind in kinds.split(",")]
    names = (
        "memory.max",
        "memory.limit_in_bytes",
        "cpu.max",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
    )
    places = [*v1, CGROUPS, f"{CGROUPS}/cpu"]
    return [OWN_CGROUP, *(f"{place}/{name}" for place in places for name in names)]


def _drop_capabilities() -> None:
    """Root without root's powers; its files are still its own."""
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    # struct __user_cap_header_struct (this process), and three empty sets of 64 bits.
    if _libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
