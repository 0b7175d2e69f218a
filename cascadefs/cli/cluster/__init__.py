"""`cascadefs cluster ...`: making a cluster, its nodes and pools, and saying how they are (OPERATIONS).

Each command reads a configuration, asks etcd, changes it in one transaction or not at all, and says what it did. None needs a
running node. `asking` is what they share; `founding` makes files and certificates, `nodes` and `pools` change the placement
map, `status` and `figures` look.
"""

from __future__ import annotations

import typer

from cascadefs.cli.cluster import founding, nodes, pools, status

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        name="cluster", help="Several machines: nodes, pools, shards.", no_args_is_help=True
    )
    founding.register(group)
    status.register(group)
    nodes.register(group)
    pools.register(group)
    app.add_typer(group)
