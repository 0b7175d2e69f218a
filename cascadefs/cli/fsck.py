"""``fsck`` and ``repair``: say what is wrong with a data directory, and mend what can be mended.

A node's directory is looked at shard by shard. It is not mended here: the node does that when it runs, with what the
other members have.

Exit status, as fsck(8) numbers it: 0 nothing is wrong, 1 mended, 2 damage is left, 8 it could not be looked at.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from storage.inspection import Inspection

__all__ = ["register"]

CLEAN, MENDED, DAMAGED, NOT_LOOKED_AT = 0, 1, 2, 8
_VERDICTS = {CLEAN: "clean", MENDED: "mended", DAMAGED: "damaged"}
_MENDS_ITSELF = "a node mends itself while it runs, with what the other members have: start it"

DataDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="The data directory, or a mountpoint of it; or a node's directory.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("fsck")(fsck)
    app.command("repair")(repair)


def fsck(directory: DataDirectory, as_json: AsJson = False) -> None:
    """Read all of a data directory and say what is wrong; change nothing.

    Exit status: 0 nothing is wrong, 2 damaged, 8 it could not be looked at.
    """
    data = _data_directory(directory)
    in_use = _in_use(data)
    replicas = _replicas(data)
    if replicas:
        sys.exit(_say_replicas(data, replicas, as_json=as_json, in_use=in_use))
    found = _inspected(data, None, in_use=in_use)
    status = DAMAGED if found.damage_count else CLEAN
    _say(data, found, status, as_json=as_json, in_use=in_use)
    if status == DAMAGED and not as_json:
        typer.echo(f"what can be mended without a copy, is by: cascadefs repair {data}")
    sys.exit(status)


def repair(
    directory: DataDirectory,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover", help="Of a log damaged in the middle keep what lies before the damage."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mend what can be mended without losing anything that is whole; nobody may have it mounted.

    Exit status: 0 nothing was wrong, 1 mended, 2 damage is left, 8 it could not be looked at.
    """
    from cascadefs.daemon import SystemClock
    from storage.disk import RealDisk
    from storage.errors import Corruption, Unusable
    from storage.index import LmdbIndex
    from storage.remedy import mend
    from storage.superblock import DirectoryLock

    data = _data_directory(directory)
    if _replicas(data):
        raise _Unlookable(f"{data}: is a node's directory, and {_MENDS_ITSELF}")
    try:
        lock = DirectoryLock(data)
    except Unusable as error:
        raise _Unlookable(str(error)) from error
    try:
        found = _inspected(data, None, in_use=False)
        done: list[str] = []
        left = found
        if found.damage_count or found.remarks or found.index_is_damaged:
            with _Bar("mending") as bar:
                done, left = mend(
                    RealDisk(data),
                    LmdbIndex(data),
                    found,
                    SystemClock(),
                    random.SystemRandom(),
                    boot_id=_boot_id(),
                    recover=recover,
                    progress=bar.update,
                )
    except (Unusable, Corruption) as error:
        status = DAMAGED
        _say(data, found, status, as_json=as_json, done=[f"nothing: {error}"])
        sys.exit(status)
    finally:
        lock.release()
    status = DAMAGED if left.damage_count else MENDED if done else CLEAN
    _say(data, left, status, as_json=as_json, done=done)
    sys.exit(status)


class _Unlookable(Complaint):
    """Not even a verdict."""

    status = NOT_LOOKED_AT


def _data_directory(path: Path) -> Path:
    """The data directory that a path means: itself, or what is mounted there."""
    from cascadefs.cli.mount import data_of
    from cascadefs.fuse import mountpoint as mounts

    resolved = mounts.resolve(path)
    there = mounts.mounted_at(resolved)
    if there is not None and there.is_ours:
        data = data_of(resolved)
        if data is None:
            raise _Unlookable(f"{path}: keeps everything in memory; there is nothing to look at")
        return data
    if not resolved.is_dir():
        raise _Unlookable(f"{path}: no such directory; name a data directory or a mountpoint")
    return resolved


def _replicas(data: Path) -> dict[int, Path]:
    """The directories of the shards that a node keeps here; none if this is no node's directory."""
    return {int(place.name): place for place in sorted(data.glob("shards/[0-9]*"))}


