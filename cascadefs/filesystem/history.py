"""From a name with "@" to the node it means: the rules of SEMANTICS 2, 4, 5 and 8.

Knows the store and the grammar, not handles and not the kernel. Every refusal has its reason from the table of
SEMANTICS 5; nothing is clamped to a neighbour.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.interface import FOREVER_S
from cascadefs.filesystem.listings import Listings
from cascadefs.filesystem.logs import Logs
from cascadefs.filesystem.node import Node, Past
from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import NAME_BYTES_MAX
from storage.namespace import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.binding import Binding, Tombstone
    from storage.clock import Clock
    from storage.namespace import Version
    from storage.store import Store

__all__ = ["History"]

_EVER = 2**64 - 1


class History:
    """The past of a store, by name."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        logs = Logs(store)
        self._listings = Listings(store, self, logs)
        self.path_of = logs.path_of
        self.instants = self._listings.instants
        self.conditional: Callable[[int, bytes, int], Node] = _unconditional
        """Answers for a name with a condition, given as (directory, base, version); set by whoever has open files."""

    # --- names -------------------------------------------------------------------------------------------------

    def is_reserved(self, directory: int, name: bytes) -> bool:
        """Whether `name` would hide or forge history, so that it must not be created (SEMANTICS 2, "spoofing")."""
        parsed = vpath.parse(name)
        if parsed is None or not self._parses_here(directory):
            return False
        return _is_condition(parsed) or self._has_history(directory, parsed.base)

    def _has_history(self, directory: int, base: bytes) -> bool:
        if base == b".":
            return True
        return len(base) <= NAME_BYTES_MAX and self._store.known(directory, base)

    def resolve(self, directory: int, name: bytes) -> tuple[Node, float]:
        """The node of a history name in a live directory, and for how long (s) the name means it.

        Raises:
            Refused: ABSENT where nothing such was; MALFORMED for a value that is none; CONDITION_FAILED for a condition
                that is not met; NAME_TOO_LONG for a plain name that nothing can bear.
        """
        parsed = vpath.parse(name)
        if parsed is None or not self._parses_here(directory):
            raise Refused(Reason.ABSENT if len(name) <= NAME_BYTES_MAX else Reason.NAME_TOO_LONG)
        base = parsed.base
        if isinstance(parsed, vpath.Historic) and isinstance(parsed.spec, vpath.Condition):
            # Also where the base has no history: `f@if=v0` must not become a plain file of that name.
            return self.conditional(directory, base, parsed.spec.version), 0.0
        if not self._has_history(directory, base):
            raise Refused(Reason.ABSENT)
        if isinstance(parsed, vpath.Malformed):
            raise Refused(Reason.MALFORMED)
        match parsed.spec:
            case vpath.Version(number):
                return self.version(directory, base, number), FOREVER_S
            case vpath.VersionBack(steps):
                return self.version(directory, base, self._store.head(directory, base) - steps), 0.0
            case vpath.Time() | vpath.Ago() | vpath.Now() as instant:
                timeout_s = FOREVER_S if isinstance(instant, vpath.Time) else 0.0
                return self._at(directory, base, self.timestamp(instant)), timeout_s
            case vpath.Tag(label):
                return self._tagged(directory, base, label), 0.0
            case vpath.Deleted():
                return self._deleted(directory, base), 0.0
            case vpath.Versions():
                return self._listings.versions(directory, base), 0.0
            case vpath.Event(event, known):
                is_fixed = isinstance(event, vpath.Time) and isinstance(known, vpath.Time)
                node = self._at_event(directory, base, event, known)
                return node, FOREVER_S if is_fixed else 0.0
        raise AssertionError("conditions were answered above")

    def tree(self, inode: int, text: bytes) -> Past | None:
        """The whole of a directory at an instant as `at/` and `name@@/` spell it; None if `text` is no instant.

        Raises:
            Refused: ABSENT where there was nothing then, or it lies in the future.
        """
        for name in (b".@" + text, b".@t=" + text):
            parsed = vpath.parse(name)
            if isinstance(parsed, vpath.Historic) and parsed.base == b".":
                spec = parsed.spec
                if isinstance(spec, vpath.Time | vpath.Ago | vpath.Now):
                    return self._at(inode, b".", self.timestamp(spec))
        return None

    def timestamp(self, instant: vpath.Instant) -> int:
        """The timestamp an instant means now; durations count back from the clock, to the whole second."""
        match instant:
            case vpath.Time(timestamp):
                return timestamp
            case vpath.Ago(duration_us):
                now_us = self._clock.now_ns() // 1000
                return (now_us - duration_us) // 1_000_000 * 1_000_000
            case vpath.Now():
                return self._store.now()

    def child(self, directory: Past, name: bytes) -> Past:
        """An entry of a directory of the past; below it every name is literal."""
        binding = self._store.binding_at(directory.inode, name, directory.timestamp)
        if binding is None:
            raise Refused(Reason.ABSENT)
        alias = (directory.inode, name, None)
        return self.kept(self.past(binding.inode, directory.timestamp, alias))

    def past(
        self, inode: int, timestamp: int, alias: tuple[int, bytes, int | None] | None = None
    ) -> Past:
        """An inode as of a timestamp.

        Raises:
            Refused: ABSENT if it had no name then, not yet or no longer.
        """
        found = self._store.attributes_at(inode, timestamp)
        if found is None or found[1].nlink == 0:
            raise Refused(Reason.ABSENT)
        node = Past(inode, timestamp, *found)
        node.alias = alias
        return node

    def kept(self, node: Past) -> Past:
        """The node, if its content is not gone, and if it is a directory, it is exact as of then (SEMANTICS 7).

        Raises:
            Refused: PRUNED.
        """
        attributes = node.attributes
        is_file = attributes.mode & TYPE_MASK == REGULAR
        if is_file and self._store.content_state(node.inode, attributes.content):
            raise Refused(Reason.PRUNED)
        return node

    def _exact(self, node: Past) -> Past:
        """`kept`, for what was asked for by a time of its own."""
        if node.is_directory and not self._store.keeps_instant(node.inode, node.timestamp):
            raise Refused(Reason.PRUNED)
        return self.kept(node)

    def children(self, directory: Past, after: bytes) -> Iterator[tuple[bytes, Past]]:
        """The entries of a directory of the past, behind a name."""
        rows = self._store.children_at(directory.inode, directory.timestamp, after)
        for name, binding in rows:
            alias = (directory.inode, name, None)
            yield name, self.past(binding.inode, directory.timestamp, alias)

    def condition_of(self, directory: int, name: bytes) -> tuple[bytes, int] | None:
        """(base, version) if `name` is a name with a condition, as in `f@if=v0` (SEMANTICS 6)."""
        parsed = vpath.parse(name) if b"@" in name else None
        if not isinstance(parsed, vpath.Historic) or not self._parses_here(directory):
            return None
        spec = parsed.spec
        return (parsed.base, spec.version) if isinstance(spec, vpath.Condition) else None

    def label_of(self, name: bytes) -> tuple[bytes, bytes] | None:
        """(base, label) if `name` names a label, as in `mkdir data@tag-rel1`."""
        parsed = vpath.parse(name) if b"@" in name else None
        if isinstance(parsed, vpath.Historic) and isinstance(parsed.spec, vpath.Tag):
            return parsed.base, parsed.spec.label
        return None

    def directory_named(self, directory: int, base: bytes) -> int:
        """The live directory a base names."""
        if base == b".":
            return directory
        binding = self._store.binding(directory, base)
        if binding is None:
            raise Refused(Reason.ABSENT)
        return binding.inode

    def version_number(self, alias: tuple[int, bytes, int | None], since: int) -> int | None:
        """The version number of what an alias showed at `since`: the newest one not later."""
        directory, name, number = alias
        if number is not None:
            return number
        binding = self._store.binding_at(directory, name, since)
        if binding is None:
            return None
        attributes = self._store.attributes_at(binding.inode, since)
        if attributes is None or not attributes[1].content:
            return None  # a name just made: the number before its first belongs to what ended there
        return binding.version_of(attributes[1].content)

    def end_of(self, directory: int, name: bytes, number: int) -> Tombstone | None:
        """The tombstone that ended the binding which version `number` belongs to; None if it lasts or was replaced."""

        def is_over(later: int) -> bool:
            version = self._store.version(directory, name, later)
            return version is None or version.binding is None or version.binding.first > number

        later = range(number + 1, self._store.head(directory, name) + 1)
        place = bisect_left(later, True, key=is_over)
        end = self._store.version(directory, name, later[place]) if place < len(later) else None
        return end.tombstone if end is not None else None

    def clock_skew_us(self) -> int:
        """By how much the timestamps given out are ahead of the clock: it was set back, or asked faster than it ticks."""
        return max(0, self._store.now() - self._clock.now_ns() // 1000)

    def _parses_here(self, directory: int) -> bool:
        """Whether "@" means history below this directory: not where `user.cascade.at_names` says literal."""
        while directory:
            value = self._store.xattr(directory, b"user.cascade.at_names")
            if value is not None:
                return value != b"literal"
            attributes = self._store.attributes(directory)
            if attributes is None or directory == ROOT:
                return True
            directory = attributes.parent
        return True

    # --- one spec each -----------------------------------------------------------------------------------------

    def version(self, directory: int, base: bytes, number: int) -> Past:
        """A version of an entry.

        Raises:
            Refused: ABSENT if there is none, or it is a tombstone.
        """
        if not 1 <= number < 2**63:
            raise Refused(Reason.ABSENT)
        version = self._store.version(directory, base, number)
        if version is None or version.binding is None:
            raise Refused(Reason.ABSENT)
        alias = (directory, base, version.number)
        return self.kept(self.past(version.binding.inode, version.timestamp, alias))

    def _at(self, directory: int, base: bytes, timestamp: int) -> Past:
        if timestamp < 0 or not self._store.settle(timestamp):
            raise Refused(Reason.ABSENT)
        if base == b".":
            return self._exact(self.past(directory, timestamp))
        binding = self._store.binding_at(directory, base, timestamp)
        if binding is None:
            raise Refused(Reason.ABSENT)
        return self._exact(self.past(binding.inode, timestamp, (directory, base, None)))

    def at(self, directory: int, timestamp: int) -> Past:
        """A directory as of a timestamp.

        Raises:
            Refused: ABSENT if it was not there, or that is in the future; PRUNED if it is not exact any more.
        """
        return self._at(directory, b".", timestamp)

    def _tagged(self, directory: int, base: bytes, label: bytes) -> Past:
        """Labels belong to the directory, so they work under its last name when that is gone."""
        inode = self._named_last(directory, base)
        timestamp = self._store.label(inode, label) if inode is not None else None
        if inode is None or timestamp is None:
            raise Refused(Reason.ABSENT)
        return self.past(inode, timestamp, (directory, base, None))

    def _named_last(self, directory: int, base: bytes) -> int | None:
        """The inode a base names, or named last."""
        if base == b".":
            return directory
        binding = self.binding_last(directory, base)
        return binding.inode if binding is not None else None

    def _deleted(self, directory: int, base: bytes) -> Node:
        """`.@deleted` lists the deleted names; `name@deleted` is one of them as it was last."""
        if base == b".":
            return self._listings.deleted(directory)
        last = self.last_of_deleted(directory, base)
        if last is None:
            raise Refused(Reason.ABSENT)
        return last

    def last_of_deleted(self, directory: int, name: bytes) -> Past | None:
        """What a name that is there no more meant last; None if it is there, or was never."""
        if self._store.binding(directory, name) is not None:
            return None
        last = self._last_version(directory, name)
        if last is None or last.binding is None:
            return None
        inode = last.binding.inode
        end = self._store.version(directory, name, last.number + 1)
        if end is not None and is_directory(last.binding.mode):
            # A directory's one version is of when it got the name: what it held last is one instant before its end.
            before = self._store.binding_at(directory, name, end.timestamp - 1)
            if before is not None and before.inode == inode:
                return self.past(inode, end.timestamp - 1, (directory, name, last.number))
        return self.version(directory, name, last.number)

    def binding_last(self, directory: int, base: bytes) -> Binding | None:
        """What a name means, or meant last."""
        binding = self._store.binding(directory, base)
        if binding is not None:
            return binding
        version = self._last_version(directory, base)
        return version.binding if version is not None else None

    def _last_version(self, directory: int, base: bytes) -> Version | None:
        """The newest version of a name that is no tombstone.

        One step back, unless files were made and removed under the name without ever being closed: each of those
        leaves a tombstone after a tombstone.
        """
        for number in range(self._store.head(directory, base), 0, -1):
            version = self._store.version(directory, base, number)
            if version is not None and version.binding is not None:
                return version
        return None

    # --- by event time -----------------------------------------------------------------------------------------

    def _at_event(
        self, directory: int, base: bytes, event: vpath.Instant, known: vpath.Instant | None
    ) -> Node:
        """`f@e=T`, `d@e=T`, and the same among what was known at a time (SEMANTICS 3)."""
        event_us = self.timestamp(event)
        known_us = self.timestamp(known) if known is not None else None
        if known_us is not None and (known_us < 0 or not self._store.settle(known_us)):
            raise Refused(Reason.ABSENT)
        return self.by_event(directory, base, event_us, known_us)

    def by_event(self, directory: int, base: bytes, event_us: int, known_us: int | None) -> Node:
        """The version of a name that tells most of an instant; of a directory, a listing of such versions.

        Raises:
            Refused: ABSENT if nothing known then happened by `event_us`, or the last of it is the removal.
        """
        if base == b".":
            return self._listings.by_event(directory, event_us, known_us)
        inode = self._directory_by_event(directory, base, event_us, known_us)
        if inode is not None:
            return self._listings.by_event(inode, event_us, known_us)
        number = self._store.version_by_event(directory, base, event_us, known_us)
        return self.version(directory, base, number or 0)

    def _directory_by_event(
        self, directory: int, base: bytes, event_us: int, known_us: int | None
    ) -> int | None:
        """The directory a name means, if it means one: since ever, and until its removal was committed."""
        found = self._store.entry_at(directory, base, _EVER if known_us is None else known_us)
        if found is None:
            return None
        since, binding, tombstone = found
        if tombstone is not None and event_us < since:
            version = self._store.version(directory, base, tombstone.number - 1)
            binding = version.binding if version is not None else None
        return binding.inode if binding is not None and is_directory(binding.mode) else None


def _is_condition(parsed: vpath.Historic | vpath.Malformed) -> bool:
    return isinstance(parsed, vpath.Historic) and isinstance(parsed.spec, vpath.Condition)


def _unconditional(directory: int, base: bytes, version: int) -> Node:
    raise Refused(Reason.UNSUPPORTED)
