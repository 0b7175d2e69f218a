"""`cluster init`, `add`, `permit`: what lies in files. A cluster with its authority; a node's, a mount's, a program's credentials.

Files are written first and etcd is told last: a command that failed in between is given again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.cluster.asking import Config, converse, described, founded, operator
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from cascadefs.configuration import Cluster, Etcd
    from storage.membership.contract import Authority
    from storage.transport import Identity, IdMap

__all__ = ["register"]

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Where the files go; made if missing.", show_default=False)
]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]

_RANGE = re.compile(r"(\d+)(?:-(\d+))?(?::(\d+))?")


def register(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("init")(init)
    group.command("add")(add)
    group.command("permit")(permit)


def init(
    directory: Directory,
    endpoints: Annotated[
        list[str],
        typer.Option("--etcd", metavar="URL", help="An end point of etcd; once for each.", show_default=False),
    ],
    shards: Annotated[int, typer.Option(min=1, max=100, help="Shards of the pool of everything.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=7, help="Nodes that hold each shard.")] = 1,
    replicas_min: Annotated[
        int, typer.Option("--replicas-min", min=1, max=7, help="With fewer, writes pause.")
    ] = 1,
    durability: Annotated[
        str, typer.Option(metavar="disk|memory", help="What a node must have done before a write counts.")
    ] = "disk",
    spread: Annotated[
        int,
        typer.Option(min=0, max=64, help="Directories down to this level get a shard each."),
    ] = 1,
    prefix: Annotated[str, typer.Option(help="What all keys in etcd begin with.")] = "/cascadefs/",
    ca: Annotated[
        Path | None, typer.Option("--etcd-ca", metavar="FILE", help="What signed etcd's certificates.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--etcd-certificate", metavar="FILE", help="What etcd is shown.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--etcd-key", metavar="FILE", help="Its key.")] = None,
    plain: Annotated[
        bool, typer.Option("--etcd-plain", help="Talk to an etcd elsewhere without TLS.")
    ] = False,
) -> None:
    """Found a cluster: its certificate authority and cluster.toml in DIR, its name and first pool in etcd.

    Example: cascadefs cluster init /etc/cascadefs --etcd http://127.0.0.1:2379 --shards 4 --replicas 3
    """
    import secrets
    import time

    from cascadefs.configuration import CLUSTER, Cluster, Etcd
    from storage.membership import values
    from storage.membership.contract import Change
    from storage.transport.certificates import Authority as Signer

    path = directory / CLUSTER
    if path.exists():
        raise Complaint(f"{path}: there is a cluster already; use another directory")
    pool = _pool("root", "/", replicas, replicas_min, durability, spread)
    identity = secrets.token_hex(8)
    etcd = Etcd(
        endpoints=tuple(endpoints),
        prefix=prefix,
        ca=str(ca.resolve()) if ca else "",
        certificate=str(certificate.resolve()) if certificate else "",
        key=str(key.resolve()) if key else "",
        plain=plain,
    )
    cluster = Cluster(identity, etcd)
    now_ns = time.time_ns()  # noqa: TID251  # certificates are dated by the machine's own clock

    async def found(authority: Authority) -> None:
        if authority.view.cluster is not None:
            raise Complaint(
                f"etcd: holds cluster {authority.view.cluster.identity} at {etcd.prefix}; choose another --prefix"
            )
        signer = Signer.create(identity, now_ns=now_ns)
        _write(directory, cluster)
        try:
            (directory / "authority").mkdir(mode=0o700, exist_ok=True)
            signer.save(directory / "authority")
            _credentials(signer, directory / "credentials", _operator(identity), now_ns)
            changes = [Change(None, values.Cluster(identity, now_ns // 1000)), Change(None, pool)]
            changes += [Change(None, values.Shard(number, pool.name)) for number in range(shards)]
            if not await authority.change(changes):
                raise Complaint(f"etcd: somebody founded a cluster at {etcd.prefix} just now; choose another --prefix")
        except FileExistsError as error:
            path.unlink()
            raise Complaint(f"{error.filename}: there is an authority already; use another directory") from error
        except BaseException:
            path.unlink(missing_ok=True)  # so that the command can be given again
            for name in ("authority.crt", "authority.key"):
                (directory / "authority" / name).unlink(missing_ok=True)
            raise

    _check(path, cluster)
    converse(etcd, found)
    typer.echo(f"Cluster {identity} with {described(shards, 'shard')}: {path}")
    typer.echo(f"Keep {directory / 'authority'} safe: whoever has its key is anybody in this cluster.")
    typer.echo(f"Next: cascadefs cluster add NAME DIR --listen HOST:PORT -c {path}")


def add(
    name: Name,
    directory: Directory,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where its links listen.", show_default=False)],
    advertise: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where others reach it, if not there; once for each.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="What it is or has, for pools to ask for.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it keeps its shards; else DIR/data.", show_default=False)
    ] = None,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Metrics and status, for this machine.", show_default=False)
    ] = "",
    lease_s: Annotated[
        float, typer.Option("--lease", metavar="SECONDS", min=2, max=600, help="How long others wait for it.")
    ] = 3.0,
    config: Config = None,
) -> None:
    """Add a node: node.toml and its credentials in DIR, for that machine; its name in etcd.

    Given again for a node there is, it issues a new certificate and changes addresses and labels.

    Example: cascadefs cluster add n1 ./n1 --listen 10.0.0.1:7400
    """
    from cascadefs.configuration import NODE, Node, spell
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
        labels=tuple(label or ()),
        http=http,
        lease_s=lease_s,
    )
    if data is not None:
        import msgspec

        node = msgspec.structs.replace(node, data=str(data.resolve()))
    _check(directory / NODE, node)
    identity = Identity(cluster.cluster, Role.NODE, name)
    wanted = values.Node(name, node.advertise or (listen,), node.labels)

    async def tell(authority: Authority) -> bool:
        view = founded(authority.view, cluster.cluster)
        known = view.nodes.get(name)
        _issue(cluster, identity, directory / "credentials")
        _lay(directory / NODE, spell(node))
        new = wanted if known is None else values.Node(name, wanted.addresses, wanted.labels, known.state)
        if known != new and not await authority.change([Change(known, new)]):
            raise Complaint(f"node {name}: somebody else changed it just now; try again")
        return known is None

    is_new = converse(cluster.etcd, tell)
    typer.echo(f"Node {name} {'added' if is_new else 'changed'}: {directory / NODE}")
    typer.echo(f"Next, on its machine: cascadefs serve --config {directory / NODE}")


def permit(
    name: Name,
    directory: Directory,
    mount: Annotated[bool, typer.Option("--mount", help="For a machine's mount, which speaks for all its users.")] = False,
    uid: Annotated[
        list[str] | None,
        typer.Option(metavar="FIRST[-LAST][:HERE]", help="Users it may speak for; once for each.", show_default=False),
    ] = None,
    gid: Annotated[
        list[str] | None,
        typer.Option(metavar="FIRST[-LAST][:HERE]", help="Groups it may speak for.", show_default=False),
    ] = None,
    config: Config = None,
) -> None:
    """Let a mount or a program in: mount.toml and credentials in DIR.

    A program speaks for the users it is given with --uid; a mount for everybody, unless some are given.

    Examples: cascadefs cluster permit desk ./desk --mount
              cascadefs cluster permit ingest ./ingest --uid 1000 --gid 100
    """
    from cascadefs.configuration import MOUNT, Mount, spell
    from storage.transport import EVERYBODY, Identity, Role

    if not mount and not uid:
        raise typer.BadParameter("say --mount, or for whom a program speaks with --uid")
    cluster = operator(config)
    uids = _ids(uid) if uid else EVERYBODY
    gids = _ids(gid) if gid else (EVERYBODY if mount else _ids([]))
    identity = Identity(cluster.cluster, Role.MOUNT if mount else Role.CLIENT, name, uids, gids)

    async def addresses(authority: Authority) -> tuple[str, ...]:
        view = founded(authority.view, cluster.cluster)
        return tuple(node.addresses[0] for node in view.nodes.values())

    nodes = converse(cluster.etcd, addresses)
    if not nodes:
        raise Complaint("the cluster has no node yet; add one with `cascadefs cluster add`")
    _issue(cluster, identity, directory / "credentials")
    _lay(directory / MOUNT, spell(Mount(cluster.cluster, nodes)))
    typer.echo(f"{identity} permitted: {directory / MOUNT}")


# --- what they share -------------------------------------------------------------------------------------------------


def _pool(name: str, path: str, replicas: int, replicas_min: int, durability: str, spread: int):  # type: ignore[no-untyped-def]
    from cascadefs.cli.cluster.pools import checked
    from storage.membership.values import Pool

    return checked(Pool(name, path, replicas, replicas_min, durability, spread=spread))  # type: ignore[arg-type]


def _operator(cluster: str) -> Identity:
    from storage.transport import Identity, IdMap, IdRange, Role

    root = IdMap((IdRange(0, 0, 1),))
    return Identity(cluster, Role.CLIENT, "operator", root, root)


def _ids(ranges: list[str]) -> IdMap:
    from storage.transport import IdMap, IdRange

    found = []
    for text in ranges:
        parts = _RANGE.fullmatch(text)
        last = int(parts[2] or parts[1]) if parts else -1
        if parts is None or last < int(parts[1]) or last >= 2**32 - 1:
            raise typer.BadParameter(f"{text!r} is no range of numbers; write 1000, 1000-1999 or 1000-1999:5000")
        first = int(parts[1])
        found.append(IdRange(first, int(parts[3] or first), last - first + 1))
    return IdMap(tuple(found))
