"""A follower: one binding that is at work, with its versions, its queue, and how far it has read.

What of the log it has looked at (`scanned`) and what is done (the low-water mark) are two things: between them lie the
events in the queue. The mark is what is stored; after a restart everything above it is looked at again, and what was
done is left out.

Source: docs/TRIGGERS.md 4, 7, 8, 10.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec
import xxhash

from triggers.binding import AFFINITY, Binding
from triggers.chronicle import Chronicle
from triggers.pattern import Pattern
from triggers.queue import Pending, Queue
from triggers.run import PATH_CHARACTERS_MAX, Event
from triggers.spelling import Decoder, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.namespace.deliveries import Attempted
    from storage.stream import Committed
    from triggers.change import Change, Paths
    from triggers.queue import Position

__all__ = ["REPLAYED", "Definition", "Follower", "Key", "decode_definition", "encode_definition"]

Key = tuple[int, bytes]
"""(inode of the base, name of the binding): a consumer, as the store knows it."""

QUEUE_EVENTS_MAX = 100_000
"""Events of one binding in memory; what comes behind them is left in the log until there is room."""

BEGINNING_CHARACTERS = 1000
"""Of a path that is too long."""

OUTPUT_BYTES_KEPT = 1024 * 1024
DURATIONS_KEPT = 256


class Definition(msgspec.Struct):
    """One version of a binding: what it says, and where its script lies."""

    binding: Binding
    script: bytes
    """The file's name below `watch/`."""

    script_id: str
    timestamp: int
    """As of which the script was read, and is read again."""

    until: int = 0
    """Of a replay: the last timestamp it is about; 0 otherwise."""

    events: list[tuple[int, int]] = []
    """Of a replay: the positions of the events it is about; empty: of all up to `until`."""

    outputs: list[str] = []
    """Of a replay that makes files again: the only paths it may write; empty: all."""

    cut: int = 0
    """Of a replay that makes files again: the timestamp its run reads at; 0: its event's own."""


REPLAYED = b"@replay-"
"""Between a binding's name and a number: a replay of it."""


def own_name(name: bytes) -> bytes:
    """The name of the binding that a consumer is, or replays."""
    return name.partition(REPLAYED)[0]


encode_definition = encode
decode_definition = Decoder[Definition](Definition).decode


