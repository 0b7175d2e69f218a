"""The bytes of notifications: what the kernel is told unasked (struct fuse_notify_*). Pure."""

from __future__ import annotations

import enum
import struct

from cascadefs.kernel.protocol import REPLY_HEADER

__all__ = ["NotifyCode", "delete_entry", "invalidate_entry", "invalidate_node", "poll", "store"]


class NotifyCode(enum.IntEnum):
    """What the kernel is told unasked."""

    POLL = 1
    INVALIDATE_NODE = 2
    INVALIDATE_ENTRY = 3
    STORE = 4
    DELETE = 6


def invalidate_node(node: int, offset: int = 0, length: int = 0) -> bytes:
    """Attributes, and pages of a range (length 0: all behind `offset`; offset -1: none), are to be forgotten."""
    return _notification(NotifyCode.INVALIDATE_NODE, struct.pack("=Qqq", node, offset, length))


def invalidate_entry(parent: int, name: bytes) -> bytes:
    """What a name means, or that it means nothing, is to be forgotten."""
    body = struct.pack("=QII", parent, len(name), 0) + name + b"\0"
    return _notification(NotifyCode.INVALIDATE_ENTRY, body)


def poll(waiting: int) -> bytes:
    """Who polls an open file, known by what its POLL brought (`kh`), is to look again. Waits for nothing."""
    return _notification(NotifyCode.POLL, struct.pack("=Q", waiting))


def delete_entry(parent: int, child: int, name: bytes) -> bytes:
    """A name is gone although nobody here removed it: watchers are told (inotify)."""
    body = struct.pack("=QQII", parent, child, len(name), 0) + name + b"\0"
    return _notification(NotifyCode.DELETE, body)


def store(node: int, offset: int, data: bytes) -> bytes:
    """Pages to keep for a node, unasked."""
    return _notification(NotifyCode.STORE, struct.pack("=QQII", node, offset, len(data), 0) + data)


def _notification(code: NotifyCode, body: bytes) -> bytes:
    return REPLY_HEADER.pack(REPLY_HEADER.size + len(body), code, 0) + body
