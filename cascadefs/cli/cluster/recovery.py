"""`cluster recover-authority`: etcd was restored from an older copy; it is told what the nodes have known since.

Nobody obeys such an etcd by itself (`storage.membership.known`). The nodes are asked what they know, what follows from that is
put into etcd (`storage.membership.recovery`), and last of all the word that it may be obeyed again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.cluster.asking import Config, credentials_of, etcd_of, founded, gateway_of
from cascadefs.cli.cluster.files import now_ns
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.membership.gateway import Gateway, Put, Reading
    from storage.membership.recovery import Plan, Witness
    from storage.membership.values import View

__all__ = ["recover_authority"]

PUTS_MAX = 50
"""In one transaction: half of what etcd takes."""

AT_ONCE = 32
"""Revisions that are asked for at the same time."""


def recover_authority(
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A node that etcd does not know any more; once for each.",
            show_default=False,
        ),
    ] = None,
    lose: Annotated[
        bool, typer.Option("--lose", help="Yes: nodes that do not answer are lost for good.")
    ] = False,
    config: Config = None,
) -> None:
    """Bring an etcd that was restored from an older copy up to what the nodes hold.

    Until then nodes do not obey it: those that run go on as they are, and those that start wait. Start all of
    them first, with this etcd in their configurations.

    Example: etcdctl snapshot restore ...; systemctl start etcd; cascadefs cluster recover-authority
    """
    import trio

    from storage.membership.contract import Unavailable

    etcd, identity = etcd_of(config)
    credentials = credentials_of(config)
    if credentials is None:
        raise Complaint("nodes are asked as the operator: name cluster.toml with --config")

    async def work() -> Plan:
        async with gateway_of(etcd) as gateway:
            return await _recover(gateway, identity, credentials, tuple(node or ()), lose=lose)

    troubles: list[Exception] = []

    async def run() -> Plan | None:
        # Caught in here: from the context managers' nurseries it would come in groups.
        try:
            return await work()
        except* (Complaint, Unavailable) as errors:
            troubles.extend(e for e in errors.exceptions if isinstance(e, Exception))
        return None

    done = trio.run(run)
    if done is None:
        raise Complaint(str(troubles[0])) if troubles else AssertionError("nothing came of it")
    typer.echo(f"etcd was brought up to what the nodes know: {len(done.values)} values put")
    typer.echo("They obey it within seconds. Look with `cascadefs cluster status`.")


async def _recover(
    gateway: Gateway, identity: str, credentials: Path, more: Sequence[str], *, lose: bool
) -> Plan:
    from storage.membership.recovery import Unclear, plan

    reading, view = await _read(gateway, identity)
    heard, objects = await _ask(view, credentials, more)
    if not heard:
        raise Complaint(
            "no node answers; start them, or name one that etcd does not know with --node HOST:PORT"
        )
    if not objects:
        raise Complaint("the nodes that answer obey this etcd; there is nothing to recover")
    try:
        found = plan(view, heard, now_ns() // 1000, lose=lose)
    except Unclear as error:
        raise Complaint(str(error)) from error
    await _put(gateway, reading, found)
    return found


async def _read(gateway: Gateway, identity: str) -> tuple[Reading, View]:
    from storage.membership.tree import Tree

    reading, tree = await gateway.read(), Tree()
    tree.reset(reading.revision, reading.items)
    if tree.unreadable:
        raise Complaint(
            f"etcd holds what this version cannot read: {next(iter(tree.unreadable.values()))}"
        )
    return reading, founded(tree.view, identity)


async def _ask(
    view: View, credentials: Path, more: Sequence[str]
) -> tuple[list[Witness], list[str]]:
    """What the nodes know, those too that only others of them know; and why they do not obey."""
    from cascadefs.cli.cluster.figures import witnesses_at

    heard: dict[str, Witness] = {}
    objections: list[str] = []
    asked: set[str] = set()
    wanted = {address for node in view.nodes.values() for address in node.addresses} | set(more)
    while wanted - asked:
        found = await witnesses_at(sorted(wanted - asked), credentials)
        asked |= wanted
        for witness, objection in found:
            heard[witness.node] = witness
            objections += [objection] if objection else []
            nodes = witness.known.view.nodes.values()
            wanted |= {address for node in nodes for address in node.addresses}
    return list(heard.values()), objections


async def _put(gateway: Gateway, reading: Reading, found: Plan) -> None:
    import trio

    from storage.membership.gateway import Put
    from storage.membership.keys import encode, key_of

    changed = {item.key: item.revision for item in reading.items}
    puts = [Put(key_of(value), encode(value)) for value in found.values]
    revision = reading.revision
    for at in range(0, len(puts), PUTS_MAX):
        some = puts[at : at + PUTS_MAX]
        done = await gateway.transact([(put.key, changed.get(put.key, 0)) for put in some], some)
        if done is None:
            raise Complaint("etcd: somebody else changed something just now; try again")
        revision = done
    # Who watches, or keeps a view, goes by revisions: they must not come twice (etcd 3.6 has --bump-revision for that).
    same = next(Put(item.key, item.raw) for item in reading.items if item.key == "cluster")
    began = time.monotonic()  # noqa: TID251  # for a person who waits
    while revision <= found.beyond:
        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_ONCE, found.beyond + 1 - revision)):
                nursery.start_soon(gateway.transact, [], [same])
        revision = await gateway.ping()
        if time.monotonic() - began > 2:  # noqa: TID251  # likewise
            typer.echo(f"revision {revision} of {found.beyond}", err=True)
            began = time.monotonic()  # noqa: TID251  # likewise
    if await gateway.transact([], [_last(found)]) is None:
        raise AssertionError("a transaction without conditions is done")


def _last(found: Plan) -> Put:
    from storage.membership.gateway import Put
    from storage.membership.keys import encode, key_of

    return Put(key_of(found.recovered), encode(found.recovered))
