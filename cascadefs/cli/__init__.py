"""The command line: arguments in, words out. What it does is done elsewhere.

Every command imports what it needs when it runs: ``cascadefs --help`` loads neither trio nor pyfuse3.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cascadefs import __version__
from cascadefs.cli import cluster, fsck, history, keeping, mount, page, serve, trigger
from cascadefs.cli.complaint import Complaint

__all__ = ["app", "main"]

app = typer.Typer(
    name="cascadefs",
    help="A POSIX file system whose every file remembers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
mount.register(app)
fsck.register(app)
history.register(app)
trigger.register(app)
keeping.register(app)
serve.register(app)
page.register(app)
cluster.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cascadefs {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line of this process; the entry point of ``cascadefs``."""
    try:
        app()
    except Complaint as complaint:
        print(f"cascadefs: {complaint}", file=sys.stderr)
        sys.exit(complaint.status)
