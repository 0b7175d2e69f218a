"""Which epoch, or which wish, a node should try next for a shard: decided here, done by compare-and-swap.

A pure object, driven: `see` each new view, `decide` a few times a second and after each piece of news. The
rules, the first that fits:

==================  ===============================================================================================
no epoch yet        the first choice of placement that is alive makes epoch 1 with itself alone
leader, serving     drop members that are silent or lost what they had; when all is well, one step a time:
                    take in caught-up learners; keep the wish up to date; once all who stay are in sync, drop those
                    that are not wished, hand over when draining or when the preferred leader has been well for a
                    while, or has room where this node has none
leader's record,    it led in an earlier life of its process: make the next epoch, waiting a little for the others
not serving
member, in sync     take over from a leader that is gone: the order of the wish decides who tries first, the others
                    wait their turn, so one attempt is the rule
member, stranded    only when all members are back and all of them stranded: whoever has most goes on
==================  ===============================================================================================

What holds for every epoch decided here (and is asserted): its number is the old one's plus 1; its leader was a member of the old one; its
members were, too, or are learners that have caught up with a leader that decides; it is never empty; who decides
is in sync and in it, unless it is `forced`. So whatever was committed is in the new leader's log (`storage.replication`).

A wrong guess about who is gone costs a pause, never a record: the authority lets one attempt win, and the loser is
a learner then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from storage import placement
from storage.membership.contract import Change
from storage.membership.values import Epoch, Pool, Shard, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from storage.membership.values import NodeName, ShardId

__all__ = ["Decision", "Patience", "Reconfigurer", "Replica"]

SECOND_NS = 10**9


class Patience(msgspec.Struct, frozen=True):
    """How long to wait before what. All in nanoseconds."""

    stagger_ns: int = 3 * SECOND_NS // 10
    """Between the first choice's attempt and the next one's: some round trips to the authority."""
    silent_leader_ns: int = 2 * SECOND_NS
    """A leader that is silent but alive in the authority may be about to drop us; only then is it taken over."""
    minority_ns: int = 5 * SECOND_NS
    """Cut off from most members that are alive in the authority, a leader first lets these go on without it: longer than they need."""
    detached_ns: int = 30 * SECOND_NS
    """A member that is heard but not alive in the authority could follow into no other epoch: then it is dropped."""
    settle_ns: int = 3 * SECOND_NS
    """At a start, how long to wait for the other nodes before going on without them."""
    home_ns: int = 30 * SECOND_NS
    """How long an epoch stands before leadership goes home to the preferred leader."""
    replace_ns: int = 600 * SECOND_NS
    """A node that is away for so long has its memberships given to others; most restarts are shorter."""


class Replica(NamedTuple):
    """What this node's replica of the shard knows (see `storage.replication.Replica` for the words)."""

    serves: int = 0
    """The number of the epoch it serves in; 0 for none."""
    leads: bool = False
    in_sync: bool = False
    silent: frozenset[NodeName] = frozenset()
    """To its leader: members and learners; to a member: the leader, if it has not been heard of."""
    lost: frozenset[NodeName] = frozenset()
    """Members that are broken, or lost what they had."""
    caught_up: frozenset[NodeName] = frozenset()
    synced: frozenset[NodeName] = frozenset()
    """To its leader: other members that acknowledged this epoch, and so are in sync."""


class Decision(NamedTuple):
    """What to do for one shard."""

    why: str
    """For the log and for people."""
    change: Change | None = None
    """Try this; whatever comes of it, decide again with the view that follows."""
    again_ns: int | None = None
    """Without news, ask again after so long. None: only news can change the decision."""
    learners: tuple[NodeName, ...] = ()
    """Whom the leader should fill."""


