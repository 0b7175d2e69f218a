"""Reading, for a program: bytes, names, versions; of the newest or of one instant, with the rights of one user.

The reads of the past are those of a trigger's cut. Source: SEMANTICS 4 (access then and now), 13.
"""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING

import msgspec

from cascadefs.client import calls
from cascadefs.client.values import Entry, Version
from storage.attributes import is_directory
from storage.errors import Reason, Refused
from storage.mvcc import TIMESTAMP_MAX
from storage.namespace import ROOT
from triggers import provenance
from triggers.access import READ, SEARCH, may
from triggers.cut import Numbers, StoreCut, parts_of
from triggers.effects import CONTROL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.attributes import Attributes
    from storage.binding import Binding
    from storage.store import Store
    from triggers.access import Identity
    from triggers.cut import Part
    from triggers.run import Buffer, Content

__all__ = ["BYTES_MAX", "Reading", "there"]

BYTES_MAX = 16 * 1024 * 1024
"""That one `Get` is answered: they fit a message."""

INDICES_BYTES_MAX = BYTES_MAX // 2
"""Of one `Pull`; its answer, of numbers of 16 bytes at most, then fits, too."""


AHEAD_US = 2_000_000
"""Of this node's clock another's may be, which has named an instant that a program then asks for here."""


