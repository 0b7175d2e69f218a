"""What is told of bindings: the stream of events as JSON lines, the output of runs, and figures.

In memory, and for people and dashboards; what must not be forgotten is in the log.

Source: docs/TRIGGERS.md 11.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from triggers.chronicle import Chronicle
from triggers.run import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.clock import Clock
    from triggers.follower import Follower
    from triggers.run import Done, Event, Run

__all__ = ["Report"]

_encode = msgspec.json.Encoder().encode

EVENTS_BYTES_KEPT = 4 * 1024 * 1024
BASE_EVENTS_BYTES_KEPT = 1024 * 1024


class Report:
    """Collects what happened."""

    def __init__(
        self,
        clock: Clock,
        traced: Callable[[Run, Done | Failed], None] = lambda _run, _result: None,
    ) -> None:
        """`traced` is told of every run that came back."""
        self._clock = clock
        self._traced = traced
        self._number = 0
        self.events = Chronicle(EVENTS_BYTES_KEPT)
        """JSON lines of all bases, each with a sequence number."""
        self._by_base: dict[int, Chronicle] = {}

    def events_of(self, base: int) -> Chronicle:
        """The lines that are about one base: what others do is none of its owner's business."""
        return self._by_base.setdefault(base, Chronicle(BASE_EVENTS_BYTES_KEPT))

    def line(self, base: int, happened: str, /, **fields: object) -> None:
        """One line of the stream."""
        self._number += 1
        told = {"seq": self._number, "time_ns": self._clock.now_ns(), "event": happened, **fields}
        line = _line(told) + b"\n"
        self.events.append(line)
        self.events_of(base).append(line)

    def event(self, happened: str, follower: Follower, event: Event, **fields: object) -> None:
        """Something became of an event."""
        self.line(
            follower.base,
            happened,
            binding=follower.text,
            id=event.id,
            path=event.path,
            version=event.version,
            kind=event.kind,
            **fields,
        )

    def started(self, follower: Follower, run: Run) -> None:
        """A run begins."""
        self.line(follower.base, "start", binding=follower.text, run=run.id, events=len(run.events))

    def ended(self, follower: Follower, run: Run, result: Done | Failed) -> None:
        """A run came back."""
        self._traced(run, result)
        duration_ms = result.duration_ns / 1e6
        follower.durations_ms.append(duration_ms)
        fields: dict[str, object] = {"run": run.id, "duration_ms": round(duration_ms, 3)}
        if isinstance(result, Failed):
            fields |= {"kind": result.kind, "message": result.message}
        self.line(
            follower.base,
            "failed" if isinstance(result, Failed) else "done",
            binding=follower.text,
            **fields,
        )
        self._keep_output(follower, run.id, result)

    def _keep_output(self, follower: Follower, run_id: str, result: Done | Failed) -> None:
        """Every line with the id of its run."""
        prefix = run_id.rpartition("/")[2].encode()
        lines = [*result.output.splitlines()]
        lines += [
            f"{entry.level}: {entry.message}".encode(errors="replace") for entry in result.log
        ]
        if isinstance(result, Failed):
            text = result.traceback or result.message
            lines += text.encode(errors="replace").splitlines()
        for line in lines:
            follower.output.append(prefix + b" " + line + b"\n")


def _line(told: dict[str, object]) -> bytes:
    """JSON; names that are no UTF-8 have their bytes shown as \\udcXX, as Python does."""
    try:
        return _encode(told)
    except UnicodeEncodeError:
        return json.dumps(told).encode()
