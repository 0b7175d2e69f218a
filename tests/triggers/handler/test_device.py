"""Goal: a version is moved to the device once, and the cache keeps its bound. Method: a stand-in for CuPy that counts."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

from triggers.handler.device import DeviceCache
from triggers.handler.effects import encode


def stored(count: int) -> memoryview:
    return memoryview(encode("x.npy", np.zeros(count, "float32")))


class Device:
    """As much of CuPy as the cache uses: arrays of a bounded memory."""

    __name__ = "cupy"

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.freed = 0
        self.cuda = SimpleNamespace(memory=SimpleNamespace(OutOfMemoryError=MemoryError))

    def asarray(self, host):
        if host.nbytes > self.free_bytes:
            raise MemoryError
        self.free_bytes -= host.nbytes
        device = self

        class Array(np.ndarray):
            def __del__(self):
                if self.base is None:
                    device.free_bytes += self.nbytes

        moved = Array(host.shape, host.dtype)
        moved[...] = host
        return moved

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: setattr(self, "freed", self.freed + 1))


def never():
    raise AssertionError("it was read again")


def test_the_second_use_moves_nothing_and_a_new_version_replaces_the_old():
    cache = DeviceCache(Device(1 << 20), 1 << 20)
    first = cache.get("m", (1, 1), lambda: stored(100))
    assert cache.get("m", (1, 1), never) is first
    assert (cache.moved_bytes, cache.hits, cache.holds("m")) == (400, 1, (1, 1))
    second = cache.get("m", (1, 2), lambda: stored(50))
    assert cache.holds("m") == (1, 2)
    assert cache.size_bytes == 200
    assert first.shape == (100,)  # who still uses it keeps it
    assert second.shape == (50,)


def test_the_least_recently_used_goes_first_and_the_bound_is_kept():
    cache = DeviceCache(Device(1 << 20), 1000)
    for name in "ab":
        cache.get(name, (1, 1), lambda: stored(100))
    cache.get("a", (1, 1), never)
    cache.get("c", (1, 1), lambda: stored(100))
    assert [cache.holds(name) is not None for name in "abc"] == [True, False, True]
    assert cache.size_bytes == 800
    cache.get("huge", (1, 1), lambda: stored(1000))  # larger than everything: used, not kept
    assert cache.holds("huge") is None
    assert cache.size_bytes <= 1000


def test_out_of_memory_evicts_and_goes_on():
    device = Device(900)
    cache = DeviceCache(device, 1 << 20)
    cache.get("a", (1, 1), lambda: stored(100))
    cache.get("b", (1, 1), lambda: stored(100))
    assert cache.get("c", (1, 1), lambda: stored(100)).shape == (100,)
    assert cache.holds("a") is None
    assert device.freed == 1
    with pytest.raises(MemoryError):
        cache.get("d", (1, 1), lambda: stored(1000))


def test_an_archive_is_a_mapping_and_on_the_host_an_array_is_the_file_itself():
    file = io.BytesIO()
    np.savez(file, w=np.ones(3, "float32"), b=np.zeros(1))
    cache = DeviceCache(np, 1 << 20)
    model = cache.get("m.npz", (1, 1), lambda: memoryview(file.getvalue()))
    assert sorted(model) == ["b", "w"]
    assert model["w"].tolist() == [1, 1, 1]
    data = stored(4)
    assert np.shares_memory(cache.get("x", (1, 1), lambda: data), np.frombuffer(data, "uint8"))
    assert cache.moved_bytes == 0
