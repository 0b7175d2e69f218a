"""A thread kept to bring one log to the disk, one sync at a time.

The network's loop hands it a sync and is told when that is done; no task wakes to ask, none to hear of it. With a task and
a thread of trio's cache each record cost two turns of the loop more on every member.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Syncing"]

_Told: TypeAlias = "Callable[[int | OSError], None]"


class Syncing:
    """See the module. Called in the thread of the loop it is made in, and tells there; end it with `aclose`."""

    def __init__(self, name: str) -> None:
        """Nothing is asked for yet; `name` is the thread's."""
        self.is_busy = False
        """A sync runs, or ended and nobody was told yet: no other may begin."""
        self._is_over = False
        self._token = trio.lowlevel.current_trio_token()
        self._asked: queue.SimpleQueue[tuple[Callable[[], int], _Told] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def begin(self, sync: Callable[[], int], told: _Told) -> None:
        """Have a sync called; `told` gets what it answers, or its OSError. Any other error of either is a bug, and ends the loop."""
        assert not self.is_busy, "one at a time"
        assert not self._is_over
        self.is_busy = True
        self._asked.put((sync, told))

    async def aclose(self) -> None:
        """Wait for the sync that runs, cancelled or not; nobody is told of it any more."""
        self._is_over = True
        self._asked.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._do(*asked)

    def _do(self, sync: Callable[[], int], told: _Told) -> None:
        found: int | Exception
        try:
            found = sync()
        except Exception as error:  # It is raised again where bugs are noticed: in the loop.
            found = error
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._tell, told, found)

    def _tell(self, told: _Told, found: int | Exception) -> None:
        self.is_busy = False
        if self._is_over:
            return
        if isinstance(found, Exception) and not isinstance(found, OSError):
            raise found
        told(found)
