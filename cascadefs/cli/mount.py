"""``mount``, ``umount`` and ``status``: look before, say what is wrong and what helps, and hand over to the daemon."""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from cascadefs.cli import joining
from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascadefs.daemon import Settings

__all__ = ["data_of", "register"]

ANSWER_SECONDS: Final = 10.0
"""How long a mount may take to answer a look at it before it is called hanging."""

FLUSH_SECONDS: Final = 120.0
"""How long a daemon may take to save everything after its mount is gone."""

LAZY_SECONDS: Final = 1.0
"""The same after a lazy unmount, where it may have to go on for those who use it."""

PAGE_SECONDS: Final = 0.05
"""Between two looks whether the page is there."""

_T = TypeVar("_T")

Mountpoint = Annotated[Path, typer.Argument(metavar="MOUNTPOINT", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("mount")(mount)
    app.command("umount")(umount)
    app.command("status")(status)


# --- mount --------------------------------------------------------------------------------------------------------


def mount(
    mountpoint: Mountpoint,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where everything is kept; made if missing.", show_default=False
        ),
    ] = None,
    volatile: Annotated[
        bool, typer.Option("--volatile", help="Keep everything in memory, and no past.")
    ] = False,
    cluster: joining.ClusterName = None,
    credentials: joining.CredentialsDirectory = None,
    cache: joining.Cache = None,
    read_only: Annotated[bool, typer.Option("--ro", help="Refuse every change.")] = False,
    recover: Annotated[
        bool,
        typer.Option("--recover", help="Of a damaged log keep what lies before the damage."),
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay here and log to standard error.")
    ] = False,
    door: Annotated[
        str, typer.Option(metavar="auto|kernel|pyfuse3", help="How requests come in.")
    ] = "auto",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            metavar="OPTION,...",
            help="Mount options, such as allow_other.",
            show_default=False,
        ),
    ] = None,
    sync_interval_s: Annotated[
        float,
        typer.Option(
            "--sync-interval",
            metavar="SECONDS",
            min=0.01,
            max=3600.0,
            help="What is committed is on the disk after this at the latest.",
        ),
    ] = 1.0,
    autocommit_s: Annotated[
        float,
        typer.Option(
            "--autocommit",
            metavar="SECONDS",
            min=0.01,
            max=86_400.0,
            help="A file kept open gets a version this long after a write.",
        ),
    ] = 5.0,
    scrub_mib_per_s: Annotated[
        float,
        typer.Option(
            "--scrub-rate",
            metavar="MIB",
            min=0.0,
            max=10_000.0,
            help="How much of the log is read again each second, to find damage; 0: none.",
        ),
    ] = 4.0,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of DIR/daemon.log.", show_default=False),
    ] = None,
    triggers: Annotated[
        str,
        typer.Option(
            metavar="off|owner|root",
            help="Whose scripts in .cascade/watch/ run: nobody's, their owners', root's only.",
        ),
    ] = "off",
    inproc: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger-inproc",
            metavar="DIR",
            help="Let scripts below this directory of the mount run in the daemon itself, unconfined.",
            show_default=False,
        ),
    ] = None,
    cgroup: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Bound each script's processes by a control group (version 2) below this one, which is theirs alone.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve a page for browsers there, such as localhost:7480; the link is printed.",
            show_default=False,
        ),
    ] = "",
    prices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What the page says that things cost.", show_default=False
        ),
    ] = None,
) -> None:
    """Mount a file system; return when it answers."""
    from cascadefs import daemon

    joined = joining.cluster_settings(cluster, credentials, cache)
    if (data is not None) + volatile + (joined is not None) != 1:
        raise typer.BadParameter(
            "give --data DIR, or --volatile, or --cluster, and only one of them"
        )
    if door not in ("auto", "kernel", "pyfuse3"):
        raise typer.BadParameter(f"there is no door {door!r}; there are kernel and pyfuse3")
    given = [word for text in options or [] for word in text.split(",") if word]
    said = [word.removeprefix("triggers=") for word in given if word.startswith("triggers=")]
    triggers = said[-1] if said else triggers
    if triggers not in ("off", "owner", "root"):
        raise typer.BadParameter(f"triggers={triggers}: there are off, owner and root")
    if triggers != "off" and joined is not None:
        raise typer.BadParameter("a cluster's triggers run on its nodes, not on a mount")
    if triggers != "off" and (volatile or read_only or "ro" in given):
        raise typer.BadParameter(
            "triggers need a past and somewhere to write: not with --volatile or --ro"
        )
    if cgroup is not None and not (cgroup / "cgroup.controllers").is_file():
        raise typer.BadParameter(
            f"{cgroup} is no control group of version 2; make one below /sys/fs/cgroup and delegate it (cgroups(7))"
        )
    if http and (data is None or read_only or "ro" in given):
        raise typer.BadParameter(
            "a page is a program: not with --volatile, --ro or --cluster (there nodes serve one, http in node.toml)"
        )
    settings = daemon.Settings(
        mountpoint=_checked_mountpoint(mountpoint),
        data=None if data is None else Path(os.path.realpath(data)),
        cluster=joined,
        read_only=read_only or "ro" in given,
        recover=recover,
        fuse_options=tuple(
            word for word in given if word not in ("ro", "rw") and not word.startswith("triggers=")
        ),
        door=door,
        sync_interval_s=sync_interval_s,
        autocommit_s=autocommit_s,
        scrub_bytes_per_s=int(scrub_mib_per_s * 1024 * 1024),
        log=None if log is None else log.absolute(),
        triggers=triggers,
        inproc=tuple(path.strip("/") for path in inproc or []),
        cgroup=None if cgroup is None else cgroup.absolute(),
        http=http,
        prices=None if prices is None else prices.absolute(),
    )
    if http:
        _check_page(http, settings.prices)
    _check_device()
    if settings.data is not None:
        _check_data(settings.data, settings.mountpoint, read_only=settings.read_only)
    try:
        if foreground:
            sys.exit(daemon.run(settings, _Console(settings), logging.StreamHandler()))
        with _RecoveryBar() as bar:
            daemon.start_detached(settings, bar.update, _say_waiting)
    except daemon.NotStarted as error:
        raise Complaint(str(error)) from error
    if http:
        _print_link(settings.mountpoint)


