"""Goal: the words of a thousand files are counted right while workers are killed in the middle.

Method: the example of docs/ in real workers, over the in-memory store; the dumb twin is a Counter.
"""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from tests.triggers.runner.conftest import NOBODY
from tests.triggers.test_examples import Murderer, in_workers, install
from triggers.engine import Options
from triggers.testing import Cascade

TEXTS = 1000
WORDS = [a + b + c for a in "bcdfg" for b in "aeiou" for c in ("t", "st", "mp")]


def texts_of(seed: int, count: int) -> dict[str, str]:
    draw = random.Random(seed)
    return {
        f"{number:04}.txt": " ".join(draw.choices(WORDS, k=draw.randrange(30)))
        for number in range(count)
    }


def counted(parts: list[bytes]) -> Counter[str]:
    found = [json.loads(part) for part in parts]
    assert sum(map(len, found)) == len(set().union(*found)), "a word is in one part"
    return sum(map(Counter, found), Counter())


@pytest.mark.slow
async def test_words_of_a_thousand_files_are_counted_while_workers_are_killed():
    async with in_workers() as (_, pool):
        murderer = Murderer(pool, every=25)
        options = Options(workers=2, node="test")
        cascade = Cascade(uid=NOBODY, options=options, runner=lambda clock: murderer)
        install(cascade, "mapreduce")
        await cascade.run_until_idle()
        assert cascade.problems == {}
        texts = texts_of(seed=1, count=TEXTS)
        cascade.put("job.json", json.dumps({"texts": TEXTS}))
        for name, text in texts.items():
            cascade.put(f"texts/{name}", text)
        await cascade.run_until_idle()
    assert murderer.killed > 5
    assert cascade.failed == []
    parts = cascade.files("counts")
    assert [cascade.version(f"counts/{part}") for part in parts] == [1] * 4, "reduced once"
    total = counted([cascade.get(f"counts/{part}") for part in parts])
    assert total == Counter(word for text in texts.values() for word in text.split())
