"""What the simulated cluster stores: named registers with every past value, and the changes that make them.

A state machine in the sense of `storage.namespace`, only smaller: `apply` is total and deterministic, a refused change is
an outcome, and any past can be asked for. The real namespace has its own twin and tests; here the order of records matters.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

__all__ = ["NOTHING", "Change", "Registers", "State", "decode", "encode"]


class Change(NamedTuple):
    """What a client asks for: ``put``, ``put-if`` (the version is `expected`), or ``get`` (changes nothing)."""

    kind: str
    name: str
    value: int = 0
    expected: int = 0


class State(NamedTuple):
    """A register at some time: its value, and how often it was put."""

    value: int
    version: int


NOTHING = State(0, 0)


def encode(change: Change) -> bytes:
    """The record's metadata."""
    return f"{change.kind} {change.name} {change.value} {change.expected}".encode()


def decode(metadata: bytes) -> Change:
    """The opposite of `encode`."""
    kind, name, value, expected = metadata.decode().split(" ")
    return Change(kind, name, int(value), int(expected))


def after(state: State, change: Change) -> State:
    """The register once a change was applied; the same if it was refused or only asked."""
    if change.kind == "put" or (change.kind == "put-if" and change.expected == state.version):
        return State(change.value, state.version + 1)
    return state


class Registers:
    """All registers of a shard, fed with its records in order."""

    def __init__(self) -> None:
        self._times: dict[str, list[int]] = {}
        self._states: dict[str, list[State]] = {}

    def apply(self, timestamp: int, change: Change) -> State:
        """Answers the register afterwards, which for a refused ``put-if`` tells why."""
        state = self.at(change.name)
        new = after(state, change)
        if new is not state:
            self._times.setdefault(change.name, []).append(timestamp)
            self._states.setdefault(change.name, []).append(new)
        return new

    def at(self, name: str, timestamp: int | None = None) -> State:
        """A register now, or as of a time."""
        states = self._states.get(name)
        if not states:
            return NOTHING
        if timestamp is None:
            return states[-1]
        count = bisect_right(self._times[name], timestamp)
        return states[count - 1] if count else NOTHING
