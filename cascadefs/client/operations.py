"""What the calls of a program do: asked of a store, with the rights of one user.

Reads of the past and of one instant are those of a trigger's cut, writes those of a trigger's effects: the same rights,
the same refusals, one record. Whoever executes holds the store; nothing here waits.

Sources: SEMANTICS 4 (access then and now), 6 (conditions), "Programs".
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, NamedTuple

from cascadefs.client import calls
from cascadefs.client.values import Change, Entry, Version
from cascadefs.errnos import ERRNO, errno_of
from storage import record
from storage.attributes import DIRECTORY, is_directory
from storage.errors import Corruption, Reason, Refused
from storage.namespace import ROOT
from triggers.access import READ, SEARCH, WRITE, may, may_remove
from triggers.change import Paths, changes
from triggers.cut import StoreCut, parts_of
from triggers.effects import CONTROL, EffectRefused, Plan, plan
from triggers.pattern import Pattern
from triggers.run import Append, Delete, Put, PutIf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.attributes import Attributes
    from storage.binding import Binding
    from storage.clock import Clock
    from storage.store import Store
    from storage.stream import Committed
    from triggers.access import Identity
    from triggers.run import Buffer, Content, Effect

__all__ = ["Operations"]

_ORDINAL_MAX = 2**32

ATTEMPTS_MAX = 100
"""Of a write that others come before again and again; each time one of them got something done."""

WATCH_RECORDS_MAX = 10_000
"""Records looked at for one `Watch`: others want the store too."""


class Operations:
    """See the module. For one user; made anew for each connection."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        who: Identity,
        reserved: Callable[[int, bytes], bool] = lambda _directory, _name: False,
        applied: Callable[[Sequence[record.Part]], None] = lambda _parts: None,
    ) -> None:
        """`reserved`: whether a name in a directory would be taken for history; `applied` is told what was changed."""
        self._store = store
        self._clock = clock
        self._who = who
        self._reserved = reserved
        self._applied = applied

    def execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """Do what is asked. Buffers of a write are not kept; those of an answer are read-only and may be.

        Never raises for what was asked or for the world: that is a `Failed`.
        """
        try:
            return self._execute(call, buffers)
        except EffectRefused as refusal:
            return calls.Failed(ERRNO[refusal.reason], str(refusal)), ()
        except Refused as refusal:
            return calls.Failed(ERRNO[refusal.reason], str(refusal)), ()
        except OSError as error:
            number = error.errno or _ERRNO_OF_KIND.get(type(error), errno.EIO)
            return calls.Failed(number, error.strerror or str(error)), ()
        except ValueError as error:  # A path or a pattern that is none.
            return calls.Failed(errno.EINVAL, str(error)), ()
        except Exception as error:
            return calls.Failed(errno_of(error), f"{type(error).__name__}: {error}"), ()

    def _execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        match call:
            case calls.Get():
                return self._get(call)
            case calls.Write():
                return self._write(call, list(buffers)), ()
            case calls.List():
                return self._list(call), ()
            case calls.Match():
                return calls.Matched(self._cut(self._instant(call.at)).files(call.glob)), ()
            case calls.Stat():
                return calls.Listed([self._stat(call)], more=False), ()
            case calls.Versions():
                return self._versions(call), ()
            case calls.Scan():
                return self._scan(call), ()
            case calls.Watch():
                return self._watch(call), ()
            case calls.Instant():
                return calls.Now(self._store.now()), ()

    # --- reading -------------------------------------------------------------------------------------------------

    def _cut(self, timestamp: int) -> StoreCut:
        return StoreCut(self._store, ROOT, timestamp, self._who)

    def _instant(self, at: int | None) -> int:
        """A timestamp that is final.

        Raises:
            Refused: NOT_STABLE_YET.
        """
        if at is None:
            return self._store.now()
        if not self._store.settle(at):
            raise Refused(Reason.NOT_STABLE_YET)
        return at

    def _get(self, call: calls.Get) -> tuple[calls.Answer, Sequence[Buffer]]:
        content: Content | None
        if call.version is not None:
            content = self._cut(self._instant(call.at)).version(call.path, call.version)
        elif call.at is not None:
            content = self._cut(self._instant(call.at)).get(call.path)
        else:
            content = self._cut(0).get(call.path, latest=True)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, f"{_spelled(call)}: no such file or version")
        version = Version(content.path, content.version, content.timestamp, content.size)
        return calls.Got(version), _part(content.parts, call.offset, call.length)

    def _stat(self, call: calls.Stat) -> Entry:
        names = parts_of(call.path) if call.path else []
        if call.version is not None:
            content = self._cut(self._instant(call.at)).version(call.path, call.version)
            if content is None:
                raise FileNotFoundError(errno.ENOENT, f"{_spelled(call)}: no such version")
            name = call.path.rpartition("/")[2]
            return Entry(name, False, 0o444, content.version, content.timestamp, content.size)
        timestamp = None if call.at is None else self._instant(call.at)
        if not names:
            return _entry("", None, _there(self._attributes(ROOT, timestamp), call.path))
        inode, _ = self._directory(names[:-1], timestamp, call.path)
        binding = self._binding(inode, names[-1], timestamp)
        if binding is None:
            raise FileNotFoundError(errno.ENOENT, f"{call.path}: no such file or directory")
        row = _there(self._attributes(binding.inode, timestamp), call.path)
        return _entry(names[-1].decode(errors="surrogateescape"), binding, row)

    def _directory(
        self, names: list[bytes], timestamp: int | None, path: str
    ) -> tuple[int, Attributes]:
        """The directory at the end of a way that may be gone.

        Raises:
            OSError: FileNotFoundError, NotADirectoryError, PermissionError.
        """
        inode, attributes = ROOT, _there(self._attributes(ROOT, timestamp), path)
        for name in names:
            self._check(inode, attributes, SEARCH, path)
            binding = self._binding(inode, name, timestamp)
            if binding is None:
                raise FileNotFoundError(errno.ENOENT, f"{path}: no such directory")
            inode = binding.inode
            attributes = _there(self._attributes(inode, timestamp), path)
            if not is_directory(attributes.mode):
                raise NotADirectoryError(errno.ENOTDIR, f"{path}: not a directory")
        self._check(inode, attributes, SEARCH, path)
        return inode, attributes

    def _binding(self, directory: int, name: bytes, timestamp: int | None) -> Binding | None:
        if timestamp is None:
            return self._store.binding(directory, name)
        return self._store.binding_at(directory, name, timestamp)

    def _list(self, call: calls.List) -> calls.Listed:
        timestamp = None if call.at is None else self._instant(call.at)
        names = parts_of(call.path) if call.path else []
        inode, attributes = self._directory(names, timestamp, call.path)
        self._check(inode, attributes, READ, call.path)
        after = call.after.encode(errors="surrogateescape")
        rows = (
            self._store.children(inode, after)
            if timestamp is None
            else self._store.children_at(inode, timestamp, after)
        )
        entries: list[Entry] = []
        for name, binding in rows:
            if len(entries) >= call.limit:
                return calls.Listed(entries, more=True)
            row = self._attributes(binding.inode, timestamp)
            if row is not None and not (inode == ROOT and name == CONTROL):
                entries.append(_entry(name.decode(errors="surrogateescape"), binding, row))
        return calls.Listed(entries, more=False)

    def _versions(self, call: calls.Versions) -> calls.VersionsFound:
        until = None if call.until is None else self._instant(call.until)
        found = self._cut(until or self._store.now()).history(
            call.path, since=call.since, until=until, limit=call.limit
        )
        return calls.VersionsFound(
            [Version(stat.path, stat.version, stat.timestamp, stat.size) for stat in found]
        )

    def _scan(self, call: calls.Scan) -> calls.Scanned:
        cut = self._cut(self._instant(call.at))
        found: list[tuple[str, int, int, int, int]] = []
        for path in cut.files(call.glob):
            if path < call.after[0]:
                continue
            *above, name = parts_of(path)
            directory, _ = self._directory(above, call.at, path)
            for stat in cut.history(path, since=call.since, until=call.until):
                if (path, stat.version) <= call.after:
                    continue
                if len(found) >= call.limit:
                    return calls.Scanned(found, more=True)
                event = self._store.event_of(directory, name, stat.version)
                when = stat.timestamp if event is None else event
                found.append((path, stat.version, stat.timestamp, when, stat.size))
        return calls.Scanned(found, more=False)

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

    # --- writing -------------------------------------------------------------------------------------------------

    def _write(self, call: calls.Write, buffers: list[Buffer]) -> calls.Answer:
        effects = _effects(call.parts, buffers)
        self._make_shard_roots(call.parts)
        for _ in range(ATTEMPTS_MAX):
            made = plan(self._store, ROOT, self._who, effects, self._clock.now_ns(), self._reserved)
            removed = self._removed(call.parts)
            if not made.records and not removed:
                return calls.Written([], self._store.now())
            once = [record.Once(call.client, call.number)] if call.client else []
            guards = self._guards(made, removed)
            parts: list[record.Part] = [*guards, *once, *made.records, *removed]
            reason = self._store.propose(record.Batch(parts), made.payload).reason
            if reason is Reason.REPEATED:
                return self._repeated(call, made)
            if reason is None:
                self._applied([*made.records, *removed])
                return self._written(made)
            if reason is not Reason.CONDITION_FAILED:
                raise Refused(reason)
            # Somebody else changed what the plan relies on: what the caller expects is looked at again.
        raise Refused(Reason.CONDITION_FAILED)

    def _guards(self, made: Plan, removed: list[record.Unlink]) -> list[record.Expect]:
        """What the plan relies on in the shard it changes; what is on the way there in others is only looked at."""
        homes = {self._store.shard_of(part.parent) for part in removed}
        for part in made.records:
            homes.add(
                self._store.shard_of(part.inode if isinstance(part, record.Commit) else part.parent)
            )
        return [guard for guard in made.guards if self._store.shard_of(guard.directory) in homes]

    def _make_shard_roots(self, parts: list[calls.Part]) -> None:
        """Make the missing directories that will live in another shard than the one above them: records of their own."""
        if len(self._store.shards) == 1:
            return
        for part in parts:
            if not isinstance(part, calls.Put | calls.Append):
                continue
            directory, attributes = ROOT, self._store.attributes(ROOT)
            for name in parts_of(part.path)[:-1]:
                binding = self._store.binding(directory, name)
                if binding is not None:
                    directory, attributes = binding.inode, self._store.attributes(binding.inode)
                    if attributes is None or not is_directory(attributes.mode):
                        break  # the plan says why not
                    continue
                inode = self._store.allocate_inode(directory, name, DIRECTORY)
                may_make = attributes is not None and may(self._who, attributes, WRITE | SEARCH)
                if self._store.shard_of(inode) == self._store.shard_of(directory) or not may_make:
                    break  # the plan makes it, or says why not
                create = record.Create(
                    directory, name, inode, DIRECTORY | 0o755, self._who.uid, self._who.gid
                )
                reason = self._store.propose(create).reason
                if reason is not None and reason is not Reason.EXISTS:
                    raise Refused(reason)
                self._applied([create])
                binding = self._store.binding(directory, name)
                if binding is None:
                    break
                directory, attributes = binding.inode, self._store.attributes(binding.inode)

    def _removed(self, parts: list[calls.Part]) -> list[record.Unlink]:
        """The directories that are to go."""
        records = []
        for part in parts:
            if not isinstance(part, calls.RemoveDirectory):
                continue
            *above, name = parts_of(part.path)
            try:
                parent, attributes = self._directory(above, None, part.path)
            except FileNotFoundError:
                continue
            binding = self._store.binding(parent, name)
            if binding is None:
                continue
            row = _there(self._store.attributes(binding.inode), part.path)
            if not is_directory(row.mode):
                raise NotADirectoryError(errno.ENOTDIR, f"{part.path}: not a directory")
            if not may_remove(self._who, attributes, row) or CONTROL in (*above, name):
                raise PermissionError(
                    errno.EACCES, f"{part.path}: user {self._who.uid} may not remove it"
                )
            records.append(record.Unlink(parent, name, directory=True))
        return records

    def _repeated(self, call: calls.Write, made: Plan) -> calls.Answer:
        """What became of a request that is asked again."""
        number, timestamp = self._store.request_done(self._home(call, made), call.client)
        if number != call.number:
            raise ValueError(f"request {call.number} was followed by {number}; ask in order")
        versions = []
        for part in call.parts:
            stat = self._cut(timestamp).stat(part.path)
            if isinstance(part, calls.RemoveDirectory):
                continue
            if stat is not None:
                versions.append((part.path, stat.version, stat.size))
            else:
                versions.append((part.path, self._tombstone(part.path, timestamp), 0))
        return calls.Written(versions, timestamp)

    def _home(self, call: calls.Write, made: Plan) -> int:
        """A directory of the shard that was to be changed."""
        if made.guards:
            return made.guards[0].directory
        removed = self._removed(call.parts)
        return removed[0].parent if removed else ROOT

    def _tombstone(self, path: str, timestamp: int) -> int:
        """The number under which a path was deleted at a timestamp."""
        *above, name = parts_of(path)
        directory = ROOT
        for one in above:
            binding = self._store.binding_at(directory, one, timestamp)
            if binding is None:
                return 0
            directory = binding.inode
        entry = self._store.entry_at(directory, name, timestamp)
        return 0 if entry is None or entry[2] is None else entry[2].number

    def _written(self, made: Plan) -> calls.Written:
        """What was just committed; nobody has changed the store since."""
        sizes = [
            part.size if isinstance(part, record.Commit) else 0
            for part in made.records
            if not isinstance(part, record.Create)
        ]
        commits = [part.inode for part in made.records if isinstance(part, record.Commit)]
        attributes = self._store.attributes(commits[0]) if commits else None
        timestamp = attributes.content_timestamp if attributes is not None else self._store.now()
        versions = [(*one, size) for one, size in zip(made.outputs, sizes, strict=True)]
        return calls.Written(versions, timestamp)

    # --- watching ------------------------------------------------------------------------------------------------

    def _watch(self, call: calls.Watch) -> calls.Watched:
        pattern = Pattern((call.glob,))
        places = _places(call.after) if call.after else {}
        for shard in self._store.shards:
            if shard not in places:
                places[shard] = self._end(self._store.view(shard))
        found: list[Change] = []
        paths = Paths(self._store)
        for shard in self._store.shards:
            for change, place in self._told(self._store.view(shard), places[shard], paths, pattern):
                if change is not None and len(found) >= call.limit:
                    return calls.Watched(found, _token(places))
                places[shard] = place
                if change is not None:
                    found.append(Change(*change, _token(places)))
        return calls.Watched(found, _token(places))

    def _told(
        self, view: Store, place: _Place, paths: Paths, pattern: Pattern
    ) -> Iterator[tuple[tuple[str, str, int, int, int] | None, _Place]]:
        """The changes of one shard behind a place, and the place behind each; None where there was only a record."""
        for looked, committed in enumerate(self._behind(view, place)):
            told = place.ordinal if committed.timestamp == place.timestamp else 0
            place = _Place(committed.timestamp, told, committed.address)
            yield None, place
            for change in self._changes(committed, paths, pattern)[told:]:
                place = place._replace(ordinal=place.ordinal + 1)
                yield change, place
            if looked >= WATCH_RECORDS_MAX:
                return

    def _end(self, view: Store) -> _Place:
        """The end of a shard's history as it is now."""
        now = self._store.now()
        last = _Place(now, 0, 0)
        for committed in view.committed(view.address_of_time(now)):
            last = _Place(committed.timestamp, _ORDINAL_MAX, committed.address)
        return last

    @staticmethod
    def _behind(view: Store, place: _Place) -> Iterator[Committed]:
        """The records from the one at a place on, that one included: not all of it may have been told."""
        if place.address:
            with contextlib.suppress(Corruption):  # Of a token from elsewhere.
                if view.committed_at(place.address).timestamp == place.timestamp:
                    return view.committed(place.address)
        start = view.address_of_time(place.timestamp)
        return view.committed(start, place.timestamp - 1)

    def _changes(
        self, committed: Committed, paths: Paths, pattern: Pattern
    ) -> list[tuple[str, str, int, int, int]]:
        """(path, kind, version, timestamp, size) of what a record did, whether this user may know of it or not asked."""
        paths.observe(committed.record)
        timestamp = committed.timestamp
        told: list[tuple[str, str, int, int, int]] = []
        for change in changes(self._store, timestamp, committed.record):
            chain = paths.chain(change.directory, timestamp)
            if chain is None or not self._may_know(chain):
                continue
            path = (chain[-1][1] + change.name).decode(errors="surrogateescape")
            if pattern.matches(path) and CONTROL.decode() not in path.split("/"):
                told.append((path, change.kind, change.version, timestamp, change.size))
        return told

    def _may_know(self, chain: tuple[tuple[int, bytes], ...]) -> bool:
        """Whether every directory of a path may be searched, and the last one read."""
        for index, (directory, _) in enumerate(chain):
            attributes = self._store.attributes(directory)
            want = SEARCH | READ if index == 0 else SEARCH
            if attributes is not None and not may(self._who, attributes, want):
                return False
        return True


