"""The transport over RDMA verbs, for cards and for Soft-RoCE (docs/RDMA.md).

Rooms: `transport` (listens and dials) over `connection` over `device`, the only import of pyverbs; pure below them `fabric`
(what a site configures), `attributes` (what two sides tell each other first), `ring` (messages in the peer's memory, to the
byte). Import `storage.transport.verbs.transport` where RDMA is wanted: nothing else here needs pyverbs.
"""

from storage.transport.verbs.fabric import Fabric, Unusable

__all__ = ["Fabric", "Unusable"]
