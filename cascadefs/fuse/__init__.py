"""Door 1: the file system on pyfuse3. Only `door` and `wakeup` import it; importing this package imports nothing.

- `door`: the requests, one method each: convert, call `cascadefs.filesystem`, map the error.
- `wakeup`: how the door waits for the next request.
- `notifier`: what the kernel is told to forget.
- `mountpoint`: the table of mounts, and taking a mount down.
"""
