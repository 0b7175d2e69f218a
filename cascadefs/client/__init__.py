"""The store for programs: `cascadefs.connect` and what it answers."""

from __future__ import annotations

import time
from pathlib import Path

from cascadefs.client.client import Batch, Client
from cascadefs.client.concurrent import TrioClient
from cascadefs.client.values import Change, Conflict, Content, Entry, Version
from storage.errors import Unusable

__all__ = [
    "Batch",
    "Change",
    "Client",
    "Conflict",
    "Content",
    "Entry",
    "TrioClient",
    "Version",
    "connect",
    "connect_trio",
]


class _SystemClock:
    def now_ns(self) -> int:
        return time.time_ns()


def connect(where: str | Path) -> Client:
    """The store at `where`, for plain code.

    Args:
        where: a mountpoint; or a data directory, mounted or not: one that nobody has mounted is opened by this process, which
            keeps everybody else out until `close`, and makes a store where there is no directory; or the ``mount.toml`` of a
            cluster.

    Raises:
        storage.errors.Unusable: it cannot be opened; the message says why and what helps.
        OSError: it cannot be reached.
    """
    from cascadefs.client.elsewhere import elsewhere
    from cascadefs.client.embedded import Embedded
    from cascadefs.client.nearby import nearby

    clock = _SystemClock()
    path = Path(where).absolute()
    remote = elsewhere(path, clock) if path.suffix == ".toml" else nearby(path)
    if remote is None and path.is_dir() and not any(path.iterdir()):
        raise Unusable(
            f"{path}: is empty, so it is neither mounted nor a store; mount it first, or name a directory that does not "
            "exist to have a store made there"
        )
    return Client(Embedded(path, clock) if remote is None else remote, clock, str(path))


async def connect_trio(where: str | Path) -> TrioClient:
    """As `connect`, for trio. Close what it answers, or use it as an asynchronous context manager."""
    import trio

    return TrioClient(await trio.to_thread.run_sync(connect, where))
