"""A parameter server: additions to numbers in a file, each once, whoever makes them and however often they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from cascadefs.client import Batch, Client, Conflict, TrioClient
from cascadefs.client.operations import Operations
from storage import record
from triggers.access import Identity
from triggers.vector import PAGE_BYTES

COUNT = 1 << 18


class Counted:
    """A store that notes what is read and what is written of files."""

    def __init__(self, store) -> None:
        self._store = store
        self.read_bytes = self.written_bytes = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def read(self, inode, attributes, timestamp, offset, length):
        self.read_bytes += min(length, attributes.size - offset)
        return self._store.read(inode, attributes, timestamp, offset, length)

    def read_ranges(self, inode, attributes, timestamp, ranges):
        data = self._store.read_ranges(inode, attributes, timestamp, ranges)
        self.read_bytes += len(data)
        return data

    def propose(self, proposal, payload=()):
        for one in getattr(proposal, "records", ()):
            if isinstance(one, record.Commit):
                self.written_bytes += sum(length for _, length, _, _ in one.extents)
        return self._store.propose(proposal, payload)


class As:
    """Executes as root."""

    def __init__(self, store, clock) -> None:
        self.execute = Operations(store, clock, Identity(0, 0)).execute

    def close(self) -> None:
        pass


@pytest.fixture
def counted(store):
    return Counted(store)


@pytest.fixture
def connect(counted, clock):
    return lambda: Client(As(counted, clock), clock)


@pytest.fixture
def client(connect):
    return connect()


def pages(*indices) -> int:
    return len(np.unique(np.concatenate([np.ravel(one) for one in indices]) * 4 // PAGE_BYTES))


def test_a_few_numbers_of_many_are_read_and_written_alone(client, counted):
    draw = np.random.default_rng(3)
    twin = np.zeros(COUNT, np.float32)
    client.put("w", twin.tobytes())
    counted.written_bytes = 0
    for number in range(2, 12):
        places = draw.integers(0, COUNT, 100)
        delta = draw.integers(-64, 64, 100).astype(np.float32) / 64
        np.add.at(twin, places, delta)
        assert client.add("w", places, delta).number == number
        assert counted.written_bytes == counted.read_bytes == pages(places) * PAGE_BYTES
        counted.written_bytes = counted.read_bytes = 0
        wanted = draw.integers(0, COUNT, (4, 25))
        np.testing.assert_array_equal(client.pull("w", wanted), twin[wanted])
        assert counted.read_bytes == pages(wanted) * PAGE_BYTES
        counted.read_bytes = 0
    assert client.get("w") == twin.tobytes()
    assert client.pull("w", 7) == twin[7]
    assert client.pull("w", 5, version=1) == 0
    assert client.pull("w", range(COUNT - 2, COUNT + 2)).tolist() == [*twin[-2:].tolist(), 0, 0]


def test_additions_of_one_batch_are_one_version(client):
    with client.batch() as batch:
        batch.add("d/w", [0, 0, 3], [1, 2, 3], dtype="int64")
        batch.add("d/w", 1, [10, 10], dtype="int64")
        batch.put("d/loss", "0.5")
    assert np.frombuffer(client.get("d/w"), "<i8").tolist() == [3, 10, 10, 3]
    assert len(client.versions("d/w")) == 1
    assert client.versions("d/w")[0].timestamp == client.versions("d/loss")[0].timestamp


def test_a_key_is_done_once_whoever_asks(connect):
    first, again = connect(), connect()
    made = first.add("w", 0, [1.0], key="step 7")
    assert again.add("w", 0, [1.0], key="step 7") == made
    assert again.add("v", 0, [1.0], key="step 7").number == 1  # a key is one of its paths
    for step in (1, 2, 2, 1, 5, 4):
        first.add("w", 0, [10.0], key=("worker 3", step))
    first.add("w", 0, [10.0], key=("worker 4", 1))
    assert again.pull("w", 0) == 1 + 3 * 10 + 10
    assert (
        again.add("w", 0, [10.0], key=("worker 3", 2)).number == 0
    )  # done, and no longer known as what
    batch = Batch()
    batch.append("log", "x")
    batch.append("other", "y")
    for client in (first, again, first):
        client.commit(batch, key="both")
    assert (first.get("log"), first.get("other")) == (b"x", b"y")
    for number in (0, -1, 2**62):
        with pytest.raises(ValueError, match="begin with 1"):
            first.add("w", 0, [1.0], key=("worker 3", number))


def test_what_was_refused_may_be_asked_again_with_its_key(client):
    client.put("a", "1")
    batch = Batch()
    batch.put("a", "2", expect=7)
    batch.add("w", 0, [1.0])
    with pytest.raises(Conflict):
        client.commit(batch, key="k")
    with pytest.raises(FileNotFoundError):
        client.pull("w", 0)
    batch.parts[0] = type(batch.parts[0])("a", 0o644, 1)
    assert [version.number for version in client.commit(batch, key="k")] == [2, 1]
    assert client.pull("w", 0) == 1


def test_millions_of_numbers_come_in_parts_of_one_version(client, monkeypatch):
    monkeypatch.setattr("cascadefs.client.client.PULLED", 7)
    client.put("w", np.arange(100, dtype="<f4").tobytes())
    assert client.pull("w", np.arange(99, -1, -1)).tolist() == list(range(99, -1, -1))
    assert client.pull("w", []).shape == (0,)


def test_it_is_the_users_right_to_write_that_counts(store, clock):
    root, other = (Client(As(store, clock), clock) for _ in range(2))
    other._executor.execute = Operations(store, clock, Identity(7, 7)).execute
    root.put("w", bytes(8))
    with pytest.raises(PermissionError):
        other.add("w", 0, [1.0], key="k")
    root.put("secret", bytes(8), mode=0o600)
    with pytest.raises(PermissionError):
        other.pull("secret", 0)
    assert root.add("w", 0, [1.0], key="k").number == 2


async def test_under_trio_it_is_the_same(client):
    store = TrioClient(client)
    assert (await store.add("w", [0, 2], [1.0, 2.0], key=("a", 1))).number == 1
    assert (await store.pull("w", [2, 0, 9])).tolist() == [2, 1, 0]
    batch = Batch()
    batch.add("w", 0, [5.0])
    for _ in range(2):
        await store.commit(batch, key="b")
    assert (await store.get("w", device="cpu")).view("<f4").tolist() == [6, 0, 2]
