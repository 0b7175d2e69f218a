"""What a script meets: the `watch` decorator, its event, its context.

    copies      every copy of content made on the way to a handler, counted
    collector   `watch`, and what a module registers
    importer    a script and its `lib/`, imported from memory
    blob        bytes and the ways to look at them
    frames      versions as data, not read yet
    tensor      arrays along time, made of them
    table       rows, and questions in SQL, made of them
    prefetch    files that are read while a handler computes
    device      arrays on a GPU, or NumPy's where there is none, kept by (path, version)
    transfer    how numbers get there
    effects     what a run has staged, and its own reads of that
    event       the event as a handler sees it
    context     `ctx`
    invocation  one call of a handler: arguments before it, result or failure after it

Does no I/O of its own: content comes from a `triggers.run.Cut`, what a run leaves is a `triggers.run.Done`. So the
same code runs in the daemon, in a worker process and in a test. Only this file is loaded by `import watch`; NumPy is
loaded when a handler asks for an array.
"""

from triggers.handler.collector import watch

__all__ = ["watch"]
