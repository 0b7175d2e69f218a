"""Trees to compare: one of ext4, and one mount through each door."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.conftest import mounts_below
from tests.posix import figures
from tests.posix.case import Case, run

DOORS = ("kernel", "pyfuse3")

# suid, dev: what ext4 does by default, and a mount only for who asks.
OPTIONS = ("-o", "allow_other", "-o", "suid", "-o", "dev")

EXT4_BYTES = 1 << 30
DEFAULTS = {"rw", "relatime"}
UNUSUAL = {"nosuid", "nodev", "noexec", "noacl", "nouser_xattr", "dax", "sync"}


@contextlib.contextmanager
def ext4_below(directory: Path) -> Iterator[Path]:
    """A directory on ext4 mounted as by default: this one, or an image mounted below it."""
    told = ["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", directory]
    lines = subprocess.run(told, check=True, capture_output=True, text=True).stdout.splitlines()
    kind, words = lines[-1].split()
    options = {*words.split(",")}
    if kind == "ext4" and options >= DEFAULTS and not options & UNUSUAL:
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Same and different, per area and door."""
    lines = figures.table(DOORS)
    if lines:
        terminalreporter.section("POSIX: mounts against ext4")
        for line in lines:
            terminalreporter.write_line(line)
