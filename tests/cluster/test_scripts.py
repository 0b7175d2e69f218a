"""Goal: an engine that waits for its shard leaves the faces to others, and hears of what became of its record.

Method: a face on an order in memory, with the node's lock and follower around it; the order is paused while a thread proposes.
"""

from __future__ import annotations

import threading
import time

import pytest

from cascadefs.node.faces import Faces
from cascadefs.node.scripts import _View
from storage import record
from storage.cluster.loopback import Order
from storage.cluster.store import ClusterStore
from storage.disk import MemoryDisk
from storage.namespace import DONE, ROOT
from storage.sequencer import Unavailable
from storage.table import MemoryTable
from triggers.testing import ManualClock


class Index:
    def open(self):
        return MemoryTable()

    renew = open


@pytest.fixture
def order():
    order = Order(0, ManualClock())
    order.append(record.encode(record.Create(0, b"", ROOT, 0o40755, 0, 0)))
    return order


@pytest.fixture
def faces(order):
    disk = MemoryDisk()
    faces = Faces(lambda shard: disk, lambda shard: Index(), ManualClock(), time.monotonic_ns, "b")
    faces.prepare(0)
    faces.attach(order.sequencer(7))
    follower = threading.Thread(target=faces.follow)
    follower.start()
    yield faces
    faces.stop()
    follower.join()
    faces.close()


def proposing(faces, proposal):
    """A thread that holds the faces and proposes; what became of it."""
    with faces.exclusive() as found:
        store = ClusterStore(list(found.values()), ManualClock(), faces.hybrid)
        view = _View(store, found[0], faces)
    told = []
    held = threading.Event()

    def run():
        with faces.exclusive():
            held.set()
            try:
                told.append(view.propose(proposal))
            except OSError as error:
                told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    held.wait()
    return thread, told


def test_what_is_committed_at_once_is_answered(faces):
    thread, told = proposing(faces, record.Adopt(1))
    thread.join()
    assert told == [DONE]
    with faces.exclusive() as found:
        assert found[0].namespace.deliveries.epoch() == 1


def test_others_have_the_faces_while_a_shard_pauses(faces, order):
    order.pause()
    thread, told = proposing(faces, record.Adopt(1))
    with faces.exclusive() as found:  # Or this waits for ever.
        assert found[0].namespace.deliveries.epoch() == 0
    assert told == []
    order.resume()
    thread.join()
    assert told == [DONE]


def test_who_waits_when_the_node_stops_is_told(faces, order):
    order.pause()
    thread, told = proposing(faces, record.Adopt(1))
    faces.stop()
    thread.join()
    assert isinstance(told[0], Unavailable)
