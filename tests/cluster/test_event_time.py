"""Goal: on a cluster, too, what is told late and out of order finds its place by when it happened, for everybody and for ever (SEMANTICS 3).

Method: a program and a mount tell of readings of several sensors, whose directories lie in several shards, in an order drawn by chance;
half-way the leader of one shard is killed. Clients of each node and the mount then answer, of each moment and as known at several
instants, what a plain list of all that was told says.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
from typing import NamedTuple

import pytest

from cascadefs import configuration
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.cluster.test_programs import client_of

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(240)]

SENSORS = 6
READINGS = 12
MIDNIGHT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Told(NamedTuple):
    """One reading, in the order of what counts: when it happened, then what was told of it last."""

    reading: int
    version: int
    timestamp: int
    text: str


def when(reading):
    return (MIDNIGHT + datetime.timedelta(minutes=10 * reading)).strftime("%Y-%m-%dT%H:%M")


def expected(told, reading, known):
    there = [one for one in told if one.reading <= reading and one.timestamp <= known]
    return max(there).text if there else None


@pytest.fixture
def mount(fleet, tmp_path):
    nodes = tuple(fleet.address(name) for name in fleet.names)
    (fleet.directory / "m1" / "mount.toml").write_text(
        configuration.spell(configuration.Mount(CLUSTER, nodes))
    )
    made = Mount(fleet, tmp_path / "mount", "kernel")
    yield made.path
    assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def by_mount(path, text, reading):
    with open(path, "w") as file:
        os.setxattr(file.fileno(), "user.cascade.event_time", when(reading).encode())
        file.write(text)


def test_what_is_told_late_finds_its_place_for_everybody(fleet, mount):
    draw = random.Random(3)
    readings = [(sensor, reading) for sensor in range(SENSORS) for reading in range(READINGS)]
    readings += draw.sample(readings, 12)  # told once more: corrected
    draw.shuffle(readings)
    told = {sensor: [] for sensor in range(SENSORS)}
    with fleet.program() as store:
        for number, (sensor, reading) in enumerate(readings):
            if number == len(readings) // 2:
                shard = int(os.getxattr(mount / "sensor0", "user.cascade.shard"))
                killed = fleet.leader(shard)
                fleet.kill(killed)
            path, text = f"sensor{sensor}/said", f"{sensor} at {reading}, told as {number}"
            if number % 2:
                store.put(path, text, event=when(reading))
            else:
                (mount / f"sensor{sensor}").mkdir(exist_ok=True)
                by_mount(mount / path, text, reading)
            entry = store.stat(path)
            told[sensor].append(Told(reading, entry.version, entry.timestamp, text))
        fleet.start(killed)
        fleet.wait_well()
        assert len({os.getxattr(mount / f"sensor{n}", "user.cascade.shard") for n in told}) > 1
        instants = sorted(draw.choice(draw.choice(told)).timestamp for _ in range(3))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client_of(fleet, [name])) for name in fleet.names]
            for sensor, list_ in told.items():
                for reading in range(-1, READINGS):
                    for known in [*instants, None]:
                        path, event = f"sensor{sensor}/said", when(reading)
                        right = expected(list_, reading, known or 2**62)
                        for client in clients:
                            assert answer(client, path, event, known) == right
                        as_known = "" if known is None else f",t={known}"
                        found = mount / f"{path}@e={event}{as_known}"
                        assert (found.read_text() if found.exists() else None) == right


def answer(client, path, event, known):
    try:
        return client.get(path, event=event, at=known).decode()
    except FileNotFoundError:
        return None
