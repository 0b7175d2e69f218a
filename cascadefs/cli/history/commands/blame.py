"""`cascadefs blame PATH[@SPEC]`: which version brought each line, or each range of bytes."""

from __future__ import annotations

import os
from itertools import dropwhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explained, explaining
from cascadefs.cli.history.attribution import Lines, Ranges
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.content import TEXT_BYTES_MAX, text_lines
from cascadefs.cli.history.lineage import Recorded, followed, versions
from cascadefs.cli.history.moment import attribute, canonical, pinned
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import Refusal, refusing
from cascadefs.cli.history.report import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["blame"]

_LINES = [Column("version"), Column("time"), Column("line", right=True), Column("text")]
_RANGES = [
    Column("version"),
    Column("time"),
    Column("start", right=True),
    Column("length", right=True),
]


@refusing()
def blame(
    path: Annotated[str, typer.Argument(metavar="PATH[@SPEC]")],
    when: When = None,
    by_bytes: Annotated[
        bool, typer.Option("--bytes", help="Ranges of bytes by their places, of any file.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Also what it was before renames brought it here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show for each line of a text file which version brought it, and when; with --bytes for each range of bytes.

    Content that was removed and came back counts as of when it came back.

    Example: cascadefs blame cfg.yaml
    """
    moment = present()
    place = pinned(at_when(locate(os.fsencode(path)), when, moment), moment)
    with explaining(place), progress("looking back") as step:
        history = _stepping(_until_removal(_back_from(place, follow=follow)), step)
        newest = next(history, None)
        if newest is None:
            raise explained(place, FileNotFoundError(2, os.strerror(2)))
        out = report(as_json=as_json)
        if by_bytes:
            out.table(_RANGES, _told_ranges(newest, history))
        else:
            out.table(_LINES, _told_lines(newest, history))


def _back_from(place: Place, *, follow: bool) -> Iterator[Recorded]:
    """The versions of a name from the one asked for on, newest first."""
    name = place.now()
    found: Iterable[Recorded] = followed(name, lambda lost: None) if follow else versions(name)
    if place.spec is None:
        return iter(found)
    number = attribute(place.path, "version")
    if number is None:
        raise explained(place, FileNotFoundError(2, os.strerror(2)))
    return dropwhile(lambda version: version.line.version != int(number), found)


def _until_removal(found: Iterable[Recorded]) -> Iterator[Recorded]:
    """What was before a removal is not what came after; but where a rename took it goes on."""
    for version in found:
        if version.line.kind == "delete":
            return
        if not version.line.is_tombstone and version.line.gone is None:
            yield version


def _stepping(found: Iterable[Recorded], step: Callable[[], None]) -> Iterator[Recorded]:
    for version in found:
        step()
        yield version


def _told_lines(
    newest: Recorded, history: Iterator[Recorded]
) -> Iterator[tuple[list[bytes | str], dict[str, Any]]]:
    lines = Lines(_text(newest), newest)
    for version in history:
        if lines.is_done:
            break
        before = text_lines(version.place.path)
        if before is None:  # It was binary before, or too large to compare.
            break
        lines.before(before, version)
    lines.end()
    for number, (line, origin) in enumerate(zip(lines.lines, lines.told, strict=True), start=1):
        assert origin is not None
        text = line.rstrip(b"\r\n")
        time = canonical(origin.line.timestamp)
        yield (
            [origin.place.path, time, str(number), text],
            {
                "path": origin.place.path,
                "version": origin.line.version,
                "time": time,
                "timestamp": origin.line.timestamp,
                "line": number,
                "text": text,
            },
        )


def _text(version: Recorded) -> list[bytes]:
    lines = text_lines(version.place.path)
    if lines is None:
        why = f"it is not text, or larger than {TEXT_BYTES_MAX >> 20} MiB"
        raise Refusal(version.place.path, why, "--bytes tells which version brought which bytes")
    return lines


def _told_ranges(
    newest: Recorded, history: Iterator[Recorded]
) -> Iterator[tuple[list[bytes | str], dict[str, Any]]]:
    now = os.open(newest.place.path, os.O_RDONLY)
    try:
        ranges = Ranges(os.fstat(now).st_size, newest)
        for version in history:
            if ranges.is_done:
                break
            then = os.open(version.place.path, os.O_RDONLY)
            size = os.fstat(then).st_size
            ranges.before(_reader(now), _reader(then), size, version)
            os.close(now)
            now = then
    finally:
        os.close(now)
    ranges.end()
    for start, end, version in ranges.in_order():
        time = canonical(version.line.timestamp)
        yield (
            [version.place.path, time, str(start), str(end - start)],
            {
                "path": version.place.path,
                "version": version.line.version,
                "time": time,
                "timestamp": version.line.timestamp,
                "start": start,
                "length": end - start,
            },
        )


def _reader(file: int) -> Callable[[int, int], bytes]:
    return lambda offset, length: os.pread(file, length, offset)
