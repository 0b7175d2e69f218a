"""A dairy: every camera frame of a cow becomes a health record, and two bad ones of three an alert.

    frames/*.npy -> cows-seen/*.npy -> cows/<cow>/frame.npy -> health/<cow>.json -> alerts/<cow>.json
                                                            -> daily/<field>/<cow>

A frame is a NumPy record of a coat (64x64) and an udder's thermogram (32x32). The model that tells cows apart is a file:
write a new one and it counts from the next frame on, while frames before it keep the one they were seen with.
"""

from lib import herd

from cascadefs.triggers import watch


@watch("frames/*.npy", emit="cows-seen/", timeout="5s")
def filter_empty(event, ctx):
    """Let frames with a cow in them pass."""
    if herd.contrast(event.array(herd.FRAME)["coat"]) >= herd.CONTRAST_MIN:
        ctx.emit(event.name, event.data)


@watch("cows-seen/*.npy", timeout="5s")
async def identify(event, ctx):
    """Whose coat it is, by the model at the cut."""
    model = ctx.gpu("models/identify.npz")
    cow = herd.nearest(ctx.xp, model, event.array(herd.FRAME)["coat"])
    await ctx.put(f"cows/{cow}/frame.npy", event.data)


@watch("re:cows/(?P<cow>[0-9]+)/frame[.]npy", emit="health/")
def mastitis(event, ctx):
    """One quarter of the udder warmer than the others."""
    rise = herd.warmest(event.array(herd.FRAME)["udder"])
    found = {"frame": event.ref, "rise": round(rise, 3), "mastitis": rise >= herd.RISE_MIN}
    ctx.emit(f"{event.match['cow']}.json", found | {"cut": ctx.timestamp})


@watch("re:cows/(?P<cow>[0-9]+)/frame[.]npy")
def milk(event, ctx):
    """What the cow gave today, from the milking parlour's table: a line each time she is seen."""
    today = herd.table(ctx.get("milk.csv").text())
    cow = event.match["cow"]
    for field, amount in today[cow].items():
        ctx.append(f"daily/{field}/{cow}", f"{amount} {ctx.timestamp}\n")


@watch("health/*.json", emit="alerts/")
def alert(event, ctx):
    """Two of the last three records are bad."""
    records = ctx.history(event.path, limit=3)
    bad = [ctx.get(event.path, version=record.version).json()["mastitis"] for record in records]
    if sum(bad) >= 2:
        ctx.emit(event.name, {"cow": event.stem, "records": [record.version for record in records]})
