"""Linearizability of one register: is there an order of the calls, true to real time, that explains every answer?

Theory of operation. Wing and Gong's search: among the calls that began before any unfinished one ended, try each as the next,
if its answer is what the register would say; go back when stuck. Lowe's memory: a set of calls done with the
register that they left is tried once. Registers are independent, so each is searched for itself. A call whose answer
was never seen may have taken effect at any time after it began, or never.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.registers import NOTHING, Change, State, after

__all__ = ["Call", "Linearizability", "explanation"]

STEPS_MAX = 200_000
"""A search this long is given up and counted; histories here are explained in about as many steps as they have calls."""


class Call(NamedTuple):
    """What a client asked, when, and the register it was told of; `returned` and `answer` are None if nobody heard."""

    client: str
    invoked: int
    returned: int | None
    change: Change
    answer: State | None


class TooLong(Exception):
    """The search was given up."""


def explanation(calls: Sequence[Call]) -> list[Call] | None:
    """An order that explains every answer, or None.

    Raises:
        TooLong: It was neither found nor excluded in `STEPS_MAX` steps.
    """
    calls = sorted(calls, key=lambda call: (call.invoked, call.client))
    heard = sum(1 << at for at, call in enumerate(calls) if call.returned is not None)
    done, state = 0, NOTHING
    order: list[tuple[int, State]] = []  # The calls done, each with the register before it.
    tried: set[tuple[int, State]] = set()
    options = [_possible(calls, done)]
    for _ in range(STEPS_MAX):
        if done & heard == heard:
            return [calls[at] for at, _ in order]
        for at in options[-1]:
            new = after(state, calls[at].change)
            if calls[at].answer not in (None, new) or (done | 1 << at, new) in tried:
                continue
            tried.add((done | 1 << at, new))
            order.append((at, state))
            done, state = done | 1 << at, new
            options.append(_possible(calls, done))
            break
        else:
            options.pop()
            if not order:
                return None
            at, state = order.pop()
            done ^= 1 << at
    raise TooLong


def _possible(calls: Sequence[Call], done: int) -> list[int]:
    """Calls that may be next: not done, and begun before every other undone one ended."""
    found = []
    first_end: int | None = None
    for at, call in enumerate(calls):
        if done >> at & 1:
            continue
        if first_end is not None and call.invoked > first_end:
            break
        found.append(at)
        if call.returned is not None and (first_end is None or call.returned < first_end):
            first_end = call.returned
    return found


class Linearizability:
    """Of all registers of a shard; `given_up` counts searches given up."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.given_up = 0
        self._calls: dict[str, list[Call]] = {}

    def called(self, call: Call) -> None:
        """A call has returned, or will never."""
        self._calls.setdefault(call.change.name, []).append(call)

    def check(self) -> None:
        """Every register must have an explanation."""
        for name, calls in self._calls.items():
            try:
                explained = explanation(calls) is not None
            except TooLong:
                self.given_up += 1
                continue
            if not explained:
                history = "\n".join(map(str, sorted(calls, key=lambda call: call.invoked)))
                raise Violation(
                    "linearizability", f"shard {self.shard}: no order explains {name}:\n{history}"
                )
