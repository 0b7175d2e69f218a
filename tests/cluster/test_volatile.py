"""Goal: a volatile pool keeps the newest, on as many nodes as it says, in memory that what lives bounds; and when all of them are
gone it begins again by itself, empty.

Method: three `cascadefs serve` on a real etcd, a pool made by the command line, and two mounts, one through each door; nodes are killed.
"""

import errno
import os
import subprocess
import sys
import time

import pytest

from cascadefs import configuration
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount, eventually
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(120)]

CASCADEFS = (sys.executable, "-m", "cascadefs.cli")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    directory = tmp_path_factory.mktemp("volatile")
    with (
        Etcd(directory) as etcd,
        Fleet(directory, etcd.endpoints, spread=0, durability="memory") as fleet,
    ):
        nodes = tuple(f"127.0.0.1:{port}" for port in fleet.ports.values())
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (directory / "m1" / "mount.toml").write_text(told)
        fleet.start()
        fleet.wait_well()
        config = directory / "n1" / "node.toml"
        command = [*CASCADEFS, "cluster", "pools", "create", "scratch", "/scratch", "--volatile"]
        command += ["--replicas", "3", "--config", config]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        fleet.shards = 2
        fleet.wait_well()
        yield fleet


@pytest.fixture(scope="module")
def mounts(fleet):
    made = [
        Mount(fleet, fleet.directory / f"mount-{door}", door) for door in ("kernel", "pyfuse3")
    ]
    (made[0].path / "scratch").mkdir()
    yield made
    codes = [mount.end() for mount in made if mount.process.poll() is None]
    said = "".join(mount.log.read_text() for mount in made)
    assert codes == [0, 0], said
    assert "Traceback" not in said


def shard(fleet, name):
    return next(one for one in fleet.status(name)["shards"] if one["shard"] == 1)


def test_a_first_look(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    (one / "a").write_bytes(b"first")
    eventually(lambda: (two / "a").exists())
    assert (two / "a").read_bytes() == b"first"
    (two / "a").write_bytes(b"second")
    eventually(lambda: (one / "a").read_bytes() == b"second")
    with pytest.raises(FileNotFoundError):
        (one / "a@v1").read_bytes()
    assert (one / "a@v2").read_bytes() == b"second"
    for name in ("n1", "n2", "n3"):
        print({k: shard(fleet, name)[k] for k in ("role", "last_index", "log_bytes", "volatile")})


def test_one_member_goes_and_comes(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    leader = fleet.leader(1)
    t = time.monotonic()
    fleet.kill(leader)
    (one / "b").write_bytes(b"b" * 300_000)
    print("write after kill", time.monotonic() - t)
    assert (two / "b").read_bytes() == b"b" * 300_000
    fleet.start(leader)
    fleet.wait_well()
    print("well again", time.monotonic() - t, shard(fleet, leader)["log_bytes"])


def test_all_go(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    (one / "c").write_bytes(b"c")
    t = time.monotonic()
    for name in fleet.names:
        fleet.kill(name)
    fleet.start()
    fleet.wait_well()
    print("well", time.monotonic() - t)
    eventually(lambda: not (one / "c").exists())
    print(os.listdir(one), os.listdir(two))
    (one / "d").write_bytes(b"d")
    eventually(lambda: (two / "d").exists())
    assert (two / "d").read_bytes() == b"d"
    assert os.listdir(one) == os.listdir(two) == ["d"]


def test_memory_is_bounded_by_what_lives(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    t = time.monotonic()
    with fleet.program() as store:
        before = shard(fleet, "n1")
        for turn in range(20):
            store.write([("put", "scratch/hot%d" % (i % 10), b"%d" % turn * 4096) for i in range(500)]) if False else None
            for i in range(10):
                store.put("scratch/hot%d" % i, b"%d" % turn * 2000)
        with pytest.raises(FileNotFoundError):
            store.get("scratch/hot0", version=3)
        after = shard(fleet, "n1")
    print("200 puts", time.monotonic() - t, before["log_bytes"], after["log_bytes"], after["last_index"] - before["last_index"])
