"""Scripts of a real mount, in real workers: they fire, once for each version, also when the daemon is killed.

Method: the mount belongs to whoever runs the tests; root's tests run root's scripts (`--triggers=root`), others' their
own. Nothing waits for a time: each test waits for what must come to be, with a limit.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.mounted.conftest import cascadefs

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

MODE = "--triggers=root" if os.getuid() == 0 else "--triggers=owner"

PATIENCE_SECONDS = 30.0

APPEND = """
from cascadefs.triggers import watch

@watch("in/**", key="dir")
def log(event, ctx):
    ctx.append("log", f"{event.path} v{event.version} {bytes(event.data).decode()}\\n".encode())
"""


def wait_for(what, said: str, seconds: float = PATIENCE_SECONDS):
    """The first answer that is true."""
    limit = time.monotonic() + seconds
    while True:
        try:
            found = what()
        except FileNotFoundError:
            found = None
        if found:
            return found
        assert time.monotonic() < limit, f"no {said} in {seconds} s"
        select.select([], [], [], 0.02)


def bindings(mount) -> dict[str, dict]:
    status = json.loads((mount.path / ".cascade/status").read_bytes())["triggers"]
    return {one["name"]: one for base in status.get("bases", []) for one in base["bindings"]}


def problems(mount) -> dict[str, dict]:
    status = json.loads((mount.path / ".cascade/status").read_bytes())["triggers"]
    found = {}
    for base in status.get("bases", []):
        found.update(base["problems"])
    return found


def install(mount, name: str, source: str, base: str = "farm") -> Path:
    """Put a script there, and wait until it is active."""
    folder = mount.path / base / ".cascade/watch"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # Executable from the start: between a write and a chmod it would be a mistake that is told.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755), "w") as file:
        file.write(source)
    wait_for(
        lambda: any(one.startswith(name) for one in bindings(mount)) or problems(mount).get(name),
        f"binding of {name}",
    )
    assert problems(mount) == {}
    return path


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture
def farm(make_mount):
    mount = make_mount(MODE)
    (mount.path / "farm/in").mkdir(parents=True)
    mount.farm = mount.path / "farm"
    return mount


def test_a_huge_file_is_read_in_parts_and_never_whole(farm):
    install(
        farm,
        "huge.py",
        """
from cascadefs.triggers import watch

@watch("in/*", emit="out/")
def last(event, ctx):
    try:
        event.data
    except OSError as error:
        said = error.args[-1]
    with ctx.open(event.path) as file:
        file.seek(-4, 2)
        ctx.emit(event.name, [file.read().decode(), said])
""",
    )
    with open(farm.farm / "in/a", "wb") as file:
        file.seek((1 << 40) - 4)
        file.write(b"last")
    found = wait_for(lambda: (farm.farm / "out/a").read_text(), "output")
    assert json.loads(found)[0] == "last"
    assert f"in/a@v1 has {1 << 40} bytes" in json.loads(found)[1]


def test_a_chain_runs_and_says_where_everything_comes_from(farm):
    install(
        farm,
        "two.py",
        """
from cascadefs.triggers import watch

@watch("in/*", emit="mid/")
def first(event, ctx):
    ctx.emit(event.name, event.data.tobytes().upper())

@watch("mid/*", emit="out/")
def second(event, ctx):
    ctx.emit(event.name, event.data.tobytes() + b"!" + ctx.get("model").data.tobytes())
