"""The cut: what one run reads, at its timestamp and with the rights of the script's owner.

Every read is noted, so that provenance does not depend on what a worker says. Bytes are handed out as the log has them,
part by part, not joined and not copied.

Sources: docs/TRIGGERS.md 5, 6, 12; SEMANTICS 3 (access then and now).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from storage.attributes import REGULAR, TYPE_MASK, Attributes, is_directory
from storage.limits import CHUNK_BYTES
from storage.namespace import KEPT
from triggers.access import READ, SEARCH, Identity, may
from triggers.pattern import Pattern
from triggers.run import Content, Frame, Span, Stat, check_whole
from triggers.vector import gathered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from storage.binding import Binding
    from storage.store import Store
    from triggers.run import Buffer, Event

__all__ = ["BadPath", "Numbers", "Part", "Read", "StoreCut", "parts_of"]

_WILD = set("*?[]{}()!\\")


class BadPath(ValueError):
    """A path that leads out of the base, or into `.cascade`."""


class Read(NamedTuple):
    """One read, for provenance."""

    path: str
    version: int
    """0: it was not there."""
    latest: bool


def parts_of(path: str) -> list[bytes]:
    """The names of a path below the base.

    Raises:
        BadPath: it is absolute, empty, has ".." or an empty name.
    """
    names = path.split("/")
    if not path or {"", ".", ".."} & set(names) or "\0" in path:
        raise BadPath(f"{path!r}: paths are relative to the base, without '..'")
    try:
        return [name.encode(errors="surrogateescape") for name in names]
    except UnicodeEncodeError:
        raise BadPath(f"{path!r}: no name of a file") from None


class Numbers(NamedTuple):
    """The numbers of `item_bytes` at some indices (int64) of a content."""

    indices: Buffer
    item_bytes: int


Part: TypeAlias = Span | Numbers
"""Of a content: some of its bytes, or some numbers."""


class StoreCut:
    """`Cut` over a store. For one run; plain calls of whoever holds the store."""

    def __init__(
        self,
        store: Store,
        base: int,
        timestamp: int,
        who: Identity,
        *,
        part: Part | None = None,
    ) -> None:
        """`part`: of each content only these bytes, or numbers, are read; else all of it."""
        self._part = part
        self._store = store
        self._base = base
        self._timestamp = timestamp
        self._who = who
        self.reads: dict[Read, None] = {}
        """All that was read, in order, each once."""
        self.read_bytes = 0
        """Of contents, so far."""

    def where(self) -> int:
        """The base: what a cut of the same on another replica needs."""
        return self._base

    def noted(self, reads: list[tuple[str, int, bool]]) -> None:
        """These were read, on another replica."""
        self.reads.update(dict.fromkeys(Read(*read) for read in reads))

    # --- Cut ---------------------------------------------------------------------------------------------------

    def event_content(self, event: Event, *, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        if event.kind == "delete":
            return None
        return self._content(event.path, event.timestamp, span or self._part, note=False)

    def get(self, path: str, *, latest: bool = False, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        timestamp = None if latest else self._timestamp
        return self._content(path, timestamp, span or self._part, note=True)

    def version(self, path: str, number: int, *, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        *above, name = parts_of(path)
        directory = self._directory(above, self._timestamp)
        found = None if directory is None else self._store.version(directory, name, number)
        if found is None or found.binding is None or found.timestamp > self._timestamp:
            return None
        attributes = self._attributes(found.binding.inode, found.timestamp)
        if attributes is None or attributes.mode & TYPE_MASK != REGULAR:
            return None
        content = self._readable(
            path, number, found.binding.inode, attributes, found.timestamp, span or self._part
        )
        self._note(path, number)
        return content

    def pull(
        self, path: str, indices: Buffer, item_bytes: int, *, latest: bool = False
    ) -> Content | None:
        """See `triggers.run.Cut`."""
        timestamp = None if latest else self._timestamp
        return self._content(path, timestamp, Numbers(indices, item_bytes), note=True)

    def stat(self, path: str, *, latest: bool = False) -> Stat | None:
        """See `triggers.run.Cut`."""
        timestamp = None if latest else self._timestamp
        found = self._find(path, timestamp)
        stat = self._stat(path, *found) if found is not None else None
        self._note(path, stat.version if stat is not None else 0, latest=latest)
        return stat

    def files(self, glob: str) -> list[str]:
        """See `triggers.run.Cut`. Costs what lies below the part of the pattern that has no wildcard."""
        pattern = Pattern((glob,))
        names = glob.split("/") if not glob.startswith("re:") else [""]
        fixed = 0
        while fixed < len(names) - 1 and not _WILD & set(names[fixed]):
            fixed += 1
        depth = (
            None if "**" in names or glob.startswith("re:") or "{" in glob else len(names) - fixed
        )
        top = "/".join(names[:fixed])
        inode = self._base
        if top:
            found = self._find(top, self._timestamp)
            if found is None or not is_directory(found[1].mode):
                return []
            inode = found[0].inode
        walked = self._walk(inode, top + "/" if top else "", depth)
        return sorted(path for path in walked if pattern.matches(path))

    def history(
        self,
        path: str,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        numbers: tuple[int, int | None] = (0, None),
    ) -> list[Stat]:
        """See `triggers.run.Cut`. `numbers`: from the first to the last, if there is one."""
        *above, name = parts_of(path)
        directory = self._directory(above, self._timestamp)
        if directory is None:
            return []
        end = self._timestamp if until is None else min(until, self._timestamp)
        found: list[Stat] = []
        first, last = numbers
        head = self._store.head(directory, name)
        for number in range(head if last is None else min(head, last), max(first, 1) - 1, -1):
            version = self._store.version(directory, name, number)
            if version is None or version.binding is None or version.timestamp > end:
                continue
            if since is not None and version.timestamp < since:
                break
            row = self._store.attributes_at(version.binding.inode, version.timestamp)
            if row is None or row[1].mode & TYPE_MASK != REGULAR:
                continue
            self._check(row[1], version.binding.inode, READ, path)
            found.append(Stat(path, number, version.timestamp, row[1].size, row[1].mode & 0o7777))
            self._note(path, number)
            if limit is not None and len(found) >= limit:
                break
        return found[::-1]

    def scan(
        self, glob: str, since: int | None, until: int | None, after: tuple[str, int], limit: int
    ) -> list[Frame]:
        """See `triggers.run.Cut`. What is found is not noted as read."""
        end = self._timestamp if until is None else min(until, self._timestamp)
        found: list[Frame] = []
        for path in self.files(glob):
            if path < after[0]:
                continue
            *above, name = parts_of(path)
            directory = self._directory(above, self._timestamp)
            assert directory is not None, "the file was found in it"
            number = after[1] + 1
            if path != after[0]:
                number = self._first_since(directory, name, since)
            for frame in self._frames(path, directory, name, number, end):
                found.append(frame)
                if len(found) >= limit:
                    return found
        return found

    def _first_since(self, directory: int, name: bytes, since: int | None) -> int:
        """The number of the first version of a name that is not older, by halves."""
        first, end = 1, self._store.head(directory, name) + 1
        while since is not None and first < end:
            middle = (first + end) // 2
            version = self._store.version(directory, name, middle)
            if version is None or version.timestamp < since:  # None: forgotten, so long ago
                first = middle + 1
            else:
                end = middle
        return first

    def _frames(
        self, path: str, directory: int, name: bytes, number: int, end: int
    ) -> Iterator[Frame]:
        """The versions of a name that are contents of a file, from a number on, up to a timestamp."""
        for at in range(number, self._store.head(directory, name) + 1):
            version = self._store.version(directory, name, at)
            if version is None or version.binding is None:
                continue
            if version.timestamp > end:
                return
            attributes = self._attributes(version.binding.inode, version.timestamp)
            if attributes is None or attributes.mode & TYPE_MASK != REGULAR:
                continue
            self._check(attributes, version.binding.inode, READ, path)
            event = self._store.event_of(directory, name, at)
            when = version.timestamp if event is None else event
            yield Frame(path, at, version.timestamp, when, attributes.size)

    # --- leaves ------------------------------------------------------------------------------------------------

    def _note(self, path: str, version: int, *, latest: bool = False) -> None:
        self.reads[Read(path, version, latest)] = None

    def _content(
        self, path: str, timestamp: int | None, part: Part | None, *, note: bool
    ) -> Content | None:
        found = self._find(path, timestamp)
        if found is None or found[1].mode & TYPE_MASK != REGULAR or not found[1].content:
            if found is not None and is_directory(found[1].mode):
                raise IsADirectoryError(f"{path}: is a directory")
            if note:
                self._note(path, 0, latest=timestamp is None)
            return None
        binding, attributes = found
        version = binding.version_of(attributes.content)
        at = timestamp
        if at is None and self._store.has_others:
            at = attributes.content_timestamp  # Others may change it between two pieces.
        content = self._readable(path, version, binding.inode, attributes, at, part)
        if note:
            self._note(path, version, latest=timestamp is None)
        return content

    def _readable(
        self,
        path: str,
        version: int,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        part: Part | None,
    ) -> Content:
        """A file's bytes, or a part of them, after asking whether the script's owner may read them."""
        self._check(attributes, inode, READ, path)
        if self._store.content_state(inode, attributes.content) != KEPT:
            raise OSError(errno.EIDRM, f"{path}@v{version}: pruned; its record is still known")
        if isinstance(part, Numbers):
            parts = [memoryview(self._numbers(inode, attributes, timestamp, part))]
        else:
            if part is None:
                check_whole(path, version, attributes.size)
            read = self._parts(inode, attributes, timestamp, part)
            parts = [memoryview(data).toreadonly() for data in read]
        return Content(
            path,
            version,
            attributes.content_timestamp,
            attributes.size,
            parts,
            (inode, attributes.content),
        )

    def _parts(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        part: Span | None,
    ) -> Iterator[bytes | bytearray | memoryview]:
        first, end = part or (0, attributes.size)
        end = min(end, attributes.size)
        for offset in range(first, end, CHUNK_BYTES):
            length = min(CHUNK_BYTES, end - offset)
            self.read_bytes += length
            yield self._store.read(inode, attributes, timestamp, offset, length)

    def _numbers(
        self, inode: int, attributes: Attributes, timestamp: int | None, part: Numbers
    ) -> bytes:
        def read(ranges: Sequence[tuple[int, int]]) -> bytes:
            self.read_bytes += sum(end - start for start, end in ranges)
            return self._store.read_ranges(inode, attributes, timestamp, ranges)

        return gathered(part.indices, part.item_bytes, attributes.size, read)

    def _find(self, path: str, timestamp: int | None) -> tuple[Binding, Attributes] | None:
        *above, name = parts_of(path)
        directory = self._directory(above, timestamp)
        return self._entry(directory, name, timestamp) if directory is not None else None

    def _directory(self, names: list[bytes], timestamp: int | None) -> int | None:
        inode = self._base
        path = ""
        attributes = self._attributes(inode, timestamp)
        for name in [*names, None]:
            if attributes is None or not is_directory(attributes.mode):
                return None
            self._check(attributes, inode, SEARCH, path)
            if name is None:
                break
            path += name.decode(errors="surrogateescape") + "/"
            entry = self._entry(inode, name, timestamp)
            if entry is None:
                return None
            inode, attributes = entry[0].inode, entry[1]
        return inode

    def _entry(
        self, directory: int, name: bytes, timestamp: int | None
    ) -> tuple[Binding, Attributes] | None:
        binding = (
            self._store.binding(directory, name)
            if timestamp is None
            else self._store.binding_at(directory, name, timestamp)
        )
        if binding is None:
            return None
        attributes = self._attributes(binding.inode, timestamp)
        assert attributes is not None, "a bound inode exists"
        return binding, attributes

    def _attributes(self, inode: int, timestamp: int | None) -> Attributes | None:
        if timestamp is None:
            return self._store.attributes(inode)
        row = self._store.attributes_at(inode, timestamp)
        return row[1] if row is not None else None

    def _check(self, then: Attributes, inode: int, want: int, path: str) -> None:
        """Bits of then and of now: a mistake in a mode must be possible to mend."""
        now = self._store.attributes(inode)
        if not may(self._who, then, want) or (now is not None and not may(self._who, now, want)):
            raise PermissionError(f"{path or 'the base'}: user {self._who.uid} may not read it")

    def _stat(self, path: str, binding: Binding, attributes: Attributes) -> Stat:
        directory = is_directory(attributes.mode)
        version = (
            0 if directory or not attributes.content else binding.version_of(attributes.content)
        )
        timestamp = attributes.content_timestamp
        mode = attributes.mode & 0o7777
        return Stat(path, version, timestamp, attributes.size, mode, directory)

    def _walk(self, directory: int, prefix: str, depth: int | None) -> Iterator[str]:
        """The regular files below a directory, what may not be searched left out."""
        row = self._attributes(directory, self._timestamp)
        if row is None or not may(self._who, row, READ | SEARCH):
            return
        for name, binding in list(self._store.children_at(directory, self._timestamp)):
            path = prefix + name.decode(errors="surrogateescape")
            if binding.mode & TYPE_MASK == REGULAR:
                yield path
            elif is_directory(binding.mode) and depth != 1:
                yield from self._walk(binding.inode, path + "/", depth - 1 if depth else None)
