"""Exactly once: a numbered request takes effect once, and the requests of a client in their order."""

from __future__ import annotations

from tests.simulation.cluster.checkers.violation import Violation

__all__ = ["Requests"]


class Requests:
    """Of one shard."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._last: dict[int, int] = {}
        self._done: dict[tuple[int, int], int] = {}

    def committed(self, index: int, client: int, number: int) -> None:
        """A request is known to be committed at an index, for the first time; indices come in order."""
        done = self._done.setdefault((client, number), index)
        if done != index:
            self._violated(
                f"request {number} of client {client} is done twice, at {done} and {index}"
            )
        last = self._last.get(client, 0)
        if number != last + 1:
            self._violated(f"of client {client}, request {number} follows {last}, at {index}")
        self._last[client] = number

    def _violated(self, what: str) -> None:
        raise Violation("requests", f"shard {self.shard}: {what}")
