"""`cluster drain`, `undrain`, `remove`, `recover`: what an operator says about nodes, and leaves the cluster to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cascadefs.cli.cluster.asking import Config, converse, described, etcd_of, founded
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from storage.membership.contract import Authority
    from storage.membership.values import Epoch, Node, View

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NODE", show_default=False)]


def register(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("drain")(drain)
    group.command("undrain")(undrain)
    group.command("remove")(remove)
    group.command("recover")(recover)


def drain(
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when nothing is left on it.")
    ] = False,
    config: Config = None,
) -> None:
    """Have a node hand over its leaderships, then its shards, to others; it can then be stopped, or removed."""
    etcd, identity = etcd_of(config)

    async def tell(authority: Authority) -> int:
        await _state(authority, identity, name, "draining")
        view = authority.view
        while wait and (held := _held(view, name)):
            typer.echo(f"{described(len(held), 'shard')} left on {name}", err=True)
            before = held
            while _held(view, name) == before:
                view = await authority.wait_view(view.revision)
        return len(_held(view, name))

    left = converse(etcd, tell)
    if left:
        typer.echo(
            f"Node {name} drains: {described(left, 'shard')} left. Watch `cascadefs cluster status`."
        )
    else:
        typer.echo(f"Node {name} holds nothing")


def undrain(name: Name, config: Config = None) -> None:
    """Give a node its part again."""
    etcd, identity = etcd_of(config)

    async def tell(authority: Authority) -> None:
        await _state(authority, identity, name, "active")

    converse(etcd, tell)
    typer.echo(f"Node {name} takes part")


def remove(
    name: Name,
    lost: Annotated[
        bool, typer.Option("--lost", help="It will never come back, although it was not drained.")
    ] = False,
    config: Config = None,
) -> None:
    """Forget a node that was drained and stopped, or that is lost for good. Others then take its part at once."""
    from storage.membership.contract import Change

    etcd, identity = etcd_of(config)

    async def tell(authority: Authority) -> None:
        view = founded(authority.view, identity)
        node = _known(view, name)
        if name in view.live:
            raise Complaint(f"node {name}: is alive; drain it and stop it first")
        held = _held(view, name)
        alone = [epoch.shard for epoch in held if epoch.members == (name,)]
        if alone:
            raise Complaint(
                f"node {name}: is the only one that has shard {_listed(alone)}; start it, and drain it"
            )
        if held and not lost:
            raise Complaint(
                f"node {name}: still holds shard {_listed([epoch.shard for epoch in held])}; drain it first, or say --lost"
            )
        if not await authority.change([Change(node, None)]):
            raise Complaint(f"node {name}: somebody else changed it just now; try again")

    converse(etcd, tell)
    typer.echo(f"Node {name} removed")


def recover(
    shard: Annotated[int, typer.Argument(metavar="SHARD", min=0, max=255, show_default=False)],
    name: Name,
    lose: Annotated[
        bool, typer.Option("--lose", help="Yes: what only the other members had is lost.")
    ] = False,
    config: Config = None,
) -> None:
    """Have a shard go on from one member alone, when the others are lost for good. What that one lacks is lost.

    A shard whose members are all well, or of which one that is in sync is alive, needs nobody's word. Look at
    `cascadefs cluster status` first.
    """
    from storage.membership.contract import Change
    from storage.membership.values import Epoch

    etcd, identity = etcd_of(config)

    async def tell(authority: Authority) -> Epoch:
        view = founded(authority.view, identity)
        old = view.epochs.get(shard)
        if old is None:
            raise Complaint(f"shard {shard}: has never begun; there is nothing to recover")
        if name not in old.members:
            raise Complaint(
                f"shard {shard}: {name} is none of its members {', '.join(old.members)}; name one"
            )
        if name not in view.live:
            raise Complaint(f"node {name}: is not alive; start it first")
        if not lose:
            raise Complaint(
                f"shard {shard}: {name} may lack what {', '.join(m for m in old.members if m != name) or 'it lost'} had; "
                f"say --lose if that is to be"
            )
        new = Epoch(shard, old.epoch + 1, name, (name,), forced=True)
        if not await authority.change([Change(old, new)]):
            raise Complaint(f"shard {shard}: went on by itself just now; look again")
        return new

    made = converse(etcd, tell)
    typer.echo(f"Shard {shard} goes on from {name}, in epoch {made.epoch}")


async def _state(authority: Authority, identity: str, name: str, state: str) -> None:
    from storage.membership.contract import Change

    old = _known(founded(authority.view, identity), name)
    new = msgspec.structs.replace(old, state=state)
    if old != new and not await authority.change([Change(old, new)]):
        raise Complaint(f"node {name}: somebody else changed it just now; try again")


def _known(view: View, name: str) -> Node:
    node = view.nodes.get(name)
    if node is None:
        raise Complaint(
            f"node {name}: there is none; there are {', '.join(sorted(view.nodes)) or 'no nodes'}"
        )
    return node


def _held(view: View, name: str) -> list[Epoch]:
    return [
        view.epochs[shard] for shard in sorted(view.epochs) if name in view.epochs[shard].members
    ]


def _listed(shards: list[int]) -> str:
    return ", ".join(map(str, shards))
