"""The authority on etcd: a view kept up to date by a watch, changes by transactions, presence by leases.

Three tasks at most. *Follow* reads everything, watches what comes behind it, resumes a broken watch where it ended
and reads everything again where etcd has compacted that away. *Pulse* asks for nothing now and then, so that an etcd that hangs
is noticed without a lease, too. *Keep*, one for each `hold`, takes a lease, renews it thrice in its time to live, and
takes another when it was too late.

An etcd that is away is a state (`standing`), told once in the log when it comes and when it goes; only `read` and
`change` raise, because somebody waits for their answer.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from storage.membership.contract import Standing, Unavailable
from storage.membership.gateway import Compacted, LeaseGone, Put
from storage.membership.keys import encode, key_of, keys_changed
from storage.membership.known import Known
from storage.membership.tree import Tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from storage.membership.contract import Change
    from storage.membership.gateway import Batch, Gateway
    from storage.membership.values import Presence, View

__all__ = ["EtcdAuthority", "open_etcd"]

PULSE_S = 2.0
"""Between two questions to an etcd from which nothing was heard otherwise."""

RETRY_S_MIN, RETRY_S_MAX = 0.1, 1.0
"""Between two attempts at an etcd that is away: below half of any lease, so that one survives a short absence."""

SHOWN_S = 1.0
"""How long a change may take to come by in the watch before everything is read instead."""

REVOKE_S = 1.0
"""How long leaving a lease may take; behind that it is left to lapse."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@asynccontextmanager
async def open_etcd(
    gateway: Gateway, now_ns: Callable[[], int], known: Known | None = None
) -> AsyncIterator[EtcdAuthority]:
    """An `Authority` on an etcd, for as long as the body runs. Opening does not wait for etcd.

    Args:
        gateway: The etcd.
        now_ns: The monotonic clock that `Lease.until_ns` is on; one that counts suspended time is the safe one.
        known: What was in it when this process, or one before it, read it last.
    """
    authority = EtcdAuthority(gateway, now_ns, known)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(authority._follow)
        nursery.start_soon(authority._pulse)
        try:
            yield authority
        finally:
            nursery.cancel_scope.cancel()


