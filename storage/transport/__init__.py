"""Messages between authenticated peers: a contract, and kinds of transport that keep to it.

Everything above holds a `Transport` and knows no kind. A peer is known by its `Identity` before a connection is seen, and
whoever is not of the cluster is turned away here. What messages mean is decided elsewhere.

Rooms: `contract`; `memory` (one process, with faults), `tcp` (TLS, plain to loopback, Unix sockets), `verbs` (RDMA; imported by
itself, since it needs pyverbs). Below them: `identity`, `carrier` (what two nodes agree to be carried by)
and `framing` (pure: bytes of the wire), `stream` (a connection over a socket), `greeting` (who is at the other end). Beside
them `certificates`, which only those import who make or load some.
"""

from storage.transport.contract import (
    EVERYBODY,
    Broken,
    Connection,
    Counters,
    Identity,
    IdMap,
    IdRange,
    Listener,
    Rejected,
    Role,
    Transport,
)
from storage.transport.memory import MemoryNetwork, MemoryTransport
from storage.transport.tcp import TcpTransport

__all__ = [
    "EVERYBODY",
    "Broken",
    "Connection",
    "Counters",
    "IdMap",
    "IdRange",
    "Identity",
    "Listener",
    "MemoryNetwork",
    "MemoryTransport",
    "Rejected",
    "Role",
    "TcpTransport",
    "Transport",
]
