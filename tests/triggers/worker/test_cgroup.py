"""Goal: a control group bounds and kills all that a process starts, and is gone after it.

Method: against the kernel where a version 2 hierarchy is writable, for what needs no controller; against a directory of plain
files for the bounds, which need controllers that a test may not take from the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from triggers.worker.cgroup import Cgroups
from triggers.worker.message import Limits

LIMITS = Limits(1 << 20, 1 << 20, 64, 32)


def version_2() -> Path | None:
    """Where the machine has the hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)


def test_bounds_are_written_and_controllers_handed_down(tmp_path, monkeypatch):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    mkdir = os.mkdir

    def with_files(path):  # what the kernel puts into a new group
        mkdir(path)
        for name in ("memory.max", "pids.max", "cgroup.kill", "memory.oom.group"):
            Path(path, name).write_text("")
        Path(path, "memory.events").write_text("low 0\noom_kill 1\n")

    monkeypatch.setattr(os, "mkdir", with_files)
    groups = Cgroups(str(tmp_path))
    assert groups.problems == []
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"
    group = Path(groups.make(7, LIMITS))
    assert (group / "memory.max").read_text() == "1048576"
    assert (group / "pids.max").read_text() == "32"
    groups.hold(99, str(group))
    assert groups.release(99)  # its memory had run out
    assert (group / "cgroup.kill").read_text() == "1"
    assert not groups.release(99)


@pytest.mark.parametrize(("there", "words"), [(None, "none is used"), ("cpu", "only kills")])
def test_what_is_not_delegated_is_said(tmp_path, there, words):
    if there is not None:
        (tmp_path / "cgroup.controllers").write_text(there)
    groups = Cgroups(str(tmp_path))
    (problem,) = groups.problems
    assert words in problem
    assert (groups.make(1, LIMITS) == "") == (there is None)


def test_without_a_directory_nothing_is_done():
    groups = Cgroups("")
    assert groups.make(1, LIMITS) == ""
    groups.hold(1, "")
    groups.kill(1)
    assert not groups.release(1)


def test_the_kernel_kills_a_whole_group_and_lets_it_go():
    root = version_2()
    if root is None or not os.access(root, os.W_OK):
        pytest.xfail("no cgroup version 2 hierarchy that may be written to on this machine")
    parent = root / f"cascadefs-test-{os.getpid()}"
    parent.mkdir()
    try:
        groups = Cgroups(str(parent))
        group = groups.make(1, LIMITS)
        script = f"echo $$ > {group}/cgroup.procs; setsid sleep 1000 & exec sleep 1000"
        process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL)
        groups.hold(process.pid, group)
        procs = Path(group, "cgroup.procs")
        while len(procs.read_text().split()) != 2:
            time.sleep(0.001)
        groups.kill(process.pid)
        assert process.wait() == -signal.SIGKILL
        groups.release(process.pid)
        while Path(group).exists():  # the other one dies when the kernel comes to it
            groups.clean()
    finally:
        parent.rmdir()