def _in_use(data: Path) -> bool:
    from storage.errors import Unusable
    from storage.superblock import DirectoryLock

    try:
        DirectoryLock.check(data)
    except Unusable:
        return True
    except OSError as error:
        raise _Unlookable(f"{data}: {error.strerror}; fsck has to read all of it") from error
    return False


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _inspected(data: Path, shard: int | None, *, in_use: bool) -> Inspection:
    """What is found in a data directory, or that of a shard's replica.

    LMDB ends the process on some kinds of damage. So a child tries first whether the index can be read to its end.
    """
    from storage.disk import RealDisk
    from storage.errors import Unusable
    from storage.index import LmdbIndex
    from storage.inspection import inspect

    ended = _ends_a_reader(data)
    index = LmdbIndex(data) if ended is None else None
    try:
        with _Bar("reading") as bar:
            found = inspect(
                RealDisk(data),
                index,
                boot_id=_boot_id(),
                shard=shard,
                in_use=in_use,
                progress=bar.update,
            )
    except Unusable as error:
        raise _Unlookable(str(error)) from error
    except OSError as error:
        raise _Unlookable(
            f"{error.filename or data}: {error.strerror or error}; fsck has to read all of it"
        ) from error
    if ended is not None:
        found.index_is_damaged = True
        found.add("index", f"reading it ended the process ({ended})")
    return found


def _ends_a_reader(data: Path) -> str | None:
    """The name of the signal that ends a process which reads the whole index; None if it lives."""
    import signal

    child = os.fork()
    if child == 0:
        status = 0
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)  # LMDB says on standard error why it ends us.
            _read_index(data)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None


def _read_index(data: Path) -> None:
    from storage.disk import RealDisk
    from storage.errors import Corruption
    from storage.index import LmdbIndex, read_mark, why_not

    mark = read_mark(RealDisk(data))
    if mark is None or why_not(mark, _boot_id()) is not None:
        return  # Nobody will open it.
    try:
        table = LmdbIndex(data).view()
        for _ in table.scan(b"\0", b"\xff" * 9):
            pass
    except (Corruption, OSError):
        pass  # That much `inspect` finds and survives.


# --- Words ----------------------------------------------------------------------------------------------------------


def _say(
    data: Path,
    found: Inspection,
    status: int,
    *,
    as_json: bool,
    done: list[str] | None = None,
    in_use: bool = False,
) -> None:
    verdict = _VERDICTS[status]
    if as_json:
        typer.echo(json.dumps(_as_json(data, found, verdict, done, in_use=in_use), indent=2))
        return
    for sentence in done or []:
        typer.echo(f"done: {sentence}")
    for remark in found.remarks:
        typer.echo(f"remark: {remark}")
    for damage in found.damage:
        typer.echo(f"damage in the {damage.where}: {damage.what}")
        for version in damage.versions:
            typer.echo(f"  needed by {version}")
    if found.damage_count > len(found.damage):
        typer.echo(f"and {found.damage_count - len(found.damage):,} more")
    typer.echo(
        f"{data}: {verdict}; {found.records:,} records, {found.payload_bytes:,} bytes of payload and "
        f"{found.index_rows:,} rows of the index are right{'; it is in use' if in_use else ''}"
    )


def _say_replicas(data: Path, replicas: dict[int, Path], *, as_json: bool, in_use: bool) -> int:
    """Look at a node's shards, one after another, and say it; the exit status."""
    status = CLEAN
    shards = []
    for shard, place in replicas.items():
        found = _inspected(place, shard, in_use=in_use)
        of_this = DAMAGED if found.damage_count else CLEAN
        status = max(status, of_this)
        if as_json:
            shards.append(_as_json(place, found, _VERDICTS[of_this], None, in_use=in_use))
        else:
            _say(place, found, of_this, as_json=False, in_use=in_use)
    if as_json:
        typer.echo(
            json.dumps(
                {"directory": str(data), "verdict": _VERDICTS[status], "shards": shards}, indent=2
            )
        )
    elif status == DAMAGED:
        typer.echo(f"{data}: {_MENDS_ITSELF}, and look at `cascadefs cluster status`")
    return status


def _as_json(
    data: Path, found: Inspection, verdict: str, done: list[str] | None, *, in_use: bool
) -> dict[str, Any]:
    return {
        "directory": str(data),
        "verdict": verdict,
        "in_use": in_use,
        "records": found.records,
        "payload_bytes": found.payload_bytes,
        "index_rows": found.index_rows,
        "damage_count": found.damage_count,
        "damage": [damage._asdict() for damage in found.damage],
        "remarks": found.remarks,
        **({"done": done} if done is not None else {}),
    }


class _Bar:
    """How far it has come, on a terminal."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    def update(self, records: int, total: int) -> None:
        """So many records so far, of so many."""
        if self._shown is None:
            if not sys.stderr.isatty():
                return
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._shown = Progress(
                TextColumn(self._word + " {task.completed:,.0f} of {task.total:,.0f} records"),
                BarColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._shown.add_task(self._word, total=total)
            self._shown.start()
        self._shown.update(self._task, completed=records, total=total)
