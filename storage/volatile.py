"""The log of a volatile pool: payloads in memory while somebody refers to them, nothing else kept.

The same calls as `storage.log.Log` where a shard needs them. Memory is bounded by live data: the namespace counts
references to each frame and `release` drops a payload when the last one goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from storage.log import Frame

__all__ = ["VolatileLog"]


class VolatileLog:
    """See the module. Everything is "durable" at once, as far as a volatile pool can promise that."""

    def __init__(self) -> None:
        self._payloads: dict[int, bytes] = {}
        self.last_index = 0
        self.last_timestamp = 0
        self.last_checksum = 0
        self.syncs = 0
        self.end_address = 8
        self.payload_bytes = 0

    @property
    def durable_index(self) -> int:
        """Nothing to wait for."""
        return self.last_index

    @property
    def taken_bytes(self) -> int:
        """As `Log.taken_bytes`, in memory."""
        return self.payload_bytes

    def append(
        self, kind: int, timestamp: int, metadata: bytes, payload: Sequence[bytes | memoryview] = ()
    ) -> int:
        """As `Log.append`; the address is never used twice."""
        del kind, metadata
        address = self.end_address
        self.end_address += 8
        self.last_index += 1
        self.last_timestamp = timestamp
        if payload:
            kept = b"".join(payload)
            self._payloads[address] = kept
            self.payload_bytes += len(kept)
        return address

    def read(self, address: int, offset: int, length: int) -> memoryview:
        """As `Log.read`."""
        return memoryview(self._payloads[address])[offset : offset + length]

    def release(self, addresses: Iterable[int]) -> None:
        """Forget payloads nobody refers to any more."""
        for address in addresses:
            dropped = self._payloads.pop(address, b"")
            self.payload_bytes -= len(dropped)

    def frames(self, address: int | None = None, index: int = 1) -> Iterator[Frame]:
        """A volatile log has no past."""
        del address, index
        return iter(())

    def sync(self) -> int:
        """As `Log.sync`, with nothing to do."""
        return self.last_index

    def close(self) -> None:
        """Forget everything."""
        self._payloads.clear()
