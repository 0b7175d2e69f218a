"""On a real card: what tests/triggers/handler/test_device.py shows with a stand-in. Run by `pytest -m gpu`, and nowhere else.

Needs CuPy (`pip install "cascadefs[gpu]"`) and a CUDA device; fails, rather than skips, without them.
"""

from __future__ import annotations

import importlib
import mmap
import random

import numpy as np
import pytest

from cascadefs.client import Client
from cascadefs.client.operations import Operations
from storage.disk import MemoryDisk
from storage.store import LocalStore
from storage.table import MemoryTable
from triggers.access import Identity
from triggers.handler import device
from triggers.handler.device import DeviceCache
from triggers.handler.effects import encode
from triggers.handler.transfer import REGISTER_BYTES_MIN
from triggers.testing import ManualClock

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cupy():
    return importlib.import_module("cupy")


class _Index:
    open = renew = view = staticmethod(MemoryTable)


class _Direct:
    def __init__(self, store, clock):
        self.execute = Operations(store, clock, Identity(0, 0)).execute

    def close(self):
        pass


@pytest.fixture
def client():
    clock = ManualClock()
    store = LocalStore.open_on(
        MemoryDisk(), _Index(), clock, random.Random(0), boot_id="test", owner=(0, 0),
        segment_bytes=1 << 24,
    )  # fmt: skip
    yield Client(_Direct(store, clock), clock)
    store.close()


def test_a_device_is_found():
    cache = device.gpu()
    assert cache is not None
    assert cache.limit_bytes > 0


def test_the_second_get_moves_nothing_and_a_new_version_comes(client, cupy):
    numbers = np.random.default_rng(1).normal(size=(300, 400)).astype(np.float32)
    client.put("m.npy", encode("m.npy", numbers))
    first = client.get("m.npy", device="cuda")
    assert isinstance(first, cupy.ndarray)
    cupy.testing.assert_array_equal(first, numbers)
    moved = client.devices.cache("cuda").moved_bytes
    assert moved == numbers.nbytes
    assert client.get("m.npy", device="cuda") is first
    assert client.devices.cache("cuda").moved_bytes == moved
    client.put("m.npy", encode("m.npy", numbers + 1))
    cupy.testing.assert_array_equal(client.get("m.npy", device="cuda"), numbers + 1)
    cupy.testing.assert_array_equal(client.get("m.npy", version=1, device="cuda"), numbers)


@pytest.mark.parametrize("size_bytes", [4096, 2 * REGISTER_BYTES_MIN])
def test_read_only_mappings_arrive_whole(cupy, size_bytes, tmp_path):
    data = np.random.default_rng(2).integers(0, 255, size_bytes, np.uint8)
    (tmp_path / "segment").write_bytes(data.tobytes())
    with open(tmp_path / "segment", "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    cache = DeviceCache(cupy, 1 << 30)
    cupy.testing.assert_array_equal(cache.get("x", (1, 1), lambda: mapped), data)
    transfer = cache.transfer
    print(f"moved {transfer.moved_bytes}, through pinned memory {transfer.staged_bytes}")
    assert transfer.moved_bytes == size_bytes


def test_out_of_memory_evicts_and_goes_on(cupy):
    pool = cupy.get_default_memory_pool()
    before = pool.get_limit()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + (48 << 20))
    try:
        cache = DeviceCache(cupy, 1 << 40)
        data = memoryview(bytes(20 << 20))
        for name in ("a", "b", "c", "d"):
            assert cache.get(name, (1, 1), lambda: data).nbytes == 20 << 20
        assert cache.holds("a") is None
        assert cache.holds("d") is not None
    finally:
        pool.set_limit(size=before)


def test_torch_takes_the_array_without_a_copy(client, cupy):
    torch = importlib.import_module("torch")
    client.put("m.npy", encode("m.npy", np.arange(10, dtype=np.float32)))
    held = client.get("m.npy", device="cuda")
    tensor = torch.from_dlpack(held)
    assert tensor.is_cuda
    assert tensor.data_ptr() == held.data.ptr