""",
    )
    (farm.farm / "model").write_text("m1")
    assert not (farm.farm / "out/a").exists()  # the kernel remembers that it is not there
    (farm.farm / "in/a").write_text("x")
    assert wait_for(lambda: (farm.farm / "out/a").read_text() == "X!m1", "output")
    known = json.loads(os.getxattr(farm.farm / "out/a", "user.cascade.from"))
    assert known["binding"] == "two.py:second"
    assert known["triggers"] == ["mid/a@v1"]
    assert known["reads"] == ["model@v1"]
    assert known["hops"] == 1
    said = cascadefs("why", farm.farm / "out/a").stdout
    for part in ("two.py:second", "mid/a@v1", "two.py:first", "in/a@v1", "model@v1"):
        assert part in said
    assert "written by a program" in cascadefs("why", farm.farm / "in/a").stdout
    for where in ((farm.farm,), ("--in", farm.farm)):
        assert "two.py:first" in cascadefs("trigger", "list", *where).stdout
        assert "two.py:first" in cascadefs("top", "--once", *where).stdout
    (farm.farm / "in/a").write_text("y")
    assert wait_for(lambda: (farm.farm / "out/a").read_text() == "Y!m1", "second output")
    assert (farm.farm / "out/a@v1").read_text() == "X!m1"


def test_a_hundred_quick_overwrites_are_a_hundred_runs(farm):
    install(farm, "log.py", APPEND)
    for number in range(100):
        (farm.farm / "in/a").write_text(str(number))
    # Opening with O_TRUNC and closing is one version each.
    wait_for(lambda: len(lines(farm.farm / "log")) == 100, "hundredth line")
    assert lines(farm.farm / "log") == [f"in/a v{n + 1} {n}" for n in range(100)]


def test_a_shell_script_with_a_header(farm):
    if shutil.which("bwrap") is None:
        pytest.fail("bubblewrap is not installed; scripts/setup says how")
    install(
        farm,
        "sum.sh",
        """#!/bin/sh
# /// script
# [tool.cascadefs]
# watch = "in/*.txt"
# emit = "sums/"
# ///
wc -c > "$CASCADE_OUT/$CASCADE_NAME"
""",
    )
    (farm.farm / "in/a.txt").write_text("12345")
    wait_for(lambda: (farm.farm / "sums/a.txt").read_text().strip() == "5", "sum")


@pytest.mark.parametrize("is_shared", [False, True])
def test_an_executable_of_another_user_sees_the_cut_where_he_may_enter(
    make_public_mount, is_shared
):
    """Root mounts; others may enter with allow_other only, and then their scripts may, too. Others mount for themselves."""
    uid = 1234 if os.getuid() == 0 else os.getuid()
    mount = make_public_mount(
        "--triggers=owner", *(["-o", "allow_other"] if is_shared and uid == 1234 else [])
    )
    farm = mount.path / "farm"
    (farm / ".cascade/watch").mkdir(parents=True)
    script = farm / ".cascade/watch/see.sh"
    script.write_text(
        """#!/bin/sh
# /// script
# [tool.cascadefs]
# watch = "in"
# attempts = 1
# ///
if [ -n "$CASCADE_IN" ]; then cat "$CASCADE_IN/in"; else echo "blind"; fi > "$CASCADE_OUT/out"
"""
    )
    script.chmod(0o755)
    for path in (farm, farm / ".cascade", farm / ".cascade/watch", script):
        os.chown(path, uid, -1)
    wait_for(lambda: bindings(mount).get("see.sh"), "binding")
    (farm / "in").write_text("seen\n")
    sees = is_shared or uid == os.getuid()
    wait_for(lambda: (farm / "out").read_text() == ("seen\n" if sees else "blind\n"), "output")
    said = " ".join(mount.status()["triggers"]["workers"]["problems"])
    assert ("CASCADE_IN" in said) == (not sees)


def test_dead_letters_are_files_and_are_done_again_on_command(farm):
    script = install(
        farm,
        "bad.py",
        """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def bad(event, ctx):
    print("about to fail")
    raise ValueError("no good")
