"""A model of etcd: one linearizable store with leases and compare-and-swap, that can be asked over a network that fails.

It keeps the values of `storage.membership.values` and answers what `storage.membership.contract.Authority` promises, with
calls back instead of waiting. What a caller meets: an answer; or none, with the change made or not; views that come late,
twice, out of order or not at all; leases that lapse while their holder is alive; and a time in which nobody answers.
After that, as in etcd, every lease has its full time again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from storage.membership.values import Epoch, Node, Pool, Presence, Shard, Value, View

if TYPE_CHECKING:
    from storage.membership.contract import Change
    from tests.simulation.cluster.agenda import Agenda
    from tests.simulation.cluster.network import Network

__all__ = ["AUTHORITY", "Authority"]

AUTHORITY = "authority"
"""Its name in the network."""


def _place(value: Value) -> tuple[str, str | int]:
    """Which mapping of a view a value stands in, and under what key."""
    match value:
        case Epoch():
            return "epochs", value.shard
        case Shard():
            return "shards", value.shard
        case Pool():
            return "pools", value.name
        case Node():
            return "nodes", value.name
        case _:
            raise AssertionError(f"the simulation keeps no {value}")


class Authority:
    """See the module. Machines call `request_...` through the network; the world sets `available`.

    Attributes:
        view: What it keeps; the truth.
        made_epoch: Told of each new epoch.
        asked: Requests it has heard.
    """

    def __init__(self, agenda: Agenda, network: Network, ttl_ns: int) -> None:
        self.view = View(revision=1)
        self.ttl_ns = ttl_ns
        self.asked = 0
        self.made_epoch: Callable[[Epoch], None] = lambda _epoch: None
        self._agenda = agenda
        self._network = network
        self._available = True
        self._watchers: dict[str, Callable[[View], None]] = {}
        self._until_ns: dict[str, int] = {}

    # --- for machines ------------------------------------------------------------------------------------------

    def watch(self, machine: str, told: Callable[[View], None]) -> None:
        """From now on a machine is told of every view, as far as the network lets it."""
        self._watchers[machine] = told
        self._network.send(AUTHORITY, machine, told, self.view)

    def renew(self, machine: str, presence: Presence, answer: Callable[[View], None]) -> None:
        """Ask that a presence live for another `ttl_ns`; the answer has the newest view."""
        self._network.send(machine, AUTHORITY, self._renewed, machine, presence, answer)

    def change(
        self, machine: str, changes: Sequence[Change], answer: Callable[[bool, View], None]
    ) -> None:
        """Ask for a compare-and-swap."""
        self._network.send(machine, AUTHORITY, self._changed, machine, changes, answer)

    # --- at the authority --------------------------------------------------------------------------------------

    def _renewed(self, machine: str, presence: Presence, answer: Callable[[View], None]) -> None:
        if not self._available:
            return
        self.asked += 1
        known = self.view.live.get(presence.name)
        if known is not None and known.incarnation > presence.incarnation:
            return  # A late renewal of one that has started anew since.
        self._until_ns[presence.name] = until_ns = self._agenda.now_ns + self.ttl_ns
        if known != presence:
            self._set(live={**self.view.live, presence.name: presence})
        self._agenda.after(self.ttl_ns, self._lapse, presence.name, until_ns)
        self._network.send(AUTHORITY, machine, answer, self.view)

    def _lapse(self, name: str, until_ns: int) -> None:
        if self._until_ns.get(name) == until_ns and self._available:
            self._set(live={other: p for other, p in self.view.live.items() if other != name})
            del self._until_ns[name]

    def _changed(
        self, machine: str, changes: Sequence[Change], answer: Callable[[bool, View], None]
    ) -> None:
        if not self._available:
            return
        self.asked += 1
        done = self.decide(changes)
        self._network.send(AUTHORITY, machine, answer, done, self.view)

    def decide(self, changes: Sequence[Change]) -> bool:
        """Compare, and swap all or nothing."""
        made: dict[str, dict[str | int, Value]] = {}
        for change in changes:
            value = change.new if change.new is not None else change.old
            assert value is not None
            where, key = _place(value)
            if getattr(self.view, where).get(key) != change.old:
                return False
            new = made.setdefault(where, dict(getattr(self.view, where)))
            new.pop(key, None)
            if change.new is not None:
                if isinstance(change.new, Epoch):
                    self._check_epoch(change.old, change.new)
                new[key] = change.new
        self._set(**made)
        for change in changes:
            if isinstance(change.new, Epoch):
                self.made_epoch(change.new)
        return True

    @staticmethod
    def _check_epoch(old: Value | None, new: Epoch) -> None:
        assert new.epoch == (old.epoch + 1 if isinstance(old, Epoch) else 1)
        assert new.leader in new.members
        assert len(set(new.members)) == len(new.members)

    def _set(self, **mappings: object) -> None:
        self.view = msgspec.structs.replace(self.view, revision=self.view.revision + 1, **mappings)
        if self._available:
            for machine, told in self._watchers.items():
                self._network.send(AUTHORITY, machine, told, self.view)

    # --- for the world -----------------------------------------------------------------------------------------

    def go_away(self) -> None:
        """Nobody is answered, nothing lapses."""
        self._available = False

    def come_back(self) -> None:
        """It answers again; leases have their full time."""
        if self._available:
            return
        self._available = True
        for name in list(self._until_ns):
            self._until_ns[name] = until_ns = self._agenda.now_ns + self.ttl_ns
            self._agenda.after(self.ttl_ns, self._lapse, name, until_ns)
        for machine, told in self._watchers.items():
            self._network.send(AUTHORITY, machine, told, self.view)
