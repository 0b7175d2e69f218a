"""``trigger ...`` and ``why``: scripts of a mount, by way of its files alone (docs/TRIGGERS.md 11).

What is asked is read from ``.cascade/status``, what is told is written to ``.cascade/ctl``; so whoever may read and
write those files may do this, and nobody else.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cascadefs.cli.afar import afar
from cascadefs.cli.base import base_of, command, events_of, follow, mount_of, provenance, status_of
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.remake import remake
from cascadefs.cli.standing import plain
from cascadefs.cli.top import Place, Where, console, table, top

__all__ = ["register"]

DEPTH_MAX: Final = 40
"""Of the tree that `why` prints; hops are limited below that."""

REPLAYED_EVENTS_MAX: Final = 2500
"""Named one by one: a command of 64 KiB takes them."""

TIMESTAMP_DIGITS: Final = 12
"""As many, and a number is a time in microseconds; fewer, and it counts events."""

_SPAN = re.compile(r"(.+)\.\.(.+)")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        name="trigger",
        help="Scripts in .cascade/watch/ that run when files change.",
        no_args_is_help=True,
    )
    group.command("list")(list_)
    group.command("test")(try_)
    group.command("replay")(replay)
    group.command("retry")(retry)
    group.command("kill")(kill)
    for word, said in (
        ("drop", "Forget a dead letter."),
        ("skip", "Let an event that waits count as done."),
        ("pause", "Start no more runs of a binding; its events wait."),
        ("resume", "Go on with a binding that was paused."),
    ):
        group.command(word, help=said)(_teller(word))
    app.add_typer(group)
    app.command("why")(why)
    app.command("remake")(remake)
    app.command("top")(top)


def list_(place: Place = None, where: Where = Path()) -> None:
    """Show every binding of the mount: what it watches, how far it is, what went wrong."""
    status = status_of(place or where)
    out = console()
    out.print(table(status, out.width))
    for base in status.get("bases", []):
        for name, problem in base["problems"].items():
            said = f"/{base['path']}: {name} is not active: {problem['message']}"
            out.print(plain(said), style="red")
        for warning in base["warnings"]:
            out.print(plain(f"/{base['path']}: {warning}"), style="yellow")


def _teller(word: str) -> Any:
    def tell(
        name: Annotated[
            str, typer.Argument(metavar="NAME", help="As `trigger list` and failed/ show it.")
        ],
        where: Where = Path(),
    ) -> None:
        command(where, f"{word} {name}")

    return tell


def retry(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="BINDING/EVENT, as failed/ shows it.")
    ],
    as_was: Annotated[
        bool, typer.Option("--as-was", help="With the script that it failed with.")
    ] = False,
    where: Where = Path(),
) -> None:
    """Run a dead letter again, with the newest script."""
    command(where, f"retry {'--as-was ' if as_was else ''}{name}")


def kill(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="As `top` and .cascade/status show it.")
    ],
    where: Where = Path(),
) -> None:
    """End a run; its event becomes a dead letter. Returns when it has ended, and says how, where .cascade/events can be read."""
    if afar(where) is not None:
        command(where, f"kill {run}")
        typer.echo(plain(f"{run}: told to end"))
        return
    happening = follow(where)
    command(where, f"kill {run}")
    told = next((line for line in happening if line.get("run") == run), None)
    if told is None:
        raise Complaint(f"{run}: told to end, and it has not yet; see .cascade/events")
    killed = told["event"] == "failed" and told.get("kind") == "killed"
    typer.echo(plain(f"{run}: {'ended' if killed else 'had ended by itself'}"))


def replay(
    binding: Annotated[str, typer.Argument(metavar="BINDING", help="As `trigger list` shows it.")],
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="UTC, as 2026-01-05T10:00.")
    ] = None,
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="Or now.")] = "now",
    events: Annotated[
        str | None,
        typer.Option(
            metavar="N..M|FROM..TO|FILE",
            help="Numbers (seq) in .cascade/events; two times; or lines kept of it.",
        ),
    ] = None,
    where: Where = Path(),
) -> None:
    """Run a binding once more for events of the past, with its newest script."""
    if (since is None) == (events is None):
        raise typer.BadParameter("say --from TIME, or --events")
    span = _SPAN.fullmatch(events or "")
    if span and not os.path.lexists(events or "") and not _are_numbers(span):
        since, until = span[1], span[2]
    if since is not None:
        command(where, f"replay {binding} from {since} to {until}")
    else:
        assert events is not None, "or there is a time"
        _replay_events(where, binding, _lines(events, where), events)


def _are_numbers(span: re.Match[str]) -> bool:
    """Whether a span counts events, and does not name times."""
    return span[1].isdigit() and span[2].isdigit() and len(span[1]) < TIMESTAMP_DIGITS


def _replay_events(where: Path, binding: str, lines: list[dict[str, Any]], which: str) -> None:
    """Those of the lines that are events of the binding, each once."""
    wanted = binding.rpartition("/")[2]
    ids = {
        line["id"]: None
        for line in lines
        if line.get("event") == "event"
        and wanted in (line["binding"], line["binding"].partition(":")[0])
    }
    if not ids:
        raise Complaint(f"{binding}: none of the events of {which} is its")
    if len(ids) > REPLAYED_EVENTS_MAX:
        raise Complaint(f"{binding}: more than {REPLAYED_EVENTS_MAX} events; say --from and --to")
    places = " ".join(event.rpartition("/")[2] for event in ids)
    command(where, f"replay {binding} events {places}")


def try_(
    script: Annotated[
        Path,
        typer.Argument(metavar="SCRIPT", help="A Python script; with --put an executable, too."),
    ],
    put: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=TEXT|PATH=@FILE", help="A file to be written, in order."),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="N..M|FILE",
            help="Instead: numbers (seq) in .cascade/events of a mount, or lines kept of it.",
        ),
    ] = None,
    where: Where = Path(),
) -> None:
    """Run a script in memory and show what it would do, for files that are not there or for events that happened.

    Of events it says how the outputs differ from what was written then. Touches nothing.
    """
    if (put is None) == (events is None):
        raise typer.BadParameter("say --put PATH=TEXT, or --events")
    if events is not None:
        _rehearse(script, events, where)
        return
    assert put is not None, "or there are events"
    from cascadefs.cli.trial import tried

    files = []
    for word in put:
        path_text, equals, text = word.partition("=")
        if not equals:
            raise typer.BadParameter(f"{word}: say PATH=TEXT or PATH=@FILE")
        try:
            content = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        except OSError as error:
            raise Complaint(f"{text[1:]}: {error.strerror}") from error
        files.append((path_text, content))
    cascade = tried(script, files)
    given = {path_text for path_text, _ in files}
    for path_text in cascade.files():
        versions = [one for one in cascade.versions(path_text) if one is not None]
        if path_text not in given and versions:
            typer.echo(f"{path_text}@v{cascade.version(path_text)}  {len(versions[-1])} bytes")
    for letter in cascade.failed:
        typer.echo(f"failed: {letter.event.path}@v{letter.event.version}: {letter.message}")
        typer.echo(letter.traceback)
    if cascade.failed:
        raise typer.Exit(1)


def _rehearse(script: Path, which: str, where: Path) -> None:
    from cascadefs.cli.rehearsal import rehearse

    if script.suffix != ".py":
        raise Complaint(f"{script}: events are for Python scripts; try an executable with --put")
    same = True
    for line in rehearse(script, base_of(where), _lines(which, where)):
        typer.echo(plain(f"{line.event}: {line.said}"))
        same = same and line.is_same
    if not same:
        raise typer.Exit(1)


def _lines(which: str, where: Path) -> list[dict[str, Any]]:
    """Lines of `events`: by their numbers, or kept in a file."""
    span = _SPAN.fullmatch(which)
    if span and span[1].isdigit() and span[2].isdigit() and not os.path.lexists(which):
        first, last = int(span[1]), int(span[2])
        return [line for line in events_of(where) if first <= line["seq"] <= last]
    try:
        lines = [json.loads(line) for line in Path(which).read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise Complaint(f"{which}: {error}; say N..M, or a file of events") from error
    return [line for line in lines if isinstance(line, dict)]


def why(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a version of one.")],
) -> None:
    """Show which run made a file, from what, and what made that: a tree down to what programs wrote."""
    from rich.console import Console
    from rich.tree import Tree

    known = provenance(path)
    if known is None:
        if not path.exists():
            raise Complaint(f"{path}: there is no such file")
        typer.echo(plain(f"{path}: written by a program"))
        return
    tree = Tree(plain(str(path)))
    _grow(tree, known, mount_of(path), 0)
    Console(markup=False, emoji=False).print(tree)


def _grow(tree: Any, known: dict[str, Any], root: Path, depth: int) -> None:
    run = tree.add(
        f"{plain(known['binding'])}  script {known['script_id'][:8]}  cut {known['cut']}  "
        f"attempt {known['attempt']}  hops {known['hops']}"
    )
    triggers = known["triggers"]
    for reference in [*triggers, *known.get("reads", [])]:
        label = f"{reference}  (trigger)" if reference in triggers else reference
        node = run.add(plain(label))
        source = root / known["base"] / reference.removesuffix("@latest")
        before = provenance(source) if depth < DEPTH_MAX and not reference.endswith("@v0") else None
        if before is not None:
            _grow(node, before, root, depth + 1)
