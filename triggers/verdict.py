"""Verdicts: what becomes of events whose run failed. Again, later; or no more, as dead letters or a key that stands still.

Source: docs/TRIGGERS.md 9.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from storage import record
from storage.namespace.deliveries import FINISH_DEAD, FINISH_SKIPPED
from triggers import provenance

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.clock import Clock
    from triggers.follower import Definition, Follower
    from triggers.marks import Marks
    from triggers.queue import Pending
    from triggers.repertoire import Repertoire
    from triggers.report import Report
    from triggers.run import Failed

__all__ = ["AGAIN_MS", "TEXT_KEPT", "Verdicts"]

TEXT_KEPT = 64 * 1024
"""Of a traceback, a message, a result: they are in the log."""

BACKOFF_FACTOR = 4
BACKOFF_MS_MAX = 30_000
AGAIN_MS = 1000
"""Until what the log did not take is tried again."""


class Verdicts:
    """Of one engine. Whoever calls holds the store."""

    def __init__(
        self,
        marks: Marks,
        repertoire: Repertoire,
        report: Report,
        clock: Clock,
        random: Random,
        point: Callable[[str], None],
    ) -> None:
        """See `Engine` for the arguments."""
        self._marks = marks
        self._repertoire = repertoire
        self._report = report
        self._clock = clock
        self._random = random
        self._point = point

    def failed(
        self,
        follower: Follower,
        definition: Definition,
        events: list[Pending],
        failure: Failed,
        *,
        partial: bool = False,
    ) -> None:
        """Again, later; or no more. `partial`: others of the same run still have to come back."""
        binding = definition.binding
        now_ms = self._now_ms()
        follower.last_error, follower.last_error_ns = failure.message, self._clock.now_ns()
        if failure.kind in ("reject", "killed", "hops"):
            self.give_up(follower, definition, events, failure, partial=partial)
            return
        if len(events) > 1:
            follower.queue.put_back(events, now_ms + (failure.after_ms or 0), split=True)
            return
        (pending,) = events
        attempts = pending.attempts + 1
        if attempts >= binding.attempts:
            pending.attempts = attempts
            self.give_up(follower, definition, events, failure, partial=partial)
            return
        delay_ms = failure.after_ms
        if delay_ms is None:
            backoff = binding.backoff_ms * BACKOFF_FACTOR**pending.attempts
            delay_ms = round(min(backoff, BACKOFF_MS_MAX) * self._random.uniform(0.8, 1.2))
        pending.attempts = attempts
        self._point("attempt failed")
        with contextlib.suppress(OSError):  # then the count is in memory only
            self._marks.propose(
                record.Attempt(
                    follower.base, follower.name, self._marks.epoch(), [pending.position], attempts,
                    now_ms + delay_ms, failure.message.encode(errors="backslashreplace")[:1000],
                )
            )  # fmt: skip
        self._point("attempt noted")
        follower.queue.put_back(events, now_ms + delay_ms, partial=partial)
        self._report.event("retry", follower, pending.event, message=failure.message)

    def give_up(
        self,
        follower: Follower,
        definition: Definition,
        events: list[Pending],
        failure: Failed,
        *,
        partial: bool = False,
    ) -> None:
        """Dead letters, or a key that stands still. `partial` as in `failed`."""
        if definition.binding.on_fail == "block" and failure.kind not in ("reject", "hops", "path"):
            follower.queue.block(events, partial=partial)
            self._report.event("blocked", follower, events[0].event, message=failure.message)
            return
        for pending in events:
            letter = provenance.Letter(
                pending.event, pending.address, pending.definition, failure.kind, failure.message[:TEXT_KEPT],
                max(pending.attempts, 1), failure.traceback[-TEXT_KEPT:], failure.output, self._clock.now_ns(),
            )  # fmt: skip
            try:
                self.finish_without(follower, [pending], FINISH_DEAD, provenance.encode(letter))
            except OSError:
                follower.queue.put_back([pending], self._now_ms() + AGAIN_MS, partial=True)
                continue
            self._report.event("dead", follower, pending.event, message=failure.message)
            follower.queue.done([pending], partial=True)
        if not partial:
            follower.queue.ended()

    def skip(self, follower: Follower, pending: Pending) -> None:
        """An event taken out of its queue is done without a run.

        Raises:
            OSError: the log could not take that; the event waits as before.
        """
        try:
            self.finish_without(follower, [pending], FINISH_SKIPPED)
        except OSError:
            follower.queue.put_back([pending], 0, partial=True)
            raise
        follower.queue.done([pending], ran=False)

    def finish_without(
        self, follower: Follower, events: list[Pending], verdict: int, letter: bytes = b""
    ) -> None:
        """Events are done though nothing was done about them."""
        self._repertoire.came_back(len(events))
        positions = [pending.position for pending in events]
        outcome = self._marks.propose(
            record.Finish(
                follower.base, follower.name, self._marks.epoch(), positions, verdict,
                self._marks.low(follower, positions), letter=letter,
            )
        )  # fmt: skip
        assert outcome.reason is None, "nobody else finishes this consumer's events"
        self._point("given up" if verdict == FINISH_DEAD else "skipped")

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000
