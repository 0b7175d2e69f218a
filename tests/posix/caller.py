"""Who makes a call: root, the owner, somebody with a group, a stranger.

The process keeps root as its saved identity, so it can change over and back; effective capabilities go with the
effective user (capabilities(7)), so in between it may no more than anybody. Numbers, not names: no such users need exist.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple


class Caller(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


TEAM = 10_900

ROOT = Caller("root", 0, 0)
OWNER = Caller("owner", 10_001, 10_101)
MEMBER = Caller("member", 10_002, 10_102, (10_777, TEAM))
"""In the team by a supplementary group only."""
MATE = Caller("mate", 10_003, TEAM)
"""In the team by the primary group."""
OTHER = Caller("other", 10_004, 10_104, (10_778,))

EVERYBODY = (ROOT, OWNER, MEMBER, MATE, OTHER)


@contextlib.contextmanager
def acting(caller: Caller) -> Iterator[None]:
    """Be somebody for a while. Only for a process of its own: identity belongs to all threads."""
    os.setgroups(caller.groups)
    os.setresgid(caller.gid, caller.gid, 0)
    os.setresuid(caller.uid, caller.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])