""",
    )
    (farm.farm / "in/a").write_text("payload")
    failed = farm.farm / ".cascade/failed/bad.py:bad"
    (name,) = wait_for(lambda: os.listdir(failed), "dead letter")
    letter = failed / name
    assert json.loads((letter / "event.json").read_bytes())["message"] == "ValueError: no good"
    assert "raise ValueError" in (letter / "traceback").read_text()
    assert "about to fail" in (letter / "output").read_text()
    assert (letter / "input").read_text() == "payload"
    assert os.readlink(letter / "input").endswith("in/a@v1")
    assert "about to fail" in (farm.farm / ".cascade/log/bad.py:bad").read_text()
    script.write_text(APPEND.replace("def log", "def bad").replace("in/**", "in/*"))
    wait_for(lambda: (farm.farm / ".cascade/events").read_text().count('"reload"') == 2, "reload")
    again = ("trigger", "retry", f"bad.py:bad/{name}", "--in", farm.farm)
    cascadefs(*again, "--as-was")
    wait_for(lambda: (farm.farm / ".cascade/events").read_text().count('"dead"') == 2, "failure")
    assert os.listdir(failed) == [name]
    cascadefs(*again)
    wait_for(lambda: lines(farm.farm / "log") == ["in/a v1 payload"], "second try")
    assert os.listdir(failed) == []
    script.write_text(
        "from cascadefs.triggers import watch\n@watch('in/*', attempts=1)\ndef bad(e, c): 1 / 0\n"
    )
    wait_for(lambda: (farm.farm / ".cascade/events").read_text().count('"reload"') == 3, "reload")
    (farm.farm / "in/b").write_text("payload")
    wait_for(lambda: os.listdir(failed), "dead letter")
    subprocess.run(["rm", "-r", *failed.iterdir()], check=True)
    assert os.listdir(failed) == []
    assert bindings(farm)["bad.py:bad"]["failed"] == 0
    above = os.open(farm.farm / "in", os.O_RDONLY)
    for _ in range(20):  # deeper than a link can lead
        os.mkdir("d" * 250, dir_fd=above)
        above, left = os.open("d" * 250, os.O_RDONLY, dir_fd=above), above
        os.close(left)
    script.write_text(script.read_text().replace("in/*", "in/**"))
    wait_for(lambda: (farm.farm / ".cascade/events").read_text().count('"reload"') == 4, "reload")
    os.close(os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=above))
    os.close(above)
    (deep,) = wait_for(lambda: os.listdir(failed), "dead letter")
    assert sorted(os.listdir(failed / deep)) == ["event.json", "output", "traceback"]
    assert len(json.loads((failed / deep / "event.json").read_bytes())["path"]) > 5000
    said = cascadefs("trigger", "retry", f"bad.py:bad/{name}", "--in", farm.farm, expect=1).stderr
    assert "not among the dead letters" in said
    control = os.open(farm.farm / ".cascade/ctl", os.O_WRONLY)
    with pytest.raises(OSError, match="Invalid") as refused:
        os.write(control, b"frobnicate\n")
    os.close(control)
    assert refused.value.errno == errno.EINVAL


def test_events_of_the_past_run_again_from_the_command_line(farm, tmp_path):
    install(farm, "log.py", APPEND)
    for number in range(4):
        (farm.farm / "in/a").write_text(str(number))
    wait_for(lambda: len(lines(farm.farm / "log")) == 4, "fourth line")
    events = farm.farm / ".cascade/events"
    kept = [line for line in events.read_bytes().splitlines(True) if b'"event":"event"' in line]
    numbers = [json.loads(line)["seq"] for line in kept]
    where = ("--in", farm.farm)
    cascadefs("trigger", "replay", "log.py", "--events", f"{numbers[1]}..{numbers[2]}", *where)
    wait_for(lambda: len(lines(farm.farm / "log")) == 6, "sixth line")
    assert lines(farm.farm / "log")[4:] == ["in/a v2 1", "in/a v3 2"]
    (tmp_path / "saved.jsonl").write_bytes(kept[0] + kept[3])
    cascadefs("trigger", "replay", "log.py", "--events", tmp_path / "saved.jsonl", *where)
    wait_for(lambda: len(lines(farm.farm / "log")) == 8, "eighth line")
    assert lines(farm.farm / "log")[6:] == ["in/a v1 0", "in/a v4 3"]
    cascadefs("trigger", "replay", "log.py", "--events", "2020-01-01..now", *where)
    wait_for(lambda: len(lines(farm.farm / "log")) == 12, "twelfth line")
    said = cascadefs("trigger", "replay", "log.py", "--events", "900..901", *where, expect=1).stderr
    assert "none of the events of 900..901 is its" in said
    said = cascadefs("trigger", "replay", "log.py", *where, expect=2).stderr
    assert "--events" in said


def test_a_new_script_is_held_against_what_was_written(farm, tmp_path):
    source = """
from cascadefs.triggers import watch

@watch("in/*", emit="out/")
def make(event, ctx):
    ctx.emit(event.name, ctx.get("model").data.tobytes() + event.data.tobytes())
