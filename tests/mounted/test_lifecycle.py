"""A mount begins, ends, is killed and comes back; what cannot be is refused in one line that says what helps.

Method: the command line in processes of its own, on real mounts; what is left behind is looked for outside of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascadefs.fuse import mountpoint
from tests.mounted.conftest import cascadefs, command_line, environment, is_over, mounts_below

pytestmark = pytest.mark.mounted

END_SECONDS = 30.0


def complaint(*arguments: object) -> str:
    """What a refused command says: one line on standard error, exit status 1."""
    done = cascadefs(*arguments, expect=1)
    assert done.stdout == ""
    assert re.fullmatch(r"cascadefs: [^\n]+: [^\n]+; [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def is_locked(data: Path) -> bool:
    return (data / "lock").exists()


@contextlib.contextmanager
def written(path: Path):
    """The descriptor of a file while it is written; closing it fails if the daemon is gone by then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


# --- Begin and end ----------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_after_a_remount(mount):
    (mount.path / "a").write_text("one")
    (mount.path / "a").write_text("two")
    mount.remount()
    assert (mount.path / "a").read_text() == "two"
    assert (mount.path / "a@v1").read_text() == "one"


def test_umount_leaves_nothing_behind(mount):
    (mount.path / "a").write_text("x")
    before = mount.pid
    cascadefs("umount", mount.path)
    assert is_over(before, 0), "umount returned before the daemon had saved everything"
    assert not mount.is_mounted()
    assert not is_locked(mount.data)
    assert os.listdir(mount.path) == []


def test_the_command_returns_when_the_mount_answers_and_the_daemon_stays(make_mount):
    mount = make_mount(mounted=False)
    cascadefs("mount", mount.path, "--data", mount.data)
    (mount.path / "at once").write_text("x")
    mount.find_daemon()
    assert os.getsid(mount.pid) != os.getsid(0)
    assert os.getsid(mount.pid) != mount.pid, "a session leader could get a terminal"
    process = Path(f"/proc/{mount.pid}")
    links = {int(entry.name): os.readlink(entry) for entry in (process / "fd").iterdir()}
    log = str(mount.data / "daemon.log")
    assert (links[0], links[1], links[2]) == ("/dev/null", log, log)
    assert os.readlink(process / "cwd") == "/"


def test_the_daemon_keeps_nothing_of_its_starter_open(make_mount):
    mount = make_mount(mounted=False)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as output:
        subprocess.run(
            command_line("mount", mount.path, "--data", mount.data),
            check=True,
            pass_fds=[writing],
            env=environment(),
        )
        mount.find_daemon()
        os.close(writing)
        assert output.read() == b"", "would wait for ever if the daemon had the other end"


def test_the_log_is_one_utc_line_an_event(mount):
    mount.remount()
    line = re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR|CRITICAL) \S+: \S.*"
    )
    lines = mount.log().splitlines()
    assert len(lines) >= 3
    assert all(line.fullmatch(text) for text in lines), mount.log()
    assert not [text for text in lines if " INFO " not in text]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_everything_and_unmounts(mount, number):
    (mount.path / "a").write_text("closed")
    os.kill(mount.pid, number)
    assert is_over(mount.pid, END_SECONDS)
    assert not mount.is_mounted()
    assert not is_locked(mount.data)
    mount.mount()
    assert (mount.path / "a").read_text() == "closed"
    assert mount.status()["store"]["recovery"] == []


def test_a_signal_saves_what_is_being_written(mount):
    with written(mount.path / "open") as file:
        os.write(file, b"not closed yet")
        os.kill(mount.pid, signal.SIGTERM)
        assert is_over(mount.pid, END_SECONDS)
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.write(file, b"too late")
    assert not mount.is_mounted()
    assert (
        f"still in use by {Path('/proc/self/comm').read_text().strip()} ({os.getpid()})"
        in mount.log()
    )
    mount.mount()
    assert (mount.path / "open").read_bytes() == b"not closed yet"
    assert mount.status()["store"]["recovery"] == []


