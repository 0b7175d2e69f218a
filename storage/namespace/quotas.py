"""How much the files below a directory may hold: limits, and what is used of them (SEMANTICS 12).

A directory with `user.cascade.quota` has an *account*: the sizes of all files below it, kept as they change. A file
counts where its newest name is. Which accounts a directory belongs to is found once and remembered; it never changes
but when a quota is set or taken away, because a directory is not renamed from one account into another (as with
project quotas of XFS: EXDEV, and mv(1) copies). So a commit pays nothing where there are no quotas, and one row for
each account above it where there are, whatever the depth and the number of files.

Rows: ``A`` inode -> bytes used, limit.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from storage.attributes import is_directory
from storage.namespace.keys import ROOT, U64

if TYPE_CHECKING:
    from storage.namespace.questions import Questions
    from storage.namespace.rows import Rows

__all__ = ["QUOTA_XATTR", "Quotas", "limit_of"]

QUOTA_XATTR: Final = b"user.cascade.quota"

ENTRIES_MAX: Final = 100_000
"""Below a directory that gets a quota: they are counted in one go, which takes about a second."""

REMEMBERED_MAX: Final = 65_536
"""Directories whose accounts are remembered, some 10 MiB; when full all are forgotten and found again."""

LIMIT_MAX: Final = 2**63 - 1
"""Bytes; what an account's row can hold, with room to spare."""

_ACCOUNT = struct.Struct("<qQ")
_LIMIT = re.compile(rb"(\d{1,15})([KMGT]?)")
_UNITS: Final = {b"": 1, b"K": 2**10, b"M": 2**20, b"G": 2**30, b"T": 2**40}


def limit_of(text: bytes) -> int | None:
    """The bytes a text says, as `500M` or `1073741824`; None if it says none."""
    found = _LIMIT.fullmatch(text)
    limit = int(found[1]) * _UNITS[found[2]] if found is not None else LIMIT_MAX + 1
    return limit if limit <= LIMIT_MAX else None


class Quotas:
    """The accounts of one namespace."""

    def __init__(self, rows: Rows, questions: Questions) -> None:
        self._table = rows.table
        self._questions = questions
        self._is_own = rows.is_own
        self._above: dict[int, tuple[int, ...]] = {}
        self.some = False
        """Whether there are any."""
        self.reload()

    def reload(self) -> None:
        """The table may be another than it was."""
        self._above.clear()
        self.some = self._table.first(b"A", b"B") is not None

    def room(self, directory: int) -> int | None:
        """How many bytes more the files of a directory may hold; None: as many as fit the disk."""
        left = [limit - used for used, limit in map(self.account, self.accounts(directory))]
        return max(min(left), 0) if left else None

    def account(self, inode: int) -> tuple[int, int]:
        """(bytes used, limit) of a directory that has a quota."""
        row = self._table.get(b"A" + U64.pack(inode))
        assert row is not None, "an account is asked for by its directory"
        used, limit = _ACCOUNT.unpack(row)
        return used, limit

    def accounts(self, directory: int) -> tuple[int, ...]:
        """The directories with a quota at and above a directory."""
        if not self.some:
            return ()
        found = self._above.get(directory)
        if found is not None:
            return found
        passed, at = [], directory
        while found is None:
            passed.append(at)
            attributes = self._questions.attributes(at)
            at = attributes.parent if attributes is not None and at != ROOT else 0
            if not self._is_own(at):
                at = 0  # What has a shard of its own has accounts of its own.
            found = self._above.get(at) if at else ()
        if len(self._above) >= REMEMBERED_MAX:
            self._above.clear()
        for inode in reversed(passed):
            if self._table.get(b"A" + U64.pack(inode)) is not None:
                found = (inode, *found)
            self._above[inode] = found
        return found

    def add(self, directory: int, size: int) -> None:
        """Files of a directory hold so many bytes more, or fewer."""
        if self.some and size:
            for inode in self.accounts(directory):
                used, limit = self.account(inode)
                self._table.put(b"A" + U64.pack(inode), _ACCOUNT.pack(used + size, limit))

    def move(self, source: int, target: int, size: int) -> None:
        """A file of that size is another directory's from now on."""
        if self.some and source != target:
            self.add(source, -size)
            self.add(target, size)

    def may_move(self, source: int, target: int) -> bool:
        """Whether a directory may go from one directory to another: not from one account into another."""
        return not self.some or self.accounts(source) == self.accounts(target)

    def set(self, directory: int, limit: int | None) -> bool:
        """Give a directory a quota, or (None) take it away; False if too much is below it to be counted."""
        key = b"A" + U64.pack(directory)
        if limit is None:
            self._table.delete(key)
        else:
            row = self._table.get(key)
            used = _ACCOUNT.unpack(row)[0] if row is not None else self._count(directory)
            if used is None:
                return False
            self._table.put(key, _ACCOUNT.pack(used, limit))
        self.reload()
        return True

    def _count(self, top: int) -> int | None:
        """The bytes of all files below a directory; None if they are too many."""
        pending, entries, total = [top], 0, 0
        linked: set[int] = set()
        while pending:
            directory = pending.pop()
            for _, binding in self._questions.children(directory):
                entries += 1
                if entries > ENTRIES_MAX:
                    return None
                if is_directory(binding.mode):
                    pending.append(binding.inode)
                    continue
                attributes = self._questions.attributes(binding.inode)
                assert attributes is not None, "a bound inode exists"
                if attributes.parent != directory or binding.inode in linked:
                    continue
                if attributes.nlink > 1:
                    linked.add(binding.inode)
                total += attributes.size
        return total