"""
    (farm.farm / "model").write_text("m1 ")
    install(farm, "make.py", source)
    for text in ("x", "bad", "z"):
        (farm.farm / "in/a").write_text(text)
    wait_for(lambda: bindings(farm)["make.py:make"]["done"] == 3, "third run")
    (farm.farm / "model").write_text("m2 ")
    kept = tmp_path / "saved.jsonl"
    kept.write_bytes((farm.farm / ".cascade/events").read_bytes())
    new = tmp_path / "make.py"
    where = ("--events", kept, "--in", farm.farm)
    new.write_text(source)
    said = cascadefs("trigger", "test", new, *where).stdout.splitlines()
    assert said == [f"in/a@v{number}: out/a: same" for number in (1, 2, 3)]
    new.write_text(
        source.replace("event.data.tobytes()", "event.data.tobytes().replace(b'z', b'yz')")
    )
    said = cascadefs("trigger", "test", new, *where, expect=1).stdout.splitlines()
    assert said[:2] == [f"in/a@v{number}: out/a: same" for number in (1, 2)]
    assert said[2] == "in/a@v3: out/a: differs from byte 3 on; 5 bytes, were 4"
    new.write_text(source.replace('emit="out/"', 'emit="elsewhere/"'))
    said = cascadefs("trigger", "test", new, "--events", "1..99", *where[2:], expect=1).stdout
    assert "elsewhere/a: is new" in said
    new.write_text(source.replace("ctx.emit", "assert len(event.data) == 1\n    ctx.emit"))
    said = cascadefs("trigger", "test", new, *where, expect=1).stdout
    assert "in/a@v2: failed: AssertionError" in said
    assert (farm.farm / "out/a").read_text() == "m1 z"
    new.write_text(source.replace("def make", "def other"))
    said = cascadefs("trigger", "test", new, *where, expect=1).stderr
    assert "none of these events is for other" in said


def test_what_is_gone_is_made_again(farm):
    install(
        farm,
        "make.py",
        """
from cascadefs.triggers import watch
import os

@watch("in/*", emit="out/deep/")
def make(event, ctx):
    ctx.emit(event.name, event.data.tobytes().upper())
    ctx.put("random", os.urandom(8))
