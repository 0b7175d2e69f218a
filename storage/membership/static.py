"""An authority in memory: for tests, and for a cluster of one process.

The nodes of a process share one `StaticAuthority`. It always answers, and its leases hold until they are left.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from storage.membership.contract import Standing
from storage.membership.keys import key_of, keys_changed
from storage.membership.tree import view_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from storage.membership.contract import Change
    from storage.membership.keys import Kept
    from storage.membership.values import NodeName, Presence, Value, View

__all__ = ["StaticAuthority"]

EVER_NS = 2**63 - 1


class StaticAuthority:
    """An `Authority` that keeps what it is given for as long as it is referred to."""

    def __init__(self, values: Iterable[Value] = ()) -> None:
        self._kept: dict[str, Kept] = {key_of(value): value for value in values}
        self._changed = trio.lowlevel.ParkingLot()
        self.view: View = view_of(1, self._kept.values())

    @property
    def standing(self) -> Standing:
        """It always answers."""
        return Standing.REACHED

    @property
    def trouble(self) -> str | None:
        """It never goes back."""
        return None

    async def wait_view(self, after: int) -> View:
        """See `Authority`."""
        await trio.lowlevel.checkpoint()
        while self.view.revision <= after:
            await self._changed.park()
        return self.view

    async def wait_standing(self, other_than: Standing) -> Standing:
        """See `Authority`; waits for ever for anything but being reached."""
        await trio.lowlevel.checkpoint()
        if other_than is Standing.REACHED:
            await trio.sleep_forever()
        return Standing.REACHED

    async def read(self) -> View:
        """See `Authority`."""
        await trio.lowlevel.checkpoint()
        return self.view

    async def change(self, changes: Sequence[Change]) -> bool:
        """See `Authority`."""
        keys = keys_changed(changes)
        await trio.lowlevel.checkpoint()
        if any(self._kept.get(key) != old for key, (old, _) in zip(keys, changes, strict=True)):
            return False
        for key, (_, new) in zip(keys, changes, strict=True):
            self._put(key, new)
        return True

    @asynccontextmanager
    async def hold(self, presence: Presence, ttl_s: float) -> AsyncIterator[_Lease]:
        """See `Authority`; the time to live is not needed."""
        assert ttl_s > 0
        await trio.lowlevel.checkpoint()
        lease = _Lease(self, presence)
        self._put(key_of(presence), presence)
        try:
            yield lease
        finally:
            if self.holds(presence.name, presence.incarnation):
                self._put(key_of(presence), None)

    def holds(self, name: NodeName, incarnation: int) -> bool:
        """Whether the living node of that name is this start of it."""
        present = self.view.live.get(name)
        return present is not None and present.incarnation == incarnation

    def _put(self, key: str, value: Kept | None) -> None:
        if value is None:
            self._kept.pop(key, None)
        else:
            self._kept[key] = value
        self.view = view_of(self.view.revision + 1, self._kept.values())
        self._changed.unpark_all()


class _Lease:
    """Holds for ever, or until a newer start of the node took the name."""

    def __init__(self, authority: StaticAuthority, presence: Presence) -> None:
        self._authority = authority
        self._name, self._incarnation = presence.name, presence.incarnation

    @property
    def until_ns(self) -> int:
        return EVER_NS if self._authority.holds(self._name, self._incarnation) else 0

    async def change_presence(self, presence: Presence) -> None:
        assert (presence.name, presence.incarnation) == (self._name, self._incarnation)
        await trio.lowlevel.checkpoint()
        if self._authority.holds(self._name, self._incarnation):
            self._authority._put(key_of(presence), presence)
