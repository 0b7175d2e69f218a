"""How the rows of a namespace are addressed (FORMAT, "Index")."""

from __future__ import annotations

import struct

from storage.limits import INODES_PER_SHARD

__all__ = [
    "BUDGET_XATTR",
    "CHUNK_KEY",
    "CONTENT_KEY",
    "CONTENT_ROW",
    "HOME_XATTR",
    "MAX",
    "POLICY_XATTR",
    "ROOT",
    "U64",
    "after_key",
    "entry_key",
    "first_inode",
    "shard_of",
]

ROOT = 1
"""The root directory's inode number, which is also FUSE's."""


def shard_of(inode: int) -> int:
    """The shard where an inode lives: for a directory, where its entries and its files are, too."""
    return inode // INODES_PER_SHARD


def first_inode(shard: int) -> int:
    """The least inode number a shard gives out, behind the root's."""
    return ROOT + 1 if shard == 0 else shard * INODES_PER_SHARD + 1


U64 = struct.Struct(">Q")
CHUNK_KEY = struct.Struct(">QII")
"""inode, generation, chunk"""
CONTENT_KEY = struct.Struct(">QQ")
"""inode, content commit"""
CONTENT_ROW = struct.Struct(">QBI")
"""timestamp, state (0: kept), generation"""
MAX = 2**64 - 1
BUDGET_XATTR = b"user.cascade.history_budget"
"""What says how many bytes the history below a directory may hold: who has it is noted in ``P`` rows, too."""
HOME_XATTR = b"user.cascade.home"
"""What says of a directory in which shard those made in it will live: a decimal number."""
POLICY_XATTR = b"user.cascade.retention"
"""What says how long the history below a directory is kept: who has it is noted in ``P`` rows."""


def entry_key(inode: int, name: bytes) -> bytes:
    """Keys are prefix-free: names hold no NUL (POSIX), so the terminator ends every one of them."""
    return U64.pack(inode) + name + b"\0"


def after_key(prefix: bytes, after: bytes) -> bytes:
    """Where a listing goes on that has seen the name `after`; from the start if that is empty."""
    return prefix + after + b"\0" if after else b""
