"""An order in memory, shared by any number of faces in this process: what a cluster is to them, without one.

`Order` is one shard's log with a leader in front: it filters proposals as a leader does (the client's next number, no
other) and can be told to behave as a cluster in trouble: `pause` (no leader; what is submitted waits), `repeat` (every
proposal arrives twice, also behind the filter), `delay` (what is committed comes by later, one `take` at a time), and to let others'
records in between (`meanwhile`). Everything is "durable" at once.

Threads: any. Passes the tests of the contract that the sequencers of nodes and mounts pass.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from storage.clock import HybridClock
from storage.errors import Corruption
from storage.sequencer import START, TAKEN_MAX, Astray, Place, Rejected, Sequenced, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.clock import Clock
    from storage.codec import Buffer
    from storage.snapshot import Snapshot

__all__ = ["LoopbackSequencer", "Order"]

AHEAD_US = 1_000_000
"""How far ahead of its own clock a leader goes to promise what is asked for: clocks differ."""

_ADDRESS_FIRST = 4096
_ADDRESS_STEP = 64


class Order:
    """One shard's committed records, and who would like to add some."""

    def __init__(self, shard: int, clock: Clock) -> None:
        self.shard = shard
        self.identity = 0x100 + shard
        self.records: list[Sequenced] = []
        self.payloads: dict[int, bytes] = {}
        self.delay = False
        """Each `take` answers one record at most."""
        self.repeats = False
        """Every proposal arrives twice, and the filter lets both through."""
        self.meanwhile: Callable[[], None] | None = None
        """Called in front of the next proposal that arrives, once: what it appends comes before that one."""
        self.is_paused = False
        self.is_full = False
        """The leader takes no payloads: what arrives with one is rejected."""
        self._clock = clock
        self._hybrid = HybridClock()
        self._last: dict[int, int] = {}
        self._frontier = (0, 0)
        self._faces: list[LoopbackSequencer] = []
        self._changed = threading.Condition(threading.RLock())

    def sequencer(self, client: int) -> LoopbackSequencer:
        """One more face's end; `client` is of that face alone."""
        with self._changed:
            made = LoopbackSequencer(self, client)
            self._faces.append(made)
            return made

    def append(
        self, metadata: bytes, payload: Sequence[Buffer] = (), client: int = 0, number: int = 0
    ) -> Sequenced:
        """Commit a record, whoever's it is."""
        with self._changed:
            index = len(self.records) + 1
            address = _ADDRESS_FIRST + index * _ADDRESS_STEP
            timestamp = self._hybrid.tick(self._clock.now_ns())
            checksum = xxh3_64_intdigest(metadata, seed=address)
            one = Sequenced(index, timestamp, address, checksum, client, number, metadata)
            self.records.append(one)
            if payload:
                self.payloads[address] = b"".join(payload)
            self._tell()
            return one

    def pause(self) -> None:
        """There is no leader: nothing commits, no frontier rises."""
        with self._changed:
            self.is_paused = True

    def resume(self) -> None:
        """A new leader: what was submitted and not seen arrives again, the clients in turn."""
        with self._changed:
            self.is_paused = False
            self._changed.notify_all()
            self._arrive()

    def _arrive(self) -> None:
        """What faces have submitted reaches the leader; held by `_changed`."""
        if self.is_paused:
            return
        while waiting := [face for face in self._faces if face.pending]:
            for face in waiting:
                number, metadata, payload, after = face.pending.pop(0)
                if self.meanwhile is not None:
                    meanwhile, self.meanwhile = self.meanwhile, None
                    meanwhile()
                if number != self._last.get(face.client, 0) + 1:
                    continue
                if self.is_full and payload:
                    face.pending.clear()
                    face.rejected = Rejected(errno.ENOSPC, "the leader's disk is full", number)
                    self._tell()
                    continue
                self._hybrid.observe(after)
                self._last[face.client] = number
                for _ in range(2 if self.repeats else 1):
                    self.append(metadata, payload, face.client, number)

    def _promise(self, timestamp: int) -> None:
        reached = max(self._clock.now_ns() // 1000, self._hybrid.last_us)
        if not self.is_paused and timestamp <= reached + AHEAD_US:
            self._hybrid.observe(timestamp)
            self._frontier = (max(timestamp, self._frontier[0]), len(self.records))
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        for face in self._faces:
            if face.on_more is not None:
                face.on_more()


class LoopbackSequencer:
    """`Sequencer` over an `Order`; made by it."""

    def __init__(self, order: Order, client: int) -> None:
        assert client
        self.client = client
        self.shard = order.shard
        self.identity = order.identity
        self.log = None
        self.on_more: Callable[[], None] | None = None
        self.pending: list[tuple[int, bytes, tuple[bytes, ...], int]] = []
        self.rejected: Rejected | None = None
        self._order = order
        self._changed = order._changed
        self._place: Place = START
        self._is_closed = False

    def follow(self, place: Place) -> None:
        """See `Sequencer`."""
        with self._changed:
            self._place = place

    def submit(
        self,
        number: int,
        metadata: bytes,
        payload: Sequence[Buffer],
        after: int = 0,
        *,
        more: bool = False,
    ) -> None:
        """See `Sequencer`."""
        with self._changed:
            if self._is_closed:
                raise Unavailable("the order was closed")
            whole = tuple(bytes(part) for part in payload)
            self.pending.append((number, metadata, whole, after))
            if not more:
                self._order._arrive()

    def take(self, timeout_s: float) -> list[Sequenced]:
        """See `Sequencer`."""
        with self._changed:
            records = self._order.records
            at = self._place.index
            if at and (at > len(records) or records[at - 1].checksum != self._place.checksum):
                raise Astray(f"record {at} is another")
            self._changed.wait_for(
                lambda: len(records) > at or self._is_closed or self.rejected is not None, timeout_s
            )
            if self.rejected is not None:
                rejected, self.rejected = self.rejected, None
                raise rejected
            taken = records[at : at + (1 if self._order.delay else TAKEN_MAX)]
            if not taken and self._is_closed:
                raise Unavailable("the order was closed")
            if taken:
                last = taken[-1]
                self._place = Place(last.index, last.address, last.checksum)
            return taken

    def wait_more(self, index: int, timeout_s: float) -> None:
        """See `Sequencer`."""
        with self._changed:
            self._changed.wait_for(lambda: self._place.index > index or self._has_news(), timeout_s)

    def _has_news(self) -> bool:
        is_behind = len(self._order.records) > self._place.index
        return is_behind or self._is_closed or self.rejected is not None

    def frontier(self) -> tuple[int, int]:
        """See `Sequencer`."""
        return self._order._frontier

    def ask_frontier(self, timestamp: int) -> None:
        """See `Sequencer`."""
        with self._changed:
            self._order._promise(timestamp)

    def last_index(self) -> int:
        """See `Sequencer`."""
        return len(self._order.records)

    def certain_index(self) -> int:
        """See `Sequencer`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._order.is_paused or self._is_closed)
            if self._is_closed:
                raise Unavailable("the order was closed")
            return len(self._order.records)

    def durable_index(self) -> int:
        """See `Sequencer`."""
        return len(self._order.records)

    def wait_durable(self, index: int, timeout_s: float) -> bool:
        """See `Sequencer`."""
        with self._changed:
            if self._is_closed:
                raise Unavailable("the order was closed")
            return self._changed.wait_for(lambda: self.durable_index() >= index, timeout_s)

    def read(self, address: int, offset: int, length: int) -> memoryview:
        """See `Sequencer`."""
        payload = self._order.payloads.get(address, b"")
        if offset + length > len(payload):
            raise Corruption(f"shard {self.shard}: nothing was stored at {address}")
        return memoryview(payload)[offset : offset + length]

    def begin_anew(self) -> Snapshot:
        """See `Sequencer`."""
        raise AssertionError("nothing is volatile here")

    def close(self) -> None:
        """See `Sequencer`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