""",
    )
    for name in "ab":
        (farm.farm / "in" / name).write_text(name)
        wait_for((farm.farm / "out/deep" / name).exists, "output")
    (farm.farm / "in/a").write_text("newer, which is not what out/deep/a was made from")
    wait_for(lambda: len((farm.farm / "out/deep/a").read_bytes()) > 1, "newer output")
    (farm.farm / "out/deep/b").unlink()
    said = cascadefs("remake", farm.farm / "out/deep/b").stdout
    assert "made again, the same bytes" in said
    assert (farm.farm / "out/deep/b").read_text() == "B"
    then = os.getxattr(farm.farm / "out/deep/b", "user.cascade.commit_time").decode()
    shutil.rmtree(farm.farm / "out")
    assert "say --at TIME" in cascadefs("remake", farm.farm / "out", expect=1).stderr
    said = cascadefs("remake", farm.farm / "out", "--at", then).stdout
    assert said.count("made again, the same bytes") == 2
    assert (farm.farm / "out/deep/a").read_text().startswith("NEWER")
    assert "is there" in cascadefs("remake", farm.farm / "out/deep/a").stdout
    for name in "ab":
        (farm.farm / "out/deep" / name).unlink()
    assert cascadefs("remake", farm.farm / "out").stdout.count("made again") == 2
    (farm.farm / "random").unlink()
    said = cascadefs("remake", farm.farm / "random", expect=1)
    assert "made again, other bytes" in said.stdout
    assert "depends on more than it reads" in said.stderr
    said = cascadefs("remake", farm.farm / "in/nothing", expect=1).stderr
    assert "nothing that a script wrote is gone here" in said
    known = json.loads(os.getxattr(farm.farm / "out/deep/b", "user.cascade.from"))
    assert "/make.py:make@replay-" in known["run"]
    assert known["triggers"] == ["in/b@v1"]


def test_settle_close_waits_for_the_last_close(farm):
    install(farm, "log.py", APPEND.replace('key="dir"', 'settle="close"'))
    with (farm.farm / "in/a").open("w") as file:
        for number in range(3):
            file.write(str(number))
            file.flush()
            os.fsync(file.fileno())
    (farm.farm / "in/b").write_text("x")
    wait_for(lambda: len(lines(farm.farm / "log")) == 2, "second line")
    assert sorted(lines(farm.farm / "log")) == ["in/a v3 012", "in/b v1 x"]
    assert bindings(farm)["log.py:log"]["skipped"] == 2


def test_what_is_served_is_found_by_name_and_copied_by_nobody(farm, tmp_path):
    install(farm, "log.py", APPEND)
    assert sorted(os.listdir(farm.farm)) == [".cascade", "in"]
    assert os.listdir(farm.farm / ".cascade") == ["watch"]
    control = farm.farm / ".cascade"
    assert "log.py:log" in (control / "status").read_text()
    assert json.loads((control / "status.json").read_bytes())["bases"][0]["path"] == "farm"
    assert "cascadefs_trigger_done_total" in (control / "metrics").read_text()
    for name in ("status", "events", "ctl", "failed"):
        with pytest.raises(OSError, match=r"exists|permitted|Read-only"):
            os.mkdir(control / name)
    with pytest.raises(OSError, match=r"Read-only|denied"):
        (control / "status").write_text("x")
    subprocess.run(["cp", "-r", farm.farm, tmp_path / "copy"], check=True)
    assert os.listdir(tmp_path / "copy/.cascade") == ["watch"]
    shutil.rmtree(farm.farm)
    assert not farm.farm.exists()


def test_who_polls_the_events_wakes_when_there_is_one(farm):
    install(farm, "log.py", APPEND)
    events = os.open(farm.farm / ".cascade/events", os.O_RDONLY)
    poll = select.poll()
    poll.register(events, select.POLLIN)
    edges = select.epoll()
    edges.register(events, select.EPOLLIN | select.EPOLLET)
    assert poll.poll(0) == [(events, select.POLLIN)], "something has happened already"
    assert edges.poll(0) == [(events, select.EPOLLIN)]
    told = b""
    while part := os.read(events, 1 << 16):
        told += part
    assert b'"reload"' in told
    assert os.read(events, 100) == b"", "the end, and no waiting"
    assert poll.poll(0) == []
    assert select.select([events], [], [], 0)[0] == []
    for number in range(3):
        (farm.farm / "in/a").write_text(str(number))
        told = b""
        while told.count(b'"done"') == 0:
            if number % 2:
                assert poll.poll(PATIENCE_SECONDS * 1000) == [(events, select.POLLIN)]
            else:
                assert edges.poll(PATIENCE_SECONDS) == [(events, select.EPOLLIN)]
            while part := os.read(events, 1 << 16):
                told += part
        assert [json.loads(line)["event"] for line in told.splitlines()] == [
            "event",
            "start",
            "done",
        ]
    waiting = subprocess.Popen(
        [sys.executable, "-c", SELECTING, farm.farm / ".cascade/events"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdout.readline() == "waiting\n"
    (farm.farm / "in/b").write_text("x")
    assert waiting.communicate(timeout=PATIENCE_SECONDS)[0] == "event in/b\n"
    edges.close()
    os.close(events)
    (farm.farm / "in/a").write_text("nobody waits any more")
    wait_for(lambda: bindings(farm)["log.py:log"]["done"] == 5, "fifth run")


SELECTING = """
import json, os, select, sys

events = os.open(sys.argv[1], os.O_RDONLY)
while os.read(events, 1 << 16):
    pass
