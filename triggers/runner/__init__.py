"""Who executes runs: `inproc` in this process, `pool` in sandboxed workers. Both are a `triggers.run.Runner`."""
