"""What every test run here shares: its order, its time limits, its random numbers, and that nothing is skipped.

Order: tests of pure rooms first, mounted ones after everything that needs no device, slow ones last in their kind;
so what breaks shows in the room that broke it, not in a mount above it. Which rooms are pure is read from the contract
that keeps them so (pyproject.toml), not repeated here.

Nothing is skipped: a test whose component is missing fails, because a run that silently left something out reads like
one that did not. Leave out on purpose, with ``-m "not mounted"``, and the summary says so.

Time: ``timeout`` in pyproject.toml. In a mounted test the thread may sit in a system call that only a fatal signal ends
(fuse_wait_answer in the kernel), so there the limit ends the whole process, after printing every stack.
"""

from __future__ import annotations

import gc
import os
import tomllib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.dealing import Dealing
from tests.guest import Guests

if TYPE_CHECKING:
    from xdist.remote import Producer

ROOT = Path(__file__).resolve().parent.parent
PURE_CONTRACT = "pure rooms do no I/O, read no clock, draw no random number"
MOUNTED_TIMEOUT_SECONDS = 120

# No deadline: a busy machine is not a bug.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=100, print_blob=True)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("dev"), derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "deep", parent=hypothesis.settings.get_profile("dev"), max_examples=5_000
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pure_rooms() -> frozenset[str]:
    """The modules that the import contract keeps pure, such as ``storage.extents``."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [c for c in contracts["contracts"] if c["name"] == PURE_CONTRACT]
    return frozenset(contract["source_modules"])


def room_of(test_file: PurePath) -> str:
    """The module that a mirrored test file is about: storage/test_extents.py is about storage.extents."""
    return ".".join([*test_file.parts[:-1], test_file.stem.removeprefix("test_")])


def is_pure(test_file: PurePath, pure: frozenset[str]) -> bool:
    room = room_of(test_file)
    # test_extents_twin.py and a folder of tests for a package count with their room.
    return any(room == name or room.startswith((f"{name}.", f"{name}_")) for name in pure)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Guests(config), "guests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = ROOT / "tests"
    pure = pure_rooms()

    def rank(item: pytest.Item) -> tuple[bool, bool, bool, bool]:
        file = item.path.relative_to(tests) if item.path.is_relative_to(tests) else item.path
        has = {mark.name for mark in item.iter_markers()}
        return "rdma" in has, "mounted" in has, not is_pure(file, pure), "slow" in has

    for item in items:
        if item.get_closest_marker("mounted") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(MOUNTED_TIMEOUT_SECONDS, method="thread"))
    items.sort(key=rank)  # stable: inside one rank the order of the files stays


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Dealing:
    return Dealing(config, log)


def pytest_collection_finish() -> None:
    # Thousands of tests and all they import stay to the end; the collector need not look at them again each time.
    gc.collect()
    gc.freeze()


def fail_where_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip too, and is none.
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}\nNothing is skipped here: leave it out with -m, or provide what it needs."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    fail_where_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    fail_where_skipped(report)
    return report
