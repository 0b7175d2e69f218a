"""A skater's hands, from the versions of one picture: ice/frame.npy -> takes/<n> -> hands/<n>-*.npy.

A camera overwrites its file all the time. When a take is over, what the file was until then is read as one tensor: over time
rows, columns, and layers, a hand each.
"""

from lib import tracker

from cascadefs.triggers import watch


@watch("takes/*", emit="hands/", timeout="60s")
def follow(event, ctx):
    """Where the hands were, and where one left its course."""
    path = tracker.follow(ctx.tensor("ice/frame.npy"))
    off_course, is_error = tracker.errors(path)
    ctx.emit(f"{event.name}-path.npy", path)
    ctx.emit(f"{event.name}-off.npy", off_course)
    ctx.emit(f"{event.name}-error.npy", is_error)
