"""`cascadefs cluster ...`: making a cluster, its nodes and pools, and saying how they are (OPERATIONS).

Each command reads a configuration, asks etcd, changes it in one transaction or not at all, and says what it did. None needs a
running node. `asking` and `files` are what they share; `founding` and `admission` make certificates and configurations, `permits`
lists and revokes them, `nodes` and `pools` change the placement map, `recovery` mends an etcd that was restored, `status` looks, and `figures` asks the nodes themselves.
"""

from __future__ import annotations

import typer

from cascadefs.cli.cluster import nodes, pools
from cascadefs.cli.cluster.admission import add, permit
from cascadefs.cli.cluster.founding import init
from cascadefs.cli.cluster.permits import permits, revoke
from cascadefs.cli.cluster.recovery import recover_authority
from cascadefs.cli.cluster.status import status

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        name="cluster", help="Several machines: nodes, pools, shards.", no_args_is_help=True
    )
    group.command()(init)
    group.command()(status)
    group.command()(add)
    group.command()(permit)
    group.command()(permits)
    group.command()(revoke)
    nodes.register(group)
    group.command("recover-authority")(recover_authority)
    pools.register(group)
    app.add_typer(group)
