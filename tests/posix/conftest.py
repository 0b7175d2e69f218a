"""Trees to compare: one of ext4, and one mount through each door; and what was counted.

A case runs in a process of its own, in an empty directory of the tree: it may change identity, umask and limits, leave
descriptors behind, and die.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MOUNTED_TIMEOUT_SECONDS
from tests.mounted.conftest import mounts_below
from tests.posix.areas.directories import ENTRIES
from tests.posix.deviations import DEVIATIONS
from tests.posix.observation import Observation

AREAS = sorted(path.stem for path in (Path(__file__).parent / "areas").glob("*.py"))
DOORS = ("kernel", "pyfuse3")
# A case ends before the test that waits for it would.
CASE_SECONDS = MOUNTED_TIMEOUT_SECONDS - 30 + ENTRIES // 200

# suid, dev: what ext4 does by default, and a mount only for who asks.
OPTIONS = ("-o", "allow_other", "-o", "suid", "-o", "dev")

EXT4_BYTES = 1 << 30


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


# --- Trees ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ext4_below(directory: Path) -> Iterator[Path]:
    """A directory on ext4: this one, or an image mounted below it."""
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory], capture_output=True, text=True
    ).stdout.strip()
    if kind == "ext2/ext3":
        plain = directory / "ext4"
        plain.mkdir()
        yield plain
        return
    image, mounted = directory / "ext4.img", directory / "ext4"
    with image.open("wb") as file:
        file.truncate(EXT4_BYTES)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


class Trees:
    """The tree of ext4 and the mounts by door; what ext4 does is asked once."""

    def __init__(self, ext4: Path, mounts: dict[str, Path]) -> None:
        self._ext4 = ext4
        self._mounts = mounts
        self._expected: dict[Case, dict[str, object]] = {}
        self._numbers = itertools.count()

    def expected(self, case: Case) -> dict[str, object]:
        if case not in self._expected:
            directory = self._ext4 / f"{case}.{next(self._numbers)}"
            self._expected[case] = run(case, directory)
            shutil.rmtree(directory)
        return self._expected[case]

    def observed(self, case: Case, door: str) -> dict[str, object]:
        return run(case, self._mounts[door] / f"{case}.{next(self._numbers)}")


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    directory = tmp_path_factory.mktemp("posix")
    with ext4_below(directory) as ext4, mounts_below(directory) as make_mount:
        yield Trees(ext4, {door: make_mount("--door", door, *OPTIONS).path for door in DOORS})


# --- Figures ----------------------------------------------------------------------------------------------------------

same: Counter[tuple[str, str]] = Counter()
different: Counter[tuple[str, str]] = Counter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Same and different, per area and door."""
    counted = sorted(same.keys() | different.keys())
    if not counted:
        return
    write = terminalreporter.write_line
    terminalreporter.section("POSIX: mounts against ext4")
    row = "{:<16}" + "{:>12}{:>12}" * len(DOORS)
    write(row.format("area", *(word for door in DOORS for word in (door, "different"))))

    def figures(areas: set[str]) -> list[int]:
        return [
            sum(counter[area, door] for area in areas)
            for door in DOORS
            for counter in (same, different)
        ]

    areas = sorted({area for area, _ in counted})
    for area in areas:
        write(row.format(area, *figures({area})))
    write(row.format("all", *figures(set(areas))))
    write(f"{len(DEVIATIONS)} deviations are listed in tests/posix/deviations.py")
