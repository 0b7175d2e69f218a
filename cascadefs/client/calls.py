"""Calls and answers between a program and whoever executes them: values that also travel on a wire.

Bytes of files are not in them: they travel beside a call or an answer, as buffers of their own, in the order of its parts.

Source: FORMAT, "Calls of programs".
"""

from __future__ import annotations

import errno
from typing import Annotated, Literal, TypeAlias, TypeGuard

import msgspec

from cascadefs.client.values import Change, Entry, Version  # noqa: TC001  msgspec asks for them

__all__ = [
    "Add",
    "Answer",
    "Append",
    "Call",
    "Delete",
    "Failed",
    "Get",
    "GetEach",
    "Got",
    "GotEach",
    "Instant",
    "Known",
    "List",
    "Listed",
    "Match",
    "Matched",
    "Now",
    "Order",
    "Part",
    "Pull",
    "Put",
    "RemoveDirectory",
    "Scan",
    "Scanned",
    "Send",
    "Sent",
    "Stat",
    "Told",
    "Versions",
    "VersionsFound",
    "Watch",
    "Watched",
    "Why",
    "Write",
    "WriteEach",
    "Written",
    "WrittenEach",
    "decode_answer",
    "decode_call",
    "encode",
    "is_elsewhere",
    "is_sent_ahead",
]


Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

GETS_MAX = 64
"""Of one `GetEach`: a look-up takes some 50 us, and the store is held for all of them."""

EventTime: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
"""Microseconds since 1970 (SEMANTICS 3); sensors may have been there before."""

Requester: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""Below 2**64, as all numbers of msgpack. What does not fit a row must not come into the log."""


class Get(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Bytes of a file: of its newest version, of the `version`-th, or of the one at a timestamp `at`."""

    path: str
    version: int | None = None
    at: int | None = None
    offset: Natural = 0
    length: Natural | None = None


