"""The ranges of a file that one owner has locked: ascending, disjoint, and neighbours of one mode are one (fcntl(2))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXCLUSIVE", "LAST", "NONE", "SHARED", "Span", "assign", "overlapping"]

LAST: Final = 2**63 - 1
"""The last byte there can be: a lock up to here goes to the end of the file, wherever that will be."""

NONE, SHARED, EXCLUSIVE = 0, 1, 2
"""Modes."""


class Span(NamedTuple):
    """Bytes `start` to `end`, both locked."""

    start: int
    end: int
    exclusive: bool


def assign(spans: Sequence[Span], start: int, end: int, mode: int) -> list[Span]:
    """The same, but with one mode from `start` to `end`, whatever was there: split, cut and joined as that needs."""
    found: list[Span] = []
    for span in spans:
        if span.start < start:
            found.append(span._replace(end=min(span.end, start - 1)))
        if span.end > end:
            found.append(span._replace(start=max(span.start, end + 1)))
    if mode != NONE:
        found.append(Span(start, end, mode == EXCLUSIVE))
    found.sort()
    joined: list[Span] = []
    for span in found:
        before = joined[-1] if joined else None
        if (
            before is not None
            and before.exclusive == span.exclusive
            and before.end + 1 == span.start
        ):
            joined[-1] = before._replace(end=span.end)
        else:
            joined.append(span)
    return joined


def overlapping(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """Those that have a byte from `start` to `end`."""
    return [span for span in spans if span.start <= end and span.end >= start]
