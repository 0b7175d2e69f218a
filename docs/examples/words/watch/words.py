"""Word count by directories: texts/ is mapped to shuffle/, shuffle/ is reduced to counts/.

A directory is the shuffle, and `state` the sum of a key: it is always as the key's previous run left it, so a text that is
changed, or a run that is tried again, counts once.
"""

from collections import Counter

from cascadefs.triggers import watch

PARTS = 8


@watch("texts/**/*.txt", kinds=["write", "delete"], emit="shuffle/")
def map_words(event, ctx):
    """The words of a text, by part; empty parts too, since the text may have had words there before."""
    parts = [Counter() for _ in range(PARTS)]
    for word in event.text().lower().split():
        parts[sum(word.encode()) % PARTS][word] += 1
    for number, counts in enumerate(parts):
        ctx.emit(f"{number}/{event.path.replace('/', '%')}.json", counts)


@watch("shuffle/*/*.json", key="dir", emit="counts/")
def reduce_words(event, ctx):
    """The words of a part: take back what this text counted for before, add what it counts for now."""
    total = Counter(ctx.state.get("total", {}))
    texts = ctx.state.setdefault("texts", {})
    total.subtract(texts.get(event.name, {}))
    texts[event.name] = event.json()
    total.update(texts[event.name])
    ctx.state["total"] = {word: count for word, count in total.items() if count}
    ctx.emit(f"{event.dir.rpartition('/')[2]}.json", ctx.state["total"])
