"""Payload bytes this process has read or written lately, in bounded memory. They never change, so nothing is ever stale."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["Payloads"]


class Payloads:
    """Ranges of payloads by (shard, address), the least recently used forgotten first. From any thread."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[tuple[int, int], dict[tuple[int, int], memoryview]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shard: int, address: int, offset: int, length: int) -> memoryview | None:
        """Bytes [offset, offset + length) of a payload, if a range that has them is kept."""
        key = (shard, address)
        with self._lock:
            ranges = self._kept.get(key)
            if ranges is not None:
                for (start, size), data in ranges.items():
                    if start <= offset and offset + length <= start + size:
                        self._kept.move_to_end(key)
                        self.hits += 1
                        return data[offset - start : offset - start + length]
            self.misses += 1
            return None

    def forget(self, shard: int) -> None:
        """A shard begins again: nobody asks for what was."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == shard]:
                self.bytes -= sum(map(len, self._kept.pop(key).values()))

    def status(self) -> dict[str, int]:
        """Figures, JSON-able."""
        return {"cached_bytes": self.bytes, "cache_hits": self.hits, "cache_misses": self.misses}

    def put(self, shard: int, address: int, offset: int, data: bytes | memoryview) -> None:
        """Keep a range; it is referred to, not copied, and must not change."""
        view = memoryview(data)
        if len(view) > self.bytes_max:
            return
        with self._lock:
            ranges = self._kept.setdefault((shard, address), {})
            self.bytes += 0 if (offset, len(view)) in ranges else len(view)
            ranges[offset, len(view)] = view
            self._kept.move_to_end((shard, address))
            while self.bytes > self.bytes_max:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= sum(map(len, dropped.values()))
