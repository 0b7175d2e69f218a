"""Networks of a gang's own: a loopback that its workers share and nobody else can reach (network_namespaces(7)).

Collectives of existing libraries (gloo, MPI) speak TCP among the ranks. So the workers of a strict gang get sockets, and
a namespace in which nothing but each other can be reached by them. A child makes it and ends, held is it by two
descriptors, because this process must stay where it is. Without root's powers there is a user namespace around it, whose
powers are given up at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import NoReturn

__all__ = ["Network", "Networks"]

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """The namespaces of one gang, in the order in which they are entered: (descriptor, kind)."""

    def __init__(self, namespaces: list[tuple[int, int]]) -> None:
        self.namespaces = namespaces
        self.pids: set[int] = set()

    def enter(self) -> None:
        """Move this process into it. In a user namespace it then has powers, which are the caller's to drop.

        Raises:
            OSError: it may not.
        """
        for fd, kind in self.namespaces:
            _check(_libc.setns(fd, kind), "a gang's network cannot be entered")

    def close(self) -> None:
        """Let go of it; it ends with the last process in it."""
        for fd, _ in self.namespaces:
            os.close(fd)


class Networks:
    """The zygote's, by number; each is made for the first worker of a gang and let go after the last."""

    def __init__(self) -> None:
        self._networks: dict[int, Network] = {}

    def get(self, number: int) -> Network | None:
        """The network of a number; None for 0, which is none of its own.

        Raises:
            OSError: this machine makes none.
        """
        if number == 0:
            return None
        if number not in self._networks:
            self._networks[number] = _make()
        return self._networks[number]

    def hold(self, pid: int, number: int) -> None:
        """A process was started in it."""
        if number:
            self._networks[number].pids.add(pid)

    def release(self, pid: int) -> None:
        """A process has ended."""
        for number, network in list(self._networks.items()):
            if pid in network.pids:
                network.pids.discard(pid)
                self.let_go(number)

    def let_go(self, number: int) -> None:
        """A process has ended, or was not started in it after all: the network goes, unless there are others in it."""
        if number in self._networks and not self._networks[number].pids:
            self._networks.pop(number).close()

    def close(self) -> None:
        """In a child, which has entered its own: it needs no descriptors of it, and none of the others'."""
        while self._networks:
            self._networks.popitem()[1].close()


def _make() -> Network:
    said, says = os.pipe2(os.O_CLOEXEC)
    goes, go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _be_maker(says, goes, go)
    os.close(says)
    os.close(goes)
    try:
        with open(said, "rb") as told:
            if problem := told.read():
                raise OSError(f"no network for a gang: {problem.decode()}")
        kinds = [("net", CLONE_NEWNET)]
        if os.geteuid() != 0:
            kinds.insert(0, ("user", CLONE_NEWUSER))
        network = Network([])
        try:
            for name, kind in kinds:
                fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                network.namespaces.append((fd, kind))
        except OSError:
            network.close()
            raise
        return network
    finally:
        os.close(go)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _be_maker(says: int, goes: int, go: int) -> NoReturn:
    """Be the child: make it, say what is wrong if anything, and stay until it is held."""
    try:
        os.close(go)
        uid, gid = os.geteuid(), os.getegid()
        kinds = CLONE_NEWNET | (CLONE_NEWUSER if uid else 0)
        _check(_libc.unshare(kinds), "network_namespaces(7)")
        if uid:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        _raise_loopback()
        os.close(says)  # nothing said: all is well
        os.read(goes, 1)
        os._exit(0)
    except BaseException as error:
        os.write(says, str(error).encode())
    finally:
        os._exit(1)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)  # struct ifreq (netdevice(7))
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, request)
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _check(answer: int, what: str) -> None:
    if answer != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
