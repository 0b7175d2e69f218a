"""`cluster status`: the nodes, the shards, and what is wrong with them, as etcd has it and as the nodes say.

Exit status: 0 every shard is led and has all the members it should, 1 something is not as it should be, 2 etcd does not answer.
"""

from __future__ import annotations

import collections
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from cascadefs.cli.cluster.asking import (
    Config,
    converse,
    credentials_of,
    described,
    etcd_of,
    founded,
)
from cascadefs.cli.cluster.files import now_ns
from cascadefs.cli.cluster.permits import ending
from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.report import Column

if TYPE_CHECKING:
    from storage.membership.contract import Authority
    from storage.membership.values import Node, Pool, Shard, View

__all__ = ["status"]

Figures = dict[str, dict[str, Any]]
"""What each node says of itself."""

_NODES = [
    Column("node"),
    Column("state"),
    Column("address"),
    Column("leads", right=True),
    Column("holds", right=True),
    Column("links"),
    Column("labels"),
]
_SHARDS = [
    Column("shard", right=True),
    Column("pool"),
    Column("epoch", right=True),
    Column("leader"),
    Column("members"),
    Column("lag", right=True),
    Column("MiB", right=True),
    Column("is"),
]


def status(config: Config = None, as_json: AsJson = False) -> None:
    """How a cluster is: its nodes, its shards, what is wrong.

    "lag" counts the records that a shard's slowest member lacks, as the nodes themselves say. "MiB" is what the log of a shard takes on
    the disk of each member, or in its memory where the pool is volatile.

    Exit status: 0 all is well, 1 something is not as it should be, 2 etcd does not answer.
    """
    from cascadefs.cli.cluster.figures import figures

    etcd, identity = etcd_of(config)

    async def look(authority: Authority) -> tuple[View, Figures]:
        view = founded(authority.view, identity)
        return view, await figures(view, credentials_of(config))

    view, said = converse(etcd, look)
    nodes = [_node(view, name, said.get(name, {})) for name in sorted({*view.nodes, *view.live})]
    shards = [_shard(view, view.shards[number], said) for number in sorted(view.shards)]
    troubles = [node["trouble"] for node in nodes if node["trouble"]]
    troubles += _of_nodes(said, now_ns() // 10**9) + ending(view, now_ns() // 1000)
    troubles += [
        f"node {node['node']}: {trouble}"
        for node in nodes
        for trouble in node["transport"].get("troubles", ())
    ]
    troubles += [
        f"shard {shard['shard']}: {shard['is']}" for shard in shards if shard["is"] != "well"
    ]
    if as_json:
        document = {"cluster": identity, "nodes": nodes, "shards": shards, "troubles": troubles}
        report(as_json=True).lines([msgspec.json.encode(document)])
    else:
        _print(identity, nodes, shards, troubles)
    sys.exit(1 if troubles else 0)


def _of_nodes(said: Figures, now_s: int) -> list[str]:
    """What is wrong with nodes themselves: whom they do not obey, certificates that end, clocks."""
    from cascadefs.cli.cluster.figures import ASKED_US
    from cascadefs.node.clocks import wrong
    from storage.transport.renewal import EXPIRES_SOON_S

    found = []
    for name, figure in sorted(said.items()):
        if figure.get("authority_trouble"):
            found.append(f"node {name}: {figure['authority_trouble']}")
        expires_s = (figure.get("certificate") or {}).get("expires_s")
        if expires_s is not None and expires_s - now_s < EXPIRES_SOON_S:
            left_s = expires_s - now_s
            when = f"expires in {left_s // 86400} days" if left_s > 0 else "has expired"
            found.append(f"node {name}: its certificate {when}; renew it: cascadefs cluster add")
    offsets_s = {
        f"node {name}": (figure["time_us"] - figure[ASKED_US]) / 1e6
        for name, figure in said.items()
        if "time_us" in figure
    }
    return found + [
        f"{whose}: {why}" for whose, why in wrong({"this machine": 0.0, **offsets_s}).items()
    ]


def _print(
    identity: str, nodes: list[dict[str, Any]], shards: list[dict[str, Any]], troubles: list[str]
) -> None:
    shown = report(as_json=False)
    shown.lines([f"cluster {identity}".encode(), b""])
    shown.table(
        _NODES,
        [
            (
                [
                    node["node"],
                    node["state"],
                    " ".join(node["addresses"]),
                    str(len(node["leads"])),
                    str(len(node["holds"])),
                    _links(node["links"]),
                    " ".join(node["labels"]),
                ],
                node,
            )
            for node in nodes
        ],
    )
    shown.lines([b""])
    shown.table(
        _SHARDS,
        [
            (
                [
                    str(shard["shard"]),
                    shard["pool"],
                    str(shard["epoch"] or "-"),
                    shard["leader"] or "-",
                    " ".join(shard["members"]),
                    "?" if shard["lag"] is None else str(shard["lag"]),
                    "?" if shard["held"] is None else f"{shard['held'] / 2**20:.1f}",
                    shard["is"],
                ],
                shard,
            )
            for shard in shards
        ],
    )
    shown.lines([b"", *(trouble.encode() for trouble in troubles)] if troubles else [])


def _links(links: dict[str, dict[str, Any]]) -> str:
    """How many other nodes are connected by what."""
    counts = collections.Counter(str(link.get("transport")) for link in links.values())
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _node(view: View, name: str, figure: dict[str, Any]) -> dict[str, Any]:
    node, presence = view.nodes.get(name), view.live.get(name)
    held = [epoch for epoch in view.epochs.values() if name in epoch.members]
    state = ("draining" if node.state == "draining" else "alive") if node else "not added"
    trouble = None
    if presence is None:
        state += ", away" if state == "draining" else ""
        state = state.replace("alive", "away")
        if held or state == "away":
            trouble = f"node {name}: is away" + (
                f", and holds {described(len(held), 'shard')}" if held else ""
            )
    elif node is None:
        trouble = f"node {name}: is alive, but was removed or never added; stop it, or add it"
    addresses = presence.addresses if presence else node.addresses if node else ()
    return {
        "node": name,
        "state": state,
        "addresses": list(addresses),
        "labels": list(node.labels) if node else [],
        "leads": sorted(epoch.shard for epoch in held if epoch.leader == name),
        "holds": sorted(epoch.shard for epoch in held),
        "transport": figure.get("transport", {}),
        "links": figure.get("links", {}),
        "trouble": trouble,
    }


def _shard(view: View, shard: Shard, said: Figures) -> dict[str, Any]:
    epoch, pool = view.epochs.get(shard.shard), view.pools.get(shard.pool)
    members = epoch.members if epoch else ()
    ends = {}
    for name in members:
        for figure in said.get(name, {}).get("shards", ()):
            if figure.get("shard") == shard.shard:
                ends[name] = figure
    last = {name: figure["last_index"] for name, figure in ends.items() if "last_index" in figure}
    lag = None
    if epoch is not None and members and set(last) == set(members):
        lag = max(0, last[epoch.leader] - min(last.values()))
    return {
        "shard": shard.shard,
        "pool": shard.pool,
        "epoch": epoch.epoch if epoch else 0,
        "leader": epoch.leader if epoch else None,
        "members": list(members),
        "wished": list(shard.wished),
        "replicas": pool.replicas if pool else 0,
        "lag": lag,
        "held": max((end.get("log_bytes", 0) for end in ends.values()), default=None),
        "volatile": pool.volatile if pool else False,
        "said": ends,
        "is": _standing(view, shard, said),
    }


def _standing(view: View, shard: Shard, said: Figures) -> str:
    """How a shard is, in words; "well" is the one that is no trouble."""
    epoch, pool = view.epochs.get(shard.shard), view.pools.get(shard.pool)
    if pool is None:
        return f"its pool {shard.pool} is not there"
    if epoch is None:
        return "not begun: no node that its pool allows is alive" if not view.live else "not begun"
    away = [name for name in epoch.members if name not in view.live]
    stranded = {
        name: s.last_index
        for name in epoch.members
        if name in view.live
        for s in view.live[name].stranded
        if (s.shard, s.epoch) == (shard.shard, epoch.epoch)
    }
    empty = [name for name, last_index in stranded.items() if not last_index]
    if epoch.leader in away:
        return f"without a leader: {epoch.leader} is away"
    if pool.volatile and stranded:
        return f"{', '.join(stranded)} began without it; it begins empty if nobody has it"
    if empty and set(empty) | set(away) == set(epoch.members):
        return f"{', '.join(empty)} has nothing of it; is the disk there? else start the others, or recover"
    if stranded:
        return (
            f"{', '.join(stranded)} lost something; waiting for {', '.join(away) or 'one another'}"
        )
    if len(epoch.members) < pool.replicas_min:
        return f"writes pause: {len(epoch.members)} of at least {pool.replicas_min} members"
    if away:
        return f"waiting for {', '.join(away)}"
    if len(epoch.members) < pool.replicas:
        return f"{len(epoch.members)} of {pool.replicas} members: {_why_fewer(view, shard, pool, said)}"
    moving = sorted(set(shard.wished) - set(epoch.members))
    return f"moving to {', '.join(moving)}" if moving else "well"


def _why_fewer(view: View, shard: Shard, pool: Pool, said: Figures) -> str:
    """Why a shard has not all the members it should."""
    members = view.epochs[shard.shard].members
    allowed = [
        node
        for name, node in sorted(view.nodes.items())
        if name not in members and set(pool.labels) <= set(node.labels)
    ]
    if len(members) + len(allowed) < pool.replicas:
        labelled = f" with {' '.join(pool.labels)}" if pool.labels else ""
        return f"there are no more nodes{labelled}; add one"
    return ", ".join(_why_not(view, shard, node, said) for node in allowed)


def _why_not(view: View, shard: Shard, node: Node, said: Figures) -> str:
    """Why a node that may hold a shard is no member of it."""
    if node.state == "draining":
        return f"{node.name} is draining"
    if node.name not in view.live:
        return f"{node.name} is away"
    if node.name not in shard.wished:
        return f"{node.name} is not asked yet"
    ends = {
        name: figure.get("last_index", 0)
        for name, figures in said.items()
        for figure in figures.get("shards", ())
        if figure.get("shard") == shard.shard
    }
    leader = view.epochs[shard.shard].leader
    if leader not in ends or node.name not in ends:
        return f"{node.name} has not begun to be filled"
    return (
        f"{node.name} is being filled, and lacks {max(0, ends[leader] - ends[node.name])} records"
    )
