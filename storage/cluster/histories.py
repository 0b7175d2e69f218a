"""What the shards of a store keep of their history, asked as one.

Policies, holds and labels reach below shard roots; history budgets count what is in their directory's shard.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING

from storage.errors import Reason, Refused
from storage.log import Log
from storage.namespace import shard_of
from storage.retention import Retention, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.clock import Clock
    from storage.cluster.face import Face
    from storage.namespace import Outcome
    from storage.retention import Sayings

__all__ = ["Histories"]


class Histories:
    """`storage.retention.Retention` for a store of many shards, as far as the file system asks."""

    def __init__(self, clock: Clock, sayings: Sayings) -> None:
        """No shard yet.

        Args:
            clock: the wall clock.
            sayings: where policies, holds and labels of all shards are said.
        """
        self._clock = clock
        self._sayings = sayings
        self.of: dict[int, Retention] = {}
        """By shard; whose log is here may be driven, as `Retention` says."""
        self._pinned: Callable[[], set[tuple[int, int]]] = set
        self._in_use: Callable[[], set[int]] | None = None

    def add(self, face: Face) -> None:
        """One more shard."""
        retention = self.of[face.namespace.shard] = Retention(
            face, self._clock, sayings=self._sayings
        )
        retention.pinned, retention.in_use = self._pinned, self._in_use

    def _on(self, inode: int) -> Retention:
        return self.of[shard_of(inode)]

    @property
    def pinned(self) -> Callable[[], set[tuple[int, int]]]:
        """See `Retention`."""
        return self._pinned

    @pinned.setter
    def pinned(self, pinned: Callable[[], set[tuple[int, int]]]) -> None:
        self._pinned = pinned
        for retention in self.of.values():
            retention.pinned = pinned

    @property
    def in_use(self) -> Callable[[], set[int]] | None:
        """See `Retention`."""
        return self._in_use

    @in_use.setter
    def in_use(self, in_use: Callable[[], set[int]] | None) -> None:
        self._in_use = in_use
        for retention in self.of.values():
            retention.in_use = in_use

    def ask(self, *, dry: bool) -> None:
        """See `Retention`: where the logs are.

        Raises:
            Refused: UNSUPPORTED where they are not here.
        """
        here = [one for one in self.of.values() if isinstance(one.log, Log)]
        if len(here) < len(self.of):
            raise Refused(Reason.UNSUPPORTED)
        for retention in here:
            retention.ask(dry=dry)

    def run(self, *, dry: bool = False, pressed: bool = False) -> dict[str, Tally]:
        """See `Retention`: shard after shard, in this thread."""
        found: dict[str, Tally] = {}
        for retention in self.of.values():
            for line, tally in retention.run(dry=dry, pressed=pressed).items():
                so_far = found.get(line, Tally(0, 0))
                found[line] = Tally(*map(add, so_far, tally))
        return found

    def status(self) -> dict[str, object]:
        """By shard."""
        return {str(shard): retention.status() for shard, retention in sorted(self.of.items())}

    def keeps_instant(self, directory: int, timestamp: int) -> bool:
        """See `Retention`."""
        return self._on(directory).keeps_instant(directory, timestamp)

    def instants(self, directory: int, commits: list[int], count_max: int) -> list[int]:
        """See `Retention`."""
        return self._on(directory).instants(directory, commits, count_max)

    def purge(self, inode: int, content: int) -> Outcome:
        """See `Retention`."""
        return self._on(inode).purge(inode, content)

    def history_bytes(self, directory: int) -> int | None:
        """See `Retention`."""
        return self._on(directory).history_bytes(directory)

    def is_held(self, inode: int) -> bool:
        """See `Retention`."""
        return self._on(inode).is_held(inode)
