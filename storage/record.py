"""The records: every change a store can undergo, as values. Encoded with msgpack arrays (FORMAT, "Records").

A record says what was asked, with everything random or clock-like already decided by the proposer (inode numbers,
modification times), so that applying it is deterministic on every replica. The commit timestamp is the frame's.

Names and extended attributes are bytes; times are nanoseconds since the epoch; sizes and offsets are bytes.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "SELF",
    "Activate",
    "Adopt",
    "Advance",
    "Attempt",
    "Batch",
    "Close",
    "Commit",
    "Create",
    "CreateUnnamed",
    "Denied",
    "Detach",
    "Drop",
    "Event",
    "Expect",
    "Extent",
    "Finish",
    "Label",
    "Link",
    "Once",
    "Part",
    "Prune",
    "Rearm",
    "Record",
    "Rename",
    "Reserve",
    "SetAttributes",
    "SetXattr",
    "Still",
    "Unlabel",
    "Unlink",
    "Write",
    "decode",
    "encode",
]

SELF = 0
"""Address in an extent that means: the payload of the frame that carries this very record."""

Extent: TypeAlias = tuple[int, int, int, int]
"""(file offset, length, frame address, offset in that frame's payload); address `SELF` = this frame."""


class Create(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Make an inode of any type and bind a name to it. A symbolic link carries its target.

    A directory of another shard's number gets its name only (a stub). One without a name, and with a parent of another
    shard, is a shard root: what the stub stands for.
    """

    parent: int
    name: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""


class Link(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Bind one more name to an existing inode that is not a directory."""

    parent: int
    name: bytes
    inode: int


class Unlink(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Remove a name: of an empty directory if `directory`, of anything else if not."""

    parent: int
    name: bytes
    directory: bool = False


class Rename(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Move a name, over whatever the target name means. Flags as in rename(2): 1 NOREPLACE, 2 EXCHANGE."""

    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    flags: int = 0


class SetAttributes(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Change metadata; None leaves a field as it is. `mode` holds permission bits only."""

    inode: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class SetXattr(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Set one extended attribute, or remove it where `value` is None. Flags: 1 CREATE, 2 REPLACE (setxattr(2))."""

    inode: int
    name: bytes
    value: bytes | None
    flags: int = 0


class Write(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Bytes staged ahead of a commit; the payload is theirs. Changes nothing until a Commit names its address."""

    inode: int
    offset: int


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Make staged and carried bytes the next content of an inode.

    The new content is the old one cut at `keep` (None: not cut), overlaid by `extents` in order, `size` bytes long;
    what neither covers is a hole.
    """

    inode: int
    size: int
    keep: int | None
    extents: list[Extent]
    mtime_ns: int
    changed_ns: int


class Label(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Name an instant of a directory (SEMANTICS 7); `move`: whatever the label named before."""

    directory: int
    label: bytes
    timestamp: int
    move: bool = False


class Unlabel(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Forget a label."""

    directory: int
    label: bytes


class Prune(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Let go of contents of an inode: `contents` are ranges (first, last) of content commits, both included.

    Their records stay known; their bytes may be gone from here on. `purged`: somebody asked for it by name.
    """

    inode: int
    contents: list[tuple[int, int]]
    purged: bool = False


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """Forget a name that means nothing now, as if it had never been, with the inodes that had no other."""

    directory: int
    name: bytes
    inodes: list[int]


class CreateUnnamed(msgspec.Struct, frozen=True, array_like=True, tag=18, gc=False):
    """Make a regular file without a name (O_TMPFILE). A Link gives it its first one; until then a Drop forgets it."""

    inode: int
    mode: int
    uid: int
    gid: int


class Expect(msgspec.Struct, frozen=True, array_like=True, tag=30, gc=False):
    """Refuse, and with it the rest of a batch, unless an entry is as expected (SEMANTICS 6). Changes nothing.

    It means `inode` and its head is `version`; with inode 0 it means nothing, and its head is `version` or that is 0.
    """

    directory: int
    name: bytes
    version: int
    inode: int


class Event(msgspec.Struct, frozen=True, array_like=True, tag=31, gc=False):
    """The newest content of a file tells of this instant (SEMANTICS 3); follows its `Commit` in a batch."""

    inode: int
    event_us: int


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=32, gc=False):
    """Set inode numbers aside for whoever proposes this: the next `count` of the shard's own.

    With 0 it changes nothing, but its proposer was heard of.
    """

    count: int


class Still(msgspec.Struct, frozen=True, array_like=True, tag=33, gc=False):
    """Refuse, and with it the rest of a batch, unless `content` is an inode's newest content commit. Changes nothing."""

    inode: int
    content: int


class Once(msgspec.Struct, frozen=True, array_like=True, tag=36, gc=False):
    """Refuse, and with it the rest of a batch, what was done: a client's request `number`, or a later one.

    Behind all conditions and in front of all changes of a batch: what is refused for another reason may be asked again.
    """

    client: int
    number: int


class Close(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """End a shard root, which must be empty: nothing can be made in it any more. Again is no mistake."""

    inode: int


class Detach(msgspec.Struct, frozen=True, array_like=True, tag=35, gc=False):
    """Remove the name of a shard root that was closed in its own shard; `inode` is what the name must mean."""

    parent: int
    name: bytes
    inode: int


class Denied(msgspec.Struct, frozen=True, array_like=True, tag=37, gc=False):
    """Refuse. A node puts it in the place of what a mount proposed and may not do, so that its number is used up."""


Part: TypeAlias = (
    Create
    | Link
    | Unlink
    | Rename
    | SetAttributes
    | SetXattr
    | Commit
    | Expect
    | Event
    | Still
    | Once
)
"""What a batch may hold."""


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Several records at one timestamp: all of them or, if one is refused, none.

    What is refused often is best in front (`Expect`); a batch never holds a batch.
    """

    records: list[Part]


class Adopt(msgspec.Struct, frozen=True, array_like=True, tag=20, gc=False):
    """A new epoch of deliveries begins: what an older one still sends is refused."""

    epoch: int


class Activate(msgspec.Struct, frozen=True, array_like=True, tag=21, gc=False):
    """From this place in the log on, `owner` has these consumers below a base directory, and no others.

    A consumer is (name, definition, timestamp and address of the mark to begin from, if it is new).
    """

    base: int
    owner: bytes
    consumers: list[tuple[bytes, bytes, int, int]]


class Finish(msgspec.Struct, frozen=True, array_like=True, tag=22, gc=False):
    """Events of a consumer are done, and `records` is all that was done about them: one change, or none.

    Refused, without any effect, if an event is done already, the epoch is over, or a name is not at the version a
    condition (directory, name, number; 0: no such name) expects. Otherwise as a `Batch`.
    """

    base: int
    consumer: bytes
    epoch: int
    events: list[tuple[int, int]]
    verdict: int
    """1 done, 2 skipped, 3 dead: `letter` says why."""

    low: tuple[int, int]
    """(timestamp, address): the consumer's low-water mark from now on."""

    records: list[Part] = []
    conditions: list[tuple[int, bytes, int]] = []
    states: list[tuple[str, bytes | None]] = []
    provenance: bytes = b""
    letter: bytes = b""


class Attempt(msgspec.Struct, frozen=True, array_like=True, tag=23, gc=False):
    """Events of a consumer failed for the `attempts`-th time and will be tried again."""

    base: int
    consumer: bytes
    epoch: int
    events: list[tuple[int, int]]
    attempts: int
    not_before_ms: int
    failure: bytes


class Advance(msgspec.Struct, frozen=True, array_like=True, tag=24, gc=False):
    """Low-water marks rise, nothing being pending below: (base, consumer, timestamp, address) each."""

    epoch: int
    marks: list[tuple[int, bytes, int, int]]


class Rearm(msgspec.Struct, frozen=True, array_like=True, tag=25, gc=False):
    """Dead letters of a consumer are to be done again, or only forgotten."""

    base: int
    consumer: bytes
    events: list[tuple[int, int]]
    again: bool
    as_was: bool = False
    """Done again by what the consumer was then, not by what it is now."""


Record: TypeAlias = (
    Create
    | CreateUnnamed
    | Link
    | Unlink
    | Rename
    | SetAttributes
    | SetXattr
    | Write
    | Commit
    | Label
    | Unlabel
    | Batch
    | Adopt
    | Activate
    | Finish
    | Attempt
    | Advance
    | Rearm
    | Prune
    | Drop
    | Reserve
    | Close
    | Denied
    | Detach
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Record).decode
