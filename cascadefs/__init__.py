"""The front door: command line, daemon, FUSE, and POSIX semantics over the store; `connect` for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascadefs.client import Batch, Conflict, connect, connect_trio

__all__ = ["Batch", "Conflict", "connect", "connect_trio"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late: a worker, a command, a daemon start without what only programs need.
    if name in __all__:
        import cascadefs.client

        return getattr(cascadefs.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
