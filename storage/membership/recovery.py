"""What to put into an authority that was restored from an older copy, by what the nodes have known since. Pure.

The newest epoch that anybody knows is the newest there is, if all of its members were asked: whoever makes an epoch is a member of
the one before, and no record is committed in it before all of its own members have its first frame. So nothing is made up here:
what stood in the authority is put back, and who leads goes on leading. Only where members are lost for good, and an operator says
so, an epoch is made, with a number that nobody can have used, of those that are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage.membership.keys import key_of
from storage.membership.known import lasting
from storage.membership.values import Certificate, Epoch, Recovered, Value, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from storage.membership.known import Known

__all__ = ["SKIPPED", "Plan", "Unclear", "Witness", "plan"]

SKIPPED = 1000
"""By so much an epoch that is made here is ahead of those that are known: more than those that were lost can have made."""


class Unclear(Exception):
    """What was since cannot be told from what was heard; the message says of which shard, and what helps."""


class Witness(NamedTuple):
    """What a node has told."""

    node: str
    known: Known
    held: Mapping[int, int]
    """The epoch that each shard there serves in or has records of."""
    obeys: bool = False
    """It has seen nothing but the restored one, whatever revision that has come to since."""


class Plan(NamedTuple):
    """What to do, in this order."""

    values: tuple[Value, ...]
    """To be put."""
    beyond: int
    """The revision to bring the authority past, so that what comes is news to everybody."""
    recovered: Recovered
    """To be put last: now it may be obeyed."""


def plan(now: View, witnesses: Sequence[Witness], at_us: int, *, lose: bool = False) -> Plan:
    """What brings an authority up to what nodes hold.

    Args:
        now: what it holds.
        witnesses: at least one.
        at_us: the time, microseconds since 1970.
        lose: an operator says that members that are not among the witnesses are lost, with what only they had.

    Raises:
        Unclear: see there.
    """
    views = [now, *(witness.known.view for witness in witnesses)]
    newest = max(
        (not witness.obeys, _recovered_us(witness.known.view), witness.known.view.revision, place)
        for place, witness in enumerate(witnesses, start=1)
    )
    found: dict[str, Value] = {
        key_of(value): value for value in lasting(views[newest[-1]]) if not isinstance(value, Epoch)
    }
    for certificate in _certificates(views):
        found[key_of(certificate)] = certificate
    for shard in sorted({shard for view in views for shard in view.epochs}):
        epoch = _epoch(shard, views, witnesses, lose=lose)
        found[key_of(epoch)] = epoch
    there = {key_of(value): value for value in lasting(now)}
    return Plan(
        tuple(value for key, value in found.items() if there.get(key) != value),
        max(view.revision for view in views[1:]),
        Recovered(max(at_us, *(_recovered_us(view) + 1 for view in views))),
    )


def _recovered_us(view: View) -> int:
    return view.recovered.at_us if view.recovered is not None else 0


def _certificates(views: Iterable[View]) -> Iterable[Certificate]:
    """All that anybody knows, revoked if anybody knows that."""
    found: dict[str, Certificate] = {}
    for view in views:
        for serial, certificate in view.certificates.items():
            if serial not in found or not found[serial].revoked_us:
                found[serial] = certificate
    return found.values()


def _epoch(shard: int, views: Sequence[View], witnesses: Sequence[Witness], *, lose: bool) -> Epoch:
    known = [view.epochs[shard] for view in views if shard in view.epochs]
    newest = max(known, key=lambda epoch: epoch.epoch)
    if any(epoch != newest for epoch in known if epoch.epoch == newest.epoch):
        raise Unclear(
            f"shard {shard}: nodes differ about who is in epoch {newest.epoch}: two of them have gone apart already; "
            f"stop those that are wrong, and say which is right with `cascadefs cluster recover`"
        )
    held = max((witness.held.get(shard, 0) for witness in witnesses), default=0)
    there = [name for name in newest.members if name in {witness.node for witness in witnesses}]
    missing = [name for name in newest.members if name not in there]
    if held <= newest.epoch and not missing:
        return newest
    if not there or not lose:
        what = (
            f"there are records of epoch {held}, and nobody knows who is in it"
            if held > newest.epoch
            else f"of the members of epoch {newest.epoch}, {', '.join(missing)} did not answer, and may know of a newer one"
        )
        raise Unclear(
            f"shard {shard}: {what}; start all nodes, or say --lose if they are lost for good, with what only they have"
        )
    leader = newest.leader if newest.leader in there else there[0]
    return Epoch(shard, max(held, newest.epoch) + SKIPPED, leader, tuple(there))
