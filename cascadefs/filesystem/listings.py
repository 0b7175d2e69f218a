"""Directories that are made up: the versions of a name, the instants of a directory, the names it has no more.

Each is a `Listing` that looks up and lists as it is asked, a part at a time; nothing is built beforehand.
"""

from __future__ import annotations

import heapq
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.interface import FOREVER_S
from cascadefs.filesystem.logs import LOG_NAME
from cascadefs.filesystem.node import Listing, Node
from storage.attributes import is_directory
from storage.errors import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.logs import Logs
    from storage.binding import Binding
    from storage.namespace import Version
    from storage.store import Store

__all__ = ["Listings"]

INSTANTS_MAX = 1000
"""Commits `dir@@/` lists (SEMANTICS 2)."""

JOURNAL_ROWS_MAX = 20_000
"""Commits looked through for them, so that a quiet directory in a busy store costs a bounded time."""


class Listings:
    """See the module."""

    def __init__(self, store: Store, history: History, logs: Logs) -> None:
        self._store = store
        self._history = history
        self._logs = logs
        self._instants_found: tuple[tuple[int, int], list[int]] | None = None

    def deleted(self, directory: int) -> Listing:
        """`.@deleted`: the names a directory has no more, each as it was last."""
        attributes = self._store.attributes(directory)
        assert attributes is not None
        return Listing(
            ("deleted", directory),
            lambda name: self._history.last_of_deleted(directory, name),
            lambda after: self._deleted_names(directory, after),
            uid=attributes.uid,
            gid=attributes.gid,
            time_ns=attributes.mtime_ns,
            mode=attributes.mode & 0o555,  # whoever may not list the directory may not list this
        )

    def _deleted_names(self, directory: int, after: bytes) -> Iterator[bytes]:
        """The names a directory has no more whose last content is kept: listings show what can be opened."""
        for name, _, _ in self._store.deleted(directory, after):
            try:
                self._history.last_of_deleted(directory, name)
            except Refused as refusal:
                if refusal.reason is not Reason.PRUNED:
                    raise
                continue
            yield name

    def versions(self, directory: int, base: bytes) -> Listing:
        """`name@@/`: versions of a file, instants of a directory, whichever the name last was."""
        if base == b".":
            return self.instants(directory, (directory, base))
        binding = self._history.binding_last(directory, base)
        if binding is not None and is_directory(binding.mode):
            return self.instants(binding.inode, (directory, base))
        return self._versions_of(directory, base, binding)

    def _versions_of(self, directory: int, base: bytes, binding: Binding | None) -> Listing:
        extension = vpath.split_extension(base)[1]
        newest = self._store.version(directory, base, self._store.head(directory, base))
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
                return self._logs.text(
                    key, lambda: self._logs.lines(directory, base), owner, time_ns
                )
            number = number_of(name)
            return self._history.version(directory, base, number) if number is not None else None

        def names(after: bytes) -> Iterator[bytes]:
            number = (number_of(after) or 0) + 1
            while number <= self._store.head(directory, base):
                version = self._store.version(directory, base, number)
                if version is not None and self._is_kept(version):
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

    def _is_kept(self, version: Version) -> bool:
        """Whether a version can be opened: no tombstone, and not pruned."""
        binding = version.binding
        if binding is None:
            return False
        content = binding.base + version.number - binding.first
        return not self._store.content_state(binding.inode, content)

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
                return self._logs.text(
                    key,
                    lambda: self._logs.instant_lines(self._instants_of(inode)),
                    owner,
                    time_ns,
                )
            if name.startswith(b"tag-"):
                timestamp = self._store.label(inode, name.removeprefix(b"tag-"))
                node = self._history.past(inode, timestamp) if timestamp is not None else None
            else:
                node = self._history.tree(inode, name)
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
        return self._store.kept_instants(inode, list(islice(own, INSTANTS_MAX)), INSTANTS_MAX)

    # --- by event time -----------------------------------------------------------------------------------------

    def by_event(self, inode: int, event_us: int, known_us: int | None) -> Listing:
        """`d@e=T/`: every name a directory has or had, as its version of the greatest event time <= T shows it.

        Directories in it have no event time of their own: they are there, and what is in them decides.
        """
        attributes = self._store.attributes(inode)
        if attributes is None:
            raise Refused(Reason.ABSENT)

        def lookup(name: bytes) -> Node | None:
            return self._history.by_event(inode, name, event_us, known_us)

        def names(after: bytes) -> Iterator[bytes]:
            present = (name for name, _ in self._store.children(inode, after))
            ended = (name for name, _, _ in self._store.deleted(inode, after))
            return heapq.merge(present, ended)

        return Listing(
            ("event", inode, event_us, known_us),
            lookup,
            names,
            uid=attributes.uid,
            gid=attributes.gid,
            time_ns=attributes.mtime_ns,
            mode=attributes.mode & 0o555,
            children_timeout_s=FOREVER_S if known_us is not None else 0.0,
        )
