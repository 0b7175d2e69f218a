"""The commands about how long history is kept: retention, label, hold, purge, gc, du (SEMANTICS 7, 11).

Like those of `history` they work on ordinary paths below a mount and through nothing but the mount: extended
attributes say what is wanted, `.cascade/status` what became of it. `setting` is what they share: reading and writing
one attribute, and what a refusal of it means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.cli.keeping.du import du
from cascadefs.cli.keeping.gc import gc
from cascadefs.cli.keeping.hold import hold
from cascadefs.cli.keeping.label import label
from cascadefs.cli.keeping.purge import purge
from cascadefs.cli.keeping.retention import retention

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(retention)
    app.command()(label)
    app.command()(hold)
    app.command()(purge)
    app.command()(gc)
    app.command()(du)