def _check_page(http: str, prices: Path | None) -> None:
    """What the page would complain of where nobody reads it."""
    from cascadefs.page import Prices, loopback, parse_address
    from storage.errors import Unusable

    try:
        if not loopback(parse_address(http)[0]):
            raise ValueError(f"{http}: beyond this machine a page needs TLS; see `cascadefs page`")
        if prices is not None:
            Prices.load(prices)
    except (Unusable, ValueError) as error:
        raise Complaint(str(error)) from error


def _print_link(mountpoint: Path) -> None:
    """Say where the page is, as soon as it is there."""
    import time

    for _ in range(int(ANSWER_SECONDS / PAGE_SECONDS)):
        told = json.loads((mountpoint / ".cascade/status").read_bytes())["page"] or {}
        if told.get("trouble"):
            break
        if told.get("url"):
            token = Path(told["token"]).read_text(encoding="ascii").strip()
            typer.echo(f"{told['url']}?token={token}")
            return
        time.sleep(PAGE_SECONDS)
    typer.echo(f"{mountpoint}: mounted, but there is no page; the log says why", err=True)


def _checked_mountpoint(path: Path) -> Path:
    """The resolved mountpoint, free to mount on: a dead cascadefs there is removed."""
    from cascadefs.fuse import mountpoint as mounts

    path = mounts.resolve(path)
    there = mounts.mounted_at(path)
    if there is not None and not there.is_ours:
        raise Complaint(
            f"{path}: something else is mounted there ({there.type}); choose another directory"
        )
    if there is not None:
        if not _with_patience(lambda: mounts.is_dead(path), _hanging(path)):
            raise Complaint(
                f"{path}: a cascadefs is mounted there already; "
                f"unmount it with: cascadefs umount {path}"
            )
        _take_down(path, lazy=True)
        _note(f"{path}: removed the mount of a daemon that is gone")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise Complaint(
            f"{path}: {error.strerror}; make the directory first: mkdir {path}"
        ) from error
    if not stat.S_ISDIR(mode):
        raise Complaint(f"{path}: not a directory; name one to mount on")
    return path


def _check_device() -> None:
    if not os.path.exists("/dev/fuse"):
        raise Complaint(
            "/dev/fuse: not there; load it with: modprobe fuse (in a container, pass the device in)"
        )
    if os.geteuid() != 0:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Complaint("/dev/fuse: permission denied; ask whoever runs this machine")
        if shutil.which("fusermount3") is None:
            raise Complaint("fusermount3: not found; install the package fuse3")


def _check_data(data: Path, mountpoint: Path, *, read_only: bool) -> None:
    for inner, outer in ((data, mountpoint), (mountpoint, data)):
        if inner.is_relative_to(outer):
            raise Complaint(
                f"{data}: would hide behind {mountpoint} or hold it; choose a directory beside it"
            )
    if data.exists():
        if not data.is_dir():
            raise Complaint(f"{data}: not a directory; name one for --data")
        if not os.access(data, os.R_OK | os.X_OK | (0 if read_only else os.W_OK)):
            raise Complaint(f"{data}: permission denied; choose a directory of yours")
    elif read_only:
        raise Complaint(f"{data}: not there, and --ro makes nothing; mount it once without --ro")
    elif not data.parent.is_dir():
        raise Complaint(f"{data.parent}: no such directory; make it first: mkdir -p {data.parent}")
    elif not os.access(data.parent, os.W_OK | os.X_OK):
        raise Complaint(f"{data}: cannot be made: permission denied; choose a directory of yours")


