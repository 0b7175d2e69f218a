"""Goal: a run is done once, here or on another replica's node, whatever becomes of that node; nobody waits for who is gone.

Method: the spread over a fake exchange and a fake runner, on trio's own clock; and the exchange's way between two threads' loops.
"""

from __future__ import annotations

import contextlib
import errno
import threading

import msgspec
import pytest
import trio

from cascadefs.host import Shared
from cascadefs.node.exchange import Exchange, Lost, across, standing_from, standing_to
from cascadefs.node.spread import Observer, Spread
from storage.transport import Identity, Role
from triggers.allocation import Standing, bits_of
from triggers.run import Add, Append, Delete, Done, Event, Failed, LogLine, Put, PutIf, Run, Script
from triggers.runner import errand

SCRIPT = Script("v1", "", "s.py", "module", {"s.py": b"", "lib/\udcff.py": b"x"}, 1000, 1000)


def run_of(name: str, key: str = "k") -> Run:
    return Run(name, SCRIPT, "f", "s.f", [Event(name, key, "a/\udcff", 1, 7)], 7)


class FakeCut:
    def __init__(self):
        self.reads = []

    def where(self):
        return 1

    def noted(self, reads):
        self.reads += reads


class FakeStore:
    def now(self):
        return 99


class FakeHome:
    """Does runs here: all that come, one after the other where there is one slot."""

    load = retire = close = None

    def __init__(self):
        self.done = []

    async def run(self, run, cut):
        await trio.sleep(0.01)
        self.done.append(run.id)
        return Done(result=b"here")

    def kill(self, run_id):
        return False


class FakeExchange:
    """Another node, which may be lost in the middle of a run, or never answer."""

    under_way = 0

    def __init__(self, how="well"):
        self.how = how
        self.asked = []
        self.started = trio.Event()

    def partners(self, shard):
        return {"b"}

    async def standing_of(self, name):
        return Standing(slots=2)

    async def hand(self, name, shard, base, run, reached):
        assert (name, shard, base, reached) == ("b", 3, 1, 99)
        self.asked.append(run.id)
        self.started.set()
        if self.how == "lost":
            raise Lost("node b is gone")
        if self.how == "hangs":
            await trio.sleep_forever()
        await trio.sleep(0.01)
        return Done(result=b"there", node=name), [("table", 2, False)]


def spread_of(exchange, *, slots=1, busy=0):
    home = FakeHome()
    observer = Observer(exchange, "a", lambda: Standing(slots=slots, waiting=busy), lambda: {3})
    return Spread(observer, Shared(home, slots), FakeStore(), 3), observer, home


async def see(observer):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observer.run)
        while observer.allocator.nodes != {"b"}:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_runs_that_would_wait_here_are_done_there(autojump_clock):
    exchange = FakeExchange()
    spread, observer, home = spread_of(exchange)
    await see(observer)
    cut, results = FakeCut(), {}

    async def go(name):
        results[name] = await spread.run(run_of(name), cut)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(go, f"{number}")
    assert spread.slots() == 3
    assert sorted(home.done + exchange.asked) == [f"{number}" for number in range(6)]
    assert home.done
    assert exchange.asked
    assert {results[name].node for name in exchange.asked} == {"b"}
    assert cut.reads == [("table", 2, False)] * len(exchange.asked)
    assert (observer.running, observer.away) == (0, 0)


async def test_what_is_lost_there_is_done_here(autojump_clock):
    exchange = FakeExchange("lost")
    spread, observer, home = spread_of(exchange)
    await see(observer)
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(spread.run, run_of(f"{number}"), FakeCut())
    assert sorted(home.done) == [f"{number}" for number in range(4)]
    assert exchange.asked
    assert observer.allocator.nodes == {"a"}


async def test_a_run_there_can_be_killed_and_gives_its_slot_back(autojump_clock):
    exchange = FakeExchange("hangs")
    spread, observer, _ = spread_of(exchange)
    await see(observer)
    results = []

    async def go(name):
        results.append(await spread.run(run_of(name), FakeCut()))

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(go, f"{number}")
        await exchange.started.wait()
        (away,) = exchange.asked
        assert spread.kill(away)
        assert not spread.kill("another")
    assert {getattr(one, "kind", "") for one in results} == {"", "killed"}
    assert isinstance(results[0], Done | Failed)
    assert (observer.running, observer.away, observer.rooms["b"].borrowed_tokens) == (0, 0, 0)


class FakeNode:
    """Names itself; nobody is linked with it."""

    name = "a"


