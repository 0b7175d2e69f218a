"""Goal: a volatile pool keeps the newest, on as many nodes as it says, in memory that what lives bounds; and when all of them are
gone it begins again by itself, empty.

Method: three `cascadefs serve` on a real etcd, a pool made by the command line, and two mounts, one through each door; nodes are killed.
"""

import datetime
import errno
import json
import os
import re
import subprocess
import sys

import pytest

import cascadefs
from cascadefs import configuration
from cascadefs.cli.cluster.pools import accepted
from cascadefs.cli.complaint import Complaint
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
    made = [Mount(fleet, fleet.directory / f"mount-{door}", door) for door in ("kernel", "pyfuse3")]
    (made[0].path / "scratch").mkdir()
    yield made
    codes = [mount.end() for mount in made if mount.process.poll() is None]
    said = "".join(mount.log.read_text() for mount in made)
    assert codes == [0, 0], said
    # What a draft of a file that is lost could not be saved as is said with all there is to say.
    assert not [one for one in said.splitlines() if "Traceback" in one and ", draft" not in one]


DRAFT = """
import errno, os, sys
draft = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(draft, b"x")
print("written", flush=True)
sys.stdin.readline()
try:
    os.write(draft, b"y")
    os.fsync(draft)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"""


def shard(fleet, name, number=1):
    return next(one for one in fleet.status(name)["shards"] if one["shard"] == number)


def cluster(fleet, *arguments):
    config = ["--config", fleet.directory / "n1" / "node.toml"]
    command = [*CASCADEFS, "cluster", *arguments, *config]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def refused(number):
    return pytest.raises(OSError, match=re.escape(f"[Errno {number}]"))


def test_the_newest_version_is_all_that_is_kept(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    (one / "a").write_bytes(b"first")
    eventually(lambda: (two / "a").exists())
    assert (two / "a").read_bytes() == b"first"
    then = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    (one / "still").write_bytes(b"here")
    (two / "a").write_bytes(b"second")
    eventually(lambda: (one / "a").read_bytes() == b"second")
    for mount in (one, two):
        with pytest.raises(FileNotFoundError):
            (mount / "a@v1").read_bytes()
        assert (mount / "a@v2").read_bytes() == b"second"
        assert os.getxattr(mount / "a", "user.cascade.shard") == b"1"
        for past in (mount / f"a@{then}", mount.parent / f"scratch@{then}" / "a"):
            with pytest.raises(FileNotFoundError):
                past.read_bytes()
    (two / "a").unlink()
    (two / "a").write_bytes(b"again")
    eventually(lambda: (one / "a@v4").exists())
    with fleet.program() as store:
        assert store.get("scratch/a") == b"again"
        assert store.put("scratch/p", b"one").number == 1
        assert store.put("scratch/p", b"two").number == 2
        with pytest.raises(FileNotFoundError):
            store.get("scratch/p", version=1)
    with refused(errno.EOPNOTSUPP):
        (one / ".cascade").mkdir()


def test_it_is_shown_as_what_it_is(fleet, mounts):
    (mounts[0].path / "scratch" / "held").write_bytes(bytes(2**20))
    found = json.loads(cluster(fleet, "status", "--json").stdout)
    scratch = found["shards"][1]
    assert (scratch["pool"], scratch["volatile"], scratch["is"]) == ("scratch", True, "well")
    for name in fleet.names:
        told = shard(fleet, name)
        assert told["volatile"]
        assert 2**20 < told["log_bytes"] < 2**20 + 200_000
    assert "newest" in cluster(fleet, "pools").stdout
    with pytest.raises(OSError, match="cluster permit"):
        cascadefs.connect(mounts[0].path)
    asked = {"name": "o", "path": "/o", "volatile": True, "durability": "memory"}
    assert accepted(asked).volatile
    for wrong, said in (
        ({"path": "/"}, "choose a directory below it"),
        ({"durability": "disk"}, "nowhere on a disk"),
    ):
        with pytest.raises(Complaint, match=said):
            accepted({**asked, **wrong})


def test_one_member_goes_and_comes(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    data = os.urandom(700_000)
    (one / "before").write_bytes(data)
    leader = fleet.leader(1)
    fleet.kill(leader)
    (one / "b").write_bytes(b"b" * 300_000)
    assert (two / "b").read_bytes() == b"b" * 300_000
    assert (two / "before").read_bytes() == data
    fleet.start(leader)
    fleet.wait_well()
    assert shard(fleet, leader)["log_bytes"] > 1_000_000


def test_when_all_are_gone_it_begins_again_by_itself_and_empty(fleet, mounts):
    one, two = [mount.path / "scratch" for mount in mounts]
    (one / "sub").mkdir()
    (one / "sub" / "c").write_bytes(b"c")
    (mounts[0].path / "kept").write_bytes(b"on a disk")
    eventually(lambda: (two / "sub" / "c").exists())
    # In a process of its own: whoever is started from one that has it open closes it, and so waits for the cluster.
    draft = subprocess.Popen(
        [sys.executable, "-c", DRAFT, two / "draft"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert draft.stdout.readline() == "written\n"
    epoch = fleet.epochs()[1].epoch
    for name in fleet.names:
        fleet.kill(name)
    fleet.start()
    fleet.wait_well()
    assert fleet.epochs()[1].epoch > epoch
    for mount in (one, two):
        eventually(lambda mount=mount: os.listdir(mount) == [])
        with pytest.raises(FileNotFoundError):
            (mount / "sub" / "c").read_bytes()
        assert (mount.parent / "kept").read_bytes() == b"on a disk"
    said, _ = draft.communicate("go on\n", timeout=30)
    assert said.split() == ["ENOENT"]
    (one / "d").write_bytes(b"d")
    eventually(lambda: (two / "d").exists())
    assert (two / "d").read_bytes() == b"d"
    assert os.listdir(one) == os.listdir(two) == ["d"]
    with fleet.program() as store:
        assert store.get("scratch/d") == b"d"


def test_a_pool_on_one_node_is_everybodys(fleet, mounts):
    made = cluster(fleet, "pools", "create", "lone", "/lone", "--volatile", "--replicas", "1")
    assert made.returncode == 0, made.stderr
    one, two = [mount.path / "lone" for mount in mounts]
    holder = fleet.wait(lambda: fleet.epochs().get(2), "the shard is begun").leader
    one.mkdir()
    (one / "f").write_bytes(b"f")
    eventually(lambda: (two / "f").exists())
    for turn in range(6):
        with fleet.program(f"p{turn}") as store:
            assert store.get("lone/f") == b"f", "whichever node answers"
            assert store.put("lone/g", b"%d" % turn).number == turn + 1
    fleet.kill(holder)
    fleet.start(holder)
    eventually(lambda: os.listdir(two) == [])
    (two / "h").write_bytes(b"h")
    eventually(lambda: (one / "h").exists())
