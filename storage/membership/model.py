"""An etcd in memory: what of etcd's behaviour the cluster relies on, with time as an argument.

`EtcdModel` is the pure part, for the simulator too: keys with revisions, transactions, leases that lapse, history
that can be compacted. `ModelGateway` gives it to an authority in a trio loop, and can be away, slow in what it
watches, or hang. It passes the suite that the real one passes (tests/storage/membership).
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING

import trio

from storage.membership.contract import Unavailable
from storage.membership.gateway import Batch, Compacted, Grant, LeaseGone, Reading
from storage.membership.tree import Event, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from storage.membership.gateway import Put

__all__ = ["Bell", "EtcdModel", "ModelGateway"]

TTL_S_MIN = 2
"""etcd grants no less: three halves of its election time-out, in whole seconds."""


class EtcdModel:
    """Keys below one prefix. Every call takes the time and first lets lapse what is due."""

    def __init__(self) -> None:
        self.revision = 1
        self.etcd = "e1"
        self._items: dict[str, tuple[int, bytes, int]] = {}  # changed at, bytes, lease
        self._leases: dict[int, tuple[int, int]] = {}  # seconds to live, lapses at (ns)
        self._leases_granted = 0
        self._events: list[Event] = []
        self._compacted = 1

    def read(self, now_ns: int) -> Reading:
        """Everything at the newest revision."""
        self.pass_time(now_ns)
        items = [Item(key, changed, raw) for key, (changed, raw, _) in sorted(self._items.items())]
        return Reading(self.revision, items, self.etcd)

    def transact(
        self, now_ns: int, conditions: Sequence[tuple[str, int]], puts: Sequence[Put]
    ) -> int | None:
        """See `Gateway.transact`."""
        self.pass_time(now_ns)
        if any(put.lease and put.lease not in self._leases for put in puts):
            raise LeaseGone
        if any(self._items.get(key, (0,))[0] != revision for key, revision in conditions):
            return None
        self._change([(put.key, put.raw, put.lease) for put in puts])
        return self.revision

    def grant(self, now_ns: int, ttl_s: int) -> Grant:
        """See `Gateway.grant`."""
        self.pass_time(now_ns)
        self._leases_granted += 1
        ttl_s = max(ttl_s, TTL_S_MIN)
        self._leases[self._leases_granted] = (ttl_s, now_ns + ttl_s * 10**9)
        return Grant(self._leases_granted, ttl_s)

    def keep_alive(self, now_ns: int, lease: int) -> int:
        """See `Gateway.keep_alive`."""
        self.pass_time(now_ns)
        if lease not in self._leases:
            raise LeaseGone
        ttl_s, _ = self._leases[lease]
        self._leases[lease] = (ttl_s, now_ns + ttl_s * 10**9)
        return ttl_s

    def revoke(self, now_ns: int, lease: int) -> None:
        """See `Gateway.revoke`."""
        self.pass_time(now_ns)
        if self._leases.pop(lease, None) is not None:
            self._change([(key, None, 0) for key, item in self._items.items() if item[2] == lease])

    def pass_time(self, now_ns: int) -> None:
        """Let lapse the leases that are due."""
        for lease in [lease for lease, (_, until) in self._leases.items() if until <= now_ns]:
            del self._leases[lease]
            self._change([(key, None, 0) for key, item in self._items.items() if item[2] == lease])

    def next_lapse_ns(self) -> int | None:
        """When the next lease lapses if nobody renews it."""
        return min((until for _, until in self._leases.values()), default=None)

    def events(self, after: int) -> Batch:
        """All events behind a revision.

        Raises:
            Compacted: some are no longer kept.
        """
        if after < self._compacted - 1:
            raise Compacted
        return Batch(self.revision, [event for event in self._events if event.revision > after])

    def compact(self) -> None:
        """Forget all history, keep the present."""
        self._compacted = self.revision + 1
        self._events.clear()

    def copy(self) -> EtcdModel:
        """What a snapshot of it would bring back."""
        return deepcopy(self)

    def restart(self, now_ns: int) -> None:
        """A new leader of etcd gives every lease its whole time again."""
        for lease, (ttl_s, _) in self._leases.items():
            self._leases[lease] = (ttl_s, now_ns + ttl_s * 10**9)

    def _change(self, puts: Sequence[tuple[str, bytes | None, int]]) -> None:
        effective = [put for put in puts if put[1] is not None or put[0] in self._items]
        if not effective:
            return
        self.revision += 1
        for key, raw, lease in effective:
            if raw is None:
                del self._items[key]
            else:
                self._items[key] = (self.revision, raw, lease)
            self._events.append(Event(key, self.revision, raw))


class Bell:
    """Wakes whoever waits: what the gateways to one model share, so that each hears of the others' changes."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def ring(self) -> None:
        """Wake all who took `event` before."""
        self.event.set()
        self.event = trio.Event()


class ModelGateway:
    """A `Gateway` to an `EtcdModel`, on trio's clock.

    Attributes:
        away: Nobody answers: every call is refused, and what is watched breaks with `break_watches`.
        losing_answers: Transactions are done, and their answers lost.
    """

    def __init__(self, model: EtcdModel, bell: Bell) -> None:
        self._model = model
        self._bell = bell
        self._breaks = 0
        self.away = False
        self.losing_answers = False

    def go_away(self) -> None:
        """Break the watches, and refuse every call until `come_back`. Leases go on meanwhile."""
        self.away = True
        self.break_watches()

    def come_back(self) -> None:
        """Answer again."""
        self.away = False

    def break_watches(self) -> None:
        """Every watch ends, and can be opened again: as when a proxy restarts."""
        self._breaks += 1
        self._bell.ring()

    def now_ns(self) -> int:
        """trio's time in nanoseconds."""
        return round(trio.current_time() * 1e9)

    async def _asked(self) -> int:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("the model of etcd is away", outcome_unknown=False)
        return self.now_ns()

    async def read(self) -> Reading:
        """See `Gateway`."""
        return self._model.read(await self._asked())

    async def ping(self) -> int:
        """See `Gateway`."""
        await self._asked()
        return self._model.revision

    async def transact(
        self, conditions: Sequence[tuple[str, int]], puts: Sequence[Put]
    ) -> int | None:
        """See `Gateway`."""
        done = self._model.transact(await self._asked(), conditions, puts)
        self._bell.ring()
        if self.losing_answers:
            raise Unavailable("the answer was lost", outcome_unknown=True)
        return done

    async def grant(self, ttl_s: int) -> Grant:
        """See `Gateway`."""
        return self._model.grant(await self._asked(), ttl_s)

    async def keep_alive(self, lease: int) -> int:
        """See `Gateway`."""
        return self._model.keep_alive(await self._asked(), lease)

    async def revoke(self, lease: int) -> None:
        """See `Gateway`."""
        self._model.revoke(await self._asked(), lease)
        self._bell.ring()

    async def watch(self, after: int, deliver: Callable[[Batch], None]) -> NoReturn:
        """See `Gateway`."""
        await self._asked()
        breaks = self._breaks
        while self._breaks == breaks:
            rung = self._bell.event
            batch = self._model.events(after)
            if batch.events:
                deliver(batch)
                after = batch.revision
            due_ns = self._model.next_lapse_ns()
            with trio.move_on_at(math.inf if due_ns is None else due_ns / 1e9):
                await rung.wait()
            self._model.pass_time(self.now_ns())
        raise Unavailable("the watch broke", outcome_unknown=False)