async def test_what_is_no_errand_is_refused_and_says_why():
    none = lambda _: None  # noqa: E731
    exchange = Exchange(FakeNode(), Standing, none, contextlib.nullcontext, none, 4, none)
    peer = Identity("c", Role.NODE, "b")

    async def refused(operation, *parts):
        with pytest.raises(OSError, match=r".") as caught:
            await exchange.serve(peer, operation, [memoryview(part) for part in parts])
        return caught.value.errno

    assert await refused("standing", b"") == errno.EAGAIN, "no scripts run yet"
    exchange.open(FakeHome())
    answer, _ = await exchange.serve(peer, "standing", [memoryview(b"")])
    assert standing_from(memoryview(answer)) == Standing()
    assert await refused("run", b"nonsense") == errno.EPROTO
    assert await refused("run") == errno.EAGAIN
    assert await refused("call", b"") == errno.EOPNOTSUPP
    sent = errand.encode(errand.Errand(run_of("r"), 3, 17, 99))
    assert await refused("run", sent) == errno.EAGAIN, "no replica of that shard"
    exchange._under_way["b"] = {run_of("r").id: trio.CancelScope()}
    with pytest.raises(OSError, match="still under way"):
        await exchange.serve(peer, "run", [memoryview(sent)])
    gang = msgspec.structs.replace(run_of("r"), gang=5)
    with pytest.raises(OSError, match="5 workers"):  # Whoever asks may be a larger machine.
        await exchange.serve(
            peer, "run", [memoryview(errand.encode(errand.Errand(gang, 3, 17, 99)))]
        )
    strict = Exchange(
        FakeNode(), Standing, none, contextlib.nullcontext, lambda uid: f"not {uid}", 4, none
    )
    strict.open(FakeHome())
    with pytest.raises(PermissionError, match="not 1000"):
        await strict.serve(peer, "run", [memoryview(sent)])
    with pytest.raises(Lost, match="no links"):
        await exchange.hand("b", 3, 17, run_of("r"), 99)


def test_an_errand_and_what_comes_back_are_themselves_again():
    sent = errand.Errand(run_of("r"), 3, 17, 99)
    assert errand.decode_errand(errand.encode(sent)) == sent
    large = bytes(100_000)
    done = Done(
        [Put("a", large, 0o600), PutIf("b", b"1", 2), Append("\udcff", b"2"), Delete("d"),
         Add("v", 3, bytes(8), "float32"), Add("w", 0, bytes(8), "float32", bytes(16))],
        {"k": b"s"}, {"e": "why"}, b"out", [LogLine(1, "info", "said")], b"result", 5, 6, [((1, 2), 3)],
    )  # fmt: skip
    reads = [("t", 1, False), ("\udcff", 0, True)]
    data, parts = errand.bring(done, reads)
    returned = errand.decode_returned(data)
    back = errand.outcome_of(returned, memoryview(b"".join(parts)), "b")
    assert returned.reads == reads
    assert back.node == "b"
    assert [bytes(getattr(one, "data", b"")) for one in back.effects] == [
        bytes(getattr(one, "data", b"")) for one in done.effects
    ]
    assert [type(one) for one in back.effects] == [type(one) for one in done.effects]
    assert (back.states, back.failed, back.log, back.models) == (
        done.states, done.failed, done.log, done.models,
    )  # fmt: skip
    failed = Failed("retry", "later", "tb", 5, b"o", [], 1, 2)
    data, parts = errand.bring(failed, [])
    assert parts == []
    assert errand.outcome_of(errand.decode_returned(data), memoryview(b""), "b") == failed
    with pytest.raises(ValueError, match="Invalid enum value"):
        errand.outcome_of(errand.Returned("nonsense"), memoryview(b""), "b")


def test_a_standing_is_itself_again():
    standing = Standing(4, 2, bits_of([(1, 2), ("v1",)]), 1)
    assert standing_from(memoryview(standing_to(standing))) == standing


async def test_across_two_loops_come_results_errors_and_cancellation():
    ready, tokens = threading.Event(), []
    ended = trio.Event()

    async def main():
        tokens.append(trio.lowlevel.current_trio_token())
        stop = trio.Event()
        tokens.append(stop)
        ready.set()
        await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    await trio.to_thread.run_sync(ready.wait)
    token, stop = tokens
    here = trio.lowlevel.current_trio_token()

    async def answer():
        await trio.lowlevel.checkpoint()
        return threading.get_ident()

    async def fail():
        raise KeyError("over there")

    async def forever():
        try:
            await trio.sleep_forever()
        finally:
            here.run_sync_soon(ended.set)

    assert await across(token, answer) == thread.ident
    with pytest.raises(KeyError, match="over there"):
        await across(token, fail)
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 0.05
        await across(token, forever)
    assert scope.cancelled_caught
    await ended.wait()
    token.run_sync_soon(stop.set)
    await trio.to_thread.run_sync(thread.join)
    with pytest.raises(trio.RunFinishedError):
        await across(token, answer)
