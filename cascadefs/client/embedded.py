"""A data directory that the program opens itself: no mount and no service beside it."""

from __future__ import annotations

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
        """See `client.Executor`."""
        with self._lock:
            answer = self._operations.execute(call, buffers)
            if isinstance(call, calls.Write | calls.WriteEach) and call.durable:
                trio.run(self._store.wait_durable)
            return answer

    def close(self) -> None:
        """Everything to the disk."""
        with self._lock:
            self._store.close()
