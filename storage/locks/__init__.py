"""Locks of files that hold on all mounts of a cluster: who has which, who waits, and how both sides outlive a leader. Pure.

`table` has the locks of a shard, `arbiter` is its leader's side, `claimant` a mount's, `spans` what both count with. Neither side
knows a connection, a clock or a thread: what happens is told to them with the time, and what they have to say is taken from them.

Locks are not data: they stand in the memory of the shard's leader, and in that of each mount that holds some. A new leader knows
none, and is told by the mounts (docs/CLUSTER.md, "Locks of files"). Sources: fcntl(2), flock(2); NFSv4 (RFC 7530, 9.6) for leases and
the grace after a change of leader.
"""

from storage.locks.arbiter import ASK, TRY, WAIT, Arbiter
from storage.locks.claimant import Claimant
from storage.locks.spans import EXCLUSIVE, LAST, NONE, SHARED

__all__ = ["ASK", "EXCLUSIVE", "LAST", "NONE", "SHARED", "TRY", "WAIT", "Arbiter", "Claimant"]