class _Console:
    """`daemon.Report` in the foreground."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def progress(self, records: int, total: int) -> None:
        """Nothing: the log says afterwards what was recovered."""

    def waiting(self, why: str) -> None:
        """One line, beside the log."""
        _say_waiting(why)

    def ready(self) -> None:
        """One line for whoever started us and reads it."""
        print(f"ready: {self._settings.mountpoint}", flush=True)


def _say_waiting(why: str) -> None:
    print(f"waiting: {why}", file=sys.stderr, flush=True)


class _RecoveryBar:
    """Shows how far a recovery has come, on a terminal. The daemon tells only if it takes long enough to wonder."""

    def __init__(self) -> None:
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> _RecoveryBar:
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
                TextColumn(
                    "recovering: {task.completed:,.0f} of {task.total:,.0f} records applied"
                ),
                BarColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._shown.add_task("recovering", total=total)
            self._shown.start()
        self._shown.update(self._task, completed=records)


# --- umount -------------------------------------------------------------------------------------------------------


def umount(
    mountpoint: Mountpoint,
    lazy: Annotated[
        bool, typer.Option("--lazy", "-z", help="Also when in use: out of the tree at once.")
    ] = False,
) -> None:
    """Unmount; return when everything is on the disk."""
    from cascadefs.fuse import mountpoint as mounts

    path = mounts.resolve(mountpoint)
    there = mounts.mounted_at(path)
    if there is None:
        raise Complaint(f"{path}: nothing is mounted there; see: findmnt -t fuse.cascadefs")
    if not there.is_ours:
        raise Complaint(f"{path}: not a cascadefs but {there.type}; unmount it with: umount {path}")
    daemon = None
    try:
        if _with_patience(lambda: mounts.is_dead(path), _hanging(path)):
            _take_down(path, lazy=True)
            _note(f"{path}: removed the mount of a daemon that is gone")
            return
        daemon = _process(_with_patience(lambda: _daemon_of(path), _hanging(path)))
    except Complaint:
        if not lazy:
            raise
    _take_down(path, lazy=lazy)
    if daemon is None or _ends_within(daemon, LAZY_SECONDS if lazy else FLUSH_SECONDS):
        return
    if lazy:
        _note(f"{path}: out of the tree; the daemon goes on until nobody uses it any more")
    else:
        raise Complaint(
            f"{path}: unmounted, but the daemon is still saving after {FLUSH_SECONDS:.0f} s; "
            f"see its daemon.log"
        )


def _take_down(path: Path, *, lazy: bool) -> None:
    from cascadefs.fuse import mountpoint as mounts

    try:
        mounts.unmount(path, lazy=lazy)
    except mounts.Busy as error:
        users = ", ".join(mounts.users_of(path))
        raise Complaint(
            f"{path}: in use{' by ' + users if users else ''}; "
            f"end that first, or: cascadefs umount --lazy {path}"
        ) from error
    except mounts.UnmountFailed as error:
        raise Complaint(f"{path}: cannot unmount: {error}; you may have to be root") from error


def _daemon_of(path: Path) -> int | None:
    """The daemon's process; None if that cannot be said."""
    try:
        pid = _read_status(path).get("pid")
    except Complaint:  # it answers errors only
        return None
    return pid if isinstance(pid, int) else None


def _process(pid: int | None) -> int | None:
    """A descriptor of a process, which stays valid when the number is used again; None for what is gone or not to be seen."""
    try:
        return None if pid is None else os.pidfd_open(pid)
    except OSError:
        return None


def _ends_within(daemon: int, seconds: float) -> bool:
    ended = select.poll()
    ended.register(daemon, select.POLLIN)
    return bool(ended.poll(seconds * 1000))


# --- status -------------------------------------------------------------------------------------------------------


