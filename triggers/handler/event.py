"""The event as a handler sees it: docs/TRIGGERS.md 5."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from triggers.handler.blob import Blob

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers import run
    from triggers.handler.copies import Copies
    from triggers.run import Content

__all__ = ["Event", "Writer"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Writer(NamedTuple):
    """Who wrote the version."""

    uid: int
    node: str


class Event(Blob):
    """One version of one path, and what happened to it.

    `id` is the same in every attempt: dedupe by it whatever leaves the store. `timestamp` is in microseconds, `size` in
    bytes; `previous` is 0 if this is the first version; `match` are the named groups of the pattern.
    """

    __slots__ = (
        "_content",
        "_data",
        "_failed",
        "_read",
        "_state",
        "attempt",
        "hops",
        "id",
        "key",
        "kind",
        "match",
        "old_path",
        "path",
        "previous",
        "root",
        "size",
        "timestamp",
        "version",
        "writer",
    )

    def __init__(
        self,
        event: run.Event,
        read: Callable[[], Content | None],
        state: Callable[[str], dict[str, Any]],
        failed: dict[str, str],
        copies: Copies,
    ) -> None:
        super().__init__(copies)
        self.id = event.id
        self.key = event.key
        self.path = event.path
        self.old_path = event.old_path
        self.version = event.version
        self.previous = event.previous
        self.timestamp = event.timestamp
        self.kind = event.kind
        self.size = event.size
        self.writer = Writer(event.uid, event.node)
        self.match = event.groups
        self.attempt = event.attempt
        self.hops = event.hops
        self.root = event.root
        self._read = read
        self._state = state
        self._failed = failed
        self._data: memoryview | None = None

    @property
    def data(self) -> memoryview:
        """The bytes of this very version, read-only; empty for a delete. Read at first use."""
        if self._data is None:
            content = self._read()
            self._data = self._copies.joined([] if content is None else content.parts)
        return self._data

    @property
    def dir(self) -> str:
        """The path without the name; "" at the top."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        head, dot, _ = self.name.rpartition(".")
        return head if dot and head else self.name

    @property
    def ref(self) -> str:
        """`path@v<version>`, which the file system reads as this very version."""
        return f"{self.path}@v{self.version}"

    @property
    def time(self) -> datetime:
        """When it was committed (UTC), by the wall clock; `timestamp` is the exact one."""
        return _EPOCH + timedelta(microseconds=self.timestamp)

    @property
    def state(self) -> dict[str, Any]:
        """The mapping of this event's key, as the key's previous run left it; changes are kept if the run commits."""
        return self._state(self.key)

    def fail(self, reason: object = "") -> None:
        """Of a batch: this event has failed and will be tried again alone; the others commit."""
        self._failed[self.id] = str(reason)

    def __repr__(self) -> str:
        return f"<Event {self.kind} {self.ref}>"
