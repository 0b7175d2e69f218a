"""Goal: workers are started rarely, copy rarely, and whatever ends one is told and leaves nothing behind.

Method: a pool of real processes; forks and copies are counted, nothing is timed.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio

from storage.errors import Corruption, Reason, Refused
from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import NOBODY, members, run_of, script
from triggers.run import Done, Failed, LoadFailed, Put
from triggers.runner.pool import IDLE_SECONDS, SURPLUS_SECONDS

MIB = 1 << 20


@pytest.fixture
def cut():
    return DictCut({"a": [b"aaa", b"bbb"], "large": [bytes(64 * MIB)]})


def handlers(body: str, **lib: str):
    return script(
        "from cascadefs.triggers import watch\nimport os, signal, sys, time\n" + body, **lib
    )


NOOP = handlers("""
@watch("a")
def f(event, ctx): pass

@watch("b")
def out(event, ctx): ctx.put("o", bytes(64 << 20)); return f"{len(event.data)} {os.getpid()}"

@watch("c")
async def g(event, ctx): pass
""")


async def test_a_loaded_script_is_warm_and_one_worker_serves_all_that_comes(pool, cut):
    await pool.load(NOOP)
    for number in range(20):
        assert isinstance(
            await pool.run(run_of(NOOP, "f", cut.event("a"), id=f"{number}"), cut), Done
        )
    assert pool.spawner.forks == 1
    assert pool.state().workers == 1
    assert pool.state().problems == []


async def test_content_is_copied_once_whoever_reads_it_and_results_once(pool, cut):
    await pool.load(NOOP)
    pool.copies.taken()
    for number in range(3):
        run = run_of(NOOP, "out", cut.event("large"), id=f"{number}")
        done = await pool.run(run, cut)
        assert done.result.startswith(b"%d " % (64 * MIB))
    # The input once, into memory that workers map; each result once, into memory that the store maps.
    assert pool.copies.taken() == (4, 4 * 64 * MIB)


async def test_a_result_is_the_workers_own_memory_and_outlives_the_worker(pool, cut):
    done = await pool.run(run_of(NOOP, "out", cut.event("a")), cut)
    await pool.retire(NOOP.id)
    (put,) = done.effects
    assert isinstance(put.data, memoryview)
    assert put.data.readonly
    assert put.data.nbytes == 64 * MIB
    assert bytes(put.data[:3]) == bytes(3)


async def test_workers_belong_to_one_caller_of_handlers_and_come_back(pool, cut):
    for handler in ("f", "g", "f", "g"):
        assert isinstance(await pool.run(run_of(NOOP, handler, cut.event("a")), cut), Done)
    assert pool.spawner.forks == 2


MEET = """
import trio
waiting = []
@watch("a")
async def meet(event, ctx):
    print("run", event.key)
    waiting.append(trio.Event())
    if len(waiting) < 3:
        await waiting[-1].wait()
    for other in waiting:
        other.set()
    print("end", event.key)
