"""Whether the names and numbers of a record are such as a mount's kernel can have asked for: of mounts that are not trusted nothing else is taken.

What does not fit a row of the table could be applied nowhere, and would end the shard for all; a name that no directory can have
would be in everybody's way. Pure. What is refused for its size everywhere, and told so, passes.
"""

from __future__ import annotations

import stat
from typing import Final

from storage import record
from storage.limits import (
    FILE_BYTES_MAX,
    NAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    RECORD_INODE_MAX,
    SYMLINK_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)

__all__ = ["fits"]

_INODE: Final = range(RECORD_INODE_MAX)
_ID: Final = range(2**32 - 1)
_MODE: Final = range(0o200000)
_TIME_NS: Final = range(-(2**63), 2**63)
_INSTANT_US: Final = range(2**63)
_COUNT: Final = range(2**63)
_SIZE: Final = range(FILE_BYTES_MAX + 1)

_RANGES: Final = {
    "parent": _INODE,
    "new_parent": _INODE,
    "inode": _INODE,
    "directory": _INODE,
    "base": _INODE,
    "mode": _MODE,
    "uid": _ID,
    "gid": _ID,
    "rdev": range(2**32),
    "flags": range(2**31),
    "atime_ns": _TIME_NS,
    "mtime_ns": _TIME_NS,
    "changed_ns": _TIME_NS,
    "event_us": range(-(2**62), 2**62 + 1),
    "timestamp": _INSTANT_US,
    "version": _COUNT,
    "content": _COUNT,
    "client": _COUNT,
    "number": _COUNT,
    "count": _COUNT,
    "keep": _SIZE,
}
"""Of the fields of these names, in whichever record; None is none of a number's business."""


def fits(one: record.Record | record.Part) -> bool:
    """Whether all of a record does; of a batch all of its parts."""
    if isinstance(one, record.Batch):
        return all(map(fits, one.records))
    for name, numbers in _RANGES.items():
        value = getattr(one, name, None)
        if value is not None and value not in numbers:
            return False
    return _fits(one)


def _fits(one: record.Record | record.Part) -> bool:
    match one:
        case record.Create(name=name, mode=mode, target=target, rdev=rdev):
            is_link = stat.S_ISLNK(mode)
            is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
            return (
                (not name or _is_name(name))
                and stat.S_IFMT(mode) in _TYPES
                and (_is_text(target, SYMLINK_BYTES_MAX) if is_link else not target)
                and (is_device or not rdev)
            )
        case record.Link(name=name) | record.Unlink(name=name) | record.Detach(name=name):
            return _is_name(name)
        case record.Expect(name=name):
            return _is_name(name)
        case record.Rename(name=name, new_name=new_name):
            return _is_name(name) and _is_name(new_name)
        case record.Label(label=label) | record.Unlabel(label=label):
            return _is_name(label)
        case record.SetXattr(name=name, value=value):
            return (
                _is_text(name, XATTR_NAME_BYTES_MAX) and len(value or b"") <= XATTR_VALUE_BYTES_MAX
            )
        case record.Commit(size=size, extents=extents):
            return size >= 0 and all(map(_is_extent, extents))
        case record.Prune(contents=contents):
            return all(0 <= first <= last < 2**63 for first, last in contents)
        case record.Drop(name=name, inodes=inodes):
            return not name and all(inode in _INODE for inode in inodes)
        case record.Rearm(consumer=consumer, events=events):
            return len(consumer) <= NAME_BYTES_MAX and all(
                timestamp in _COUNT and 0 <= ordinal < 2**32 for timestamp, ordinal in events
            )
        case _:
            return True


_TYPES: Final = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)


def _is_extent(extent: record.Extent) -> bool:
    offset, length, address, place = extent
    return (
        offset >= 0
        and length > 0
        and offset + length <= FILE_BYTES_MAX
        and address in _COUNT
        and place >= 0
        and place + length <= PAYLOAD_BYTES_MAX
    )


def _is_name(name: bytes) -> bool:
    return _is_text(name, NAME_BYTES_MAX) and b"/" not in name and name not in (b".", b"..")


def _is_text(text: bytes, most: int) -> bool:
    return 0 < len(text) <= most and b"\0" not in text
