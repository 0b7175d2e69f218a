"""`ctx`: what a handler reads, stages, keeps and says. docs/TRIGGERS.md 5.

Two spellings of one thing. A plain handler gets `Context`: calls answer at once. An `async` handler gets `AsyncContext`,
where reading is awaited. Staging never waits, so `ctx.put(...)` counts with or without `await` in front.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import msgspec

from triggers.handler.effects import Staged
from triggers.handler.frames import CutFrames, instant_of
from triggers.handler.prefetch import AsyncPrefetch, Prefetch
from triggers.handler.table import sql, table
from triggers.handler.tensor import Tensor
from triggers.run import LogLine
from triggers.spelling import Decoder, encode

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Generator, Iterable, Iterator

    import numpy as np

    from triggers.handler.blob import File
    from triggers.handler.copies import Copies
    from triggers.handler.device import DeviceCache
    from triggers.handler.frames import Instant
    from triggers.handler.table import Table
    from triggers.handler.tensor import Axis
    from triggers.run import Cut, Effect, Run, Stat

__all__ = ["AsyncContext", "Base", "Context", "Rejected", "RetryLater", "Services"]

At: TypeAlias = Literal["cut", "latest"]
Paths: TypeAlias = list[str]
Stats: TypeAlias = "list[Stat]"
Effects: TypeAlias = "list[Effect]"
Array: TypeAlias = "np.ndarray[Any, Any]"

LOG_LINES_MAX = 1000
"""Of one run; later ones are dropped, and the last kept says so."""

EMPTY = encode({})

_decode_state = Decoder[Any](Any).decode


class RetryLater(BaseException):
    """`ctx.retry()`: no `except Exception` of a handler shall swallow it."""

    def __init__(self, after_ms: int | None) -> None:
        super().__init__(after_ms)
        self.after_ms = after_ms


class Rejected(BaseException):
    """`ctx.reject()`: no `except Exception` of a handler shall swallow it."""


class Ready:
    """What staging answers: nothing to wait for, and awaiting it is allowed."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


READY = Ready()


class Services:
    """What a process offers its runs: clocks (nanoseconds), the device cache, the counter of copies."""

    def __init__(
        self,
        wall_ns: Callable[[], int],
        steady_ns: Callable[[], int],
        device: Callable[[], DeviceCache],
        copies: Copies,
    ) -> None:
        self.wall_ns = wall_ns
        self.steady_ns = steady_ns
        self.device = device
        self.copies = copies