def _effects(parts: list[calls.Part], buffers: list[Buffer]) -> list[Effect]:
    """The parts with their buffers.

    Raises:
        ValueError: there are more or fewer buffers than parts that need one.
    """
    needed = sum(isinstance(part, calls.Put | calls.Append) for part in parts)
    if needed != len(buffers):
        raise ValueError(f"{needed} parts need bytes, and {len(buffers)} buffers came")
    rest = iter(buffers)
    effects: list[Effect] = []
    for part in parts:
        match part:
            case calls.Put(expect=None):
                effects.append(Put(part.path, next(rest), part.mode))
            case calls.Put(expect=int(expect)):
                effects.append(PutIf(part.path, next(rest), expect))
            case calls.Append():
                effects.append(Append(part.path, next(rest)))
            case calls.Delete():
                effects.append(Delete(part.path))
            case calls.RemoveDirectory():
                pass  # behind all others
    return effects


def _part(parts: list[memoryview], offset: int, length: int | None) -> list[memoryview]:
    """The bytes [offset, offset + length) of parts, not copied."""
    end = sum(map(len, parts)) if length is None else offset + length
    found, at = [], 0
    for part in parts:
        piece = part[max(offset - at, 0) : max(end - at, 0)]
        if len(piece):
            found.append(piece)
        at += len(part)
    return found


