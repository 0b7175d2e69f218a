"""Goal: put, sync, blame, grep and bisect do on a mount what SEMANTICS 11 says, for names that are no text too.

Method: write, ask the commands, open what they print. Commands run in this process, but for those that read standard
input or are about being a process.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from tests.mounted.conftest import command_line, environment
from tests.mounted.test_cli_history import cascadefs, lines, objects, output
from tests.mounted.tree import photograph

pytestmark = pytest.mark.mounted

ODD = os.fsdecode(b"caf\xe9 one.txt")


@pytest.fixture
def top(shared_mount, monkeypatch) -> Path:
    own = Path(tempfile.mkdtemp(dir=shared_mount.path))
    monkeypatch.chdir(own)
    monkeypatch.setenv("TZ", "UTC")
    return own


def piped(data: bytes, *arguments, expect: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command_line(*arguments), input=data, capture_output=True, timeout=60, env=environment()
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done


def test_put_makes_one_version_and_says_which(top):
    assert piped(b"one", "put", "cfg.yaml").stdout == b"cfg@v1.yaml\n"
    assert piped(b"two", "put", "--if", "v1", "cfg.yaml").stdout == b"cfg@v2.yaml\n"
    refused = piped(b"three", "put", "--if", "v1", "cfg.yaml", expect=1)
    assert refused.stdout == b""
    assert (
        b"its last version is v2 and not v1; nothing was written; see `cascadefs diff"
        in refused.stderr
    )
    assert Path("cfg.yaml").read_text() == "two"
    assert piped(b"x", "put", "--if", "0", ODD).stdout == os.fsencode(ODD[:-4]) + b"@v1.txt\n"
    assert b"use --if v1" in piped(b"x", "put", "--if", "v0", ODD, expect=1).stderr
    assert b"there is no such file" in piped(b"x", "put", "--if", "v3", "none", expect=1).stderr
    assert Path(ODD).read_text() == "x"
    assert b"history cannot be written" in piped(b"x", "put", "cfg@v1.yaml", expect=1).stderr
    assert b"is no version" in piped(b"x", "put", "--if", "last", "cfg.yaml", expect=2).stderr
    # An empty input is a version too.
    assert piped(b"", "put", "--if", "v2", "cfg.yaml").stdout == b"cfg@v3.yaml\n"
    assert Path("cfg.yaml").read_bytes() == b""


def test_put_says_when_it_happened(top):
    piped(b"one", "put", "--event-time", "2026-01-01 08:00", "f")
    piped(b"two", "put", "--if", "v1", "--event-time", "2026-01-01 10:00", "f")
    piped(b"late", "put", "--event-time", "2026-01-01 09:00", "f")
    assert Path("f@e=2026-01-01T09:30").read_text() == "late"
    assert Path("f@e=2026-02").read_text() == "two"
    assert os.getxattr("f", "user.cascade.event_time") == b"20260101T090000Z"


@pytest.mark.parametrize("condition", [[], ["--if", "v1"]])
def test_put_that_is_interrupted_writes_nothing(top, condition):
    Path("f").write_text("one")
    process = subprocess.Popen(
        command_line("put", *condition, "f"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        # In the background of a shell without job control, SIGINT would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdin.write(b"half" * (1 << 19))
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert Path("f").read_text() == "one"
    assert output("cat", "f@v-0") == "one"


def test_sync_waits_for_the_disk(mount, monkeypatch):
    monkeypatch.chdir(mount.path)
    Path("f").write_text("one")
    cascadefs("sync")
    store = mount.status()["store"]
    assert store["records_durable"] == store["records"]
    with open("open", "w") as file:
        file.write("not closed yet")
        file.flush()
        cascadefs("sync", "open", "f")
        assert Path("open@v1").read_text() == "not closed yet"
        store = mount.status()["store"]
        assert store["records_durable"] == store["records"]
    assert "of the past" in cascadefs("sync", "f@v1", expect=1).stderr
    assert "no such file" in cascadefs("sync", "none", expect=1).stderr
    assert "not on a cascadefs mount" in cascadefs("sync", "/", expect=1).stderr


def test_blame_tells_which_version_brought_each_line(top):
    Path("f.txt").write_text("a\nb\nc\n")
    Path("f.txt").write_text("a\nB\nc\n")
    Path("f.tmp").write_text("new\na\nB\nc\n")
    os.rename("f.tmp", "f.txt")
    Path("f.txt").write_text("new\na\nB\nc\nlast")
    rows = objects("blame", "f.txt")
    assert [(row["version"], row["line"], row["text"]) for row in rows] == [
        (3, 1, "new"),
        (1, 2, "a"),
        (2, 3, "B"),
        (1, 4, "c"),
        (4, 5, "last"),
    ]
    assert [row["path"] for row in rows][:2] == ["f@v3.txt", "f@v1.txt"]
    assert [row["version"] for row in objects("blame", "f@v2.txt")] == [1, 2, 1]
    assert lines("blame", "f@v1.txt")[0].split()[-2:] == ["1", "a"]


def test_blame_ends_at_a_removal_and_follows_a_rename_if_asked(top):
    Path("f").write_text("kept\n")
    os.unlink("f")
    Path("f").write_text("kept\n")
    assert [row["version"] for row in objects("blame", "f")] == [3]
    os.rename("f", "g")
    Path("g").write_text("kept\nmore\n")
    assert [row["path"] for row in objects("blame", "g")] == ["g@v1", "g@v2"]
    assert [row["path"] for row in objects("blame", "--follow", "g")] == ["f@v3", "g@v2"]


def test_blame_tells_bytes_by_their_places(top):
    Path("f").write_bytes(bytes(100_000))
    with open("f", "r+b") as file:
        file.seek(50_000)
        file.write(b"\1" * 100)
    with open("f", "ab") as file:
        file.write(b"\2" * 10)
    rows = objects("blame", "--bytes", "f")
    assert [(row["version"], row["start"], row["length"]) for row in rows] == [
        (1, 0, 50_000),
        (2, 50_000, 100),
        (1, 50_100, 49_900),
        (3, 100_000, 10),
    ]
    assert "--bytes" in cascadefs("blame", "f", expect=1).stderr


def test_grep_finds_now_then_and_ever(top):
    Path("configs").mkdir()
    Path("configs/a.yaml").write_text("rate: 0.1\nsize: 3\n")
    Path("configs/gone.yaml").write_text("rate: 0.1\n")
    then = output("at", "now", "configs").rstrip("\n")
    Path("configs/a.yaml").write_text("rate: 0.2\nsize: 3\n")
    Path("configs/a.yaml").write_text("rate: 0.2\nsize: 4\n")
    Path(f"configs/{ODD}").write_text("rate: 0.3\n")
    os.unlink("configs/gone.yaml")
    assert lines("grep", "rate", "configs") == [
        "configs/a.yaml:1:rate: 0.2",
        f"configs/{ODD}:1:rate: 0.3",
    ]
    assert lines("grep", "rate", then) == [
        f"{then}/a.yaml:1:rate: 0.1",
        f"{then}/gone.yaml:1:rate: 0.1",
    ]
    assert lines("grep", "--history", "rate", "configs") == [
        "configs/a@v2.yaml:1:rate: 0.2",
        "configs/a@v1.yaml:1:rate: 0.1",
        f"configs/{ODD[:-4]}@v1.txt:1:rate: 0.3",
        "configs/gone@v1.yaml:1:rate: 0.1",
    ]
    found = lines("grep", "--history", "--all", "-l", "rate: 0.2", "configs/a.yaml")
    assert found == ["configs/a@v3.yaml", "configs/a@v2.yaml"]
    for line in lines("grep", "--history", "-F", "0.1", "configs"):
        path, number, text = line.split(":", 2)
        assert Path(path).read_text().splitlines()[int(number) - 1] == text
    assert objects("grep", "-i", "SIZE", "configs")[0]["line"] == 2
    cascadefs("grep", "nowhere", "configs", expect=1)
    assert "-F takes it as text" in cascadefs("grep", "(", "configs", expect=2).stderr
    assert cascadefs("grep", "x", "none", expect=2).stderr.startswith("cascadefs: none:")


def test_grep_finds_what_a_file_had_that_replaced_a_link(top):
    Path("f").symlink_to("nowhere")
    Path("new").write_text("needle\n")
    os.rename("new", "f")
    Path("f").write_text("other\n")
    assert lines("grep", "--history", "needle", "f") == ["f@v2:1:needle"]


def test_grep_tells_of_binary_files_only_that_they_match(top):
    Path("f").write_bytes(b"\0\0needle\n")
    assert lines("grep", "needle", "f") == ["f: binary file matches"]


def test_bisect_finds_the_first_bad_version(top):
    for number in range(1, 41):
        Path("f.txt").write_text(f"{number}\n" + "bug\n" * (number >= 27))
    os.unlink("f.txt")
    Path("f.txt").write_text("bug\n")
    done = cascadefs("bisect", "f.txt", "sh", "-c", "! grep -q bug {}")
    assert done.stdout.splitlines() == ["first bad: f@v27.txt", "last good: f@v26.txt"]
    assert done.stderr.count("trying") <= 9
    ends = ("--good", "f@v20.txt", "--bad", "f@v30.txt")
    done = cascadefs("bisect", *ends, "f.txt", "sh", "-c", "! grep -q bug $0")
    assert done.stdout.startswith("first bad: f@v27.txt\n")
    assert done.stderr.count("trying") <= 6
    assert cascadefs("bisect", "f.txt", "--", "sh", "-c", "! grep -q bug {}").stdout == done.stdout
    assert "it is not bad" in cascadefs("bisect", "f.txt", "true", expect=2).stderr
    assert "it is not good" in cascadefs("bisect", "f.txt", "false", expect=2).stderr
    assert "cannot be run" in cascadefs("bisect", "f.txt", "./no such", expect=2).stderr


def test_bisect_skips_what_cannot_be_judged(top):
    for number in range(1, 11):
        Path("f").write_text(f"{number}\n")
    script = 'read n < "$0"; case $n in 5|6|7) exit 125;; esac; [ $n -lt 6 ]'
    done = cascadefs("bisect", "f", "sh", "-c", script)
    assert done.stdout.splitlines() == ["first bad: f@v8", "last good: f@v4"]
    assert "3 between them could not be judged" in done.stderr


def test_bisect_of_a_directory(top):
    Path("d").mkdir()
    for number in range(8):
        Path(f"d/{number}").write_text("x")
    done = cascadefs("bisect", "d", "sh", "-c", "[ ! -e $0/5 ]")
    first, last = (line.split(": ", 1)[1] for line in done.stdout.splitlines())
    assert (Path(first) / "5").exists()
    assert not (Path(last) / "5").exists()
    assert (Path(last) / "4").exists()


def test_commands_work_while_others_write(top):
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            Path("f").write_text(f"line\n{number}\n")
            number += 1
            stop.wait(0.002)

    writer = threading.Thread(target=write)
    Path("f").write_text("line\n")
    writer.start()
    try:
        for _ in range(3):
            assert objects("blame", "f")[0]["text"] == "line"
            assert lines("grep", "--history", "line", "f")
    finally:
        stop.set()
        writer.join()


def test_a_directory_is_restored_in_one_commit(top):
    Path("data/sub").mkdir(parents=True)
    Path("data/a").write_text("one")
    Path("data/sub/b").write_text("two")
    Path("data/gone").write_text("three")
    then, root = photograph(Path("data")), output("at", "now", "data").rstrip("\n")
    Path("data/a").write_text("ONE")
    os.unlink("data/gone")
    os.rename("data/sub/b", "data/moved")
    Path("data/later").write_text("x")
    before, now = output("at", "now", "data").rstrip("\n"), photograph(Path("data"))
    plan = lines("restore", root, "--dry-run")
    done = cascadefs("restore", root)
    assert done.stderr == ""
    assert done.stdout.splitlines() == plan
    assert sorted(plan) == ["+ data/gone", "- data/later", "M data/a", "R data/moved -> data/sub/b"]
    assert photograph(Path("data")) == then
    times = {os.getxattr(path, "user.cascade.commit_time") for path in ("data/a", "data/gone")}
    assert len(times) == 1
    assert output("cat", "data/later@v1") == "x"
    cascadefs("restore", before)
    assert photograph(Path("data")) == now


def test_what_cannot_be_restored_in_one_commit_is_restored_step_by_step(top, monkeypatch):
    Path("data").mkdir()
    Path("data/a").write_text("one")
    root = output("at", "now", "data").rstrip("\n")
    Path("data/a").write_text("two")
    Path("data/later").write_text("x")
    setxattr = os.setxattr

    def refuse(path, name, *arguments, **keywords):
        if name == "user.cascade.restore" and path == b"data":
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), path)
        setxattr(path, name, *arguments, **keywords)

    monkeypatch.setattr(os, "setxattr", refuse)
    done = cascadefs("restore", root)
    assert "not in one commit: argument list too long; step by step instead" in done.stderr
    assert sorted(done.stdout.splitlines()) == ["- data/later", "M data/a"]
    assert (Path("data/a").read_text(), os.listdir("data")) == ("one", ["a"])