print("waiting", flush=True)
select.select([events], [], [])
told = json.loads(os.read(events, 1 << 16).splitlines()[0])
print(told["event"], told["path"])
"""


def test_tail_follows_the_events(farm):
    install(farm, "log.py", APPEND)
    events = farm.farm / ".cascade/events"
    assert events.stat().st_size == len(events.read_bytes())
    tail = subprocess.Popen(
        ["tail", "-n", "1", "-s", "0.1", "-f", events], stdout=subprocess.PIPE, text=True
    )
    try:
        assert json.loads(tail.stdout.readline())["event"] == "reload"
        (farm.farm / "in/a").write_text("x")
        assert json.loads(tail.stdout.readline())["path"] == "in/a"
        assert json.loads(tail.stdout.readline())["event"] == "start"
    finally:
        tail.kill()
        tail.communicate()


def test_files_are_always_ready_to_who_polls(farm):
    (farm.farm / "f").write_text("x")
    with (farm.farm / "f").open("r+b") as file, (farm.path / ".cascade/status").open("rb") as text:
        for descriptor in (file.fileno(), text.fileno()):
            poll = select.poll()
            poll.register(descriptor, select.POLLIN | select.POLLOUT)
            assert poll.poll(0) == [(descriptor, select.POLLIN | select.POLLOUT)]
        assert select.select([file], [file], [file], 0) == ([file], [file], [])


def test_runs_are_spans_where_the_environment_names_an_exporter(make_mount, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")  # into the daemon's log
    mount = make_mount(MODE)
    install(mount, "log.py", APPEND)
    (mount.path / "farm/in").mkdir()
    (mount.path / "farm/in/a").write_text("x")
    wait_for(lambda: lines(mount.path / "farm/log") == ["in/a v1 x"], "line")
    mount.umount()
    assert '"name": "log.py:log"' in mount.log()
    assert '"cascadefs.trigger": "in/a@v1"' in mount.log()


def test_control_groups_bound_workers_where_there_are_some(make_mount):
    groups = next(
        (
            Path(line.split()[1])
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[2] == "cgroup2"
        ),
        None,
    )
    if groups is None or not os.access(groups, os.W_OK):
        pytest.fail("no cgroup2 that tests may write to on this machine")
    ours = groups / f"cascadefs-test-{os.getpid()}"
    ours.mkdir()
    mount = make_mount(MODE, "--cgroup", str(ours))
    try:
        install(mount, "log.py", APPEND)
        workers = mount.status()["triggers"]["workers"]
        assert workers["bounds"] == "each worker with all it starts, by control groups"
        (group,) = [path for path in ours.iterdir() if path.is_dir()]
        assert (group / "cgroup.procs").read_text().split()
        (mount.path / "farm/in").mkdir()
        (mount.path / "farm/in/a").write_text("x")
        wait_for(lambda: lines(mount.path / "farm/log") == ["in/a v1 x"], "line")
    finally:
        mount.umount()
        wait_for(lambda: not [path for path in ours.iterdir() if path.is_dir()], "end of groups")
        ours.rmdir()


def test_without_control_groups_the_status_says_so(farm, tmp_path):
    workers = farm.status()["triggers"]["workers"]
    assert "--cgroup" in workers["bounds"]
    said = cascadefs("mount", tmp_path, "--volatile", "--cgroup", tmp_path, expect=2).stderr
    assert "cgroups(7)" in said


def test_without_the_option_nothing_runs_and_nothing_is_served(make_mount):
    mount = make_mount()
    (mount.path / "farm").mkdir()
    with pytest.raises(PermissionError):
        (mount.path / "farm/.cascade").mkdir()
    assert not (mount.path / "farm/.cascade/status").exists()
    assert mount.status()["triggers"] == {"mode": "off"}


def test_a_mistake_in_a_script_is_shown_and_the_old_one_stays(farm):
    script = install(farm, "log.py", APPEND)
    script.write_text(APPEND.replace("key=", "kye="))
    problem = wait_for(lambda: problems(farm).get("log.py"), "problem")
    assert "did you mean 'key'" in problem["message"]
    assert "did you mean 'key'" in (farm.farm / ".cascade/status").read_text()
    (farm.farm / "in/a").write_text("x")
    wait_for(lambda: lines(farm.farm / "log") == ["in/a v1 x"], "line of the old script")


@pytest.mark.timeout(240)
def test_every_version_is_run_once_whatever_is_killed(farm):
    install(farm, "log.py", APPEND)
    random = Random(5)
    count = 0
    for _ in range(4):
        for _ in range(random.randrange(20, 60)):
            (farm.farm / "in/a").write_text(str(count))
            count += 1
        farm.kill()
        farm.mount()
    wait_for(lambda: len(lines(farm.farm / "log")) >= count, f"line {count}", 60)
    assert lines(farm.farm / "log") == [f"in/a v{n + 1} {n}" for n in range(count)]
    assert bindings(farm)["log.py:log"]["done"] == count


@pytest.mark.timeout(240)
def test_a_worker_that_is_killed_harms_nothing(farm):
    install(
        farm,
        "slow.py",
        """
import os, time
from cascadefs.triggers import watch

@watch("in/*", key="dir", attempts=9, backoff="10ms")
def slow(event, ctx):
    ctx.append("pids", f"{os.getpid()}\\n".encode())
    if event.attempt == 1 and int(event.data.tobytes()) % 5 == 0:
        os._exit(3)
    ctx.append("log", event.data.tobytes() + b"\\n")
""",
    )
    for number in range(20):
        (farm.farm / "in/a").write_text(str(number))
    wait_for(lambda: len(lines(farm.farm / "log")) == 20, "twentieth line", 60)
    assert lines(farm.farm / "log") == [str(number) for number in range(20)]
    assert bindings(farm)["slow.py:slow"]["retries"] >= 4


def test_names_that_are_no_utf8_fire_fail_and_are_shown(farm):
    base = Path(os.fsdecode(bytes(farm.path) + b"/f\xff"))
    (base / "in").mkdir(parents=True)
    source = """
