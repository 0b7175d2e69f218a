"""The last number of each client that has a frame in the log, so that what is sent twice is not appended twice.

A filter, not the judge: the state machine ignores what is not a client's next number. So the clients kept here are
bounded, and of others the state machine is asked.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from storage.replication.options import SESSIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sessions"]


class Sessions:
    """Last numbers, as of the end of the log, and the way back for what may be cut."""

    def __init__(self, last_number: Callable[[int], int]) -> None:
        self._ask = last_number
        self._last: dict[int, int] = {}  # Invariant: oldest frame first.
        self._undo: deque[tuple[int, int, int | None]] = deque()  # (index, client, number before)

    def last(self, client: int) -> int:
        """A client's last number in the log; 0 if there is none."""
        number = self._last.get(client)
        return self._ask(client) if number is None else number

    def extend(self, index: int, client: int, number: int) -> None:
        """The frame at an index, behind all others, is this one of a client."""
        last = self._last
        self._undo.append((index, client, last.pop(client, None)))
        last[client] = number
        if len(last) > SESSIONS_MAX:
            del last[next(iter(last))]

    def commit(self, index: int) -> None:
        """Nothing up to this index will be cut."""
        undo = self._undo
        while undo and undo[0][0] <= index:
            undo.popleft()

    def cut(self, index: int) -> None:
        """The log ends with this index now."""
        while self._undo and self._undo[-1][0] > index:
            _, client, number = self._undo.pop()
            self._last.pop(client, None)
            if number is not None:
                self._last[client] = number

    def settled(self, index: int) -> dict[int, int]:
        """The last number of each client kept here, as of an index that was committed; later ones are forgotten."""
        self.cut(index)
        return dict(self._last)
