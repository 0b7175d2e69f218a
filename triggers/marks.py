"""The marks: how far everybody has come, in the log, and the epoch in whose name it is said.

A mark moves with every record that ends an event; those who have nothing pending are noted now and then, so that a start
has less to look at. The epoch begins with an engine's first record: what an engine before it still sends is refused.

Source: docs/TRIGGERS.md 7.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from storage import record
from storage.errors import Reason
from storage.namespace import ROOT
from storage.namespace.deliveries import FINISH_DONE, NOWHERE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.namespace import Outcome
    from storage.record import Record
    from storage.store import Store
    from triggers.follower import Follower
    from triggers.intake import Intake
    from triggers.queue import Position
    from triggers.registry import Registry

__all__ = ["PAUSED", "REGISTRAR_NAME", "Deposed", "Marks"]

REGISTRAR_NAME = b"."
"""Of the consumer that looks for scripts: its mark is how far the log was searched. No script has such a name."""

PAUSED = "\0paused"
"""Among the states of a consumer: it is, whoever leads. No key of an event is like it."""

ADVANCE_RECORDS = 4096
"""Commits after which the marks of whoever has nothing pending are noted."""


class Deposed(Exception):
    """Another engine has begun a later epoch: nothing that this one proposes takes effect any more, and it must end."""


class Marks:
    """Of one engine. Whoever calls holds the store."""

    def __init__(self, store: Store, registry: Registry, intake: Intake, shard: int) -> None:
        """`shard`: whose log the marks are of."""
        self._store = store
        self.registrar = (ROOT if shard == 0 else NOWHERE, REGISTRAR_NAME)
        self._registry = registry
        self._intake = intake
        self._epoch: int | None = None

    def epoch(self) -> int:
        """This engine's epoch, begun when it is first asked for.

        What engines before it sent is in the log by then, or never takes effect.

        Raises:
            OSError: the log could not take it.
        """
        while self._epoch is None:
            epoch = self._store.deliveries.epoch() + 1
            if self._store.propose(record.Adopt(epoch)).reason is None:
                self._epoch = epoch
        return self._epoch

    def propose(self, proposal: Record, payload: Iterable[memoryview] = ()) -> Outcome:
        """One record more.

        Raises:
            OSError: the log could not take it.
            Deposed: it has no effect, as nothing has any more.
        """
        outcome = self._store.propose(proposal, list(payload))
        if outcome.reason is Reason.CONDITION_FAILED and self._is_over():
            raise Deposed
        return outcome

    def note(self, follower: Follower, key: str, value: bytes | None) -> None:
        """Keep something of a consumer among its states, or nothing.

        Raises:
            OSError: the log could not take it.
            Deposed: as of `propose`.
        """
        epoch, low = self.epoch(), self.low(follower)
        said = record.Finish(*follower.key, epoch, [], FINISH_DONE, low, states=[(key, value)])
        outcome = self.propose(said)
        assert outcome.reason is None, "it is about no event, and expects nothing"

    def _is_over(self) -> bool:
        return self._epoch is not None and self._store.deliveries.epoch() > self._epoch

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
        base, name = self.registrar
        if self._store.deliveries.consumer(base, name) is None:
            self.propose(record.Activate(base, name, [(name, b"", 0, 0)]))
        waiting = [*self._registry.dirty.values()]
        for known in self._registry.bases.values():
            waiting.extend(problem.timestamp for problem in known.problems.values())
        marks = []
        if not waiting:  # what could not be loaded is looked at again after a start
            marks.append((base, name, *self._intake.head))
        marks.extend(
            (*follower.key, *self.low(follower)) for follower in self._registry.followers()
        )
        self.propose(record.Advance(epoch, marks))
