"""A node of a cluster: a process that holds replicas of shards (docs/CLUSTER.md).

Rooms: `serve` (the process), `node` (joins the rest), `session` (one connection), `links` (to other nodes), `seat` (a shard's
place here), `steward` (its membership), `faces` (tables kept up with the logs), `lines` (their proposals),
`mending` (damage), `programs` (operations for others), `scripts` (of the shards led here), `spread` (where their runs go), `exchange`
(runs that nodes do for each other), `desk` (what people ask of scripts and tell them, brought to where they run).
"""
