"""``trigger ...``, ``why`` and ``top``: scripts of a mount, by way of its files alone (docs/TRIGGERS.md 11).

What is asked is read from ``.cascade/status``, what is told is written to ``.cascade/ctl``; so whoever may read and
write those files may do this, and nobody else.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import HEADINGS, is_number, plain, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

__all__ = ["register"]

FROM: Final = "user.cascade.from"
DEPTH_MAX: Final = 40
"""Of the tree that `why` prints; hops are limited below that."""

Where = Annotated[
    Path,
    typer.Option("--in", metavar="DIR", help="A directory with scripts, or anything below it."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        name="trigger",
        help="Scripts in .cascade/watch/ that run when files change.",
        no_args_is_help=True,
    )
    group.command("list")(list_)
    group.command("test")(test)
    group.command("replay")(replay)
    for word, said in (
        ("retry", "Run a dead letter again, with the newest script."),
        ("drop", "Forget a dead letter."),
        ("skip", "Let an event that waits count as done."),
        ("pause", "Start no more runs of a binding; its events wait."),
        ("resume", "Go on with a binding that was paused."),
        ("kill", "End a run; its event becomes a dead letter."),
    ):
        group.command(word, help=said)(_teller(word))
    app.add_typer(group)
    app.command("why")(why)
    app.command("top")(top)


def list_(where: Where = Path()) -> None:
    """Show every binding of the mount: what it watches, how far it is, what went wrong."""

    status = _status(where)
    console = _console()
    console.print(_table(status))
    for base in status.get("bases", []):
        for name, problem in base["problems"].items():
            said = f"/{base['path']}: {name} is not active: {problem['message']}"
            console.print(plain(said), style="red")
        for warning in base["warnings"]:
            console.print(plain(f"/{base['path']}: {warning}"), style="yellow")


def _teller(word: str) -> Any:
    def tell(
        name: Annotated[
            str, typer.Argument(metavar="NAME", help="As `trigger list` and failed/ show it.")
        ],
        where: Where = Path(),
    ) -> None:
        _tell(where, f"{word} {name}")

    return tell


def replay(
    binding: Annotated[str, typer.Argument(metavar="BINDING", help="As `trigger list` shows it.")],
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="UTC, as 2026-01-05T10:00.")],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="Or now.")] = "now",
    where: Where = Path(),
) -> None:
    """Run a binding once more for every event of a span of time, with its newest script."""
    _tell(where, f"replay {binding} from {since} to {until}")


def test(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="A Python script.")],
    put: Annotated[
        list[str],
        typer.Option(metavar="PATH=TEXT|PATH=@FILE", help="A file to be written, in order."),
    ],
) -> None:
    """Run a script in memory for files that are not there, and show what it would do. Touches nothing."""
    import trio

    from triggers.testing import Cascade

    cascade = Cascade()
    for path in (
        sorted((script.parent / "lib").rglob("*")) if (script.parent / "lib").is_dir() else []
    ):
        if path.is_file() and "__pycache__" not in path.parts:
            below = path.relative_to(script.parent).as_posix()
            cascade.put(f".cascade/watch/{below}", path.read_bytes())
    try:
        cascade.script(script.name, script.read_text(encoding="utf-8"))
    except OSError as error:
        raise Complaint(f"{script}: {error.strerror}") from error
    trio.run(cascade.run_until_idle)
    for name, problem in cascade.problems.items():
        raise Complaint(f"{name}: {problem}")
    given = set()
    for word in put:
        path_text, equals, text = word.partition("=")
        if not equals:
            raise typer.BadParameter(f"{word}: say PATH=TEXT or PATH=@FILE")
        content = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        cascade.put(path_text, content)
        given.add(path_text)
        trio.run(cascade.run_until_idle)
    for path_text in cascade.files():
        versions = [one for one in cascade.versions(path_text) if one is not None]
        if path_text not in given and versions:
            typer.echo(f"{path_text}@v{cascade.version(path_text)}  {len(versions[-1])} bytes")
    for letter in cascade.failed:
        typer.echo(f"failed: {letter.event.path}@v{letter.event.version}: {letter.message}")
        typer.echo(letter.traceback)
    if cascade.failed:
        raise typer.Exit(1)


def why(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a version of one.")],
) -> None:
    """Show which run made a file, from what, and what made that: a tree down to what programs wrote."""
    from rich.console import Console
    from rich.tree import Tree

    known = _from(path)
    if known is None:
        if not path.exists():
            raise Complaint(f"{path}: there is no such file")
        typer.echo(plain(f"{path}: written by a program"))
        return
    tree = Tree(plain(str(path)))
    _grow(tree, known, _mount_of(path), 0)
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
        before = _from(source) if depth < DEPTH_MAX and not reference.endswith("@v0") else None
        if before is not None:
            _grow(node, before, root, depth + 1)


def top(
    where: Where = Path(),
    seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print a table, and end.")] = False,
) -> None:
    """Watch the bindings of a mount: how far they are, what runs, and end runs that should not go on."""
    status = _status(where)
    if once:
        _console().print(_table(status))
        return
    try:
        from cascadefs.cli.board import Board
    except ModuleNotFoundError as error:
        raise Complaint("textual is not installed: scripts/setup top, or say --once") from error
    Board(lambda: _status(where), lambda line: _tell(where, line), seconds).run()


# --- the mount's files ------------------------------------------------------------------------------------------------


def _mount_of(path: Path) -> Path:
    """The root of the mount a path lies on."""
    here = Path(os.path.abspath(path))
    while not os.path.ismount(here):
        here = here.parent
    return here


def _status(where: Path) -> dict[str, Any]:
    root = _mount_of(where)
    try:
        whole = json.loads((root / ".cascade/status").read_bytes())
    except (OSError, ValueError) as error:
        raise Complaint(f"{where}: not on a cascadefs mount; say --in DIR") from error
    status: dict[str, Any] = whole.get("triggers", {})
    if status.get("mode", "off") == "off":
        raise Complaint(f"{root}: mounted without triggers; mount it with --triggers=owner")
    return status


def _bases_above(where: Path) -> Iterator[Path]:
    here = Path(os.path.abspath(where))
    root = _mount_of(here)
    while True:
        yield here
        if here == root:
            return
        here = here.parent


def _tell(where: Path, line: str) -> None:
    for base in _bases_above(where):
        control = base / ".cascade/ctl"
        if not os.path.lexists(control):
            continue
        try:
            with control.open("wb", buffering=0) as file:
                file.write(line.encode(errors="surrogateescape") + b"\n")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise Complaint(f"{control}: {error.strerror}") from error
            raise Complaint(_reason(base) or f"{control}: not understood: {line}") from error
        return
    raise Complaint(f"{where}: no directory with scripts here or above; say --in DIR")


def _reason(base: Path) -> str | None:
    """What the last command that could not be done was answered with."""
    for line in reversed((base / ".cascade/events").read_bytes().splitlines()):
        told = json.loads(line)
        if told["event"] == "refused":
            return str(told["message"])
    return None


def _from(path: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads(os.getxattr(path, FROM))
    except (OSError, ValueError):
        return None
    return known


def _console() -> Console:
    """Prints names and messages as they are; into a pipe as wide as a table wants to be."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(markup=False, emoji=False, width=wide)


def _table(status: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    found = rows(status)
    for at, heading in enumerate(HEADINGS):
        longest = max((len(row.cells[at]) for row in found), default=0)
        table.add_column(
            heading,
            justify="right" if is_number(heading) else "left",
            # What commands take must be whole; the patterns, last, take what room is left.
            min_width=longest if heading == "binding" else 16 if heading == HEADINGS[-1] else None,
            overflow="fold",
        )
    for row in found:
        table.add_row(*row.cells)
    return table
