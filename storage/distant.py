"""The log of a shard that lies elsewhere: payloads through a sequencer, and nothing kept here.

The same calls as `storage.log.Log` where a shard needs them to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from storage.errors import Corruption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from storage.codec import Buffer
    from storage.log import Frame, Log
    from storage.sequencer import Sequencer

__all__ = ["DistantLog"]


class DistantLog:
    """See the module. Not to be appended to, and followed by the sequencer's `take` alone."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self.read = sequencer.read
        self.shard = sequencer.shard
        self.identity = sequencer.identity
        self.syncs = 0
        self.end_address = 0
        self.taken_bytes = 0
        self.last_timestamp = 0
        self.last_checksum = 0

    @property
    def near(self) -> Log | None:
        """The log itself, where a replica is in this process; another one after the replica began anew.

        None, too, where it is volatile: it keeps no past that could be asked for.
        """
        log = self._sequencer.log
        return cast("Log", log) if log is not None and not log.is_volatile else None

    @property
    def last_index(self) -> int:
        """The last record heard of."""
        return self._sequencer.last_index()

    @property
    def durable_index(self) -> int:
        """Up to where the shard's members have everything on their disks."""
        return self._sequencer.durable_index()

    def append(
        self, kind: int, timestamp: int, metadata: bytes, payload: Sequence[Buffer] = ()
    ) -> int:
        """Never: records are ordered elsewhere."""
        raise AssertionError("a distant log is not appended to")

    def frames(self, address: int | None = None, index: int = 1) -> Iterator[Frame]:
        """No records are kept here."""
        del address, index
        return iter(())

    def frame(self, address: int) -> Frame:
        """None is kept here."""
        raise Corruption(f"the record at {address} is on the nodes of the shard, not here")

    def sync(self) -> int:
        """Nothing here waits for a disk."""
        return self.durable_index

    def close(self) -> None:
        """The sequencer is whose it was."""
