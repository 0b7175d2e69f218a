"""Processes that run scripts, and what confines them.

    sealed      memory with a file descriptor that nobody can change any more
    message     what daemon, zygote and worker say to each other, as values
    channel     one message at a time over a SOCK_SEQPACKET socket, descriptors beside it
    landlock    which files a process may touch
    seccomp     which system calls it may make
    cgroup      how much it and all it starts may use together, where a control group is delegated
    limits      how much it may use
    sandbox     all of that in the right order
    network     a loopback that the workers of a gang have to themselves
    reach       an interpreter below a private directory, made reachable for other users
    bubblewrap  the command line that confines an executable
    remote      a cut in the daemon, read from a worker
    process     a worker: loads one script, runs its handlers
    zygote      the process that forks workers

Nothing here imports trio, the store or NumPy at module level: a worker starts by a fork and should be small.
"""
