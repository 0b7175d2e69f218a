"""Goal: on a mount, the history commands find, show, compare and bring back what was, as SEMANTICS 11 says.

Method: write, wait for nothing (commits are ordered, not timed), ask the commands; what is restored is compared with a
photograph taken at the time. Commands run in this process, but for one that is about being a process.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cascadefs.cli import app
from tests.mounted.conftest import command_line, environment
from tests.mounted.tree import photograph

pytestmark = pytest.mark.mounted


@pytest.fixture
def top(shared_mount, monkeypatch) -> Path:
    """A directory of the test's own on a mount, where the commands run."""
    own = Path(tempfile.mkdtemp(dir=shared_mount.path))
    monkeypatch.chdir(own)
    monkeypatch.setenv("TZ", "UTC")
    return own


def cascadefs(*arguments, expect=0):
    done = CliRunner().invoke(app, [os.fsdecode(argument) for argument in arguments])
    assert done.exit_code == expect, (done.output, done.exception)
    return done


def output(*arguments, expect=0) -> str:
    return os.fsdecode(cascadefs(*arguments, expect=expect).stdout_bytes)


def lines(*arguments, expect=0) -> list[str]:
    return output(*arguments, expect=expect).splitlines()


def objects(*arguments, expect=0) -> list[dict]:
    return [json.loads(line) for line in lines(*arguments, "--json", expect=expect)]


def pin(path="data") -> str:
    """The state of now, for ever."""
    return output("at", "now", path).rstrip("\n")


