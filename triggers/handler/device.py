"""Arrays where the numbers are crunched: on a GPU by CuPy, or NumPy's own where there is none.

A cache by (path, identity of the content): a second use of the same version moves no byte, a new version replaces the
old, and whoever still uses the old one keeps it alive. Bounded in bytes; the least recently used goes first. One per
process, made after the fork, since a CUDA context does not survive one.

On a machine without GPU the array is a read-only view of the file's own memory: nothing is copied at all.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from triggers.handler.blob import NPY_MAGIC, array

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DeviceCache", "find_device"]

HOST_BYTES_MAX = 1 << 30
"""Of cached views where there is no GPU; they pin the files' memory."""

DEVICE_SHARE = 0.5
"""Of a GPU's memory; the rest is for what handlers compute."""

ZIP_MAGIC = b"PK\x03\x04"


class DeviceCache:
    """Device arrays of files, least recently used first; `moved_bytes` counts what was sent to the device."""

    def __init__(self, xp: Any, limit_bytes: int) -> None:
        """Cache arrays of the module `xp` (`numpy` or `cupy`)."""
        assert limit_bytes > 0
        self.xp = xp
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.moved_bytes = 0
        self.hits = 0
        self._kept: OrderedDict[str, tuple[tuple[int, int], Any, int]] = OrderedDict()

    def holds(self, path: str) -> tuple[int, int] | None:
        """The identity of the content that is here under a path."""
        kept = self._kept.get(path)
        return None if kept is None else kept[0]

    @property
    def identities(self) -> list[tuple[int, int]]:
        """The contents that are here."""
        return [identity for identity, _, _ in self._kept.values()]

    def get(self, path: str, identity: tuple[int, int], read: Callable[[], memoryview]) -> Any:
        """The array, or for a `.npz` the arrays by name, of a file's content; `read` is called if it is not here."""
        kept = self._kept.get(path)
        if kept is not None and kept[0] == identity:
            self._kept.move_to_end(path)
            self.hits += 1
            return kept[1]
        if kept is not None:
            self._drop(path)
        host = arrays(read())
        size_bytes = sum(a.nbytes for a in host.values()) if isinstance(host, dict) else host.nbytes
        self._make_room(size_bytes)
        moved = self._move(host)
        if size_bytes <= self.limit_bytes:  # larger than everything: used once, not kept
            self._kept[path] = (identity, moved, size_bytes)
            self.size_bytes += size_bytes
        return moved

    def _make_room(self, size_bytes: int) -> None:
        while self._kept and self.size_bytes + size_bytes > self.limit_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, path: str) -> None:
        self.size_bytes -= self._kept.pop(path)[2]

    def _move(self, host: Any) -> Any:
        if self.xp.__name__ == "numpy":
            return host
        while True:
            try:
                if isinstance(host, dict):
                    moved: Any = {name: self.xp.asarray(one) for name, one in host.items()}
                else:
                    moved = self.xp.asarray(host)
            except self.xp.cuda.memory.OutOfMemoryError:
                if not self._kept:
                    raise
                self._drop(next(iter(self._kept)))  # others' arrays are only a cache
                self.xp.get_default_memory_pool().free_all_blocks()
                continue
            self.moved_bytes += (
                sum(one.nbytes for one in host.values()) if isinstance(host, dict) else host.nbytes
            )
            return moved


def find_device() -> DeviceCache:
    """A cache on this machine's GPU if CuPy is installed and finds one, else on NumPy."""
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            _, total_bytes = cupy.cuda.runtime.memGetInfo()
            return DeviceCache(cupy, int(total_bytes * DEVICE_SHARE))
    except Exception:  # no CuPy, no driver, no device: each has its own exception, all mean NumPy
        pass
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
