"""The log of a name, and of a directory: text made as it is read, JSON lines, newest first (SEMANTICS 2, ".log").

It is what the command line reads. A line costs a few look-ups and, where sizes are equal, a comparison of bytes; nothing
is gathered, so a history of any length can be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.node import Text
from storage.attributes import REGULAR, TYPE_MASK
from storage.namespace import KEPT, PRUNED, PURGED, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.binding import Binding
    from storage.namespace import Version
    from storage.store import Store

__all__ = ["LOG_NAME", "Logs"]

_GONE = {KEPT: None, PRUNED: "pruned", PURGED: "purged"}

LOG_NAME = b".log"
"""Hidden in `name@@/`."""


class Logs:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def text(
        self,
        key: tuple[object, ...],
        lines: Callable[[], Iterator[dict[str, object]]],
        owner: tuple[int, int],
        time_ns: int,
    ) -> Text:
        """The file with these lines; asked for anew whenever it is opened."""

        def produce() -> Iterator[bytes]:
            return (json.dumps(line).encode() + b"\n" for line in lines())

        return Text(key, produce, uid=owner[0], gid=owner[1], time_ns=time_ns)

    @staticmethod
    def instant_lines(timestamps: list[int]) -> Iterator[dict[str, object]]:
        """One object per instant of a directory."""
        for timestamp in timestamps:
            yield {"timestamp": timestamp, "time": vpath.format_time(timestamp).decode()}

    def lines(self, directory: int, base: bytes) -> Iterator[dict[str, object]]:
        """One object per version of a name, newest first, tombstones included."""
        for number in range(self._store.head(directory, base), 0, -1):
            version = self._store.version(directory, base, number)
            if version is not None:
                yield self._line(directory, base, version)

    def _line(self, directory: int, base: bytes, version: Version) -> dict[str, object]:
        line: dict[str, object] = {
            "version": version.number,
            "timestamp": version.timestamp,
            "time": vpath.format_time(version.timestamp).decode(),
            "moved_from": None,
            "moved_to": None,
            "same": False,
            "gone": None,
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
        line["gone"] = _GONE[self._store.content_state(binding.inode, attributes.content)]
        if attributes.mode & TYPE_MASK == REGULAR and line["gone"] is None:
            line["same"] = self._same_as_before(directory, base, version)
        return line

    @staticmethod
    def _kind(number: int, binding: Binding) -> str:
        if number > binding.first:
            return "write"
        return {1: "create", 2: "link", 3: "move"}[binding.cause]

    def _same_as_before(self, directory: int, base: bytes, version: Version) -> bool:
        """Whether a version of a file has the bytes of the one before: compared only where sizes are equal."""
        before = self._store.version(directory, base, version.number - 1)
        if before is None or before.binding is None or version.binding is None:
            return False
        content = before.binding.base + before.number - before.binding.first
        if before.binding.mode != REGULAR or self._store.content_state(
            before.binding.inode, content
        ):
            return False  # of an exchange: a link's target and a directory have sizes too
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
        """The path of a name relative to the root as its directory is reached now; None if it is not."""
        parts = [name]
        while directory != ROOT:
            named = next(iter(self._store.names_at(directory)), None)
            if named is None:
                return None
            directory, name = named
            parts.append(name)
        return b"/".join(reversed(parts)).decode(errors="surrogateescape")