class Base:
    """What plain and `async` handlers share."""

    def __init__(self, run: Run, cut: Cut, services: Services) -> None:
        self.run_id = run.id
        self.binding = run.binding
        self.timestamp = run.timestamp
        self.rank = run.rank.number
        self.world_size = run.rank.world_size
        self.rendezvous = run.rank.rendezvous
        self._run = run
        self._cut = cut
        self._services = services
        self._staged = Staged(cut, run.timestamp, services.copies)
        self._states: dict[str, dict[str, Any]] = {}
        self._prefetches: list[Prefetch] = []
        self._device: DeviceCache | None = None
        self.lines: list[LogLine] = []
        self.models: dict[tuple[int, int], int] = {}
        """What was asked for by `gpu`: bytes, by the identity of the content."""
        self.failed: dict[str, str] = {}
        self._stop = False
        self._deadline_ns = services.steady_ns() + run.timeout_ms * 1_000_000

    # --- stage --------------------------------------------------------------------------------------------------------

    def put(self, path: str, data: Any, *, mode: int = 0o644) -> Ready:
        """Stage the next version of a file. Text is UTF-8, dict and list JSON, an array `.npy` if the path says so."""
        self._staged.put(path, data, mode)
        return READY

    def put_if(self, path: str, data: Any, *, expect: int) -> Ready:
        """As `put`, if the newest version at the commit is `expect` (0: none); else the event runs again."""
        self._staged.put_if(path, data, expect)
        return READY

    def delete(self, path: str) -> Ready:
        """Stage the removal of a file."""
        self._staged.delete(path)
        return READY

    def append(self, path: str, data: Any) -> Ready:
        """Stage bytes at the end of a file."""
        self._staged.append(path, data)
        return READY

    def add(self, path: str, index: Any, delta: Any, *, dtype: str = "float32") -> Ready:
        """Stage the addition of numbers to those in a file, which holds nothing else.

        Args:
            path: of the file; what it does not have counts as zeros.
            index: where: from this element on; or an array of as many as there are numbers, in which one may come again.
            delta: the numbers.
            dtype: of the numbers in the file: float32, float64, int32, int64.

        Raises:
            ValueError, TypeError: an index is no place; the message says which.
        """
        self._staged.add(path, index, delta, dtype)
        return READY

    def emit(self, name: str, data: Any, *, mode: int = 0o644) -> Ready:
        """`put` below the binding's `emit` directory.

        Raises:
            ValueError: the binding has none.
        """
        if self._run.emit is None:
            raise ValueError('emit: the binding names no directory; write @watch(..., emit="out/")')
        directory = self._run.emit.rstrip("/")
        return self.put(f"{directory}/{name}" if directory else name, data, mode=mode)

    # --- keep ---------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """A small mapping per binding and key, as the key's previous run left it; changes commit with the run.

        Raises:
            ValueError: a batch of several keys; each event has its own `event.state`.
        """
        keys = {event.key for event in self._run.events}
        if len(keys) != 1:
            raise ValueError(f"state: this batch has {len(keys)} keys; use event.state")
        return self.state_of(keys.pop())

    def state_of(self, key: str) -> dict[str, Any]:
        """The state mapping of one key of the run."""
        if key not in self._states:
            kept = self._run.states.get(key)
            self._states[key] = _decode_state(kept) if kept else {}
        return self._states[key]

    def changed_states(self) -> dict[str, bytes]:
        """The state mappings that are no longer as they were, encoded.

        Raises:
            TypeError: one holds what msgpack does not know.
        """
        changed = {}
        for key, state in self._states.items():
            encoded = encode(state)
            if encoded != self._run.states.get(key, EMPTY):
                changed[key] = encoded
        return changed

    @property
    def effects(self) -> Effects:
        """What the run staged, in call order."""
        return self._staged.effects

    @property
    def xp(self) -> Any:
        """CuPy where there is a GPU, else NumPy."""
        return self._services.device().xp

    def gpu(self, path: str) -> Any:
        """The array of a file at the cut on the device; of a `.npz`, a mapping of arrays. Kept by (path, version).

        Raises:
            FileNotFoundError: there is no such file at the cut.
        """
        device = self._services.device()
        held = device.holds(path)
        content = self._cut.get(path) if held is None else self._recheck(path, held)
        if content is None:
            raise FileNotFoundError(f"gpu: there is no {path} at the cut")
        self.models[content.identity] = content.size
        self._device = device
        return device.get(
            path,
            content.identity,
            lambda: self._services.copies.joined(content.parts),
            user=self.run_id,
        )

    def open(self, path: str, *, version: int | None = None) -> io.BufferedReader:
        """A file at the cut, with what this run staged, as a file of Python's to read and seek in; not awaited.

        For what is longer than `get` gives (1 GiB), or of which little is wanted: only what is read is asked for. An event's
        own version is `ctx.open(event.path, version=event.version)`.

        Args:
            path: below the base.
            version: that version, if it is no newer than the cut.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._staged.open(path, version)

    def _recheck(self, path: str, held: tuple[int, int]) -> Any:
        # A cut in another process need not send bytes that are here already.
        check = getattr(self._cut, "get_unless", None)
        return self._cut.get(path) if check is None else check(path, held)

    def _versions(
        self, since: Instant | None, until: Instant | None
    ) -> tuple[CutFrames, int | None, int | None]:
        frames = CutFrames(self._cut, self._services.copies)
        first, last = (instant_of(one, self.timestamp) for one in (since, until))
        return frames, first, last

    def tensor(
        self,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        *,
        axis: Axis = "commit",
        dtype: Any = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Versions of arrays along time, read when they are indexed (`triggers.handler.tensor`); not awaited.

        What is committed at the cut, not what this run staged.

        Args:
            glob: which files; `.npy`, or plain numbers of `dtype` and `shape`.
            since: the first time: microseconds, a datetime, or how long before the cut ("-10m"); None: the beginning.
            until: the last one; None: the cut.
            axis: which time counts: the "commit"'s, or the "event"'s that a version tells of.
            dtype: of the numbers where files are no `.npy`.
            shape: of a frame, likewise.
        """
        frames, first, last = self._versions(since, until)
        return Tensor(frames, glob, first, last, axis=axis, dtype=dtype, shape=shape)

    def _prefetch(self, paths: Iterable[str], batch: int | None, ahead: int) -> Prefetch:
        made = Prefetch(self._staged.begin, paths, batch, ahead)
        self._prefetches.append(made)
        return made

    # --- say ----------------------------------------------------------------------------------------------------------

    def log(self, message: object, level: str = "info", **fields: object) -> None:
        """One line in the binding's log, with the run's id; fields follow as JSON."""
        text = str(message)
        if fields:
            text = f"{text} {shown(fields)}"
        if len(self.lines) < LOG_LINES_MAX:
            self.lines.append(LogLine(self._services.wall_ns(), level, text))
        elif len(self.lines) == LOG_LINES_MAX:
            last = f"more than {LOG_LINES_MAX} lines; the rest is not kept"
            self.lines.append(LogLine(self._services.wall_ns(), "warning", last))

    def metric(self, name: str, value: float) -> None:
        """A number with a name, as a line of level "metric"."""
        self.log(f"{name} {float(value):g}", level="metric")

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """How long the block takes, in microseconds, as a line of level "span"."""
        started_ns = self._services.steady_ns()
        try:
            yield
        finally:
            self.log(f"{name} {(self._services.steady_ns() - started_ns) // 1000}", level="span")

    # --- end ----------------------------------------------------------------------------------------------------------

    def retry(self, after: float | None = None) -> NoReturn:
        """End this run without effects; run the event again, `after` so many seconds (None: the binding's backoff)."""
        raise RetryLater(None if after is None else max(0, round(after * 1000)))

    def reject(self, reason: object = "") -> NoReturn:
        """End this run without effects; the event goes to `.cascade/failed/` now."""
        raise Rejected(str(reason))

    def close(self) -> None:
        """The run has ended: nobody waits for anything any more."""
        for prefetch in self._prefetches:
            prefetch.close()
        if self._device is not None:
            self._device.release(self.run_id)

    @property
    def deadline(self) -> float:
        """Seconds left; 0 if none."""
        return max(0, self._deadline_ns - self._services.steady_ns()) / 1e9

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end: killed, or out of time."""
        return self._stop or self.deadline == 0


class Context(Base):
    """`ctx` of a plain function."""

    def get(self, path: str, at: At = "cut", *, version: int | None = None) -> File | None:
        """A file at the cut, with what this run staged; None where there is none.

        `at="latest"`: as it is now. `version`: that version, if it is no newer than the cut.
        """
        return self._staged.get(path, at_latest(at), version)

    def stat(self, path: str, at: At = "cut") -> Stat | None:
        """Version, timestamp, size and mode of a file; None where there is none."""
        return self._staged.stat(path, at_latest(at))

    def pull(self, path: str, index: Any, *, dtype: str = "float32", at: At = "cut") -> Array:
        """The numbers at an index, or at an array of them, of a file that holds numbers: a new array of the shape of `index`.

        Only the pages are read that hold them. Zeros behind the end. `at="latest"`: as they are now, for instance what other
        runs have added since this one's event.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._staged.pull(path, index, dtype, at_latest(at))

    def list(self, glob: str) -> Paths:
        """The files that match a pattern, sorted; with those this run staged."""
        return self._staged.files(glob)

    def prefetch(
        self, paths: Iterable[str], *, batch: int | None = None, ahead: int = 2
    ) -> Prefetch:
        """The files of these paths at the cut, in this order, each as `get` gives it; the next ones are read meanwhile.

        Args:
            paths: taken as they are asked for, so it may be long.
            batch: lists of so many files at a time; None: one file, and no list.
            ahead: batches asked for that are not wanted yet (64 files at most).

        Raises:
            OSError, ValueError: of a file, when its turn comes.
        """
        return self._prefetch(paths, batch, ahead)

    def table(self, glob: str, since: Instant | None = None, until: Instant | None = None) -> Table:
        """A row for each version with what is in it, as Arrow (`triggers.handler.table`); times as of `tensor`."""
        frames, first, last = self._versions(since, until)
        return table(frames, glob, first, last)

    def sql(
        self,
        query: str,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        **parameters: Any,
    ) -> Table:
        """A question in SQL about `versions`, with `text_of(path, version)` and `bytes_of(path, version)` for what is in them.

        Only the versions are read that the question leaves when it asks for their bytes.
        """
        frames, first, last = self._versions(since, until)
        return sql(frames, query, glob, first, last, **parameters)

    def history(
        self,
        path: str,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Stats:
        """Committed versions up to the cut, oldest first: `since <= timestamp <= until`, the newest `limit`."""
        return self._cut.history(path, since=since, until=until, limit=limit)


class AsyncContext(Base):
    """`ctx` of an `async` function: as `Context`, and reading is awaited."""

    async def get(self, path: str, at: At = "cut", *, version: int | None = None) -> File | None:
        """See `Context.get`."""
        return self._staged.get(path, at_latest(at), version)

    async def stat(self, path: str, at: At = "cut") -> Stat | None:
        """See `Context.stat`."""
        return self._staged.stat(path, at_latest(at))

    async def pull(self, path: str, index: Any, *, dtype: str = "float32", at: At = "cut") -> Array:
        """See `Context.pull`."""
        return self._staged.pull(path, index, dtype, at_latest(at))

    async def list(self, glob: str) -> Paths:
        """See `Context.list`."""
        return self._staged.files(glob)

    def prefetch(
        self, paths: Iterable[str], *, batch: int | None = None, ahead: int = 2
    ) -> AsyncPrefetch:
        """See `Context.prefetch`; for `async for`."""
        return AsyncPrefetch(self._prefetch(paths, batch, ahead))

    async def table(
        self, glob: str, since: Instant | None = None, until: Instant | None = None
    ) -> Table:
        """See `Context.table`."""
        frames, first, last = self._versions(since, until)
        return table(frames, glob, first, last)

    async def sql(
        self,
        query: str,
        glob: str,
        since: Instant | None = None,
        until: Instant | None = None,
        **parameters: Any,
    ) -> Table:
        """See `Context.sql`."""
        frames, first, last = self._versions(since, until)
        return sql(frames, query, glob, first, last, **parameters)

    async def history(
        self,
        path: str,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Stats:
        """See `Context.history`."""
        return self._cut.history(path, since=since, until=until, limit=limit)


def shown(fields: dict[str, object]) -> str:
    """Fields of a log line as JSON; what JSON does not know as text."""
    try:
        return msgspec.json.encode(fields, enc_hook=str).decode()
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        return json.dumps(fields, default=str)


def at_latest(at: str) -> bool:
    """Whether `at=` asks for now; a typing error is none silently.

    Raises:
        ValueError: neither "cut" nor "latest".
    """
    if at not in ("cut", "latest"):
        raise ValueError(f'at={at!r}: write "cut" or "latest"')
    return at == "latest"
