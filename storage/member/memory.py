"""The log of a replica of a volatile shard: in memory, and without a beginning.

The calls of `storage.log.Log` where a `Member` and who follows it need them. Frames stand at addresses as if they were in a file,
the same on every member. Two things are let go that a log keeps: heads (`trim`), once every member has applied them, so the log begins
behind an index, its *base*; and payloads (`release`) that no content shows any more. So it takes what lives, and some newest heads.

Threads: the network's appends, cuts and trims; the face's releases; any thread reads, by single look-ups in dictionaries.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.codec import HEAD_BYTES, checksum, encode_head, frame_bytes
from storage.errors import Corruption
from storage.limits import SEGMENT_BYTES
from storage.log import Frame
from storage.sequencer import Place
from storage.snapshot import LIFE_ADDRESSES, LIFE_INDICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from storage.codec import Buffer
    from storage.snapshot import Snapshot

__all__ = ["Found", "MemoryLog"]

FIRST_ADDRESS: Final = 1024

HEAD_OVERHEAD_BYTES: Final = 400
"""What the head of a frame takes beside its metadata: a tuple, its numbers, two entries of dictionaries."""

LIVES: Final = 2**64 // LIFE_ADDRESSES - 1

_CHECKSUM: Final = struct.Struct("<Q")


class Found(NamedTuple):
    """As `storage.log.Recovery`: in memory there was nothing to find."""

    durable_lost: int = 0
    broken: bool = False
    resumed: bool = False
    sentences: tuple[str, ...] = ()


class MemoryLog:
    """See the module. `begin` or `install` makes one.

    Attributes:
        base: The place of the last record that is let go; all in front of it are, too.
    """

    is_volatile: Final = True

    def __init__(
        self, identity: int, shard: int, base: Place, timestamp: int, lineage: list[tuple[int, int]]
    ) -> None:
        self.identity = identity
        self.shard = shard
        self.base = base
        self.recovery = Found()
        self.segment_bytes = SEGMENT_BYTES
        self.syncs = 0
        self.epoch = lineage[-1][1] if lineage else 0
        self.left_out: set[int] = set()
        self.last_index = base.index
        self.last_address = base.address
        self.last_checksum = base.checksum
        self.last_timestamp = timestamp
        self.end_address = base.address + 8 if base.address else FIRST_ADDRESS
        self.durable_index = base.index
        self.held_until_ns = 0
        """Until then nothing is trimmed: somebody was given a snapshot and will ask for what is behind it."""
        self._runs = list(lineage)
        self._frames: dict[int, Frame] = {}
        self._indices: dict[int, int] = {}
        self._payloads: dict[int, bytes] = {}
        self._heads_bytes = 0
        # Of the network's thread, and of the face's: neither waits for the other to count.
        self._added_bytes = 0
        self._released_bytes = 0

    @classmethod
    def begin(cls, identity: int, shard: int) -> MemoryLog:
        """An empty log of the first life."""
        return cls(identity, shard, Place(0, 0, 0), 0, [])

    @classmethod
    def begin_life(cls, identity: int, shard: int, epoch: int) -> MemoryLog:
        """An empty log of a life that an epoch begins by force: everything was lost before.

        Whatever was known of earlier lives lies in front of it, and its lineage has nothing in common with theirs.
        """
        # Indices say which life it is; addresses, 64 bits, are those of another life again after a great many.
        base = Place(epoch * LIFE_INDICES, ((epoch - 1) % LIVES + 1) * LIFE_ADDRESSES, 0)
        return cls(identity, shard, base, 0, [(base.index, epoch - 1)])

    @classmethod
    def install(cls, identity: int, shard: int, snapshot: Snapshot) -> MemoryLog:
        """The log behind a snapshot, with the payloads of what is in front."""
        log = cls(
            identity,
            shard,
            snapshot.place,
            snapshot.timestamp,
            [run for run in snapshot.lineage if run[0] <= snapshot.place.index],
        )
        log._payloads = dict(snapshot.payloads)
        log._added_bytes = sum(map(len, log._payloads.values()))
        return log

    # --- figures ---

    @property
    def base_index(self) -> int:
        """Records up to this one are let go."""
        return self.base.index

    @property
    def payload_bytes(self) -> int:
        """Of all payloads held."""
        return self._added_bytes - self._released_bytes

    @property
    def taken_bytes(self) -> int:
        """Memory that is held, about."""
        return self.payload_bytes + self._heads_bytes

    @property
    def heads_count(self) -> int:
        """Records whose heads are held."""
        return len(self._frames)

    @property
    def first_address(self) -> int:
        """Where the first record is that is not let go, or will be."""
        frame = self._frames.get(self.base.index + 1)
        return self.end_address if frame is None else frame.address

    # --- writing, in the network's thread ---

    def append(
        self, kind: int, timestamp: int, metadata: bytes, payload: Sequence[Buffer] = ()
    ) -> int:
        """As `Log.append`."""
        data = b"".join(payload)
        return self._put(kind, timestamp, metadata, data, self.end_address)

    def adopt(self, frame: Frame, payload: Sequence[Buffer] | None) -> None:
        """As `Log.adopt`; a payload that was let go elsewhere is so here."""
        if frame.index != self.last_index + 1:
            raise self._corruption(
                frame.address, f"record {frame.index} does not follow record {self.last_index}"
            )
        if frame.address < self.end_address or frame.address % 8:
            raise self._corruption(
                frame.address,
                f"record {frame.index} cannot stand here: the log ends at {self.end_address}",
            )
        self.epoch = frame.epoch
        data = None if payload is None else b"".join(payload)
        self._put(
            frame.kind,
            frame.timestamp,
            frame.metadata,
            data,
            frame.address,
            (frame.payload_length, frame.payload_checksum),
        )
        if self.last_checksum != frame.checksum:
            self.truncate_after(frame.index - 1)
            raise self._corruption(
                frame.address, f"record {frame.index} arrived as something else than it says it is"
            )

    def _put(
        self,
        kind: int,
        timestamp: int,
        metadata: bytes,
        data: bytes | None,
        address: int,
        left_out: tuple[int, int] = (0, 0),
    ) -> int:
        length, summed = left_out if data is None else (len(data), checksum(data))
        index = self.last_index + 1
        head = encode_head(
            kind,
            self.shard,
            self.epoch,
            index,
            timestamp,
            metadata,
            length,
            summed,
            identity=self.identity,
            address=address,
        )
        (sealed,) = _CHECKSUM.unpack_from(head, HEAD_BYTES - _CHECKSUM.size)
        if data:
            self._payloads[address] = data
            self._added_bytes += length
        if not self._runs or self._runs[-1][1] != self.epoch:
            self._runs.append((index, self.epoch))
        self._frames[index] = Frame(
            kind, self.epoch, index, timestamp, metadata, length, address, summed, sealed
        )
        self._indices[address] = index
        self._heads_bytes += len(metadata) + HEAD_OVERHEAD_BYTES
        self.end_address = address + frame_bytes(len(metadata), length)
        self.last_timestamp, self.last_address, self.last_checksum = timestamp, address, sealed
        self.last_index = index
        return address

    def truncate_after(self, index: int) -> None:
        """As `Log.truncate_after`; never in front of the base, which is committed."""
        assert self.base.index <= index <= self.last_index
        for behind in range(self.last_index, index, -1):
            frame = self._drop_head(behind)
            self._added_bytes -= len(self._payloads.pop(frame.address, b""))
            self.end_address = frame.address
        while self._runs and self._runs[-1][0] > index:
            self._runs.pop()
        last = self._frames.get(index)
        self.last_index = index
        self.durable_index = min(self.durable_index, index)
        if last is None:
            self.last_address, self.last_checksum = self.base.address, self.base.checksum
        else:
            self.last_address, self.last_checksum = last.address, last.checksum
            self.last_timestamp = last.timestamp

    def trim(self, index: int) -> None:
        """Let go of the heads up to a record that every member has, and the face here has applied."""
        index = min(index, self.last_index)
        if index <= self.base.index:
            return
        last = self._frames[index]
        for old in range(self.base.index + 1, index + 1):
            self._drop_head(old)
        self.base = Place(last.index, last.address, last.checksum)
        while len(self._runs) > 1 and self._runs[1][0] <= index and len(self._runs) > RUNS_MAX:
            del self._runs[0]

    def _drop_head(self, index: int) -> Frame:
        frame = self._frames.pop(index)
        del self._indices[frame.address]
        self._heads_bytes -= len(frame.metadata) + HEAD_OVERHEAD_BYTES
        return frame

    def sync(self) -> int:
        """As `Log.sync`, with nothing to wait for."""
        self.durable_index = self.last_index
        return self.durable_index

    # --- letting payloads go, in the face's thread ---

    def holds(self, address: int) -> int:
        """How many bytes of payload are held of a record; 0 for none."""
        return len(self._payloads.get(address, b""))

    def held(self) -> list[tuple[int, bytes]]:
        """All payloads held, by address."""
        return list(self._payloads.items())

    def release(self, addresses: Iterable[int]) -> None:
        """Forget payloads that nobody asks for any more."""
        for address in addresses:
            self._released_bytes += len(self._payloads.pop(address, b""))

    # --- reading, in any thread ---

    def epochs(self) -> list[tuple[int, int]]:
        """As `Log.epochs`."""
        return list(self._runs)

    def read(self, address: int, offset: int, length: int) -> memoryview:
        """As `Log.read`.

        Raises:
            Corruption: its payload was let go, or there is no such record.
        """
        data = self._payloads.get(address)
        if data is None or offset + length > len(data):
            raise self._corruption(
                address, "its bytes were let go: a volatile pool keeps the newest"
            )
        return memoryview(data)[offset : offset + length]

    def frame(self, address: int) -> Frame:
        """As `Log.frame`; of the base all but its metadata is known."""
        index = self._indices.get(address)
        frame = self._frames.get(index) if index is not None else None
        if frame is not None:
            return frame
        base = self.base
        if address == base.address and base.index:
            return Frame(0, 0, base.index, 0, b"", 0, base.address, 0, base.checksum)
        raise self._corruption(address, "there is no such record (any more)")

    def frames(self, address: int | None = None, index: int = 1) -> Iterator[Frame]:
        """As `Log.frames`, from behind the base on at the earliest."""
        if address is not None and index == 1:
            index = self.frame(address).index
        index = max(index, self.base.index + 1)
        while index <= self.last_index:
            frame = self._frames.get(index)
            if frame is None:
                raise self._corruption(0, f"record {index} was let go")
            yield frame
            index += 1

    def next_address(self, frame: Frame) -> int:
        """As `Log.next_address`."""
        following = self._frames.get(frame.index + 1)
        return self.end_address if following is None else following.address

    def payload(self, frame: Frame) -> bytes | None:
        """As `Log.payload`; None if it was let go."""
        return self._payloads.get(frame.address) if frame.payload_length else b""

    def raw(self, address: int) -> bytes:
        """Never: nothing in memory is put back."""
        raise self._corruption(address, "a volatile shard keeps no frames to put back")

    def is_left_out(self, address: int) -> bool:
        """As `Log.is_left_out`."""
        return self.payload(self.frame(address)) is None

    def close(self) -> None:
        """Nothing to give back; what is held goes with the object."""

    def _corruption(self, address: int, what: str) -> Corruption:
        return Corruption(f"shard {self.shard}, address {address}: {what}")


RUNS_MAX: Final = 1024
"""Epochs whose beginnings are remembered."""