"""


async def test_coroutines_interleave_in_one_worker_and_their_output_is_told_apart(pool, cut):
    meet, outcomes = handlers(MEET), {}

    async def go(key):
        run = run_of(meet, "meet", cut.event("a", key=key), id=key, inflight=3)
        outcomes[key] = await pool.run(run, cut)

    await pool.load(meet)
    async with trio.open_nursery() as nursery:
        for key in "xyz":
            nursery.start_soon(go, key)
    assert pool.spawner.forks == 1
    for key, outcome in outcomes.items():
        assert outcome.output == f"run {key}\nend {key}\n".encode(), outcome


async def test_room_is_bounded_and_made_by_ending_who_is_idle(pool, cut):
    for number in range(6):
        one = handlers(f"@watch('a')\ndef f(event, ctx): ctx.put('n', '{number}')", id=f"s{number}")
        done = await pool.run(run_of(one, "f", cut.event("a")), cut)
        assert done.effects == [Put("n", b"%d" % number)]
        assert pool.state().workers <= pool.settings.workers_max
    assert pool.spawner.forks == 6


async def test_waiting_for_room_ends_when_there_is_some(pool, cut):
    outcomes = []

    async def go(number):
        run = run_of(NOOP, "out", cut.event("a"), id=f"{number}")
        outcomes.append(await pool.run(run, cut))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(go, number)
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert len({outcome.result for outcome in outcomes}) <= pool.settings.workers_max
    assert pool.spawner.forks <= pool.settings.workers_max


async def test_a_busy_worker_is_waited_for_rather_than_anothers_warm_one_ended(pool, cut):
    pool.settings = msgspec.structs.replace(pool.settings, workers_max=2)
    for handler in ("f", "g"):
        await pool.run(run_of(NOOP, handler, cut.event("a")), cut)
    async with trio.open_nursery() as nursery:
        for number in range(6):
            run = run_of(NOOP, "f", cut.event("a"), id=f"{number}")
            nursery.start_soon(pool.run, run, cut)
    assert pool.spawner.forks == 2


async def test_idle_workers_end_all_but_one_soon_and_that_one_later(pool, cut):
    for handler in ("f", "g"):
        await pool.run(run_of(NOOP, handler, cut.event("a")), cut)
    (workers,) = pool.workers.values()
    idle_ns = [worker.idle_since_ns for worker in workers]
    second = 1_000_000_000
    assert pool.shrink(min(idle_ns)) == 0
    assert pool.shrink(max(idle_ns) + SURPLUS_SECONDS * second) == 1
    assert pool.shrink(max(idle_ns) + SURPLUS_SECONDS * second) == 0
    assert pool.shrink(max(idle_ns) + IDLE_SECONDS * second) == 1
    while pool.state().workers:
        await trio.lowlevel.checkpoint()
    assert isinstance(await pool.run(run_of(NOOP, "f", cut.event("a")), cut), Done)


MODELS = handlers("""
@watch("a")
def f(event, ctx):
    ctx.gpu(f"models/{event.key}.npy")
    if event.version == 1:
        time.sleep(0.3)
    return str(os.getpid())
""")


async def test_a_run_goes_to_the_worker_that_holds_its_model(pool):
    file = io.BytesIO()
    np.save(file, np.zeros(20_000))
    model = file.getvalue()
    cut = DictCut({"a": [b"", b""], "models/x.npy": [model], "models/y.npy": [model]})
    pids = {}

    async def go(key, version):
        run = run_of(MODELS, "f", cut.event("a", version, key=key), id=f"{key}{version}")
        done = await pool.run(run, cut)
        assert [size for _, size in done.models] == [len(model)]
        assert pids.setdefault(key, done.result) == done.result

    async with trio.open_nursery() as nursery:
        for key in "xy":
            nursery.start_soon(go, key, 1)
    for key in "xyyxxxyx":
        await go(key, 2)
    assert len(set(pids.values())) == pool.spawner.forks == 2


async def test_a_retired_version_ends_and_another_takes_its_place(pool, cut):
    await pool.load(NOOP)
    ((worker,),) = pool.workers.values()
    await pool.retire(NOOP.id)
    await worker.process.exited.wait()
    assert worker.process.exit.code == 0


# --- how runs end -----------------------------------------------------------------------------------------------------

ENDS = handlers("""
import trio

@watch("a")
def forever(event, ctx):
    print("begun", flush=True)
    try:
        while True:
            time.sleep(60)
    finally:
        print("cleaned")

@watch("b")
def stubborn(event, ctx):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.get("a")
    while True: pass

@watch("c")
async def sleeper(event, ctx):
    await ctx.get("a")
    await trio.sleep_forever()

@watch("c")
async def nested(event, ctx):
    await ctx.get("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while it is cancelled")

@watch("d")
def leave(event, ctx):
    print("leaving")
    sys.stdout.flush()
    os._exit(7)

