"""Goal: whatever ends, stands still or is cut off, programs see a pause: nothing that was acknowledged is lost, nothing is done twice, no
call fails, and the logs end up the same.

Method: three `cascadefs serve` on hosts of their own (network namespaces, TCP; and wires of the guest, RDMA), a real etcd; programs append
and put with a condition all the time. Afterwards everything is read back, each version by its number, and the logs are compared to the byte. Pauses
are printed, in periods of the lease, and nothing is demanded of them.
"""

import os
import random
import signal
import time

import pytest

from tests.cluster.fleet import Fleet
from tests.cluster.hosts import HERE, Hosts
from tests.cluster.load import Load
from tests.etcd import Etcd

NAMES = ("n1", "n2", "n3")
LEASE_S = 2.0
ROUNDS_SHORT = 3
ROUNDS = int(os.environ.get("CASCADEFS_CLUSTER_ROUNDS", ROUNDS_SHORT))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 60 * ROUNDS)]


RDMA = pytest.mark.rdma(guest=True)


@pytest.fixture(scope="module", params=["tcp", pytest.param("verbs", marks=RDMA)])
def fleet(request):
    """The same by TCP and by RDMA."""
    return request.getfixturevalue({"tcp": "tcp_fleet", "verbs": "rdma_fleet"}[request.param])


@pytest.fixture(scope="module")
def tcp_fleet(tmp_path_factory):
    directory = tmp_path_factory.mktemp("failover")
    with (
        Hosts(NAMES) as hosts,
        Etcd(directory, host=hosts.address(HERE)) as etcd,
        Fleet(directory, etcd.endpoints, NAMES, 4, hosts=hosts) as fleet,
    ):
        fleet.etcd = etcd
        fleet.start()
        fleet.wait_well()
        yield fleet


def is_small(fleet):
    """Whether it is that of the guest, which has one processor for all of it."""
    return fleet.shards == 2


@pytest.fixture
def make_load():
    made = []

    def make(fleet, name):
        load = Load(fleet, name, programs=1 if is_small(fleet) else 3)
        made.append(load)
        load.start()
        return load

    yield make
    for load in made:
        load.fleet.hosts.mend()
        load.fleet.thaw()
        load.end()


def finish(fleet, load, what):
    """The programs stop, everything is looked at, and said."""
    load.go_on()
    load.stop()
    fleet.wait_well()
    with fleet.program() as store:
        count = load.check(store)
    fleet.check_logs()
    leases = ", ".join(f"{pause / LEASE_S:.1f}" for pause in load.pauses())
    print(
        f"figure: {what}: {len(load.moments)} times, {count} writes acknowledged, 0 lost, 0 doubled; "
        f"pauses of {leases} lease periods"
    )


def test_leaders_killed_under_load(fleet, make_load):
    choice = random.Random(1)
    load = make_load(fleet, "kill")
    for _ in range(ROUNDS // ROUNDS_SHORT if is_small(fleet) else ROUNDS):
        victim = fleet.leader(choice.randrange(fleet.shards))
        load.disturbed()
        fleet.kill(victim)
        time.sleep(choice.uniform(0, 2.5 * LEASE_S))
        fleet.start(victim)
        load.go_on()
        if choice.random() < 0.7:
            fleet.wait_well()
    finish(fleet, load, "kill -9 of a leader under load")


def test_a_leader_that_stands_still(fleet, make_load):
    load = make_load(fleet, "still")
    for shard in range(1 if is_small(fleet) else 2):
        victim = fleet.leader(shard)
        load.disturbed()
        fleet.freeze(victim)
        load.go_on()
        fleet.thaw(victim)
        load.go_on()
        fleet.wait_well()
    finish(fleet, load, "SIGSTOP of a leader")


def test_all_nodes_restarted_at_once(tcp_fleet, make_load):
    fleet, load = tcp_fleet, make_load(tcp_fleet, "all")
    for number in (signal.SIGKILL, signal.SIGTERM):
        load.disturbed()
        if number is signal.SIGKILL:
            for name in NAMES:
                fleet.kill(name, number)
        else:
            assert set(fleet.stop_all().values()) == {0}
        fleet.start()
        load.go_on()
    finish(fleet, load, "all nodes killed, and all stopped, at once")


CUTS = {
    "followers": (
        [("leader", "others"), ("others", "leader")],
        "a leader cut off from its followers",
    ),
    "etcd": ([("leader", HERE), (HERE, "leader")], "a leader cut off from etcd and programs"),
    "mute": ([("leader", "others")], "a leader whose words are lost on the way to its followers"),
    "deaf": ([("others", "leader")], "a leader that does not hear its followers"),
    "alone": (
        [("leader", "others"), ("others", "leader"), ("leader", HERE), (HERE, "leader")],
        "a leader cut off from everybody",
    ),
}


# In the short form one that ends on each side of the question who is cut off; the long form has all.
@pytest.mark.parametrize(
    ("fleet", "cut"),
    [
        *[("tcp", cut) for cut in (CUTS if ROUNDS > ROUNDS_SHORT else ["followers", "mute"])],
        *[
            pytest.param("verbs", cut, marks=RDMA)
            for cut in (["followers", "mute", "deaf"] if ROUNDS > ROUNDS_SHORT else ["followers"])
        ],
    ],
    indirect=["fleet"],
)
def test_partitions(fleet, make_load, cut):
    ways, what = CUTS[cut]
    load = make_load(fleet, cut)
    leader = fleet.leader(1)
    others = [name for name in NAMES if name != leader]
    load.disturbed()
    for ends in ways:
        sources, targets = ({"leader": [leader], "others": others}.get(end, [end]) for end in ends)
        for source in sources:
            for target in targets:
                fleet.hosts.cut_way(source, target)
    time.sleep(3 * LEASE_S)
    load.go_on()
    fleet.hosts.mend()
    finish(fleet, load, what)
