"""Goal: runs happen where they are done soonest, what belongs together is on one shard, and a node that ends in the middle stops nothing.

Method: three `cascadefs serve` with triggers, four shards under a pool with an affinity rule, a mount. Where a run was is in the provenance
of what it wrote; reads of other shards are counted by the nodes. Each test ends a node, so each begins with a fleet that is well.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from cascadefs import configuration
from cascadefs.cli.base import provenance
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.cluster.test_triggers import install, wait_for
from tests.etcd import Etcd
from tests.triggers.test_mapreduce import counted, texts_of

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(300)]

MAPREDUCE = Path(__file__).parents[2] / "docs/examples/mapreduce/watch/mapreduce.py"
TEXTS = 160


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    with (
        Etcd(directory) as etcd,
        Fleet(
            directory,
            etcd.endpoints,
            shards=4,
            spread=2,
            affinity="cam[0-9]+",
            durability="memory",
            node={"triggers": "root" if os.geteuid() == 0 else "owner"},
        ) as fleet,
    ):
        nodes = tuple(f"127.0.0.1:{port}" for port in fleet.ports.values())
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (directory / "m1" / "mount.toml").write_text(told)
        fleet.start()
        fleet.wait_well()
        yield fleet


@pytest.fixture(scope="module")
def mount(fleet):
    made = Mount(fleet, fleet.directory / "mount", "kernel")
    yield made.path
    assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


@pytest.fixture
def well(fleet):
    """A fleet that is well, before and after."""
    yield fleet
    fleet.thaw()
    missing = set(fleet.names) - fleet.running.keys()
    if missing:
        fleet.start(*missing)
    fleet.wait_well()


def shard_of(path):
    return int(os.getxattr(path, "user.cascade.shard"))


def make(path, *below):
    path.mkdir()
    for name in below:
        (path / name).mkdir()
    return path


def figures(fleet, *keys):
    """Of the scripts of all nodes together."""
    found = []
    for status in fleet.statuses().values():
        value = status["triggers"]
        for key in keys:
            value = value[key]
        found.append(value)
    return sum(found)


SLOW = """
import time
from cascadefs.triggers import watch

@watch("in/*", emit="out/", attempts=100, backoff="5ms")
def slow(event, ctx):
    table = ctx.get("table").text()
    time.sleep(0.3)
    ctx.state["runs"] = ctx.state.get("runs", 0) + 1
    ctx.emit(event.name, f"{event.text()} {table} {ctx.state['runs']}")
"""


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_runs_are_done_by_all_replicas_and_by_the_others_when_one_of_them_ends(well, mount, how):
    farm = make(mount / {"kill": "cam1", "freeze": "cam3"}[how], "in")
    (farm / "table").write_text("t1")
    install_in(mount, farm, f"{how}.py", SLOW, 1)
    leader = well.leader(shard_of(farm))
    partner = next(name for name in well.names if name != leader)
    before = figures(well, "elsewhere", "taken")
    files = [farm / "in" / f"{number}" for number in range(12)]
    for turn in (1, 2):
        for path in files:
            path.write_text(f"{path.name}.{turn}")
        (farm / "table").write_text("later")  # not in the cut of those before
        if turn == 1:
            wait_for(
                lambda: figures(well, "elsewhere", "taken") >= before + 4, "nothing is handed over"
            )
            {"kill": well.kill, "freeze": well.freeze}[how](partner)
    done = 2 * len(files)
    wait_for(lambda: bindings_of(mount)[f"{how}.py:slow"]["done"] == done, "not all of it ran")
    nodes = Counter()
    for path in files:
        out = farm / "out" / path.name
        assert int(os.getxattr(out, "user.cascade.head")) == 2
        tables = ["t1", "later"]
        for turn in (1, 2):
            version = out.with_name(f"{out.name}@v{turn}")
            assert version.read_text() == f"{path.name}.{turn} {tables[turn - 1]} {turn}"
            known = provenance(version)
            assert known["triggers"] == [f"in/{path.name}@v{turn}"]
            assert known["reads"] == [f"table@v{turn}"]
            nodes[known["node"]] += 1
    assert nodes.keys() <= set(well.names)
    assert len(nodes) >= 2, nodes
    assert nodes[leader] < done


def bindings_of(mount):
    status = json.loads((mount / ".cascade/status").read_bytes())["triggers"]
    return {one["name"]: one for base in status["bases"] for one in base["bindings"]}


def install_in(mount, farm, name, source, count):
    before = len(bindings_of(mount))
    install(farm, name, source)
    wait_for(lambda: len(bindings_of(mount)) == before + count, f"{name} is not at work")


def test_words_are_counted_while_the_node_that_leads_is_killed(well, mount):
    farm = make(mount / "cam2", "texts", "shuffle")
    install_in(mount, farm, "mapreduce.py", MAPREDUCE.read_text(), 3)
    texts = texts_of(seed=2, count=TEXTS)
    (farm / "job.json").write_text(json.dumps({"texts": TEXTS}))
    for number, (name, text) in enumerate(texts.items()):
        (farm / "texts" / name).write_text(text)
        if number == TEXTS // 2:
            well.kill(well.leader(shard_of(farm)))
    wait_for(
        lambda: (farm / "counts").exists() and len(os.listdir(farm / "counts")) == 4, "no words"
    )
    parts = [(farm / "counts" / name).read_bytes() for name in os.listdir(farm / "counts")]
    assert counted(parts) == Counter(word for text in texts.values() for word in text.split())
    failed = farm / ".cascade/failed"
    assert not failed.exists() or not any(os.listdir(failed / name) for name in os.listdir(failed))


CAMERA = """
from cascadefs.triggers import watch

@watch("frame*", key="affinity")
def see(event, ctx):
    ctx.put("seen", event.text() + ctx.get("model/weights").text())

@watch("seen", order="affinity")
def track(event, ctx):
    ctx.put("track", event.text() + ctx.get("positions/last").text())

@watch("track")
def judge(event, ctx):
    ctx.put("alert", event.text() + ctx.get("model/limits").text())
"""
FRAMES = 5


@pytest.mark.parametrize("affinity", [True, False])
def test_what_belongs_to_one_camera_is_on_one_shard_and_no_read_leaves_it(well, mount, affinity):
    for number in range(10, 40):
        farm = make(mount / f"{'cam' if affinity else 'c'}{number}", "model", "positions")
        shards = {shard_of(farm / name) for name in ("model", "positions")}
        if affinity or shard_of(farm) not in shards:
            break
    if affinity:
        assert shards == {shard_of(farm)}
    (farm / "model/weights").write_text(" w")
    (farm / "model/limits").write_text(" l")
    (farm / "positions/last").write_text(" p")
    install_in(mount, farm, f"{farm.name}.py", CAMERA, 3)
    for number in range(FRAMES + 1):
        if number == 1:  # the script itself has been read by then
            before = {which: figures(well, "reads", which) for which in ("own", "others")}
        (farm / "frame").write_text(f"{number}")
        wait_for(lambda: (farm / "alert").exists(), "no alert")
        wait_for(lambda: (farm / "alert").read_text() == f"{number} w p l", "no alert")  # noqa: B023
    own, others = (figures(well, "reads", which) - before[which] for which in ("own", "others"))
    # Each of the three stages reads its event and one file more.
    assert (own, others) == ((6 * FRAMES, 0) if affinity else (3 * FRAMES, 3 * FRAMES))