@watch("e")
def crash(event, ctx):
    print("crashing", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

@watch("f")
def killed(event, ctx): os.kill(os.getpid(), signal.SIGKILL)

@watch("g")
def hog(event, ctx):
    try:
        held = bytearray(1 << 30)
    except MemoryError:
        raise

@watch("h")
def exits(event, ctx): sys.exit("no more")

@watch("ok")
def ok(event, ctx): return str(os.getpid())

@watch("aok")
async def aok(event, ctx): return str(os.getpid())
""")


@pytest.mark.parametrize(
    ("handler", "kind", "message", "output"),
    [
        ("leave", "exit", "status 7", b"leaving\n"),
        ("crash", "signal", "SIGSEGV", b"crashing\n"),
        ("killed", "death", "SIGKILL", b""),
        ("hog", "memory", "MemoryError", b""),
        ("exits", "exit", "no more", b""),
    ],
)
async def test_whatever_ends_a_run_is_told_and_the_next_run_is_not_harmed(
    pool, cut, handler, kind, message, output
):
    failed = await pool.run(run_of(ENDS, handler, cut.event("a")), cut)
    assert isinstance(failed, Failed)
    assert failed.kind == kind, failed
    assert message in failed.message
    assert failed.output == output
    assert isinstance(await pool.run(run_of(ENDS, "ok", cut.event("a")), cut), Done)


@pytest.mark.parametrize("handler", ["forever", "sleeper"])
async def test_time_over_ends_a_run(pool, cut, handler):
    await pool.load(ENDS)
    failed = await pool.run(run_of(ENDS, handler, cut.event("a"), timeout_ms=50), cut)
    assert (failed.kind, failed.message) == ("timeout", "no end after 50 ms")
    again = "ok" if handler == "forever" else "aok"
    assert isinstance(await pool.run(run_of(ENDS, again, cut.event("a")), cut), Done)
    # A coroutine is cancelled and its worker lives on; a plain handler ends with its worker.
    assert pool.spawner.forks == (2 if handler == "forever" else 1)


async def begin(pool, cut, nursery, handler, id="r~1"):
    """Start a run and wait until it has read something; its outcome will be in the list."""
    reached, outcome = trio.Event(), []
    read = cut.get

    def get(path, **options):
        reached.set()
        return read(path, **options)

    cut.get = get

    async def go():
        outcome.append(await pool.run(run_of(ENDS, handler, cut.event("a"), id=id), cut))

    nursery.start_soon(go)
    await reached.wait()
    return outcome


@pytest.mark.parametrize("handler", ["stubborn", "sleeper", "nested"])
async def test_a_run_can_be_killed_whether_it_listens_or_not(pool, cut, handler):
    async with trio.open_nursery() as nursery:
        outcome = await begin(pool, cut, nursery, handler)
        assert pool.kill("r~1")
    assert [failed.kind for failed in outcome] == ["killed"]
    if handler != "stubborn":  # a cancelled coroutine costs no worker
        assert isinstance(await pool.run(run_of(ENDS, "aok", cut.event("a")), cut), Done)
        assert pool.spawner.forks == 1
    assert not pool.kill("r~1")


async def test_a_plain_handler_may_clean_up_when_its_time_is_over(pool, cut):
    await pool.load(ENDS)
    failed = await pool.run(run_of(ENDS, "forever", cut.event("a"), timeout_ms=300), cut)
    assert failed.kind == "timeout"
    assert failed.output == b"begun\ncleaned\n"


@pytest.mark.parametrize("handler", ["stubborn", "sleeper"])
async def test_a_cancelled_call_kills_the_run(pool, cut, handler):
    async with trio.open_nursery() as nursery:
        outcome = await begin(pool, cut, nursery, handler)
        ((worker,),) = pool.workers.values()
        nursery.cancel_scope.cancel()
    assert outcome == []
    await worker.process.exited.wait()
    assert isinstance(await pool.run(run_of(ENDS, "ok", cut.event("a")), cut), Done)


async def test_workers_die_with_their_zygote_and_another_zygote_takes_over(pool, cut):
    async with trio.open_nursery() as nursery:
        outcome = await begin(pool, cut, nursery, "sleeper")
        os.kill(pool.spawner.zygote.pid, signal.SIGKILL)
    assert [failed.kind for failed in outcome] == ["death"]
    assert isinstance(await pool.run(run_of(ENDS, "ok", cut.event("a")), cut), Done)


async def test_a_script_that_dies_while_loading_is_told(pool, cut):
    with pytest.raises(LoadFailed, match="status 9"):
        await pool.load(script("import os\nprint('ouch', flush=True)\nos._exit(9)"))
    assert isinstance(await pool.run(run_of(NOOP, "f", cut.event("a")), cut), Done)


# --- who says what ----------------------------------------------------------------------------------------------------

LIAR = handlers("""
import socket, stat
def channel():
    fds = (int(n) for n in os.listdir("/proc/self/fd"))
    return next(fd for fd in range(64) if is_socket(fd))
def is_socket(fd):
    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError: return False

@watch("a")
def garbage(event, ctx): os.write(next(filter(is_socket, range(64))), b"Dgarbage"); time.sleep(60)

@watch("b")
def unsealed(event, ctx):
    from triggers.worker.channel import Channel
    from triggers.worker.message import Finished, Place, WireEffect, ToWorker
    end = socket.socket(fileno=next(filter(is_socket, range(64))))
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.write(loose, bytes(10000))
    Channel(end, ToWorker).send(
        Finished(ctx.run_id, "", effects=[WireEffect("put", "x", Place(0, 10000))]), [loose]
    )
    time.sleep(60)

@watch("c")
def other(event, ctx):
    from triggers.worker.message import Ask
    from triggers.worker.remote import RemoteCut
    desk = ctx._cut._desk
    try:
        desk.ask(Ask("somebody's", "get", "a"))
    except OSError as error:
        ctx.put("x", str(error))
""")


@pytest.mark.parametrize("handler", ["garbage", "unsealed"])
async def test_a_worker_that_breaks_the_protocol_is_ended_and_its_run_has_no_effect(
    pool, cut, handler
):
    failed = await pool.run(run_of(LIAR, handler, cut.event("a")), cut)
    assert isinstance(failed, Failed), failed
    assert failed.kind == "death"
    assert "broke the protocol" in failed.message


async def test_a_worker_reads_at_the_cut_of_its_own_runs_only(pool, cut):
    done = await pool.run(run_of(LIAR, "other", cut.event("a")), cut)
    assert done.effects == [Put("x", b"the run has ended")]


@pytest.mark.parametrize("error", [Corruption("shard 0, segment 3"), Refused(Reason.ABSENT)])
async def test_what_cannot_be_read_is_the_handlers_to_meet_and_the_worker_goes_on(pool, error):
    class Damaged(DictCut):
        def get(self, path, *, latest=False, span=None):
            raise error

        def event_content(self, event, *, span=None):
            raise error

    cut = Damaged({"a": [b"a"]})
    code = handlers("""
@watch("a")
def reads(event, ctx):
    if event.attempt == 1:
        ctx.get("b")
    try:
        event.data
    except OSError as error:
        return f"{os.getpid()} {error}"

@watch("b")
def pid(event, ctx): return str(os.getpid())
""")
    failed = await pool.run(run_of(code, "reads", cut.event("a")), cut)
    assert isinstance(failed, Failed)
    assert failed.message == f"OSError: {error}"
    done = await pool.run(run_of(code, "reads", cut.event("a", attempt=2), id="r~2"), cut)
    pid, _, said = done.result.decode().partition(" ")
    assert said == str(error)
    cut = DictCut({"b": [b"b"]})
    assert (await pool.run(run_of(code, "pid", cut.event("b")), cut)).result.decode() == pid


async def test_root_and_inproc_are_refused_unless_allowed(pool, cut):
    rooted = msgspec.structs.replace(NOOP, uid=0)
    with pytest.raises(LoadFailed, match="belongs to root"):
        await pool.load(rooted)
    failed = await pool.run(run_of(rooted, "f", cut.event("a")), cut)
    assert failed.kind == "load"
    failed = await pool.run(run_of(NOOP, "f", cut.event("a"), sandbox="inproc"), cut)
    assert (failed.kind, failed.message) == ("load", 'sandbox = "inproc" is not allowed here')
    pool.settings = msgspec.structs.replace(pool.settings, allow_inproc=True)
    done = await pool.run(run_of(NOOP, "out", cut.event("a"), sandbox="inproc"), cut)
    assert done.result == b"3 %d" % os.getpid()


async def test_the_owner_of_the_script_runs_it(pool, cut):
    who = handlers(
        "@watch('a')\ndef f(event, ctx): return f'{os.getuid()} {os.geteuid()} {os.getgid()}'"
    )
    done = await pool.run(run_of(who, "f", cut.event("a")), cut)
    assert done.result == b"%d %d %d" % (NOBODY, NOBODY, who.gid)


DAEMON = """
import sys, time
import trio
sys.path.insert(0, {root!r})
from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import run_of, script
from triggers.runner.pool import Settings, open_pool

SOURCE = '''
from cascadefs.triggers import watch
import os, subprocess, time
@watch("a")
def f(event, ctx):
    subprocess.Popen(["sleep", "1000"])
    ctx.put(f"{{os.getpgrp()}}", b"")
    ctx.get("a")
    time.sleep(1000)
'''

class Cut(DictCut):
    def get(self, path, latest=False, span=None):
        ((worker,),) = pool.workers.values()
        print(worker.process.pid, pool._directory, flush=True)

async def main():
    global pool
    async with open_pool(Settings(), time.time_ns, time.monotonic_ns) as pool:
        cut = Cut({{"a": [b"a"]}})
        await pool.run(run_of(script(SOURCE), "f", cut.event("a")), cut)

trio.run(main)
"""


def test_a_killed_daemon_leaves_no_process_and_no_file_behind():
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", DAEMON.format(root=root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        number, directory = daemon.stdout.readline().split()
        group = int(number)
        assert len(members(group)) == 2
        assert os.path.isdir(directory)
        daemon.kill()
    while members(group) or os.path.exists(directory):
        time.sleep(0.001)


AHEAD = """
    from cascadefs.triggers import watch

    @watch("ahead/*")
    def ahead(event, ctx):
        import time
        for number, file in enumerate(ctx.prefetch([f"{event.name}/{n}" for n in range(60)], ahead=40)):
            assert file.path == f"{event.name}/{number}"
            assert bytes(file.data) == file.path.encode() * (5_000 + 5_000 * (number % 2)), file.path
            if number == 0:
                time.sleep(0.2)  # answers wait for room meanwhile
    """


async def test_what_waits_to_be_sent_is_kept_open_whatever_others_ask(pool, monkeypatch):
    monkeypatch.setattr("triggers.runner.inputs.INPUT_COUNT_MAX", 1)
    names = ["a", "b", "c"]
    files = {
        f"{name}/{n}": [
            f"{name}/{n}".encode() * (5_000 + 5_000 * (n % 2))
        ]  # in the message, and beside it
        for name in names
        for n in range(60)
    }
    cut = DictCut({**files, **{f"ahead/{name}": [b""] for name in names}})
    made = script(AHEAD)
    await pool.load(made)
    outcomes = []

    async def go(name):
        run = run_of(made, "ahead", cut.event(f"ahead/{name}"), id=f"r~{name}")
        outcomes.append(await pool.run(run, cut))

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(go, name)
    assert [type(outcome) for outcome in outcomes] == [Done] * 3, outcomes
