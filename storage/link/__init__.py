"""The network side of a process that holds no replica: a mount's link to the nodes of a cluster.

`link` keeps the connections and speaks `storage.wire`, in a trio loop of its own; `line` is one shard's
`storage.sequencer.Sequencer` on top of it, for faces in other threads; `payloads` are the bytes read lately.
"""

from storage.link.line import RemoteLine
from storage.link.link import Link, Tuning

__all__ = ["Link", "RemoteLine", "Tuning"]
