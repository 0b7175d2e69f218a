"""The intake: from what is committed to events in queues.

Theory of operation. The *head* is where the log was last looked at. While commits are told as they happen, it moves with
them; at the start, and after more was told than is kept, it reads the log. Bindings that have seen all up to the head
are *live* and fed by it, all at once; one that has not, because it is new or was full, reads on its own until it has.

Source: docs/TRIGGERS.md 4; DESIGN, "triggers pull, nobody pushes".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from storage import record
from storage.stream import Committed
from triggers import provenance
from triggers.binding import AFFINITY
from triggers.change import Paths, changes, path_of
from triggers.library import CONTROL
from triggers.registry import is_relevant, touched_bases

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.record import Record
    from storage.store import Store
    from triggers.change import Change
    from triggers.follower import Follower, Key
    from triggers.queue import Pending
    from triggers.registry import Registry
    from triggers.report import Report

__all__ = ["Intake"]

PUMP_RECORDS = 256
"""Looked at in one go, by the head and by each follower that catches up, before others have their turn."""

FEED_RECORDS_MAX = 50_000
"""Commits told and not looked at; behind that they are read from the log."""


class Intake:
    """See the module. Whoever calls holds the store; only `observe` may come from another thread that does."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        report: Report,
        node: str,
        wake: Callable[[], None],
        queued: Callable[[Key], None],
        ordered: Callable[[record.Activate | record.Rearm], None],
        affinity: Callable[[str], str] | None = None,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            store: whose commits.
            registry: who follows.
            report: who is told.
            node: name of this node.
            wake: called, from any thread, when `pump` has something new to look at.
            queued: called for each new event.
            ordered: called for each record that says what is to be done.
            affinity: the group of a directory, by its path from the root.
        """
        self._store = store
        self._registry = registry
        self._report = report
        self._node = node
        self._wake = wake
        self._queued = queued
        self._ordered = ordered
        self._affinity = affinity
        self._feed: deque[Committed] = deque()
        self._feed_lost = True  # what was committed before anybody listened was told to nobody
        self._head, self._head_address = 0, 0
        self._filled: list[Follower] = []
        self._paths = Paths(store, store.is_top)
        self.noted = 0
        """Commits looked at since somebody set it to 0."""
        self.queued = 0
        """Events queued since the start."""

    @property
    def head(self) -> tuple[int, int]:
        """(timestamp, address) of the last commit looked at."""
        return self._head, self._head_address

    @head.setter
    def head(self, head: tuple[int, int]) -> None:
        self._head, self._head_address = head

    @property
    def has_news(self) -> bool:
        """Whether there are commits that nobody has looked at."""
        return bool(self._feed) or self._feed_lost

    def observe(self, timestamp: int, address: int, committed: Record) -> None:
        """A commit was applied. From any thread; costs a look at its type."""
        if not is_relevant(committed):
            return
        if len(self._feed) >= FEED_RECORDS_MAX:
            self._feed_lost = True
        if not self._feed_lost:
            self._feed.append(Committed(timestamp, address, committed))
        self._wake()

    def pump(self) -> bool:
        """Look at what was committed; whether there is more to look at."""
        more = self._pump_head()
        for follower in list(self._registry.behind.values()):
            if not follower.is_full:
                more = self._catch_up(follower) or more
        return more

    def _pump_head(self) -> bool:
        if self._feed_lost:
            return self._read_head()
        for _ in range(PUMP_RECORDS):
            if not self._feed:
                return False
            committed = self._feed.popleft()
            if committed.timestamp > self._head:
                self._look(committed)
        return bool(self._feed)

    def _read_head(self) -> bool:
        """Read the head from the log: at the start, and after more was told than could be kept."""
        self._feed.clear()
        reading = self._store.committed(self._head_address, self._head)
        for _ in range(PUMP_RECORDS):
            committed = next(reading, None)
            if committed is None:
                self._feed_lost = False
                for follower in self._registry.followers():
                    if follower.live:
                        follower.known_done.clear()
                return False
            self._look(committed)
        return True

    def _look(self, committed: Committed) -> None:
        """The head of the log moves on by one commit."""
        timestamp, address, what = committed
        self._head, self._head_address = timestamp, address
        if not is_relevant(what):
            return
        self.noted += 1
        if isinstance(what, record.Activate | record.Rearm):
            self._ordered(what)
            return
        self._paths.observe(what)
        for base in touched_bases(self._store, self._paths, timestamp, what):
            self._registry.dirty.setdefault(base, timestamp)
        if self._registry.bases:
            self._derive(committed, self._paths, None)
        for follower in self._filled:
            follower.live = False  # the rest stays in the log until there is room
            self._registry.behind[follower.key] = follower
            follower.scanned, follower.scanned_address = timestamp, address
        self._filled.clear()

    def _catch_up(self, follower: Follower) -> bool:
        """A follower that is behind the head reads on its own."""
        if follower.reading is None:
            follower.reading = self._store.committed(follower.scanned_address, follower.scanned)
            follower.paths = Paths(self._store, self._store.is_top)
        assert follower.paths is not None, "made with the reading"
        for _ in range(PUMP_RECORDS):
            committed = next(follower.reading, None)
            if committed is None or committed.timestamp > self._head:
                follower.reading = None
                if follower.scanned < self._head:
                    follower.scanned, follower.scanned_address = self._head, self._head_address
                follower.live = True
                del self._registry.behind[follower.key]
                if (
                    not self._feed_lost
                ):  # else the head has still to come by what was done before the start
                    follower.known_done.clear()
                return False
            if is_relevant(committed.record):
                follower.paths.observe(committed.record)
                self._derive(committed, follower.paths, follower)
            follower.scanned, follower.scanned_address = committed.timestamp, committed.address
            if follower.is_full:
                return False
        return True

    def _derive(self, committed: Committed, paths: Paths, only: Follower | None) -> None:
        """Queue the events that a commit is, for those fed by the head or for one that catches up."""
        timestamp = committed.timestamp
        origin: tuple[int, str, Key | None, str] | None = None

        def wanted(directory: int) -> bool:
            return self._registry.watches(paths.chain(directory, timestamp))

        for change in changes(self._store, timestamp, committed.record, wanted):
            chain = paths.chain(change.directory, timestamp)
            for inode, above in chain or ():
                base = self._registry.bases.get(inode)
                if base is None or (only is not None and only.base != inode):
                    continue
                below = above + change.name
                if CONTROL in below.split(b"/"):
                    break
                path = below.decode(errors="surrogateescape")
                if only is None:
                    concerned = list(base.matching(path, timestamp))
                else:
                    version = only.definition_at(timestamp)
                    hit = version is not None and only.pattern(version[0]).matches(path)
                    concerned = [(only, *version)] if hit and version is not None else []
                for follower, since, definition in concerned:
                    origin = origin or self._origin(committed.record)
                    other = self._other(paths, change, inode, timestamp)
                    group = ""
                    if definition.binding.key == AFFINITY:
                        group = self._group(inode, path, timestamp)
                    pending = follower.event(
                        committed, since, definition, change, path, other, origin, self._node, group
                    )
                    if pending is not None:
                        self._enqueue(follower, pending)

    def _group(self, base: int, path: str, timestamp: int) -> str:
        """The affinity group of a path relative to a base."""
        if self._affinity is None:  # the store had pools when the binding became active
            return ""
        above = path_of(self._store, base, timestamp)
        return self._affinity(f"{above}/{path}".rpartition("/")[0].lstrip("/"))

    def _enqueue(self, follower: Follower, pending: Pending) -> None:
        attempted = follower.attempted.pop(pending.position, None)
        if attempted is not None:
            pending.attempts = attempted.attempts
            pending.not_before_ms = attempted.not_before_ms
        follower.queue.add(pending)
        self.queued += 1
        self._queued(follower.key)
        if follower.live and follower.is_full and follower not in self._filled:
            self._filled.append(follower)
        self._report.event("event", follower, pending.event)

    def _other(self, paths: Paths, change: Change, base: int, timestamp: int) -> str | None:
        """The other end of a move, relative to the base; None if there is none, or it is outside."""
        if change.other is None:
            return None
        directory, name = change.other
        for inode, above in paths.chain(directory, timestamp) or ():
            if inode == base:
                return (above + name).decode(errors="surrogateescape")
        return None

    def _origin(self, committed: Record) -> tuple[int, str, Key | None, str]:
        """(hops, id of the first event, consumer, run) of what a commit wrote."""
        if not isinstance(committed, record.Finish) or not committed.provenance:
            return 0, "", None, ""
        known = provenance.decode(committed.provenance)
        return known.hops + 1, known.root, (committed.base, committed.consumer), known.run