class Reading:
    """See the module."""

    def __init__(self, store: Store, who: Identity) -> None:
        self._store = store
        self._who = who

    def cut(self, timestamp: int, part: Part | None = None) -> StoreCut:
        """The tree as of a timestamp, with the rights of this user; of contents only a part, if one is given."""
        return StoreCut(self._store, ROOT, timestamp, self._who, part=part)

    def instant(self, at: int | None) -> int:
        """A timestamp that is final.

        Raises:
            Refused: NOT_STABLE_YET: some shard has not reached it, or another node's clock has.
            FileNotFoundError: it is in the future.
        """
        if at is None:
            return self._store.now()
        if not self._store.settle(at):
            if self._store.has_others and at < self._store.now() + AHEAD_US:
                raise Refused(Reason.NOT_STABLE_YET)
            raise FileNotFoundError(errno.ENOENT, f"@t={at}: is in the future")
        return at

    def refresh(self, path: str) -> None:
        """See what anybody has committed so far in the shards on the way to a path, and in that of a directory there."""
        directory, shard = ROOT, -1
        for name in [*(parts_of(path) if path else []), None]:
            if self._store.shard_of(directory) != shard:
                shard = self._store.shard_of(directory)
                self._store.refresh(directory)
            binding = None if name is None else self._store.binding(directory, name)
            if binding is None or not is_directory(binding.mode):
                return
            directory = binding.inode

    def get(self, call: calls.Get) -> tuple[calls.Answer, Sequence[Buffer]]:
        """Bytes of a version."""
        length = BYTES_MAX if call.length is None else min(call.length, BYTES_MAX)
        content = self._content(call, (call.offset, call.offset + length))
        version = Version(content.path, content.version, content.timestamp, content.size)
        return calls.Got(version), content.parts

    def pull(
        self, call: calls.Pull, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """Numbers of a version."""
        if len(buffers) != 1 or len(buffers[0]) > INDICES_BYTES_MAX:
            raise ValueError(
                f"pull: one buffer of {INDICES_BYTES_MAX >> 20} MiB of indices at most"
            )
        content = self._content(call, Numbers(buffers[0], call.item_bytes))
        version = Version(content.path, content.version, content.timestamp, content.size)
        return calls.Got(version), content.parts

    def why(self, call: calls.Why) -> calls.Known:
        """Which run made a version, told to whoever may read it."""
        content = self._content(call, (0, 0))
        version = Version(content.path, content.version, content.timestamp, content.size)
        kept = self._store.provenance_of(content.identity[0], content.timestamp)
        run = b"" if kept is None else provenance.as_json(provenance.decode(kept))
        return calls.Known(version, run)

    def _content(self, call: calls.Get | calls.Pull | calls.Why, part: Part) -> Content:
        """The version that a call means.

        Raises:
            FileNotFoundError: there is none.
        """
        content: Content | None
        if call.version is not None:
            content = self._version(call.path, call.version, call.at, part)
        elif call.at is not None:
            content = self.cut(self.instant(call.at), part).get(call.path)
        else:
            self.refresh(call.path)
            content = self.cut(0, part).get(call.path, latest=True)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, f"{_spelled(call)}: no such file or version")
        return content

    def _version(self, path: str, number: int, at: int | None, part: Part) -> Content | None:
        """A version by its number. What it is never changes, so nobody is asked unless there is none here yet."""
        if at is not None:
            return self.cut(self.instant(at), part).version(path, number)
        found = self.cut(TIMESTAMP_MAX, part).version(path, number)
        if found is None:
            self.refresh(path)
            found = self.cut(TIMESTAMP_MAX, part).version(path, number)
        return found

    def stat(self, call: calls.Stat) -> Entry:
        """What a path is or was."""
        names = parts_of(call.path) if call.path else []
        number = call.version
        if call.event is not None and names:
            number = self._number_by_event(call.path, names, call.event, call.at)
        if number is not None:
            content = self._version(call.path, number, call.at, (0, 0))
            if content is None:
                raise FileNotFoundError(errno.ENOENT, f"{_spelled(call)}: no such version")
            name = call.path.rpartition("/")[2]
            return Entry(name, False, 0o444, content.version, content.timestamp, content.size)
        timestamp = None if call.at is None else self.instant(call.at)
        if timestamp is None:
            self.refresh(call.path)
        if not names:
            return _entry("", None, there(self._attributes(ROOT, timestamp), call.path))
        inode, _ = self.directory(names[:-1], timestamp, call.path)
        binding = self._binding(inode, names[-1], timestamp)
        if binding is None:
            raise FileNotFoundError(errno.ENOENT, f"{call.path}: no such file or directory")
        row = there(self._attributes(binding.inode, timestamp), call.path)
        return _entry(names[-1].decode(errors="surrogateescape"), binding, row)

    def _number_by_event(self, path: str, names: list[bytes], event: int, at: int | None) -> int:
        """The number of the version of the greatest event time up to then, among what is known at a timestamp.

        Raises:
            FileNotFoundError: there is none; or a directory is there, which has no event time.
        """
        known = None if at is None else self.instant(at)
        if known is None:
            self.refresh(path)
        directory, _ = self.directory(names[:-1], None, path)
        number = self._store.version_by_event(directory, names[-1], event, known)
        if number is None:
            raise FileNotFoundError(errno.ENOENT, f"{path}: nothing known of it happened by then")
        return number

    def directory(
        self, names: list[bytes], timestamp: int | None, path: str
    ) -> tuple[int, Attributes]:
        """The directory at the end of a way that may be gone.

        Raises:
            OSError: FileNotFoundError, NotADirectoryError, PermissionError.
        """
        inode, attributes = ROOT, there(self._attributes(ROOT, timestamp), path)
        for name in names:
            self._check(inode, attributes, SEARCH, path)
            binding = self._binding(inode, name, timestamp)
            if binding is None:
                raise FileNotFoundError(errno.ENOENT, f"{path}: no such directory")
            inode = binding.inode
            attributes = there(self._attributes(inode, timestamp), path)
            if not is_directory(attributes.mode):
                raise NotADirectoryError(errno.ENOTDIR, f"{path}: not a directory")
        self._check(inode, attributes, SEARCH, path)
        return inode, attributes

    def _binding(self, directory: int, name: bytes, timestamp: int | None) -> Binding | None:
        if timestamp is None:
            return self._store.binding(directory, name)
        return self._store.binding_at(directory, name, timestamp)

    def list(self, call: calls.List) -> calls.Listed:
        """What is in a directory."""
        timestamp = None if call.at is None else self.instant(call.at)
        names = parts_of(call.path) if call.path else []
        if timestamp is None:
            self.refresh(call.path)
        inode, attributes = self.directory(names, timestamp, call.path)
        self._check(inode, attributes, READ, call.path)
        after = call.after.encode(errors="surrogateescape")
        rows = (
            self._store.children(inode, after)
            if timestamp is None
            else self._store.children_at(inode, timestamp, after)
        )
        entries: list[Entry] = []
        # All at once: what is asked below may change the table.
        found = list(itertools.islice(rows, call.limit + 1))
        for name, binding in found[: call.limit]:
            row = self._attributes(binding.inode, timestamp)
            if row is None and timestamp is None:
                # A directory of another shard, which is behind here.
                self._store.refresh(binding.inode)
                row = self._attributes(binding.inode, None)
            if row is not None and not (inode == ROOT and name == CONTROL):
                entries.append(_entry(name.decode(errors="surrogateescape"), binding, row))
        if len(found) <= call.limit:
            return calls.Listed(entries, more=False)
        if not entries:  # Nothing that is shown: who asks goes on behind what it was shown.
            last = found[call.limit - 1][0].decode(errors="surrogateescape")
            return self.list(msgspec.structs.replace(call, after=last))
        return calls.Listed(entries, more=True)

    def match(self, call: calls.Match) -> calls.Matched:
        """The files a pattern matches."""
        return calls.Matched(self.cut(self.instant(call.at)).files(call.glob))

    def versions(self, call: calls.Versions) -> calls.VersionsFound:
        """The versions of a path."""
        until = None if call.until is None else self.instant(call.until)
        found = self.cut(until or self._store.now()).history(
            call.path,
            since=call.since,
            until=until,
            limit=call.limit,
            numbers=(call.first or 0, call.last),
        )
        return calls.VersionsFound(
            [Version(stat.path, stat.version, stat.timestamp, stat.size) for stat in found]
        )

    def scan(self, call: calls.Scan) -> calls.Scanned:
        """The versions of all files a pattern matches."""
        cut = self.cut(self.instant(call.at))
        found = cut.scan(call.glob, call.since, call.until, call.after, call.limit)
        rows = [(one.path, one.version, one.timestamp, one.event, one.size) for one in found]
        return calls.Scanned(rows, more=len(found) == call.limit)

    def _attributes(self, inode: int, timestamp: int | None) -> Attributes | None:
        if timestamp is None:
            return self._store.attributes(inode)
        row = self._store.attributes_at(inode, timestamp)
        return row[1] if row is not None else None

    def _check(self, inode: int, then: Attributes | None, want: int, path: str) -> None:
        now = self._store.attributes(inode)
        for bits in (then, now):
            if bits is not None and not may(self._who, bits, want):
                raise PermissionError(
                    errno.EACCES, f"{path or '/'}: user {self._who.uid} may not read it"
                )


def there(attributes: Attributes | None, path: str) -> Attributes:
    """What was found; raises FileNotFoundError where it is none."""
    if attributes is None:
        raise FileNotFoundError(errno.ENOENT, f"{path or '/'}: was not there yet")
    return attributes


def _entry(name: str, binding: Binding | None, row: Attributes) -> Entry:
    directory = is_directory(row.mode)
    versioned = binding is not None and not directory and row.content
    number = binding.version_of(row.content) if binding is not None and versioned else 0
    return Entry(name, directory, row.mode & 0o7777, number, row.content_timestamp, row.size)


def _spelled(call: calls.Get | calls.Pull | calls.Stat | calls.Why) -> str:
    return call.path if call.version is None else f"{call.path}@v{call.version}"
