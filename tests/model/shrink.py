"""Make a failing sequence small, and print it so that it can be pasted into a test.

Every line of a transcript is a call (`pair`); a sequence is made smaller by leaving lines out, from the end and again
until no line can go, and playing what is left on a new pair. Hypothesis could do that too, but it shrinks the numbers it
drew and not the calls: it takes minutes, and leaves padding.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.model.comparison import Divergence

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.model.pair import Pair

ROUNDS_MAX = 5


def play(lines: list[str], pair: Pair) -> None:
    """Make the calls; one on a file that is not open (any more) is left out. A `Divergence` passes through."""
    for line in lines:
        with contextlib.suppress(KeyError):
            exec(line, {"w": pair})
    pair.finish()


def smallest(lines: list[str], make_pair: Callable[[], AbstractContextManager[Pair]]) -> str:
    """The message of the smallest failing part of a transcript; of all of it if it does not fail again."""

    def failure(part: list[str]) -> str | None:
        with make_pair() as pair:
            try:
                play(part, pair)
            except Divergence as divergence:
                return str(divergence)
        return None

    lines = [
        line.partition("  # ")[0]
        for line in lines
        if line.startswith("w.") and line != "w.finish()"
    ]
    message = failure(lines)
    if message is None:
        return "\n".join(["it did not happen again:", *lines])
    size = max(1, len(lines) // 4)
    for _ in range(ROUNDS_MAX * len(lines)):
        before = len(lines)
        for start in range(len(lines) - size, -1, -size):
            part = lines[:start] + lines[start + size :]
            smaller = failure(part)
            if smaller is not None:
                lines, message = part, smaller
        if size == 1 and len(lines) == before:
            break
        size = max(1, size // 2)
    return message
