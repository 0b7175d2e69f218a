"""Which version brought what a file holds: each line, or each byte by its place. Pure.

Both are asked going back in time, one pair of versions after the other, and are done when everything is told. Only what
is not told yet is kept, so a history of any length needs the memory of two versions.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Lines", "Ranges"]

V = TypeVar("V")

JOINED_BYTES = 16
"""Changed bytes closer together than this are one range: equal bytes between them are mostly chance."""

BLOCK_BYTES = 1 << 16

_CHANGED_FIND = re.compile(rb"[^\0]+").finditer


class Lines(Generic[V]):
    """The lines of the newest version, `told` for each that is known."""

    def __init__(self, lines: Sequence[bytes], newest: V) -> None:
        self.lines = lines
        self.told: list[V | None] = [None] * len(lines)
        # For lines of the version before, as far as they are in the newest one: their places there.
        self._places: list[int | None] = list(range(len(lines)))
        self._current = lines
        self._version = newest

    @property
    def is_done(self) -> bool:
        """Whether every line is told."""
        return not any(place is not None for place in self._places)

    def before(self, lines: Sequence[bytes], version: V) -> None:
        """The version before has these lines: those that it has not came with the one asked last."""
        places: list[int | None] = [None] * len(lines)
        for start, old_start, length in _common(lines, self._current):
            places[start : start + length] = self._places[old_start : old_start + length]
            for place in range(old_start, old_start + length):
                self._places[place] = None
        self.end()
        self._current, self._version, self._places = lines, version, places

    def end(self) -> None:
        """There is nothing before: what is not told came with the version asked last."""
        for place in self._places:
            if place is not None:
                self.told[place] = self._version
        self._places = []


def _common(a: Sequence[bytes], b: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Runs of lines both have: (place in a, place in b, length). What is alike at both ends is found without a search."""
    shorter = min(len(a), len(b))
    head = 0
    while head < shorter and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < shorter - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    found = [(0, 0, head)]
    if middle_a and middle_b:
        matcher = difflib.SequenceMatcher(None, middle_a, middle_b, autojunk=False)
        found += [(head + i, head + j, size) for i, j, size in matcher.get_matching_blocks()]
    found.append((len(a) - tail, len(b) - tail, tail))
    return [run for run in found if run[2]]


class Ranges(Generic[V]):
    """The bytes of the newest version by their places, as (start, end, version) in `told`, in no order."""

    def __init__(self, size: int, newest: V) -> None:
        self.told: list[tuple[int, int, V]] = []
        self._left = [(0, size)] if size else []
        self._version = newest

    @property
    def is_done(self) -> bool:
        """Whether every byte is told."""
        return not self._left

    def before(
        self,
        now: Callable[[int, int], bytes],
        then: Callable[[int, int], bytes],
        size: int,
        version: V,
    ) -> None:
        """The version before has `size` bytes; `now` and `then` read (offset, length) of the one asked last and of it."""
        left: list[tuple[int, int]] = []
        for start, end in self._left:
            at = start
            for changed, behind in _joined(_changed(start, min(end, size), now, then)):
                if changed > at:
                    left.append((at, changed))
                self.told.append((changed, behind, self._version))
                at = behind
            if min(end, size) > at:
                left.append((at, min(end, size)))
            if end > max(size, start):
                self.told.append((max(size, start), end, self._version))
        self._left, self._version = left, version

    def end(self) -> None:
        """There is nothing before."""
        self.told += [(start, end, self._version) for start, end in self._left]
        self._left = []

    def in_order(self) -> list[tuple[int, int, V]]:
        """What is told, ascending, neighbours of one version joined."""
        joined: list[tuple[int, int, V]] = []
        for start, end, version in sorted(self.told, key=lambda told: told[0]):
            if joined and joined[-1][1] == start and joined[-1][2] == version:
                joined[-1] = (joined[-1][0], end, version)
            else:
                joined.append((start, end, version))
        return joined


def _changed(
    start: int,
    end: int,
    now: Callable[[int, int], bytes],
    then: Callable[[int, int], bytes],
) -> list[tuple[int, int]]:
    found = []
    for at in range(start, end, BLOCK_BYTES):
        length = min(BLOCK_BYTES, end - at)
        a, b = now(at, length), then(at, length)
        if a != b:
            mixed = int.from_bytes(a, "big") ^ int.from_bytes(b, "big")
            runs = _CHANGED_FIND(mixed.to_bytes(length, "big"))
            found += [(at + run.start(), at + run.end()) for run in runs]
    return found


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and start - joined[-1][1] < JOINED_BYTES:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
