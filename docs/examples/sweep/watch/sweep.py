"""A sweep: every sweep/<line>.toml has four workers learn a model, and the best of all lines is best.json.

    sweep/<line>.toml -> sweep/<line>/round.json -> sweep/<line>/round.json -> ...
                         sweep/<line>/loss       -> best.json, sweep/<line>/stopped

A round is one event for a gang of four. Each pulls what it needs of the model, learns from two parts of the data, and pushes
its change; all four changes, the loss and what begins the next round are committed as one. So a worker that dies has changed
nothing, and its round is run again.
"""

import tomllib

import numpy as np
from lib import logistic

from cascadefs.triggers import watch

PARTS_A_ROUND = 2
"""Of each worker."""

PUSHED = np.dtype([("column", "<i8"), ("change", "<f4")])

ROUNDS_OF_GRACE = 5


@watch("sweep/*.toml")
def begin(event, ctx):
    """A model of zeros, and the first round."""
    line = event.path.removesuffix(".toml")
    ctx.put(f"{line}/weights", np.zeros(logistic.COLUMNS, "float32"))
    ctx.put(f"{line}/squares", np.zeros(logistic.COLUMNS, "float32"))
    ctx.put(f"{line}/round.json", {"round": 0})


@watch("sweep/*/round.json", gang=4, self=True, loop=True, hops=10_000, timeout="60s")
def train(event, ctx):
    """One round of one worker: pull, learn, push."""
    line, number = event.dir, event.json()["round"]
    asked = tomllib.loads(ctx.get(f"{line}.toml").text())
    parts = ctx.list("parts/*.npz")
    parts, held_out = parts[: asked["parts"]], parts[asked["parts"]]
    first = (number * ctx.world_size + ctx.rank) * PARTS_A_ROUND
    mine = [parts[(first + one) % len(parts)] for one in range(PARTS_A_ROUND)]
    pushed = []
    for file in ctx.prefetch(mine, ahead=PARTS_A_ROUND):
        part = logistic.unpacked(file.data)
        weights = ctx.pull(f"{line}/weights", part.columns)
        squares = ctx.pull(f"{line}/squares", part.columns)
        change, more = logistic.learn(part, weights, squares, asked["rate"], asked["batch"])
        ctx.add(f"{line}/weights", part.columns, change / ctx.world_size)
        ctx.add(f"{line}/squares", part.columns, more)
        pushed += zip(part.columns, change / ctx.world_size, strict=True)
    ctx.put(f"{line}/pushed-{ctx.rank}.npy", np.array(pushed, PUSHED))  # a receipt
    if ctx.rank == 0:
        part = logistic.unpacked(ctx.get(held_out).data)
        likely, *_ = logistic.predict(part, ctx.pull(f"{line}/weights", part.columns))
        base = np.full(len(part.labels), part.labels.mean())
        ctx.put(f"{line}/loss", {
            "loss": logistic.log_loss(part.labels, likely), "base": logistic.log_loss(part.labels, base),
            "round": number, "rate": asked["rate"],
        })  # fmt: skip
        if number + 1 < asked["rounds"] and not ctx.get(f"{line}/stopped", at="latest"):
            ctx.put(event.path, {"round": number + 1})


@watch("sweep/*/loss")
def stop_bad_line(event, ctx):
    """A line that is worse than no model at all after some rounds gets no more of them."""
    found = event.json()
    if found["round"] >= ROUNDS_OF_GRACE and found["loss"] > found["base"]:
        ctx.put(f"{event.dir}/stopped", f"loss {found['loss']:.3f} at round {found['round']}\n")


@watch("re:(?P<all>sweep)/[^/]+/loss", key="group:all", collapse="latest")
def choose(event, ctx):
    """The best of all lines, as of now."""
    lines = {path.split("/")[1]: ctx.get(path).json() for path in ctx.list("sweep/*/loss")}
    best = min(lines, key=lambda line: lines[line]["loss"])
    ctx.put("best.json", {"line": best, **lines[best]})
