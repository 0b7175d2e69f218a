"""The options of ``mount`` that name a cluster instead of a data directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from cascadefs.observer import ClusterSettings

__all__ = ["Cache", "ClusterName", "CredentialsDirectory", "cluster_settings"]

ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="HOST:PORT,...|FILE",
        help="Mount a cluster: some of its nodes, or a mount.toml (or the directory with it) that names them.",
        show_default=False,
    ),
]

CredentialsDirectory = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        metavar="DIR",
        help="With --cluster HOST:PORT: this mount's certificate and key, and the authority's.",
        show_default=False,
    ),
]

Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="With --cluster: keep the index here, so that the next mount need not fetch it whole.",
        show_default=False,
    ),
]


def cluster_settings(
    said: str | None, credentials: Path | None, cache: Path | None
) -> ClusterSettings | None:
    """What was said of a cluster; None if nothing was.

    Raises:
        Complaint: something is missing, or too much; it says what helps.
    """
    from cascadefs.observer import ClusterSettings

    if said is None:
        if credentials is not None or cache is not None:
            raise typer.BadParameter("--credentials and --cache are for --cluster")
        return None
    path = Path(said)
    kept = None if cache is None else Path(os.path.realpath(cache))
    if path.exists():
        if credentials is not None:
            raise typer.BadParameter(f"{said} names the credentials; leave --credentials away")
        return _from_file(path, kept)
    nodes = tuple(word.strip() for word in said.split(",") if word.strip())
    for node in nodes:
        host, colon, port = node.rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise Complaint(
                f"--cluster {said}: {node!r} is neither HOST:PORT nor a file; write node1:7400,node2:7400"
            )
    if credentials is None:
        raise Complaint(
            "--cluster needs --credentials DIR: nodes talk to nobody without a certificate; "
            "make one with: cascadefs cluster permit NAME DIR --mount, on a machine of its operator"
        )
    return ClusterSettings(nodes=nodes, credentials=Path(os.path.realpath(credentials)), cache=kept)


def _from_file(path: Path, cache: Path | None) -> ClusterSettings:
    from cascadefs import configuration
    from cascadefs.observer import ClusterSettings
    from storage.errors import Unusable

    file = path / configuration.MOUNT if path.is_dir() else path
    try:
        told = configuration.load(file, configuration.Mount)
    except Unusable as error:
        raise Complaint(str(error)) from error
    return ClusterSettings(nodes=told.nodes, credentials=Path(told.credentials), cache=cache)
