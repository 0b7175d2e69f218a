"""The socket by which programs of this machine call the store of a mount (`cascadefs.connect`).

It lies in the data directory, next to what it is about, and takes whoever finds it for the user the kernel says it is.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import trio

from cascadefs.client.nearby import CLUSTER, SOCKET
from cascadefs.client.service import Service
from storage.transport import Identity, Role
from storage.transport.tcp import TcpTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cascadefs.filesystem import Filesystem
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Programs"]

PATH_BYTES_MAX = 107
"""Of a socket's address (unix(7))."""


class Programs:
    """See the module. `run` it beside a mount."""

    def __init__(
        self,
        store: Store,
        filesystem: Filesystem,
        clock: Clock,
        directory: Path,
        *,
        exclusive: Callable[[], AbstractContextManager[None]],
        notify: Callable[[], None],
        threaded: bool,
    ) -> None:
        """Nobody is answered before `run`.

        Args:
            store: of the mount.
            filesystem: of the mount.
            clock: the wall clock.
            directory: where the socket will be.
            exclusive: keeps requests out while it is entered.
            notify: tells the kernel what it must forget.
            threaded: whether requests are answered by other threads than trio's.
        """
        self._directory = directory
        self._filesystem = filesystem
        self._exclusive = exclusive
        self._notify = notify
        self._service = Service(
            store,
            clock,
            self._held,
            directory,
            applied=self._filesystem.changed_beside,
            reserved=filesystem.is_reserved,
            threaded=threaded,
        )

    async def run(self) -> None:
        """Answer programs until cancelled; the socket is gone then.

        Raises:
            OSError: there can be no socket here; the message says why.
        """
        path = self._directory / SOCKET
        if len(os.fsencode(path)) > PATH_BYTES_MAX:
            raise OSError(
                f"{path}: longer than the address of a socket can be; programs cannot connect"
            )
        path.unlink(
            missing_ok=True
        )  # of a daemon that was killed: the directory is locked, so it is nobody's
        transport = TcpTransport(
            Identity(CLUSTER, Role.NODE, os.uname().nodename), None, insecure_loopback=True
        )
        try:
            async with trio.open_nursery() as nursery:
                listener = await transport.listen(nursery, f"unix:{path}")
                path.chmod(0o666)
                await self._service.serve(listener, transport.identity.name)
        finally:
            path.unlink(missing_ok=True)

    def status(self) -> dict[str, object]:
        """JSON-able."""
        return {"socket": str(self._directory / SOCKET), "calls": self._service.executed}

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with self._exclusive():
            yield
        if self._filesystem.invalidations:
            self._notify()