class EtcdAuthority:
    """See `Authority`; made by `open_etcd`."""

    def __init__(
        self, gateway: Gateway, now_ns: Callable[[], int], known: Known | None = None
    ) -> None:
        self.known = known or Known()
        """What was read last, also by a process before this one."""
        self._gateway = gateway
        self._now_ns = now_ns
        self._tree = Tree()
        self._standing = Standing.UNKNOWN
        self._viewed = trio.lowlevel.ParkingLot()
        self._stood = trio.lowlevel.ParkingLot()
        self._heard_ns = now_ns()
        self._complained: dict[str, str] = {}
        self._went_back: str | None = None
        self._watching: set[trio.CancelScope] = set()

    # --- What is known ----------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """See `Authority`."""
        return self._tree.view

    @property
    def standing(self) -> Standing:
        """See `Authority`."""
        return self._standing

    @property
    def trouble(self) -> str | None:
        """See `Authority`."""
        return self._went_back

    async def wait_view(self, after: int) -> View:
        """See `Authority`."""
        await trio.lowlevel.checkpoint()
        while self.view.revision <= after:
            await self._viewed.park()
        return self.view

    async def wait_standing(self, other_than: Standing) -> Standing:
        """See `Authority`."""
        await trio.lowlevel.checkpoint()
        while self._standing is other_than:
            await self._stood.park()
        return self._standing

    # --- What is asked ----------------------------------------------------------------------------------------------

    async def read(self) -> View:
        """See `Authority`."""
        known = self.known  # A watch may tell more while this is asked.
        reading = await self._ask(self._gateway.read())
        tree = Tree()
        tree.reset(reading.revision, reading.items)
        objection = known.objection(reading.etcd, tree.view, tree.unreadable)
        if objection is not None:
            self._go_back(objection)
        elif self._went_back is not None:
            self._went_back = None
            _log.warning("etcd was brought up to what the nodes hold: it is obeyed again")
        self._check_same_history()
        if tree.view.revision > self.view.revision:
            self._tree = tree
            self.known = Known(reading.etcd, tree.view)
            self._show()
        return self.view

    async def change(self, changes: Sequence[Change]) -> bool:
        """See `Authority`."""
        keys = keys_changed(changes)
        await trio.lowlevel.checkpoint()
        self._check_same_history()
        conditions = []
        for key, (old, _) in zip(keys, changes, strict=True):
            revision = self._tree.revision_of(key, old)
            if revision is None:
                return False
            conditions.append((key, revision))
        puts = [
            Put(key, None if new is None else encode(new))
            for key, (_, new) in zip(keys, changes, strict=True)
        ]
        done = await self._ask(self._gateway.transact(conditions, puts))
        if done is None:
            await self.read()
            return False
        await self._wait_shown(done)
        return True

    async def _wait_shown(self, revision: int) -> None:
        with trio.move_on_after(SHOWN_S):
            await self.wait_view(revision - 1)
            return
        with suppress(Unavailable):  # what was asked for was done; the view follows when it can
            await self.read()

    async def _ask(self, answer: Awaitable[T]) -> T:
        try:
            result = await answer
        except Unavailable as error:
            # Where the outcome is unknown one member of etcd failed, and no other was asked.
            if not error.outcome_unknown:
                self._stand(Standing.AWAY, str(error))
            raise
        except LeaseGone:
            self._heard()
            raise
        self._heard()
        return result

    async def _ping(self) -> None:
        before = self.view.revision
        self._check_forward(before, await self._ask(self._gateway.ping()))

    def _check_forward(self, before: int, revision: int) -> None:
        """A majority answered with a revision; one older than what it had said before it was asked is another history."""
        if revision < before:
            self._go_back(f"from revision {before} to {revision}")

    def _go_back(self, objection: str) -> None:
        if self._went_back is not None:
            return
        self._went_back = (
            f"etcd went back: {objection}. It was restored from an older copy, or is another one; nothing is changed there "
            f"before `cascadefs cluster recover-authority` (docs/OPERATIONS.md, etcd)"
        )
        _log.error("%s", self._went_back)
        for scope in self._watching:
            scope.cancel()

    def _check_same_history(self) -> None:
        if self._went_back is not None:
            raise Unavailable(self._went_back, outcome_unknown=False)

    def _heard(self) -> None:
        self._heard_ns = self._now_ns()
        self._stand(Standing.REACHED, "")

    def _stand(self, standing: Standing, why: str) -> None:
        if standing is self._standing:
            return
        if standing is Standing.AWAY:
            _log.warning("etcd is away; memberships stay as they are until it is back: %s", why)
        elif self._standing is Standing.AWAY:
            _log.warning("etcd is back")
        self._standing = standing
        self._stood.unpark_all()

    def _show(self) -> None:
        for key, why in self._tree.unreadable.items():
            if self._complained.get(key) != why:
                _log.error(
                    "etcd holds what this version cannot read, and acts as if it were absent: %s",
                    why,
                )
        self._complained = dict(self._tree.unreadable)
        self._viewed.unpark_all()

    # --- Tasks ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        await self._retried(self.read)
        retry_s = RETRY_S_MIN
        while True:
            before = self.view.revision
            try:
                with trio.CancelScope() as scope:
                    self._watching.add(scope)
                    try:
                        await self._gateway.watch(before, self._deliver)
                    finally:
                        self._watching.discard(scope)
            except (Compacted, Unavailable):
                pass
            # Whether etcd is away, or another one by now, is found out by asking; and what was missed.
            await self._retried(self.read)
            retry_s = RETRY_S_MIN if self.view.revision > before else min(2 * retry_s, RETRY_S_MAX)
            await trio.sleep(retry_s)  # noqa: TID251  # a retry loop at the edge

    def _deliver(self, batch: Batch) -> None:
        self._heard()
        if self._went_back is None and self._tree.apply(batch.revision, batch.events):
            self.known = Known(self.known.etcd, self._tree.view)
            self._show()

    async def _pulse(self) -> None:
        while True:
            await trio.sleep(PULSE_S)  # noqa: TID251  # the pulse itself
            if self._now_ns() - self._heard_ns >= PULSE_S * 1e9:
                with suppress(Unavailable):
                    await self._ping()

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        retry_s = RETRY_S_MIN
        while True:
            with suppress(Unavailable):
                return await call()
            await trio.sleep(retry_s)  # noqa: TID251  # a retry loop at the edge
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    # --- Presence ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def hold(self, presence: Presence, ttl_s: float) -> AsyncIterator[_Lease]:
        """See `Authority`."""
        lease = _Lease(self, presence, math.ceil(ttl_s))
        async with trio.open_nursery() as nursery:
            await nursery.start(lease.keep)
            try:
                yield lease
            finally:
                nursery.cancel_scope.cancel()
                with trio.move_on_after(REVOKE_S, shield=True), suppress(Unavailable):
                    await self._gateway.revoke(lease.lease)


