"""Door 2: the file system on /dev/fuse itself, in pure Python: no library between the kernel and us.

- `protocol`, `notification`: the bytes of requests and replies, and of what the kernel is told unasked. Pure.
- `negotiation`: what is agreed on when the kernel greets us. Pure.
- `connection`: the device: threads that read requests, and replies.
- `turnstile`: the lock they run under, passed in the order of the kernel's queue.
- `dispatch`: the table of handlers, and what becomes of their errors.
- `names`, `attributes`, `files`, `directories`: the requests, one method each: unpack, call `cascadefs.filesystem`, pack.
- `backing`: versions the kernel reads without us (passthrough).
- `notify`: a thread that lets the kernel forget.
- `mountpoint`: getting mounted.
- `door`: one mount; joins all of these.

Importing this package imports nothing. Measurements behind most choices: docs/KERNEL_DOOR.md.
"""
