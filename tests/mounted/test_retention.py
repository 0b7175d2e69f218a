"""On a mount, policies let history go, the disk gets its space back, and a full disk becomes writable again.

Method: write more than is to be kept, let the commands say how long, count the bytes of the log's files; the full disk
is a tmpfs of a few segments.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cascadefs.cli import app
from tests.mounted.program import run

pytestmark = pytest.mark.mounted

POLICY = "user.cascade.retention"


def cascadefs(*arguments, expect=0) -> str:
    done = CliRunner().invoke(app, [os.fsdecode(argument) for argument in arguments])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


def objects(*arguments) -> list[dict]:
    done = CliRunner().invoke(app, [*map(os.fsdecode, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return [json.loads(line) for line in done.stdout.splitlines()]


def log_bytes(data: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(data / "log"))


def errno_of(call, *arguments) -> str | None:
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def test_pruned_history_is_eidrm_and_its_space_comes_back(make_mount) -> None:
    mount = make_mount()
    path = mount.path
    (path / "labelled").mkdir()
    (path / "labelled/f").write_text("first")
    (path / "labelled@tag-one").mkdir()
    for number in range(40):
        (path / "big").write_bytes(Random(number).randbytes(8_000_000))
        (path / "labelled/f").write_text(f"{number}")
    before = log_bytes(mount.data)
    assert before > 320_000_000
    held = os.open(path / "big@v2", os.O_RDONLY)
    cascadefs("retention", path, "all:1s;min=3")
    assert objects("retention", path / "labelled")[0] == {
        "policy": "all:1s;min=3",
        "said_by": str(path),
    }
    subprocess.run(["sleep", "1.1"], check=True)
    lines = {line["line"]: line["versions"] for line in objects("gc", path, "--dry-run")}
    assert lines["open"] == lines["label"] == 1
    objects("gc", path)
    lines = {line["line"]: line["versions"] for line in objects("gc", path)}
    assert lines == {"head": 2, "label": 1, "min": 4, "open": 1}
    assert os.read(held, 8_000_000) == Random(1).randbytes(8_000_000)[: os.fstat(held).st_size]
    os.close(held)
    after = log_bytes(mount.data)
    assert after < before / 2
    assert errno_of((path / "big@v5").read_bytes) == "EIDRM"
    assert "EIDRM" in (errno_of(os.stat, path / "big@v7"), errno_of(os.stat, path / "big@@/v7"))
    assert not os.path.exists(path / "big@v9")
    assert (path / "labelled@tag-one/f").read_text() == "first"
    assert [line["version"] for line in objects("log", path / "big")][:3] == [40, 39, 38]
    every = objects("log", path / "big", "--all")
    assert len(every) == 40
    assert every[10]["gone"] == "pruned"
    assert "its content was removed by retention" in cascadefs("cat", path / "big@v5", expect=1)
    sums = {os.path.basename(row["path"]): row for row in objects("du", path)}
    assert sums["big"]["live_bytes"] == 8_000_000
    assert sums["big"]["history_bytes"] == 8_000_000 * sums["big"]["history_versions"]
    for number in (38, 39):
        assert (path / f"big@v{number}").read_bytes() == Random(number - 1).randbytes(8_000_000)
    mount.umount()
    cascadefs("fsck", mount.data)
    mount.mount()
    assert (path / "big").read_bytes() == Random(39).randbytes(8_000_000)
    assert (path / "labelled@tag-one/f").read_text() == "first"
    assert errno_of((path / "big@v5").read_bytes) == "EIDRM"


def test_a_policy_works_by_itself(make_mount) -> None:
    mount = make_mount()
    path = mount.path
    for number in range(5):
        (path / "f").write_text(f"{number}")
    subprocess.run(["sleep", "1.1"], check=True)
    os.setxattr(path, POLICY, b"all:1s")
    for _ in range(100):
        if errno_of((path / "f@v1").read_bytes) == "EIDRM":
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert errno_of((path / "f@v1").read_bytes) == "EIDRM"
    assert (path / "f").read_text() == "4"


def test_the_commands_say_what_is_wrong(make_mount, monkeypatch) -> None:
    mount = make_mount()
    path = mount.path
    (path / "f").write_text("one")
    (path / "f").write_text("two")
    said = cascadefs("retention", path, "hour:7", expect=1)
    assert "no duration" in said
    assert cascadefs("retention", path).startswith(("policy", "everything"))
    assert "policies are said of directories" in cascadefs(
        "retention", path / "f", "all:1h", expect=1
    )
    cascadefs("label", path, "one", "--at", "now")
    assert "it has that label already" in cascadefs("label", path, "one", expect=1)
    cascadefs("label", path, "one", "--move")
    assert [row["label"] for row in objects("label", path)] == ["one"]
    (path / "d").mkdir()
    for directory in (path, f"{path}/d/.."):  # The path printed opens what it names.
        assert [os.listdir(row["path"]) for row in objects("label", directory)] == [["f"]]
    cascadefs("label", path, "one", "--remove")
    assert objects("label", path) == []
    cascadefs("hold", path, "case 7")
    assert objects("hold", path / "f") == [{"hold": "case 7", "said_by": str(path)}]
    assert "nobody below a hold" in cascadefs("purge", path / "f@v1", "--yes", expect=1)
    cascadefs("hold", path, "--release")
    assert "it is what the file holds now" in cascadefs("purge", path / "f@v2", "-y", expect=1)
    cascadefs("purge", path / "f@v1", "-y")
    assert "gone already" in cascadefs("purge", path / "f@v1", "-y", expect=1)
    assert [line["gone"] for line in objects("log", path / "f", "--all")] == [None, "purged"]


def test_a_quota_is_edquot_to_the_writer(make_mount) -> None:
    path = make_mount().path
    (path / "d").mkdir()
    os.setxattr(path / "d", "user.cascade.quota", b"1M")
    assert errno_of((path / "d/f").write_bytes, bytes(2_000_000)) == "EDQUOT"
    (path / "d/f").write_bytes(bytes(1_000_000))
    (path / "elsewhere").write_bytes(bytes(2_000_000))
    done = subprocess.run(["cp", path / "elsewhere", path / "d/g"], capture_output=True, text=True)
    assert done.returncode
    assert "quota" in done.stderr
    assert int(os.getxattr(path / "d", "user.cascade.live_bytes")) <= 2**20


def test_a_purge_reaches_who_has_it_in_the_page_cache(make_mount) -> None:
    mount = make_mount()
    path = mount.path
    (path / "f").write_bytes(b"secret" * 1000)
    (path / "f").write_bytes(b"public")
    for _ in range(2):
        assert (path / "f@v1").read_bytes() == b"secret" * 1000
    cascadefs("purge", path / "f@v1", "--yes")
    assert errno_of((path / "f@v1").read_bytes) == "EIDRM"


@pytest.fixture
def cramped(make_mount):
    """A mount whose disk has room for three segments of the log and little more."""
    mount = make_mount(mounted=False)
    mount.data.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=240m", "cramped", mount.data)
    try:
        mount.mount()
        yield mount
        mount.umount()
    finally:
        run("umount", "-l", mount.data)


def write_until_full(path: Path) -> int:
    """Write a file anew until ENOSPC; how often that went well."""
    data = Random(0).randbytes(5_000_000)
    for count in range(1000):
        failed = errno_of(path.write_bytes, data)
        if failed is not None:
            assert failed == "ENOSPC"
            return count
    raise AssertionError("the disk is never full")


@pytest.mark.timeout(120)
def test_a_full_disk_is_writable_again_when_something_is_removed_and_let_go(cramped) -> None:
    path = cramped.path
    (path / "kept").write_text("kept")
    saved = write_until_full(path / "big")
    assert saved > 20
    assert (path / "kept").read_text() == "kept"
    assert (path / f"big@v{saved}").read_bytes() == Random(0).randbytes(5_000_000)
    # What needs no payload goes on: names can be removed, and policies said.
    (path / "d").mkdir()
    for number in range(300):
        os.mkfifo(path / f"d/{number}")
        os.unlink(path / f"d/{number}")
    os.unlink(path / "big")
    os.setxattr(path, POLICY, b"all:1s")
    subprocess.run(["sleep", "1.1"], check=True)
    cascadefs("gc", path)
    for number in range(5):
        (path / f"after.{number}").write_bytes(Random(number).randbytes(5_000_000))
    cramped.remount()
    assert (path / "kept").read_text() == "kept"
    for number in range(5):
        assert (path / f"after.{number}").read_bytes() == Random(number).randbytes(5_000_000)


@pytest.mark.timeout(180)
def test_with_a_policy_a_disk_that_fills_up_is_thinned_past_it(cramped) -> None:
    """The policy would keep all of it for a day; the disk has no room for that; `min` and labels are kept."""
    path = cramped.path
    os.setxattr(path, POLICY, b"all:1d;min=2")
    (path / "f").write_text("labelled")
    (path / ".@tag-one").mkdir()
    data = Random(0).randbytes(2_000_000)
    for number in range(150):  # 300 MB, where 240 fit.
        while (failed := errno_of((path / "f").write_bytes, data + b"%d" % number)) is not None:
            assert failed == "ENOSPC"
            subprocess.run(["sleep", "0.2"], check=True)
        subprocess.run(["sleep", "0.05"], check=True)
    assert (path / "f").read_bytes() == data + b"149"
    assert (path / "f@v-1").read_bytes() == data + b"148"
    assert (path / ".@tag-one/f").read_text() == "labelled"


def used_bytes(path: Path) -> int:
    usage = os.statvfs(path)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def test_a_budget_bounds_what_history_holds_and_df_shows_it(make_mount) -> None:
    mount = make_mount()
    path, size = mount.path, 8_000_000
    (path / "d").mkdir()
    before = used_bytes(path)
    for number in range(24):
        (path / "d/f").write_bytes(Random(number).randbytes(size))
    full = used_bytes(path)
    assert 24 * size <= full - before < 25 * size
    os.setxattr(path / "d", "user.cascade.history_budget", b"20M")
    lines = {line["line"]: line for line in objects("gc", path, "--dry-run")}
    to_go = {"line": "budget", "versions": 21, "bytes": 21 * size}
    # Nothing is left to say where the daemon's own pass was faster.
    assert lines.get("budget", to_go) == to_go
    objects("gc", path)
    assert sorted(os.listdir(path / "d/f@@")) == ["v22", "v23", "v24"]
    assert (path / "d/f@v22").read_bytes() == Random(21).randbytes(size)
    assert used_bytes(path) < full - 10 * size
    rows = {os.path.basename(row["path"]): row for row in objects("du", path)}
    assert rows["d"]["history_budget"] == f"{2 * size}/20M"
    assert rows["d"]["history_bytes"] == 2 * size
    shown = subprocess.check_output(["df", "-B1", path], text=True).splitlines()[1]
    assert int(shown.split()[2]) == used_bytes(path)
    # Removing frees nothing by itself: the newest content is history now.
    held = used_bytes(path)
    (path / "d/f").unlink()
    assert used_bytes(path) >= held
    # The writer is never told.
    (path / "d/g").write_bytes(Random(0).randbytes(5 * size))
    assert (path / "d/f@v24").read_bytes() == Random(23).randbytes(size)
