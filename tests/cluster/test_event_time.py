"""Goal: on a cluster, too, what is told late and out of order finds its place by when it happened, for everybody and for ever (SEMANTICS 3).

Method: a program and a mount tell of readings of several sensors, whose directories lie in all shards, in an order drawn by chance; meanwhile the leader of
one shard is killed. Programs at every node and the mount answer, for each reading, and as known at moments between, what a list sorted by
event time says.
"""

from __future__ import annotations

import datetime
import os
import random

import pytest

from cascadefs import configuration
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.cluster.test_programs import client_of
from storage.transport import Role

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(240)]

SENSORS = 6
READINGS = 12
MIDNIGHT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def happened(reading):
    return MIDNIGHT + datetime.timedelta(minutes=10 * reading)


@pytest.fixture
def mount(fleet, tmp_path):
    told = fleet.permit("sensors-mount", role=Role.MOUNT)
    made = Mount(fleet, tmp_path / "mount", "kernel", told)
    yield made.path
    assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def tell(store, mount, random, sensor, reading):
    """By a program or an ordinary one; the timestamp of the commit."""
    path, data = f"sensor{sensor}/reading", f"{sensor} at {reading}"
    if random.random() < 0.5:
        return store.put(path, data, event=happened(reading)).timestamp
    with open(mount / path, "w") as file:
        when = happened(reading).strftime("%Y-%m-%dT%H:%M")
        os.setxattr(file.fileno(), "user.cascade.event_time", when.encode())
        file.write(data)
    return store.stat(path).timestamp
