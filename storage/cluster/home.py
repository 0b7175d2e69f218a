"""Where a directory about to be made will live: its pool's rule, by its path (DESIGN 6). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.placement import affinity_key, home_shard

if TYPE_CHECKING:
    from storage.membership.values import Pool, View

__all__ = ["group_of", "home_of", "is_volatile"]


def home_of(view: View, path: bytes) -> int | None:
    """The home shard of a directory at `path` (``a/b``, from the root), or None: where its parent lives.

    A pool's own directory is in one of the pool's shards.
    """
    pool = _pool_of(view, path)
    if pool is None:
        return None
    shards = [shard.shard for shard in view.shards.values() if shard.pool == pool.name]
    if not shards:
        return None
    below = path[len(pool.path.encode().strip(b"/")) :].lstrip(b"/")
    key = affinity_key(below, pool.affinity, pool.spread) if below else b""
    return None if key is None else home_shard(pool.name, key, shards)


def group_of(view: View, path: bytes) -> bytes:
    """The affinity key of what lives in the directory at `path`; empty if its pool's own directory is home to it."""
    pool = _pool_of(view, path)
    if pool is None:
        return b""
    below = path[len(pool.path.encode().strip(b"/")) :].lstrip(b"/")
    while below:  # without a key of its own a directory lives where its parent does
        key = affinity_key(below, pool.affinity, pool.spread)
        if key is not None:
            return key
        below = below.rpartition(b"/")[0]
    return b""


def is_volatile(view: View, shard: int) -> bool:
    """Whether a shard keeps the newest only, in memory; for the whole of its life."""
    placed = view.shards.get(shard)
    pool = view.pools.get(placed.pool) if placed is not None else None
    return pool is not None and pool.volatile


def _pool_of(view: View, path: bytes) -> Pool | None:
    """The pool whose directory is nearest above a path, or it."""
    found, longest = None, -1
    for pool in view.pools.values():
        top = pool.path.encode().strip(b"/")
        if len(top) > longest and (not top or path == top or path.startswith(top + b"/")):
            found, longest = pool, len(top)
    return found
