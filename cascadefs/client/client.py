"""The store for a program: `Client` (for trio see `concurrent`).

    store = cascadefs.connect("/srv/data")
    store.put("frames/0001.png", data)
    store.get("frames/0001.png", version=1)
    for change in store.watch("frames/*.png"):
        ...

Paths are text from the root, without a leading slash. An instant is a timestamp in microseconds, a `datetime` (UTC if it
has no zone), or text as in virtual paths: "2026-11-21T10:00", "-10m", "20261121T100000Z".

What goes wrong is an `OSError` with the errno a mount would give: `FileNotFoundError`, `PermissionError`, `BlockingIOError`
for an instant that is not final yet; a put whose condition is not met is a `Conflict`.

Source: SEMANTICS, "Programs".
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, overload

import msgspec
import xxhash

from cascadefs import vpath
from cascadefs.client import calls
from cascadefs.client.devices import Device, Devices
from cascadefs.client.values import Change, Conflict, Content, Entry, Version
from triggers.handler.effects import addition
from triggers.handler.frames import Frame
from triggers.handler.table import Table, sql, table
from triggers.handler.tensor import Axis, Tensor
from triggers.vector import indices_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    import numpy as np

    from storage.clock import Clock
    from triggers.run import Buffer

__all__ = ["WATCH_SECONDS", "Batch", "Client", "Executor", "Instant", "Key"]

_Result = TypeVar("_Result")

Instant: TypeAlias = int | str | datetime.datetime

Key: TypeAlias = str | tuple[str, int]
"""What makes a write the same write when it is asked for again."""

WATCH_SECONDS = 0.02
"""Between two looks for changes where nobody tells of them."""

NAMES_ASKED = 10_000
"""Of a directory, at a time."""

BLOCK_BYTES = 16 * 1024 * 1024
"""Of a file that is read in one go."""


MANY_FILES = 64
MANY_BYTES = 1024 * 1024
"""Of `put_many`, written with one call."""

PULLED = 1024 * 1024
"""Numbers asked for at a time."""

SCAN_VERSIONS = 10_000
"""Asked for at a time: the store is held for some 20 us each."""


class Executor(Protocol):
    """Whoever executes calls, and blocks while it does."""

    def execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """Have a call done. Buffers belong to the caller again on return.

        Raises:
            OSError: nobody could be asked.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Batch:
    """Changes that are made at one instant, or not at all; all in directories of one shard."""

    def __init__(self) -> None:
        self.parts: list[calls.Part] = []
        self.buffers: list[Buffer] = []
        self.events: dict[int, Instant] = {}
        """By the places of parts."""

    def put(
        self,
        path: str,
        data: Buffer | str,
        *,
        expect: int | None = None,
        mode: int = 0o644,
        event: Instant | None = None,
    ) -> None:
        """The next version of a file, whole; see `Client.put`."""
        if event is not None:
            self.events[len(self.parts)] = event
        self.parts.append(calls.Put(path, mode, expect))
        self.buffers.append(_bytes(data))

    def append(self, path: str, data: Buffer | str) -> None:
        """The next version of a file: what it holds, and these bytes."""
        self.parts.append(calls.Append(path))
        self.buffers.append(_bytes(data))

    def add(self, path: str, index: Any, delta: Any, *, dtype: str = "float32") -> None:
        """The next version of a file of numbers; see `Client.add`. Several of one file make one version."""
        added = addition(path, index, delta, dtype)
        self.parts.append(calls.Add(path, dtype, added.index, len(added.indices) // 8))
        self.buffers.append(b"".join([added.indices, added.delta]))

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens if it is not there."""
        self.parts.append(calls.Delete(path))

    def rmdir(self, path: str) -> None:
        """Remove a directory that is empty, or will be by the deletions of this batch."""
        self.parts.append(calls.RemoveDirectory(path))


class Client:
    """See the module. For any threads. A context manager: it ends with `close`.

    Processes may have it, too: sent to one (pickled) it connects anew there, and so does a child of fork(2) that goes on using it.
    """

    def __init__(self, executor: Executor, clock: Clock, where: str | None = None) -> None:
        """`where`: what `cascadefs.connect` takes to connect in another process, for one that gets this client sent."""
        self._executor = executor
        self._clock = clock
        self._where = where
        self.devices = Devices()
        """What `get` keeps on devices: `devices.cache("cuda").moved_bytes` and the like."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self._where is None:
            raise TypeError("only a client that cascadefs.connect made can be sent elsewhere")
        import cascadefs

        return cascadefs.connect, (self._where,)

    @overload
    def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
        device: None = None,
    ) -> bytes: ...

    @overload
    def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        device: Device,
    ) -> Any: ...

    def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
        device: Device | None = None,
    ) -> Any:
        """The bytes of a file: newest, the version of a number, what it was at an instant, or what it says of one.

        With an `event`, the version of the greatest event time up to then (SEMANTICS 3), among all so far, or those known `at`.

        With a device, the array that a `.npy` file holds, the arrays by name of a `.npz`, else the bytes as an array: CuPy's on
        "cuda", NumPy's, read-only, on "cpu". It is kept there by path and version: asked again, nothing is read or moved.

        Raises:
            FileNotFoundError: there is or was none.
            OSError: EIDRM where the content was let go; EAGAIN for an instant that is not final yet; ENODEV for a device that is
                not there.
        """
        if event is not None:
            version, at = self.stat(path, version=version, at=at, event=event).version, None
        if device is not None:
            if offset or length is not None:
                raise ValueError(
                    "get: a part of a file is bytes; without offset and length on a device"
                )
            entry = self.stat(path, version=version, at=at)
            if entry.is_directory:
                raise IsADirectoryError(errno.EISDIR, f"{path}: is a directory")
            return self.devices.get(device, path, entry, self._view)
        return bytes(self.read(path, version=version, at=at, offset=offset, length=length).data)

    def read(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
    ) -> Content:
        """As `get`, with what version it is. Long files are read in blocks, all of the same version."""
        first: Version | None = None
        data: deque[Buffer] = deque()
        want = length
        while True:
            size = BLOCK_BYTES if want is None else min(want, BLOCK_BYTES)
            call = calls.Get(path, version, self._timestamp(at), offset, size)
            answer, buffers = self._execute(call)
            assert isinstance(answer, calls.Got)
            first = first or answer.version
            version, at = first.number, None
            data.extend(buffers)
            got = sum(len(buffer) for buffer in buffers)
            offset += got
            want = None if want is None else want - got
            if got < size or want == 0 or offset >= first.size:
                return Content(first, memoryview(data[0]) if len(data) == 1 else b"".join(data))

    def _view(self, path: str, version: int) -> memoryview:
        return memoryview(self.read(path, version=version).data).toreadonly()

    def get_many(self, paths: Sequence[str], *, at: Instant | None = None) -> Sequence[bytes]:
        """As `get` of each file, many with one question; without `at` not necessarily of one instant.

        Raises:
            OSError: as `get`, of the first file that cannot be read.
        """
        timestamp = self._timestamp(at)
        contents: list[bytes] = []
        for found in self.get_each([calls.Get(path, None, timestamp) for path in paths]):
            if isinstance(found, OSError):
                raise found
            contents.append(found)
        return contents

    def get_each(self, gets: Sequence[calls.Get]) -> Iterator[bytes | OSError]:
        """What each `Get` would be answered, or why it cannot be; many with one question."""
        position = 0
        while position < len(gets):
            call = calls.GetEach(list(gets[position : position + calls.GETS_MAX]))
            answer, buffers = self._execute(call)
            assert isinstance(answer, calls.GotEach)
            rest = iter(buffers)
            for result, count in answer.results:
                data = b"".join(itertools.islice(rest, count))
                yield self._whole(gets[position], result, data)
                position += 1

    def span(
        self, path: str, version: int | None, at: Instant | None, start: int, end: int | None
    ) -> calls.Get:
        """What `get_each` takes: of a version of a file, or of what it was at an instant, the bytes from `start` to before `end`."""
        length = None if end is None else max(end - start, 0)
        return calls.Get(path, version, self._timestamp(at), start, length)

    def _whole(
        self, get: calls.Get, result: calls.Got | calls.Failed, data: bytes
    ) -> bytes | OSError:
        """An answer that one question among many had; with what did not fit in, or is on another node."""
        if isinstance(result, calls.Failed):
            if result.errno != errno.EREMOTE:
                return _error(result)
            version, size = get.version, None
        else:
            version, size = result.version.number, result.version.size
        offset = get.offset + len(data)
        length = None if get.length is None else get.length - len(data)
        if length == 0 or (size is not None and offset >= size):
            return data
        at = get.at if size is None else None
        try:
            return data + self.get(get.path, version=version, at=at, offset=offset, length=length)
        except OSError as error:
            return error

    def put(
        self,
        path: str,
        data: Buffer | str,
        *,
        expect: int | None = None,
        mode: int = 0o644,
        event: Instant | None = None,
        durable: bool = False,
    ) -> Version:
        """Make the next version of a file, whole; missing directories are made.

        Args:
            path: of the file.
            data: all of it; text is UTF-8.
            expect: only if this is its newest version; 0: only if it does not exist.
            mode: of a new file.
            event: when what it tells of happened; without it, when it is committed.
            durable: return when it is on the disk, on every replica.

        Raises:
            Conflict: another version is there; nothing was written.
            OSError: not allowed, no room, no such directory.
        """
        batch = Batch()
        batch.put(path, data, expect=expect, mode=mode, event=event)
        return self._one(batch, durable)

    def put_many(
        self, files: Mapping[str, Buffer | str], *, mode: int = 0o644, durable: bool = False
    ) -> Sequence[Version]:
        """As `put` of each file, whatever becomes of the others, many on their way at a time; some may share an instant.

        A version of number 0: made, but a connection broke before its number was told.

        Raises:
            OSError: as `put`, of the first file that could not be written; those before it, and perhaps others, are.
        """
        paths = deque(files)
        versions: dict[str, Version] = {}
        while paths:
            parts: list[calls.Part] = []
            buffers: list[Buffer] = []
            size = 0
            while paths and len(parts) < MANY_FILES and size < MANY_BYTES:
                path = paths.popleft()
                data = _bytes(files[path])
                if len(data) >= MANY_BYTES:
                    versions[path] = self.put(path, data, mode=mode, durable=durable)
                    continue
                parts.append(calls.Put(path, mode))
                buffers.append(data)
                size += len(data)
            if not parts:
                continue
            answer, _ = self._execute(calls.WriteEach(parts, durable), buffers)
            assert isinstance(answer, calls.WrittenEach)
            for part, data, result in zip(parts, buffers, answer.results, strict=True):
                versions[part.path] = self._one_of_many(part.path, data, result, mode, durable)
        return [versions[path] for path in files]

    def _one_of_many(
        self,
        path: str,
        data: Buffer,
        result: calls.Written | calls.Failed | None,
        mode: int,
        durable: bool,
    ) -> Version:
        match result:
            case calls.Failed():
                raise _error(result)
            case calls.Written():
                return Version(path, result.versions[0][1], result.timestamp, len(data))
            case None:
                return self.put(path, data, mode=mode, durable=durable)

    def append(self, path: str, data: Buffer | str, *, durable: bool = False) -> Version:
        """Make the next version of a file: what it holds, and these bytes. Nobody's append is lost."""
        batch = Batch()
        batch.append(path, data)
        return self._one(batch, durable)

    def add(
        self,
        path: str,
        index: Any,
        delta: Any,
        *,
        dtype: str = "float32",
        key: Key | None = None,
        durable: bool = False,
    ) -> Version:
        """Make the next version of a file of plain numbers: what it holds, and `delta` added to it. Nobody's addition is lost.

        Only the pages that hold them are read and written, whatever the size of the file; what it does not have counts as zeros.

        Args:
            path: of the file.
            index: where: from this number on; or an array of as many as there are in `delta`, in which one may come again.
            delta: numbers.
            dtype: of the numbers in the file: float32, float64, int32, int64.
            key: see `commit`.
            durable: as of `put`.
        """
        batch = Batch()
        batch.add(path, index, delta, dtype=dtype)
        return self.commit(batch, durable=durable, key=key)[0]

    def pull(
        self,
        path: str,
        index: Any,
        *,
        dtype: Any = "float32",
        version: int | None = None,
        at: Instant | None = None,
    ) -> np.ndarray[Any, Any]:
        """The numbers at an index, or at an array of them, of a file of plain numbers; a new array in the shape of `index`.

        Only the pages that hold them are read; behind the end of the file are zeros. Several millions are asked for in parts, all
        of one version.

        Raises:
            FileNotFoundError: there is or was no such file.
        """
        import numpy as np

        places, kind = indices_of(index), np.dtype(dtype)
        flat = np.ravel(places)
        found = []
        for start in range(0, max(len(flat), 1), PULLED):
            call = calls.Pull(path, kind.itemsize, version, self._timestamp(at))
            answer, buffers = self._execute(call, [flat[start : start + PULLED].tobytes()])
            assert isinstance(answer, calls.Got)
            version, at = answer.version.number, None
            found.append(b"".join(buffers))
        return np.frombuffer(bytearray(b"".join(found)), kind).reshape(places.shape)

    def delete(self, path: str, *, durable: bool = False) -> bool:
        """Remove a file; whether there was one. Its history stays."""
        batch = Batch()
        batch.delete(path)
        return bool(self.commit(batch, durable=durable))

    def rmdir(self, path: str) -> None:
        """Remove an empty directory; nothing happens if it is not there.

        Raises:
            OSError: ENOTEMPTY, ENOTDIR, EACCES.
        """
        batch = Batch()
        batch.rmdir(path)
        self.commit(batch)

    @contextlib.contextmanager
    def batch(self, *, durable: bool = False) -> Iterator[Batch]:
        """Gather changes; at the end of the block all of them are made at one instant, or none.

        Raises:
            Conflict: a condition is not met.
            OSError: as `put`; EXDEV for directories of several shards.
        """
        batch = Batch()
        yield batch
        self.commit(batch, durable=durable)

    def commit(
        self, batch: Batch, *, durable: bool = False, key: Key | None = None
    ) -> Sequence[Version]:
        """Make the changes of a batch; the versions they are.

        Args:
            batch: the changes.
            durable: return when they are on the disk, on every replica.
            key: done once, whoever asks how often, also programs that were started again. A text; or (text, number), where the
                numbers of one text ascend: one not above the last that was done counts as done. Meant for these paths only, and
                remembered for a week after its last use. What was done already is answered with what versions it made, or
                with number 0 where that is not known any more. (text, number) costs one row for each text, a text alone one
                for each.
        """
        client, number = (0, 0) if key is None else _request(key, batch.parts)
        parts = list(batch.parts)
        for place, event in batch.events.items():
            parts[place] = msgspec.structs.replace(parts[place], event=self._timestamp(event))
        answer, _ = self._execute(calls.Write(parts, durable, client, number), batch.buffers)
        assert isinstance(answer, calls.Written)
        return [
            Version(path, number, answer.timestamp, size) for path, number, size in answer.versions
        ]

    def list(
        self,
        path: str = "",
        *,
        at: Instant | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> Sequence[Entry]:
        """What is in a directory, in the order of the names' bytes: behind the name `after`, `limit` of them at most."""
        entries: deque[Entry] = deque()
        timestamp = self._timestamp(at)
        while True:
            wanted = NAMES_ASKED if limit is None else min(limit - len(entries), NAMES_ASKED)
            if wanted < 1:
                return tuple(entries)
            answer, _ = self._execute(calls.List(path, timestamp, after, wanted))
            assert isinstance(answer, calls.Listed)
            entries.extend(answer.entries)
            if not answer.more:
                return tuple(entries)
            after = answer.entries[-1].name

    def stat(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
    ) -> Entry:
        """What a path is or was; "" is the root. `event`: of a file, as of `get`.

        Raises:
            FileNotFoundError: nothing.
        """
        if version is not None and event is not None:
            raise ValueError(f"{path}: say a version or an event time")
        call = calls.Stat(path, version, self._timestamp(at), self._timestamp(event))
        answer, _ = self._execute(call)
        assert isinstance(answer, calls.Listed)
        return answer.entries[0]

    def glob(self, pattern: str, *, at: Instant | None = None) -> Sequence[str]:
        """The paths of the files a pattern matches (TRIGGERS 3: ``*``, ``**``, ``{a,b}``, ``!not``, ``re:``)."""
        answer, _ = self._execute(calls.Match(pattern, self._timestamp(at)))
        assert isinstance(answer, calls.Matched)
        return answer.paths

    def versions(
        self,
        path: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        first: int | None = None,
        last: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Version]:
        """Versions of a path, oldest first, of an interval of time and of numbers; the newest `limit` of them.

        Args:
            path: of the file.
            since: no earlier ones.
            until: no later ones.
            first: no smaller numbers; ``first=3, last=9`` is v3..v9, as many of them as there are.
            last: no greater numbers.
            limit: so many at most.
        """
        call = calls.Versions(
            path, self._timestamp(since), self._timestamp(until), limit, first, last
        )
        answer, _ = self._execute(call)
        assert isinstance(answer, calls.VersionsFound)
        return answer.versions

    def tensor(
        self,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        *,
        at: Instant | None = None,
        axis: Axis = "commit",
        dtype: Any = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Versions of arrays along time, read when they are indexed (`triggers.handler.tensor`).

        Args:
            glob: which files; `.npy`, or plain numbers of `dtype` and `shape`.
            since: the first time; None: the beginning.
            until: the last one; None: the cut.
            at: the cut: what is written later is not seen; None: now.
            axis: which time counts: the "commit"'s, or the "event"'s.
            dtype: of the numbers where files are no `.npy`.
            shape: of a frame, likewise.
        """
        first, last = self._timestamp(since), self._timestamp(until)
        return Tensor(
            _Cut(self, self._cut(at)), glob, first, last, axis=axis, dtype=dtype, shape=shape
        )

    def table(
        self,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        *,
        at: Instant | None = None,
    ) -> Table:
        """A row for each version with what is in it, as Arrow (`triggers.handler.table`)."""
        first, last = self._timestamp(since), self._timestamp(until)
        return table(_Cut(self, self._cut(at)), glob, first, last)

    def sql(
        self,
        query: str,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        *,
        at: Instant | None = None,
        **parameters: Any,
    ) -> Table:
        """A question in SQL about `versions`, with `text_of(path, version)` and `bytes_of(path, version)` for what is in them.

        Only the versions are read that the question leaves when it asks for their bytes.
        """
        first, last = self._timestamp(since), self._timestamp(until)
        return sql(_Cut(self, self._cut(at)), query, glob, first, last, **parameters)

    def _cut(self, at: Instant | None) -> int:
        timestamp = self._timestamp(at)
        return self.now() if timestamp is None else timestamp

    def scan(self, glob: str, since: int | None, until: int | None, at: int) -> Sequence[Frame]:
        """The versions of all files a pattern matches at an instant, by path and number."""
        found: deque[Frame] = deque()
        while True:
            after = (found[-1].path, found[-1].version) if found else ("", 0)
            answer, _ = self._execute(calls.Scan(glob, since, until, at, after, SCAN_VERSIONS))
            assert isinstance(answer, calls.Scanned)
            found.extend(Frame(*one) for one in answer.versions)
            if not answer.more:
                return tuple(found)

    def now(self) -> int:
        """This instant, final: whatever is read at it will never change."""
        answer, _ = self._execute(calls.Instant())
        assert isinstance(answer, calls.Now)
        return answer.timestamp

    def watch(
        self, pattern: str = "**", *, after: str = "", timeout_s: float | None = None
    ) -> Iterator[Change]:
        """Each committed change of the paths a pattern matches, in order, for ever.

        Args:
            pattern: as of `glob`.
            after: the token of the last change seen; "": from now on.
            timeout_s: end when nothing has changed for so long; None: never.
        """
        token, quiet_s = after, 0.0
        while timeout_s is None or quiet_s < timeout_s:
            found, following = self.look(pattern, token)
            yield from found
            quiet_s = 0.0 if found else quiet_s + WATCH_SECONDS
            if following == token:
                time.sleep(WATCH_SECONDS)
            token = following

    def look(self, pattern: str, after: str, *, limit: int = 1000) -> tuple[Sequence[Change], str]:
        """What has changed behind a token, as far as is known already, and the token to go on from; `limit` at a time."""
        answer, _ = self._execute(calls.Watch(pattern, after, limit))
        assert isinstance(answer, calls.Watched)
        return answer.changes, answer.token

    def why(
        self, path: str, *, version: int | None = None, at: Instant | None = None
    ) -> tuple[Version, dict[str, Any] | None]:
        """A version, and the run of a script that made it (TRIGGERS 10); None if a program did.

        Raises:
            FileNotFoundError: there is or was none.
        """
        answer, _ = self._execute(calls.Why(path, version, self._timestamp(at)))
        assert isinstance(answer, calls.Known)
        return answer.version, json.loads(answer.run) if answer.run else None

    def close(self) -> None:
        """Let go of the store."""
        self._executor.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _one(self, batch: Batch, durable: bool) -> Version:
        return self.commit(batch, durable=durable)[0]

    def _execute(
        self, call: calls.Call, buffers: Sequence[Buffer] = ()
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        answer, data = self._executor.execute(call, buffers)
        if isinstance(answer, calls.Failed):
            raise _error(answer)
        return answer, data

    def _timestamp(self, instant: Instant | None) -> int | None:
        return None if instant is None else _timestamp_of(instant, self._clock)


class _Cut:
    """`triggers.handler.frames.Frames` over a client, as of one instant."""

    def __init__(self, client: Client, at: int) -> None:
        self._client = client
        self._at = at

    def find(self, glob: str, since: int | None, until: int | None) -> Sequence[Frame]:
        return self._client.scan(glob, since, until, self._at)

    def read(self, frame: Frame) -> memoryview:
        data = self._client.read(frame.path, version=frame.version).data
        return memoryview(data).toreadonly()


def _bytes(data: Buffer | str) -> Buffer:
    return data.encode() if isinstance(data, str) else data


def _request(key: Key, parts: Sequence[calls.Part]) -> tuple[int, int]:
    """A key of whoever writes as client and number.

    Raises:
        ValueError: the number is none.
    """
    text, number = (key, 1) if isinstance(key, str) else key
    if not 1 <= number < 2**62:
        raise ValueError(f"key {key!r}: numbers of a key begin with 1")
    scope = "\0".join([text, *sorted({part.path for part in parts})])
    return xxhash.xxh3_64_intdigest(scope.encode(errors="surrogateescape")) or 1, number


def _error(answer: calls.Failed) -> OSError:
    if answer.errno == errno.ESTALE:
        return Conflict(answer.message)
    return OSError(answer.errno, answer.message)


def _timestamp_of(instant: Instant, clock: Clock) -> int:
    """The timestamp in microseconds that an instant means now.

    Raises:
        ValueError: it means none; the message is for people.
    """
    if isinstance(instant, int):
        return instant
    now_us = clock.now_ns() // 1000
    if isinstance(instant, datetime.datetime):
        aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=datetime.UTC)
        return (aware - _EPOCH) // datetime.timedelta(microseconds=1)
    match vpath.parse_instant(instant, datetime.UTC, now_us):
        case vpath.Time(timestamp):
            return timestamp
        case vpath.Ago(duration_us):
            return (now_us - duration_us) // 1_000_000 * 1_000_000
        case vpath.Now():
            return now_us


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