def _there(attributes: Attributes | None, path: str) -> Attributes:
    if attributes is None:
        raise FileNotFoundError(errno.ENOENT, f"{path or '/'}: was not there yet")
    return attributes


def _entry(name: str, binding: Binding | None, row: Attributes) -> Entry:
    directory = is_directory(row.mode)
    versioned = binding is not None and not directory and row.content
    number = binding.version_of(row.content) if binding is not None and versioned else 0
    return Entry(name, directory, row.mode & 0o7777, number, row.content_timestamp, row.size)


def _spelled(call: calls.Get | calls.Stat) -> str:
    return call.path if call.version is None else f"{call.path}@v{call.version}"


class _Place(NamedTuple):
    """A place in history: so many changes of the record with that timestamp have been told; where it is, if known."""

    timestamp: int
    ordinal: int
    address: int


def _token(places: dict[int, _Place]) -> str:
    """Places of all shards as text; of shard 0 alone without its number."""
    if list(places) == [0]:
        return ".".join(map(str, places[0]))
    return ",".join(f"{shard}:{'.'.join(map(str, place))}" for shard, place in places.items())


def _places(token: str) -> dict[int, _Place]:
    places = {}
    for one in token.split(","):
        shard, colon, text = one.rpartition(":")
        numbers = [shard if colon else "0", *text.split(".")]
        if len(numbers) != 4 or not all(part.isascii() and part.isdecimal() for part in numbers):
            raise ValueError(f"{token!r}: not a token that a watch gave")
        places[int(numbers[0])] = _Place(*map(int, numbers[1:]))
    return places


_ERRNO_OF_KIND = {
    FileNotFoundError: errno.ENOENT,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
}
"""Errors raised with a message alone carry no number."""
