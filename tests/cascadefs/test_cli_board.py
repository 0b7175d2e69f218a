"""`cascadefs top`: what it shows and what its keys tell, driven by Textual's pilot, without a terminal or a mount."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest

from cascadefs.cli.board import Board
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.lines import Cost, Lines, spark
from cascadefs.cli.standing import HEADINGS, rows
from cascadefs.client import Client
from cascadefs.client.operations import Operations
from cascadefs.page import Prices
from triggers.access import Identity


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


# --- lines of a sweep -------------------------------------------------------------------------------------------------


@pytest.fixture
def client(store, clock):
    operations = Operations(store, clock, Identity(0, 0))
    return Client(SimpleNamespace(execute=operations.execute, close=lambda: None), clock)


@pytest.fixture
def lines(client, tmp_path):
    """Eleven lines, the best of which is 00 and the worst 10; no bytes but theirs."""
    for number in range(11):
        (tmp_path / f"farm/sweep/{number:02}").mkdir(parents=True)
        for loss in (4.0, 2.0, 1.0 + number / 10):
            client.put(f"farm/sweep/{number:02}/loss", f'{{"loss": {loss}}}')
    return Lines(client, tmp_path, "farm/sweep")


def drive_sweep(mount, lines, scenario) -> None:
    async def run() -> None:
        board = Board(mount.status, mount.tell, 3600, lines=lines, cost=lambda: "3 EUR a second")
        async with board.run_test(size=(200, 50)) as pilot:
            await pilot.pause()
            await scenario(board, pilot)

    asyncio.run(run())


def test_the_best_five_and_the_worst_five_are_shown_in_their_order_and_move(mount, lines, client):
    async def scenario(board, pilot):
        rows = shown(board, "lines")
        best, worst = ["00", "01", "02", "03", "04"], ["10", "09", "08", "07", "06"]
        assert [row[0] for row in rows] == best + worst
        assert [row[1] for row in rows] == ["best"] * 5 + ["worst"] * 5
        assert rows[0][2:] == ["1", "3", "█▅▁"]
        assert str(board.query_one("#cost").render()) == "3 EUR a second"
        board.query_one("#lines").move_cursor(row=1)
        client.put("farm/sweep/10/loss", '{"loss": 0.5}')
        board.look()
        await pilot.pause()
        assert [row[0] for row in shown(board, "lines")][:3] == ["10", "00", "01"]
        assert board.query_one("#lines").cursor_row == 2  # it stays with its line

    drive_sweep(mount, lines, scenario)


def test_stopping_a_line_ends_its_runs_and_no_others(mount, lines, tmp_path):
    mount.running = [
        {"run": f"3/a.py:f/{number}.0~1", "binding": "a.py:f", "base": "farm", "paths": [path]}
        for number, path in enumerate(["sweep/01/round", "sweep/0/round", "sweep/012/round"])
    ]

    async def scenario(board, pilot):
        board.query_one("#lines").move_cursor(row=1)
        await pilot.press("x")
        assert mount.told == ["kill 3/a.py:f/0.0~1"]
        assert [path.parent.name for path in tmp_path.glob("farm/sweep/*/stopped")] == ["01"]
        assert shown(board, "lines")[1][1] == "stopped"
        await pilot.press("X")
        assert len(list(tmp_path.glob("farm/sweep/*/stopped"))) == 10
        assert len(mount.told) == 1

    drive_sweep(mount, lines, scenario)


def test_without_a_sweep_there_is_no_line_to_stop(mount):
    async def scenario(board, pilot):
        await pilot.press("x", "X")
        assert "say --sweep DIR" in said(board)
        assert mount.told == []

    drive(mount, scenario)


def test_what_a_mount_costs(tmp_path):
    hour = 3600
    table = {"currency": "EUR", "per_hour": {"node": hour, "run": 2 * hour, "gib_memory": hour}}
    (tmp_path / ".cascade").mkdir()
    status = {
        "triggers": {"running": [{}, {}], "workers": {"memory": {"a": 1 << 29, "b": 1 << 29}}},
        "store": {"log_bytes": 5},
    }
    (tmp_path / ".cascade/status").write_text(json.dumps(status))
    said = Cost(msgspec.convert(table, Prices), tmp_path).text()
    assert said == "6 EUR a second; an hour: nodes 3600, runs 1.44e+04, memory 3600, disk 0 EUR"


def test_a_curve_in_bars():
    assert spark([]) == ""
    assert spark([2.0, 2.0]) == "▁▁"
    assert spark([8.0, 4.0, 2.0, 1.0]) == "█▆▃▁"
    assert spark([-1.0, 0.0]) == "▁█"
    assert len(spark([1.0] * 100)) == 40
