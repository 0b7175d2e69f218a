"""``page``: a view of a store in a browser, served by this process, in the foreground."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.client import Client
    from cascadefs.page import Listening, Source

__all__ = ["register"]

STORE: Final = "cascadefs.json"
"""In every data directory (FORMAT); one that is none yet is not made for a page."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("page")(page)


def page(
    where: Annotated[
        Path, typer.Argument(metavar="WHERE", help="A mountpoint, a data directory, a mount.toml.")
    ],
    http: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Where to listen.")
    ] = "127.0.0.1:7480",
    token: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep the token there; else each start has one of its own."
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="A name by which browsers reach this machine."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve https, with this chain of PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What things cost: a TOML table.")
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Without TLS beyond this machine, too: behind a proxy of yours."
        ),
    ] = False,
    attached: Annotated[bool, typer.Option("--attached", hidden=True)] = False,
) -> None:
    """Show a store in a browser: its files at any time, its triggers, how it is.

    It sees and does what you may. Whoever has the link it prints is you.
    """
    import trio

    from cascadefs.page import Prices, link_of, serve, token_at
    from storage.errors import Unusable

    try:
        listening = _listening(http, tuple(name or ()), certificate, key, plain=plain)
        secret = token_at(token)
        table = None if prices is None else Prices.load(prices)
    except (Unusable, ValueError) as error:
        raise Complaint(str(error)) from error
    except OSError as error:
        raise Complaint(f"{error.filename or http}: {error.strerror or error}") from error
    scheme = "https" if listening.tls is not None else "http"

    async def run(source: Source) -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve, source, listening, secret, table)
            host = next(iter(listening.names), listening.host)
            if attached:
                said: dict[str, str] = {"url": link_of(scheme, host, port, "").partition("?")[0]}
                print(json.dumps(said), flush=True)
                await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
                nursery.cancel_scope.cancel()
            else:
                typer.echo(link_of(scheme, host, port, secret))

    with _opened(where) as source, contextlib.suppress(KeyboardInterrupt):
        try:
            trio.run(run, source)
        except* OSError as errors:
            raise Complaint(f"{http}: {errors.exceptions[0]}") from errors


def _listening(
    http: str,
    names: tuple[str, ...],
    certificate: Path | None,
    key: Path | None,
    *,
    plain: bool,
) -> Listening:
    from cascadefs.page import Listening, certified, loopback, parse_address

    host, port = parse_address(http)
    tls = None
    if certificate is not None:
        tls = certified(certificate, key)
    elif not loopback(host) and not plain:
        raise ValueError(
            f"{http}: others could read along: give --certificate and --key, or listen on 127.0.0.1 and come by "
            "`ssh -L 7480:localhost:7480`, or say --plain"
        )
    return Listening(host=host, port=port, names=names, tls=tls)


@contextlib.contextmanager
def _opened(where: Path) -> Iterator[Source]:
    from cascadefs import connect
    from storage.errors import Unusable

    is_mount, is_data = (os.path.exists(where / name) for name in (".cascade/status", STORE))
    if not (is_mount or is_data or (where.suffix == ".toml" and os.path.isfile(where))):
        raise Complaint(
            f"{where}: nothing to show: name a mountpoint, a data directory, or a cluster's mount.toml"
        )
    try:
        client = connect(where)
    except Unusable as error:
        raise Complaint(str(error)) from error
    except OSError as error:
        raise Complaint(f"{where}: {error.strerror or error}") from error
    source: Source
    if where.suffix == ".toml":
        source = _Cluster(client, where)
    elif is_mount:
        source = _Mounted(client, where)
    else:
        source = _Unmounted(client, where)
    with client:
        yield source


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class _Unmounted:
    """A data directory: files and their past, and nothing that runs."""

    def __init__(self, client: Client, where: Path) -> None:
        self.client = client
        self.name = str(where)
        self.user = _user()

    def status(self) -> dict[str, Any]:
        """See `Source`."""
        return {}

    def command(self, base: str, line: str) -> None:
        """See `Source`."""
        from cascadefs.page import Refused

        raise Refused("nothing runs here: the store is not mounted")


class _Mounted(_Unmounted):
    """A mount: what its `.cascade` tells and takes, too."""

    def __init__(self, client: Client, where: Path) -> None:
        super().__init__(client, where)
        self._root = where

    def status(self) -> dict[str, Any]:
        """See `Source`."""
        from cascadefs.page.board import mounted

        told = json.loads((self._root / ".cascade/status").read_bytes())
        return mounted(told, os.uname().nodename)

    def command(self, base: str, line: str) -> None:
        """See `Source`."""
        from cascadefs.cli.base import command
        from cascadefs.page import Refused

        try:
            command(self._root / base, line)
        except Complaint as complaint:
            raise Refused(str(complaint)) from complaint


class _Cluster(_Unmounted):
    """A cluster, as its nodes tell."""

    def __init__(self, client: Client, where: Path) -> None:
        from cascadefs.configuration import Mount, load

        super().__init__(client, where)
        self._told = load(where, Mount)

    def status(self) -> dict[str, Any]:
        """See `Source`."""
        import trio

        from cascadefs.cli.cluster.figures import figures_at
        from cascadefs.page.board import clustered

        credentials = Path(self._told.credentials)
        return clustered(trio.run(figures_at, self._told.nodes, credentials))

    def command(self, base: str, line: str) -> None:
        """See `Source`."""
        from cascadefs.page import Refused

        raise Refused("scripts run on the nodes: use a node's page (http in node.toml)")
