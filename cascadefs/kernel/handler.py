"""What a handler of requests is, and what the door does for each kind."""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING

from cascadefs.filesystem import Caller
from cascadefs.kernel.protocol import GID, PID, UID, Header, Opcode, Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

__all__ = [
    "Handler",
    "Handlers",
    "Kind",
    "Later",
    "caller_of",
    "may_keep_set_id",
    "process_of",
]

Handler: TypeAlias = "Callable[[int, memoryview, Header], Reply]"
"""Called with (node, body, header) while the file system is held. May raise what the file system raises.

`body` is valid until it returns.
"""

Later: TypeAlias = "Callable[[int, Reply], None]"
"""Answer the request of this unique number with that, once everything recorded so far is on the disk."""


class Kind(enum.Enum):
    """What a handler may do: whether the kernel may have to be told to forget something afterwards."""

    ASKS = "reads; or writes to drafts and the log, not to the index"
    CHANGES = "may change the index"
    TELLS = "tells us something: there is no answer"


Handlers: TypeAlias = "dict[Opcode, tuple[Handler, Kind]]"


def caller_of(header: Header, umask: int = 0) -> Caller:
    """Who sent a request. Requests that nobody in particular sends come from process 0."""
    pid = header[PID]
    return Caller(header[UID], header[GID], pid, umask, functools.partial(_groups_of, pid))


def _groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process; none if it is gone or out of sight."""
    return frozenset(map(int, _status_field(pid, "Groups").split()))


_CAP_FSETID = 1 << 4


def may_keep_set_id(pid: int) -> bool:
    """Whether a process of user 0 has CAP_FSETID; one that is gone or out of sight has what user 0 has by rights."""
    effective = _status_field(pid, "CapEff")
    return not effective or bool(int(effective, 16) & _CAP_FSETID)


def process_of(pid: int) -> int | None:
    """The process a thread belongs to; None if it is gone or out of sight."""
    number = _status_field(pid, "Tgid")
    return int(number) if number else None


def _status_field(pid: int, name: str) -> str:
    """A field of proc(5)'s status; empty if there is none."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
    except OSError:
        pass
    return ""
