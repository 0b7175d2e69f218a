"""Goal: programs reach everything at any node, also where there are more nodes than replicas.

Method: three nodes with one replica of each shard; clients that know one node each; a node that dies, and a shard that moves.
"""

import pytest

from tests.cluster.fleet import Fleet
from tests.cluster.test_programs import client_of
from tests.etcd import Etcd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def test_a_program_reaches_every_shard_at_any_node(tmp_path):
    names = ("n1", "n2", "n3")
    with Etcd(tmp_path) as etcd, Fleet(tmp_path, etcd.endpoints, names, 3, replicas=1) as fleet:
        fleet.start()
        fleet.wait(lambda: len(fleet.epochs()) == 3, "all shards are made")
        leaders = {shard: epoch.leader for shard, epoch in fleet.epochs().items()}
        assert len(set(leaders.values())) > 1, "no node has everything"
        written = {}
        for name in names:
            with client_of(fleet, [name]) as store:
                for number in range(6):
                    written[f"d{number}/{name}"] = f"{number} at {name}".encode()
                    store.put(f"d{number}/{name}", written[f"d{number}/{name}"])
                for path, content in written.items():
                    assert store.get(path) == content
                store.put_many({f"d{number}/many-{name}": name for number in range(6)})
                large = bytes(range(256)) * 8192
                store.put(f"d1/large-{name}", large)
                assert store.get(f"d1/large-{name}", version=1) == large
                assert store.get(f"d1/many-{names[0]}") == b"n1"
        fleet.kill(leaders[1])
        fleet.start(leaders[1])
        for name in names:
            with client_of(fleet, [name]) as store:
                store.append("d1/log", f"{name}\n")
                assert [entry.name for entry in store.list("")] == [f"d{n}" for n in range(6)]
        with client_of(fleet, ["n2"]) as store:
            assert store.get("d1/log").decode().split() == list(names)
        assert all("Traceback" not in fleet.log(name) for name in names)
