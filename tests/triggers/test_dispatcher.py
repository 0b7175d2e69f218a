# ruff: noqa: TID251  trio's clock jumps here, so sleeping takes no time
"""The dispatcher: tasks, time and a runner around the engine, with trio's own clock for tests."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from triggers.dispatcher import Dispatcher
from triggers.engine import Engine, Options
from triggers.run import Done, Put
from triggers.testing import Cascade


class SlowRunner:
    """Each run takes a second; notes how many there are at a time."""

    def __init__(self):
        self.now = self.most = 0
        self.fail = False
        self.seen = []

    async def load(self, script):
        return [{"handler": "f", "watch": ["in/*"], "attempts": 2, "backoff": "10s"}]

    async def run(self, run, cut):
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep(1)
        finally:
            self.now -= 1
        (event,) = run.events
        self.seen.append((event.path, event.attempt))
        if self.fail:
            raise RuntimeError("a bug of the runner")
        return Done([Put(f"out/{event.path}", b"x")])

    def kill(self, run_id):
        return False

    async def retire(self, script_id):
        pass

    async def close(self):
        pass


class TrioClock:
    """Trio's clock, as a wall clock."""

    def now_ns(self) -> int:
        return 1_763_719_200_000_000_000 + int(trio.current_time() * 1e9)


@pytest.fixture
async def stage(nursery):
    cascade = Cascade()
    cascade.store.listen(None)
    cascade.script("s.py", "")
    cascade.put(".cascade/watch/s.py", "pass\n", mode=0o755)
    runner = SlowRunner()
    engine = Engine(cascade.store, TrioClock(), random.Random(1), Options(workers=2))
    dispatcher = Dispatcher(engine, runner)
    nursery.start_soon(dispatcher.run)
    await trio.testing.wait_all_tasks_blocked()
    return cascade, runner, dispatcher


async def test_runs_are_tasks_and_no_more_than_workers(autojump_clock, stage):
    cascade, runner, _ = stage
    for number in range(6):
        cascade.put(f"in/{number}", "")
    await trio.sleep(2.5)
    assert runner.most == 2
    assert len(cascade.files("out")) == 4
    await trio.sleep(1)
    assert len(cascade.files("out")) == 6


async def test_a_commit_from_another_thread_wakes_it(autojump_clock, stage):
    cascade, _, _ = stage
    await trio.to_thread.run_sync(cascade.put, "in/a", "")
    await trio.sleep(1.5)
    assert cascade.files("out") == ["in/a"]


async def test_a_run_is_killed_from_any_thread_in_the_loops_own(autojump_clock, stage):
    cascade, runner, dispatcher = stage
    killed = []

    def kill(run_id):
        killed.append((run_id, trio.lowlevel.current_trio_token()))  # raises on any other thread
        return True

    runner.kill = kill
    cascade.put("in/a", "")
    await trio.sleep(0.5)
    (run_id,) = dispatcher.engine.running
    dispatcher.operator.command(f"kill {run_id}")
    await trio.to_thread.run_sync(dispatcher._kill, run_id)
    await trio.testing.wait_all_tasks_blocked()
    assert killed == [(run_id, trio.lowlevel.current_trio_token())] * 2


async def test_commits_that_concern_nobody_are_gathered_and_an_event_is_still_seen(
    autojump_clock, stage
):
    """Turns are counted: a writer of what no binding wants wakes the dispatcher a few times, not with each commit."""
    cascade, runner, dispatcher = stage
    turns = []
    turn = dispatcher._turn

    async def counted(nursery):
        turns.append(trio.current_time())
        await turn(nursery)

    dispatcher._turn = counted
    for number in range(200):
        cascade.put("elsewhere", str(number))
        await trio.sleep(0.0001)
    assert len(turns) < 40
    cascade.put("in/a", "")  # while commits are being gathered
    await trio.sleep(0.01)
    assert runner.now == 1
    await trio.sleep(60)
    assert cascade.files("out") == ["in/a"]
    known = len(turns)
    await trio.sleep(30)
    assert len(turns) <= known + 1, "nobody looks where nothing is committed, but once a minute"
    cascade.put("in/b", "")
    await trio.testing.wait_all_tasks_blocked()
    assert runner.now == 1, "at once"


async def test_a_runner_that_breaks_is_a_failed_attempt_and_the_rest_goes_on(autojump_clock, stage):
    cascade, runner, _ = stage
    runner.fail = True
    cascade.put("in/a", "")
    await trio.sleep(5)
    runner.fail = False
    cascade.put("in/b", "")
    await trio.sleep(20)
    assert runner.seen == [("in/a", 1), ("in/b", 1), ("in/a", 2)]
    assert cascade.files("out") == ["in/a", "in/b"]


async def test_cancelled_it_leaves_what_runs_undone(autojump_clock):
    cascade = Cascade()
    cascade.store.listen(None)
    cascade.put(".cascade/watch/s.py", "pass\n", mode=0o755)
    runner = SlowRunner()
    engine = Engine(cascade.store, TrioClock(), random.Random(1), Options(workers=2))
    with trio.move_on_after(0.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Dispatcher(engine, runner).run)
            await trio.testing.wait_all_tasks_blocked()
            cascade.put("in/a", "")
    assert cascade.files("out") == []
    engine = Engine(cascade.store, TrioClock(), random.Random(1), Options(workers=2))
    with trio.move_on_after(2.5):
        await Dispatcher(engine, runner).run()
    assert cascade.files("out") == ["in/a"]