class Reconfigurer:
    """One node's part in deciding. Keeps since when things have been as they are, nothing else."""

    def __init__(self, node: NodeName, patience: Patience | None = None) -> None:
        self._node = node
        self._patience = patience or Patience()
        self._view = View()
        self._began_ns: int | None = None
        self._absent: dict[NodeName, int] = {}
        self._stands: dict[ShardId, tuple[int, int]] = {}  # epoch number, since when
        self._leaderless: dict[ShardId, tuple[int, int]] = {}
        self._outnumbered: dict[ShardId, tuple[int, int]] = {}

    def see(self, now_ns: int, view: View) -> None:
        """The authority has a newer view."""
        if self._began_ns is None:
            self._began_ns = now_ns
        self._view = view
        members = {name for epoch in view.epochs.values() for name in epoch.members}
        away = (members | view.nodes.keys()) - view.live.keys()
        self._absent = {name: self._absent.get(name, now_ns) for name in away}
        for shard in view.shards:
            epoch = view.epochs.get(shard)
            number = epoch.epoch if epoch else 0
            if self._stands.get(shard, (-1, 0))[0] != number:
                self._stands[shard] = (number, now_ns)

    def decide(self, now_ns: int, shard: ShardId, replica: Replica) -> Decision:
        """What this node should do about a shard now. Deterministic; asks nothing of anybody."""
        value, epoch = self._view.shards.get(shard), self._view.epochs.get(shard)
        pool = self._view.pools.get(value.pool) if value is not None else None
        if value is None or pool is None:
            return Decision("the shard is not in the placement map")
        if self._node not in self._view.live:
            return Decision("this node is not alive in the authority")
        at = _Shard(self, now_ns, value, pool, replica)
        if epoch is None:
            return at.begin()
        if self._node not in epoch.members:
            return Decision("not a member")
        decision = at.go_on(epoch)
        _check(epoch, replica, self._node, decision)
        return decision


