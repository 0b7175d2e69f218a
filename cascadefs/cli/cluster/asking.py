"""What the commands of a cluster share: which configuration, and one conversation with etcd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from cascadefs.configuration import Cluster, Etcd, Node
    from storage.membership.contract import Authority
    from storage.membership.gateway import Gateway
    from storage.membership.values import View

__all__ = [
    "Config",
    "Lost",
    "converse",
    "credentials_of",
    "described",
    "etcd_of",
    "founded",
    "gateway_of",
    "operator",
]

ENVIRONMENT = "CASCADEFS_CLUSTER"
PLACES = (Path("cluster.toml"), Path("/etc/cascadefs/cluster.toml"))

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help=f"cluster.toml, or its directory; else ${ENVIRONMENT}, else here, else /etc/cascadefs.",
        show_default=False,
    ),
]

T = TypeVar("T")


class Lost(Complaint):
    """The cluster could not be asked."""

    status = 2


def _path(config: Path | None) -> Path:
    from cascadefs.configuration import CLUSTER

    if config is None and (told := os.environ.get(ENVIRONMENT)):
        config = Path(told)
    if config is None:
        config = next((place for place in PLACES if place.exists()), None)
    if config is None:
        raise Complaint(
            "no cluster.toml here or in /etc/cascadefs; name it with --config, or found a cluster with `cascadefs cluster init`"
        )
    return config / CLUSTER if os.path.isdir(config) else config


def operator(config: Path | None) -> Cluster:
    """The operator's configuration.

    Raises:
        Complaint: there is none, or it is not one.
    """
    from cascadefs.configuration import Cluster, load
    from storage.errors import Unusable

    try:
        return load(_path(config), Cluster)
    except Unusable as error:
        raise Complaint(str(error)) from error


def etcd_of(config: Path | None) -> tuple[Etcd, str]:
    """How to reach etcd, and the cluster's identity: by the operator's configuration, or a node's."""
    from cascadefs.configuration import NODE, Node, load
    from storage.errors import Unusable

    path = _path(config)
    try:
        found: Cluster | Node = load(path, Node) if path.name == NODE else operator(config)
    except Unusable as error:
        raise Complaint(str(error)) from error
    return found.etcd, found.cluster


def credentials_of(config: Path | None) -> Path | None:
    """Where the operator's credentials lie; None if the configuration is a node's, whose name is not to be used."""
    from cascadefs.configuration import NODE

    path = _path(config)
    return None if path.name == NODE else path.parent / "credentials"


def gateway_of(etcd: Etcd) -> AbstractAsyncContextManager[Gateway]:
    """etcd itself.

    Raises:
        OSError, ssl.SSLError: its certificates cannot be used.
    """
    from storage.membership.http import open_gateway, tls_context

    tls = None
    if etcd.ca:
        certificate = Path(etcd.certificate) if etcd.certificate else None
        tls = tls_context(Path(etcd.ca), certificate, Path(etcd.key) if etcd.key else None)
    return open_gateway(etcd.endpoints, etcd.prefix, tls=tls, timeout_s=etcd.timeout_s)


def converse(etcd: Etcd, work: Callable[[Authority], Awaitable[T]]) -> T:
    """Open the authority, read it, and do something with it.

    Raises:
        Lost: etcd does not answer, or its certificates cannot be used.
        Complaint: whatever `work` complains of.
    """
    import logging
    import ssl
    import time

    import trio

    from storage.membership.contract import Unavailable
    from storage.membership.etcd import open_etcd

    # What a node would note in its log is said here as the command's own failure.
    logging.getLogger("storage.membership").addHandler(logging.NullHandler())
    answers: list[T] = []
    troubles: list[Complaint] = []

    async def talk() -> None:
        async with (
            gateway_of(etcd) as gateway,
            open_etcd(gateway, time.monotonic_ns) as authority,
        ):
            # Caught in here: from the context managers' nurseries it would come in groups.
            try:
                await authority.read()
                answers.append(await work(authority))
            except Complaint as complaint:
                troubles.append(complaint)
            except Unavailable as error:
                unknown = "; it may have been done: look with `cascadefs cluster status`"
                troubles.append(Lost(f"etcd: {error}{unknown if error.outcome_unknown else ''}"))

    try:
        trio.run(talk)
    except (OSError, ssl.SSLError) as error:
        raise Lost(
            f"etcd's certificates ({etcd.ca}): {error}; mend [etcd] in the configuration"
        ) from error
    if troubles:
        raise troubles[0]
    return answers[0]


def founded(view: View, identity: str | None = None) -> View:
    """A view of a cluster that was founded, and is the one meant.

    Raises:
        Complaint: it is none, or another.
    """
    if view.cluster is None:
        raise Complaint(
            "etcd: knows no cluster at this prefix; found one with `cascadefs cluster init`"
        )
    if identity is not None and view.cluster.identity != identity:
        raise Complaint(
            f"etcd: holds cluster {view.cluster.identity} and not {identity}; is this the right etcd and prefix?"
        )
    return view


def described(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
