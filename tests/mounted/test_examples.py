"""On a mount, the examples of docs/ do what they say; whole pipelines are in test_pipelines.py.

Method: copy an example's scripts into `.cascade/watch/` as its README says, write files with ordinary programs, wait for the
results. Nothing is timed; the test's own limit is the only one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
MODE = "root" if os.getuid() == 0 else "owner"


@pytest.fixture
def install(make_mount):
    """Mount, and make an example's scripts those of a directory."""

    def install(example: str) -> Path:
        base = make_mount("--triggers", MODE).path / example
        (base / ".cascade").mkdir(parents=True)
        shutil.copytree(EXAMPLES / example / "watch", base / ".cascade/watch")
        wait_for(lambda: "active" in bindings(base))
        return base

    return install


def bindings(base: Path) -> str:
    return (base / ".cascade/status").read_text()


def wait_for(condition) -> None:
    while not condition():
        time.sleep(0.02)


def is_idle(base: Path, files: str = "", least: int = 0) -> bool:
    """Whether all that happened is done, and so many events of the files were among it."""
    events = [json.loads(line) for line in (base / ".cascade/events").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    paths = {event["path"] for event in events if event["event"] == "event"}
    if sum(path.startswith(files) for path in paths) < least:
        return False
    return kinds.count("event") == kinds.count("done") + kinds.count("dead") + kinds.count(
        "skipped"
    )


def test_a_shell_script_makes_thumbnails(install):
    base = install("thumbs")
    subprocess.run(
        ["convert", "-size", "300x200", "gradient:red-blue", base / "cow.png"], check=True
    )
    (base / "notes.txt").write_text("no picture")
    thumb = base / "thumbs/cow.png"
    wait_for(thumb.exists)
    command = ["identify", "-format", "%wx%h", thumb]
    size = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert size == "64x43"
    wait_for(lambda: is_idle(base, "cow.png", 1))
    assert os.listdir(base / "thumbs") == ["cow.png"]
    assert '"dead"' not in (base / ".cascade/events").read_text()
