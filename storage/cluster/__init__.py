"""A store whose shards are ordered elsewhere: on the nodes of a cluster, or beside the tests.

`face` is one shard, `store` many as one tree, `loopback` an order in memory to try them on.
"""
