"""Waiting for shards without keeping others from them: who holds a store lets go of it while nothing has come.

Theory of operation. Everything here is called with the lock held, and holds it again when it returns. Who lets go must be prepared for
that: what it has looked at may be another afterwards, as if another mount had changed it. On a mount everybody is (`always`), on a node who
says so (`letting_go`). Of those who wait for a shard one
follows its stream, applies what comes, and tells all others, of whom the next follows then; where somebody else
follows anyway (a node), they only wait to be told. So many proposals of one store are on their way at a time.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from storage.sequencer import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.cluster.face import Face

__all__ = ["Turns"]

_T = TypeVar("_T")

LOOK_SECONDS: Final = 1.0
"""Between two looks at a condition that nobody told of."""


class _Own(threading.local):
    def __init__(self, *, lets_go: bool) -> None:
        self.lets_go = lets_go


class Turns:
    """See the module."""

    def __init__(
        self,
        lock: threading.Lock | threading.RLock,
        *,
        always: bool = False,
        is_followed: bool = False,
    ) -> None:
        """Nobody waits yet.

        Args:
            lock: what holds the store.
            always: whoever waits lets go, without saying so.
            is_followed: somebody applies all that comes, and calls `tell`.
        """
        self.on_rest: Callable[[], None] = lambda: None
        """Called by who lets go, before; must not wait."""
        self.on_back: Callable[[], None] = lambda: None
        """Likewise afterwards."""
        self.resting = 0
        """How many wait now."""
        self.is_over = False
        """Nobody follows any more: whoever waits for that gives up."""
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._own = _Own(lets_go=always)
        self._is_followed = is_followed
        self._followed: set[int] = set()

    @property
    def lets_go(self) -> bool:
        """Whether the caller lets go."""
        return self._own.lets_go

    @contextlib.contextmanager
    def letting_go(self) -> Iterator[None]:
        """The caller lets go of the store wherever it waits inside."""
        before, self._own.lets_go = self._own.lets_go, True
        try:
            yield
        finally:
            self._own.lets_go = before

    def tell(self) -> None:
        """Something was applied, or ended: whoever waits looks again."""
        self._changed.notify_all()

    def rest(self, face: Face, timeout_s: float) -> None:
        """Let others have the store until more of a shard is applied, or for so long.

        Raises:
            OSError: as `Face.catch_up`.
            Unavailable: it is over.
        """
        shard = face.namespace.shard
        if self._is_followed or shard in self._followed:
            self.doze(timeout_s)
            if self.is_over:
                raise Unavailable("nobody applies anything any more")
            return
        self._followed.add(shard)
        try:
            # Whoever holds the store meanwhile may apply what this one waits for, and tells nobody.
            seen = face.applied_index
            self.apart(lambda: face.wait_more(seen, timeout_s))
            face.catch_up()
        finally:
            self._followed.discard(shard)
            self.tell()

    def doze(self, timeout_s: float) -> None:
        """Let others have the store until `tell` tells of anything, or for so long."""
        with self._resting():
            self._changed.wait(min(timeout_s, LOOK_SECONDS))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let others have the store until a condition holds that `tell` tells of."""
        with self._resting():
            while not condition():
                self._changed.wait(LOOK_SECONDS)

    def apart(self, call: Callable[[], _T]) -> _T:
        """Call something that may wait while others have the store."""
        with self._resting():
            self._lock.release()
            try:
                return call()
            finally:
                self._lock.acquire()

    @contextlib.contextmanager
    def _resting(self) -> Iterator[None]:
        self.resting += 1
        self.on_rest()
        try:
            yield
        finally:
            self.resting -= 1
            self.on_back()
