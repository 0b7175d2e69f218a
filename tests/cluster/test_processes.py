"""Goal: real processes, a real etcd, real sockets: a leader killed under load loses nothing that was acknowledged,
doubles nothing, and all logs end up the same.

Method: three `cascadefs serve`, a client that keeps a window of proposals on its way, kill -9; then everything is
stopped cleanly and the files are compared.
"""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import trio

from storage.record import Create, encode
from tests.cluster.processes import CLUSTER, Client, Processes
from tests.etcd import Etcd

pytestmark = pytest.mark.slow


@pytest.fixture
def etcd(tmp_path):
    with Etcd(tmp_path) as etcd:
        yield etcd


def name_of(number):
    return encode(Create(1, b"f%d" % number, 2 + number, 0o100644, 0, 0))


async def load(client, count, window=32):
    for _ in range(count):
        client.propose(name_of(client.number + 1), b"%d" % client.number * 100)
        await client.wait(window)


async def members(client, count, seconds=60):
    with trio.fail_after(seconds):
        while client.members != count:
            await trio.sleep(0.05)


def check(client, upto):
    own = [r for r in client.seen if r.client == client.client]
    assert [r.number for r in own] == list(range(1, upto + 1))
    assert [r.metadata for r in own] == [name_of(n) for n in range(1, upto + 1)]


@pytest.mark.parametrize("durability", ["memory", "disk"])
@pytest.mark.timeout(180)
def test_a_leader_killed_under_load(tmp_path, etcd, durability, capsys):
    pauses = []

    async def scenario():
        async with trio.open_nursery() as nursery:
            client = Client(cluster, 7)
            await client.run(nursery)
            await load(client, 300)
            await members(client, 3)
            for _ in range(3):
                nursery.start_soon(load, client, 200)
                await trio.sleep(0.05)
                leader = client.leader
                began, before = time.perf_counter(), client.number
                cluster.kill(leader)
                await load(client, 100)
                await client.wait(0, 90)
                pauses.append(client.seen_at[before + 1] - began)
                await trio.to_thread.run_sync(cluster.start, leader)
                await client.wait(0)
                await members(client, 3)
            check(client, client.number)
            nursery.cancel_scope.cancel()
            return client.seen[-1]

    with Processes(tmp_path, etcd.endpoints, durability=durability) as cluster:
        cluster.start()
        last = trio.run(scenario)
        assert set(cluster.stop_all().values()) == {0}
        first, *others = [cluster.log_bytes(name, last) for name in cluster.names]
        assert all(other == first for other in others)
        assert len(first) > last.address - 1024
        assert all("Traceback" not in cluster.log(name) for name in cluster.names)
    with capsys.disabled():
        print(
            f"\npause after kill -9 of the leader, {durability}: {', '.join(f'{p:.2f} s' for p in pauses)}"
        )


@pytest.mark.timeout(120)
def test_a_node_whose_directory_was_wiped_is_filled_again(tmp_path, etcd):
    async def scenario():
        async with trio.open_nursery() as nursery:
            client = Client(cluster, 9)
            await client.run(nursery)
            await load(client, 400)
            await members(client, 3)
            victim = next(name for name in cluster.names if name != client.leader)
            cluster.kill(victim)
            shutil.rmtree(tmp_path / victim / "data")
            await load(client, 100)
            await trio.to_thread.run_sync(cluster.start, victim)
            await members(client, 3)
            await load(client, 100)
            await client.wait(0)
            check(client, 600)
            nursery.cancel_scope.cancel()
            return client.seen[-1]

    with Processes(tmp_path, etcd.endpoints, durability="disk") as cluster:
        cluster.start()
        last = trio.run(scenario)
        assert set(cluster.stop_all().values()) == {0}
        first, *others = [cluster.log_bytes(name, last) for name in cluster.names]
        assert all(other == first for other in others)
        assert len(first) > last.address - 1024


@pytest.mark.timeout(120)
def test_records_go_on_while_etcd_is_silent(tmp_path, etcd):
    """Far longer than a lease: as long as all members answer each other, nobody else can lead."""

    async def scenario():
        async with trio.open_nursery() as nursery:
            client = Client(cluster, 11)
            await client.run(nursery)
            await load(client, 50)
            await members(client, 3)
            await client.wait(0)
            for member in etcd.members:
                member.signal(signal.SIGSTOP)
            until = trio.current_time() + 8
            while trio.current_time() < until:
                await load(client, 20)
                await client.wait(0, 20)
            for member in etcd.members:
                member.signal(signal.SIGCONT)
            await load(client, 50)
            await client.wait(0)
            await members(client, 3)
            check(client, client.number)
            nursery.cancel_scope.cancel()

    with Processes(tmp_path, etcd.endpoints, durability="memory") as cluster:
        cluster.start()
        trio.run(scenario)
        assert set(cluster.stop_all().values()) == {0}
        assert all("Traceback" not in cluster.log(name) for name in cluster.names)


def serve(config, *options):
    """Run a node that is expected to end by itself; (status, what it said)."""
    command = [sys.executable, "-m", "cascadefs.cli", "serve", "--config", str(config), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.timeout(120)
def test_a_node_that_cannot_serve_says_why(tmp_path, etcd):
    with Processes(tmp_path, etcd.endpoints, names=("n1",)) as cluster:
        config = tmp_path / "n1" / "node.toml"
        status, said = serve(tmp_path / "none.toml")
        assert (status, "none.toml" in said) == (1, True)
        cluster.start()
        status, said = serve(config)
        assert (status, "in use by process" in said) == (1, True)
        cluster.stop_all()
        text = config.read_text()
        config.write_text(text.replace('name = "n1"', 'name = "n2"'))
        status, said = serve(config)
        assert (status, "cascadefs cluster add" in said) == (1, True)
        status, said = serve(config, "--insecure-loopback")
        assert (status, "knows no node n2" in said) == (1, True)
        config.write_text(text.replace(CLUSTER, CLUSTER[::-1]))
        status, said = serve(config, "--insecure-loopback")
        assert (status, "is this the right etcd" in said) == (1, True)
        config.write_text(text.replace("127.0.0.1:", "192.0.2.1:", 1))
        status, said = serve(config)
        assert (status, "192.0.2.1" in said) == (1, True)
        assert "Traceback" not in said + cluster.log("n1")
