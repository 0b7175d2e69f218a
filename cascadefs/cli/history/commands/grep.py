"""`cascadefs grep PATTERN PATH ...`: lines that match, now, then, or in any version.

Like grep(1) it ends with 0 if something was found, 1 if nothing, 2 for trouble.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.lineage import versions
from cascadefs.cli.history.moment import canonical, pinned
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import Refusal, refusing, saying
from cascadefs.cli.history.tree import CONTROL, join, node_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cascadefs.cli.history.report import Report

__all__ = ["grep"]

_NOTHING = 1
_TROUBLE = 2

_PEEKED_BYTES = 8192
"""A NUL among the first bytes makes a file binary, as grep(1) has it; its lines are not printed."""


@dataclass(frozen=True, slots=True)
class _Match:
    path: bytes
    line: int  # 0: a binary file matches.
    text: bytes
    timestamp: int | None = None  # Of the version that brought it.


@refusing(status=_TROUBLE)
def grep(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN")],
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH[@SPEC] ...]")] = None,
    history: Annotated[
        bool,
        typer.Option(
            "--history",
            help="In every version, deleted names too (not below deleted directories): each line once, in the "
            "version that brought it.",
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="With --history: in each version that has it.")
    ] = False,
    when: When = None,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i")] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed-strings", "-F", help="PATTERN is text, not an expression.")
    ] = False,
    names: Annotated[
        bool, typer.Option("--files-with-matches", "-l", help="Only the paths.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print lines that match PATTERN, a regular expression as Python has them, as path:number:line.

    Directories are searched with all that is below them. Every path printed opens what was searched.

    Example: cascadefs grep --history 'learning_rate: 0\\.1' configs
    """
    search = _searcher(pattern, ignore_case=ignore_case, fixed=fixed)
    moment = present()
    if history and when is not None:
        raise typer.BadParameter("--history is all of time; -t is one moment of it")
    out = report(as_json=as_json)
    found = troubled = False
    last = b""
    with progress("searching") as step:
        for path in paths or ["."]:
            place = locate(os.fsencode(path))
            with explaining(place):
                if history:
                    files = _histories(place, step)
                    matches = _in_histories(files, search, every=every)
                else:
                    pin = pinned(at_when(place, when, moment), moment)
                    matches = _in_files(_files(pin.path, step), search)
                for match in _told(matches):
                    if match is None:
                        troubled = True
                        continue
                    found = True
                    if not names or match.path != last:
                        _print(out, match, names=names)
                    last = match.path
    if troubled:
        raise typer.Exit(_TROUBLE)
    if not found:
        raise typer.Exit(_NOTHING)


def _searcher(pattern: str, *, ignore_case: bool, fixed: bool) -> Callable[[bytes], bool]:
    text = os.fsencode(pattern)
    try:
        compiled = re.compile(re.escape(text) if fixed else text, re.I if ignore_case else 0)
    except re.error as error:
        raise Refusal(pattern, str(error), "-F takes it as text") from error
    return lambda line: compiled.search(line) is not None


def _told(matches: Iterator[_Match | OSError]) -> Iterator[_Match | None]:
    """The matches; None after saying why something could not be read."""
    for match in matches:
        if isinstance(match, OSError):
            typer.echo(f"cascadefs: {saying(match.filename or b'a file', match)}", err=True)
            yield None
        else:
            yield match


def _print(out: Report, match: _Match, *, names: bool) -> None:
    if out.as_json:
        document: dict[str, Any] = {"path": match.path}
        if match.timestamp is not None:
            document |= {"time": canonical(match.timestamp), "timestamp": match.timestamp}
        if not names:
            document |= {"line": match.line or None, "text": match.text}
        out.lines([out.encoded(document)])
    elif names:
        out.lines([match.path])
    elif match.line:
        out.lines([b"%s:%d:%s" % (match.path, match.line, match.text)])
    else:
        out.lines([b"%s: binary file matches" % match.path])


# --- now, or then ---------------------------------------------------------------------------------------------------


def _files(path: bytes, step: Callable[[], None]) -> Iterator[bytes]:
    """The regular files at and below a path, in the order of their names."""
    pending = [path]
    while pending:
        here = pending.pop()
        node = node_at(here)
        step()
        if node is not None and node.is_directory:
            names = sorted(name for name in os.listdir(here) if name != CONTROL)
            pending += [join(here, name) for name in reversed(names)]
        elif node is not None and node.is_file:
            yield here
        elif node is None and here is path:
            raise FileNotFoundError(2, os.strerror(2), path)


def _in_files(
    files: Iterable[bytes], search: Callable[[bytes], bool]
) -> Iterator[_Match | OSError]:
    for path in files:
        try:
            yield from _matches(path, search)
        except OSError as error:
            error.filename = error.filename or path
            yield error


def _matches(
    path: bytes, search: Callable[[bytes], bool], timestamp: int | None = None
) -> Iterator[_Match]:
    """The matches in one file, a line at a time; at most one in a binary file."""
    with open(path, "rb") as file:
        is_binary = b"\0" in file.peek(_PEEKED_BYTES)[:_PEEKED_BYTES]
        for number, line in enumerate(file, start=1):
            text = line.rstrip(b"\r\n")
            if search(text):
                yield _Match(
                    path, 0 if is_binary else number, b"" if is_binary else text, timestamp
                )
                if is_binary:
                    return


# --- in every version -----------------------------------------------------------------------------------------------


def _histories(place: Place, step: Callable[[], None]) -> Iterator[Place]:
    """The names at and below a place, deleted ones too, but for what was below a directory that is gone."""
    top = place.now()
    node = node_at(top.live)
    step()
    if node is None or not node.is_directory:
        yield top
        return
    inside = top.inside
    present = {name for name in os.listdir(inside.directory or b".") if name != CONTROL}
    ended = set(os.listdir(inside.directory + b".@deleted"))
    for name in sorted(present | ended):
        yield from _histories(replace(inside, name=name), step)


def _in_histories(
    names: Iterable[Place], search: Callable[[bytes], bool], *, every: bool
) -> Iterator[_Match | OSError]:
    for name in names:
        try:
            yield from _in_history(name, search, every=every)
        except OSError as error:
            error.filename = error.filename or name.live
            yield error


def _in_history(name: Place, search: Callable[[bytes], bool], *, every: bool) -> Iterator[_Match]:
    """The matches in the versions of a name, newest first; each line only where the version before has it not.

    Two versions' matching lines are held at a time, however long the history is.
    """
    newer: list[_Match] = []
    for version in versions(name):
        older: list[_Match] = []
        if not version.line.is_tombstone and version.line.gone is None:
            node = node_at(version.place.path)
            if node is not None and node.is_file:  # Not a link that was replaced by a file.
                older = list(_matches(version.place.path, search, version.line.timestamp))
        if every:
            yield from older
            continue
        had = {match.text for match in older}
        yield from (match for match in newer if match.text not in had)
        newer = older
    yield from newer