class _Lease:
    """See `Lease`. Either held (the presence stands in the authority under `lease`), or being taken."""

    def __init__(self, authority: EtcdAuthority, presence: Presence, ttl_s: int) -> None:
        assert ttl_s > 0
        self._authority = authority
        self._gateway = authority._gateway
        self._presence = presence
        self._key = key_of(presence)
        self._ttl_s = ttl_s
        self._changed = trio.Event()
        self._until_ns = 0
        self.lease = 0

    @property
    def until_ns(self) -> int:
        return self._until_ns if self._mine() is not None else 0

    async def change_presence(self, presence: Presence) -> None:
        mine = self._presence
        assert (presence.name, presence.incarnation) == (mine.name, mine.incarnation)
        await trio.lowlevel.checkpoint()
        self._presence = presence
        self._changed.set()

    async def keep(self, task_status: trio.TaskStatus[None]) -> None:
        """Take the lease, renew it, take another when it was too late; ends when cancelled."""
        # The newest start of a node is the node: the first time, whatever stands there is replaced.
        await self._authority._retried(self._take_unasked)
        task_status.started()
        while True:
            try:
                await self._renew()
            except LeaseGone:  # lapsed, or revoked by somebody
                self._until_ns = min(self._until_ns, self._authority._now_ns())
                await self._authority._retried(self._take)

    async def _take_unasked(self) -> None:
        while not await self._grant([]):
            pass  # it took longer than the lease was to live
        await self._authority.read()

    async def _take(self) -> None:
        """Only where no newer start of the node has the name; waits as long as one has."""
        while True:
            view = await self._authority.read()
            conditions = self._mine()
            if conditions is not None and await self._grant(conditions):
                await self._authority.read()
                return
            if conditions is None:
                await self._authority.wait_view(view.revision)

    async def _grant(self, conditions: list[tuple[str, int]]) -> bool:
        sent_ns = self._authority._now_ns()
        lease, ttl_s = await self._authority._ask(self._gateway.grant(self._ttl_s))
        try:
            published = await self._publish(conditions, lease)
        except LeaseGone:
            return False
        if not published:
            with suppress(Unavailable):  # it would lapse by itself
                await self._gateway.revoke(lease)
            return False
        self.lease, self._ttl_s = lease, ttl_s
        self._until_ns = sent_ns + ttl_s * 10**9
        return True

    async def _publish(self, conditions: list[tuple[str, int]], lease: int) -> bool:
        self._changed = trio.Event()
        put = Put(self._key, encode(self._presence), lease)
        return await self._authority._ask(self._gateway.transact(conditions, [put])) is not None

    def _mine(self) -> list[tuple[str, int]] | None:
        """The condition that the name is free or this process's, or None where neither holds."""
        present = self._authority.view.live.get(self._presence.name)
        if present is not None and present.incarnation != self._presence.incarnation:
            return None
        revision = self._authority._tree.revision_of(self._key, present)
        return None if revision is None else [(self._key, revision)]

    async def _renew(self) -> None:
        """Keep the lease and what is published under it.

        Raises:
            LeaseGone: it lapsed, or a newer start of the node has the name.
        """
        wait_s = self._ttl_s / 3
        while True:
            with trio.move_on_after(wait_s):
                await self._changed.wait()
            try:
                await self._renew_once()
                wait_s = self._ttl_s / 3
            except Unavailable:
                wait_s = min(self._ttl_s / 6, RETRY_S_MAX)

    async def _renew_once(self) -> None:
        conditions = self._mine()
        if conditions is None:
            self._until_ns = 0
            with suppress(Unavailable):
                await self._gateway.revoke(self.lease)
            raise LeaseGone
        sent_ns = self._authority._now_ns()
        ttl_s = await self._authority._ask(self._gateway.keep_alive(self.lease))
        self._until_ns = max(self._until_ns, sent_ns + ttl_s * 10**9)
        shown = self._authority.view.live.get(self._presence.name)
        if shown != self._presence and not await self._publish(conditions, self.lease):
            await self._authority.read()
