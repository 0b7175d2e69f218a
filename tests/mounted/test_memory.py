"""The daemon's memory stays bounded whatever is written: big files, scattered writes, many files, many open ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(240, method="thread")]

MEBIBYTE = 1024 * 1024
LIMIT = 512 * MEBIBYTE
BIG_FILE = int(os.environ.get("CASCADEFS_BIG_FILE_MIB", "2048")) * MEBIBYTE
"""CASCADEFS_BIG_FILE_MIB=10240 for the figure in docs/RELIABILITY.md."""


def resident(pid: int, line: str = "VmHWM") -> int:
    """Bytes of the most the process had resident at once."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(f"{line}:"):
            return int(text.split()[1]) * 1024
    raise AssertionError(f"no {line}")


@pytest.fixture
def roomy(mount) -> Iterator:
    """A mount whose data directory is removed at once: it is gigabytes."""
    yield mount
    mount.umount()
    shutil.rmtree(mount.data)


def block(number: int) -> bytes:
    return Random(number).randbytes(4096) * 256


def test_a_file_larger_than_the_limit_is_written_and_read(roomy) -> None:
    """dd of gigabytes into one file, never closed meanwhile, and back: the daemon stays under 512 MiB."""
    path = roomy.path / "big"
    with open(path, "wb", buffering=0) as file:
        for number in range(BIG_FILE // MEBIBYTE):
            assert file.write(block(number)) == MEBIBYTE
        assert resident(roomy.pid) < LIMIT
    assert path.stat().st_size == BIG_FILE
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for number in range(BIG_FILE // MEBIBYTE):
            assert file.read(MEBIBYTE) == block(number), f"at {number} MiB"
    peak = resident(roomy.pid)
    print(f"{BIG_FILE // MEBIBYTE} MiB written and read: at most {peak // MEBIBYTE} MiB resident")
    assert peak < LIMIT


def test_scattered_writes_without_a_close(roomy) -> None:
    """30,000 small writes all over a gigabyte, one draft: a database that never closes does not fill the memory."""
    random = Random(4)
    path = roomy.path / "scattered"
    written = {}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 1024 * MEBIBYTE)
    for number in range(30_000):
        page = random.randrange(1024 * MEBIBYTE // 4096)
        data = number.to_bytes(8, "little") * random.choice((1, 100, 512))
        os.pwrite(descriptor, data, page * 4096)
        written[page] = written.get(page, bytes(4096))
        written[page] = data + written[page][len(data) :]
    os.close(descriptor)
    assert resident(roomy.pid) < LIMIT
    with open(path, "rb") as file:
        for page in random.sample(sorted(written), 2000):
            file.seek(page * 4096)
            assert file.read(4096) == written[page]


def test_many_files_and_many_open_ones(roomy) -> None:
    """500 files open and half written at once, 5,000 made, listed, removed; then it has as little open as before."""
    before = resident(roomy.pid, "VmRSS")
    opened = [
        os.open(roomy.path / f"open.{number}", os.O_RDWR | os.O_CREAT) for number in range(500)
    ]
    for descriptor in opened:
        os.write(descriptor, b"x" * 200_000)
    assert resident(roomy.pid) < LIMIT
    for descriptor in opened:
        os.close(descriptor)
    for number in range(5000):
        (roomy.path / f"{number}").write_bytes(b"y" * 100)
    assert len(os.listdir(roomy.path)) == 5500
    shutil.rmtree(roomy.path, ignore_errors=True)  # all but the mountpoint itself
    assert os.listdir(roomy.path) == []
    status = roomy.status()
    assert status["drafts"] == 0
    assert status["open_files"] <= 1  # the status itself
    assert status["nodes"] < 100
    assert resident(roomy.pid) < LIMIT
    assert resident(roomy.pid, "VmRSS") < before + 200 * MEBIBYTE
