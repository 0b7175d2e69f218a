"""From a name with "@" to the node it means: the rules of SEMANTICS 2, 4, 5 and 8.

Knows the store and the grammar, not handles and not the kernel. Every refusal has its reason from the table of
SEMANTICS 5; nothing is clamped to a neighbour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.interface import FOREVER_S
from cascadefs.filesystem.node import Listing, Node, Past, Text
from storage.attributes import REGULAR, TYPE_MASK
from storage.errors import Reason, Refused
from storage.namespace import ROOT

if TYPE_CHECKING:
    from storage.binding import Binding
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

    # --- names -------------------------------------------------------------------------------------------------

    def is_reserved(self, directory: int, name: bytes) -> bool:
        """Whether `name` would hide or forge history, so that it must not be created (SEMANTICS 2, "spoofing")."""
        parsed = vpath.parse(name)
        if parsed is None or not self._parses_here(directory):
            return False
        return parsed.base == b"." or self._store.known(directory, parsed.base)

    def resolve(self, directory: int, name: bytes) -> tuple[Node, float]:
        """The node of a history name in a live directory, and for how long (s) the name means it.

        Raises:
            Refused: ABSENT where nothing such was; MALFORMED for a value that is none; NOT_STABLE_YET.
        """
        parsed = vpath.parse(name)
        if parsed is None or not self._parses_here(directory):
            raise Refused(Reason.ABSENT)
        base = parsed.base
        if base != b"." and not self._store.known(directory, base):
            raise Refused(Reason.ABSENT)
        if isinstance(parsed, vpath.Malformed):
            raise Refused(Reason.MALFORMED)
        match parsed.spec:
            case vpath.Version(number):
                return self._version(directory, base, number), FOREVER_S
            case vpath.VersionBack(steps):
                return self._version(directory, base, self._head(directory, base) - steps), 0.0
            case vpath.Time(timestamp):
                return self._at(directory, base, timestamp), FOREVER_S
            case vpath.Ago(duration_us):
                now_us = self._clock.now_ns() // 1000
                whole_second = (now_us - duration_us) // 1_000_000 * 1_000_000
                return self._at(directory, base, whole_second), 0.0
            case vpath.Now():
                return self._at(directory, base, self._store.now()), 0.0
            case vpath.Tag(label):
                return self._tagged(directory, base, label), 0.0
            case vpath.Deleted():
                return self._deleted(directory, base), 0.0
            case vpath.Versions():
                return self._versions(directory, base), 0.0
            case vpath.Event() | vpath.Condition():
                raise Refused(Reason.UNSUPPORTED)

    def child(self, directory: Past, name: bytes) -> Past:
        """An entry of a directory of the past; below it every name is literal."""
        binding = self._store.binding_at(directory.inode, name, directory.timestamp)
        if binding is None:
            raise Refused(Reason.ABSENT)
        return self.past(binding.inode, directory.timestamp, (directory.inode, name, None))

    def past(
        self, inode: int, timestamp: int, alias: tuple[int, bytes, int | None] | None = None
    ) -> Past:
        """An inode as of a timestamp."""
        found = self._store.attributes_at(inode, timestamp)
        if found is None:
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
        inode = self.directory_named(directory, base)
        timestamp = self._store.label(inode, label)
        if timestamp is None:
            raise Refused(Reason.ABSENT)
        return self.past(inode, timestamp)

    def _deleted(self, directory: int, base: bytes) -> Node:
        """`.@deleted` lists the deleted names; `name@deleted` is one of them as it was last."""
        if base != b".":
            if self._store.binding(directory, base) is not None:
                raise Refused(Reason.ABSENT)
            return self._version(directory, base, self._head(directory, base) - 1)
        attributes = self._store.attributes(directory)
        assert attributes is not None
        return Listing(
            ("deleted", directory),
            lambda name: self._last_of_deleted(directory, name),
            lambda after: (name for name, _, _ in self._store.deleted(directory, after)),
            uid=attributes.uid,
            gid=attributes.gid,
            time_ns=attributes.mtime_ns,
        )

    def _last_of_deleted(self, directory: int, name: bytes) -> Node | None:
        if self._store.binding(directory, name) is not None:
            return None
        number = self._head(directory, name) - 1
        return self._version(directory, name, number) if number >= 1 else None

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
        version = self._store.version(directory, base, self._head(directory, base) - 1)
        return version.binding if version is not None else None

    def _versions_of(self, directory: int, base: bytes, binding: Binding | None) -> Listing:
        extension = vpath.split_extension(base)[1]
        head = self._head(directory, base)
        newest = self._store.version(directory, base, head)
        if newest is None and head > 0:
            newest = self._store.version(directory, base, head - 1)
        attributes = self._store.attributes(binding.inode) if binding is not None else None
        owner = (attributes.uid, attributes.gid) if attributes is not None else (0, 0)

        def number_of(name: bytes) -> int | None:
            text = name.removesuffix(extension) if extension else name
            digits = text[1:]
            canonical = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0"))
            return int(digits) if text[:1] == b"v" and canonical and len(digits) < 20 else None

        def lookup(name: bytes) -> Node | None:
            if name == LOG_NAME:
                return self._log_text(
                    ("log", directory, base), lambda: self._log_lines(directory, base), owner
                )
            number = number_of(name)
            return self._version(directory, base, number) if number is not None else None

        def names(after: bytes) -> Iterator[bytes]:
            number = (number_of(after) or 0) + 1
            while number <= self._head(directory, base):
                version = self._store.version(directory, base, number)
                if version is not None and version.binding is not None:
                    yield b"v%d%s" % (number, extension)
                number += 1

        time_ns = newest.timestamp * 1000 if newest is not None else 0
        return Listing(
            ("versions", directory, base), lookup, names, uid=owner[0], gid=owner[1], time_ns=time_ns
        )

    def instants(self, inode: int, alias: tuple[int, bytes]) -> Listing:
        """`dir@@/`: labels and the last commits at or below a directory, as canonical times."""
        attributes = self._store.attributes(inode)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        owner = (attributes.uid, attributes.gid)

        def lookup(name: bytes) -> Node | None:
            if name == LOG_NAME:
                return self._log_text(
                    ("instants-log", inode), lambda: self._instant_lines(inode), owner
                )
            label = self._store.label(inode, name.removeprefix(b"tag-"))
            if name.startswith(b"tag-") and label is not None:
                return self.past(inode, label, (*alias, None))
            parsed = vpath.parse(b".@" + name)
            spec = parsed.spec if isinstance(parsed, vpath.Historic) else None
            if not isinstance(spec, vpath.Time) or not self._store.settle(spec.timestamp):
                return None
            return self.past(inode, spec.timestamp, (*alias, None))

        def names(after: bytes) -> Iterator[bytes]:
            listed = [b"tag-" + label for label, _ in self._store.labels(inode)]
            listed += [vpath.format_time(t) for t in sorted(self._instants_of(inode))]
            start = listed.index(after) + 1 if after in listed else 0
            return iter(listed[start:])

        time_ns = next(iter(self._instants_of(inode)), attributes.mtime_ns // 1000) * 1000
        return Listing(
            ("instants", inode), lookup, names, uid=owner[0], gid=owner[1], time_ns=time_ns
        )

    def _instants_of(self, inode: int) -> Iterator[int]:
        """Timestamps of the last commits at or below a directory, newest first."""
        below: dict[int, bool] = {}

        def touches(directory: int) -> bool:
            if directory not in below:
                below[directory] = self._store.is_below(directory, inode)
            return below[directory]

        rows = islice(self._store.journal(), JOURNAL_ROWS_MAX)
        hits = (stamp for stamp, directories in rows if any(map(touches, directories)))
        return islice(hits, INSTANTS_MAX)

    # --- the log of a name -------------------------------------------------------------------------------------

    def _log_text(
        self,
        key: tuple[object, ...],
        lines: Callable[[], Iterator[dict[str, object]]],
        owner: tuple[int, int],
    ) -> Text:
        def produce() -> Iterator[bytes]:
            return (json.dumps(line).encode() + b"\n" for line in lines())

        return Text(key, produce, uid=owner[0], gid=owner[1], time_ns=self._store.now() * 1000)

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