from cascadefs.triggers import watch

@watch("in/*", emit="out/", attempts=1)
def work(event, ctx):
    print(event.path.encode(errors="surrogateescape"))
    ctx.state["seen"] = event.path
    if event.data == b"bad":
        raise ValueError(event.path)
    ctx.emit(event.name, ctx.get(event.path).data)
"""
    install(farm, "w\udcff.py", source, base=base.name)
    name = os.fsdecode(b"a\xff")
    (base / "in" / name).write_text("good")
    wait_for(lambda: (base / "out" / name).read_text() == "good", "output")
    known = json.loads(os.getxattr(base / "out" / name, "user.cascade.from"))
    assert known["triggers"] == [f"in/{name}@v1"]
    (base / "in" / name).write_text("bad")
    control = base / ".cascade"
    failed = control / "failed/w\udcff.py:work"
    (letter,) = wait_for(lambda: os.listdir(failed), "dead letter")
    told = json.loads((failed / letter / "event.json").read_bytes())
    assert told["path"] == f"in/{name}"
    assert (failed / letter / "input").read_bytes() == b"bad"
    assert json.loads((control / "status.json").read_bytes())["bases"][0]["path"] == base.name
    for served in ("status", "metrics", "events", "log/w\udcff.py:work"):
        assert (control / served).read_text()
    assert "in/a\\udcff@v1" in cascadefs("why", base / "out" / name).stdout
    listed = cascadefs("trigger", "list", "--in", base).stdout
    assert "udcff" in listed
    (base / ".cascade/watch/w\udcff.py").write_text(source.replace('== b"bad"', '== b"x"'))
    wait_for(lambda: (control / "events").read_text().count('"reload"') == 2, "reload")
    with (control / "ctl").open("wb", buffering=0) as ctl:
        ctl.write(b"retry w\xff.py:work/" + letter.encode() + b"\n")
    wait_for(lambda: (base / "out" / name).read_text() == "bad", "second try")


def test_a_run_is_killed_from_the_command_line_which_waits_for_it(farm):
    install(
        farm,
        "slow.py",
        """
import trio
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
async def slow(event, ctx):
    print("begun", flush=True)
    await trio.sleep(3600)
""",
    )
    (farm.farm / "in/a").write_text("x")
    wait_for(lambda: bindings(farm)["slow.py:slow"]["running"], "run")
    (run,) = farm.status()["triggers"]["running"]
    said = cascadefs("trigger", "kill", run["run"], "--in", farm.farm).stdout
    assert said == f"{run['run']}: ended\n"
    assert len(os.listdir(farm.farm / ".cascade/failed/slow.py:slow")) == 1, "it has ended"
    said = cascadefs("trigger", "kill", run["run"], "--in", farm.farm, expect=1).stderr
    assert "no run" in said


def test_top_shows_what_the_mount_says_and_kills_what_runs(farm):
    from cascadefs.cli import base
    from cascadefs.cli.board import Board

    install(
        farm,
        "slow.py",
        """
import time
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def slow(event, ctx):
    time.sleep(3600)
""",
    )
    (farm.farm / "in/a").write_text("x")
    wait_for(lambda: bindings(farm)["slow.py:slow"]["running"], "run")
    (line,) = [
        one
        for one in cascadefs("top", "--once", "--in", farm.farm, columns=160).stdout.splitlines()
        if "slow.py" in one
    ]
    assert "/farm" in line
    assert " MiB " in line

    async def look() -> None:
        board = Board(
            lambda: base.status_of(farm.farm), lambda line: base.command(farm.farm, line), 3600
        )
        async with board.run_test(size=(200, 40)) as pilot:
            await pilot.pause()
            assert board.query_one("#runs").row_count == 1
            await pilot.press("K")
            said = str(board.query_one("#said").render())
            assert said.startswith("kill ")

    asyncio.run(look())
    failed = farm.farm / ".cascade/failed/slow.py:slow"
    (letter,) = wait_for(lambda: os.listdir(failed), "dead letter")
    assert json.loads((failed / letter / "event.json").read_bytes())["failure"] == "killed"
