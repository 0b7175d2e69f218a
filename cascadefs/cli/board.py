"""The board of ``cascadefs top``: bindings, runs and the lines of a sweep, looked at now and then, and keys to end them.

It knows few calls, which answer how all is or tell a command; so tests drive it without a mount.
Source: docs/TRIGGERS.md 11; Textual's guide for widgets and its pilot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App
from textual.widgets import DataTable, Footer, Static

from cascadefs.cli import lines
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import HEADINGS, is_number, plain, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["Board"]


class Board(App[None]):
    """See the module."""

    TITLE: str | None = "cascadefs top"
    CSS = "#bindings { height: 2fr; } #lines { height: 2fr; } #runs { height: 1fr; } #cost, #said { height: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("k", "kill", "Kill run"),
        ("K", "kill_all", "Kill all runs"),
        ("p", "pause", "Pause"),
        ("r", "resume", "Resume"),
        ("x", "stop", "Stop line"),
        ("X", "stop_all", "Stop all lines"),
        ("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        tell: Callable[[str], None],
        seconds: float,
        *,
        lines: lines.Lines | None = None,
        cost: Callable[[], str] | None = None,
    ) -> None:
        """Nothing is looked at before it runs.

        Args:
            status: how all is, as `.cascade/status` has it; raises Complaint.
            tell: a command to `.cascade/ctl`; raises Complaint.
            seconds: between two looks.
            lines: of the sweep to be shown, if there is one.
            cost: what all costs now, if anybody has said what things cost.
        """
        super().__init__()
        self._lines = lines
        self._cost = cost
        self._status = status
        self._tell = tell
        self._seconds = seconds

    def compose(self) -> ComposeResult:
        """A table of each kind, and a line for what became of the last key."""
        if self._cost is not None:
            yield Static(id="cost", markup=False)
        if self._lines is not None:
            yield DataTable(id="lines", cursor_type="row")
        yield DataTable(id="bindings", cursor_type="row")
        yield DataTable(id="runs", cursor_type="row")
        yield Static(id="said", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Look for the first time, and then now and then."""
        for heading in HEADINGS:
            self._table("bindings").add_column(heading, key=heading)
        for heading in ("run", "binding"):
            self._table("runs").add_column(heading, key=heading)
        if self._lines is not None:
            for heading in lines.HEADINGS:
                self._table("lines").add_column(heading, key=heading)
        self.look()
        self.set_interval(self._seconds, self.look)

    def look(self) -> None:
        """Show how all is now; the cursor stays where it is."""
        try:
            status = self._status()
            if self._lines is not None:
                self._fill_lines(self._lines.rows())
            if self._cost is not None:
                self.query_one("#cost", Static).update(self._cost())
        except Complaint as complaint:
            self._say(str(complaint))
            return
        bindings = {f"{row.base}/{row.name}".lstrip("/"): row.cells for row in rows(status)}
        runs: dict[str, tuple[str, ...]] = {
            one["run"]: (plain(one["run"]), plain(one["binding"]))
            for one in status.get("running", [])
        }
        self._fill("bindings", bindings, [is_number(heading) for heading in HEADINGS])
        self._fill("runs", runs, [False, False])

    def action_kill(self) -> None:
        """End the run under the cursor."""
        run = self._chosen("runs")
        self._do([f"kill {run}"] if run is not None else [], "no run is under way")

    def action_kill_all(self) -> None:
        """End all runs that are shown."""
        runs = [key.value for key in self._table("runs").rows]
        self._do([f"kill {run}" for run in runs], "no run is under way")

    def action_pause(self) -> None:
        """Start no more runs of the binding under the cursor."""
        self._of_binding("pause")

    def action_resume(self) -> None:
        """Go on with it."""
        self._of_binding("resume")

    def action_stop(self) -> None:
        """End the line under the cursor."""
        line = self._chosen("lines") if self._lines is not None else None
        self._stop([line] if line is not None else [])

    def action_stop_all(self) -> None:
        """End all lines that are shown."""
        shown = self._table("lines").rows if self._lines is not None else ()
        self._stop([key.value for key in shown if key.value is not None])

    def _stop(self, chosen: list[str]) -> None:
        said = []
        for line in chosen:
            assert self._lines is not None
            try:
                self._lines.stop(line)
                said.append(f"stop {line}")
                for run in self._lines.runs_of(line, self._status().get("running", [])):
                    self._tell(f"kill {run}")
            except Complaint as complaint:
                said.append(str(complaint))
        self._say("; ".join(said) or "there is no line; say --sweep DIR")
        self.look()

    def _fill_lines(self, rows: dict[str, tuple[str, ...]]) -> None:
        """The order is the losses': the table is written anew where it changed, and the cursor stays with its line."""
        table = self._table("lines")
        if [key.value for key in table.rows] != list(rows):
            chosen = self._chosen("lines")
            table.clear()
            self._fill("lines", rows, [False, False, True, True, False])
            if chosen in rows:
                table.move_cursor(row=list(rows).index(chosen))
        else:
            self._fill("lines", rows, [False, False, True, True, False])

    def _of_binding(self, word: str) -> None:
        name = self._chosen("bindings")
        self._do([f"{word} {name}"] if name is not None else [], "there is no binding")

    def _do(self, lines: list[str], otherwise: str) -> None:
        said = []
        for line in lines:
            try:
                self._tell(line)
                said.append(line)
            except Complaint as complaint:  # a run may have ended by itself
                said.append(str(complaint))
        self._say("; ".join(said) or otherwise)
        self.look()

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(plain(text))

    def _table(self, name: str) -> DataTable[Text]:
        table: DataTable[Text] = self.query_one(f"#{name}", DataTable)
        return table

    def _chosen(self, name: str) -> str | None:
        table = self._table(name)
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def _fill(self, name: str, wanted: dict[str, tuple[str, ...]], numeric: list[bool]) -> None:
        """Change what has changed: the cursor and the place in a long table stay."""
        table = self._table(name)
        for key in [key for key in table.rows if key.value not in wanted]:
            table.remove_row(key)
        known = {key.value for key in table.rows}
        columns = list(table.columns)
        for row, cells in wanted.items():
            texts = [
                Text(cell, justify="right" if number else "left")
                for cell, number in zip(cells, numeric, strict=True)
            ]
            if row not in known:
                table.add_row(*texts, key=row)
                continue
            for column, text in zip(columns, texts, strict=True):
                if table.get_cell(row, column) != text:
                    table.update_cell(row, column, text, update_width=True)
