"""A face's end of the line on a node that holds a replica: `storage.sequencer.Sequencer` over its `Member`.

Committed records are taken from the member's tail, or its log, by the face's own thread: the network's thread only
says how far it may go, and wakes who waits. Proposals go to the network's thread, which hands them to the leader, here
or elsewhere, and again after a change of leader or a silence, until they come by.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Final

from storage.errors import Corruption
from storage.member.tail import Cursor, Lost
from storage.sequencer import (
    START,
    TAKEN_MAX,
    Astray,
    Place,
    Rejected,
    Sequenced,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage import wire
    from storage.codec import Buffer
    from storage.log import Log
    from storage.member.member import Member
    from storage.member.memory import MemoryLog
    from storage.snapshot import Snapshot

__all__ = ["Line", "Submission"]

ASK_AGAIN_SECONDS: Final = 0.05
"""Between two questions to a leader that is not there yet."""

TAKEN_BYTES_MAX: Final = 4 * 1024 * 1024
"""Metadata that one `take` answers, but for a single larger record."""


class Submission:
    """What was submitted and has not come by."""

    __slots__ = ("after", "metadata", "number", "payload")

    def __init__(self, number: int, metadata: bytes, payload: Sequence[Buffer], after: int) -> None:
        self.number = number
        self.metadata = metadata
        self.payload = payload
        self.after = after


class Line:
    """See the module and `storage.sequencer.Sequencer`.

    Attributes:
        outstanding: Submissions that have not come by, by number, ascending. The face's thread adds and takes away; the
            network's thread reads.
    """

    def __init__(
        self,
        member: Member,
        client: int,
        kick: Callable[[Line], None],
        mend: Callable[[int], None],
        ask_index: Callable[[], int | None],
        new_client: Callable[[], int] = lambda: 1,
    ) -> None:
        """Made by a node; see there for the arguments.

        Args:
            member: the replica here.
            client: this face's, never used before.
            kick: have the network's thread look at `outstanding`; any thread.
            mend: put back the record at an address from another member and wait for it, or raise `Corruption`; not
                called by the network's thread.
            ask_index: what the leader has committed so far; None if nobody knows just now. Waits; not called by the
                network's thread.
            new_client: another number for a face, never used before.
        """
        self.shard = member.shard
        self.identity = member.log.identity
        self.client = client
        self.outstanding: dict[int, Submission] = {}
        self.on_more: Callable[[], None] | None = None
        self.sent = 0  # The network's: the last number handed to a leader.
        self.stuck = 0  # The network's: the first number outstanding when it last looked.
        self.rejected: Rejected | None = None
        self._member = member
        self._kick = kick
        self._mend = mend
        self._ask_index = ask_index
        self._new_client = new_client
        self._cursor = Cursor()
        self._unchecked = False
        self._closed = False
        self._news = threading.Condition()
        self._frontier = (0, 0)
        self._committed = 0

    @property
    def log(self) -> Log | MemoryLog:
        """See `Sequencer`; another one after the replica began anew."""
        return self._member.log

    # --- the network's thread ---

    def publish(self, committed: int, frontier: tuple[int, int]) -> None:
        """So far the shard has come."""
        with self._news:
            self._committed = max(self._committed, committed)
            self._frontier = max(self._frontier, frontier)
            self._news.notify_all()
        if self.on_more is not None:
            self.on_more()

    def reject(self, rejected: wire.Rejected) -> None:
        """The leader cannot take a submission, nor those behind it. Nothing more is sent until the face knows.

        Only payloads are too much. One without was submitted in the place of one that was given up, and this is about that.
        """
        with self._news:
            submission = self.outstanding.get(rejected.number)
            if submission is not None and submission.payload:
                self.rejected = Rejected(rejected.errno, rejected.why, rejected.number)
            self._news.notify_all()

    def unsent(self) -> list[Submission]:
        """What is to be handed to the leader now."""
        if self.rejected is not None:
            return []
        # One step of the interpreter: the face may add or take away meanwhile.
        return [it for it in list(self.outstanding.values()) if it.number > self.sent]

    # --- the face ---

    def follow(self, place: Place) -> None:
        """See `Sequencer`."""
        self._cursor = Cursor(place)
        self._unchecked = place != START

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
        if self._closed:
            raise Unavailable("the node is stopping")
        self.outstanding[number] = Submission(number, metadata, payload, after)
        if not more:
            self._kick(self)

    def take(self, timeout_s: float) -> list[Sequenced]:
        """See `Sequencer`."""
        found = self._taken()
        if found or timeout_s <= 0:
            return found
        with self._news:
            self._news.wait_for(self._has_news, timeout_s)
            if self._closed and not self._is_behind():
                raise Unavailable("the node is stopping")
        return self._taken()

    def wait_more(self, index: int, timeout_s: float) -> None:
        """See `Sequencer`."""
        with self._news:
            self._news.wait_for(
                lambda: self._cursor.place.index > index or self._has_news(), timeout_s
            )

    def _has_news(self) -> bool:
        return self._closed or self.rejected is not None or self._is_behind()

    def _is_behind(self) -> bool:
        return self._committed > self._cursor.place.index and self._is_reached()

    def _is_reached(self) -> bool:
        """Whether the log here has come to the place followed from; a log that is filled anew has not for a while."""
        return self._member.log.last_index >= self._cursor.place.index

    def _taken(self) -> list[Sequenced]:
        member, cursor = self._member, self._cursor
        if not self._is_behind():
            self._give_up()
            return []
        if self._unchecked:
            try:
                cursor.check(member.log)
            except Lost as error:
                raise Astray(str(error)) from error
            self._unchecked = False
        try:
            found = cursor.take(
                member.tail, member.log, self._committed, TAKEN_MAX, TAKEN_BYTES_MAX
            )
        except Lost as error:
            raise Astray(str(error)) from error
        except (Corruption, OSError):
            self._mend(cursor.next_address(member.log))
            found = cursor.take(
                member.tail, member.log, self._committed, TAKEN_MAX, TAKEN_BYTES_MAX
            )
        for record in found:
            if record.client == self.client:
                self.outstanding.pop(record.number, None)
        return found

    def _give_up(self) -> None:
        """Tell the face of a rejection, once everything before it was taken."""
        rejected = self.rejected
        if rejected is None:
            return
        for number in [n for n in self.outstanding if n >= rejected.number]:
            del self.outstanding[number]
        self.sent = rejected.number - 1
        self.rejected = None
        raise rejected

    def frontier(self) -> tuple[int, int]:
        """See `Sequencer`."""
        return self._frontier

    def ask_frontier(self, timestamp: int) -> None:
        """See `Sequencer`."""
        self._member.ask_frontier(timestamp)

    def last_index(self) -> int:
        """See `Sequencer`."""
        return self._committed

    def certain_index(self) -> int:
        """See `Sequencer`."""
        while (index := self._ask_index()) is None:
            with self._news:
                if self._closed:
                    raise Unavailable("the node is stopping")
                self._news.wait(ASK_AGAIN_SECONDS)
        return index

    def durable_index(self) -> int:
        """See `Sequencer`: a record commits when every member has it as safely as the pool asks for."""
        return self._committed

    def wait_durable(self, index: int, timeout_s: float) -> bool:
        """See `Sequencer`."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._committed >= index, timeout_s)
            if self._closed and self._committed < index:
                raise Unavailable("the node is stopping")
            return self._committed >= index

    def read(self, address: int, offset: int, length: int) -> memoryview | bytes:
        """See `Sequencer`."""
        log = self._member.log
        try:
            return log.read(address, offset, length)
        except (Corruption, OSError):
            if self._closed:
                raise Unavailable("the node is stopping") from None
            self._mend(address)
            return self._member.log.read(address, offset, length)

    def begin_anew(self) -> Snapshot:
        """See `Sequencer`: what the replica here began with; a log of its own begins behind what its face has."""
        snapshot = self._member.installed
        if snapshot is None:
            # What the face here has not applied is not let go: it has lost what it had. The replica gets both anew.
            self._member.fail_soon("the table of a volatile shard is lost")
            raise OSError(errno.EAGAIN, f"shard {self.shard} has to be filled again")
        self.outstanding.clear()
        self.rejected = None
        self.client, self.sent = self._new_client(), 0
        return snapshot

    def close(self) -> None:
        """See `Sequencer`."""
        with self._news:
            self._closed = True
            self._news.notify_all()
