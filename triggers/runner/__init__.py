"""Who executes runs, each a `triggers.run.Runner`.

inproc      in this process: no copy, no protection
pool        in sandboxed worker processes; what the daemon uses, for the others too
settings    what an administrator decides about workers, and how they are
worker      one worker process, as the daemon sees it
gang        several workers that run one event together
union       what those did, as one result
errand      a run on its way to another node, and its result back
executable  runs of executables
launcher    a new worker process, with all that belongs to it
spawner     the daemon's side of the zygote
inputs      content as sealed memory, one copy for all who read it
"""
