"""Goal: programs on two mounts of a cluster see one tree, its history, and nothing of what happens to nodes but a pause.

Method: three `cascadefs serve`, a real etcd, three shards; two `cascadefs mount --cluster`, one through each door. What is written
through one is read through the other by ordinary system calls.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from random import Random

import pytest

from cascadefs import configuration
from cascadefs.fuse import mountpoint
from tests.cluster.processes import CLUSTER, Processes
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(240)]

CASCADEFS = (sys.executable, "-m", "cascadefs.cli")
SEEN_SECONDS = 20


class Mount:
    def __init__(self, cluster, path, door):
        self.path = path
        self.log = path.with_suffix(".log")
        path.mkdir()
        command = [*CASCADEFS, "mount", path, "--foreground", "--door", door]
        command += ["--cluster", cluster.directory / "m1" / "mount.toml"]
        command += ["--cache", path.with_suffix(".cache")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        with self.process.stdout as told:
            assert told.readline(), self.log.read_text()

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(60)
        if mountpoint.mounted_at(self.path) is not None:
            mountpoint.unmount(self.path, lazy=True)
        return code


@pytest.fixture
def cluster(tmp_path):
    with (
        Etcd(tmp_path) as etcd,
        Processes(tmp_path, etcd.endpoints, shards=3, spread=1, durability="memory") as processes,
    ):
        nodes = tuple(f"127.0.0.1:{port}" for port in processes.ports.values())
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (tmp_path / "m1" / "mount.toml").write_text(told)
        processes.start()
        yield processes


@pytest.fixture
def mounts(cluster, tmp_path):
    made = [Mount(cluster, tmp_path / f"mount-{door}", door) for door in ("kernel", "pyfuse3")]
    yield made
    for mount in made:
        if mount.process.poll() is None:
            assert mount.end() == 0, mount.log.read_text()
        assert "Traceback" not in mount.log.read_text()


def eventually(condition):
    """What the kernel has cached is another's to forget: soon, not at once."""
    until = time.monotonic() + SEEN_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def shard_of(path):
    return os.getxattr(path, "user.cascade.shard")


def test_what_is_closed_on_one_mount_is_opened_on_the_other(mounts):
    one, two = (mount.path for mount in mounts)
    for number in range(12):
        (one / f"d{number}").mkdir()
    directories = sorted(os.listdir(two))
    assert directories == sorted(f"d{n}" for n in range(12))
    assert {shard_of(two / name) for name in directories} == {b"0", b"1", b"2"}
    here, there = one / "d1/f", two / "d1/f"
    for turn in range(20):
        here.write_text(f"from one, {turn}" * (turn + 1))
        assert there.read_text() == f"from one, {turn}" * (turn + 1)
        there.write_text(f"{turn} back")
        assert here.read_text() == f"{turn} back"
    eventually(lambda: os.statvfs(one).f_bavail > 0)
    for turn in range(10):
        (one / "d1/.save").write_text(f"saved {turn}")
        os.rename(one / "d1/.save", here)
        assert there.read_text() == f"saved {turn}"
    assert (two / "d1/f@v1").read_text() == "from one, 0"
    assert len(os.listdir(two / "d1/f@@")) == len(os.listdir(one / "d1/f@@"))
    data = Random(1).randbytes(9_000_000)
    (two / "d2/large").write_bytes(data)
    assert (one / "d2/large").read_bytes() == data


def test_names_attributes_and_history_are_those_of_everybody(mounts):
    one, two = (mount.path for mount in mounts)
    (one / "d").mkdir()
    (one / "d/f").write_text("x")
    assert os.listdir(two / "d") == ["f"]
    assert os.stat(two / "d/f").st_size == 1
    os.chmod(one / "d/f", 0o600)
    eventually(lambda: os.stat(two / "d/f").st_mode & 0o777 == 0o600)
    (one / "d/f").write_text("longer")
    eventually(lambda: os.stat(two / "d/f").st_size == 6)
    assert not (two / "d/g").exists()
    os.rename(one / "d/f", one / "d/g")
    eventually((two / "d/g").exists)
    assert os.listdir(two / "d") == ["g"]
    instant = os.getxattr(one, "user.cascade.stable_time").decode()
    os.unlink(two / "d/g")
    eventually(lambda: not (one / "d/g").exists())
    for path in (one, two):
        assert os.listdir(path / f"d@{instant}") == ["g"]
        assert (path / f"d@{instant}" / "g").read_text() == "longer"
    os.rmdir(one / "d")
    eventually(lambda: not (two / "d").exists())


