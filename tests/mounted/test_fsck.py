"""fsck, repair and scrub through the command line: exit statuses, JSON, what they name, and that fsck changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.mounted.conftest import cascadefs
from tests.mounted.test_damage import flip, make_files

pytestmark = pytest.mark.mounted

SCRUB_SECONDS_MAX = 60.0


def fsck(where: Path, expect: int) -> dict:
    return json.loads(cascadefs("fsck", "--json", where, expect=expect).stdout)


def repair(where: Path, *options: str, expect: int) -> dict:
    return json.loads(cascadefs("repair", "--json", *options, where, expect=expect).stdout)


def modified(data: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in data.rglob("*")
        if path.is_file() and path.suffix != ".lmdb-lock" and path.name != "index.lmdb-lock"
    }


def test_a_sound_store_mounted_and_not(mount) -> None:
    contents = make_files(mount.path)
    found = fsck(mount.path, expect=0)
    assert (found["verdict"], found["in_use"]) == ("clean", True)
    assert found["payload_bytes"] >= sum(map(len, contents.values()))
    assert found["directory"] == str(mount.data)
    mount.umount()
    before = modified(mount.data)
    found = fsck(mount.data, expect=0)
    assert (found["verdict"], found["in_use"], found["damage"]) == ("clean", False, [])
    assert found["index_rows"] > 20
    assert modified(mount.data) == before
    said = cascadefs("fsck", mount.data).stdout
    assert "clean" in said
    assert repair(mount.data, expect=0)["done"] == []
    mount.mount()


def test_after_a_kill_nothing_is_damaged(mount) -> None:
    make_files(mount.path)
    mount.kill()
    assert fsck(mount.data, expect=0)["damage"] == []
    mount.mount()


def test_a_damaged_file_is_named_and_cannot_be_mended(mount) -> None:
    contents = make_files(mount.path)
    mount.umount()
    flip(mount.data, contents["small"])
    found = fsck(mount.data, expect=2)
    (damage,) = found["damage"]
    assert damage["versions"] == ["small@v1"]
    assert "needed by small@v1" in cascadefs("fsck", mount.data, expect=2).stdout
    assert repair(mount.data, expect=2)["damage"] == [damage]
    mount.mount()
    (mount.path / "small").write_bytes(
        b"again"
    )  # The remedy for who has no copy: the past stays damaged.
    assert (mount.path / "big").read_bytes() == contents["big"]


def test_a_scrub_finds_it_while_the_mount_is_used(make_mount) -> None:
    mount = make_mount("--scrub-rate", "1000")
    contents = make_files(mount.path)
    mount.remount()
    first = mount.status()["store"]["scrub"]
    assert first["damage"] == 0
    mount.umount()
    flip(mount.data, contents["page"])
    mount.mount()
    until = time.monotonic() + SCRUB_SECONDS_MAX
    while not (found := mount.status()["store"]["scrub"])["passes"]:
        assert time.monotonic() < until, found
        time.sleep(0.2)
    assert found["damage"] == 1
    assert "is not what was written" in found["places"][0]
    assert "scrub: damaged" in mount.log()
    assert "damage" in cascadefs("status", mount.path).stdout
    assert mount.status()["store"]["index_scrub"]["damage"] is None


def test_a_damaged_index_is_mended(mount) -> None:
    contents = make_files(mount.path)
    for number in range(300):
        (mount.path / f"{number:04}").write_text(f"{number}\n")
    mount.umount()
    path = mount.data / "index/index.lmdb"
    with path.open("r+b") as file:
        index = file.read(4096 * 4096)
        for page in range(8192, len(index), 4096):
            if b"0150" in index[page : page + 4096]:
                file.seek(page)
                file.write(b"\xa5" * 4096)
    found = fsck(mount.data, expect=2)
    assert {damage["where"] for damage in found["damage"]} == {"index"}
    assert "threw the index away" in repair(mount.data, expect=1)["done"]
    assert fsck(mount.data, expect=0)["remarks"] == []
    mount.mount()
    assert mount.status()["store"]["recovery"] == []
    assert len(list(mount.path.iterdir())) == 300 + len(contents)


def test_a_lost_description_is_made_again(mount) -> None:
    make_files(mount.path)
    mount.umount()
    before = (mount.data / "cascadefs.json").read_bytes()
    (mount.data / "cascadefs.json").unlink()
    refused = cascadefs("mount", mount.path, "--data", mount.data, expect=1)
    assert "cascadefs repair" in refused.stderr
    fsck(mount.data, expect=2)
    repair(mount.data, expect=1)
    assert (mount.data / "cascadefs.json").read_bytes() == before
    mount.mount()


def test_a_log_damaged_in_the_middle_is_cut_only_where_the_operator_says_so(mount) -> None:
    make_files(mount.path)
    mount.umount()
    segment = min((mount.data / "log").glob("*.seg"))
    data = segment.read_bytes()
    at = data.index(b"\xcaFR\x01", 2000)
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"\0" * 56)
    shutil.rmtree(mount.data / "index")
    assert "broken" not in fsck(mount.data, expect=2)["damage"][0]["what"]
    found = repair(mount.data, expect=2)
    assert "--recover" in found["done"][0]
    assert segment.read_bytes()[:at] == data[:at]
    repair(mount.data, "--recover", expect=1)
    fsck(mount.data, expect=0)
    assert list((mount.data / "quarantine").iterdir())
    mount.mount()


def test_what_cannot_be_looked_at(mount, tmp_path: Path) -> None:
    """Exit status 8, and a word of why: no store, no directory, in use, in memory."""
    (tmp_path / "empty").mkdir()
    for command, where, why in (
        ("fsck", tmp_path / "empty", "no store here"),
        ("fsck", tmp_path / "absent", "absent"),
        ("repair", mount.data, "in use by process"),
        ("repair", mount.path, "in use by process"),
    ):
        refused = cascadefs(command, where, expect=None)
        assert refused.returncode == 8, refused.stderr
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr
