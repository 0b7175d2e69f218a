"""Goal: a cluster whose nodes reach each other by RDMA does what one over TCP does, whatever the network and the devices do, says how it is
connected, and leaves nothing behind at the device. Leaders killed, frozen and cut off are in test_failover, which runs on this one, too.

Method: three `cascadefs serve` in the guest, each with a device and a wire of its own (`tests.cluster.wires`), a real etcd, two shards; a
program appends and puts with a condition meanwhile, and afterwards each of its versions is read back and the logs are compared.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cascadefs import configuration
from cascadefs.cli import app
from tests.cluster.fleet import CLUSTER
from tests.cluster.load import Load
from tests.cluster.test_mounts import Mount
from tests.cluster.test_triggers import install
from tests.cluster.wires import run

pytestmark = [pytest.mark.rdma(guest=True), pytest.mark.timeout(120)]

LEASE_S = 2.0
VERSIONS = 40
PIECE_BYTES = 1 << 20
REGIONS_MAX = 8
"""Of a connection: its rings, and what long messages are fetched from and to, some of which is kept."""

SCRIPT = """
from cascadefs.triggers import watch

@watch("in/*", emit="out/", attempts=100, backoff="5ms")
def first(event, ctx):
    ctx.emit(event.name, event.data.tobytes())

@watch("out/*", attempts=100, backoff="5ms")
def second(event, ctx):
    ctx.append("ledger", event.name.encode() + b" " + event.data.tobytes() + b"\\n")