def test_somebody_elses_umount_ends_the_daemon_too(mount):
    (mount.path / "a").write_text("x")
    mountpoint.unmount(mount.path)
    assert is_over(mount.pid, END_SECONDS)
    assert not is_locked(mount.data)
    mount.mount()
    assert (mount.path / "a").read_text() == "x"


def test_an_aborted_connection_ends_the_daemon_and_its_dead_mount_goes(mount):
    (mount.path / "a").write_text("x")
    minor = os.minor(mount.path.stat().st_dev)
    control = Path("/sys/fs/fuse/connections")
    if not (control / str(minor)).exists():
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
    (control / str(minor) / "abort").write_text("1")
    assert is_over(mount.pid, END_SECONDS)
    assert not mount.is_mounted()
    mount.mount()
    assert (mount.path / "a").read_text() == "x"


@pytest.mark.parametrize("place", [("--data", "data"), ("--volatile",)])
def test_in_the_foreground_it_says_when_it_is_ready_and_ends_by_a_signal(tmp_path, place):
    path = tmp_path / "mnt"
    path.mkdir()
    where = [tmp_path / word if word == "data" else word for word in place]
    daemon = subprocess.Popen(
        command_line("mount", path, *where, "--foreground"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert daemon.stdout.readline() == f"ready: {path}\n"
        (path / "a").write_text("x")
        daemon.send_signal(signal.SIGINT)
        _, said = daemon.communicate(timeout=END_SECONDS)
        assert daemon.returncode == 0, said
        assert "stopping: SIGINT" in said
        assert mountpoint.mounted_at(path) is None
    finally:
        with contextlib.suppress(mountpoint.UnmountFailed):
            mountpoint.unmount(path, lazy=True)
        daemon.kill()
        daemon.wait()


# --- Killed -----------------------------------------------------------------------------------------------------------


def test_after_kill_9_a_mount_replaces_the_dead_one_and_has_what_was_committed(mount):
    (mount.path / "closed").write_text("closed")
    with written(mount.path / "synced") as file:
        os.write(file, b"synced")
        os.fsync(file)
        os.write(file, b", and more")
        mount.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    done = cascadefs("mount", mount.path, "--data", mount.data)
    assert "removed the mount of a daemon that is gone" in done.stderr
    mount.find_daemon()
    assert (mount.path / "closed").read_text() == "closed"
    assert (mount.path / "synced").read_bytes().startswith(b"synced")
    assert (mount.path / "synced@v1").read_bytes() == b"synced"


def test_after_kill_9_umount_cleans_up(mount):
    mount.kill()
    assert mount.is_mounted()
    done = cascadefs("umount", mount.path)
    assert "a daemon that is gone" in done.stderr
    assert not mount.is_mounted()


def test_after_kill_9_status_says_what_helps(mount):
    mount.kill()
    assert f"cascadefs umount {mount.path}" in complaint("status", mount.path)


def test_killed_again_and_again_it_loses_nothing_that_was_synced(mount):
    for number in range(5):
        with written(mount.path / f"f{number}") as file:
            os.write(file, b"x" * 1000 * number)
            os.fsync(file)
            mount.kill()
        mount.mount()
    sizes = {path.name: path.stat().st_size for path in mount.path.iterdir()}
    assert sizes == {f"f{number}": 1000 * number for number in range(5)}


def test_a_long_recovery_is_shown_on_a_terminal(mount):
    for number in range(600):  # two records each
        (mount.path / str(number)).touch()
    mount.umount()
    shutil.rmtree(mount.data / "index")
    at_once = (
        "import cascadefs.daemon as d, cascadefs.cli as c; d.PROGRESS_AFTER_SECONDS = 0; c.main()"
    )
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run(
            [sys.executable, "-c", at_once, "mount", mount.path, "--data", mount.data],
            check=True,
            stderr=theirs,
            env=environment(),
        )
        os.close(theirs)
        said = terminal.read(4096).decode()
    mount.find_daemon()
    assert "records applied" in said
    (sentence,) = mount.status()["store"]["recovery"]
    assert "built the index" in sentence


# --- Refused ----------------------------------------------------------------------------------------------------------


def test_a_data_directory_has_one_daemon(mount, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    said = complaint("mount", other, "--data", mount.data)
    assert f"in use by process {mount.pid};" in said
    assert mountpoint.mounted_at(other) is None
    assert os.listdir(mount.path) == []


def test_a_mountpoint_has_one_mount(mount, tmp_path):
    assert "mounted there already" in complaint("mount", mount.path, "--data", tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_a_format_of_the_future_is_refused_and_left_as_it_is(mount):
    mount.umount()
    description = mount.data / "cascadefs.json"
    text = json.loads(description.read_text()) | {"format": 999}
    description.write_text(json.dumps(text))
    before = {path: path.read_bytes() for path in mount.data.rglob("*.seg")}
    said = complaint("mount", mount.path, "--data", mount.data)
    assert "format version 999" in said
    assert not mount.is_mounted()
    assert not is_locked(mount.data)
    assert {path: path.read_bytes() for path in mount.data.rglob("*.seg")} == before


def test_a_mountpoint_must_be_a_directory(tmp_path):
    (tmp_path / "file").touch()
    assert "not a directory" in complaint("mount", tmp_path / "file", "--data", tmp_path / "d")
    assert "mkdir" in complaint("mount", tmp_path / "nothing", "--data", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_data_directory_must_be_one_and_out_of_the_way(tmp_path):
    path = tmp_path / "mnt"
    path.mkdir()
    (tmp_path / "file").touch()
    assert "not a directory" in complaint("mount", path, "--data", tmp_path / "file")
    assert "no such directory" in complaint("mount", path, "--data", tmp_path / "no" / "where")
    assert "beside it" in complaint("mount", path, "--data", path / "data")
    assert "beside it" in complaint("mount", path, "--data", tmp_path)
    assert "--ro makes nothing" in complaint("mount", path, "--data", tmp_path / "new", "--ro")
    assert mountpoint.mounted_at(path) is None


def test_an_unknown_mount_option_is_named(make_mount):
    mount = make_mount(mounted=False)
    assert "nonsense" in complaint("mount", mount.path, "--data", mount.data, "-o", "nonsense")
    assert not is_locked(mount.data)


@pytest.mark.parametrize(
    "options",
    [(), ("--data", "x", "--volatile"), ("--volatile", "--door", "trap"), ("--sync-interval", "0")],
)
def test_a_command_line_that_means_nothing_is_explained(tmp_path, options):
    done = cascadefs("mount", tmp_path, *options, expect=2)
    assert "Usage:" in done.stderr
    assert done.stdout == ""


def test_umount_of_what_is_no_mount_of_ours(tmp_path):
    assert "nothing is mounted" in complaint("umount", tmp_path)
    assert "not a cascadefs" in complaint("umount", "/proc")
    assert "no cascadefs" in complaint("status", tmp_path)


def test_umount_of_a_busy_mount_names_who_uses_it(mount):
    (mount.path / "held").write_text("x")
    with (mount.path / "held").open():
        said = complaint("umount", mount.path)
        assert f"({os.getpid()})" in said
        assert (mount.path / "held").read_text() == "x", "nothing happened"
        assert "until nobody uses it" in cascadefs("umount", "--lazy", mount.path).stderr
        assert not mount.is_mounted()
        assert not is_over(mount.pid, 0)
    assert is_over(mount.pid, END_SECONDS)


# --- Options ----------------------------------------------------------------------------------------------------------


def test_read_only_refuses_every_change_with_erofs(mount):
    (mount.path / "a").write_text("x")
    mount.remount("--ro")
    path = mount.path / "a"
    changes = [
        lambda: path.write_text("y"),
        lambda: (mount.path / "new").write_text("y"),
        lambda: (mount.path / "dir").mkdir(),
        lambda: path.unlink(),
        lambda: path.chmod(0o600),
        lambda: path.rename(mount.path / "b"),
        lambda: os.utime(path),
        lambda: os.setxattr(path, "user.x", b"y"),
        lambda: os.truncate(path, 0),
        lambda: os.link(path, mount.path / "b"),
        lambda: os.symlink("a", mount.path / "b"),
        lambda: os.mkfifo(mount.path / "b"),
    ]
    for change in changes:
        with pytest.raises(OSError, match="Read-only") as raised:
            change()
        assert raised.value.errno == errno.EROFS
    assert path.read_text() == "x"
    assert mount.status()["read_only"]


def test_volatile_keeps_nothing(make_mount):
    mount = make_mount(volatile=True)
    (mount.path / "a").write_text("x")
    assert (mount.path / "a").read_text() == "x"
    status = mount.status()
    assert (status["volatile"], status["data"]) == (True, None)
    mount.remount()
    assert os.listdir(mount.path) == []


def test_other_users_get_in_when_allowed(make_mount, tmp_path):
    for parent in [tmp_path, *tmp_path.parents]:
        if (
            parent.owner() == "root"
            and parent != Path("/")
            and not parent.stat().st_mode & stat.S_IXOTH
        ):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    closed, opened = make_mount(), make_mount("-o", "allow_other,noatime")
    code = "import os, sys; os.setgid(65534); os.setuid(65534); print(os.listdir(sys.argv[1]))"
    run = [sys.executable, "-c", code]
    assert subprocess.run([*run, opened.path], check=False).returncode == 0
    refused = subprocess.run([*run, closed.path], check=False, capture_output=True, text=True)
    assert "Permission denied" in refused.stderr


def test_a_file_kept_open_gets_a_version_by_itself_and_reaches_the_disk(make_mount):
    mount = make_mount("--autocommit", "0.05", "--sync-interval", "0.05")
    with written(mount.path / "a") as file:
        os.write(file, b"early")
        give_up = time.perf_counter() + END_SECONDS
        while (found := mount.status())["drafts"] or (
            found["store"]["records_durable"] < found["store"]["records"]
        ):
            assert time.perf_counter() < give_up, found
        mount.kill()
    mount.mount()
    assert (mount.path / "a").read_bytes() == b"early"


# --- Status -----------------------------------------------------------------------------------------------------------


def test_status_is_json_and_nothing_but(mount):
    (mount.path / "a").write_text("x" * 1000)
    done = cascadefs("status", "--json", mount.path)
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found == json.loads((mount.path / ".cascade/status").read_text()) | {
        name: found[name] for name in ("requests", "uptime_s", "open_files", "nodes", "store")
    }
    assert found["pid"] == mount.pid
    assert (found["mountpoint"], found["data"]) == (str(mount.path), str(mount.data))
    assert (found["door"], found["trouble"]) == (mount.door, None)
    assert found.get("wakeup") == ("own" if found["door"] == "pyfuse3" else None)
    assert found["requests"]["create"] == 1
    assert found["store"]["live_bytes"] == 1000
    assert found["errors"] == {}


def test_the_kernel_door_is_the_one_for_everybody(tmp_path):
    """What `auto` is, and docs/KERNEL_DOOR.md says why."""
    with mounts_below(tmp_path) as make:
        assert make().status()["door"] == "kernel"


def test_status_for_people_fits_a_screen(mount):
    said = cascadefs("status", mount.path).stdout
    for word in (
        str(mount.path),
        str(mount.data),
        f"process {mount.pid}",
        mount.door,
        "requests",
    ):
        assert word in said.replace("\n", " ")
    assert len(said.splitlines()) < 24


def test_help_and_version_need_neither_trio_nor_pyfuse3():
    code = (
        "import sys; from cascadefs.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'trio', 'pyfuse3', 'lmdb'} & set(sys.modules)))"
    )
    for word in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, word],
            check=True,
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.stdout.splitlines()[-1] == "[]"
