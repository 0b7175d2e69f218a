"""Goal: scripts run on the node that leads the shard, each version once, whatever is killed; their results are read on any mount.

Method: three `cascadefs serve` with triggers, a real etcd, two shards, a mount of the cluster. A chain of three scripts runs
over every version of some files while the leader of their shard is killed (SIGKILL) again and again, or stands still (SIGSTOP) until
another leads, and then goes on with what it was at. Then everything is counted: each version ran through all scripts or is among the dead letters, each effect is there once and in the order of its
key, states have counted every run, and every output leads back to a version that a program wrote.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time

import pytest

from cascadefs import configuration
from cascadefs.cli.base import provenance
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(400)]

VERSIONS = 240
FILES = 8
KILLS = int(os.environ.get("CASCADEFS_CLUSTER_ROUNDS", "3"))
REJECTED = 29
"""Every so manyth version is rejected by the first script, so that there are dead letters."""
END_SECONDS = 120
UNSUPPORTED = os.strerror(errno.EOPNOTSUPP)

CHAIN = f"""
from cascadefs.triggers import watch

OPTIONS = dict(attempts=100, backoff="5ms")

@watch("in/*", emit="mid/", **OPTIONS)
def first(event, ctx):
    number = int(event.data.tobytes())
    if number % {REJECTED} == 0 and not ctx.get("mended"):
        ctx.reject("every so manyth")
    ctx.emit(event.name, event.data.tobytes())

@watch("mid/*", emit="out/", **OPTIONS)
def second(event, ctx):
    ctx.state["runs"] = ctx.state.get("runs", 0) + 1
    ctx.emit(event.name, event.data.tobytes() + b" %d" % ctx.state["runs"])

@watch("out/*", batch=8, **OPTIONS)
def third(events, ctx):
    for event in events:
        ctx.append("ledger", event.name.encode() + b" " + event.data.tobytes() + b"\\n")