class Put(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The next version of a file, whole: a buffer, or what was sent ahead. Missing directories are made.

    `expect`: only if that is its newest version (0: it does not exist). `upload` and `length`: of what was sent ahead; 0: it was not.
    `event`: when what it tells of happened; None: now.
    """

    path: str
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0o644
    expect: int | None = None
    upload: Requester = 0
    length: Natural = 0
    event: EventTime | None = None


class Append(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The next version of a file: what it holds, and a buffer, or what was sent ahead, as of `Put`."""

    path: str
    upload: Requester = 0
    length: Natural = 0


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Remove a file; nothing happens if it is not there."""

    path: str


class RemoveDirectory(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Remove a directory that is empty, or will be by the deletions asked with it; nothing happens if it is not there."""

    path: str


class Add(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The next version of a file of numbers: what it holds, and numbers of `dtype` added to those from `index` on.

    A buffer: as many indices (int64, little endian) as `indices` says, behind them the numbers. With indices, each number is for its own.
    """

    path: str
    dtype: str
    index: Natural = 0
    indices: Natural = 0


Part: TypeAlias = Put | Append | Delete | RemoveDirectory | Add


class Write(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Changes of files, all at one instant or none; `durable`: answered when they are on the disks."""

    parts: list[Part]
    durable: bool = False
    client: Requester = 0
    number: Requester = 0
    """Asked again with the same two (0: nobody does), it is answered, not done again."""


class WriteEach(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Changes of different files, each on its own: done or not whatever becomes of the others. Some may share an instant.

    Each is request `number` of a client of its own, `client` + i: whether one was done says nothing of those beside it, for each
    may be refused alone. The numbers of a client ascend.
    """

    parts: list[Part]
    durable: bool = False
    client: Requester = 0
    number: Requester = 0


class List(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The names in a directory behind `after`, `limit` of them at most."""

    path: str
    at: int | None = None
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000


class Match(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The paths of the files a pattern matches."""

    glob: str
    at: int | None = None


class Versions(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Versions of a path with a timestamp from `since` to `until`, both included; the newest `limit` of them.

    And with a number from `first` to `last`, both included, where these are given.
    """

    path: str
    since: int | None = None
    until: int | None = None
    limit: int | None = None
    first: Natural | None = None
    last: Natural | None = None


class Watch(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Changes behind a place in history ("": from now on), of paths a pattern matches."""

    glob: str
    after: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class Instant(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A timestamp that is final: whatever is read at it will never change."""


class Stat(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """What a path is or was: of a file also its `version`-th version. "" is the root. Answered as a list of one.

    `event`: of a file, the version of the greatest event time up to then, among those known at `at`.
    """

    path: str
    version: int | None = None
    at: int | None = None
    event: EventTime | None = None


class Scan(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The versions, from `since` to `until`, of all files a pattern matches at an instant; behind `after` (path, number)."""

    glob: str
    since: int | None
    until: int | None
    at: int
    after: tuple[str, int] = ("", 0)
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100_000


class GetEach(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Bytes of several files, or of several places of one; each on its own, found or not whatever becomes of the others."""

    gets: Annotated[list[Get], msgspec.Meta(min_length=1, max_length=GETS_MAX)]


class Pull(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """As `Get`, of the numbers of `item_bytes` at some indices only: a buffer of int64, little endian. Zeros behind the end."""

    path: str
    item_bytes: Natural
    version: int | None = None
    at: int | None = None


class Send(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Bytes of a write to come that no message holds, from an offset on: buffers. In order; again is no mistake."""

    upload: Requester
    offset: Natural


class Why(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Which run made a file: its newest version, the `version`-th, or the one at a timestamp `at`."""

    path: str
    version: int | None = None
    at: int | None = None


class Order(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Something asked of, or told to, the scripts of a directory, by its path or its inode; the root's are all (TRIGGERS 11).

    `text`: of a command its line, of a log the binding's name. `offset` and `length`: of a stream (events, log).
    """

    base: Natural | str
    what: Literal["command", "status", "events", "log"]
    text: bytes = b""
    offset: Natural = 0
    length: Natural = 0


Call: TypeAlias = (
    Why
    | Order
    | Get
    | GetEach
    | Pull
    | Write
    | WriteEach
    | Send
    | List
    | Match
    | Versions
    | Watch
    | Instant
    | Stat
    | Scan
)


class Got(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Of `Get` and `Pull`; the bytes travel beside it."""

    version: Version


class Written(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Of `Write`: (path, number, size in bytes) of each version made, and their one timestamp."""

    versions: list[tuple[str, int, int]]
    timestamp: int


class Listed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Of `List`; `more`: there are names behind the last one."""

    entries: list[Entry]
    more: bool


class Matched(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Of `Match`."""

    paths: list[str]


class VersionsFound(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Of `Versions`, oldest first."""

    versions: list[Version]


class Watched(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Of `Watch`: what changed, and where to go on. None changed: there was nothing yet."""

    changes: list[Change]
    token: str


class Now(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Of `Instant`. `leader`: the addresses of the node that leads all shards, if it is one: there, changes have a hop less."""

    timestamp: int
    leader: list[str] = []


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """It was refused, or the world failed."""

    errno: int
    message: str


class WrittenEach(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Of `WriteEach`, what became of each; None: others came first, ask for it again."""

    results: list[Written | Failed | None]


class Scanned(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Of `Scan`: (path, number, timestamp, event time, size) of each, by path and number; whether there is more."""

    versions: list[tuple[str, int, int, int, int]]
    more: bool


class GotEach(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Of `GetEach`: of each of the first ones, at least of one, what it is and how many buffers it has; ask again for the rest."""

    results: list[tuple[Got | Failed, int]]


class Sent(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Of `Send`: how many bytes of it there are now."""

    length: int


class Known(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Of `Why`: which version it is, and the run as JSON (TRIGGERS 10); empty if a program wrote it."""

    version: Version
    run: bytes


class Told(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Of `Order`: of a status JSON; of a stream what was kept from the offset on, where the stream begins and ends.

    `life` names a stream: another one began with another leader.
    """

    data: bytes = b""
    start: Natural = 0
    end: Natural = 0
    life: str = ""


Answer: TypeAlias = (
    Got
    | Told
    | Known
    | Sent
    | GotEach
    | Written
    | Listed
    | Matched
    | VersionsFound
    | Watched
    | Now
    | Failed
    | Scanned
    | WrittenEach
)

encode = msgspec.msgpack.Encoder().encode
_call_decoder = msgspec.msgpack.Decoder(Call)
_answer_decoder = msgspec.msgpack.Decoder(Answer)


def decode_call(data: bytes | msgspec.Raw) -> Call:
    """A call.

    Raises:
        msgspec.DecodeError: it is none.
    """
    try:
        call: Call = _call_decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return call


def is_sent_ahead(part: Part) -> TypeGuard[Put | Append]:
    """Whether the bytes of a change were sent ahead."""
    return isinstance(part, Put | Append) and bool(part.upload)


def is_elsewhere(answer: Answer) -> bool:
    """Whether a node has not got a shard that was asked about."""
    answers = answer.results if isinstance(answer, WrittenEach) else [answer]
    return any(isinstance(one, Failed) and one.errno == errno.EREMOTE for one in answers)


def decode_answer(data: bytes | memoryview) -> Answer:
    """An answer.

    Raises:
        msgspec.DecodeError: it is none.
    """
    try:
        answer: Answer = _answer_decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return answer