"""


@pytest.fixture
def fleet(rdma_fleet):
    yield rdma_fleet
    rdma_fleet.hosts.mend()
    rdma_fleet.thaw()


@pytest.fixture
def load(fleet, request):
    """A program at work."""
    found = Load(
        fleet,
        request.node.name.replace("[", "-").strip("]").replace("%", ""),
        programs=1,
        directories=3,
    )
    found.start()
    yield found
    found.end()


def finish(fleet, load, what):
    """The program stops, everything is looked at, and said."""
    load.go_on()
    load.stop()
    fleet.wait_well()
    with fleet.program() as store:
        count = load.check(store)
    fleet.check_logs()
    pauses = ", ".join(f"{pause / LEASE_S:.1f}" for pause in load.pauses())
    print(
        f"figure: RDMA, {what}: {count} writes acknowledged, 0 lost, 0 doubled; pauses of {pauses} lease periods"
    )


def links(fleet):
    """What each node says of its connections with each other one."""
    return {name: status["links"] for name, status in fleet.statuses().items()}


def resources():
    """Queue pairs and so on in use, by device; of memory regions, whether there are more than a connection may have."""
    found = {}
    for device in json.loads(run("rdma", "-j", "resource", "show")):
        found[device["ifname"]] = {what: device[what] for what in ("pd", "cq", "qp", "ctx")}
        found[device["ifname"]]["few mr"] = device["mr"] <= REGIONS_MAX * device["qp"]
    return found


def descriptors(fleet):
    """What each node has open at its device."""
    found = {}
    for name, process in fleet.running.items():
        counts = found[name] = collections.Counter()
        directory = f"/proc/{process.pid}/fd"
        for each in os.listdir(directory):
            target = os.readlink(f"{directory}/{each}")
            if "infiniband" in target:
                counts[target.rpartition("/")[2].rstrip("0123456789")] += 1
    return found


def wait_whole(fleet):
    """Until each node is connected with each other one, by RDMA, and has nothing else at its device."""
    others = len(fleet.names) - 1

    def is_whole():
        kinds = [link["transport"] for each in links(fleet).values() for link in each.values()]
        if kinds != ["verbs"] * others * len(fleet.names):
            return False
        return {device["qp"] for device in resources().values()} == {others + 1}

    fleet.wait(is_whole, "two connections each")
    found = resources(), descriptors(fleet)
    fleet.whole = getattr(fleet, "whole", found)
    assert found == fleet.whole


def test_what_is_put_reaches_all_members_by_rdma(fleet):
    wait_whole(fleet)
    fleet.wait(lambda: is_put_and_counted(fleet), "connections that last for a second")
    with fleet.program() as store:
        assert store.get("put/long") == bytes(3_000_000)
    wait_whole(fleet)
    assert operator_says(fleet).count("2 verbs") == len(fleet.names)


def is_put_and_counted(fleet):
    """Whether no connection ended meanwhile, as on a busy machine one may: counts begin with it."""
    before = links(fleet)
    with fleet.program() as store:
        for number in range(30):
            store.put(f"put/{number}", bytes(1000))
        store.put("put/long", bytes(3_000_000))
    fleet.wait_well()
    after = links(fleet)
    for name in fleet.names:
        sent = collections.Counter()
        for peer, link in after[name].items():
            known = before[name].get(peer)
            if known is None or link["posts"] < known["posts"]:
                return False
            for what in ("posts", "doorbells", "copied_bytes", "sent_messages"):
                sent[what] += link[what] - known[what]
        assert sent["sent_messages"] > 30
        assert sent["doorbells"] <= sent["posts"]
        # Each byte is copied once, into the ring or out of it; a node has all of them from others, or for others.
        assert sent["copied_bytes"] > 3_030_000
    return True


def operator_says(fleet):
    """`cascadefs cluster status`."""
    home = fleet.permit("operator").parent
    etcd = configuration.Etcd(fleet.endpoints, plain=True)
    (home / "cluster.toml").write_text(configuration.spell(configuration.Cluster(CLUSTER, etcd)))
    done = CliRunner().invoke(app, ["cluster", "status", "-c", str(home)])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_follower_killed_in_mid_write_is_filled_when_it_is_back(fleet):
    leader = fleet.leader(0)
    victim = next(name for name in fleet.names if name != leader)
    killing = f"import os, time; time.sleep(0.05); os.kill({fleet.running[victim].pid}, 9)"
    with fleet.program() as store:
        for number in range(16):
            if number == 4:
                killer = subprocess.Popen([sys.executable, "-S", "-c", killing])
            store.put(f"torn/{number}", bytes([number]) * PIECE_BYTES)
        assert killer.wait() == 0
        fleet.running.pop(victim).wait()
        fleet.start(victim)
        fleet.wait_well()
        for number in range(16):
            assert store.get(f"torn/{number}") == bytes([number]) * PIECE_BYTES
            assert len(list(store.versions(f"torn/{number}"))) == 1
    fleet.check_logs()
    wait_whole(fleet)
    # Of the connections there are; one may have broken meanwhile.
    assert sum(link["received_bytes"] for link in links(fleet)[victim].values()) > PIECE_BYTES


def test_packets_are_lost_and_a_cable_is_out(fleet, load):
    for share in ("2%", "20%"):
        with fleet.hosts.losing(share):
            load.disturbed()
            load.go_on()
    name = fleet.leader(1)
    with fleet.hosts.unplugged(name):
        load.disturbed()
        load.go_on()
        fleet.wait(lambda: name not in fleet.epochs()[1].members, "the others go on")
    finish(fleet, load, "2 % and 20 % of packets lost, a leader's cable out")
    wait_whole(fleet)


def test_a_device_is_taken_away_and_given_back(fleet, load):
    """Soft-RoCE waits with that until nobody uses it: the node is ended, as for a card that is changed."""
    name = next(each for each in fleet.names if each != fleet.leader(0))
    deleting = subprocess.Popen(["rdma", "link", "delete", fleet.hosts.device(name)])
    load.disturbed()
    load.go_on()
    fleet.kill(name)
    assert deleting.wait(30) == 0
    load.go_on()
    load.stop()
    with pytest.raises(
        AssertionError,
        match=rf"\[transport\]: there is no RDMA device '{fleet.hosts.device(name)}'; there are",
    ):
        fleet.start(name)
    fleet.running.pop(name).wait()
    fleet.hosts.give_device(name)
    fleet.start(name)
    finish(fleet, load, "a device taken away")
    wait_whole(fleet)


def test_rings_and_queues_fill_while_one_stands_still(fleet):
    """Its memory takes what its device gets, and nobody gives room back."""
    name = next(each for each in fleet.names if each != fleet.leader(0))
    with fleet.program() as store:
        fleet.freeze(name)
        for number in range(24):
            store.put(f"full/{number}", bytes([number]) * PIECE_BYTES)
        fleet.thaw(name)
        fleet.wait_well()
        for number in range(24):
            assert store.get(f"full/{number}") == bytes([number]) * PIECE_BYTES
    fleet.check_logs()
    wait_whole(fleet)


def test_scripts_run_each_version_once_across_a_failover(fleet, tmp_path):
    nodes = tuple(fleet.address(name) for name in fleet.names)
    told = configuration.spell(configuration.Mount(CLUSTER, nodes))
    (fleet.directory / "m1/mount.toml").write_text(told)
    mount = Mount(fleet, tmp_path / "mount", "kernel")
    try:
        farm = mount.path / "farm"
        (farm / "in").mkdir(parents=True)
        install(farm, "chain.py", SCRIPT)
        shard = int(os.getxattr(farm, "user.cascade.shard"))
    finally:
        assert mount.end() == 0, mount.log.read_text()
    wrote = collections.defaultdict(list)
    with fleet.program() as store:
        for number in range(VERSIONS):
            name = f"f{number % 4}"
            store.put(f"farm/in/{name}", str(number))
            wrote[name].append(str(number))
            if number == VERSIONS // 3:
                down = fleet.leader(shard)
                fleet.kill(down)
        fleet.start(down)
        fleet.wait(lambda: len(ledger(store)) >= VERSIONS, "all of it runs")
        fleet.wait_well()
        assert len(ledger(store)) == VERSIONS
        for name, numbers in wrote.items():
            assert [line for line in ledger(store) if line.startswith(f"{name} ")] == [
                f"{name} {number}" for number in numbers
            ]
            path = f"farm/out/{name}"
            found = [store.get(path, version=v.number).decode() for v in store.versions(path)]
            assert found == numbers
    wait_whole(fleet)


def ledger(store):
    try:
        return store.get("farm/ledger").decode().splitlines()
    except FileNotFoundError:
        return []
