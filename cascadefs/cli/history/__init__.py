"""The commands about history: log, at, ls, cat, diff, blame, grep, bisect, restore, deleted, put, sync (SEMANTICS 11).

They work on ordinary paths below a mount and through nothing but the mount: virtual paths, the hidden `.log` of a
name, extended attributes. So permissions hold, every user has them, and there is no channel to a daemon. What they
do not know is how the file system keeps history.

From the pure to the printed: `tree` and `change` compare, `attribution` and `halving` find where something came from,
`plan` decides how to restore, `restoration` does it;
`place` and `moment` say which path of the past is meant; `logged`, `lineage` and `ended` read what a name was;
`report` and `refusal` are for the reader; `commands` puts one command together from these in each module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.cli.history.commands.at import at
from cascadefs.cli.history.commands.bisect import bisect
from cascadefs.cli.history.commands.blame import blame
from cascadefs.cli.history.commands.cat import cat
from cascadefs.cli.history.commands.deleted import deleted
from cascadefs.cli.history.commands.diff import diff
from cascadefs.cli.history.commands.grep import grep
from cascadefs.cli.history.commands.log import log
from cascadefs.cli.history.commands.ls import ls
from cascadefs.cli.history.commands.put import put
from cascadefs.cli.history.commands.restore import restore
from cascadefs.cli.history.commands.sync import sync

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(log)
    # An unknown option may be a time: `at -10m`.
    app.command(context_settings={"ignore_unknown_options": True})(at)
    app.command()(ls)
    app.command()(cat)
    app.command()(diff)
    app.command()(blame)
    app.command()(grep)
    # What follows the path is somebody else's command, with options of its own.
    app.command(
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
    )(bisect)
    app.command()(restore)
    app.command()(deleted)
    app.command()(put)
    app.command()(sync)
