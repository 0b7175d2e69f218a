"""Hybrid logical clock: commit timestamps in microseconds, strictly increasing, close to the wall clock.

A pure value: the wall clock is asked by the caller and passed in. Source: Kulkarni et al., "Logical physical
clocks" (2014), in the one-number form (the counter lives in the low microseconds, so a stamp is a plain time).
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock", "HybridClock"]


class Clock(Protocol):
    """Where wall-clock time comes from; the daemon has the one real implementation."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z. May jump in both directions."""
        ...


class HybridClock:
    """Issues the timestamps of one shard.

    Invariant: every stamp issued is greater than every stamp issued or observed before.
    """

    __slots__ = ("last_us",)

    def __init__(self, last_us: int = 0) -> None:
        self.last_us = last_us

    def tick(self, now_ns: int) -> int:
        """The next timestamp in microseconds: the wall clock's, or one more than the last if that is later."""
        now_us = now_ns // 1000
        last = self.last_us
        self.last_us = now_us if now_us > last else last + 1
        return self.last_us

    def observe(self, timestamp_us: int) -> None:
        """Make every later stamp greater than `timestamp_us`, which a reader was just answered at."""
        if timestamp_us > self.last_us:
            self.last_us = timestamp_us
