"""`cluster add` and `permit`: who may take part. A node, a mount, a program: a certificate for each, and what it is told.

Files are written first and etcd is told last: a command that failed in between is given again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cascadefs.cli.cluster.asking import Config, converse, founded, operator
from cascadefs.cli.cluster.files import checked, issue, lay
from cascadefs.cli.cluster.permits import superfluous
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from cascadefs.configuration import Cluster
    from storage.membership.contract import Authority, Change
    from storage.membership.values import Certificate, View
    from storage.transport import IdMap
    from storage.transport.certificates import Authority as Signer

__all__ = ["add", "permit"]

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Where the files go; made if missing.", show_default=False),
]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]

_RANGE = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?(?::(\d{1,10}))?")


def add(
    name: Name,
    directory: Directory,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where its links listen.", show_default=False)
    ],
    advertise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where others reach it, if not there; once for each.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help="What it is or has, for pools to ask for.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where it keeps its shards; else DIR/data.", show_default=False
        ),
    ] = None,
    lease_s: Annotated[
        float,
        typer.Option(
            "--lease", metavar="SECONDS", min=2, max=600, help="How long others wait for it."
        ),
    ] = 3.0,
    transport: Annotated[
        str,
        typer.Option(
            metavar="tcp|verbs", help="How it and other nodes reach each other; verbs is RDMA."
        ),
    ] = "tcp",
    fallback: Annotated[
        str,
        typer.Option(
            metavar="tcp",
            help="What is used where verbs cannot be; else such nodes have no connection.",
            show_default=False,
        ),
    ] = "",
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Its RDMA device, if it has several.", show_default=False
        ),
    ] = "",
    gid: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Which of the device's addresses; else the one towards the peer.",
            show_default=False,
        ),
    ] = "",
    triggers: Annotated[
        str,
        typer.Option(
            metavar="off|owner|root", help="Whose scripts it runs, as whom (docs/TRIGGERS.md)."
        ),
    ] = "off",
    config: Config = None,
) -> None:
    """Add a node: node.toml and its credentials in DIR, for that machine; its name in etcd.

    Given again for a node there is, it issues a new certificate and changes addresses and labels.

    Example: cascadefs cluster add n1 ./n1 --listen 10.0.0.1:7400
    """
    from cascadefs.configuration import NODE, Node, Transport
    from storage.membership import values
    from storage.membership.contract import Change
    from storage.transport import Identity, Role

    cluster = operator(config)
    node = Node(
        cluster=cluster.cluster,
        name=name,
        listen=listen,
        etcd=cluster.etcd,
        advertise=tuple(advertise or ()),
        data=str(data.resolve()) if data is not None else "data",
        labels=tuple(label or ()),
        lease_s=lease_s,
        transport=Transport(transport, fallback, device, gid=gid),  # type: ignore[arg-type]  # checked next
        triggers=triggers,  # type: ignore[arg-type]  # likewise
    )
    checked(directory / NODE, node)
    signer = _signer(cluster)

    async def tell(authority: Authority) -> bool:
        view = founded(authority.view, cluster.cluster)
        known = view.nodes.get(name)
        identity = Identity(cluster.cluster, Role.NODE, name)
        issued = issue(signer, identity, directory / "credentials")
        lay(directory / NODE, node)
        wanted = values.Node(name, node.advertise or (listen,), node.labels)
        if known is not None:
            wanted = msgspec.structs.replace(wanted, state=known.state)
        changes = _listing(view, issued)
        if known != wanted:
            changes.append(Change(known, wanted))
        if not await authority.change(changes):
            raise Complaint(f"node {name}: somebody else changed it just now; try again")
        return known is None

    is_new = converse(cluster.etcd, tell)
    typer.echo(f"Node {name} {'added' if is_new else 'changed'}: {directory / NODE}")
    typer.echo(f"Next, on its machine: cascadefs serve --config {directory / NODE}")


def permit(
    name: Name,
    directory: Directory,
    mount: Annotated[
        bool, typer.Option("--mount", help="For a machine's mount, which speaks for all its users.")
    ] = False,
    uid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIRST[-LAST][:HERE]",
            help="Users it may speak for; once for each.",
            show_default=False,
        ),
    ] = None,
    gid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIRST[-LAST][:HERE]", help="Groups it may speak for.", show_default=False
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Let a mount or a program in: mount.toml and credentials in DIR.

    A program speaks for the users it is given with --uid; a mount for everybody, unless some are given: then nodes
    refuse what it changes that these could not. Given again for a name there is, it issues another certificate;
    the one before counts until it is revoked (`revoke NAME --older`).

    Examples: cascadefs cluster permit desk ./desk --mount;
    cascadefs cluster permit lab ./lab --mount --uid 1000-1999 --gid 100 --gid 1000-1999;
    cascadefs cluster permit ingest ./ingest --uid 1000 --gid 100
    """
    from cascadefs.configuration import MOUNT, Mount
    from storage.transport import EVERYBODY, Identity, Role

    if not mount and not uid:
        raise typer.BadParameter("say --mount, or for whom a program speaks with --uid")
    cluster = operator(config)
    signer = _signer(cluster)
    uids = _ids(uid) if uid else EVERYBODY
    gids = EVERYBODY if mount and not gid else _ids(gid or [])
    if mount and any(one.first != one.target for one in (*uids.ranges, *gids.ranges)):
        raise typer.BadParameter("a mount's users have the same numbers here: leave :HERE away")
    identity = Identity(cluster.cluster, Role.MOUNT if mount else Role.CLIENT, name, uids, gids)

    async def tell(authority: Authority) -> None:
        view = founded(authority.view, cluster.cluster)
        nodes = tuple(node.addresses[0] for node in view.nodes.values())
        if not nodes:
            raise Complaint("the cluster has no node yet; add one with `cascadefs cluster add`")
        issued = issue(signer, identity, directory / "credentials")
        lay(directory / MOUNT, Mount(cluster.cluster, nodes))
        if not await authority.change(_listing(view, issued)):
            raise Complaint(f"{name}: somebody else changed it just now; try again")

    converse(cluster.etcd, tell)
    typer.echo(f"{identity} permitted: {directory / MOUNT}")


def _listing(view: View, issued: Certificate) -> list[Change]:
    """What has a new certificate listed, and some that are long over no more."""
    from storage.membership.contract import Change

    return [
        Change(None, issued),
        *(Change(one, None) for one in superfluous(view, issued.issued_us)),
    ]


def _signer(cluster: Cluster) -> Signer:
    from storage.errors import Unusable
    from storage.transport.certificates import Authority as Signer

    try:
        return Signer.load(Path(cluster.authority))
    except Unusable as error:
        raise Complaint(f"{error}; certificates are made where the cluster was founded") from error


def _ids(ranges: list[str]) -> IdMap:
    from storage.transport import IdMap, IdRange

    found = []
    for text in ranges:
        parts = _RANGE.fullmatch(text)
        last = int(parts[2] or parts[1]) if parts else -1
        if parts is None or last < int(parts[1]) or last >= 2**32 - 1:
            raise typer.BadParameter(
                f"{text!r} is no range of numbers; write 1000, 1000-1999 or 1000-1999:5000"
            )
        first = int(parts[1])
        found.append(IdRange(first, int(parts[3] or first), last - first + 1))
    return IdMap(tuple(found))
