"""A case: a function of an area that makes calls and says what it saw; and running one.

A case runs in a process of its own, in an empty directory of the tree: it may change identity, umask and limits, leave
descriptors behind, and die.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MOUNTED_TIMEOUT_SECONDS
from tests.posix.areas.directories import ENTRIES
from tests.posix.observation import Observation

AREAS = sorted(path.stem for path in (Path(__file__).parent / "areas").glob("*.py"))
# A case ends before the test that waits for it would.
CASE_SECONDS = MOUNTED_TIMEOUT_SECONDS - 30 + ENTRIES // 200


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of an area that takes an `Observation` and works in the current directory."""

    area: str
    name: str
    function: Callable[[Observation], None]

    def __str__(self) -> str:
        return f"{self.area}.{self.name}"


def cases() -> list[Case]:
    """Every public function of every area."""
    found = []
    for area in AREAS:
        module = importlib.import_module(f"tests.posix.areas.{area}")
        found += [
            Case(area, name, function)
            for name, function in vars(module).items()
            if inspect.isfunction(function)
            and function.__module__ == module.__name__
            and not name.startswith("_")
        ]
    return found


def run(case: Case, directory: Path) -> dict[str, object]:
    """Run a case in a process and directory of its own.

    Raises:
        AssertionError: the case failed to observe anything: it is broken.
    """
    directory.mkdir()
    directory.chmod(0o755)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _observe(case, directory, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        parts = []
        while select.select([pipe], [], [], CASE_SECONDS)[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(child, signal.SIGKILL)
            pytest.fail(f"{case} hangs in {directory}")
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{case} died of {status} in {directory}"
    seen, failure = json.loads(b"".join(parts))
    assert failure is None, f"in {directory}:\n{failure}"
    assert seen, f"{case} saw nothing"
    return seen


def _observe(case: Case, directory: Path, pipe: int) -> None:
    failure = None
    see = Observation()
    try:
        signal.alarm(CASE_SECONDS)
        os.umask(0o022)
        os.chdir(directory)
        case.function(see)
    except BaseException:
        failure = traceback.format_exc()
    try:
        with open(pipe, "w") as out:
            json.dump([see.seen, failure], out)
    finally:
        sys.stdout.flush()
        os._exit(0)
