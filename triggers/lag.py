"""Lag: how long events wait, what history is kept for them, and which bindings are behind it.

History that pending events may read is kept from the retention policies, up to the binding's `max_lag`. A binding whose
oldest event has waited longer is *stalled*: it goes on, nothing is passed over, but what its events read may be gone by
now. That is said once in the stream of events, and in the status as long as it is so, with the oldest version that
can still be read.

Source: docs/TRIGGERS.md 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage.namespace import KEPT

if TYPE_CHECKING:
    from storage.clock import Clock
    from storage.store import Store
    from triggers.follower import Follower, Key
    from triggers.queue import Pending
    from triggers.registry import Registry
    from triggers.report import Report

__all__ = ["Lag", "Stalled"]

LOOK_MS = 10_000
"""Between two looks whether any binding is stalled."""

LOOKED_THROUGH_MAX = 1000
"""Pending events that are asked whether their version is still there."""


class Stalled(NamedTuple):
    """A binding is behind the history that is kept for it."""

    waiting_ms: int
    """Of the oldest event."""

    lost: int
    """Events, from the oldest on, whose version is gone."""

    reachable: str | None
    """The oldest version that can still be read, `path@vN`; None: none of those looked at."""


class Lag:
    """Of one engine. Whoever calls holds the store."""

    def __init__(self, store: Store, registry: Registry, report: Report, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._report = report
        self._clock = clock
        self._look_at_ms = 0
        self._known: set[Key] = set()

    def wanted_since(self) -> int | None:
        """From which timestamp on runs to come may read history; None if none are pending.

        No further back than each binding's `max_lag`: what is older may be let go, and its events then fail.
        """
        now_us = self._clock.now_ns() // 1000
        wanted = []
        for follower in self._registry.followers():
            oldest = follower.queue.oldest()
            since = oldest.event.timestamp if oldest is not None else None
            if not follower.live:
                since = min(follower.scanned, since or follower.scanned)
            if since is not None:
                wanted.append(max(since, now_us - follower.queue.binding.max_lag_ms * 1000) - 1)
        return min(wanted, default=None)

    def stalled(self, follower: Follower) -> Stalled | None:
        """Whether the oldest event of a binding has waited for longer than history is kept for it.

        An event that is older than its binding (`from`) waits since there is the binding.
        """
        oldest = follower.queue.oldest()
        if oldest is None:
            return None
        since = max(oldest.event.timestamp, follower.definitions[-1][0])
        waiting_ms = self._clock.now_ns() // 1_000_000 - since // 1000
        if waiting_ms <= follower.queue.binding.max_lag_ms:
            return None
        for lost, pending in enumerate(follower.queue.events()[:LOOKED_THROUGH_MAX]):
            if self._is_there(pending):
                event = pending.event
                return Stalled(waiting_ms, lost, f"{event.path}@v{event.version}")
        return Stalled(waiting_ms, len(follower.queue), None)

    def look(self) -> None:
        """Now and then: tell of bindings that have come to be stalled, or are so no more."""
        now_ms = self._clock.now_ns() // 1_000_000
        if now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_MS
        for follower in self._registry.followers():
            stalled = self.stalled(follower)
            if stalled is not None and follower.key not in self._known:
                self._known.add(follower.key)
                self._report.line(
                    follower.base, "stalled", binding=follower.text, **stalled._asdict()
                )
            elif stalled is None:
                self._known.discard(follower.key)

    def _is_there(self, pending: Pending) -> bool:
        """Whether the version of an event can be read."""
        if not pending.inode:
            return True  # a deletion has no bytes
        row = self._store.attributes_at(pending.inode, pending.event.timestamp)
        return row is not None and (
            self._store.content_state(pending.inode, row[1].content) == KEPT
        )
