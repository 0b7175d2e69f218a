"""Numbers of contents as ranges: how a `Prune` record says them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ranges_of"]


def ranges_of(contents: Iterable[int]) -> list[tuple[int, int]]:
    """The same numbers as ranges, both ends included, ascending."""
    found: list[tuple[int, int]] = []
    for content in sorted(contents):
        if found and found[-1][1] == content - 1:
            found[-1] = (found[-1][0], content)
        else:
            found.append((content, content))
    return found
