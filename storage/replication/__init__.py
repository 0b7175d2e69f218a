"""One epoch's primary-backup protocol, and the passage from one epoch to the next, for one shard on one node. Pure.

Rooms: `replica` (the face: epochs, fencing, roles), `leader` and `follower` (what each does), `holding` (what the own log
holds or is told to), `standing` (whether it may lead), `progress` (what a leader knows of one other), `lineage`, `sessions`, `frontier`; the values `messages`,
`ready`, `options`. Argued in docs/CLUSTER.md.
"""

from __future__ import annotations

from storage.replication.messages import (
    EPOCH_KIND,
    RECORD_KIND,
    Ack,
    Append,
    Ask,
    Broken,
    Fenced,
    Frame,
    Inquire,
    Malformed,
    Message,
    Report,
    join,
    split,
)
from storage.replication.options import Options
from storage.replication.ready import (
    Epoch,
    Frontier,
    Holdings,
    Note,
    Ready,
    Role,
    Verdict,
    Wanted,
)
from storage.replication.replica import Replica

__all__ = [
    "EPOCH_KIND",
    "RECORD_KIND",
    "Ack",
    "Append",
    "Ask",
    "Broken",
    "Epoch",
    "Fenced",
    "Frame",
    "Frontier",
    "Holdings",
    "Inquire",
    "Malformed",
    "Message",
    "Note",
    "Options",
    "Ready",
    "Replica",
    "Report",
    "Role",
    "Verdict",
    "Wanted",
    "join",
    "split",
]
