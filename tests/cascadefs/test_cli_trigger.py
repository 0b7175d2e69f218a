"""`cascadefs trigger test` runs a script in memory; what else there is goes through a mount (tests/mounted/test_triggers.py)."""

from __future__ import annotations

import sys

import pytest

from cascadefs import cli
from cascadefs.cli import top, trigger

SCRIPT = """
from cascadefs.triggers import watch
from lib.words import GREETING

@watch("in/*", emit="out/", attempts=1)
def greet(event, ctx):
    if event.name == "bad":
        raise ValueError("no good")
    ctx.emit(event.name, GREETING + event.text())
"""


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cascadefs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def script(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/words.py").write_text('GREETING = "hello "\n')
    path = tmp_path / "greet.py"
    path.write_text(SCRIPT)
    return path


def test_it_says_what_would_be_written_and_touches_nothing(run, script, tmp_path):
    (tmp_path / "input").write_text("from a file")
    before = sorted(tmp_path.rglob("*"))
    code, said, _ = run(
        "trigger", "test", script, "--put", "in/a=x", "--put", f"in/b=@{tmp_path}/input"
    )
    assert code == 0
    assert said.splitlines() == ["out/a@v1  7 bytes", "out/b@v1  17 bytes"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_fails_is_shown_with_its_traceback(run, script):
    code, said, _ = run("trigger", "test", script, "--put", "in/bad=x")
    assert code == 1
    assert "failed: in/bad@v1: ValueError: no good" in said
    assert "raise ValueError" in said


def test_a_script_with_a_mistake_is_named(run, script):
    script.write_text(SCRIPT.replace("attempts=1", "attemps=1"))
    code, _, complaint = run("trigger", "test", script, "--put", "in/a=x")
    assert code == 1
    assert "did you mean 'attempts'" in complaint


def test_outside_of_a_mount_the_remedy_is_named(run, tmp_path):
    code, _, complaint = run("trigger", "list", "--in", tmp_path)
    assert code == 1
    assert "not on a cascadefs mount" in complaint
    assert "no directory with scripts" in run("trigger", "pause", "x", "--in", tmp_path)[2]
    assert "there is no such file" in run("why", tmp_path / "nothing")[2]


def test_names_and_messages_are_shown_as_they_are(run, monkeypatch):
    base = {
        "path": "a[/b]",
        "bindings": [],
        "problems": {"x.py": {"message": "list[int] :smile:"}},
        "warnings": ["[red]"],
    }
    monkeypatch.setattr(trigger, "status_of", lambda where: {"bases": [base]})
    code, said, _ = run("trigger", "list")
    assert code == 0
    assert "/a[/b]: x.py is not active: list[int] :smile:" in said
    assert "/a[/b]: [red]" in said


def test_the_names_of_bindings_are_whole_on_a_narrow_terminal(run, monkeypatch):
    one = {
        "name": "recognise-cows.py:on_frame", "state": "active", "script": "s", "watch": ["frames/**/*.npy"],
        "pending": 12345, "lag_s": 12.345, "running": 2, "done": 123456, "failed": 3, "p50_ms": 12.345, "p99_ms": 123.456,
    }  # fmt: skip
    base = {"path": "dairy/farm", "bindings": [one], "problems": {}, "warnings": []}
    for module in (trigger, top):
        monkeypatch.setattr(module, "status_of", lambda where: {"bases": [base]})
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["trigger", "list"], ["top", "--once"]):
        code, said, _ = run(*words)
        assert code == 0
        assert "recognise-cows.py:on_frame" in said
        headings, values = said.splitlines()[:2]
        assert headings.split() == ["directory", "binding", "state", "failed", "watch"]
        assert "dairy/farm" in values
        assert "frames/**/*.npy" in values
    monkeypatch.setenv("COLUMNS", "200")
    assert "p99 ms" in run("trigger", "list")[1]


EXECUTABLE = """#!/bin/sh
{header}
[ "$CASCADE_NAME" = bad ] && {{ echo no good >&2; exit 65; }}
tr a-z A-Z > "$CASCADE_OUT/$CASCADE_NAME"
"""
TABLE = 'watch = "in/*"\nemit = "out/"\n'
HEADER = """# /// script
# [tool.cascadefs]
# watch = "in/*"
# emit = "out/"
# ///"""


@pytest.mark.parametrize(
    ("name", "sidecar"), [("shout.sh", None), ("shout", "shout.toml"), ("shout.py", "shout.toml")]
)
def test_an_executable_is_tried_as_a_process_of_its_own(run, tmp_path, name, sidecar):
    script = tmp_path / name
    script.write_text(EXECUTABLE.format(header="" if sidecar else HEADER))
    if sidecar:
        (tmp_path / sidecar).write_text(TABLE)
    _, _, complaint = run("trigger", "test", script, "--put", "in/a=hello")
    assert f"chmod u+x {name}" in complaint
    script.chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    code, said, _ = run("trigger", "test", script, "--put", "in/a=hello", "--put", "in/bad=x")
    assert code == 1
    assert said.splitlines()[0] == "out/a@v1  5 bytes"
    assert "failed: in/bad@v1: exit status 65 (EX_DATAERR): no good" in said
    assert sorted(tmp_path.rglob("*")) == before
    if script.suffix != ".py":
        assert "with --put" in run("trigger", "test", script, "--events", "1..2")[2]


def test_what_cannot_be_read_is_named(run, script, tmp_path):
    for words in ([tmp_path / "nothing.sh", "--put", "in/a=x"], [script, "--put", "in/a=@nothing"]):
        code, _, complaint = run("trigger", "test", *words)
        assert code == 1
        assert "nothing" in complaint
        assert "No such file" in complaint
