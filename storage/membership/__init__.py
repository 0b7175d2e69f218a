"""Who is there, what should lie where, and who leads which shard: the cluster as its one authority knows it (DESIGN 6, 7).

Rooms: `values` (what the authority keeps), `contract` (what an authority does), `reconfigure` (which epoch to try next). Two
authorities: `static` in memory, and `etcd`, which is written against a `gateway`: `http` to a real one, `model` in memory with
faults. Between etcd's keys and a view stand `keys` and `tree`. One suite holds all of them to the contract.
"""
