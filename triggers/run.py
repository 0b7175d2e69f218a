"""A run, as core and workers hand it to each other: scripts, events, staged effects, results, and two protocols.

A *run* is one attempt at an event, or at a batch of them. The core decides what runs when and makes the effects of a
run part of the log; a `Runner` only executes. What lies between is in this module, as plain values.

Paths are text relative to the *base*, the directory that holds `.cascade/`: "/" between parts, none in front, never
"..", bytes that are no UTF-8 as surrogates (PEP 383). Timestamps are microseconds of the store's hybrid clock; the
*cut* of a run is the state of the store at its timestamp.

Does not know how events come about, nor what executes a handler. Source: docs/TRIGGERS.md.
"""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

__all__ = [
    "CONTENT_BYTES_MAX",
    "PATH_CHARACTERS_MAX",
    "PIECE_BYTES",
    "Add",
    "Append",
    "Buffer",
    "Content",
    "Cut",
    "Delete",
    "Done",
    "Effect",
    "Event",
    "EventKind",
    "Failed",
    "FailureKind",
    "Frame",
    "LoadFailed",
    "LogLine",
    "Put",
    "PutIf",
    "Rank",
    "Run",
    "Runner",
    "Script",
    "Span",
    "Stat",
    "check_whole",
    "timestamp_text",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

Span: TypeAlias = tuple[int, int]
"""Of a content: the bytes from one offset to before another."""

CONTENT_BYTES_MAX = 1 << 30
"""A content that is handed to a run whole: it is main memory, of the daemon first. What is longer is read in spans, but where a
binding asks for more `memory` by itself."""

PIECE_BYTES = 4 << 20
"""What is read for a run in one go; the store is held for a millisecond or two. Of a longer one others get a turn between pieces."""

EventKind: TypeAlias = Literal["write", "move", "delete"]

FailureKind: TypeAlias = Literal[
    "exception",
    "exit",
    "timeout",
    "memory",
    "signal",
    "death",
    "retry",
    "reject",
    "killed",
    "load",
    "hops",
    "path",
]
"""Why an attempt failed: "retry" and "reject" are the handler's own word, "load" that its script does not import, "hops"
that the chain of runs is too long, "path" that the path is (the core's own; no runner says so)."""

PATH_CHARACTERS_MAX = 16 * 1024
"""Of an event: four times what a program can hand to open(2). A longer path is told by its beginning, and nothing runs about it."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_text(timestamp: int) -> str:
    """Microseconds as the file system reads them behind an `@`: 2026-01-05T08:30:00.000001Z."""
    return (_EPOCH + timedelta(microseconds=timestamp)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- what is run ------------------------------------------------------------------------------------------------------


class Script(msgspec.Struct, frozen=True):
    """One version of one script: all the code it consists of, and whom it runs as."""

    id: str
    """Hash over all of `files` and `name`: the same code, the same id."""

    base_path: str
    """The base from the root of the store, for people; may have been renamed since."""

    name: str
    """The file's name below `watch/`."""

    kind: Literal["module", "executable"]

    files: dict[str, bytes]
    """By path relative to `watch/`: the script itself and everything in `lib/`."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """(binding, path, version, kind): what a handler is told, but for the bytes (`Cut.event_content`)."""

    id: str
    """Stable over attempts and restarts; unique in the store. The key for idempotency towards the outside."""

    key: str
    """What events are ordered by, and what `state` belongs to."""

    path: str
    version: int
    """The number of the name's version; of a delete, that of the tombstone."""

    timestamp: int
    kind: EventKind = "write"
    old_path: str | None = None
    """Of a move: where it was, relative to the base; None if that was outside of it."""

    previous: int = 0
    """The version before, 0 for none."""

    size: int = 0
    uid: int = 0
    node: str = ""
    groups: dict[str, str] = {}
    """Named groups of the pattern that matched."""

    attempt: int = 1
    hops: int = 0
    root: str = ""
    """Id of the first event of the chain; this one's own if a program wrote the version."""

    position: tuple[int, int] = (0, 0)
    """(timestamp of the commit, ordinal in it): the event's place in the order of its shard."""

    writer_run: str = ""
    """The run that wrote the version; "" if a program did."""

    path_characters: int = 0
    """How long the path is, if `path` is the beginning of one that is too long; else 0."""


class Rank(msgspec.Struct, frozen=True):
    """One worker's place in a gang; without a gang it is the only one."""

    number: int = 0
    world_size: int = 1
    rendezvous: str = ""
    """"file://" and a path that does not exist yet, in a directory of the gang's; the same for all of a run, and of no other."""

    port: int = 0
    """Of the loopback, free for the gang's first to listen at."""


class Run(msgspec.Struct, frozen=True):
    """One attempt, complete: a worker needs nothing else but the cut."""

    id: str
    """Unique per attempt."""

    script: Script
    handler: str | None
    """Name of the function; None for an executable."""

    binding: str
    events: list[Event]
    timestamp: int
    """The cut: that of the newest event."""

    is_batch: bool = False
    """Whether the handler takes a list of events."""

    timeout_ms: int = 60_000
    memory_bytes: int | None = None
    sandbox: Literal["strict", "normal", "inproc"] = "strict"
    runtime: Literal["trio", "asyncio"] = "trio"
    inflight: int = 1
    """Runs of one worker that may be interleaved (coroutine handlers only)."""

    emit: str | None = None
    states: dict[str, bytes] = {}
    """By event key: the mapping (msgpack) that the key's previous run left; a missing one is empty."""

    cut_directory: str | None = None
    """The base as of the cut, as an absolute path on a mount, read-only; None where there is no mount."""

    gang: int = 1
    """Workers that are to run it together."""

    gpus: int = 0
    """CUDA devices that its node must have."""

    rank: Rank = Rank()
    """What the worker that this is handed to is among them."""


# --- what a run reads -------------------------------------------------------------------------------------------------


class Stat(msgspec.Struct, frozen=True):
    """A version, without its bytes. `version` is 0 for a directory or a file never committed."""

    path: str
    version: int
    timestamp: int
    size: int
    mode: int
    is_directory: bool = False


class Frame(NamedTuple):
    """One version of a file, not read yet. Times are microseconds since 1970."""

    path: str
    version: int
    timestamp: int
    event: int
    """When what it tells of happened; the commit, where nobody said."""

    size: int


class Content:
    """A version with its bytes: `parts` joined in order; each is read-only and may be kept.

    `identity` (inode, content commit) never means other bytes, so anything made from them can be cached by it.
    """

    __slots__ = ("identity", "parts", "path", "size", "timestamp", "version")

    def __init__(
        self,
        path: str,
        version: int,
        timestamp: int,
        size: int,
        parts: list[memoryview],
        identity: tuple[int, int],
    ) -> None:
        self.path = path
        self.version = version
        self.timestamp = timestamp
        self.size = size
        self.parts = parts
        self.identity = identity


def check_whole(path: str, version: int, size: int, memory_bytes: int = 0) -> None:
    """That a content may be handed to a run whole, which is known to have so much memory.

    Raises:
        OSError: EFBIG: it is too long.
    """
    most = max(CONTENT_BYTES_MAX, memory_bytes)
    if size > most:
        raise OSError(
            errno.EFBIG,
            f"{path}@v{version} has {size} bytes, and this run is handed {most} at once:"
            " read a part at a time of ctx.open(path), or numbers by ctx.pull; or say more `memory`",
        )


class Cut(Protocol):
    """Reads of one run: the store at the run's timestamp, with the rights of the script's owner.

    Plain calls that do not wait. Every read is noted for the run's provenance. With a `span` the content's `parts` are these
    bytes alone, as far as there are so many; its `size` is the whole's.

    All raise PermissionError, ValueError (a path that leaves the base), and `storage.errors.Corruption`; without a span
    OSError (EFBIG) for more than `CONTENT_BYTES_MAX`.
    """

    def event_content(self, event: Event, *, span: Span | None = None) -> Content | None:
        """The bytes of the very version that fired; None of a delete."""
        ...

    def get(self, path: str, *, latest: bool = False, span: Span | None = None) -> Content | None:
        """A file's content; None where there is none. `latest`: now, and no longer at the cut.

        Raises:
            IsADirectoryError: it is one.
        """
        ...

    def version(self, path: str, number: int, *, span: Span | None = None) -> Content | None:
        """The content of one version of a name, as `history` tells them; None if there is none up to the cut."""
        ...

    def pull(
        self, path: str, indices: Buffer, item_bytes: int, *, latest: bool = False
    ) -> Content | None:
        """As `get`, of the numbers at indices (int64) only, `item_bytes` each, joined; zeros behind the end of the file.

        Raises:
            IsADirectoryError: it is one.
        """
        ...

    def stat(self, path: str, *, latest: bool = False) -> Stat | None:
        """What is there; None where nothing is."""
        ...

    def files(self, glob: str) -> list[str]:
        """The files that match a pattern, sorted."""
        ...

    def history(
        self,
        path: str,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> list[Stat]:
        """Versions of a name up to the cut, oldest first, the newest `limit` of them; deletions are left out."""
        ...

    def scan(
        self, glob: str, since: int | None, until: int | None, after: tuple[str, int], limit: int
    ) -> list[Frame]:
        """The versions, with a timestamp from `since` to `until`, of the files that match a pattern; by path and number.

        `limit` of them at most, behind `after` (path, number): fewer are the last.
        """
        ...


# --- what a run leaves ------------------------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True, tag=True):
    """The next version of a file, whole. Missing directories are made."""

    path: str
    data: Buffer
    mode: int = 0o644


class Delete(msgspec.Struct, frozen=True, tag=True):
    """Remove a file; nothing happens if it is not there."""

    path: str


class Append(msgspec.Struct, frozen=True, tag=True):
    """The next version of a file: what it holds at the commit, and these bytes."""

    path: str
    data: Buffer


class PutIf(msgspec.Struct, frozen=True, tag=True):
    """As `Put`, if the newest version at the commit is `expect` (0: there is none); else the event runs again."""

    path: str
    data: Buffer
    expect: int


class Add(msgspec.Struct, frozen=True, tag=True):
    """Add to numbers in a file, from `index` on or each at its own of `indices`: commutative, so nobody loses an update.

    `delta` holds numbers of `dtype` (float32, float64, int32, int64; little endian); a shorter file counts as zeros.
    """

    path: str
    index: int
    delta: Buffer
    dtype: str = "float32"
    indices: Buffer = b""
    """As many int64, little endian, as there are numbers; an index may come again. Empty: `index` counts."""


Effect: TypeAlias = Put | Delete | Append | PutIf | Add


class LogLine(msgspec.Struct, frozen=True):
    """One structured line of a run."""

    time_ns: int
    level: str
    message: str


class Done(msgspec.Struct, frozen=True):
    """The attempt succeeded; nothing of it is visible before the core has committed it."""

    effects: list[Effect] = []
    states: dict[str, bytes] = {}
    """By event key, changed ones only."""

    failed: dict[str, str] = {}
    """Of a batch: event id -> why the handler marked it."""

    output: bytes = b""
    log: list[LogLine] = []
    result: bytes = b""
    started_ns: int = 0
    duration_ns: int = 0
    models: list[tuple[tuple[int, int], int]] = []
    """What it used by `ctx.gpu`: identity of the content, bytes."""

    node: str = ""
    """Where it ran, if not on the node whose core asked for it."""


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed, without effects."""

    kind: FailureKind
    message: str
    traceback: str = ""
    after_ms: int | None = None
    """When to try again, if the handler said so."""

    output: bytes = b""
    log: list[LogLine] = []
    started_ns: int = 0
    duration_ns: int = 0


class LoadFailed(Exception):
    """A script does not load; no binding changes."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class Runner(Protocol):
    """Executes scripts. Called on one trio thread."""

    async def load(self, script: Script) -> list[dict[str, object]]:
        """Run a module once and answer what it registers, a table each: the keywords as written, and "handler".

        Raises:
            LoadFailed: it raised, or took too long.
        """
        ...

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """One attempt. Raises nothing that a script can cause; cancelled, the run is killed and has no effect."""
        ...

    def kill(self, run_id: str) -> bool:
        """Make a run end as Failed("killed"); whether there was one."""
        ...

    async def retire(self, script_id: str) -> None:
        """No more runs of this version will come."""
        ...

    async def close(self) -> None:
        """End every worker."""
        ...