class Follower:
    """See the module."""

    def __init__(
        self,
        key: Key,
        low: tuple[int, int],
        definitions: list[tuple[int, bytes]],
        is_open: Callable[[int], bool],
    ) -> None:
        """`definitions` as the store has them: newest first, empty where not active; `is_open` as of a `Queue`."""
        self.key = key
        self.base, self.name = key
        self._own = (self.base, own_name(self.name))
        self.definitions: list[tuple[int, Definition | None]] = []
        self._patterns: dict[int, Pattern] = {}
        for since, row in reversed(definitions):
            self._add(since, row)
        newest = self.newest
        assert newest is not None, "a consumer was active once"
        self.queue = Queue(newest.binding, is_open)
        self.scanned, self.scanned_address = low
        """How far it has read on its own; while it is live, the head of the log is further."""
        self.live = False
        """Whether it is fed by the head of the log, and not by reading of its own."""
        self.reading: Iterator[Committed] | None = None
        self.known_done: set[Position] = set()
        """Events above the mark that were done before the start."""
        self.attempted: dict[Position, Attempted] = {}
        """Events that failed before the start, with their attempts."""
        self.paths: Paths | None = None
        """Of the reading of its own."""
        self._ordinal = (0, -1)
        self.durations_ms: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self.output = Chronicle(OUTPUT_BYTES_KEPT)
        self.last_error = ""
        self.last_error_ns = 0

    # --- versions ----------------------------------------------------------------------------------------------

    def define(self, since: int, row: bytes) -> None:
        """From `since` on another version is active; none if `row` is empty."""
        definition = self._add(since, row)
        if definition is not None:
            self.queue.binding = definition.binding

    def _add(self, since: int, row: bytes) -> Definition | None:
        definition = decode_definition(row) if row else None
        self.definitions.insert(0, (since, definition))
        if definition is not None:
            self._patterns[since] = Pattern(definition.binding.watch)
        return definition

    @property
    def text(self) -> str:
        """The binding's name."""
        return self.name.decode(errors="surrogateescape")

    @property
    def active(self) -> bool:
        """Whether what is committed from now on concerns it."""
        return self.definitions[0][1] is not None

    @property
    def newest(self) -> Definition | None:
        """The newest version there was."""
        return next((definition for _, definition in self.definitions if definition), None)

    @property
    def since(self) -> int:
        """When the newest version became active, or ceased to be."""
        return self.definitions[0][0]

    def definition_at(self, timestamp: int) -> tuple[int, Definition] | None:
        """(since, definition) that an event of that time belongs to; the first one for all that was before it."""
        for since, definition in self.definitions:
            if since < timestamp:
                return (since, definition) if definition is not None else None
        since, definition = self.definitions[-1]
        return (since, definition) if definition is not None else None

    def definition_of(self, since: int) -> Definition:
        """The version that is active since then; one that is forgotten: the newest."""
        for known, definition in self.definitions:
            if known == since and definition is not None:
                return definition
        newest = self.newest
        assert newest is not None, "a consumer was active once"
        return newest

    def pattern(self, since: int) -> Pattern:
        """The pattern of a version."""
        return self._patterns[since]

    # --- events ------------------------------------------------------------------------------------------------

    def event(
        self,
        committed: Committed,
        since: int,
        definition: Definition,
        change: Change,
        path: str,
        other: str | None,
        origin: tuple[int, str, Key | None, str],
        node: str,
        group: str = "",
    ) -> Pending | None:
        """The event of a change whose path matches; None if the binding does not want it, or it is done.

        Args:
            committed: the record, in the order of the log; ordinals count within it.
            since: which version of the binding.
            definition: that version.
            change: what the record did.
            path: relative to the base.
            other: of a move, where from; of a deletion by a move, where to; None if outside of the base.
            origin: (hops, id of the first event of the chain or "", consumer that wrote it or None, its run or "").
            node: name of this node.
            group: of the path, where the binding's key is that.
        """
        binding = definition.binding
        pattern = self.pattern(since)
        hops, root, writer, writer_run = origin
        is_own = writer is not None and (writer[0], own_name(writer[1])) == self._own
        if change.kind not in binding.kinds or (is_own and not binding.own):
            return None
        if change.kind == "delete" and other is not None and pattern.matches(other):
            return None  # it only moved about
        if definition.until and committed.timestamp > definition.until:
            return None
        last, ordinal = self._ordinal
        ordinal = ordinal + 1 if last == committed.timestamp else 0
        self._ordinal = (committed.timestamp, ordinal)
        position = (committed.timestamp, ordinal)
        if definition.events and position not in definition.events:
            return None
        if position in self.known_done:
            self.known_done.discard(position)
            return None
        identity = self.event_id(position)
        groups = pattern.groups(path) if pattern.group_names else {}
        length = len(path) if len(path) > PATH_CHARACTERS_MAX else 0
        if length:
            groups, group = {}, ""
        path, other = bounded(path), None if other is None else bounded(other)
        event = Event(
            identity, _key(binding.key, path, groups, group), path, change.version, committed.timestamp,
            change.kind, other if change.kind == "move" else None, max(change.version - 1, 0),
            change.size, change.uid, node, groups, 1, hops, root or identity, position,
            writer_run, length,
        )  # fmt: skip
        pending = Pending(event, committed.address, committed.timestamp // 1000)
        pending.definition = since
        pending.inode = change.inode
        return pending

    def event_id(self, position: Position) -> str:
        """The text that names an event everywhere."""
        name = self.name.decode(errors="surrogateescape")
        return f"{self.base:x}/{name}/{position[0]}.{position[1]}"

    def low(
        self, head: tuple[int, int], without: frozenset[Position] = frozenset()
    ) -> tuple[int, int]:
        """(timestamp, address) of the mark, if the events `without` were done as well; `head`: where the log's head is."""
        oldest = self.queue.oldest(without)
        if oldest is None:
            scanned = self.scanned, self.scanned_address
            return max(scanned, head) if self.live else scanned
        return oldest.position[0] - 1, oldest.address

    @property
    def is_full(self) -> bool:
        """Whether no more events should be read."""
        return len(self.queue) >= QUEUE_EVENTS_MAX


def bounded(path: str) -> str:
    """A path as events tell it: of one that is too long the beginning, and a hash, so that it is like no other."""
    if len(path) <= PATH_CHARACTERS_MAX:
        return path
    digest = xxhash.xxh3_64_hexdigest(path.encode(errors="surrogateescape"))
    return f"{path[:BEGINNING_CHARACTERS]}\N{HORIZONTAL ELLIPSIS}{digest}"


def _key(rule: str, path: str, groups: dict[str, str], group: str) -> str:
    if rule == "path":
        return path
    if rule == AFFINITY:
        return group
    if rule == "dir":
        return path.rpartition("/")[0]
    return groups.get(rule.removeprefix("group:"), "")
