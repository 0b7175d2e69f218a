"""`cascadefs gc [--dry-run]`: let go now of what the policies let go, and say what each line of them keeps."""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Annotated, Any

import typer

from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.place import locate
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import Refusal, refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.keeping.setting import PREFIX, explaining

__all__ = ["gc"]

POLL_SECONDS = 0.1

FAILURES_MAX = 3
"""In a row or not, while this waits: one may be a disk that was full for a moment."""

_COLUMNS = [Column("line"), Column("versions", right=True), Column("bytes", right=True)]
_SAYINGS = {
    errno.EPERM: ("only the owner of the mount's root, or root, may do that", ""),
    errno.EOPNOTSUPP: (
        "the nodes of a cluster let history go by themselves, a pass a minute",
        "`cascadefs cluster status` shows how they are",
    ),
}


@refusing()
def gc(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Anywhere on the mount.")] = ".",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be let go.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let go of what the policies let go, now and not at the next pass, and give its space back.

    Printed are the versions of names in directories with a policy, by the line of it that keeps them, and those
    that go (`pruned`, `ephemeral`); bytes are those of their contents, what versions share counted for each. Those that go
    because history holds more than a directory's budget are `budget`, with the bytes that gives back.

    On a cluster the nodes do that, each for the shards it leads; it cannot be asked for.

    Example: cascadefs gc --dry-run mnt
    """
    root = locate(os.fsencode(path)).root
    before = _status(root)
    with explaining(root, _SAYINGS):
        os.setxattr(root, PREFIX + b"gc", b"dry" if dry_run else b"now")
    wanted = before["asked"] + 1  # After that, for a mount of a cluster has no such figures.
    with progress("looking at history") as step:
        while (found := _status(root))["done"] < wanted:
            if found["failures"] >= before["failures"] + FAILURES_MAX:
                why = f"history cannot be let go: {found['trouble']}"
                raise Refusal(
                    root, why, "it is tried again every second; the mount's log says more"
                )
            step()
            time.sleep(POLL_SECONDS)
    rows = []
    for line, tally in found["lines"].items():
        cells: list[bytes | str] = [line, str(tally["versions"]), str(tally["bytes"])]
        rows.append((cells, {"line": line, **tally}))
    report(as_json=as_json).table(_COLUMNS, rows)
    won = found["bytes_won"] - before["bytes_won"]
    if not dry_run and not as_json:
        segments = found["segments_condensed"] - before["segments_condensed"]
        typer.echo(f"{won} bytes of the disk given back, from {segments} segments", err=True)


def _status(root: bytes) -> dict[str, Any]:
    with open(os.path.join(root, b".cascade", b"status"), "rb") as file:
        status = json.load(file)
    found = status.get("store", {}).get("retention")
    if not isinstance(found, dict) or status.get("read_only") or status.get("volatile"):
        raise Refusal(
            root, "nothing is let go on this mount", "it is read-only, or keeps no history"
        )
    return found
