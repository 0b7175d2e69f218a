"""Messages between authenticated peers: a contract, and kinds of transport that keep to it.

Rooms: `contract`.
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

__all__ = [
    "EVERYBODY",
    "Broken",
    "Connection",
    "Counters",
    "IdMap",
    "IdRange",
    "Identity",
    "Listener",
    "Rejected",
    "Role",
    "Transport",
]
