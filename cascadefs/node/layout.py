"""What a cluster consists of, as the authority has it, for people and programs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.membership.values import Shard, View

__all__ = ["layout"]


def layout(view: View) -> dict[str, object]:
    """Pools, shards and nodes, JSON-able."""
    return {
        "pools": [
            {
                "name": pool.name,
                "path": pool.path,
                "replicas": pool.replicas,
                "replicas_min": pool.replicas_min,
                "durability": pool.durability,
                "volatile": pool.volatile,
            }
            for _, pool in sorted(view.pools.items())
        ],
        "shards": [_shard(view, shard) for _, shard in sorted(view.shards.items())],
        "nodes": [
            {
                "name": name,
                "state": "away" if name not in view.live else _state(view, name),
                "addresses": list(view.live[name].addresses) if name in view.live else [],
                "labels": list(view.nodes[name].labels) if name in view.nodes else [],
            }
            for name in sorted({*view.nodes, *view.live})
        ],
    }


def _state(view: View, name: str) -> str:
    return "draining" if name in view.nodes and view.nodes[name].state == "draining" else "alive"


def _shard(view: View, shard: Shard) -> dict[str, object]:
    epoch, pool = view.epochs.get(shard.shard), view.pools.get(shard.pool)
    members = epoch.members if epoch is not None else ()
    living = [name for name in members if name in view.live]
    wanted = pool.replicas if pool is not None else 1
    if epoch is None:
        how = "not begun"
    elif epoch.leader not in view.live:
        how = f"without a leader: {epoch.leader} is away"
    elif len(living) < wanted:
        how = f"{len(living)} of {wanted} members"
    else:
        how = "well"
    return {
        "shard": shard.shard,
        "pool": shard.pool,
        "leader": epoch.leader if epoch is not None else None,
        "members": list(members),
        "is": how,
    }
