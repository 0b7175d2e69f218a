"""The versioned, sharded, replicated tree: a library that knows neither FUSE nor triggers."""
