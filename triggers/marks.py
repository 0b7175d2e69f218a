"""The marks: how far everybody has come, in the log, and the epoch in whose name it is said.

A mark moves with every record that ends an event; those who have nothing pending are noted now and then, so that a start
has less to look at. The epoch begins with an engine's first record: what an engine before it still sends is refused.

Source: docs/TRIGGERS.md 7.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from storage import record
from storage.namespace import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.namespace import Outcome
    from storage.record import Record
    from storage.store import Store
    from triggers.follower import Follower
    from triggers.intake import Intake
    from triggers.queue import Position
    from triggers.registry import Registry

__all__ = ["REGISTRAR", "Marks"]

REGISTRAR = (ROOT, b".")
"""The consumer that looks for scripts: its mark is how far the log was searched."""

ADVANCE_RECORDS = 4096
"""Commits after which the marks of whoever has nothing pending are noted."""


class Marks:
    """Of one engine. Whoever calls holds the store."""

    def __init__(self, store: Store, registry: Registry, intake: Intake) -> None:
        self._store = store
        self._registry = registry
        self._intake = intake
        self._epoch: int | None = None

    def epoch(self) -> int:
        """This engine's epoch, begun when it is first asked for.

        Raises:
            OSError: the log could not take it.
        """
        if self._epoch is None:
            epoch = self._store.deliveries.epoch() + 1
            self._store.propose(record.Adopt(epoch))
            self._epoch = epoch
        return self._epoch

    def propose(self, proposal: Record, payload: Iterable[memoryview] = ()) -> Outcome:
        """One record more.

        Raises:
            OSError: the log could not take it.
        """
        return self._store.propose(proposal, list(payload))

    def low(self, follower: Follower, without: Iterable[Position] = ()) -> tuple[int, int]:
        """(timestamp, address) of a follower's mark, if the events `without` were done as well."""
        return follower.low(self._intake.head, frozenset(without))

    def advance_now_and_then(self) -> None:
        """Note the marks if much was looked at since."""
        if self._intake.noted >= ADVANCE_RECORDS:
            self.advance()

    def close(self) -> None:
        """Note the marks for the last time, if there is anything to note."""
        if self._epoch is not None or self._intake.noted:
            self.advance()

    def advance(self) -> None:
        """Note how far everybody has come, if the log takes it."""
        self._intake.noted = 0
        with contextlib.suppress(OSError):
            self._note()

    def _note(self) -> None:
        epoch = self.epoch()
        if self._store.deliveries.consumer(*REGISTRAR) is None:
            self.propose(record.Activate(ROOT, REGISTRAR[1], [(REGISTRAR[1], b"", 0, 0)]))
        waiting = [*self._registry.dirty.values()]
        for base in self._registry.bases.values():
            waiting.extend(problem.timestamp for problem in base.problems.values())
        marks = []
        if not waiting:  # what could not be loaded is looked at again after a start
            marks.append((*REGISTRAR, *self._intake.head))
        marks.extend(
            (*follower.key, *self.low(follower)) for follower in self._registry.followers()
        )
        self.propose(record.Advance(epoch, marks))