class _Shard:
    """One question about one shard, with all that bears on it at hand."""

    def __init__(
        self, by: Reconfigurer, now_ns: int, shard: Shard, pool: Pool, replica: Replica
    ) -> None:
        assert by._began_ns is not None
        self.me, self.view, self.patience = by._node, by._view, by._patience
        self.now_ns, self.began_ns = now_ns, by._began_ns
        self.shard, self.pool, self.replica = shard, pool, replica
        self.live = self.view.live.keys()
        self.absent, self.leaderless = by._absent, by._leaderless
        self.outnumbered = by._outnumbered
        self.stands_since_ns = by._stands[shard.shard][1]

    # --- who is who ---

    def order(self, names: Iterable[NodeName]) -> list[NodeName]:
        """Names, the preferred first: those that drain or are full last, then as wished, then as placement ranks them."""
        ranked = placement.rank(names, b"shard %d" % self.shard.shard)
        wished = self.shard.wished
        return sorted(
            ranked,
            key=lambda name: (
                self.drains(name),
                self.is_full(name),
                wished.index(name) if name in wished else len(wished),
            ),
        )

    def drains(self, name: NodeName) -> bool:
        node = self.view.nodes.get(name)
        return node is not None and node.state == "draining"

    def is_full(self, name: NodeName) -> bool:
        presence = self.view.live.get(name)
        return presence is not None and presence.full

    def absent_ns(self, name: NodeName) -> int:
        return self.now_ns - self.absent.get(name, self.now_ns)

    def wanted(self) -> tuple[NodeName, ...]:
        """Where the shard should lie, as far as anybody can tell now.

        Nodes that drain are let go of, even if that leaves fewer than the pool's replicas, but not if it stopped writes.
        """
        there = {
            name: node
            for name, node in self.view.nodes.items()
            if self.absent_ns(name) < self.patience.replace_ns
        }
        pool = self.pool
        chosen: list[NodeName] = []
        for state, replicas in (("active", pool.replicas), ("draining", pool.replicas_min)):
            nodes = {name: node.labels for name, node in there.items() if node.state == state}
            missing = max(0, replicas - len(chosen))
            chosen += placement.choose_nodes(self.shard.shard, nodes, pool.labels, missing)
        return tuple(chosen)

    # --- no epoch yet ---

    def begin(self) -> Decision:
        able = placement.choose_nodes(
            self.shard.shard,
            {name: node.labels for name, node in self.view.nodes.items() if node.state == "active"},
            self.pool.labels,
            len(self.view.nodes),
        )
        there = [name for name in able if name in self.live]
        if self.me not in there:
            return Decision("a new shard that is not for this node")
        wait_ns = there.index(self.me) * self.patience.stagger_ns
        if len(there) < len(able):
            wait_ns += self.patience.settle_ns
        return self.after(
            self.stands_since_ns + wait_ns,
            "waiting for others to begin the shard",
            Decision(
                "begin the shard",
                Change(None, Epoch(self.shard.shard, 1, self.me, (self.me,))),
            ),
        )

    def after(self, at_ns: int, why: str, then: Decision) -> Decision:
        """A decision, unless it is not yet time for it."""
        if self.now_ns < at_ns:
            return Decision(why, again_ns=at_ns - self.now_ns, learners=then.learners)
        return then

    # --- an epoch, and this node a member ---

    def go_on(self, epoch: Epoch) -> Decision:
        if not self.replica.in_sync or self.me in self.replica.lost:
            return self.reunite(epoch)
        if self.replica.serves != epoch.epoch:
            return Decision("the replica does not serve in this epoch yet")
        if epoch.leader != self.me:
            return self.follow(epoch)
        return self.lead(epoch) if self.replica.leads else self.resume(epoch)

    def next(
        self, epoch: Epoch, why: str, members: Iterable[NodeName], leader: NodeName
    ) -> Decision:
        ordered = self.order(set(members))
        new = Epoch(epoch.shard, epoch.epoch + 1, leader, tuple(ordered))
        return Decision(why, Change(epoch, new))

    def reunite(self, epoch: Epoch) -> Decision:
        """Not in sync: mostly a matter for those who are. But if nobody is, and all are back, most is what there is.

        Who has nothing at all does not count as back: perhaps its disk is not mounted. There an operator has to say. A volatile
        shard has nothing on disks, so who is gone for a while takes nothing back, either; `ends` is not empty, as this node is in it.
        """
        ends = {
            name: (stranded.last_epoch, stranded.last_index)
            for name in epoch.members
            if name in self.live
            for stranded in self.view.live[name].stranded
            if (stranded.shard, stranded.epoch) == (epoch.shard, epoch.epoch)
            and (stranded.last_index or self.pool.volatile)
        }
        missing = [name for name in epoch.members if name not in ends and not self.is_lost(name)]
        if missing or self.me not in ends:
            who = ", ".join(missing or [self.me])
            return Decision(f"out of sync; {who} may know more")
        best = max(ends, key=lambda name: (ends[name], -epoch.members.index(name)))
        if best != self.me:
            return Decision(f"all members lost something; {best} has most")
        new = Epoch(epoch.shard, epoch.epoch + 1, self.me, (self.me,), forced=True)
        return Decision("all members lost something; this one has most", Change(epoch, new))

    def is_lost(self, name: NodeName) -> bool:
        """Whether a member of a volatile shard has been away for too long to have what it held."""
        is_away = name not in self.live and self.absent_ns(name) >= self.patience.detached_ns
        return self.pool.volatile and is_away

    def follow(self, epoch: Epoch) -> Decision:
        leader, patience = epoch.leader, self.patience
        silent, lost = leader in self.replica.silent, leader in self.replica.lost
        gone = leader not in self.live
        number, since_ns = self.leaderless.get(epoch.shard, (0, 0))
        if not (silent or lost or gone):
            self.leaderless.pop(epoch.shard, None)
            return Decision(f"{leader} leads")
        if number != epoch.epoch:
            since_ns = self.now_ns
            self.leaderless[epoch.shard] = (epoch.epoch, since_ns)
        if not lost and not (silent and gone):
            since_ns += patience.silent_leader_ns if silent else patience.detached_ns
        with_me = [
            name
            for name in epoch.members
            if name in self.live and name != leader and name not in self.replica.lost
        ]
        since_ns += self.order(with_me).index(self.me) * patience.stagger_ns
        taken = self.next(epoch, f"take over from {leader}", with_me, self.me)
        return self.after(since_ns, f"{leader} seems gone; waiting whether others take over", taken)

    def resume(self, epoch: Epoch) -> Decision:
        """The record names this node, and its process is another than the one that led."""
        with_me = [
            name
            for name in epoch.members
            if name == self.me or (name in self.live and name not in self.replica.lost)
        ]
        wait_ns = self.patience.settle_ns if len(with_me) < len(epoch.members) else 0
        taken = self.next(epoch, "lead again after a restart", with_me, self.me)
        return self.after(self.began_ns + wait_ns, "waiting for the other members to start", taken)

    def lead(self, epoch: Epoch) -> Decision:
        me, replica, patience = self.me, self.replica, self.patience
        wished = self.shard.wished
        learners = tuple(name for name in wished if name in self.live and name not in epoch.members)
        ready = [
            name for name in learners if name in replica.caught_up and name not in replica.silent
        ]
        detached = {
            name
            for name in epoch.members
            if self.absent_ns(name) >= patience.detached_ns and name != me
        }
        gone = ({*replica.silent, *replica.lost} & set(epoch.members) | detached) - {me}
        if gone:
            # A member that is not alive in the authority could not follow into the new epoch either.
            stay = [n for n in epoch.members if n == me or (n in self.live and n not in gone)]
            why = f"go on without {', '.join(sorted(set(epoch.members) - set(stay)))}"
            taken = self.next(epoch, why, [*stay, *ready], me)._replace(learners=learners)
            return self.after(self.may_drop_ns(epoch, stay), "most members are silent", taken)
        self.outnumbered.pop(epoch.shard, None)
        away = [name for name in epoch.members if name not in self.live]
        if away:
            since_ns = min(self.absent[name] for name in away)
            return Decision(
                f"waiting for {', '.join(away)} to be back in the authority",
                again_ns=max(since_ns + patience.detached_ns - self.now_ns, 1),
                learners=learners,
            )
        if ready:
            why = f"take in {', '.join(ready)}"
            return self.next(epoch, why, [*epoch.members, *ready], me)._replace(learners=learners)
        wanted = self.wanted()
        if wanted and wanted != wished:
            change = Change(self.shard, msgspec.structs.replace(self.shard, wished=wanted))
            return Decision(f"wish for {', '.join(wanted)}", change, learners=learners)
        return self.tidy(epoch, wished)._replace(learners=learners)

    def may_drop_ns(self, epoch: Epoch, stay: Sequence[NodeName]) -> int:
        """From when on the leader may go on with these alone.

        Others that are most and alive may well hear each other, and everybody else: then it is this node that is cut off.
        """
        # Who was left out a moment ago still counts: members fall silent one after the other.
        ours = {*epoch.members, *self.shard.wished}
        there = [n for n in ours if n in self.live and n not in self.replica.lost]
        if 2 * len(stay) >= len(there):
            self.outnumbered.pop(epoch.shard, None)
            return self.now_ns
        number, since_ns = self.outnumbered.get(epoch.shard, (0, 0))
        if number != epoch.epoch:
            since_ns = self.now_ns
            self.outnumbered[epoch.shard] = (epoch.epoch, since_ns)
        return since_ns + self.patience.minority_ns

    def tidy(self, epoch: Epoch, wished: Sequence[NodeName]) -> Decision:
        """All members are well: let go of those not wished, and lead from where it should be led from.

        Not before all who stay have acknowledged this epoch: who is named leader and is not in sync stays idle until somebody takes
        over. Those not wished need not: one that hears, and acknowledges nothing any more, is let go of all the same.
        """
        me = self.me
        coming = [name for name in epoch.members if name != me and name not in self.replica.synced]
        is_whole = bool(wished) and set(wished) <= set(epoch.members)
        awaited = [name for name in coming if name in wished] if is_whole else coming
        if awaited:
            return Decision(f"waiting for {', '.join(awaited)} to be in sync")
        if is_whole:
            if me not in wished:
                return self.next(epoch, f"hand over to {wished[0]}", epoch.members, wished[0])
            surplus = set(epoch.members) - set(wished)
            if surplus:
                return self.next(epoch, f"let go of {', '.join(sorted(surplus))}", wished, me)
        if self.drains(me):
            others = self.order(
                name for name in epoch.members if name != me and not self.drains(name)
            )
            if others:
                return self.next(
                    epoch, f"hand over to {others[0]}: draining", epoch.members, others[0]
                )
            return Decision("draining, and no other member yet")
        first = self.order(epoch.members)[0]
        if self.is_full(me) and not self.is_full(first) and not self.drains(first):
            return self.next(epoch, f"hand over to {first}: no room here", epoch.members, first)
        if (
            wished
            and wished[0] != me
            and wished[0] in epoch.members
            and not self.is_full(wished[0])
        ):
            home = self.next(
                epoch, f"hand over to {wished[0]}: preferred", epoch.members, wished[0]
            )
            since_ns = self.stands_since_ns + self.patience.home_ns
            return self.after(since_ns, "all is well", home)
        return Decision("all is well")


def _check(old: Epoch, replica: Replica, me: NodeName, decision: Decision) -> None:
    """The promises of this module, at the one place where decisions leave it."""
    if decision.change is None or not isinstance(decision.change.new, Epoch):
        return
    new = decision.change.new
    assert decision.change.old == old
    assert (new.shard, new.epoch) == (old.shard, old.epoch + 1)
    assert new.leader in new.members
    assert new.leader in old.members
    assert me in new.members
    assert len(set(new.members)) == len(new.members)
    if new.forced:
        assert new.members == (me,)
        return
    assert replica.in_sync
    assert set(new.members) <= set(old.members) | (replica.caught_up if replica.leads else set())
