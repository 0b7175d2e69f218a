"""What the end of the daemon leaves of unlinked files that were open, and of file handles.

There is nothing to compare with: ext4 does not die while the machine lives. What ext4 does after a power cut is the measure:
the names are gone, and nothing comes back.
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.mounted.conftest import mounts_below
from tests.posix import libc
from tests.posix.conftest import DOORS, OPTIONS
from tests.posix.observation import outcome

pytestmark = pytest.mark.mounted


@pytest.mark.parametrize("door", DOORS)
def test_unlinked_and_open_when_the_daemon_is_killed(tmp_path, door):
    with mounts_below(tmp_path) as make_mount:
        mount = make_mount("--door", door, *OPTIONS)
        top = str(mount.path)
        before = mount.status()["store"]["live_inodes"]
        descriptors = []
        for number in range(20):
            path = f"{top}/f{number}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            os.write(descriptor, b"x" * (number * 10_000))
            if number % 3:
                os.fsync(descriptor)
            os.unlink(path)
            os.write(descriptor, b"after the unlink")
            descriptors.append(descriptor)
        replaced = os.open(f"{top}/kept", os.O_RDWR | os.O_CREAT)
        os.write(replaced, b"old")
        with open(f"{top}/new", "wb") as file:
            file.write(b"new")
        os.rename(f"{top}/new", f"{top}/kept")
        os.mkdir(f"{top}/gone")
        directory = os.open(f"{top}/gone", os.O_RDONLY)
        os.rmdir(f"{top}/gone")
        mount.kill()
        for descriptor in (*descriptors, replaced):
            assert outcome(os.pwrite, descriptor, b"lost", 0) in ("ENOTCONN", "ECONNABORTED")
            assert outcome(os.fsync, descriptor) in ("ENOTCONN", "ECONNABORTED")
        mount.mount()
        assert os.listdir(top) == ["kept"], "no name came back"
        with open(f"{top}/kept", "rb") as file:
            assert file.read() == b"new"
        assert mount.status()["store"]["live_inodes"] == before + 1
        for number in range(0, 20, 3):
            assert outcome(os.stat, f"{top}/f{number}") == errno.errorcode[errno.ENOENT]
        with open(f"{top}/f0", "wb") as file:
            file.write(b"of that name again")
        for descriptor in (*descriptors, replaced, directory):
            assert outcome(os.close, descriptor) in ("ok", "ENOTCONN")
        mount.remount()
        assert sorted(os.listdir(top)) == ["f0", "kept"]


@pytest.mark.parametrize("door", DOORS)
def test_a_file_handle_is_good_while_the_kernel_knows_the_file(tmp_path, door):
    """open_by_handle_at(2) finds what is cached and is ESTALE for all else, as for a file that is gone."""
    with mounts_below(tmp_path) as make_mount:
        mount = make_mount("--door", door, *OPTIONS)
        path = mount.path / "f"
        path.write_bytes(b"content")
        handle = libc.name_to_handle_at(str(path))
        top = os.open(mount.path, os.O_RDONLY)
        found = libc.open_by_handle_at(top, handle, os.O_RDONLY)
        assert os.read(found, 10) == b"content"
        os.close(found)
        os.close(top)
        mount.remount()
        top = os.open(mount.path, os.O_RDONLY)
        assert outcome(libc.open_by_handle_at, top, handle, os.O_RDONLY) == "ESTALE"
        os.close(top)
