"""``serve``: a node of a cluster, in the foreground, until a signal ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cascadefs.cli.complaint import Complaint

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("serve")(serve)


def serve(
    config: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="node.toml, or its directory."),
    ] = Path("node.toml"),
    ready_fd: Annotated[
        int | None,
        typer.Option(metavar="N", help="Write a line to this descriptor when ready."),
    ] = None,
    insecure_loopback: Annotated[
        bool,
        typer.Option(help="No certificates: listen on this machine only, for a try-out."),
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve a page for browsers there, whatever node.toml says; its token is in data/page.token.",
        ),
    ] = None,
) -> None:
    """Hold shards of a cluster on this machine."""
    from cascadefs.configuration import NODE, Node, check, load
    from cascadefs.node.serve import NotStarted
    from cascadefs.node.serve import serve as run
    from storage.errors import Unusable

    path = config / NODE if config.is_dir() else config
    try:
        settings = load(path, Node)
        if http is not None:
            settings = msgspec.structs.replace(settings, http=http)
            check(path, settings)
        status = run(settings, ready_fd=ready_fd, insecure=insecure_loopback)
    except (Unusable, NotStarted) as error:
        raise Complaint(str(error)) from error
    raise typer.Exit(status)
