"""The benchmarks behind `scripts/bench`: cascadefs beside its peers, and the store alone.

Rooms: `machine` (what runs underneath), `client` (the C client), `peers` (mounts, and their ends), `stores` (stores made
or measured without FUSE, in a process of their own), `result` (figures and targets), `experiments` (what is measured),
`transports` (messages between processes), `table`, `chart` and `command` (what is shown).

Nothing asserts a time: a figure is a median of interleaved rounds, a ratio is against a peer of the same run.
"""
