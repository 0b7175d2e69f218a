"""What the authority keeps: plain values, each under one key, changed only by compare-and-swap.

Eight kinds. `Cluster`, `Pool`, `Shard` and `Node` are the placement map: written by operators, and `Shard.wished` by
leaders. `Certificate` says what was issued and what of it still counts, `Recovered` that an operator vouches for all of it. `Epoch` is what replication obeys. `Presence` lives as long as its node's lease. A `View` is all of them as
of one revision of the authority. Nothing here waits or decides.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # msgspec reads the annotations
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from storage import limits

__all__ = [
    "NOTHING",
    "Address",
    "Certificate",
    "Cluster",
    "Durability",
    "Epoch",
    "Label",
    "Node",
    "NodeName",
    "Pool",
    "PoolName",
    "Presence",
    "Recovered",
    "Serial",
    "Shard",
    "ShardId",
    "Stranded",
    "Value",
    "View",
]

NodeName: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]
"""A node's name in the cluster: 1 to 32 of ``a-z 0-9 -``; also the common name of its certificate."""

PoolName: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]

Label: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._=-]{0,62}$")]
"""What a node is said to be or have: ``ssd``, ``rack=7``."""

Address: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+):[0-9]{1,5}$")
]
"""``host:port``; an IPv6 address in brackets."""

ShardId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=limits.SHARDS_MAX)]
"""0 to 255; shard 0 holds the root directory."""

Serial: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,40}$")]
"""A certificate's serial number, hexadecimal, without leading zeros."""

Durability: TypeAlias = Literal["memory", "disk"]
"""When a member has a record: once it is appended, or once its disk was synced."""


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster itself; there is one, and its existence says that the authority was prepared."""

    identity: str
    """16 hexadecimal digits, drawn by ``cascadefs cluster init``; every data directory notes it."""
    created_us: int
    """Microseconds since 1970."""


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory subtree with a policy (DESIGN 6). Its shards are those that name it."""

    name: PoolName
    path: Annotated[str, msgspec.Meta(pattern="^/")]
    """Absolute, as seen from the root of the file system; "/" is the pool of everything else."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=limits.REPLICAS_MAX)] = 1
    """Members that each of its shards should have."""
    replicas_min: Annotated[int, msgspec.Meta(ge=1, le=limits.REPLICAS_MAX)] = 1
    """With fewer members, writes pause. Invariant: 1 <= replicas_min <= replicas."""
    durability: Durability = "disk"
    volatile: bool = False
    """Only the newest content is kept, in bounded memory."""
    affinity: str = ""
    """A regular expression searched in a directory's path below the pool; what it matched is the affinity key."""
    spread: Annotated[int, msgspec.Meta(ge=0, le=limits.SPREAD_LEVELS_MAX)] = 0
    """Directories down to this level below the pool's own get a home shard each; deeper ones inherit it."""
    labels: tuple[Label, ...] = ()
    """Nodes that have all of these may hold its shards."""


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replicated log, and where it should lie; where it does lie is its `Epoch`."""

    shard: ShardId
    pool: PoolName
    wished: tuple[NodeName, ...] = ()
    """Nodes that should be members, the preferred leader first; those that are not yet are learners of the leader.
    Empty until the shard's first leader chose. Only the shard's leader changes it."""


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that was added to the cluster, alive or not."""

    name: NodeName
    addresses: tuple[Address, ...]
    """``host:port`` of its links, as others reach it, the best first; what it really has is in its `Presence`."""
    labels: tuple[Label, ...] = ()
    state: Literal["active", "draining"] = "active"
    """A draining node hands over its leaderships, then its memberships, once others have caught up."""


class Epoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One membership of a shard with its leader: the fence that replication obeys.

    Invariants: epoch >= 1 and one more than what it replaced; leader in members; members not empty, no name twice.
    """

    shard: ShardId
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    leader: NodeName
    members: Annotated[tuple[NodeName, ...], msgspec.Meta(min_length=1)]
    forced: bool = False
    """What the leader has is the truth although it may have lost something it acknowledged: all members did, or an
    operator said so. Then the leader is the only member."""


class Stranded(msgspec.Struct, frozen=True):
    """A member's log that may have lost what it acknowledged (power cut, memory durability), and where it ends."""

    shard: ShardId
    epoch: int
    """The epoch of which it is a member."""
    last_epoch: int
    """The epoch of its last frame; with `last_index` it says who has most."""
    last_index: int
    """0: it has nothing at all."""


class Presence(msgspec.Struct, frozen=True):
    """A live node: stands in the authority as long as the node's lease does.

    What a newer node says of itself beside this is not ours to know: while nodes are upgraded one after the other, all of
    them have to see who lives. Nobody writes another's presence, so nothing of it is lost.
    """

    name: NodeName
    incarnation: int
    """Drawn at each start of the process: another number means that the node has started anew."""
    addresses: tuple[Address, ...]
    """``host:port`` where its links listen now."""
    http: str = ""
    """``host:port`` of its metrics and status page, or empty."""
    stranded: tuple[Stranded, ...] = ()
    """Its memberships that only the whole shard together, or an operator, can bring back."""
    full: bool = False
    """Its disk has no room for more: as a leader it would have to refuse what others have room for."""
    runs: bool = False
    """It does runs of scripts that other nodes ask it for."""
    locks: bool = False
    """It understands what is said of locks of files."""
    orders: bool = False
    """It takes from mounts what is asked of scripts, and told to them."""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate of the cluster's authority: for whom, until when, and whether it still counts. Times are microseconds since 1970."""

    serial: Serial
    identity: str = ""
    """As the certificate has it (FORMAT, "Certificates"); empty of one that was revoked and is not listed as issued."""
    issued_us: int = 0
    expires_us: int = 0
    revoked_us: int = 0
    """0: it counts. Never goes back to that."""
    why: str = ""
    """What the operator said of it, for people."""


class Recovered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator brought this authority up to what the nodes hold, after it was restored from an older copy."""

    at_us: int
    """Microseconds since 1970; greater than that of every recovery before."""


Value: TypeAlias = Cluster | Pool | Shard | Node | Epoch | Certificate | Recovered
"""What `Authority.change` changes."""

NOTHING: Mapping[Any, Any] = MappingProxyType({})


class View(msgspec.Struct, frozen=True):
    """Everything the authority kept at one revision. Never changes; its mappings are not to be written to."""

    revision: int = 0
    """Greater means later; 0 is the view of somebody who has not heard from the authority yet."""
    cluster: Cluster | None = None
    pools: Mapping[str, Pool] = NOTHING
    shards: Mapping[ShardId, Shard] = NOTHING
    nodes: Mapping[NodeName, Node] = NOTHING
    epochs: Mapping[ShardId, Epoch] = NOTHING
    live: Mapping[NodeName, Presence] = NOTHING
    certificates: Mapping[Serial, Certificate] = NOTHING
    recovered: Recovered | None = None
