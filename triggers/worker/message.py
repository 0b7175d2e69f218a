"""What daemon, zygote and worker say to each other, as values; msgpack on the wire.

Bytes of content travel as a `Parcel`: inline if short, else as a place in the memory whose descriptor comes with the
message. So a message is small however large the content is.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from triggers.run import (
    Add,
    Append,
    Buffer,
    Delete,
    Effect,
    Event,
    Frame,
    LogLine,
    Put,
    PutIf,
    Rank,
    Script,
    Span,
    Stat,
)

__all__ = [
    "INLINE_BYTES_MAX",
    "Answer",
    "Ask",
    "Cancel",
    "Exited",
    "Finished",
    "FromWorker",
    "FromZygote",
    "Limits",
    "Load",
    "Loaded",
    "NotLoaded",
    "Parcel",
    "Place",
    "Ready",
    "Signal",
    "Spawn",
    "Spawned",
    "Start",
    "ToWorker",
    "ToZygote",
    "WireContent",
    "WireEffect",
    "decode_effects",
    "encode_effects",
]

INLINE_BYTES_MAX = 32 * 1024
"""Content up to this travels in the message, effects as long as all of them together are no more. Measured for 20 KB there
and back: 0.3 ms inline, 0.65 to 1 ms as memory, most of it for taking the mapping down in a process with threads."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Bytes in the memory that comes with the message."""

    offset: int
    size: int


Parcel: TypeAlias = bytes | Place


class WireContent(msgspec.Struct, frozen=True, array_like=True):
    """A `Content`; `data` is None if the receiver has these bytes already."""

    path: str
    version: int
    timestamp: int
    size: int
    identity: tuple[int, int]
    data: Parcel | None


class WireEffect(msgspec.Struct, frozen=True, array_like=True):
    """An `Effect`; `number` is the mode of a put, the expectation of a put_if, the index of an add."""

    kind: str
    path: str
    data: Parcel = b""
    number: int = 0
    dtype: str = ""
    indices: Parcel = b""


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """How much a process may use. Bytes, counts."""

    memory_bytes: int
    file_bytes: int
    open_files: int
    processes: int
    """More than its user has when it starts; threads count."""


# --- daemon and worker ------------------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag=True):
    """Import the script; the first message a worker gets."""

    script: Script


class Start(msgspec.Struct, frozen=True, tag=True):
    """Begin a run: `triggers.run.Run` without its script. `contents` are those of the first events, as far as known."""

    id: str
    handler: str
    binding: str
    events: list[Event]
    timestamp: int
    is_batch: bool
    timeout_ms: int
    mode: str
    """Who calls the handler: "plain", "trio" or "asyncio"; a worker stays with its first."""

    emit: str | None
    states: dict[str, bytes]
    content: WireContent | None
    """Of the first event, to save asking for it."""

    rank: Rank = Rank()


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a run of a coroutine handler."""

    run_id: str


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To an `Ask`: one of these, or the exception that it raised."""

    content: WireContent | None = None
    stat: Stat | None = None
    paths: list[str] = []
    history: list[Stat] = []
    frames: list[Frame] = []
    error: tuple[str, str] | None = None
    """Name of the exception, message."""


