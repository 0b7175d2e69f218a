"""From a name with "@" to the node it means: the rules of SEMANTICS 2, 4, 5 and 8.

Knows the store and the grammar, not handles and not the kernel. Every refusal has its reason from the table of
SEMANTICS 5; nothing is clamped to a neighbour.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.interface import FOREVER_S
from cascadefs.filesystem.node import Listing, Node, Past, Text
from storage.attributes import REGULAR, TYPE_MASK
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

INSTANTS_MAX = 1000
"""Commits `dir@@/` lists (SEMANTICS 2)."""

JOURNAL_ROWS_MAX = 20_000
"""Commits looked through for them, so that a quiet directory in a busy store costs a bounded time."""

LOG_NAME = b".log"
"""Hidden in `name@@/`: the whole history of the name as JSON lines, newest first."""


class History:
    """The past of a store, by name."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._instants_found: tuple[tuple[int, int], list[int]] | None = None

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
            Refused: ABSENT where nothing such was; MALFORMED for a value that is none; UNSUPPORTED for what the
                grammar knows and this version does not; NAME_TOO_LONG for a plain name that nothing can bear.
        """
        parsed = vpath.parse(name)
        if parsed is None or not self._parses_here(directory):
            raise Refused(Reason.ABSENT if len(name) <= NAME_BYTES_MAX else Reason.NAME_TOO_LONG)
        base = parsed.base
        if _is_condition(parsed):
            # Also where the base has no history: `f@if=v0` must not become a plain file of that name.
            raise Refused(Reason.UNSUPPORTED)
        if not self._has_history(directory, base):
            raise Refused(Reason.ABSENT)
        if isinstance(parsed, vpath.Malformed):
            raise Refused(Reason.MALFORMED)
        match parsed.spec:
            case vpath.Version(number):
                return self._version(directory, base, number), FOREVER_S
            case vpath.VersionBack(steps):
                return self._version(directory, base, self._head(directory, base) - steps), 0.0
            case vpath.Time() | vpath.Ago() | vpath.Now() as instant:
                timeout_s = FOREVER_S if isinstance(instant, vpath.Time) else 0.0
                return self._at(directory, base, self._timestamp(instant)), timeout_s
            case vpath.Tag(label):
                return self._tagged(directory, base, label), 0.0
            case vpath.Deleted():
                return self._deleted(directory, base), 0.0
            case vpath.Versions():
                return self._versions(directory, base), 0.0
            case vpath.Event() | vpath.Condition():
                raise Refused(Reason.UNSUPPORTED)

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
                    return self._at(inode, b".", self._timestamp(spec))
        return None

    def _timestamp(self, instant: vpath.Instant) -> int:
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
        return self.past(binding.inode, directory.timestamp, (directory.inode, name, None))

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

    def children(self, directory: Past, after: bytes) -> Iterator[tuple[bytes, Past]]:
        """The entries of a directory of the past, behind a name."""
        rows = self._store.children_at(directory.inode, directory.timestamp, after)
        for name, binding in rows:
            alias = (directory.inode, name, None)
            yield name, self.past(binding.inode, directory.timestamp, alias)

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
        if attributes is None:
            return None
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

    def _head(self, directory: int, base: bytes) -> int:
        return self._store.head(directory, base)

    def _version(self, directory: int, base: bytes, number: int) -> Past:
        if not 1 <= number < 2**63:
            raise Refused(Reason.ABSENT)
        version = self._store.version(directory, base, number)
        if version is None or version.binding is None:
            raise Refused(Reason.ABSENT)
        return self.past(
            version.binding.inode, version.timestamp, (directory, base, version.number)
        )

    def _at(self, directory: int, base: bytes, timestamp: int) -> Past:
        if timestamp < 0 or not self._store.settle(timestamp):
            raise Refused(Reason.ABSENT)
        if base == b".":
            return self.past(directory, timestamp)
        binding = self._store.binding_at(directory, base, timestamp)
        if binding is None:
            raise Refused(Reason.ABSENT)
        return self.past(binding.inode, timestamp, (directory, base, None))

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
        binding = self._store.binding(directory, base) or self._last_binding(directory, base)
        return binding.inode if binding is not None else None

    def _deleted(self, directory: int, base: bytes) -> Node:
        """`.@deleted` lists the deleted names; `name@deleted` is one of them as it was last."""
        if base != b".":
            if self._store.binding(directory, base) is not None:
                raise Refused(Reason.ABSENT)
            last = self._last_of_deleted(directory, base)
            if last is None:
                raise Refused(Reason.ABSENT)
            return last
        attributes = self._store.attributes(directory)
        assert attributes is not None
        return Listing(
            ("deleted", directory),
            lambda name: self._last_of_deleted(directory, name),
            lambda after: (name for name, _, _ in self._store.deleted(directory, after)),
            uid=attributes.uid,
            gid=attributes.gid,
            time_ns=attributes.mtime_ns,
            mode=attributes.mode & 0o555,  # whoever may not list the directory may not list this
        )

    def _last_of_deleted(self, directory: int, name: bytes) -> Node | None:
        if self._store.binding(directory, name) is not None:
            return None
        last = self._last_version(directory, name)
        return self._version(directory, name, last.number) if last is not None else None

    # --- listings ----------------------------------------------------------------------------------------------

    def _versions(self, directory: int, base: bytes) -> Node:
        """`name@@/`: versions of a file, instants of a directory, whichever the name last was."""
        if base == b".":
            return self.instants(directory, (directory, base))
        binding = self._store.binding(directory, base)
        if binding is None:
            binding = self._last_binding(directory, base)
        if binding is not None and binding.mode & TYPE_MASK == 0o040000:
            return self.instants(binding.inode, (directory, base))
        return self._versions_of(directory, base, binding)

    def _last_binding(self, directory: int, base: bytes) -> Binding | None:
        version = self._last_version(directory, base)
        return version.binding if version is not None else None

    def _last_version(self, directory: int, base: bytes) -> Version | None:
        """The newest version of a name that is no tombstone.

        One step back, unless files were made and removed under the name without ever being closed: each of those
        leaves a tombstone after a tombstone.
        """
        for number in range(self._head(directory, base), 0, -1):
            version = self._store.version(directory, base, number)
            if version is not None and version.binding is not None:
                return version
        return None

    def _versions_of(self, directory: int, base: bytes, binding: Binding | None) -> Listing:
        extension = vpath.split_extension(base)[1]
        newest = self._store.version(directory, base, self._head(directory, base))
        attributes = self._store.attributes(binding.inode) if binding is not None else None
        owner = (attributes.uid, attributes.gid) if attributes is not None else (0, 0)
        time_ns = newest.timestamp * 1000 if newest is not None else 0

        def number_of(name: bytes) -> int | None:
            text = name.removesuffix(extension) if extension else name
            digits = text[1:]
            canonical = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0"))
            return int(digits) if text[:1] == b"v" and canonical and len(digits) < 20 else None

        def lookup(name: bytes) -> Node | None:
            if name == LOG_NAME:
                key = ("log", directory, base)
                return self._log_text(key, lambda: self._log_lines(directory, base), owner, time_ns)
            number = number_of(name)
            return self._version(directory, base, number) if number is not None else None

        def names(after: bytes) -> Iterator[bytes]:
            number = (number_of(after) or 0) + 1
            while number <= self._head(directory, base):
                version = self._store.version(directory, base, number)
                if version is not None and version.binding is not None:
                    yield b"v%d%s" % (number, extension)
                number += 1

        return Listing(
            ("versions", directory, base),
            lookup,
            names,
            uid=owner[0],
            gid=owner[1],
            time_ns=time_ns,
        )

    def instants(self, inode: int, alias: tuple[int, bytes]) -> Listing:
        """`dir@@/`: labels and the last commits at or below a directory, as canonical times."""
        attributes = self._store.attributes(inode)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        owner = (attributes.uid, attributes.gid)
        time_ns = next(iter(self._instants_of(inode)), attributes.mtime_ns // 1000) * 1000

        def lookup(name: bytes) -> Node | None:
            if name == LOG_NAME:
                key = ("instants-log", inode)
                return self._log_text(key, lambda: self._instant_lines(inode), owner, time_ns)
            if name.startswith(b"tag-"):
                timestamp = self._store.label(inode, name.removeprefix(b"tag-"))
                node = self.past(inode, timestamp) if timestamp is not None else None
            else:
                node = self.tree(inode, name)
            if node is not None:
                node.alias = (*alias, None)
            return node

        def names(after: bytes) -> Iterator[bytes]:
            # By value, not by place: between two calls commits come, and old ones leave the list.
            tags = [b"tag-" + label for label, _ in self._store.labels(inode)]
            if after and not after.startswith(b"tag-"):
                parsed = vpath.parse(b".@" + after)
                assert isinstance(parsed, vpath.Historic)
                assert isinstance(parsed.spec, vpath.Time)
                tags, since = [], parsed.spec.timestamp + 1
            else:
                tags, since = [tag for tag in tags if tag > after], 0
            yield from tags
            for timestamp in sorted(self._instants_of(inode)):
                if timestamp >= since:
                    yield vpath.format_time(timestamp)

        return Listing(
            ("instants", inode),
            lookup,
            names,
            uid=owner[0],
            gid=owner[1],
            time_ns=time_ns,
            mode=attributes.mode & 0o555,
        )

    def _instants_of(self, inode: int) -> list[int]:
        """Timestamps of the last commits at or below a directory, newest first; found once per newest commit."""
        newest = next(self._store.journal(), None)
        key = (inode, newest[0] if newest is not None else 0)
        if self._instants_found is None or self._instants_found[0] != key:
            self._instants_found = (key, self._find_instants(inode))
        return self._instants_found[1]

    def _find_instants(self, inode: int) -> list[int]:
        below: dict[int, bool] = {}

        def touches(directory: int) -> bool:
            if directory not in below:
                below[directory] = self._store.is_below(directory, inode)
            return below[directory]

        rows = islice(self._store.journal(), JOURNAL_ROWS_MAX)
        hits = (stamp for stamp, directories in rows if any(map(touches, directories)))
        # What lies below now may be older than the directory, and was elsewhere then.
        own = takewhile(lambda stamp: self._store.attributes_at(inode, stamp) is not None, hits)
        return list(islice(own, INSTANTS_MAX))

    # --- the log of a name -------------------------------------------------------------------------------------

    def _log_text(
        self,
        key: tuple[object, ...],
        lines: Callable[[], Iterator[dict[str, object]]],
        owner: tuple[int, int],
        time_ns: int,
    ) -> Text:
        def produce() -> Iterator[bytes]:
            return (json.dumps(line).encode() + b"\n" for line in lines())

        return Text(key, produce, uid=owner[0], gid=owner[1], time_ns=time_ns)

    def _instant_lines(self, inode: int) -> Iterator[dict[str, object]]:
        for timestamp in self._instants_of(inode):
            yield {"timestamp": timestamp, "time": vpath.format_time(timestamp).decode()}

    def _log_lines(self, directory: int, base: bytes) -> Iterator[dict[str, object]]:
        """One object per version of a name, newest first, tombstones included."""
        for number in range(self._head(directory, base), 0, -1):
            version = self._store.version(directory, base, number)
            if version is not None:
                yield self._log_line(directory, base, version)

    def _log_line(self, directory: int, base: bytes, version: Version) -> dict[str, object]:
        line: dict[str, object] = {
            "version": version.number,
            "timestamp": version.timestamp,
            "time": vpath.format_time(version.timestamp).decode(),
            "moved_from": None,
            "moved_to": None,
            "same": False,
        }
        if version.binding is None:
            tombstone = version.tombstone
            assert tombstone is not None
            moved = tombstone.moved_directory != 0
            line["kind"] = "moved" if moved else "delete"
            if moved:
                line["moved_to"] = self.path_of(tombstone.moved_directory, tombstone.moved_name)
            return line
        binding = version.binding
        found = self._store.attributes_at(binding.inode, version.timestamp)
        assert found is not None, "a version has attributes"
        attributes = found[1]
        line |= {
            "kind": self._kind(version.number, binding),
            "size": attributes.size,
            "mode": attributes.mode,
            "uid": attributes.uid,
            "gid": attributes.gid,
            "mtime_ns": attributes.mtime_ns,
            "inode": binding.inode,
        }
        if version.number == binding.first and binding.origin_directory:
            line["moved_from"] = self.path_of(binding.origin_directory, binding.origin_name)
        if attributes.mode & TYPE_MASK == REGULAR:
            line["same"] = self._same_as_before(directory, base, version)
        return line

    @staticmethod
    def _kind(number: int, binding: Binding) -> str:
        if number > binding.first:
            return "write"
        return {1: "create", 2: "link", 3: "move"}[binding.cause]

    def _same_as_before(self, directory: int, base: bytes, version: Version) -> bool:
        """Whether a version has the bytes of the one before: compared only where sizes are equal."""
        before = self._store.version(directory, base, version.number - 1)
        if before is None or before.binding is None or version.binding is None:
            return False
        now = self._store.attributes_at(version.binding.inode, version.timestamp)
        then = self._store.attributes_at(before.binding.inode, before.timestamp)
        assert now is not None
        if then is None or now[1].size != then[1].size:
            return False
        at = 0
        while at < now[1].size:
            a = self._store.read(version.binding.inode, now[1], version.timestamp, at, 1 << 20)
            b = self._store.read(before.binding.inode, then[1], before.timestamp, at, 1 << 20)
            if a != b:
                return False
            at += 1 << 20
        return True

    def path_of(self, directory: int, name: bytes) -> str | None:
        """The path of a name relative to the root as its directory is reached now; None if it is not.

        Looks each ancestor's name up among its siblings: for people's commands, not for a hot path.
        """
        parts = [name]
        while directory != ROOT:
            attributes = self._store.attributes(directory)
            if attributes is None or attributes.nlink == 0:
                return None
            siblings = self._store.children(attributes.parent)
            found = next((n for n, binding in siblings if binding.inode == directory), None)
            if found is None:
                return None
            parts.append(found)
            directory = attributes.parent
        return b"/".join(reversed(parts)).decode(errors="surrogateescape")


def _is_condition(parsed: vpath.Historic | vpath.Malformed) -> bool:
    return isinstance(parsed, vpath.Historic) and isinstance(parsed.spec, vpath.Condition)
