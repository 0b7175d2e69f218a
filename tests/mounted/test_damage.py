"""The disk below turns bits: what was hit answers EIO, never other bytes, and everything else goes on as before."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from random import Random

import pytest

from tests.mounted.program import run

pytestmark = pytest.mark.mounted


def flip(data: Path, content: bytes) -> None:
    """Turn one bit in the middle of where `content` lies in the log."""
    middle = len(content) // 2
    needle = content[middle : middle + 48]
    hits = 0
    for segment in sorted((data / "log").glob("*.seg")):
        at = segment.read_bytes().find(needle)
        if at >= 0:
            with open(segment, "r+b") as file:
                file.seek(at)
                file.write(bytes([needle[0] ^ 0x10]))
            hits += 1
    assert hits == 1, "the content is stored as it is, once"


def make_files(directory: Path) -> dict[str, bytes]:
    random = Random(9)
    sizes = {"small": 200, "page": 4096, "big": 700_000, "bigger": 3_000_000, "other": 50_000}
    contents = {name: random.randbytes(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return contents


def test_a_turned_bit_is_an_error_and_not_an_answer(mount, tmp_path: Path) -> None:
    """cat, cp -r and cat of the version that was hit fail with EIO; other files, older versions, new writes are sound."""
    hit = ("small", "page", "big", "bigger")
    for name in hit:
        (mount.path / name).write_bytes(b"the first version\n")
    contents = make_files(mount.path)
    mount.umount()
    for name in hit:
        flip(mount.data, contents[name])
    mount.mount()
    run("cp", "-r", f"{mount.path}/.", tmp_path / "copy", expect=1)
    assert (mount.path / "other").read_bytes() == contents["other"]
    assert (tmp_path / "copy/other").read_bytes() == contents["other"]
    for name in hit:
        for path in (mount.path / name, mount.path / f"{name}@v2"):
            with pytest.raises(OSError, match="Input/output error") as failure:
                path.read_bytes()
            assert failure.value.errno == errno.EIO
        copy = tmp_path / "copy" / name
        got = copy.read_bytes() if copy.exists() else b""
        assert contents[name].startswith(got), (
            "what came before the damage may be copied, other bytes never"
        )
        assert (mount.path / name).stat().st_size == len(contents[name])
        assert (mount.path / f"{name}@v1").read_bytes() == b"the first version\n"
    assert mount.status()["errors"]["EIO"] >= 2 * len(hit)
    assert "corrupt" in mount.log().lower() or "checksum" in mount.log().lower()
    for name in hit:
        shutil.copyfile(mount.path / f"{name}@v1", mount.path / name)
    mount.remount()
    for name in hit:
        assert (mount.path / name).read_bytes() == b"the first version\n"


def test_a_lost_index_is_built_again(mount) -> None:
    """Everything but the log is derived: without the index the next mount shows the same tree and the same past."""
    contents = make_files(mount.path)
    for number in range(20):
        (mount.path / "other").write_bytes(b"%d" % number)
    os.rename(mount.path / "page", mount.path / "renamed")
    mount.umount()
    shutil.rmtree(mount.data / "index")
    mount.mount()
    assert sorted(os.listdir(mount.path)) == ["big", "bigger", "other", "renamed", "small"]
    assert (mount.path / "big").read_bytes() == contents["big"]
    assert (mount.path / "renamed").read_bytes() == contents["page"]
    assert (mount.path / "page@v1").read_bytes() == contents["page"]
    assert (mount.path / "other@v1").read_bytes() == contents["other"]
    for number in range(20):
        assert (mount.path / f"other@v{number + 2}").read_bytes() == b"%d" % number


def test_a_damaged_index_is_an_error_until_the_next_mount(mount) -> None:
    """A page of the index is overwritten: EIO; it can be unmounted, and the next mount builds it anew."""
    contents = make_files(mount.path)
    for number in range(300):
        (mount.path / f"{number:04}").write_text(f"{number}\n")
    mount.umount()
    with open(mount.data / "index/index.lmdb", "r+b") as file:
        index = file.read(4096 * 4096)
        # Every one: LMDB leaves what a page held before where it was.
        for page in range(8192, len(index), 4096):
            if b"0150" in index[page : page + 4096]:
                file.seek(page)
                file.write(b"\xa5" * 4096)
    mount.mount()
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "0150").read_bytes()
    mount.remount()
    assert "damaged" in mount.log()
    assert len(os.listdir(mount.path)) == 300 + len(contents)
    assert (mount.path / "0299").read_text() == "299\n"
    for name, content in contents.items():
        assert (mount.path / name).read_bytes() == content


def test_garbage_behind_the_log_is_dropped(mount) -> None:
    """A torn last write after a death: the next mount says so, keeps all that was closed, and goes on writing."""
    contents = make_files(mount.path)
    end_address = mount.status()["store"]["log_bytes"]
    mount.kill()
    segment = max((mount.data / "log").glob("*.seg"))
    with open(segment, "r+b") as file:
        file.seek(end_address % (64 * 1024 * 1024))
        file.write(Random(1).randbytes(10_000))
    mount.mount()
    for name, content in contents.items():
        assert (mount.path / name).read_bytes() == content
    (mount.path / "new").write_text("new")
    mount.remount()
    assert (mount.path / "new").read_text() == "new"
    assert (mount.path / "bigger").read_bytes() == contents["bigger"]