ToWorker: TypeAlias = Load | Start | Cancel | Answer


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A read at a run's cut. One at a time in a worker, so answers need no number."""

    run_id: str
    call: str
    path: str = ""
    latest: bool = False
    since: int | None = None
    until: int | None = None
    limit: int | None = None
    held: tuple[int, int] | None = None
    """Identity of the content under this path that the worker has: it need not be sent again."""

    number: int = 0
    """Of "version" which one, of "event_content" which of the run's events, of "pull" the bytes of a number."""

    indices: bytes = b""
    """Of "pull": int64 each."""

    after: tuple[str, int] = ("", 0)
    """Of "scan": path and number of the last version that is known."""

    span: Span | None = None
    """Of "get" and "version": which bytes, `triggers.run.PIECE_BYTES` at most; None: all of them."""


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The script is there."""

    tables: list[dict[str, object]]
    coroutines: list[str]
    """The handlers that are `async`."""


class NotLoaded(msgspec.Struct, frozen=True, tag=True):
    """The script is not there."""

    message: str
    traceback: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """A run has ended: a `Done` if `kind` is empty, else a `Failed`."""

    run_id: str
    kind: str
    message: str = ""
    traceback: str = ""
    after_ms: int | None = None
    effects: list[WireEffect] = []
    states: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    output: bytes = b""
    log: list[LogLine] = []
    result: bytes = b""
    started_ns: int = 0
    duration_ns: int = 0
    copies: tuple[int, int] = (0, 0)
    """Made in the worker: count, bytes."""

    leftover: bool = False
    """Whether the handler has left processes behind."""

    models: list[tuple[tuple[int, int], int]] = []
    """What the run used by `ctx.gpu`: identity, bytes ..."""

    resident: bytes | None = None
    """... and, if it used any, the bitmap of all that the worker holds now (`triggers.allocation`), little endian."""


FromWorker: TypeAlias = Ask | Loaded | NotLoaded | Finished

# --- daemon and zygote ------------------------------------------------------------------------------------------------


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Fork a process. Descriptors with it: for a worker its channel and its output, for a command `fds` of it in order."""

    number: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    sandbox: str
    limits: Limits
    writable: list[str] = []
    """Directories."""

    command: list[str] = []
    """Of an executable; empty for a worker."""

    environment: dict[str, str] = {}
    fds: list[int] = []
    """The numbers that the descriptors get in the command."""

    network: int = 0
    """Of a network that the processes with this number have to themselves, a loopback; 0: none."""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a process and all of its group."""

    pid: int
    signal: int


ToZygote: TypeAlias = Spawn | Signal


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The zygote is up. What this machine lacks for the levels of trust, in words."""

    landlock: int
    """Version of the interface; 0: the kernel has none."""

    seccomp: bool
    problems: list[str]


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """The process of a `Spawn`; `error` if there is none."""

    number: int
    pid: int
    error: str = ""


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A process has ended, and all of its group with it."""

    pid: int
    code: int | None
    """Exit status, or None if a signal ended it."""

    signal: int
    memory_bytes: int
    """The most it held."""

    ran_out: bool = False
    """Whether the kernel killed in its control group because memory had run out there."""


FromZygote: TypeAlias = Ready | Spawned | Exited

# --- effects ----------------------------------------------------------------------------------------------------------


def encode_effects(effects: list[Effect]) -> tuple[list[WireEffect], list[memoryview]]:
    """Effects for the wire, and the parts of the memory that goes with them (none if all of them are short)."""
    wired: list[WireEffect] = []
    parts: list[memoryview] = []
    end = inline = 0

    def parcel(data: Buffer) -> Parcel:
        nonlocal end, inline
        view = memoryview(data).cast("B")
        if inline + len(view) <= INLINE_BYTES_MAX:
            inline += len(view)
            return bytes(view)
        parts.append(view)
        end += len(view)
        return Place(end - len(view), len(view))

    for effect in effects:
        match effect:
            case Put(path, data, mode):
                wired.append(WireEffect("put", path, parcel(data), mode))
            case PutIf(path, data, expect):
                wired.append(WireEffect("put_if", path, parcel(data), expect))
            case Append(path, data):
                wired.append(WireEffect("append", path, parcel(data)))
            case Add(path, index, data, name, indices):
                wired.append(WireEffect("add", path, parcel(data), index, name, parcel(indices)))
            case Delete(path):
                wired.append(WireEffect("delete", path))
    return wired, parts


def decode_effects(wired: list[WireEffect], memory: memoryview) -> list[Effect]:
    """Effects from the wire; their bytes are views of the memory that came along.

    Raises:
        ValueError: what no worker of ours would send.
    """

    def unpacked(parcel: Parcel, path: str) -> bytes | memoryview:
        if not isinstance(parcel, Place):
            return parcel
        end = parcel.offset + parcel.size
        if not 0 <= parcel.offset <= end <= len(memory):
            raise ValueError(f"{path}: bytes beyond the memory that came along")
        return memory[parcel.offset : end]

    effects: list[Effect] = []
    for wire in wired:
        data = unpacked(wire.data, wire.path)
        match wire.kind:
            case "put":
                effects.append(Put(wire.path, data, wire.number & 0o777))
            case "put_if":
                effects.append(PutIf(wire.path, data, wire.number))
            case "append":
                effects.append(Append(wire.path, data))
            case "add":
                indices = unpacked(wire.indices, wire.path)
                effects.append(Add(wire.path, wire.number, data, wire.dtype, indices))
            case "delete":
                effects.append(Delete(wire.path))
            case _:
                raise ValueError(f"{wire.path}: no effect is called {wire.kind!r}")
    return effects
