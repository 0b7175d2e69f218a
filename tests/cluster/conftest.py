"""What the tests of the cluster share: a world on a clock that jumps, and a cluster of processes to do things to."""

import gc

import pytest
import trio
from trio.testing import MockClock

from tests.cluster.fleet import Fleet
from tests.cluster.wires import Wires
from tests.cluster.world import World, inline_threads
from tests.etcd import Etcd


@pytest.fixture
def in_world(monkeypatch):
    """Run a test in a world of its own."""

    def run(scenario, **options):
        async def main():
            async with trio.open_nursery() as nursery:
                await scenario(World(nursery, **options))
                nursery.cancel_scope.cancel()

        with inline_threads(monkeypatch):
            trio.run(main, clock=MockClock(autojump_threshold=0))
        # A world is full of cycles, and has hundreds of megabytes of disks that the collector does not see.
        gc.collect()

    return run


@pytest.fixture(scope="package")
def fleet(tmp_path_factory):
    """Three nodes, four shards, one etcd, for all tests that leave them well."""
    directory = tmp_path_factory.mktemp("fleet")
    node = {"scrub_mib_per_s": 256.0, "scrub_rest_s": 1.0}
    names = ("n1", "n2", "n3")
    with Etcd(directory) as etcd, Fleet(directory, etcd.endpoints, names, 4, node=node) as fleet:
        fleet.etcd = etcd
        fleet.start()
        fleet.wait_well()
        yield fleet


@pytest.fixture(scope="package")
def rdma_fleet(tmp_path_factory):
    """Three nodes that reach each other by RDMA, two shards: in the guest (tests/guest.py), for all tests that leave them well."""
    directory = tmp_path_factory.mktemp("rdma")
    names = ("n1", "n2", "n3")
    with (
        Wires(names) as wires,
        Etcd(directory) as etcd,
        Fleet(
            directory,
            etcd.endpoints,
            names,
            2,
            hosts=wires,
            node={"triggers": "root"},
            durability="memory",
        ) as fleet,
    ):
        fleet.etcd = etcd
        fleet.start()
        fleet.wait_well()
        yield fleet
