"""Files without a name (O_TMPFILE) through the kernel door: made, linked, or gone without a trace.

Method: a program opens them as open(2) says, in directories of other users too, and names them by linkat(2).
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted

AT_FDCWD_BY_PROC = os.open("/", os.O_PATH)
"""With a directory's descriptor, os.link() follows the symbolic link of /proc (AT_SYMLINK_FOLLOW)."""


def link(descriptor: int, path: Path) -> None:
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=AT_FDCWD_BY_PROC, follow_symlinks=True)


def versions(path: Path) -> list[str]:
    return sorted(os.listdir(f"{path}@@"))


@pytest.fixture(scope="module")
def door() -> str:
    return "kernel"


def test_a_name_comes_with_the_content(mount) -> None:
    """The way programs replace a file's making: write all of it, then name it; a kill in between leaves nothing."""
    data = os.urandom(3_000_000)
    descriptor = os.open(mount.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(descriptor, data)
    assert os.fstat(descriptor).st_nlink == 0
    assert os.listdir(mount.path) == []
    os.fchmod(descriptor, 0o600)
    os.setxattr(descriptor, "user.kind", b"test")
    link(descriptor, mount.path / "f")
    assert (mount.path / "f@v1").read_bytes() == data
    assert versions(mount.path / "f") == ["v1"]
    stat = (mount.path / "f").stat()
    assert (stat.st_nlink, stat.st_mode & 0o777, stat.st_ino) == (
        1,
        0o600,
        os.fstat(descriptor).st_ino,
    )
    os.write(descriptor, b"more")
    mount.kill()  # what was linked is there, what was written after it was a draft
    mount.mount()
    assert (mount.path / "f").read_bytes() == data
    assert os.getxattr(mount.path / "f", "user.kind") == b"test"


def test_a_mapping_is_linked_too(mount) -> None:
    descriptor = os.open(mount.path, os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(descriptor, 8192)
    with mmap.mmap(descriptor, 8192) as mapping:
        mapping[:5] = b"hello"
        mapping.flush()
        link(descriptor, mount.path / "f")
        mapping[:5] = b"HELLO"
    os.close(descriptor)
    assert (mount.path / "f").read_bytes() == b"HELLO" + bytes(8187)
    assert (mount.path / "f@v1").read_bytes()[:5] == b"hello"


def test_what_is_never_named_is_gone(mount) -> None:
    """Closed, killed, or told beforehand that it will have no name: no inode is left, in the store or in the kernel."""
    before = mount.status()["store"]["live_inodes"]
    for _ in range(100):
        descriptor = os.open(mount.path, os.O_TMPFILE | os.O_RDWR)
        os.write(descriptor, b"x" * 10_000)
        os.close(descriptor)
    exclusive = os.open(mount.path, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    with pytest.raises(FileNotFoundError):
        link(exclusive, mount.path / "f")
    os.close(exclusive)
    held = os.open(mount.path, os.O_TMPFILE | os.O_RDWR)
    os.write(held, b"x" * 10_000)
    mount.kill()
    mount.mount()
    status = mount.status()
    assert status["store"]["live_inodes"] == before
    assert status["drafts"] == 0
    assert os.listdir(mount.path) == []
    with pytest.raises(OSError, match="not connected"):
        os.write(held, b"x")


def test_a_name_that_was_removed_cannot_be_given_back(mount) -> None:
    descriptor = os.open(mount.path, os.O_TMPFILE | os.O_RDWR)
    link(descriptor, mount.path / "f")
    link(descriptor, mount.path / "g")
    assert os.fstat(descriptor).st_nlink == 2
    (mount.path / "f").unlink()
    (mount.path / "g").unlink()
    with pytest.raises(FileNotFoundError):
        link(descriptor, mount.path / "h")
    os.close(descriptor)


def test_a_volatile_mount_has_them_too(make_mount) -> None:
    mount = make_mount(volatile=True)
    descriptor = os.open(mount.path, os.O_TMPFILE | os.O_RDWR)
    os.write(descriptor, b"x" * 300_000)
    link(descriptor, mount.path / "f")
    os.close(descriptor)
    assert (mount.path / "f").read_bytes() == b"x" * 300_000
    for _ in range(10):
        os.close(os.open(mount.path, os.O_TMPFILE | os.O_RDWR))
    assert mount.status()["store"]["live_inodes"] == 2


def test_a_mount_to_read_refuses(mount) -> None:
    (mount.path / "f").write_text("x")
    mount.remount("--ro")
    with pytest.raises(OSError, match="Read-only"):
        os.open(mount.path, os.O_TMPFILE | os.O_RDWR)


def test_programs_use_them(mount) -> None:
    """Python's tempfile takes O_TMPFILE where it can, and nobody sees a name."""
    code = (
        "import sys, tempfile, os\n"
        "with tempfile.TemporaryFile(dir=sys.argv[1]) as file:\n"
        "    file.write(b'x' * 100_000); file.seek(0)\n"
        "    print(len(file.read()), os.fstat(file.fileno()).st_nlink, os.listdir(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, mount.path], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "100000 0 []\n", done.stderr
