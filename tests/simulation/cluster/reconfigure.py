"""Which epoch a member asks for next: a stand-in with as few ideas as will do, for what `storage.membership` decides."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from storage.membership.values import Epoch, Shard
from storage.replication.ready import Role

__all__ = ["Situation", "next_epoch"]


class Situation(NamedTuple):
    """All that a member knows of its shard."""

    me: str
    shard: Shard
    epoch: Epoch | None
    live: frozenset[str]
    role: Role
    in_sync: bool
    serves: int
    silent: frozenset[str]
    broken: frozenset[str]
    absent: frozenset[str]
    caught_up: frozenset[str]


def next_epoch(at: Situation, random: Random) -> Epoch | None:
    """The epoch to ask for, None if the one there is will do."""
    if at.epoch is None:
        if at.shard.wished[0] != at.me:
            return None
        return Epoch(at.shard.shard, 1, at.me, (at.me,))
    old = at.epoch
    if old.epoch != at.serves or not at.in_sync or at.me not in old.members:
        return None
    gone = (frozenset(old.members) - at.live) | at.silent | at.broken | at.absent
    if at.role is Role.LEADER:
        members, leader = _by_leader(at, old, gone), at.me
        heirs = [m for m in at.shard.wished if m in members and m in old.members]
        if at.me not in at.shard.wished and heirs:
            leader = heirs[0]
    elif old.leader in gone or at.role is Role.IDLE:
        if random.random() < 0.5:  # Others may have the same idea.
            return None
        members, leader = [m for m in old.members if m not in gone], at.me
    else:
        return None
    if at.me not in members or leader not in members:
        return None
    if (leader, set(members)) == (old.leader, set(old.members)) and at.role is Role.LEADER:
        return None
    return Epoch(at.shard.shard, old.epoch + 1, leader, tuple(members))


def _by_leader(at: Situation, old: Epoch, gone: frozenset[str]) -> list[str]:
    members = [m for m in old.members if m not in gone or m == at.me]
    members += [
        m for m in at.shard.wished if m in at.caught_up and m in at.live and m not in members
    ]
    if set(at.shard.wished) <= set(members):
        # The one who leads stays until another does.
        members = [m for m in members if m in at.shard.wished or m == at.me]
    return members
