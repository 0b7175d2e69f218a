"""`cluster init`: a new cluster with a certificate authority of its own, its name and first pool in etcd."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.cluster.asking import converse, described
from cascadefs.cli.cluster.files import checked, issue, lay, now_ns
from cascadefs.cli.cluster.pools import ROOT_POOL, accepted
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from cascadefs.configuration import Cluster
    from storage.membership.contract import Authority
    from storage.membership.values import Certificate
    from storage.transport import Identity

__all__ = ["init"]

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Where the files go; made if missing.", show_default=False),
]


def init(
    directory: Directory,
    endpoints: Annotated[
        list[str],
        typer.Option(
            "--etcd", metavar="URL", help="An end point of etcd; once for each.", show_default=False
        ),
    ],
    shards: Annotated[
        int, typer.Option(min=1, max=100, help="Shards of the pool of everything.")
    ] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=7, help="Nodes that hold each shard.")] = 1,
    replicas_min: Annotated[
        int, typer.Option("--replicas-min", min=1, max=7, help="With fewer, writes pause.")
    ] = 1,
    durability: Annotated[
        str,
        typer.Option(
            metavar="disk|memory", help="What a node must have done before a write counts."
        ),
    ] = "disk",
    spread: Annotated[
        int,
        typer.Option(min=0, max=64, help="Directories down to this level get a shard each."),
    ] = 1,
    prefix: Annotated[str, typer.Option(help="What all keys in etcd begin with.")] = "/cascadefs/",
    ca: Annotated[
        Path | None,
        typer.Option("--etcd-ca", metavar="FILE", help="What signed etcd's certificates."),
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

    from cascadefs.configuration import CLUSTER, Cluster, Etcd
    from storage.membership import values
    from storage.membership.contract import Change

    asked = {"replicas": replicas, "replicas_min": replicas_min, "durability": durability}
    pool = accepted({"name": ROOT_POOL, "path": "/", "spread": spread, **asked})
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
    checked(directory / CLUSTER, cluster)
    for path in (directory / CLUSTER, directory / "authority", directory / "credentials"):
        if path.exists():
            raise Complaint(f"{path}: is there already; use another directory")
    changes = [Change(None, values.Cluster(identity, now_ns() // 1000)), Change(None, pool)]
    changes += [Change(None, values.Shard(number, pool.name)) for number in range(shards)]

    async def found(authority: Authority) -> None:
        known = authority.view.cluster
        if known is not None:
            raise Complaint(
                f"etcd: holds cluster {known.identity} at {prefix}; choose another --prefix"
            )
        try:
            issued = _lay_files(directory, cluster)
            if not await authority.change([*changes, Change(None, issued)]):
                raise Complaint(
                    f"etcd: somebody founded a cluster at {prefix} just now; choose another --prefix"
                )
        except BaseException:
            _take_back(directory)  # so that the command can be given again
            raise

    converse(etcd, found)
    typer.echo(f"Cluster {identity} with {described(shards, 'shard')}: {directory / CLUSTER}")
    typer.echo(
        f"Keep {directory / 'authority'} safe: who has its key can be anybody in this cluster."
    )
    if replicas == 1:
        typer.echo(
            "One node holds each shard: while it is away, nobody has what is in it. "
            "Change that with: cascadefs cluster pools set root --replicas 3 --replicas-min 2"
        )
    typer.echo(f"Next: cascadefs cluster add NAME DIR --listen HOST:PORT -c {directory}")


def _lay_files(directory: Path, cluster: Cluster) -> Certificate:
    from cascadefs.configuration import CLUSTER
    from storage.transport.certificates import Authority as Signer

    lay(directory / CLUSTER, cluster)
    signer = Signer.create(cluster.cluster, now_ns=now_ns())
    (directory / "authority").mkdir(mode=0o700)
    signer.save(directory / "authority")
    return issue(signer, _operator(cluster.cluster), directory / "credentials")


def _take_back(directory: Path) -> None:
    from cascadefs.configuration import CLUSTER

    (directory / CLUSTER).unlink(missing_ok=True)
    for name in ("authority", "credentials"):
        shutil.rmtree(directory / name, ignore_errors=True)


def _operator(cluster: str) -> Identity:
    """Who asks nodes how they are."""
    from storage.transport import Identity, IdMap, IdRange, Role

    root = IdMap((IdRange(0, 0, 1),))
    return Identity(cluster, Role.CLIENT, "operator", root, root)
