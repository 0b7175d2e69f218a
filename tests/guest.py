"""Tests marked `rdma` run on a real RDMA device: this machine's, or one that all of them share in a guest kernel.

Without a device here, they are run by one pytest in one guest (scripts/rdma-guest), and its reports are given out as if each
test had run here. So a failure shows as any other, and they cost one boot a session. The guest's kernel is made in the background
while the other tests run, where it is not in the cache; where it cannot be made, they fail and say why.

A test that needs the guest's wires, to cut them or to lose packets, is marked ``rdma(guest=True)``: it never runs outside. One
about guests is marked ``rdma(host=True)`` and never runs inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dealing import is_called_as_for_the_guest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
NODES = 3
MEMORY_MIB = 2048
"""Most of it for the logs of a cluster: its nodes keep them below /tmp, which is memory there."""

GUEST_SECONDS_MAX = 1200
TAIL_LINES = 40
REPORTS_WANTED = "CASCADEFS_REPORTS"
"""In the environment of the pytest that runs for us."""

REPORT = "\x1eREPORT "
"""Begins a line of the guest's output that is for us; all else is what people may want to read."""


def has_device() -> bool:
    """Whether this kernel has an RDMA device."""
    devices = Path("/sys/class/infiniband")
    return devices.is_dir() and any(devices.iterdir())


def in_guest() -> bool:
    """Whether this is the guest."""
    return "RDMA_GUEST" in os.environ


def goes_to_guest(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("rdma")
    if mark is None or in_guest() or mark.kwargs.get("host"):
        return False
    return bool(mark.kwargs.get("guest")) or not has_device()


class Guests:
    """A pytest plug-in: outside it runs marked tests in a guest, inside it tells what became of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.nodeids: list[str] = []
        self.preparing: subprocess.Popen[bytes] | None = None
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the plug-in
        self.running: Iterator[pytest.TestReport] | None = None
        self.early: dict[str, list[pytest.TestReport]] = {}
        self.end = ""  # what the guest said last, once it has ended

    # --- Inside

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if REPORTS_WANTED in os.environ:
            data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
            os.write(1, f"\n{REPORT}{json.dumps(data)}\n".encode())

    # --- Outside

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if goes_to_guest(item):
                item.add_marker(pytest.mark.timeout(0))  # the first one waits for all
                assert is_called_as_for_the_guest(item.nodeid), (
                    f"tests/dealing.py cannot tell that {item.nodeid} is for the guest"
                )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.nodeids = [item.nodeid for item in session.items if goes_to_guest(item)]
        if self.nodeids and not self.config.option.collectonly:
            self.preparing = subprocess.Popen(
                [ROOT / "scripts/rdma-guest", "--prepare"], stdout=self.said, stderr=self.said
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        if not goes_to_guest(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def pytest_sessionfinish(self) -> None:
        if self.preparing is not None and self.preparing.poll() is None:
            self.preparing.terminate()
            self.preparing.wait()
        if self.running is not None:
            self.running.close()

    def reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Setup, call and teardown of one test, as they come from the guest, which runs them in our order."""
        if self.running is None:
            self.running = self.run_all()
        reports = self.early.pop(item.nodeid, [])
        while not (reports and reports[-1].when == "teardown"):
            report = next(self.running, None)
            if report is None:
                return [*reports, self.lost(item)]
            if report.nodeid == item.nodeid:
                reports.append(report)
            else:
                self.early.setdefault(report.nodeid, []).append(report)
        return reports

    def lost(self, item: pytest.Item) -> pytest.TestReport:
        """The report of a test that the guest did not come to."""
        return pytest.TestReport(
            item.nodeid,
            item.location,
            dict.fromkeys(item.keywords, 1),
            "failed",
            f"{item.nodeid} did not run in the guest, which said last:\n{self.end}",
            "setup",
        )

    def run_all(self) -> Iterator[pytest.TestReport]:
        """Run all of them in one guest, and give the reports as they come."""
        assert self.preparing is not None
        if self.preparing.wait():
            self.said.seek(0)
            self.end = self.said.read().decode(errors="replace")
            return
        passed_on = [
            f"{name}={os.environ[name]}"
            for name in ("CI", "HYPOTHESIS_PROFILE", "CASCADEFS_CLUSTER_ROUNDS")
            if name in os.environ
        ]
        passed_on.append(f"{REPORTS_WANTED}=1")
        python = ROOT / ".venv/bin/python"
        options = [
            "-q",
            "--color=no",
            "-p",
            "no:cacheprovider",
            f"--maxfail={self.config.option.maxfail or 0}",
        ]
        guest = subprocess.Popen(
            [
                *(
                    ROOT / "scripts/rdma-guest",
                    f"--nodes={NODES}",
                    f"--memory={MEMORY_MIB}",
                    f"--timeout={GUEST_SECONDS_MAX}",
                    "--",
                ),
                *("env", *passed_on, python, "-m", "pytest", *options, *self.nodeids),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert guest.stdout is not None
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            for line in guest.stdout:
                text = line.decode(errors="replace").rstrip()
                if text.startswith(REPORT):
                    yield self.config.hook.pytest_report_from_serializable(
                        config=self.config, data=json.loads(text.removeprefix(REPORT))
                    )
                elif text:
                    tail.append(text)
            self.end = "\n".join([*tail, f"exit status {guest.wait()}"])
        finally:
            guest.terminate()
            guest.wait()
            guest.stdout.close()
