"""What a command prints: a table for a person, aligned text for a program, JSON for one that wants fields.

On a terminal rich draws; anywhere else bytes go out as they are, since a name need not be text. In JSON such bytes
are lone surrogates, which `os.fsencode` turns back.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascadefs.cli.history.refusal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Column", "Report", "is_terminal"]

LINES_AT_ONCE = 256

_STYLES = {"+": "green", "-": "red", "M": "yellow", "R": "cyan"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False


class Report:
    """Standard output, in the form that was asked for."""

    def __init__(self, *, as_json: bool, terminal: bool) -> None:
        self.as_json = as_json
        self.terminal = terminal and not as_json

    def table(
        self,
        columns: Sequence[Column],
        rows: Iterable[tuple[Sequence[bytes | str], dict[str, Any]]],
    ) -> None:
        """Print rows, each given as its cells and as its JSON object."""
        if self.as_json:
            self.lines(self.encoded(document) for _, document in rows)
        elif self.terminal:
            self._draw(columns, [cells for cells, _ in rows])
        else:
            table = [[os.fsencode(cell) for cell in cells] for cells, _ in rows]
            self.lines(_aligned(columns, table))

    def lines(self, lines: Iterable[bytes]) -> None:
        """Print lines, given without their ends, a few at a time."""
        output = sys.stdout.buffer
        for number, line in enumerate(lines, start=1):
            output.write(line + b"\n")
            if number % LINES_AT_ONCE == 0:
                output.flush()
        output.flush()

    def change(self, sign: str, text: bytes | str, document: dict[str, Any]) -> None:
        """Print one change now: its sign and what changed."""
        if self.as_json:
            self.lines([self.encoded(document)])
        elif self.terminal:
            from rich.console import Console  # Slow to import; most uses are not on a terminal.
            from rich.text import Text

            line = Text.assemble((sign, _STYLES.get(sign, "")), " ", printable(text))
            Console().print(line, soft_wrap=True)
        else:
            self.lines([os.fsencode(sign) + b" " + os.fsencode(text)])

    def patch(self, lines: Iterable[bytes]) -> None:
        """Print a unified diff, whose lines have their ends."""
        if not self.terminal:
            self.lines(line.removesuffix(b"\n") for line in lines)
            return
        from rich.console import Console
        from rich.text import Text

        console = Console()
        for line in lines:
            style = "cyan" if line.startswith(b"@@") else _STYLES.get(chr(line[0]), "")
            shown = "\t".join(printable(part) for part in line.rstrip(b"\r\n").split(b"\t"))
            console.print(Text(shown, style), soft_wrap=True)

    @staticmethod
    def encoded(document: dict[str, Any]) -> bytes:
        """A JSON object on one line; bytes in it are names."""
        return json.dumps(document, default=os.fsdecode).encode("ascii")

    def _draw(self, columns: Sequence[Column], rows: Sequence[Sequence[bytes | str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            justify = "right" if column.right else "left"
            table.add_column(column.title, justify=justify, overflow="fold")  # type: ignore[arg-type]  # a Literal
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        Console().print(table)


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[bytes]]) -> Iterator[bytes]:
    last = len(columns) - 1
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(last + 1)]
    if not columns[last].right:
        widths[last] = 0  # A name may end in blanks of its own.
    for row in rows:
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        line = b"  ".join(cells)
        yield line if row[last] else line.rstrip(b" ")
