"""The lock around the file system, passed in the order in which the kernel queued the requests.

Why order. Nearly every request has a caller who waits for the answer, so whatever that caller asks next comes later.
RELEASE has none: close(2) returns before it is sent, and where nothing but an open(2) changed the file (a shell's
``> file``) it makes a version. With two threads in read(2) one RELEASE in ten was overtaken by the next request of the same program.

How. The kernel numbers requests in the order of its queue, in steps of two. Who holds the lock with another number than
the next one knows that an earlier request is in another reader's hands, on its way here: it lets go of lock and
interpreter until that one has passed. Numbers may also be missing: of a request whose caller was killed before it was
read. So the wait is bounded, and what comes later still passes unordered. Forgets are numbered when they are read, not when
they are queued: they pass at once, and only leave word that they did.
"""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["STEP", "Turnstile"]

STEP: Final = 2
"""From one request's unique number to the next one's (FUSE_REQ_ID_STEP)."""

_GLANCES: Final = 100
"""Times the interpreter is offered to the other reader before sleeping in between."""

_NAPS: Final = 20
_NAP_SECONDS: Final = 0.0001


class Turnstile:
    """See the module. `lock` may be taken by whoever is no request; `out_of_turn` counts waits that were given up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.out_of_turn = 0
        self._next = 0
        self._passed: set[int] = set()  # of numbers behind the next one

    def enter(self, unique: int) -> None:
        """Take the lock when all that was queued before has passed, or is not coming."""
        self.lock.acquire()
        if unique == self._next:
            self._next = unique + STEP
        else:
            self._wait_turn(unique)

    def enter_unordered(self, unique: int) -> None:
        """Take the lock for a request that nothing is ordered by."""
        self.lock.acquire()
        if unique == self._next:
            self._next = unique + STEP
        elif unique > self._next:
            self._passed.add(unique)

    def pass_by(self, unique: int) -> None:
        """Note a request that needs no lock."""
        self.enter_unordered(unique)
        self.lock.release()

    def _wait_turn(self, unique: int) -> None:
        """The lock is held, before and after."""
        self._skip_passed()
        if self._next:  # else it is the first one
            for attempt in range(_GLANCES + _NAPS):
                if unique <= self._next:
                    break
                self.lock.release()
                time.sleep(0 if attempt < _GLANCES else _NAP_SECONDS)
                self.lock.acquire()
                self._skip_passed()
            else:
                self.out_of_turn += 1
                self._passed = {number for number in self._passed if number > unique}
        self._next = max(self._next, unique + STEP)

    def _skip_passed(self) -> None:
        while self._next in self._passed:
            self._passed.discard(self._next)
            self._next += STEP