def test_a_node_killed_while_programs_write_is_a_pause(cluster, mounts):
    one, two = (mount.path for mount in mounts)
    for number in range(6):
        (one / f"d{number}").mkdir()
    failures = []

    def write(path, name, count):
        try:
            for number in range(count):
                (path / f"d{number % 6}" / f"{name}{number}").write_text(f"{name} {number}" * 50)
        except OSError as error:
            failures.append(error)

    writers = [
        threading.Thread(target=write, args=arguments)
        for arguments in ((one, "a", 240), (two, "b", 240))
    ]
    for writer in writers:
        writer.start()
    time.sleep(0.5)
    cluster.kill("n1")
    for writer in writers:
        writer.join()
    assert not failures
    for path in (one, two):
        for name in ("a", "b"):
            for number in range(240):
                file = path / f"d{number % 6}" / f"{name}{number}"
                assert file.read_text() == f"{name} {number}" * 50
                assert len(os.listdir(f"{file}@@")) == 1, "once, whatever was sent twice"
    cluster.start("n1")


@pytest.mark.parametrize("which", [0, 1], ids=["kernel", "pyfuse3"])
def test_a_mount_can_be_ended_while_the_cluster_is_away(cluster, mounts, which):
    mount = mounts[which]
    (mount.path / "f").write_text("saved")
    for process in cluster.running.values():
        process.send_signal(signal.SIGSTOP)
    failed = []

    def write():
        try:
            (mount.path / "f").write_text("never")
        except OSError as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive(), "a pause, and no error"
    asked = subprocess.run([*CASCADEFS, "status", mount.path], stderr=subprocess.PIPE, timeout=60)
    assert asked.returncode == 1, "who asks ends, though the mount does not answer"
    assert b"does not answer; one of a cluster may wait for it" in asked.stderr
    mount.end()
    writer.join()
    assert failed
    for process in cluster.running.values():
        process.send_signal(signal.SIGCONT)


def test_a_mount_goes_on_from_its_cache(cluster, mounts, tmp_path):
    one, _ = mounts
    (one.path / "d").mkdir()
    (one.path / "d/f").write_text("before")
    assert one.end() == 0
    one.path.rmdir()
    again = Mount(cluster, one.path, "kernel")
    try:
        assert (again.path / "d/f").read_text() == "before"
        (again.path / "d/f").write_text("after")
        assert (again.path / "d/f@v1").read_text() == "before"
    finally:
        assert again.end() == 0


def test_what_is_purged_on_one_mount_is_gone_on_the_other(cluster, mounts):
    one, two = (mount.path for mount in mounts)
    (one / "d").mkdir()
    for text in ("first", "second", "third"):
        (one / "d/f").write_text(text)
    assert (two / "d/f@v1").read_text() == "first"

    def run(*command):
        return subprocess.run([*CASCADEFS, *command], capture_output=True, text=True, timeout=60)

    assert run("retention", one / "d", "all:24h,day:90d;min=2").returncode == 0
    assert "all:24h,day:90d;min=2" in run("retention", two / "d").stdout
    assert run("hold", one / "d", "audit").returncode == 0
    refused = run("purge", "--yes", two / "d/f@v1")
    assert refused.returncode != 0
    assert "hold" in refused.stderr
    assert run("hold", "--release", two / "d").returncode == 0
    assert run("purge", "--yes", one / "d/f@v1").returncode == 0
    for path in (one, two):
        eventually(lambda path=path: _gone(path / "d/f@v1"))
        assert (path / "d/f@v2").read_text() == "second"
        shown = run("du", "--history", path / "d/f")
        assert shown.returncode == 0, shown.stderr
        refused = run("gc", path)
        assert refused.returncode != 0
        assert "nodes of a cluster let history go by themselves" in refused.stderr
        room = os.statvfs(path)
        assert 0 < room.f_bfree <= room.f_blocks


def _gone(path):
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno == errno.EIDRM
    return False
