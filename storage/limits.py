"""Every bound of the store, with its unit and reason; relations between them are asserted at import."""

from __future__ import annotations

NAME_BYTES_MAX = 255
"""A directory entry's name; POSIX NAME_MAX on every file system people use."""

SYMLINK_BYTES_MAX = 4095
"""A symbolic link's target: PATH_MAX less the terminator."""

XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 65_536
"""Linux's own limits (xattr(7))."""

LINKS_MAX = 2**31 - 1

TIME_NS_MIN, TIME_NS_MAX = -(2**63), 2**63 - 1
"""A file's times in nanoseconds: 1677-09-21 to 2262-04-11, what 64 bits hold."""

FILE_BYTES_MAX = 2**48
"""256 TiB: a chunk number then fits 32 bits with room to spare."""

CHUNK_BYTES = 256 * 1024
"""Content is indexed in chunks of this many bytes (DESIGN 4)."""

PAYLOAD_BYTES_MAX = CHUNK_BYTES
"""A frame's payload. Also what a cold 4 KiB read has to verify, so it is not larger than a chunk."""

METADATA_BYTES_MAX = 16 * 1024 * 1024
"""A frame's metadata: a commit of a 10 GiB file lists 40,960 extents, about 1 MiB."""

RECORD_BYTES_MAX = METADATA_BYTES_MAX - 4096
"""A record, encoded; a larger one is refused. What a cluster's log puts around it has room beside it."""

SEGMENT_BYTES = 64 * 1024 * 1024
"""A log segment file; addresses are segment number * SEGMENT_BYTES + offset, frames never cross."""

PIECES_PER_CHUNK_MAX = 32
"""Pieces in one chunk's row before a commit merges neighbours."""

PRUNED_CONTENTS_MAX = 256
"""Contents one record lets go of: applying it takes about a millisecond, and nobody waits longer."""

MESSAGE_BYTES_MAX = 17 * 1024 * 1024
"""A message between machines: any frame of the log, and what a protocol puts around it."""

SEND_QUEUE_BYTES = 1024 * 1024
"""What a connection holds to be sent before the sender waits; one message may go over."""

KEY_BYTES_MAX = 511
"""LMDB's limit on a key."""

RECORD_INODE_MAX = 2**48
"""Live inode numbers stay below; numbers of the past lie above (SEMANTICS 4)."""

SHARDS_MAX = 256
"""Shards of a cluster: an inode number is below 2^48 and has its shard above 40 bits of counter."""

REPLICAS_MAX = 7
"""Members of a shard. Every one is waited for, so more than a few only slow it down."""

SPREAD_LEVELS_MAX = 64
"""Levels of directories below a pool's own that may get a home shard each."""

LOCK_LEASE_NS = 10 * 10**9
"""How long a mount's locks outlive its last word to the leader; as long, at most, a new leader waits for what mounts hold.
Keeps off nobody for long whom a dead mount is in the way of, and is five times what a change of leader takes."""

LOCKS_PER_SESSION_MAX = 16_384
"""Ranges that one mount has locked or waits for in one shard: all of them fit one message (`wire.ClaimLocks`)."""

CHANGES_MAX = 120
"""Values that one transaction of the authority changes; etcd takes 128 operations by default."""

assert SHARDS_MAX << 40 <= RECORD_INODE_MAX
INODES_PER_SHARD = 2**40
"""An inode number is its shard's number times this, and a counter."""

SHARDS_MAX = RECORD_INODE_MAX // INODES_PER_SHARD
"""Shards are numbered 0 to 255; the root directory is of shard 0."""

assert 1 + 8 + NAME_BYTES_MAX + 1 + 8 <= KEY_BYTES_MAX
assert PAYLOAD_BYTES_MAX + METADATA_BYTES_MAX + 65_536 <= MESSAGE_BYTES_MAX
assert FILE_BYTES_MAX // CHUNK_BYTES <= 2**32
assert PAYLOAD_BYTES_MAX + METADATA_BYTES_MAX + 4096 <= SEGMENT_BYTES
