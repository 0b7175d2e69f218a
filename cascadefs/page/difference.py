"""How two texts differ, line by line. Pure.

Source: difflib (Ratcliff and Obershelp); its time may grow with the square of the lines, so there is a bound.
"""

from __future__ import annotations

import difflib
from typing import Final

__all__ = ["LINES_MAX", "Row", "rows"]

LINES_MAX: Final = 5000
"""Of either text."""

CONTEXT_LINES: Final = 3

Row = tuple[str, int, int, str]
"""Kind (" ", "-", "+", or "@" for lines left out), its number before and after (0: not there), the line."""


def rows(before: str, after: str) -> list[Row] | None:
    """What was taken away and what came, with some lines around; nothing if they are equal; None if either is too long."""
    old, new = before.splitlines(), after.splitlines()
    if max(len(old), len(new)) > LINES_MAX:
        return None
    found: list[Row] = []
    groups = difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT_LINES)
    for group in groups:
        first = group[0]
        if first[1] or first[3]:
            found.append(("@", first[1], first[3], ""))
        for kind, a, b, c, d in group:
            if kind == "equal":
                found += [(" ", a + i + 1, c + i + 1, old[a + i]) for i in range(b - a)]
            else:
                found += [("-", i + 1, 0, old[i]) for i in range(a, b)]
                found += [("+", 0, i + 1, new[i]) for i in range(c, d)]
    return found
