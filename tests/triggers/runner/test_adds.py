"""A vector that many runs add to at a time, their workers being killed: it is the sum of what was acknowledged, to the bit.

Method: the engine with real worker processes over a store in memory; one task kills all of them (SIGKILL) again and again.
Additions are whole multiples of 1/64, so that sums of float32 do not depend on the order.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from tests.triggers.runner.conftest import NOBODY
from triggers.dispatcher import Dispatcher
from triggers.engine import Engine, Options
from triggers.runner.pool import Settings, open_pool
from triggers.testing import Cascade

pytestmark = pytest.mark.slow

COUNT, EVENTS, KILLS = 1 << 18, 60, 15

SCRIPT = """
import numpy as np
from cascadefs.triggers import watch

@watch("steps/*", from_="start", order="none", concurrency=4, attempts=100, backoff="1ms")
def step(event, ctx):
    draw = np.random.default_rng(int(event.name))
    model = ctx.pull("w", draw.integers(0, 1 << 18, 50), at="latest")
    ctx.add("w", draw.integers(0, 1 << 18, 100), draw.integers(-64, 64, 100) / 64)
    ctx.add("w", [0], [1.0])
    return str(len(model))
"""


def expected(events: int) -> np.ndarray:
    twin = np.zeros(COUNT, np.float32)
    for event in range(events):
        draw = np.random.default_rng(event)
        draw.integers(0, COUNT, 50)
        places = draw.integers(0, COUNT, 100)
        np.add.at(twin, places, (draw.integers(-64, 64, 100) / 64).astype(np.float32))
        twin[0] += 1
    return twin


async def test_what_was_acknowledged_is_added_once_whoever_is_killed():
    cascade = Cascade(uid=NOBODY)
    cascade.store.listen(None)
    cascade.put("w", bytes(4 * COUNT))
    cascade.script("step.py", SCRIPT)
    clock = SimpleNamespace(now_ns=time.time_ns)
    engine = Engine(cascade.store, clock, random.Random(1), Options(workers=4, node="test"))
    put = killed = 0
    settings = Settings(workers_max=4, memory_bytes=512 << 20)
    async with (
        open_pool(settings, time.time_ns, time.monotonic_ns) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Dispatcher(engine, pool).run)
        while put < EVENTS or killed < KILLS:
            cascade.put(f"steps/{put}", "x")
            put += 1
            await trio.sleep(0.004)
            busy = [one for some in pool.workers.values() for one in some if one.running]
            if busy and put % 3 == 0:
                with suppress(ProcessLookupError):  # of the last kill
                    os.kill(busy[-1].process.pid, signal.SIGKILL)
                    killed += 1
        while cascade.version("w") < 1 + put:  # noqa: ASYNC110  on the machine's clock
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    np.testing.assert_array_equal(np.frombuffer(cascade.get("w"), "<f4"), expected(put))
    assert cascade.failed == []
    assert cascade.version("w") == 1 + put
