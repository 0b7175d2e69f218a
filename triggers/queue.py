"""The queue of one binding: events that are not done, and which of them may run next.

Theory of operation. Events are added in the order of the log and leave when they are done. Each belongs to a *lane*,
all events of one key (`order`: one lane for all, or one each): a lane runs one thing at a time, oldest first, so a poison
event holds up its own key and nothing else. `take` gives what to run now, as much as makes a batch, and what is to be
skipped because it was superseded; `put_back` returns what failed and will be tried again.

Pure: the time is an argument, in milliseconds of any clock that goes forward; no event is ever dropped here.

Sources: docs/TRIGGERS.md 4, 8, 9; token bucket for `rate`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedDict

from triggers.binding import AT_CLOSE

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.binding import Binding
    from triggers.run import Event

__all__ = ["Pending", "Position", "Queue", "Taken"]

CLOSE_LOOK_MS = 50
"""Between two looks whether a file is still open for writing."""

Position = tuple[int, int]
"""(timestamp of the commit, ordinal among the binding's events of that commit)."""


class Pending:
    """An event that is not done."""

    __slots__ = (
        "address",
        "arrived_ms",
        "attempts",
        "definition",
        "event",
        "fresh",
        "group_max",
        "inode",
        "not_before_ms",
        "rearmed",
    )

    def __init__(self, event: Event, address: int, arrived_ms: int) -> None:
        self.event = event
        self.address = address
        """Of the commit's frame."""
        self.arrived_ms = arrived_ms
        self.inode = 0
        """That the path showed; 0 of a deletion."""
        self.attempts = 0
        """Failed ones."""
        self.not_before_ms = 0
        self.group_max = 1 << 30
        """How many may run with it: halved when a batch with it fails, until the culprit is alone."""
        self.fresh = False
        """Whether to run at the present instead of the event's own cut: a `put_if` lost."""
        self.definition = 0
        """Which version of the binding it belongs to; a batch is of one."""
        self.rearmed = False
        """Asked for by hand: the mark may be above it already."""

    @property
    def position(self) -> Position:
        """Its place in the order of the log."""
        return self.event.position


class _Lane:
    """The events of one key, oldest first; those running are the first `running` of them."""

    __slots__ = ("blocked", "busy", "events", "waiting")

    def __init__(self) -> None:
        self.events: deque[Pending] = deque()
        self.busy = False
        self.blocked = False
        self.waiting = False


class Taken(NamedTuple):
    """What `Queue.take` decided: run these together; those are done without running."""

    events: list[Pending]
    skipped: list[Pending]


class Queue:
    """See the module."""

    def __init__(
        self, binding: Binding, is_open: Callable[[int], bool] = lambda _inode: False
    ) -> None:
        """`is_open` says whether somebody has an inode open for writing."""
        self.binding = binding
        self._is_open = is_open
        self._open: SortedDict = SortedDict()  # Position -> Pending, rearmed ones left out
        self._rearmed: dict[Position, Pending] = {}
        self._lanes: dict[object, _Lane] = {}
        self._ready: OrderedDict[object, None] = (
            OrderedDict()
        )  # lanes with something to run, in the order of their turn
        self._waiting: list[tuple[int, int, object]] = []  # heap of (when, tie, lane) not ready yet
        self._ties = 0
        self._newest: dict[str, Position] = {}  # by path, of the events open
        self._running = 0
        self._tokens = float(binding.rate[0]) if binding.rate else 0.0
        self._tokens_at_ms: int | None = None
        self.paused = False

    def __len__(self) -> int:
        return len(self._open) + len(self._rearmed)

    @property
    def running(self) -> int:
        """Batches given out."""
        return self._running

    def oldest(self, without: frozenset[Position] = frozenset()) -> Pending | None:
        """The oldest event that is not done, those asked for by hand left out; everything below is.

        `without`: what it would be if these were done.
        """
        for position, pending in self._open.items():
            if position not in without:
                found: Pending = pending
                return found
        return None

    def find(self, position: Position) -> Pending | None:
        """The event at a position, if it is not done."""
        return self._open.get(position) or self._rearmed.get(position)

    def events(self) -> list[Pending]:
        """All that is not done, oldest first."""
        return [*self._rearmed.values(), *self._open.values()]

    # --- changes -----------------------------------------------------------------------------------------------

    def add(self, pending: Pending) -> None:
        """One more event; later than every one before it, unless it is rearmed."""
        position = pending.position
        assert self.find(position) is None
        if pending.rearmed:
            self._rearmed[position] = pending
        else:
            assert not self._open or position > self._open.peekitem(-1)[0]
            self._open[position] = pending
            self._newest[pending.event.path] = position
        key = self._lane_key(pending)
        lane = self._lanes.setdefault(key, _Lane())
        lane.events.append(pending)
        self._offer(key, lane)

    def take(self, now_ms: int) -> Taken:
        """What to run now, as one run; nothing if there is none, the rate is used up, or `concurrency` is reached.

        What is taken must come back by `done` or `put_back`. What is skipped is still open until `done`.
        """
        taken, skipped = Taken([], []), []
        if self.paused or not self._has_token(now_ms):
            return taken
        self._wake(now_ms)
        limit = self.binding.batch
        due_ms: int | None = None
        when = 0
        while self._ready and len(taken.events) < limit:
            key = next(iter(self._ready))
            lane = self._lanes[key]
            while lane.events and len(taken.events) < limit:
                head = lane.events[0]
                if self._superseded(head):
                    skipped.append(lane.events.popleft())
                    continue
                when = self._when(head, now_ms)
                first = taken.events[0] if taken.events else head
                if (
                    when > now_ms
                    or len(taken.events) + 1 > head.group_max
                    or head.definition != first.definition
                    or head.fresh != first.fresh
                ):
                    break
                limit = min(limit, head.group_max)
                taken.events.append(lane.events.popleft())
                lane.busy = True
                due_ms = head.arrived_ms if due_ms is None else min(due_ms, head.arrived_ms)
            if lane.events and not lane.busy and when <= now_ms:
                break  # it has to run alone, or in a smaller company: next time
            self._ready.pop(key)
            if lane.events and not lane.busy:
                self._wait(key, when)
        full = len(taken.events) >= limit
        if taken.events and not full and due_ms is not None:
            until = due_ms + self.binding.wait_ms
            if until > now_ms:
                self._return(taken.events, until)
                taken.events.clear()
        for pending in skipped:
            self._settle_lane(pending)
        taken.skipped.extend(skipped)
        if taken.events:
            self._running += 1
            self._spend(now_ms, len(taken.events))
        return taken

    def done(self, events: list[Pending], *, ran: bool = True, partial: bool = False) -> None:
        """These are done: run, dead or skipped. `partial`: others of the same run still have to come back."""
        for pending in events:
            position = pending.position
            if self._rearmed.pop(position, None) is None:
                del self._open[position]
                if self._newest.get(pending.event.path) == position:
                    del self._newest[pending.event.path]
            lane = self._lanes.get(self._lane_key(pending))  # of two in a batch the first clears it
            if ran and lane is not None:
                lane.busy = False
            self._settle_lane(pending)
        self._running -= 1 if ran and not partial else 0

    def ended(self) -> None:
        """A run is over whose events came back with `partial`."""
        self._running -= 1

    def put_back(
        self,
        events: list[Pending],
        not_before_ms: int,
        *,
        split: bool = False,
        partial: bool = False,
    ) -> None:
        """These ran and are to run again, in front of what else their lanes hold; `split`: in halves."""
        for pending in events:
            pending.not_before_ms = not_before_ms
            if split:
                pending.group_max = max(1, len(events) // 2)
        self._return(events, not_before_ms)
        self._running -= 0 if partial else 1

    def block(self, events: list[Pending], *, partial: bool = False) -> None:
        """The lanes of these stand still, and they stay open, until `unblock`."""
        self._return(events, 0)
        for pending in events:
            key = self._lane_key(pending)
            self._lanes[key].blocked = True
            self._ready.pop(key, None)
        self._running -= 0 if partial else 1

    def unblock(self, pending: Pending) -> None:
        """Let the lane of an event go on."""
        key = self._lane_key(pending)
        lane = self._lanes[key]
        lane.blocked = False
        pending.attempts, pending.not_before_ms = 0, 0
        self._offer(key, lane)

    def blocked(self) -> list[Pending]:
        """The events whose lanes stand still."""
        return [lane.events[0] for lane in self._lanes.values() if lane.blocked]

    def withdraw(self, pending: Pending) -> bool:
        """Take an event that is not running out of its lane, to be `done` without a run; whether it was possible."""
        lane = self._lanes[self._lane_key(pending)]
        if pending not in lane.events:
            return False
        lane.events.remove(pending)
        lane.blocked = False
        return True

    def next_ms(self, now_ms: int) -> int | None:
        """When `take` may have something that it has not now; None if only a change can bring it."""
        if self.paused:
            return None
        if self._ready:
            return now_ms if self._has_token(now_ms) else self._token_ms(now_ms)
        if not self._waiting:
            return None
        when = max(self._waiting[0][0], now_ms)
        return max(when, self._token_ms(now_ms)) if not self._has_token(now_ms) else when

    # --- lanes -------------------------------------------------------------------------------------------------

    def _lane_key(self, pending: Pending) -> object:
        match self.binding.order:
            case "key":
                return pending.event.key
            case "shard":
                return None
            case _:
                return pending.position

    def _offer(self, key: object, lane: _Lane) -> None:
        if lane.events and not (lane.busy or lane.blocked or lane.waiting):
            self._ready[key] = None

    def _wait(self, key: object, when: int) -> None:
        lane = self._lanes[key]
        if lane.waiting:
            return
        lane.waiting = True
        self._ready.pop(key, None)
        self._ties += 1
        heapq.heappush(self._waiting, (when, self._ties, key))

    def _wake(self, now_ms: int) -> None:
        while self._waiting and self._waiting[0][0] <= now_ms:
            key = heapq.heappop(self._waiting)[2]
            lane = self._lanes.get(key)
            if lane is not None:
                lane.waiting = False
                self._offer(key, lane)

    def _when(self, pending: Pending, now_ms: int) -> int:
        if self.binding.settle_ms == AT_CLOSE and self._is_open(pending.inode):
            return now_ms + CLOSE_LOOK_MS
        quiet = pending.arrived_ms + self.binding.settle_ms if self.binding.settle_ms > 0 else 0
        return max(pending.not_before_ms, quiet)

    def _superseded(self, pending: Pending) -> bool:
        if not (self.binding.collapse or self.binding.settle_ms) or pending.rearmed:
            return False
        return self._newest.get(pending.event.path, pending.position) > pending.position

    def _return(self, events: list[Pending], not_before_ms: int) -> None:
        for pending in reversed(events):
            key = self._lane_key(pending)
            lane = self._lanes[key]
            lane.events.appendleft(pending)
            lane.busy = False
            if not lane.blocked:
                self._wait(key, not_before_ms)

    def _settle_lane(self, pending: Pending) -> None:
        """A lane changed: forget it when it is empty, else let it have its turn."""
        key = self._lane_key(pending)
        lane = self._lanes.get(key)
        if lane is None:
            return
        if not lane.events and not lane.busy:
            del self._lanes[key]
            self._ready.pop(key, None)
        else:
            self._offer(key, lane)

    # --- rate --------------------------------------------------------------------------------------------------

    def _refill(self, now_ms: int) -> None:
        assert self.binding.rate is not None
        count, period_ms = self.binding.rate
        if self._tokens_at_ms is not None:
            self._tokens += max(0, now_ms - self._tokens_at_ms) * count / period_ms
        self._tokens = min(self._tokens, float(count))
        self._tokens_at_ms = now_ms

    def _has_token(self, now_ms: int) -> bool:
        if self.binding.rate is None:
            return True
        self._refill(now_ms)
        return self._tokens >= 1

    def _token_ms(self, now_ms: int) -> int:
        assert self.binding.rate is not None
        count, period_ms = self.binding.rate
        return now_ms + max(1, -int(-(1 - self._tokens) * period_ms // count))

    def _spend(self, now_ms: int, events: int) -> None:
        if self.binding.rate is not None:
            self._refill(now_ms)
            self._tokens -= events
