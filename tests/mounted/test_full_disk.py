"""The disk below is full: the call that cannot be honoured says ENOSPC, nothing committed is lost, and room is relief.

Method: the data directory lies on a tmpfs of a few segments, which can be made larger while it is in use.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.mounted.program import run

pytestmark = pytest.mark.mounted


@pytest.fixture
def cramped(make_mount):
    """A mount whose disk has room for two segments of the log and little more."""
    mount = make_mount(mounted=False)
    mount.data.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=150m", "cramped", mount.data)
    try:
        mount.mount()
        yield mount
        mount.umount()
    finally:
        run("umount", "-l", mount.data)


def fill(path: Path) -> int:
    """Write until ENOSPC; how many bytes were taken."""
    data = Random(0).randbytes(1024 * 1024)
    taken = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    while written := until_full(lambda: os.write(descriptor, data)):
        taken += written
    os.close(descriptor)
    return taken


def until_full(call: Callable[[], int]) -> int:
    """What `call` returns; 0 when the disk is full."""
    try:
        return call()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


def test_a_full_disk_refuses_writes_and_loses_nothing(cramped) -> None:
    """dd until the disk is full, then small saves until they fail too: all that was saved is there, now and later."""
    path = cramped.path
    (path / "kept").write_text("first")
    (path / "kept").write_text("second")
    taken = fill(path / "big")
    assert 50_000_000 < taken < 150_000_000
    assert (path / "big").stat().st_size == taken
    saved = {}
    for number in itertools.count():
        content = Random(number).randbytes(20_000)
        target = path / f"small.{number}"
        if not until_full(functools.partial(target.write_bytes, content)):
            break
        saved[target.name] = content
    assert (path / "kept@v1").read_text() == "first"
    assert (path / "kept").read_text() == "second"
    assert int(run("df", "--output=avail", "-B1", path).split()[-1]) < 70_000_000
    for name, content in saved.items():
        assert (path / name).read_bytes() == content
    cramped.remount()
    assert (path / "kept@v1").read_text() == "first"
    assert (path / "big").stat().st_size == taken
    for name, content in saved.items():
        assert (path / name).read_bytes() == content


def test_more_room_is_relief(cramped) -> None:
    """After ENOSPC the disk grows: the same programs go on, without a remount, and nothing is in trouble."""
    path = cramped.path
    fill(path / "big")
    while until_full(lambda: (path / "more").write_bytes(bytes(1_000_000))):
        pass
    run("mount", "-o", "remount,size=600m", cramped.data)
    (path / "after").write_bytes(b"after" * 1_000_000)
    assert (path / "after").read_bytes() == b"after" * 1_000_000
    with open(path / "synced", "wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    run("rm", "-r", path / "big")
    cramped.remount()
    assert (path / "after").read_bytes() == b"after" * 1_000_000
    assert cramped.status()["trouble"] is None


def test_a_store_without_a_byte_left_opens(cramped) -> None:
    """After a clean stop and after a kill; what is there can be read and removed."""
    path = cramped.path
    (path / "kept").write_bytes(b"kept" * 1000)
    filler = cramped.data / "filler"
    for end in (cramped.umount, cramped.kill):
        fill(filler)
        end()
        if cramped.is_mounted():
            run("umount", "-l", path)
        fill(filler)
        cramped.mount()
        assert (path / "kept").read_bytes() == b"kept" * 1000
        filler.unlink()
    (path / "kept").unlink()
    assert (path / "kept@v1").read_bytes() == b"kept" * 1000
