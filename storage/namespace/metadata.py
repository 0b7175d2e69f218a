"""The records that change what is said about an inode: attributes, extended attributes, labels.

None of them makes a version; they are a timeline of their own (SEMANTICS 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.attributes import TYPE_MASK, Attributes, is_directory
from storage.errors import Reason
from storage.limits import (
    NAME_BYTES_MAX,
    TIME_NS_MAX,
    TIME_NS_MIN,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from storage.namespace.keys import BUDGET_XATTR, POLICY_XATTR, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome
from storage.namespace.quotas import QUOTA_XATTR, limit_of

if TYPE_CHECKING:
    from storage.namespace.quotas import Quotas
    from storage.namespace.rows import Rows
    from storage.record import Label, SetAttributes, SetXattr, Unlabel

__all__ = ["Metadata"]

XATTR_CREATE = 1
XATTR_REPLACE = 2


class Metadata:
    """Applies the records of metadata to the rows."""

    def __init__(self, rows: Rows, quotas: Quotas) -> None:
        self._rows = rows
        self._quotas = quotas
        self._inodes = rows.inodes
        self._xattrs = rows.xattrs
        self._labels = rows.labels

    def set_attributes(self, timestamp: int, _address: int, record: SetAttributes) -> Outcome:
        """Apply the record."""
        key = U64.pack(record.inode)
        row = self._inodes.get_row(key)
        if row is None:
            return REFUSED[Reason.ABSENT]
        for time_ns in (record.atime_ns, record.mtime_ns):
            if time_ns is not None and not TIME_NS_MIN <= time_ns <= TIME_NS_MAX:
                return REFUSED[Reason.MALFORMED]
        attributes = Attributes.unpack(row[1])
        if record.mode is not None:
            attributes.mode = attributes.mode & TYPE_MASK | record.mode & 0o7777
        if record.uid is not None:
            attributes.uid = record.uid
        if record.gid is not None:
            attributes.gid = record.gid
        if record.atime_ns is not None:
            attributes.atime_ns = record.atime_ns
        if record.mtime_ns is not None:
            attributes.mtime_ns = record.mtime_ns
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(key, timestamp, attributes.pack(), row)
        self._rows.journal(timestamp, attributes.parent or record.inode)
        return DONE

    def set_xattr(self, timestamp: int, _address: int, record: SetXattr) -> Outcome:
        """Apply the record."""
        if len(record.name) > XATTR_NAME_BYTES_MAX:
            return REFUSED[Reason.NAME_TOO_LONG]
        if record.value is not None and len(record.value) > XATTR_VALUE_BYTES_MAX:
            return REFUSED[Reason.ARGUMENT_TOO_LARGE]
        row = self._inodes.get_row(U64.pack(record.inode))
        if row is None:
            return REFUSED[Reason.ABSENT]
        key = entry_key(record.inode, record.name)
        exists = self._xattrs.get(key) is not None
        if exists and record.flags & XATTR_CREATE:
            return REFUSED[Reason.ATTRIBUTE_EXISTS]
        if not exists and (record.value is None or record.flags & XATTR_REPLACE):
            return REFUSED[Reason.NO_SUCH_ATTRIBUTE]
        if record.name in (QUOTA_XATTR, BUDGET_XATTR):
            limit = limit_of(record.value) if record.value is not None else None
            is_limit = record.value is None or limit is not None
            if not is_limit or not is_directory(Attributes.unpack(row[1]).mode):
                return REFUSED[Reason.MALFORMED]
            if record.name == QUOTA_XATTR and not self._quotas.set(record.inode, limit):
                return REFUSED[Reason.TOO_MANY_ENTRIES]
        if record.value is None:
            self._rows.remove(self._xattrs, key, timestamp)
        else:
            self._xattrs.put(key, timestamp, record.value)
        if record.name in (POLICY_XATTR, BUDGET_XATTR):
            note = b"P" + U64.pack(record.inode) + (b"b" if record.name == BUDGET_XATTR else b"")
            if record.value is None:
                self._rows.table.delete(note)
            else:
                self._rows.table.put(note, b"")
        attributes = Attributes.unpack(row[1])
        attributes.ctime_ns = timestamp * 1000
        self._inodes.replace(U64.pack(record.inode), timestamp, attributes.pack(), row)
        self._rows.journal(timestamp, attributes.parent or record.inode)
        return DONE

    def label(self, timestamp: int, _address: int, record: Label) -> Outcome:
        """Apply the record."""
        _, directory = self._rows.directory(record.directory)
        if directory is None:
            return REFUSED[Reason.ABSENT]
        if len(record.label) > NAME_BYTES_MAX:
            return REFUSED[Reason.NAME_TOO_LONG]
        key = entry_key(record.directory, record.label)
        if not record.move and self._labels.get(key) is not None:
            return REFUSED[Reason.EXISTS]
        self._labels.put(key, timestamp, U64.pack(record.timestamp))
        return DONE

    def unlabel(self, timestamp: int, _address: int, record: Unlabel) -> Outcome:
        """Apply the record."""
        key = entry_key(record.directory, record.label)
        if self._labels.get(key) is None:
            return REFUSED[Reason.ABSENT]
        self._rows.remove(self._labels, key, timestamp)
        return DONE
