"""A data directory that the program opens itself: no mount and no service beside it."""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import TYPE_CHECKING

import trio

from cascadefs.client import calls
from cascadefs.client.operations import Operations
from cascadefs.filesystem.history import History
from cascadefs.processes import boot_id
from storage.store import LocalStore
from triggers.access import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.clock import Clock
    from triggers.run import Buffer

__all__ = ["Embedded"]


class Embedded:
    """Executes calls on a store of its own, as the user of this process. Whoever opens it keeps everybody else out."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Open, and make if there is none.

        Raises:
            Unusable: a mount or another program has it open, or it is damaged.
            OSError: the disk refused.
        """
        self._process = os.getpid()
        self._directory = directory
        who = Identity(os.getuid(), os.getgid(), tuple(os.getgroups()))
        self._lock = threading.Lock()
        self._store = LocalStore.open(
            directory,
            clock,
            random.SystemRandom(),
            boot_id=boot_id(),
            owner=(who.uid, who.gid),
        )
        reserved = History(self._store, clock).is_reserved
        self._operations = Operations(self._store, clock, who, reserved)

    def execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """See `client.Executor`.

        Raises:
            OSError: EBUSY in a child of fork(2): the parent has it open, and a store has room for one.
        """
        if self._process != os.getpid():
            raise OSError(
                errno.EBUSY,
                f"{self._directory}: is open in process {self._process}, which this one was forked of: "
                "mount it (cascadefs mount), and any number of processes can connect to the mount",
            )
        with self._lock:
            answer = self._operations.execute(call, buffers)
            if isinstance(call, calls.Write | calls.WriteEach) and call.durable:
                trio.run(self._store.wait_durable)
            return answer

    def close(self) -> None:
        """Everything to the disk."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._store.close()
