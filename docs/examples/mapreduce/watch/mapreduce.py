"""Map, shuffle, reduce: directories are the shuffle, and a marker that is written by count says when to reduce.

A job is `job.json` with the number of texts, `{"texts": 1000}`, and then the texts. Every run counts once, whatever is tried
again and whatever is killed; so the count is right, and `_done` comes behind the last of its part.

    texts/*.txt             -> split    -> shuffle/<part>/<first text>.json     {"texts": 16, "words": {...}}
    shuffle/<part>/*.json   -> gather   -> shuffle/<part>/_done                 once all texts are there
    shuffle/<part>/_done    -> reduce   -> counts/<part>.json
"""

from collections import Counter

from cascadefs.triggers import watch

PARTS = 4


def part_of(word):
    """Where a word goes: the same on every node and in every run, which Python's `hash` is not."""
    return sum(word.encode()) % PARTS


@watch("texts/*.txt", batch=16, wait="20ms", emit="shuffle/")
def split(events, ctx):
    """The words of some texts, by part; of each part one file, an empty one too, for it is counted."""
    parts = [Counter() for _ in range(PARTS)]
    for event in events:
        for word in event.text().lower().split():
            parts[part_of(word)][word] += 1
    for part, words in enumerate(parts):
        ctx.emit(f"{part}/{events[0].stem}.json", {"texts": len(events), "words": words})


@watch("shuffle/*/*.json", key="dir", emit="shuffle/", loop=True)
def gather(event, ctx):
    """Count the texts of a part; when the job's are all there, say so."""
    ctx.state["texts"] = ctx.state.get("texts", 0) + event.json()["texts"]
    if ctx.state["texts"] == ctx.get("job.json").json()["texts"]:
        ctx.emit(f"{event.dir.rpartition('/')[2]}/_done", str(ctx.state["texts"]))


@watch("shuffle/*/_done", emit="counts/")
def reduce(event, ctx):
    """All words of a part. What is counted as done is in this run's cut, because it was there before the marker."""
    total = Counter()
    for path in ctx.list(f"{event.dir}/*.json"):
        total.update(ctx.get(path).json()["words"])
    ctx.emit(f"{event.dir.rpartition('/')[2]}.json", total)