"""


@pytest.fixture
def fleet(tmp_path):
    with (
        Etcd(tmp_path) as etcd,
        Fleet(
            tmp_path,
            etcd.endpoints,
            shards=2,
            spread=1,
            durability="memory",
            node={"triggers": "root" if os.geteuid() == 0 else "owner"},
        ) as fleet,
    ):
        nodes = tuple(f"127.0.0.1:{port}" for port in fleet.ports.values())
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (tmp_path / "m1" / "mount.toml").write_text(told)
        fleet.start()
        fleet.wait_well()
        yield fleet


@pytest.fixture
def mount(fleet, tmp_path):
    made = Mount(fleet, tmp_path / "mount", "kernel")
    yield made
    if made.process.poll() is None:
        assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def install(farm, name, source):
    (farm / ".cascade").mkdir(exist_ok=True)
    (farm / ".cascade/watch").mkdir(exist_ok=True)
    path = farm / ".cascade/watch" / name
    # Executable from the start: between a write and a chmod it would be a mistake that is told.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755), "w") as file:
        file.write(source)


def bindings(mount):
    status = json.loads((mount.path / ".cascade/status").read_bytes())["triggers"]
    return {one["name"]: one for base in status["bases"] for one in base["bindings"]}


def wait_for(condition, what, seconds=END_SECONDS):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.1)


def farm_in(mount, fleet, shard):
    """A directory that lives in a shard."""
    for number in range(40):
        farm = mount.path / f"farm{number}"
        farm.mkdir()
        if int(os.getxattr(farm, "user.cascade.shard")) == shard:
            return farm
    raise AssertionError("no directory comes to live there")


def cascadefs(*words):
    command = [sys.executable, "-m", "cascadefs.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def versions(path):
    head = int(os.getxattr(path, "user.cascade.head"))
    return [path.with_name(f"{path.name}@v{n + 1}").read_text() for n in range(head)]


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_every_version_runs_once_while_leaders_end(fleet, mount, how):
    begin = {"kill": fleet.kill, "freeze": fleet.freeze}[how]
    end = {"kill": fleet.start, "freeze": fleet.thaw}[how]
    choice = random.Random(3)
    farm = farm_in(mount, fleet, shard=1)
    (farm / "in").mkdir()
    install(farm, "chain.py", CHAIN)
    wait_for(lambda: len(bindings(mount)) == 3, "the scripts are not at work")
    kills_at = sorted(choice.sample(range(VERSIONS // 6, VERSIONS), KILLS))
    wrote = {f"f{number}": [] for number in range(FILES)}
    down = None
    for number in range(1, VERSIONS + 1):
        name = f"f{number % FILES}"
        (farm / "in" / name).write_text(str(number))
        wrote[name].append(number)
        if number in kills_at:
            if down is not None:
                end(down)
                fleet.wait_well()
            down = fleet.leader(1)
            begin(down)
    end(down)
    rejected = {number for number in range(1, VERSIONS + 1) if number % REJECTED == 0}
    ran = VERSIONS - len(rejected)
    wait_for(lambda: bindings(mount)["chain.py:third"]["done"] == ran, "not all of it ran")
    check_that_all_ran_once(farm, wrote, rejected)
    check_where_it_comes_from(farm, wrote, rejected)
    known = bindings(mount)
    assert {name: one["done"] for name, one in known.items()} == {
        "chain.py:first": ran, "chain.py:second": ran, "chain.py:third": ran,
    }  # fmt: skip
    assert known["chain.py:first"]["failed"] == len(rejected)


def check_that_all_ran_once(farm, wrote, rejected):
    failed = farm / ".cascade/failed/chain.py:first"
    dead = [(failed / name / "input").read_text() for name in os.listdir(failed)]
    assert sorted(map(int, dead)) == sorted(rejected)
    ledger = (farm / "ledger").read_text().splitlines()
    for name, numbers in wrote.items():
        good = [number for number in numbers if number not in rejected]
        assert versions(farm / "in" / name) == [str(number) for number in numbers]
        assert versions(farm / "mid" / name) == [str(number) for number in good]
        counted = [f"{number} {at + 1}" for at, number in enumerate(good)]
        assert versions(farm / "out" / name) == counted
        assert [line for line in ledger if line.startswith(f"{name} ")] == [
            f"{name} {line}" for line in counted
        ]
    assert len(ledger) == sum(map(len, wrote.values())) - len(rejected)


def check_where_it_comes_from(farm, wrote, rejected):
    nodes = set()
    for name, numbers in wrote.items():
        good = [at + 1 for at, number in enumerate(numbers) if number not in rejected]
        for number, root in enumerate(good, 1):
            here = [f"out/{name}@v{number}"]
            for binding in ("second", "first"):
                known = provenance(farm / here[0])
                assert known is not None, here
                assert known["binding"] == f"chain.py:{binding}"
                assert known["outputs"] == here
                nodes.add(known["node"])
                here = known["triggers"]
            assert here == [f"in/{name}@v{root}"]
            assert provenance(farm / here[0]) is None, "a program wrote it"
    assert nodes <= {"n1", "n2", "n3"}
    assert len(nodes) > 1, "it ran on one node, then on another"


def test_a_mount_sees_what_failed_and_has_it_done_again(fleet, mount):
    farm = farm_in(mount, fleet, shard=1)
    (farm / "in").mkdir()
    install(farm, "chain.py", CHAIN)
    wait_for(lambda: len(bindings(mount)) == 3, "the scripts are not at work")
    (farm / "in/x").write_text(str(REJECTED))
    failed = farm / ".cascade/failed/chain.py:first"
    wait_for(lambda: failed.exists() and os.listdir(failed), "no dead letter")
    (event,) = os.listdir(failed)
    assert "every so manyth" in json.loads((failed / event / "event.json").read_text())["message"]
    text = (farm / ".cascade/status").read_text()
    assert "on the nodes" in text
    assert "failed 1" in text
    control = farm / ".cascade/ctl"
    check_what_is_told(farm, mount)
    (farm / "mended").write_text("")
    (farm / "in/y").write_text("1")  # Later than the mending: what is done again reads its own cut.
    wait_for((farm / "out/y").exists, "nothing runs any more")
    control.write_text(f"drop chain.py:first/{event}\n")
    assert os.listdir(failed) == []
    (farm / "in/x").write_text(str(2 * REJECTED))
    wait_for((farm / "out/x").exists, "it is mended, and does not run")
    said = cascadefs("why", farm / "out/x").stdout
    for part in ("chain.py:second", "mid/x@v1", "chain.py:first", "in/x@v2"):
        assert part in said
    assert "chain.py:first" in cascadefs("trigger", "list", "--in", farm).stdout
    install(farm, "broken.py", "raise ValueError('by design')")
    wait_for(
        lambda: any("broken.py" in fleet.log(name) for name in fleet.names),
        "nobody says why it is not active",
    )
    assert "by design" in (farm / ".cascade/status").read_text()


def check_what_is_told(farm, mount):
    """Streams and figures of where it runs, on a mount."""
    lines = [json.loads(line) for line in (farm / ".cascade/events").read_text().splitlines()]
    assert "dead" in {line["event"] for line in lines}
    assert "every so manyth" in (farm / ".cascade/log/chain.py:first").read_text()
    assert 'binding="chain.py:first"} 1' in (farm / ".cascade/metrics").read_text()
    assert bindings(mount)["chain.py:first"]["pending"] == 0
    wait_for((mount.path / ".cascade/ctl").exists, "nobody makes the root's")
    with pytest.raises(OSError, match=UNSUPPORTED):  # Each node has its own.
        (mount.path / ".cascade/events").read_text()
