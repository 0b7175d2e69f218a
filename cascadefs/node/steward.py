"""Who looks after one shard's membership on this node: brings what the authority decided to the replica, and asks for
what should come next.

Nothing is decided here: which epoch to try says the pure `storage.membership.reconfigure`, and whose attempt counts
the authority's compare-and-swap.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from storage.membership.contract import Standing, Unavailable
from storage.membership.reconfigure import Decision, Replica
from storage.membership.values import Stranded
from storage.replication import Epoch, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.member import Member
    from storage.membership.contract import Authority, Change
    from storage.membership.reconfigure import Reconfigurer
    from storage.membership.values import Epoch as Recorded

__all__ = ["Steward", "ask", "epoch_of"]

LOOK_S: Final = 0.1
"""Between two looks at what the replica has noticed."""

_log = logging.getLogger("cascadefs.node")


def epoch_of(recorded: Recorded | None) -> Epoch | None:
    """An epoch as the authority keeps it, as replication knows it."""
    if recorded is None:
        return None
    return Epoch(recorded.epoch, recorded.leader, recorded.members, recorded.forced)


async def ask(authority: Authority, change: Change, why: str) -> bool:
    """Try a change; whether it was made. That the authority is away is said and no failure."""
    try:
        done = await authority.change([change])
    except Unavailable as error:
        _log.warning("%s: %s", why, error)
        return False
    if done:
        _log.info("%s: %s", why, change.new)
    return done


class Steward:
    """See the module. In the thread of the network's loop."""

    def __init__(
        self,
        node: str,
        shard: int,
        authority: Authority,
        reconfigurer: Reconfigurer,
        steady_ns: Callable[[], int],
    ) -> None:
        self._node = node
        self._shard = shard
        self._authority = authority
        self._reconfigurer = reconfigurer
        self._steady_ns = steady_ns
        self.may_adopt: Callable[[Epoch], bool] = lambda epoch: True
        """Whether the replica may serve in an epoch already; asked again if not."""
        self._said = 0
        self.why = ""
        """What the last look came to, for people."""

    async def run(self, member: Member) -> None:
        """Look after a replica until cancelled."""
        while True:
            view = self._authority.view
            # Here, too: whoever opens the shards may be busy with one.
            self._reconfigurer.see(self._steady_ns(), view)
            epoch = epoch_of(view.epochs.get(self._shard))
            if epoch is not None and self.may_adopt(epoch):
                member.adopt(epoch)
            decision = self._decide(member)
            if self._is_behind(member):
                await self._read()
                if self._is_older(member):
                    # Others are further than what it keeps: whatever followed from that would be beside them.
                    decision = Decision(self._objection(member))
            self.why = decision.why
            if member.replica.role is Role.LEADER:
                member.teach(decision.learners)
            if decision.change is not None:
                await ask(self._authority, decision.change, f"shard {self._shard}: {decision.why}")
            wait_s = LOOK_S
            if decision.again_ns is not None:
                wait_s = min(wait_s, decision.again_ns / 1e9)
            with trio.move_on_after(wait_s):
                await self._authority.wait_view(view.revision)

    def _is_behind(self, member: Member) -> bool:
        serves = member.replica.epoch
        return member.replica.heard_epoch > (serves.number if serves else 0)

    def _is_older(self, member: Member) -> bool:
        """Whether the authority, which was just read, knows less than some other node."""
        epoch = self._authority.view.epochs.get(self._shard)
        return member.replica.heard_epoch > (epoch.epoch if epoch is not None else 0)

    def _objection(self, member: Member) -> str:
        heard = member.replica.heard_epoch
        if self._authority.standing is not Standing.REACHED:
            return f"another node is in epoch {heard}, and etcd does not answer"
        why = (
            f"another node is in epoch {heard}, of which etcd knows nothing: was it restored from an older copy? "
            f"(cascadefs cluster recover-authority)"
        )
        if self._said != heard:
            self._said = heard
            _log.error("shard %d: %s", self._shard, why)
        return why

    def _decide(self, member: Member) -> Decision:
        replica = member.replica
        serves = replica.epoch
        now_ns = self._steady_ns()
        return self._reconfigurer.decide(
            now_ns,
            self._shard,
            Replica(
                serves=serves.number if serves else 0,
                leads=replica.role is Role.LEADER,
                in_sync=replica.in_sync,
                silent=replica.silent(now_ns),
                lost=frozenset(replica.broken) | replica.absent,
                caught_up=replica.caught_up,
                synced=replica.synced,
            ),
        )

    async def _read(self) -> None:
        try:
            await self._authority.read()
        except Unavailable as error:
            _log.warning("shard %d: %s", self._shard, error)


def stranded(node: str, members: list[Member]) -> tuple[Stranded, ...]:
    """Memberships of a node whose logs may have lost what they acknowledged."""
    found = []
    for member in members:
        epoch, log = member.replica.epoch, member.log
        if epoch is None or node not in epoch.members or member.replica.in_sync:
            continue
        epochs = log.epochs()
        last_epoch = epochs[-1][1] if epochs else 0
        found.append(Stranded(member.shard, epoch.number, last_epoch, log.last_index))
    return tuple(found)
