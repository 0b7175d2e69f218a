"""Totals the namespace keeps as it goes."""

from __future__ import annotations

import struct

from storage.namespace.keys import ROOT

__all__ = ["Counters"]


class Counters:
    """Totals the namespace keeps as it goes, so that statfs and numbering cost nothing."""

    __slots__ = ("live_bytes", "live_inodes", "next_inode", "pruned_contents")
    _ROW = struct.Struct("<QqQQ")

    def __init__(
        self,
        next_inode: int = ROOT + 1,
        live_bytes: int = 0,
        live_inodes: int = 0,
        pruned_contents: int = 0,
    ) -> None:
        self.next_inode = next_inode
        self.live_bytes = live_bytes
        self.live_inodes = live_inodes
        self.pruned_contents = pruned_contents

    def pack(self) -> bytes:
        """The row."""
        return self._ROW.pack(
            self.next_inode, self.live_bytes, self.live_inodes, self.pruned_contents
        )

    def restore(self, row: bytes) -> None:
        """Be what a row says."""
        self.next_inode, self.live_bytes, self.live_inodes, self.pruned_contents = self._ROW.unpack(
            row
        )

    @classmethod
    def is_row(cls, row: bytes | None) -> bool:
        """Whether bytes can be a row at all; None cannot."""
        return row is not None and len(row) == cls._ROW.size

    @classmethod
    def unpack(cls, row: bytes) -> Counters:
        """The counters of a row."""
        return cls(*cls._ROW.unpack(row))
