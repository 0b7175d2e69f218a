"""Who is there, what should lie where, and who leads which shard: the cluster as its one authority knows it.

`values` are what the authority keeps, `contract` is what an authority does. DESIGN 6 and 7.
"""
