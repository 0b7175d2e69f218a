"""Arrays where the numbers are crunched: on a GPU by CuPy, or NumPy's own where there is none.

A cache by (path, identity of the content): a second use of the same version moves no byte. A new version replaces the old
once nobody *uses* that any more: a run does until it ends, and what a user holds in its hands lives as long as it does
anyway. Bounded in bytes; the least recently used goes first. One per process, made after the fork, since a CUDA context does
not survive one.

On a machine without GPU the array is a read-only view of the file's own memory: nothing is copied at all.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from triggers.handler.blob import NPY_MAGIC, array
from triggers.handler.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DeviceCache", "find_device", "gpu", "host"]

HOST_BYTES_MAX = 1 << 30
"""Of cached views where there is no GPU; they pin the files' memory."""

DEVICE_SHARE = 0.5
"""Of a GPU's memory; the rest is for what handlers compute."""

ZIP_MAGIC = b"PK\x03\x04"

Identity = tuple[int, int]
Key = tuple[str, Identity]


class _Kept:
    """One version's array, or arrays by name."""

    __slots__ = ("array", "is_old", "size_bytes", "users")

    def __init__(self, array: Any, size_bytes: int) -> None:
        self.array = array
        self.size_bytes = size_bytes
        self.users: set[str] = set()
        self.is_old = False  # another version of the path came after it


class DeviceCache:
    """Device arrays of files, least recently used first; `transfer` counts what was sent to the device."""

    def __init__(self, xp: Any, limit_bytes: int) -> None:
        """Cache arrays of the module `xp` (`numpy` or `cupy`)."""
        assert limit_bytes > 0
        self.xp = xp
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.hits = 0
        self.transfer = Transfer(xp)
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._newest: dict[str, Identity] = {}

    @property
    def moved_bytes(self) -> int:
        """Sent to the device so far."""
        return self.transfer.moved_bytes

    @property
    def identities(self) -> list[Identity]:
        """Of all that is here."""
        return [identity for _, identity in self._kept]

    def holds(self, path: str) -> Identity | None:
        """The identity of the newest content that is here under a path."""
        return self._newest.get(path)

    def get(
        self, path: str, identity: Identity, read: Callable[[], memoryview], user: str = ""
    ) -> Any:
        """The array, or for a `.npz` the arrays by name, of a file's content.

        Args:
            path: of the file.
            identity: of its content; one met later counts as newer.
            read: called if it is not here.
            user: who keeps it here until `release`, also when a newer one comes; empty: nobody.

        Raises:
            ValueError: it cannot be on a device.
            xp.cuda.memory.OutOfMemoryError: there is no room, with nothing else kept.
        """
        kept = self._kept.get((path, identity))
        if kept is not None:
            self._kept.move_to_end((path, identity))
            self.hits += 1
        else:
            kept = self._load(path, identity, read())
        if user:
            kept.users.add(user)
        return kept.array

    def release(self, user: str) -> None:
        """A user has ended: older versions that nobody else uses go."""
        for key, kept in list(self._kept.items()):
            kept.users.discard(user)
            if kept.is_old and not kept.users:
                self._drop(key)

    def _load(self, path: str, identity: Identity, data: memoryview) -> _Kept:
        self._supersede(path)
        host = arrays(data)
        size_bytes = sum(a.nbytes for a in host.values()) if isinstance(host, dict) else host.nbytes
        while self._kept and self.size_bytes + size_bytes > self.limit_bytes:
            self._drop_one()
        kept = _Kept(self._move(host), size_bytes)
        if size_bytes <= self.limit_bytes:  # larger than everything: used once, not kept
            self._kept[path, identity] = kept
            self._newest[path] = identity
            self.size_bytes += size_bytes
        return kept

    def _supersede(self, path: str) -> None:
        for key, kept in list(self._kept.items()):
            if key[0] == path:
                kept.is_old = True
                if not kept.users:
                    self._drop(key)

    def _drop_one(self) -> None:
        """Make room: by what nobody uses, if there is such, since only that gives memory back."""
        unused = (key for key, kept in self._kept.items() if not kept.users)
        self._drop(next(unused, next(iter(self._kept))))

    def _drop(self, key: Key) -> None:
        self.size_bytes -= self._kept.pop(key).size_bytes
        if self._newest.get(key[0]) == key[1]:
            del self._newest[key[0]]

    def _move(self, host: Any) -> Any:
        move = self.transfer.move
        if self.xp.__name__ == "numpy":
            return host
        while True:
            try:
                if isinstance(host, dict):
                    return {name: move(one) for name, one in host.items()}
                return move(host)
            except self.xp.cuda.memory.OutOfMemoryError:
                if not self._kept:
                    raise
                self._drop_one()  # others' arrays are only a cache
                self.xp.get_default_memory_pool().free_all_blocks()


def find_device() -> DeviceCache:
    """A cache on this machine's GPU if CuPy is installed and finds one, else on NumPy."""
    return gpu() or host()


def gpu() -> DeviceCache | None:
    """A cache on this machine's GPU; None without CuPy, a driver or a device."""
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            _, total_bytes = cupy.cuda.runtime.memGetInfo()
            return DeviceCache(cupy, int(total_bytes * DEVICE_SHARE))
    except Exception:  # each of the three has its own exception
        pass
    return None


def host() -> DeviceCache:
    """A cache in main memory, of NumPy's arrays."""
    import numpy

    return DeviceCache(numpy, HOST_BYTES_MAX)


def arrays(data: memoryview) -> Any:
    """What a file holds: the array of a `.npy`, the arrays by name of a `.npz`, else its bytes."""
    head = bytes(data[:6])
    if not head.startswith(ZIP_MAGIC) or head == NPY_MAGIC:
        return array(data)
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
