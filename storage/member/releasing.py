"""Which payloads a node's volatile log lets go, by what the face here has applied. In the hands of who holds the face.

A payload is *staged* until a commit names it, and *dead* when no content shows it. A dead one stays a little: a mount may just be asking
for it by a table that is a moment older. A staged one belongs to a draft somewhere, and nobody tells when that is given up.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from storage.record import Batch, Commit, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.member.memory import MemoryLog
    from storage.namespace import Namespace, Outcome
    from storage.record import Record

__all__ = ["DEAD_BYTES_MAX", "DEAD_US", "STAGED_US", "Releasing"]

DEAD_US: Final = 5_000_000
"""How long the bytes of a content that was replaced can be read ..."""

DEAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""... if there are not more of them than that."""

STAGED_US: Final = 25 * 3600 * 1_000_000
"""How long what was staged and never named is kept: longer than any draft lives."""


class Releasing:
    """See the module. One for each volatile shard here."""

    def __init__(self, namespace: Namespace, log_of: Callable[[], MemoryLog]) -> None:
        self._namespace = namespace
        self._log_of = log_of
        self._staged: dict[int, int] = {}
        self._dead: deque[tuple[int, int, int]] = deque()  # When, which, bytes.
        self._dead_bytes = 0

    @property
    def staged(self) -> frozenset[int]:
        """The addresses of what drafts may name."""
        return frozenset(self._staged)

    def begin_anew(self, timestamp: int) -> None:
        """Table and log are those of a snapshot: what it has and nobody refers to is staged."""
        self._dead.clear()
        self._dead_bytes = 0
        refers = self._namespace.refers
        self._staged = {
            address: timestamp for address, _ in self._log_of().held() if not refers(address)
        }

    def applied(self, timestamp: int, address: int, record: Record, outcome: Outcome) -> None:
        """A record was applied; `namespace.released` is what it let go of."""
        namespace = self._namespace
        for released in namespace.released:
            self._die(timestamp, released)
        if isinstance(record, Write):
            self._staged[address] = timestamp
            return
        if outcome.reason is None:
            for part in record.records if isinstance(record, Batch) else (record,):
                if isinstance(part, Commit):
                    self._name(timestamp, part)
        if not namespace.refers(address) and self._log_of().holds(address):
            self._die(timestamp, address)
        if self._dead_bytes > DEAD_BYTES_MAX:
            self.step(timestamp)

    def _name(self, timestamp: int, commit: Commit) -> None:
        for _, _, address, _ in commit.extents:
            if self._staged.pop(address, None) is not None and not self._namespace.refers(address):
                self._die(timestamp, address)  # Named, and covered by what is behind it.

    def _die(self, timestamp: int, address: int) -> None:
        held = self._log_of().holds(address)
        if held:
            self._dead.append((timestamp, address, held))
            self._dead_bytes += held

    def step(self, now_us: int) -> None:
        """Let go of what nobody should ask for any more."""
        log, refers, dead = self._log_of(), self._namespace.refers, self._dead
        while dead and (dead[0][0] < now_us - DEAD_US or self._dead_bytes > DEAD_BYTES_MAX):
            _, address, held = dead.popleft()
            self._dead_bytes -= held
            if not refers(address):
                log.release((address,))
        # In the order they came; those of drafts that live are younger.
        while self._staged:
            address, staged_us = next(iter(self._staged.items()))
            if staged_us >= now_us - STAGED_US:
                break
            del self._staged[address]
            if not refers(address):
                log.release((address,))
