"""A face's end of the line in a process without replicas: `storage.sequencer.Sequencer` over the link.

Two threads meet here under one lock that nobody holds while waiting for anything else: the face's, which submits and takes, and
the link's, which sends what was submitted and brings what was committed. What has come and is not taken yet is bounded by the
window of the subscription (`wire.WINDOW_BYTES`); what was submitted, by the face.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from storage.sequencer import START, TAKEN_MAX, Astray, Place, Rejected, Sequenced, Unavailable
from storage.wire import RECORD_BYTES, WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage import wire
    from storage.codec import Buffer
    from storage.link.payloads import Payloads
    from storage.snapshot import Snapshot

__all__ = ["RemoteLine", "Submission"]


class Submission:
    """What was submitted and has not come by."""

    __slots__ = ("after", "metadata", "number", "payload")

    def __init__(self, number: int, metadata: bytes, payload: bytes, after: int) -> None:
        self.number = number
        self.metadata = metadata
        self.payload = payload
        self.after = after


class RemoteLine:
    """See the module and `Sequencer`. Made by `Link.line`.

    Attributes:
        outstanding: Submissions that have not come by, by number, ascending.
        received: The last record that came from a node, taken or not: where a subscription goes on.
        taken_index: The last record the face has taken.
        wanted_frontier: What was asked for last.
    """

    def __init__(
        self,
        shard: int,
        identity: int,
        client: int,
        payloads: Payloads,
        *,
        kick: Callable[[RemoteLine], None],
        fetch: Callable[[RemoteLine, int, int, int], memoryview],
        ask_index: Callable[[RemoteLine], int],
        fetch_snapshot: Callable[[RemoteLine], Snapshot],
        new_client: Callable[[], int],
    ) -> None:
        """Made by a link.

        Args:
            shard: whose line.
            identity: of the shard's log.
            client: this face's, never used before.
            payloads: what is kept of payloads.
            kick: have the link look at this line; any thread.
            ask_index: what everything committed before the call is at or below, waiting for a leader to say so; likewise.
            fetch: (line, address, offset, length) -> bytes from a member, waiting for them; not called by the link's thread.
            fetch_snapshot: the rows of a volatile shard from a member, likewise.
            new_client: another number for a face, never used before.
        """
        self.shard = shard
        self.identity = identity
        self.client = client
        self.log = None  # No replica is here.
        self.on_more: Callable[[], None] | None = None
        self.outstanding: dict[int, Submission] = {}
        self.received: Place = START
        self.taken_index = 0
        self.wanted_frontier = 0
        self.wanted_durable = 0
        self.generation = 0
        """Counts up when the face follows anew: what was subscribed to before is of no use."""
        self._payloads = payloads
        self._kick = kick
        self._fetch = fetch
        self._ask_index = ask_index
        self._fetch_snapshot = fetch_snapshot
        self._new_client = new_client
        self._news = threading.Condition()
        self._queue: deque[Sequenced] = deque()
        self._taken_bytes = 0  # Since the link was last told.
        self._frontier = (0, 0)
        self._committed = 0
        self._heard = False
        self._astray: str | None = None
        self._rejected: Rejected | None = None
        self._closed: str | None = None

    # --- the link's thread ---

    def receive(self, generation: int, message: wire.Records) -> bool:
        """Records came for a subscription; False if they do not go on where the last ended."""
        with self._news:
            if generation != self.generation:
                return True
            for one in message.records:
                if one.index <= self.received.index:
                    continue
                if one.index != self.received.index + 1:
                    return False
                self.received = Place(one.index, one.address, one.checksum)
                self._queue.append(one)
                if one.client == self.client:
                    self._came_by(one.number, one.address)
            self._frontier = max(self._frontier, (message.frontier, message.frontier_index))
            self._committed = max(self._committed, message.durable, self.received.index)
            self._heard = True
            self._news.notify_all()
        if self.on_more is not None:
            self.on_more()
        return True

    def _came_by(self, number: int, address: int) -> None:
        submission = self.outstanding.pop(number, None)
        if submission is not None and submission.payload:
            self._payloads.put(self.shard, address, 0, submission.payload)

    def reject(self, number: int, error_number: int, why: str) -> None:
        """The leader cannot take a submission, nor those behind it. Nothing is sent until the face knows.

        Only payloads are too much. One without was submitted in the place of one that was given up, and this is about that.
        """
        with self._news:
            submission = self.outstanding.get(number)
            if submission is not None and submission.payload:
                self._rejected = Rejected(error_number, why, number)
                self._news.notify_all()
        if self.on_more is not None:
            self.on_more()

    def lose_track(self, generation: int, why: str) -> None:
        """The place followed from is not on the shard's log."""
        with self._news:
            if generation != self.generation:
                return
            self._astray = why
            self._news.notify_all()
        if self.on_more is not None:
            self.on_more()

    def unsent(self, sent: int) -> list[Submission]:
        """What is to be handed to the leader, behind a number."""
        with self._news:
            if self._rejected is not None:
                return []
            return [one for one in self.outstanding.values() if one.number > sent]

    # --- the face ---

    def follow(self, place: Place) -> None:
        """See `Sequencer`."""
        with self._news:
            self.generation += 1
            self._queue.clear()
            self._astray = None
            self.received = place
            self.taken_index = place.index
        self._kick(self)

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
        # Copied: it may be sent again when the caller has long let go of it, and is read from here afterwards.
        submission = Submission(number, metadata, b"".join(payload), after)
        with self._news:
            if self._closed is not None:
                raise Unavailable(self._closed)
            self.outstanding[number] = submission
        if not more:
            self._kick(self)

    def take(self, timeout_s: float) -> list[Sequenced]:
        """See `Sequencer`."""
        with self._news:
            if not self._queue and timeout_s > 0:
                self._news.wait_for(self._has_news, timeout_s)
            if not self._queue:
                self._raise_trouble()
                return []
            count = min(len(self._queue), TAKEN_MAX)
            taken = [self._queue.popleft() for _ in range(count)]
            self.taken_index = taken[-1].index
            self._taken_bytes += sum(len(one.metadata) + RECORD_BYTES for one in taken)
            tells = self._taken_bytes >= WINDOW_BYTES // 4
            if tells:
                self._taken_bytes = 0
        if tells:
            self._kick(self)
        return taken

    def wait_more(self, index: int, timeout_s: float) -> None:
        """See `Sequencer`."""
        with self._news:
            self._news.wait_for(lambda: self.received.index > index or self._has_news(), timeout_s)

    def _has_news(self) -> bool:
        trouble = self._astray or self._rejected or self._closed
        return bool(self._queue) or trouble is not None

    def _raise_trouble(self) -> None:
        """What there is to say once everything in front of it was taken."""
        if self._astray is not None:
            raise Astray(self._astray)
        if self._rejected is not None:
            rejected, self._rejected = self._rejected, None
            for number in [n for n in self.outstanding if n >= rejected.number]:
                del self.outstanding[number]
            raise rejected
        if self._closed is not None:
            raise Unavailable(self._closed)

    def has_heard(self) -> bool:
        """Whether a node has told, since the line was made, how far the shard is."""
        return self._heard

    def frontier(self) -> tuple[int, int]:
        """See `Sequencer`."""
        return self._frontier

    def ask_frontier(self, timestamp: int) -> None:
        """See `Sequencer`."""
        self.wanted_frontier = max(self.wanted_frontier, timestamp)
        self._kick(self)

    def last_index(self) -> int:
        """See `Sequencer`. Where the place followed from is none there is more, too: `take` says so."""
        return self._committed + (self._astray is not None)

    def durable_index(self) -> int:
        """See `Sequencer`: a record commits when every member has it as safely as the pool asks for."""
        return self._committed

    def wait_durable(self, index: int, timeout_s: float) -> bool:
        """See `Sequencer`."""
        self.wanted_durable = max(self.wanted_durable, index)
        self._kick(self)
        with self._news:
            self._news.wait_for(
                lambda: self._committed >= index or self._closed is not None, timeout_s
            )
            if self._committed < index and self._closed is not None:
                raise Unavailable(self._closed)
            return self._committed >= index

    def certain_index(self) -> int:
        """See `Sequencer`."""
        if self._closed is not None:
            raise Unavailable(self._closed)
        return self._ask_index(self)

    def read(self, address: int, offset: int, length: int) -> memoryview:
        """See `Sequencer`."""
        kept = self._payloads.get(self.shard, address, offset, length)
        if kept is not None:
            return kept
        if self._closed is not None:
            raise Unavailable(self._closed)
        found = self._fetch(self, address, offset, length)
        self._payloads.put(self.shard, address, offset, found)
        return found

    def begin_anew(self) -> Snapshot:
        """See `Sequencer`."""
        if self._closed is not None:
            raise Unavailable(self._closed)
        snapshot = self._fetch_snapshot(self)
        with self._news:
            self.outstanding.clear()
            self._rejected = None
            self.client = self._new_client()
        self._payloads.forget(self.shard)
        return snapshot

    @property
    def closed(self) -> str | None:
        """Why, once it is."""
        return self._closed

    def close(self, why: str = "the cluster does not answer, and nobody waits any more") -> None:
        """See `Sequencer`."""
        with self._news:
            if self._closed is None:
                self._closed = why
            self._news.notify_all()
