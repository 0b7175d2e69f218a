"""What a handler of requests is, and what the door does for each kind."""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING

from cascadefs.filesystem import Caller
from cascadefs.kernel.protocol import GID, PID, UID, Header, Opcode, Reply
from cascadefs.processes import groups_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

__all__ = ["Handler", "Handlers", "Kind", "Later", "caller_of"]

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
    REVEALS = "may change what the kernel remembers, and whoever asked shall see it once answered"
    TELLS = "tells us something: there is no answer"


Handlers: TypeAlias = "dict[Opcode, tuple[Handler, Kind]]"


def caller_of(header: Header, umask: int = 0) -> Caller:
    """Who sent a request. Requests that nobody in particular sends come from process 0."""
    pid = header[PID]
    return Caller(header[UID], header[GID], pid, umask, functools.partial(groups_of, pid))
