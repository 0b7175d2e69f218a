"""The daemon of a mount on this machine, found by its data directory or by where it is mounted."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Final

from cascadefs.client.remote import Remote
from storage.errors import Unusable
from storage.superblock import DirectoryLock
from storage.transport import Identity, IdMap, IdRange, Role
from storage.transport.tcp import TcpTransport

__all__ = ["CLUSTER", "SOCKET", "nearby"]

SOCKET: Final = "socket"
"""In the data directory: where the daemon listens."""

CLUSTER: Final = "local"
"""What both ends of such a socket say they are of."""


def nearby(path: Path) -> Remote | None:
    """Whoever has `path` mounted, or has mounted it; None where there is nobody.

    Raises:
        OSError: there is a mount, but no way for programs into it.
    """
    socket = _socket_of_mount(path) or _socket_of_data(path)
    if socket is None:
        return None
    name = f"user-{os.getuid()}"
    numbers = [IdMap((IdRange(own, own, 1),)) for own in (os.getuid(), os.getgid())]
    groups = tuple(IdRange(one, one, 1) for one in os.getgroups() if one != os.getgid())
    gids = IdMap(numbers[1].ranges + groups)
    identity = Identity(CLUSTER, Role.CLIENT, name, numbers[0], gids)
    transport = TcpTransport(identity, None, insecure_loopback=True)
    return Remote(transport, [f"unix:{socket}"], random.SystemRandom())


def _socket_of_mount(path: Path) -> Path | None:
    try:
        told = json.loads((path / ".cascade/status").read_text(encoding="utf-8"))
        programs = told["programs"]
    except (FileNotFoundError, NotADirectoryError, KeyError, ValueError):
        return None
    if programs is None:
        why = "it is volatile or read-only, or its data directory has too long a name"
        if told.get("cluster") is not None:
            why = "name the mount.toml of a program instead (`cascadefs cluster permit`), for nodes answer them"
        raise OSError(errno.EOPNOTSUPP, f"{path}: programs cannot connect to this mount: {why}")
    return Path(programs["socket"])


def _socket_of_data(path: Path) -> Path | None:
    """None also where the socket was left by a daemon that is gone."""
    if not (path / SOCKET).exists():
        return None
    try:
        DirectoryLock.check(path)
    except Unusable:
        return path / SOCKET
    return None
