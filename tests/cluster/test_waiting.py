"""Goal: who mounts a cluster that does not answer is told soon for whom he waits.

Method: the observer of a mount on a network where nobody listens.
"""

import random
import time

import pytest

from cascadefs import observer
from cascadefs.observer import ClusterSettings, Observer
from storage.errors import Unusable
from storage.transport import Identity, Role
from storage.transport.memory import MemoryNetwork
from tests.storage.cluster.orders import TickingClock


def test_who_waits_for_a_cluster_is_told_whom_it_is_asked_of(monkeypatch, tmp_path):
    monkeypatch.setattr(observer, "SAY_SECONDS", 0.1)
    monkeypatch.setattr(observer, "START_SECONDS", 0.5)
    transport = MemoryNetwork().transport(Identity("tree", Role.MOUNT, "m1"))
    settings = ClusterSettings(nodes=("n1:1", "n2:1"), credentials=tmp_path)
    mount = Observer(
        settings,
        TickingClock(),
        random.Random(1),
        steady_ns=time.monotonic_ns,
        boot_id="boot",
        transport=transport,
    )
    told = []
    with pytest.raises(Unusable, match="no node of the cluster answers"):
        mount.open(lambda records, total: None, told.append)
    mount.close()
    (why,) = told
    assert why.startswith("no node of the cluster has answered yet; asking n1:1, n2:1: ")
