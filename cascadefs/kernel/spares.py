"""Threads that read requests in the place of those that wait for a cluster.

So as many read as ever, whatever the requests that came before are waiting for: one that is answered from what is here is answered
at once, and changes of independent files are on their way at the same time. A thread that is one too many afterwards parks.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SPARES_MAX", "Spares"]

SPARES_MAX: Final = 94
"""So many requests may wait at a time, and still all readers read: more than the kernel has under way of those that nobody waits for
(`negotiation.MAX_BACKGROUND`), and as many programs as train on one machine. Each has a buffer of 1 MiB, made when it is needed."""


class _Own(threading.local):
    is_reader = False


class Spares:
    """See the module. Any thread."""

    def __init__(self, serve: Callable[[Callable[[], None]], None]) -> None:
        """None yet. `serve` reads until the connection is gone, calling before each read what it is given."""
        self._serve = serve
        self._own = _Own()
        self._lock = threading.Lock()
        self._free = threading.Semaphore(0)
        self._started = 0
        self._parked = 0
        self._away = 0

    def enter(self) -> None:
        """The calling thread is a reader."""
        self._own.is_reader = True

    def leave(self) -> None:
        """The calling thread is about to wait; if it is a reader, another reads meanwhile."""
        if not self._own.is_reader:
            return
        with self._lock:
            self._away += 1
            if self._surplus() >= 0:
                return
            if self._parked:
                self._parked -= 1
                self._free.release()
            elif self._started < SPARES_MAX:
                with contextlib.suppress(RuntimeError):  # No more threads: fewer read for a while.
                    threading.Thread(target=self._run, name="cascadefs-reader", daemon=True).start()
                    self._started += 1

    def back(self) -> None:
        """It waits no longer."""
        if self._own.is_reader:
            with self._lock:
                self._away -= 1

    def _surplus(self) -> int:
        """How many more are not away and not parked than without anybody waiting."""
        return self._started - self._parked - self._away

    def _run(self) -> None:
        self.enter()
        self._serve(self._park)

    def _park(self) -> None:
        """Before the next read: not if there are enough without this one."""
        with self._lock:
            if self._surplus() <= 0:
                return
            self._parked += 1
        self._free.acquire()
