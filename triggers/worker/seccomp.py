"""Seccomp: which system calls a process may make (seccomp(2)).

libseccomp knows the numbers of each architecture and writes the filter (0.4 ms); that is done once, in the zygote. A
worker only loads the finished program (20 us). The filter names what is forbidden: new kinds of calls that could
open the network or other namespaces are few, those a numerical library may need are many.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import tempfile
from contextlib import suppress
from typing import Any

__all__ = ["PROGRAM_FD", "Missing", "load", "program"]

PROGRAM_FD = 9
"""Where a command finds its filter, for bubblewrap to load it."""

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

NETWORK = ("socket", "connect", "bind", "listen", "accept", "accept4")
"""`socketpair` stays: event loops wake themselves by one."""

DATAGRAMS = (socket.SOCK_DGRAM, socket.SOCK_RAW)
"""But of these kinds: the ends of such a pair can send to any other socket of the machine's services (unix(7))."""

SOCKET_KINDS = 0xF
"""Of a socket's type; the other bits are flags."""

LOOPBACK = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Families of sockets that stay for whoever has a network of its own; the last one tells its addresses. No others: files of
the machine's services (AF_UNIX), hypervisors and ciphers are no part of a network namespace."""

SESSIONS = ("setsid", "setpgid")
"""Out of the process group, which is what a kill reaches."""

ALWAYS = (
    # Other processes.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    # Other views of the machine.
    "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at",
    # The kernel itself.
    "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
    "acct", "quotactl", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "iopl", "ioperm", "sethostname", "setdomainname", "vhangup", "nfsservctl",
)  # fmt: skip

ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""ENOSYS: programs then do without. clone3 hides its flags behind a pointer; io_uring does what the filter forbids."""

NAMESPACE_FLAGS = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
"""Of clone: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

_libc = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """libseccomp is not installed; the message says what to do."""


def program(*, network: bool, sessions: bool, loopback: bool = False) -> bytes:
    """A filter as BPF instructions; `network` leaves sockets allowed, `loopback` those of `LOOPBACK`, `sessions` new
    process groups.

    Raises:
        Missing: libseccomp, or the kernel's part, is not there.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise Missing("install libseccomp (Debian: libseccomp2) and pyseccomp") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    calls = () if network or loopback else NETWORK
    forbidden = (*ALWAYS, *calls, *(() if sessions else SESSIONS))
    for name in forbidden:
        _rule(rules, refuse, name)
    for name in ABSENT:
        _rule(rules, pyseccomp.ERRNO(errno.ENOSYS), name)
    for flag in NAMESPACE_FLAGS:
        rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for kind in () if network else DATAGRAMS:
        rules.add_rule(
            refuse, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, SOCKET_KINDS, kind)
        )
    if loopback:
        last = max(LOOPBACK)
        rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.GT, last))
        for family in set(range(last)) - set(LOOPBACK):
            rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def load(instructions: bytes) -> None:
    """Put this process under a filter, for ever. Needs no_new_privs.

    Raises:
        OSError: the kernel refuses.
    """
    kept = ctypes.create_string_buffer(instructions)
    wanted = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(kept))  # struct sock_fprog
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, wanted, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def _rule(rules: Any, action: int, name: str) -> None:
    with suppress(OSError):  # a call that this architecture or this libseccomp does not know
        rules.add_rule(action, name)
