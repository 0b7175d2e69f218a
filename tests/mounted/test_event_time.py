"""Goal: on a mount, ordinary programs say when what they write happened, and find it by that (SEMANTICS 3).

Method: Python through open files, cp(1) and touch(1) through mtimes; answers before and after a restart of the daemon.
"""

from __future__ import annotations

import os
import subprocess

import pytest

pytestmark = pytest.mark.mounted


def said(path, content: str, event: str) -> None:
    with open(path, "w") as file:
        os.setxattr(file.fileno(), "user.cascade.event_time", event.encode())
        file.write(content)


def test_late_data_finds_its_place(mount):
    path = mount.path / "sensor.csv"
    said(path, "at 8", "2026-01-01T08:00")
    said(path, "at 10", "2026-01-01T10:00")
    known = os.getxattr(path, "user.cascade.commit_time").decode()
    said(path, "at 9, late", "2026-01-01T09:00")
    for _ in range(2):
        assert (mount.path / "sensor@e=2026-01-01T09:30.csv").read_text() == "at 9, late"
        fixed = mount.path / f"sensor@e=2026-01-01T09:30,t={known}.csv"
        assert fixed.read_text() == "at 8"
        tree = mount.path / f".@e=2026-01-01T10:30,t={known}"
        assert os.listdir(tree) == ["sensor.csv"]
        assert (tree / "sensor.csv").read_text() == "at 10"
        assert os.getxattr(path, "user.cascade.event_time") == b"20260101T090000Z"
        mount.remount()


def test_copies_bring_their_mtime_along_where_the_directory_says_so(mount, tmp_path):
    source = tmp_path / "source"
    source.write_text("observed")
    os.utime(source, (0, 1_767_225_600))
    directory = mount.path / "d"
    directory.mkdir()
    os.setxattr(directory, "user.cascade.event_time", b"mtime")
    subprocess.run(["cp", "-p", source, directory / "f"], check=True)
    assert (directory / "f@e=2026-01-02").read_text() == "observed"
    assert os.getxattr(directory / "f", "user.cascade.event_time") == b"20260101T000000Z"
    assert os.stat(directory / "f").st_mtime == 1_767_225_600
