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
    "Batch",
    "Commit",
    "Create",
    "Extent",
    "Label",
    "Link",
    "Record",
    "Rename",
    "SetAttributes",
    "SetXattr",
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
    """Make an inode of any type and bind a name to it. A symbolic link carries its target."""

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
    """Name an instant of a directory (SEMANTICS 7)."""

    directory: int
    label: bytes
    timestamp: int


class Unlabel(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Forget a label."""

    directory: int
    label: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Several records at one timestamp: all of them or, if one is refused, those before it undone by nobody.

    The proposer has checked that none will be refused; a batch never holds a batch.
    """

    records: list[Create | Link | Unlink | Rename | SetAttributes | SetXattr | Commit]


Record: TypeAlias = (
    Create
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
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Record).decode
