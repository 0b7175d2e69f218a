"""What changed in a store and when, as far as a page cares to know: from the beginning if that is near, else from now on.

Asked in small steps, so that whoever writes meanwhile waits a few milliseconds at most. Source: SEMANTICS, "Programs" (watch).
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cascadefs.client import Change, Client

__all__ = ["Timeline"]

STEP_CHANGES: Final = 250
"""Asked for at a time: some 5 ms of the store's."""

PAST_STEPS: Final = 16
"""Taken back at the beginning; a longer past is not gone through."""

CHANGES_MAX: Final = STEP_CHANGES * PAST_STEPS
"""Remembered; the newest."""

NEAR_MAX: Final = 100
"""Instants told before, and after, the one that is shown."""

BUCKETS: Final = 144
"""Of a picture of the past."""


class Timeline:
    """See the module. For any threads; calls block while another goes on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._token = ""
        self._changes: deque[Change] = deque(maxlen=CHANGES_MAX)
        self.first: int | None = None
        """When anything changed for the first time."""
        self.told = 0
        """Changes seen since `advance` was first called, those of before not counted."""
        self._since: int | None = None
        """From when on all changes are known; None: always."""

    def advance(self, steps: int) -> bool:
        """Look what has changed; whether that is all there was.

        Raises:
            OSError: the store cannot be asked.
        """
        with self._lock:
            if not self._token:
                self._begin()
                return True
            for _ in range(steps):
                found, self._token = self._client.look("**", self._token, limit=STEP_CHANGES)
                self._take(found)
                self.told += len(found)
                if len(found) < STEP_CHANGES:
                    return True
            return False

    def leap(self) -> None:
        """Go on with what is new: more happens than a page looks at.

        Raises:
            OSError: the store cannot be asked.
        """
        with self._lock:
            self._leap()

    def _begin(self) -> None:
        _, end = self._client.look("**", "", limit=1)
        shards = [one.rpartition(":")[0] for one in end.split(",")]
        token = ",".join(f"{shard}:1.0.0" if shard else "1.0.0" for shard in shards)
        for _ in range(PAST_STEPS):
            found, following = self._client.look("**", token, limit=STEP_CHANGES)
            self._take(found)
            if following == token:
                self._token = token
                return
            token = following
        self._leap()

    def _leap(self) -> None:
        """What was between is not known."""
        self._changes.clear()
        _, self._token = self._client.look("**", "", limit=1)
        self._since = self._client.now()

    def _take(self, found: Any) -> None:
        for change in found:
            self._changes.append(change)
            if self.first is None or change.timestamp < self.first:
                self.first = change.timestamp
        if len(self._changes) == CHANGES_MAX:
            self._since = self._changes[0].timestamp

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The newest changes, the newest first."""
        with self._lock:
            newest = list(self._changes)[-count:]
        return [
            {
                "path": one.path,
                "kind": one.kind,
                "version": one.version,
                "timestamp": one.timestamp,
                "size": one.size,
            }
            for one in reversed(newest)
        ]

    def moments(self, path: str, at: int | None, now: int) -> dict[str, Any]:
        """When something changed at or below a path: how often, in equal pieces of the time up to `now`, and around an instant."""
        with self._lock:
            below = f"{path}/" if path else ""
            times = sorted(
                one.timestamp
                for one in self._changes
                if one.path == path or one.path.startswith(below)
            )
            first, since = self.first, self._since
        start = first if first is not None else now
        length = max(now - start, 1)
        counts = [0] * BUCKETS
        for time in times:
            counts[min((time - start) * BUCKETS // length, BUCKETS - 1)] += 1
        instants = sorted(set(times))
        shown = now if at is None else at
        before, after = bisect_left(instants, shown), bisect_right(instants, shown)
        return {
            "first": start,
            "now": now,
            "since": since,
            "counts": counts,
            "near": instants[max(0, before - NEAR_MAX) : after + NEAR_MAX],
            "is_last": after + NEAR_MAX >= len(instants),
        }
