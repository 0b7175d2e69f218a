"""`cascadefs top`: what it shows and what its keys tell, driven by Textual's pilot, without a terminal or a mount."""

from __future__ import annotations

import asyncio

import pytest

from cascadefs.cli.board import Board
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.standing import HEADINGS, rows


def binding(name: str, **more: object) -> dict[str, object]:
    return {
        "name": name, "state": "active", "script": "s1", "watch": ["in/*", "[red]"], "pending": 3, "lag_s": 1.5,
        "running": 1, "done": 7, "skipped": 0, "failed": 2, "retries": 0, "p50_ms": 1.25, "p99_ms": 9.5, "last_error": "",
    } | more  # fmt: skip


class Mount:
    def __init__(self):
        self.told = []
        self.running = [
            {"run": "3/a.py:f/1.0~1", "binding": "a.py:f"},
            {"run": "3/b\udcff.py:g/2.0~1", "binding": "b\udcff.py:g"},
        ]
        self.bindings = [binding("a.py:f"), binding("b\udcff.py:g", p50_ms=None, script="s2")]
        self.complaint = None

    def status(self):
        if self.complaint:
            raise Complaint(self.complaint)
        return {
            "bases": [{"path": "farm", "bindings": self.bindings, "problems": {}, "warnings": []}],
            "running": self.running,
            "workers": {"memory": {"s1": 20 << 20}},
        }

    def tell(self, line):
        self.told.append(line)
        word, _, run = line.partition(" ")
        if word == "kill":
            if run not in [one["run"] for one in self.running]:
                raise Complaint(f"no run {run} is under way")
            self.running = [one for one in self.running if one["run"] != run]


@pytest.fixture
def mount():
    return Mount()


def drive(mount, scenario) -> None:
    async def run() -> None:
        board = Board(mount.status, mount.tell, 3600)
        async with board.run_test(size=(200, 40)) as pilot:
            await pilot.pause()
            await scenario(board, pilot)

    asyncio.run(run())


def shown(board, name: str) -> list[list[str]]:
    table = board.query_one(f"#{name}")
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


def said(board) -> str:
    return str(board.query_one("#said").render())


def test_bindings_and_runs_are_shown_and_kept_up(mount):
    async def scenario(board, pilot):
        first, second = shown(board, "bindings")
        assert dict(zip(HEADINGS, first, strict=True)) == {
            "directory": "/farm", "binding": "a.py:f", "state": "active", "pending": "3", "lag": "1.5 s", "running": "1",
            "done": "7", "failed": "2", "p50 ms": "1.25", "p99 ms": "9.5", "memory": "20 MiB", "watch": "in/* [red]",
        }  # fmt: skip
        assert second[1] == "b\\udcff.py:g"
        assert second[8] == second[10] == ""
        assert [row[0] for row in shown(board, "runs")] == [
            "3/a.py:f/1.0~1",
            "3/b\\udcff.py:g/2.0~1",
        ]
        board.query_one("#bindings").move_cursor(row=1)
        mount.bindings[1]["pending"] = 4
        mount.bindings.append(binding("c.py:h"))
        mount.running.clear()
        board.look()
        await pilot.pause()
        assert [row[3] for row in shown(board, "bindings")] == ["3", "4", "3"]
        assert board.query_one("#bindings").cursor_row == 1
        assert shown(board, "runs") == []

    drive(mount, scenario)


def test_one_run_is_killed_and_all(mount):
    async def scenario(board, pilot):
        board.query_one("#runs").move_cursor(row=1)
        await pilot.press("k")
        assert mount.told == ["kill 3/b\udcff.py:g/2.0~1"]
        assert len(shown(board, "runs")) == 1
        mount.running.append({"run": "3/a.py:f/5.0~1", "binding": "a.py:f"})
        board.look()
        await pilot.press("K")
        assert mount.told[1:] == ["kill 3/a.py:f/1.0~1", "kill 3/a.py:f/5.0~1"]
        assert shown(board, "runs") == []
        await pilot.press("k")
        assert "no run is under way" in said(board)
        assert len(mount.told) == 3

    drive(mount, scenario)


def test_a_binding_is_paused_and_goes_on(mount):
    async def scenario(board, pilot):
        board.query_one("#bindings").move_cursor(row=1)
        await pilot.press("p", "r")
        assert mount.told == ["pause farm/b\udcff.py:g", "resume farm/b\udcff.py:g"]

    drive(mount, scenario)


def test_a_run_that_ended_by_itself_and_a_mount_that_is_gone_are_said(mount):
    async def scenario(board, pilot):
        mount.running = []
        await pilot.press("k")
        assert "no run 3/a.py:f/1.0~1 is under way" in said(board)
        mount.complaint = "not on a cascadefs mount"
        board.look()
        await pilot.pause()
        assert "not on a cascadefs mount" in said(board)

    drive(mount, scenario)


def test_rows_of_nothing():
    assert rows({}) == []