def status(
    mountpoint: Mountpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Say how a mount is doing."""
    from cascadefs.fuse import mountpoint as mounts

    path = mounts.resolve(mountpoint)
    there = mounts.mounted_at(path)
    if there is None or not there.is_ours:
        raise Complaint(
            f"{path}: no cascadefs is mounted there; mount one with: cascadefs mount {path} --data DIR"
        )
    found = _with_patience(lambda: _read_status(path), _hanging(path))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_status(found)


def data_of(mountpoint: Path) -> Path | None:
    """The data directory behind a mount; None for one in memory."""
    found = _with_patience(lambda: _read_status(mountpoint), _hanging(mountpoint))
    data = found.get("data")
    return Path(data) if isinstance(data, str) else None


def _read_status(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / ".cascade" / "status").read_bytes())
    except OSError as error:
        raise Complaint(
            f"{path}: the mount does not answer: {error.strerror}; "
            f"if its daemon is gone: cascadefs umount {path}"
        ) from error
    except ValueError as error:
        raise Complaint(
            f"{path}: its status is not JSON: {error}; it may be another version's"
        ) from error
    if not isinstance(found, dict):
        raise Complaint(f"{path}: its status is no object; it may be another version's")
    return found


def _print_status(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(found):
        table.add_row(f"[bold]{name}[/bold]", value)
    Console().print(table)


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know first; the rest is in the JSON."""
    from rich.filesize import decimal
    from rich.markup import escape

    store = found.get("store", {})
    requests: Mapping[str, int] = found.get("requests", {})
    busiest = sorted(requests.items(), key=lambda item: -item[1])[:5]
    errors: Mapping[str, int] = found.get("errors", {})
    behind = store.get("records", 0) - store.get("records_durable", 0)
    held = "" if found.get("cluster") else f"{decimal(store.get('log_bytes', 0))}, "
    rows = [
        ("mountpoint", str(found.get("mountpoint"))),
        _place(found),
        (
            "daemon",
            f"process {found.get('pid')}, up {_duration(found.get('uptime_s', 0.0))}, door {found.get('door')}",
        ),
        ("live", f"{store.get('live_inodes', 0):,} inodes, {decimal(store.get('live_bytes', 0))}"),
        ("log", f"{held}{store.get('records', 0):,} records, {behind:,} not synced"),
        ("open", f"{found.get('open_files', 0):,} files, {found.get('drafts', 0):,} drafts"),
        (
            "requests",
            f"{sum(requests.values()):,}: "
            + ", ".join(f"{name} {count:,}" for name, count in busiest),
        ),
        ("errors", ", ".join(f"{name} {count:,}" for name, count in errors.items()) or "none"),
    ]
    if page := found.get("page"):
        rows.append(("page", str(page.get("url") or page.get("trouble") or "starting")))
    if damage := (store.get("scrub") or {}).get("damage"):
        rows.append(
            (
                "damage",
                f"{damage:,} places in the log; see: cascadefs fsck {found.get('mountpoint')}",
            )
        )
    if trouble := found.get("trouble") or (found.get("cluster") or {}).get("trouble"):
        rows.append(("trouble", str(trouble)))
    rows.extend(("recovery", sentence) for sentence in store.get("recovery", []))
    return [(name, escape(value)) for name, value in rows]


def _place(found: Mapping[str, Any]) -> tuple[str, str]:
    """Where everything is kept."""
    if cluster := found.get("cluster"):
        nodes = cluster["nodes"].items()
        reached = ", ".join(name if is_reached else f"{name} (away)" for name, is_reached in nodes)
        return "cluster", f"{len(found['store'].get('shards', ()))} shards; nodes {reached}"
    return "data", str(found.get("data") or "in memory")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


# --- what they share ----------------------------------------------------------------------------------------------


def _note(text: str) -> None:
    print(f"cascadefs: {text}", file=sys.stderr)


def _hanging(path: Path) -> Complaint:
    return Complaint(
        f"{path}: the mount does not answer; one of a cluster may wait for it (cascadefs cluster status); "
        f"if its daemon hangs, kill it, then: cascadefs umount {path}"
    )


def _with_patience(call: Callable[[], _T], otherwise: Complaint) -> _T:
    """What `call` returns or raises; `otherwise` if it takes too long.

    It runs in a process of its own that is left behind then: whoever waits for a daemon that has begun with its request
    cannot be killed, and a process that has such a thread does not end.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _answer(call, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answered, _, _ = select.select([pipe], [], [], ANSWER_SECONDS)
        if not answered:
            raise otherwise
        told = pipe.read()
    os.waitpid(child, 0)
    is_value, value = pickle.loads(told)
    if not is_value:
        raise value
    answer: _T = value
    return answer


def _answer(call: Callable[[], object], writing: int) -> NoReturn:
    """In the child: say what came of it, and end. Nobody waits for what else is open here."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        try:
            told = pickle.dumps((True, call()))
        except Exception as error:
            told = pickle.dumps((False, error))
        with open(writing, "wb") as pipe:
            pipe.write(told)
    finally:
        os._exit(0)