def write(path: Path | str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def state(path: Path | str):
    """What has to come back: everything that lstat and the content say but identities and change times."""
    return photograph(Path(path))


def test_every_path_that_log_prints_opens_what_it_says(top):
    for text in ("one", "two", "two", "three!"):
        write("cfg.yaml", text)
    rows = objects("log", "--all", "cfg.yaml")
    assert [row["path"] for row in rows] == [f"cfg@v{n}.yaml" for n in (4, 3, 2, 1)]
    assert [Path(row["path"]).read_text() for row in rows] == ["three!", "two", "two", "one"]
    assert [row["size"] for row in rows] == [6, 3, 3, 3]
    assert [row["kind"] for row in rows] == ["write", "write", "write", "create"]
    assert [row["version"] for row in objects("log", "cfg.yaml")] == [4, 2, 1]
    for row in rows:
        assert output("cat", f"cfg@{row['time']}.yaml") == Path(row["path"]).read_text()
    assert output("cat", "cfg.yaml@v1") == output("cat", "cfg@v1.yaml") == "one"
    assert output("cat", "cfg.yaml@v-1") == "two"


def test_at_now_shows_what_was_just_closed_and_nothing_later(top):
    write("data/a", "1")
    then = pin()
    assert then.startswith("data@2")
    write("data/a", "22")
    write("data/b", "")
    assert Path(then, "a").read_text() == "1"
    assert lines("ls", then) == ["a"]
    assert lines("ls", "data") == ["a", "b"]
    assert lines("ls", "-t", then.removeprefix("data@"), "data") == ["a"]
    assert objects("ls", then)[0]["size"] == 1


def test_the_root_has_no_name_to_put_a_time_behind(mount, monkeypatch):
    write(mount.path / "a", "1")
    root = pin(mount.path)
    assert root.startswith(f"{mount.path}/.@2")
    write(mount.path / "a", "22")
    assert Path(root, "a").read_text() == "1"
    monkeypatch.chdir(mount.path)
    assert pin(".").startswith(".@2")
    write("b/c", "2")
    assert lines("restore", root.replace(f"{mount.path}/", "./")) == ["M ./a", "- ./b/c", "- ./b"]
    assert Path("a").read_text() == "1"
    assert lines("deleted")[0].startswith("b@2")


def test_the_instants_of_a_directory_are_paths(top):
    write("data/a", "1")
    write("data/sub/b", "2")
    rows = objects("log", "data")
    assert [row["timestamp"] for row in rows] == sorted(
        (row["timestamp"] for row in rows), reverse=True
    )
    assert Path(rows[0]["path"], "sub/b").read_text() == "2"
    assert all(Path(row["path"]).is_dir() for row in rows)


def test_log_crosses_renames(top):
    write("old/a.txt", "1")
    write("old/a.txt", "2")
    Path("old/a.txt").rename("b.txt")
    write("b.txt", "3")
    Path("b.txt").rename("old/c.txt")
    assert [row["path"] for row in objects("log", "old/c.txt")] == ["old/c@v1.txt"]
    followed = objects("log", "--follow", "old/c.txt")
    assert [row["path"] for row in followed] == [
        "old/c@v1.txt",
        "b@v2.txt",
        "b@v1.txt",
        "old/a@v2.txt",
        "old/a@v1.txt",
    ]
    assert [Path(row["path"]).read_text() for row in followed] == ["3", "3", "2", "2", "1"]
    assert followed[0]["moved_from"] == "b.txt"
    assert lines("log", "b.txt")[0].endswith("moved to old/c.txt")


def test_diff_of_directories(top):
    for name in ("same", "changed", "gone", "old", "mode", "box/x", "box/y", "touched"):
        write(f"data/{name}", name)
    then = pin()
    write("data/changed", "CHANGED")
    write("data/new", "new")
    Path("data/gone").unlink()
    Path("data/old").rename("data/renamed")
    Path("data/mode").chmod(0o600)
    Path("data/box").rename("data/chest")
    Path("data/chest/y").rename("data/y")
    Path("data/touched").touch()
    assert sorted(lines("diff", then, expect=1)) == [
        "+ data/new",
        "- data/gone",
        "M data/changed",
        "M data/mode",
        "R data/box -> data/chest",
        "R data/box/y -> data/y",
        "R data/old -> data/renamed",
    ]
    assert lines("diff", then, then) == []
    by_path = {row["path"]: row for row in objects("diff", then, "data", expect=1)}
    assert by_path["data/mode"]["changed"] == ["mode"]
    assert by_path["data/changed"]["old"] == f"{then}/changed"
    assert "+CHANGED" in lines("diff", "-u", then, expect=1)
    assert "-changed" in lines("diff", "data/changed", "-t", then.removeprefix("data@"), expect=1)


def test_diff_sees_bytes_that_size_and_time_hide(top):
    write("data/a", "one")
    then = pin()
    status = Path("data/a").stat()
    write("data/a", "two")
    os.utime("data/a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert lines("diff", then, expect=1) == ["M data/a"]


def test_restoring_a_file_is_one_version_with_its_mode_and_time(top):
    write("cfg.yaml", "one")
    Path("cfg.yaml").chmod(0o640)
    os.utime("cfg.yaml", ns=(10**18 + 7, 10**18 + 7))
    then = pin("cfg.yaml")
    write("cfg.yaml", "two")
    Path("cfg.yaml").chmod(0o600)
    assert lines("restore", then) == ["M cfg.yaml"]
    status = Path("cfg.yaml").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 10**18 + 7)
    assert Path("cfg.yaml").read_text() == "one"
    assert [row["version"] for row in objects("log", "--all", "cfg.yaml")] == [3, 2, 1]
    assert lines("restore", then) == []
    assert lines("restore", "cfg.yaml@v2") == ["M cfg.yaml"]
    assert Path("cfg.yaml").read_text() == "two"


def test_a_restored_large_file_shares_its_bytes(top, shared_mount):
    def log_bytes():
        return shared_mount.status()["store"]["log_bytes"]

    blob = random.Random(1).randbytes(8 << 20)
    Path("blob").write_bytes(blob)
    Path("blob").write_bytes(b"small")
    before = log_bytes()
    assert lines("restore", "blob@v1") == ["M blob"]
    assert Path("blob").read_bytes() == blob
    Path("blob").unlink()
    assert lines("restore", "blob") == ["+ blob"]
    assert Path("blob").read_bytes() == blob
    assert log_bytes() - before < 1 << 20


def test_a_deleted_file_comes_back(top):
    write("gone.txt", "1")
    write("gone.txt", "last")
    Path("gone.txt").unlink()
    assert lines("deleted")[0].split()[0] == "gone@v2.txt"
    assert Path("gone@v2.txt").read_text() == "last"
    assert lines("restore", "gone.txt", "--dry-run") == ["+ gone.txt"]
    assert not Path("gone.txt").exists()
    assert lines("restore", "gone.txt") == ["+ gone.txt"]
    assert Path("gone.txt").read_text() == "last"
    newest, *before = objects("log", "gone.txt")
    assert (newest["kind"], newest["size"]) in (("create", 4), ("write", 4))
    assert [(row["version"], row["kind"]) for row in before][-3:] == [
        (3, "delete"),
        (2, "write"),
        (1, "create"),
    ]
    assert lines("deleted") == []


def furnish(data: Path) -> None:
    """One of everything."""
    for name in ("a", "sub/b", "sub/deep/c", "box/x", "box/y", "type"):
        write(data / name, name * 3)
    (data / "link").symlink_to("sub/b")
    os.link(data / "a", data / "sub/again")
    os.mkfifo(data / "pipe")
    (data / "empty").mkdir()
    (data / "sub").chmod(0o750)
    (data / "a").chmod(0o400)
    os.setxattr(data / "box", "user.colour", b"blue")
    os.chown(data / "box/x", 12, 34)
    with open(data / "sparse", "wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(b"end")
    for number, path in enumerate(sorted(data.rglob("*"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number), follow_symlinks=False)


def disturb(data: Path) -> None:
    """Every kind of damage."""
    write(data / "sub/b", "changed")
    shutil.rmtree(data / "sub/deep")
    (data / "box").rename(data / "chest")
    (data / "chest/y").unlink()
    write(data / "chest/later", "later")
    (data / "type").unlink()
    (data / "type").mkdir()
    write(data / "type/inside", "inside")
    (data / "link").unlink()
    (data / "pipe").unlink()
    (data / "empty").rmdir()
    write(data / "empty", "a file")
    (data / "sparse").write_text("full")
    (data / "sub/again").unlink()
    (data / "a").chmod(0o666)
    (data / "a").write_text("changed too")
    write(data / "later/file", "later")


def test_a_whole_directory_comes_back(top):
    furnish(Path("data"))
    then = pin()
    before = state("data")
    assert state(then) == before
    disturb(Path("data"))
    shown = lines("restore", then, "--dry-run")
    assert state("data") != before
    assert lines("restore", then) == shown
    assert state("data") == before
    assert lines("diff", then) == []
    assert lines("restore", then) == []
    assert Path("data/a").stat().st_ino == Path("data/sub/again").stat().st_ino
    assert os.getxattr("data/box", "user.colour") == b"blue"
    # The directory that was renamed came back by a rename, with what its names remember.
    assert "R data/chest -> data/box" in shown
    assert [row["version"] for row in objects("log", "data/box/x")] == [1]


def test_a_directory_goes_elsewhere_on_the_mount_and_off_it(top, tmp_path):
    furnish(Path("data"))
    then = pin()
    disturb(Path("data"))
    output("restore", then, "--to", "copy")
    assert state("copy") == state(then)
    output("restore", then, "--to", tmp_path / "out")
    assert state(tmp_path / "out") == state(then)


def test_a_directory_made_anew_gets_the_content_of_the_old_one(top):
    """Its names have another history, so that cannot be what is restored."""
    write("data/sub/f", "of the first")
    then = pin()
    shutil.rmtree("data/sub")
    write("other/f", "of the second")
    write("other/f", "of the second!")
    Path("other").rename("data/sub")
    output("restore", then)
    assert Path("data/sub/f").read_text() == "of the first"


def test_what_rm_r_removed_comes_back_as_of_the_time_that_the_refusal_names(top):
    write("data/a", "1")
    write("data/sub/b", "2")
    before = state("data")
    os.utime("data")
    instants = [row["timestamp"] for row in objects("log", "data")]
    # The first removal has to come noticeably later than the last write, as it does where people type.
    while int(objects("at", "now")[0]["timestamp"]) - instants[0] < 1_100_000:
        pass
    shutil.rmtree("data")
    assert lines("deleted")[0].split()[0].startswith("data@2")
    done = cascadefs("restore", "data", expect=1)
    assert (
        "it was empty when it was removed; before that: `cascadefs restore data -t 2" in done.stderr
    )
    when = done.stderr.split(" -t ")[1].split()[0]
    assert lines("restore", "data", "-t", when) == [
        "+ data",
        "+ data/a",
        "+ data/sub",
        "+ data/sub/b",
    ]
    assert state("data").keys() == before.keys()
    assert Path("data/sub/b").read_text() == "2"


def test_an_empty_directory_that_was_moved_is_told_by_deleted(top):
    Path("old").mkdir()
    Path("old").rename("new")
    (row,) = objects("deleted")
    assert (row["name"], row["type"], row["kind"], row["moved_to"]) == (
        "old",
        "directory",
        "moved",
        "new",
    )
    assert Path(row["path"]).is_dir()
    write("new/sub/x", "")
    Path("new/sub/x").unlink()
    assert [row["path"] for row in objects("deleted", "-r")][1] == "new/sub/x@v1"


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"a b\nc", b"icon@2x.png", b"a@v1", b"-n", "ü@t=now".encode()]
)
def test_any_name(top, name):
    path = b"./" + name
    for text in (b"1", b"2"):
        with open(path, "wb") as file:
            file.write(text)
    rows = objects("log", path)
    assert [row["version"] for row in rows] == [2, 1]
    with open(os.fsencode(rows[1]["path"]), "rb") as file:
        assert file.read() == b"1"
    assert cascadefs("log", path).stdout_bytes.startswith(os.fsencode(rows[0]["path"]))
    output("restore", os.fsencode(rows[1]["path"]))
    with open(path, "rb") as file:
        assert file.read() == b"1"
    os.unlink(path)
    assert os.fsencode(objects("deleted")[0]["name"]) == name
    output("restore", path)
    with open(path, "rb") as file:
        assert file.read() == b"1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cat", "a@v9"], "a@v9: no version 9; there is only version 1; see `cascadefs log a`"),
        (["log", "nope"], "nope: no history: no such name was ever here"),
        (
            ["at", "2026-01-01", "a"],
            "a@20260101T000000Z: not there at 20260101T000000Z: its first version",
        ),
        (
            ["at", "9999-01-01", "a"],
            "time: '9999-01-01' is 99990101T000000Z, which is in the future",
        ),
        (["cat", "a@t=2026-99"], "a@t=2026-99: month must be in 1..12"),
        (["restore", "a@v1", "--to", ".@t=now/x"], ".@t=now/x: read-only, as all history is"),
        (["ls", "data@tag-x"], "data@tag-x: no label x"),
    ],
)
def test_refusals(top, arguments, words):
    write("a", "1")
    write("data/b", "1")
    done = cascadefs(*arguments, expect=1)
    assert done.stderr.startswith(f"cascadefs: {words}")


def test_labels_are_paths_of_the_past(top):
    write("data/a", "1")
    Path("data@tag-rel1").mkdir()
    write("data/a", "2")
    assert lines("diff", "data@tag-rel1", expect=1) == ["M data/a"]
    assert lines("restore", "data@tag-rel1") == ["M data/a"]
    assert Path("data/a").read_text() == "1"


def test_as_a_process(top):
    """Status, streams, and a reader that goes away."""
    for number in range(3):
        write("a", str(number))

    def shell(script):
        command = " ".join(command_line())
        return subprocess.run(
            ["bash", "-c", f'cascadefs() {{ {command} "$@"; }}; {script}'],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )

    done = shell(
        "cascadefs diff a@v1; echo $?; cascadefs diff a a; echo $?; cascadefs diff a b; echo $?"
    )
    assert [line for line in done.stdout.splitlines() if len(line) == 1] == ["1", "0", "2"]
    assert done.stderr == "cascadefs: b: no history: no such name was ever here\n"
    done = shell("cascadefs log a | true; cascadefs cat a | head -c 1")
    assert (done.stdout, done.stderr) == ("2", "")
    done = shell('root=$(cascadefs at now .) && cat "$root/a"')
    assert (done.stdout, done.stderr) == ("2", "")
