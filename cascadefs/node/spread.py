"""The runs of a shard, spread over the nodes that hold it: here, or on the node where they are done soonest.

Theory of operation. A `Runner` in front of the node's own. For each run it asks the `Allocator`, waits for one of the chosen
node's slots, asks once more, and has it done there. What comes back without a result, for whatever reason, is done
here. How the others are is asked ten times a second while anything runs.

Source: docs/TRIGGERS.md 15.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

import trio

from cascadefs.node.exchange import Lost
from triggers.allocation import Allocator, Model, Standing, kind_of
from triggers.run import Done, Failed
from triggers.runner.pool import models_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.host import Shared
    from cascadefs.node.exchange import Exchange
    from storage.store import Store
    from triggers.cut import StoreCut
    from triggers.run import Cut, Run

__all__ = ["Observer", "Spread"]

PUBLISH_S: Final = 0.1
"""Between two questions how a node is, while anything runs; ten times as long else."""

SCRIPT_BYTES: Final = 30_000_000
"""A worker with the script loaded is worth so many bytes of a model: 29 ms at the allocator's rate."""


_log = logging.getLogger("cascadefs.node")


class Observer:
    """Knows how the nodes are that this one may give runs to; of all shards that are led here."""

    def __init__(
        self,
        exchange: Exchange,
        home: str,
        standing: Callable[[], Standing],
        shards: Callable[[], set[int]],
    ) -> None:
        """`standing`: of this node; `shards`: those led here."""
        self.exchange = exchange
        self.allocator = Allocator(home)
        self.rooms: dict[str, trio.CapacityLimiter] = {}
        """The slots of other nodes."""
        self.running = self.away = 0
        """Runs of shards led here; and those of them that are done elsewhere."""
        self._standing = standing
        self._shards = shards
        self._wanted = trio.Event()

    def wake(self) -> None:
        """There is a run: from now on what is known should be new."""
        self._wanted.set()

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            self._wanted = trio.Event()
            partners = set[str]().union(*map(self.exchange.partners, self._shards()))
            async with trio.open_nursery() as nursery:
                for name in partners:
                    nursery.start_soon(self._ask, name)
            for name in self.allocator.nodes - partners - {self.allocator.home}:
                self.allocator.lost(name)
            await trio.sleep(PUBLISH_S)  # noqa: TID251  # So often at most.
            if not self.running:
                with trio.move_on_after(9 * PUBLISH_S):
                    await self._wanted.wait()

    async def _ask(self, name: str) -> None:
        standing = await self.exchange.standing_of(name)
        if standing is None or standing.slots < 1:
            self.allocator.lost(name)
            return
        self.allocator.heard(name, standing)
        room = self.rooms.setdefault(name, trio.CapacityLimiter(standing.slots))
        room.total_tokens = standing.slots

    def look_at_home(self) -> None:
        """What this node is like, now."""
        standing = self._standing()._replace(waiting=self.exchange.under_way)
        self.allocator.heard(self.allocator.home, standing)


class Spread:
    """See the module. Of one shard; a `triggers.run.Runner`."""

    def __init__(self, observer: Observer, home: Shared, view: Store, shard: int) -> None:
        self._observer = observer
        self._home = home
        self._view = view
        self._shard = shard
        self._away: dict[str, trio.CancelScope] = {}
        self.load = home.load
        self.retire = home.retire
        self.close = home.close

    def slots(self) -> int:
        """Runs at a time, of all nodes that may do them."""
        return max(self._home.workers, self._observer.allocator.slots(self._among()))

    def _among(self) -> set[str]:
        allocator = self._observer.allocator
        return self._observer.exchange.partners(self._shard) | {allocator.home}

    def kill(self, run_id: str) -> bool:
        """See `Runner`."""
        scope = self._away.get(run_id)
        if scope is None:
            return self._home.kill(run_id)
        scope.cancel()
        return True

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """See `Runner`."""
        observer, kind = self._observer, kind_of(run)
        allocator, among = observer.allocator, self._among()
        observer.wake()
        observer.look_at_home()
        observer.running += 1
        name = allocator.choose(kind, among, run.gpus)
        allocator.began(kind, run.id, name)
        outcome: Done | Failed | None = None
        is_adjusted = False
        try:
            while outcome is None:
                is_home = name == allocator.home
                async with self._home.room if is_home else observer.rooms[name]:
                    if not is_adjusted:
                        is_adjusted = True
                        observer.look_at_home()
                        better = allocator.adjusted(kind, run.id, name, among, run.gpus)
                        if better != name:
                            name = self._move(run, name, better)
                            continue
                    outcome = await self._do(name, run, cut)
                if outcome is None:  # it was lost there: here it is not
                    name = self._move(run, name, allocator.home)
        finally:
            observer.running -= 1
            allocator.moved(run.id, name)
        if isinstance(outcome, Done):
            script = Model((run.script.id,), SCRIPT_BYTES)
            models = (script, *models_of(outcome))
            allocator.ended(kind, outcome.duration_ns / 1e9, models)
        return outcome

    def _move(self, run: Run, source: str, target: str) -> str:
        allocator = self._observer.allocator
        allocator.moved(run.id, source)
        allocator.began(kind_of(run), run.id, target)
        return target

    async def _do(self, name: str, run: Run, cut: Cut) -> Done | Failed | None:
        """A run at a node; None if it was lost there."""
        if name == self._observer.allocator.home:
            return await self._home.inner.run(run, cut)
        of_store = cast("StoreCut", cut)
        with trio.CancelScope() as scope:
            self._away[run.id] = scope
            self._observer.away += 1
            try:
                base, reached = of_store.where(), self._view.now()
                outcome, reads = await self._observer.exchange.hand(
                    name, self._shard, base, run, reached
                )
            except Lost as lost:
                _log.info("%s: %s; it is done here", run.id, lost)
                self._observer.allocator.lost(name)
                return None
            finally:
                self._observer.away -= 1
                del self._away[run.id]
            of_store.noted(reads)
            return outcome
        return Failed("killed", "ended by request")
