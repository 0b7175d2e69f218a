"""Any arguments: done, or refused in words; never a traceback.

Method: hypothesis makes up command lines of the real commands, in this process. Paths are made up too, or lie in an
empty directory: nothing is mounted here, and nothing can be.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascadefs.cli import app
from cascadefs.cli.complaint import Complaint

COMMANDS = sorted(typer.main.get_command(app).commands)
COMMANDS += [
    f"cluster {name}"
    for name in typer.main.get_command(app).commands["cluster"].commands  # type: ignore[attr-defined]
]
OPTIONS = [
    "--json", "--data", "--volatile", "--ro", "--recover", "--lazy", "-z", "--scrub-rate", "--sync-interval",
    "--etcd", "--listen", "--config", "--mount", "--uid",
    "--autocommit", "--door", "-o", "--log", "-t", "--at", "--to", "-n", "-r", "--help-me", "-", "--", "-1",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(
        [
            ".",
            "empty",
            "file",
            "file@v1",
            "file@@",
            "empty/none",
            "v1",
            "now",
            "-1h",
            "t=",
            "nan",
            "1e400",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    st.text("@v-=:.0123456789TZ/", max_size=12),
    st.integers(-5, 10**25).map(str),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("arguments")
    (directory / "empty").mkdir()
    (directory / "file").write_text("a file")
    return directory


@pytest.mark.slow
@settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=6))
def test_any_arguments(place: Path, command: str, words: list[str]) -> None:
    # A directory that exists could be mounted on: not here.
    if command == "mount":
        words = ["absent", *[word for word in words if not os.path.isdir(place / word)]]
    before = Path.cwd()
    os.chdir(place)
    try:
        result = CliRunner().invoke(app, [*command.split(), *words])
    finally:
        os.chdir(before)
    if isinstance(result.exception, Complaint):
        assert len(str(result.exception)) > 10
        assert "Traceback" not in str(result.exception)
    else:
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            f"cascadefs {command} {words!r}: {result.exception!r}"
        )
    assert sorted(os.listdir(place)) == ["empty", "file"]


def test_there_are_commands_to_try() -> None:
    assert {"mount", "umount", "status", "fsck", "repair", "log", "restore"} <= set(COMMANDS)
