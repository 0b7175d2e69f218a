"""Goal: the workers of a gang run one event together, with ranks, a rendezvous and a network of their own; what they do is one result.

Method: a pool of real processes. Collectives are torch's own, on processors. Ends are seen by what has ended, nothing is timed.
"""

from __future__ import annotations

import errno
import io
import json
import os
import time

import numpy as np
import pytest
import trio

from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import NOBODY, members, run_of, script
from triggers.engine import Options
from triggers.run import Add, Append, Delete, Done, Failed, LogLine, Put, PutIf
from triggers.runner.pool import SURPLUS_SECONDS, Settings
from triggers.runner.union import union
from triggers.testing import Cascade

RANKS = 4


@pytest.fixture
def settings():
    return Settings(workers_max=6, memory_bytes=1 << 30)


@pytest.fixture
def cut():
    return DictCut({"a": [b"aaa"], "other": [b"bbb"]})


MEET = '''
from cascadefs.triggers import watch
import json, os, signal, socket, time

def everybody(ctx, said):
    """Each rank's word, by rank: a gather and a broadcast. Once a run, as the port is one."""
    address = ("127.0.0.1", int(os.environ["MASTER_PORT"]))
    if ctx.rank == 0:
        with socket.create_server(address) as door:
            ends = [door.accept()[0].makefile("rwb") for _ in range(ctx.world_size - 1)]
            words = {0: said} | {rank: word for rank, word in (json.loads(end.readline()) for end in ends)}
            for end in ends:
                end.write(json.dumps(words).encode() + b"\\n"); end.close()
        return [words[rank] for rank in range(ctx.world_size)]
    while True:
        try:
            end = socket.create_connection(address).makefile("rwb")
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    end.write(json.dumps([ctx.rank, said]).encode() + b"\\n"); end.flush()
    words = json.loads(end.readline())
    return [words[str(rank)] for rank in range(ctx.world_size)]
'''


def handlers(body: str, id: str = "v1"):
    return script(MEET + body, id)


def gang_run(code, handler, cut, **fields):
    return run_of(code, handler, cut.event("a"), **({"gang": RANKS} | fields))


TALK = handlers('''
@watch("a", gang=4)
def talk(event, ctx):
    pids = everybody(ctx, os.getpid())
    ctx.get("other")
    with open(ctx.rendezvous.removeprefix("file://"), "a") as file:
        file.write("x")
    print("I am", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])
    ctx.put(f"pids/{ctx.rank}", pids)
    ctx.append("ledger", f"{ctx.rank}\\n")
    return f"{ctx.world_size} {event.text()}"

@watch("a", gang=4)
async def atalk(event, ctx):
    ctx.put(f"pids/{ctx.rank}", everybody(ctx, os.getpid()))
''')  # fmt: skip


async def test_ranks_meet_and_what_they_do_is_one_result(pool, cut):
    done = await pool.run(gang_run(TALK, "talk", cut), cut)
    assert isinstance(done, Done), done
    assert done.result == b"4 aaa"
    assert [effect.path for effect in done.effects] == [
        path for rank in range(RANKS) for path in (f"pids/{rank}", "ledger")
    ], "in the order of the ranks"
    assert (
        b"".join(bytes(one.data) for one in done.effects if isinstance(one, Append))
        == b"0\n1\n2\n3\n"
    )
    said = [json.loads(bytes(one.data)) for one in done.effects if isinstance(one, Put)]
    assert all(one == said[0] for one in said)
    assert len(set(said[0])) == RANKS
    assert done.output.decode() == "".join(
        f"rank {rank}: I am {rank} of 4\n" for rank in range(RANKS)
    )
    assert cut.reads.count(("get", "other")) == RANKS, "of one cut"


async def test_a_crew_stays_together_until_it_is_idle_for_long_or_its_script_is_gone(pool, cut):
    for number in range(3):
        assert isinstance(await pool.run(gang_run(TALK, "talk", cut, id=f"{number}"), cut), Done)
    assert pool.spawner.forks == RANKS, "one crew for all three"
    done = await pool.run(gang_run(TALK, "atalk", cut, id="async"), cut)
    assert isinstance(done, Done), done
    assert pool.shrink(time.monotonic_ns()) == 0
    assert pool.shrink(time.monotonic_ns() + (SURPLUS_SECONDS + 1) * 10**9) == RANKS
    await pool.retire(TALK.id)
    while pool.state().workers:
        await trio.lowlevel.checkpoint()
    assert [name for name in os.listdir(pool.spawner._directory) if name.startswith("gang")] == []


async def test_two_gangs_that_fit_only_one_after_the_other_both_run(pool, cut):
    assert pool.settings.workers_max < 2 * RANKS
    codes = [handlers("""
@watch("a", gang=4)
def talk(event, ctx):
    everybody(ctx, 1)
""", id) for id in ("x", "y")]  # fmt: skip
    outcomes = []

    async def go(code, number):
        outcomes.append(await pool.run(gang_run(code, "talk", cut, id=f"{code.id}{number}"), cut))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                for code in codes:
                    nursery.start_soon(go, code, number)
    assert [type(outcome) for outcome in outcomes] == [Done] * 6, outcomes
    too_many = await pool.run(gang_run(codes[0], "talk", cut, gang=7), cut)
    assert (too_many.kind, "6 workers at most" in too_many.message) == ("reject", True)


DIES = handlers('''
@watch("a", gang=4)
def dies(event, ctx):
    pids = everybody(ctx, os.getpid())
    if ctx.rank == 2 and event.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if event.attempt == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    ctx.put(f"out/{ctx.rank}", pids)

@watch("a", gang=4)
def sleeps(event, ctx):
    everybody(ctx, 1)
    time.sleep(3600)

@watch("a", gang=4)
def clashes(event, ctx):
    ctx.put("same", str(ctx.rank))

@watch("a", gang=4)
def leaves(event, ctx):
    if ctx.rank == 1:
        ctx.retry(after=3)
    time.sleep(3600)
''')  # fmt: skip


async def test_the_death_of_one_rank_ends_all_and_the_event_runs_again_whole(pool, cut):
    with trio.fail_after(60):
        failed = await pool.run(gang_run(DIES, "dies", cut), cut)
        assert isinstance(failed, Failed)
        assert failed.kind == "death"
        assert failed.message.startswith("rank 2 of 4: the worker was killed")
        for workers in pool.workers.values():  # whoever slept for an hour has ended, too
            for worker in workers:
                assert members(worker.process.pid) == set()
        again = run_of(DIES, "dies", cut.event("a", attempt=2), id="r~2", gang=RANKS)
        done = await pool.run(again, cut)
    assert isinstance(done, Done), done
    assert [effect.path for effect in done.effects] == [f"out/{rank}" for rank in range(RANKS)]
    assert pool.spawner.forks == 2 * RANKS


async def test_what_ends_one_ends_all_kill_timeout_and_its_own_word(pool, cut):
    outcomes = []

    async def go():
        outcomes.append(await pool.run(gang_run(DIES, "sleeps", cut, id="k"), cut))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            while not pool.kill("k"):
                await trio.lowlevel.checkpoint()
        assert outcomes[0].kind == "killed"
        late = await pool.run(gang_run(DIES, "sleeps", cut, timeout_ms=300), cut)
        assert late.kind == "timeout"
        left = await pool.run(gang_run(DIES, "leaves", cut), cut)
        assert (left.kind, left.after_ms) == ("retry", 3000)
        clash = await pool.run(gang_run(DIES, "clashes", cut), cut)
        assert (clash.kind, clash.message.split(";")[0]) == (
            "exception", "same: rank 0 says put and rank 1 put",
        )  # fmt: skip


async def test_a_gang_that_cannot_be_put_together_leaves_nothing_behind(pool, cut):
    code = handlers("import sys\nfrom cascadefs.triggers import watch\nsys.exit('no')", "broken")
    failed = await pool.run(gang_run(code, "f", cut), cut)
    assert failed.kind == "load"
    assert "SystemExit: no" in failed.message
    while pool.state().workers:
        await trio.lowlevel.checkpoint()
    assert pool._gangs._crews == []
    assert isinstance(await pool.run(gang_run(TALK, "talk", cut), cut), Done)


ALWAYS = handlers("""
@watch("a", gang=4)
def always(event, ctx):
    pass
""")


async def test_workers_that_do_not_know_the_handler_do_not_stay(pool, cut):
    for _ in range(3):  # more than the pool has room for, should they stay
        failed = await pool.run(gang_run(ALWAYS, "never", cut), cut)
        assert (failed.kind, "registers no handler never" in failed.message) == ("load", True)
    while pool.state().workers:
        await trio.lowlevel.checkpoint()
    assert isinstance(await pool.run(gang_run(ALWAYS, "always", cut), cut), Done)


async def test_a_gang_without_room_for_its_directory_takes_no_room_of_others(
    pool, cut, monkeypatch
):
    made = os.mkdir

    def mkdir(path, *arguments):
        if "/gang-" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return made(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", mkdir)
        for _ in range(3):
            failed = await pool.run(gang_run(TALK, "talk", cut), cut)
            assert (failed.kind, "No space left" in failed.message) == ("death", True)
    assert pool.state().workers == 0
    assert isinstance(await pool.run(gang_run(TALK, "talk", cut), cut), Done)


REACH = handlers('''
def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0

@watch("a", gang=4)
def reach(event, ctx):
    everybody(ctx, 1)
    ctx.put(f"{ctx.rank}.json", {
        "machine": refused(lambda: socket.create_connection(("127.0.0.1", PORT), 5)),
        "world": refused(lambda: socket.create_connection(("192.0.2.1", 80), 5)),
        "unix": refused(lambda: socket.socket(socket.AF_UNIX)),
        "packet": refused(lambda: socket.socket(socket.AF_PACKET)),
        "vsock": refused(lambda: socket.socket(socket.AF_VSOCK)),
        "files": refused(lambda: open("/etc/hostname")),
    })

@watch("a")
def alone(event, ctx):
    ctx.put("alone", [refused(lambda: socket.socket()), ctx.rank, ctx.world_size, ctx.rendezvous])
''')  # fmt: skip


async def test_a_gang_reaches_each_other_and_nobody_else(pool, cut):
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        source = REACH.files["s.py"].replace(b"PORT)", b"%d)" % listener.getsockname()[1])
        code = script(source.decode(), "reach")
        done = await pool.run(gang_run(code, "reach", cut), cut)
    assert isinstance(done, Done), done
    EPERM, EACCES, ECONNREFUSED, ENETUNREACH = 1, 13, 111, 101
    for effect in done.effects:
        assert json.loads(bytes(effect.data)) == {
            "machine": ECONNREFUSED,
            "world": ENETUNREACH,
            "unix": EPERM,
            "packet": EPERM,
            "vsock": EPERM,
            "files": EACCES,
        }
    alone = await pool.run(run_of(code, "alone", cut.event("a")), cut)
    for some in pool.workers.values():
        for worker in some:
            assert not {name for name in open_files(worker.process.pid) if name.startswith("net:")}
    assert json.loads(bytes(alone.effects[0].data)) == [EPERM, 0, 1, ""]


TORCH = handlers('''
import numpy as np
import torch
import torch.distributed as dist

@watch("a", gang=4)
def allreduce(event, ctx):
    dist.init_process_group("gloo", init_method=ctx.rendezvous, rank=ctx.rank, world_size=ctx.world_size)
    try:
        mine = torch.from_numpy(np.random.default_rng(ctx.rank).random(1_000_000, np.float32))
        dist.all_reduce(mine)
    finally:
        dist.destroy_process_group()
    ctx.put(f"{ctx.rank}.npy", mine.numpy())

@watch("a", gang=4)
def by_environment(event, ctx):
    dist.init_process_group("gloo")
    mine = torch.tensor([float(ctx.rank)])
    dist.all_reduce(mine)
    dist.destroy_process_group()
    return str(mine.item())

@watch("a", gang=4)
def waits(event, ctx):
    dist.init_process_group("gloo", init_method=ctx.rendezvous, rank=ctx.rank, world_size=ctx.world_size)
    dist.barrier()
    if ctx.rank == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.zeros(1))
''')  # fmt: skip


async def test_torch_reduces_over_the_ranks(pool, cut):
    done = await pool.run(gang_run(TORCH, "allreduce", cut), cut)
    assert isinstance(done, Done), done
    expected = sum(
        np.random.default_rng(rank).random(1_000_000, np.float32) for rank in range(RANKS)
    )
    for effect in done.effects:
        np.testing.assert_allclose(array_of(effect.data), expected, rtol=1e-5)
    by_environment = await pool.run(gang_run(TORCH, "by_environment", cut), cut)
    assert by_environment.result == b"6.0", by_environment
    assert pool.spawner.forks == RANKS
    killed = await pool.run(gang_run(TORCH, "waits", cut), cut)
    assert isinstance(killed, Failed)
    assert killed.message.startswith("rank ")
    assert all(not members(worker.process.pid) for some in pool.workers.values() for worker in some)


FRAGILE = """
@watch("in/*", gang=3, emit="out/", backoff="1ms")
def fragile(event, ctx):
    everybody(ctx, ctx.rank)
    ctx.state["attempt"] = event.attempt
    ctx.emit(f"{event.name}.{ctx.rank}", f"{event.attempt}")
    ctx.append("ledger", f"{event.name} {ctx.rank}\\n")
    ctx.add("sum", 0, [1.0])
    if event.attempt == 1 and ctx.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif event.attempt == 1:
        time.sleep(3600)
"""


async def test_a_gang_is_one_record_and_what_it_began_before_a_death_is_nowhere(pool):
    cascade = Cascade(uid=NOBODY, options=Options(workers=1, gang_max=6), runner=lambda clock: pool)
    cascade.script("fragile.py", MEET + FRAGILE)
    cascade.script("large.py", MEET + FRAGILE.replace("gang=3", "gang=7"))
    await cascade.run_until_idle()
    assert list(cascade.problems) == ["large.py"]
    assert "gang = 7, and this node has 6 workers at most" in cascade.problems["large.py"]
    for name in "xy":
        cascade.put(f"in/{name}", b"")
    await cascade.run_until_idle()
    assert cascade.failed == []
    outputs = [f"out/{name}.{rank}" for name in "xy" for rank in range(3)]
    assert [cascade.versions(path) for path in outputs] == [[b"2"]] * 6
    assert cascade.get("ledger") == b"".join(
        b"%s %d\n" % (name, rank) for name in (b"x", b"y") for rank in range(3)
    )
    assert np.frombuffer(cascade.get("sum"), "<f4").tolist() == [6.0]
    whole = cascade.why("out/x.1")
    assert whole.attempt == 2
    assert set(whole.outputs) == {"out/x.0@v1", "out/x.1@v1", "out/x.2@v1", "ledger@v1", "sum@v1"}


async def test_in_memory_a_gang_is_of_one():
    cascade = Cascade()
    cascade.script("alone.py", """
from cascadefs.triggers import watch

@watch("in/*", gang=4)
def alone(event, ctx):
    ctx.put("out", f"{ctx.rank} of {ctx.world_size}")
""")  # fmt: skip
    await cascade.run_until_idle()
    cascade.put("in/x", b"")
    await cascade.run_until_idle()
    assert cascade.get("out") == b"0 of 1"


def open_files(pid):
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


def array_of(data):
    return np.load(io.BytesIO(bytes(data)), allow_pickle=False)


# --- what goes together, without processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effects", "refused"),
    [
        ([[Put("a", b"")], [Put("b", b"")]], None),
        ([[Append("a", b"1")], [Append("a", b"2")]], None),
        ([[Add("v", 0, bytes(4))], [Add("v", 9, bytes(4))]], None),
        ([[Put("a", b""), Append("a", b"")], []], None),
        ([[Put("a", b""), Append("a", b"")], [Append("a", b"")]], "a: rank 0 says put and rank 1 append"),
        ([[Put("a", b"")], [Put("a", b"")]], "a: rank 0 says put and rank 1 put"),
        ([[], [Delete("a")], [PutIf("a", b"", 1)]], "a: rank 1 says delete and rank 2 put_if"),
        ([[Append("a", b"")], [Add("a", 0, bytes(4))]], "a: rank 0 says append and rank 1 add"),
        ([[Append("a", b"1"), Put("a", b"")], [Append("a", b"")]], "a: rank 0 says put and rank 1 append"),
    ],
)  # fmt: skip
def test_of_one_path_one_rank_may_say_what_becomes_of_it(effects, refused):
    joined = union([Done(some) for some in effects])
    if refused is None:
        assert joined.effects == [effect for some in effects for effect in some]
    else:
        assert joined.kind == "exception"
        assert joined.message.startswith(refused)


def test_states_marks_and_lines_of_the_ranks_are_joined():
    line = LogLine(1, "info", "here")
    one = Done(
        states={"k": b"1"},
        failed={"e": "first"},
        log=[line],
        result=b"",
        started_ns=5,
        duration_ns=1,
    )
    two = Done(
        states={"k": b"1"},
        failed={"e": "second"},
        log=[line],
        result=b"r",
        started_ns=3,
        duration_ns=9,
    )
    joined = union([one, two])
    assert (joined.states, joined.failed, joined.result) == ({"k": b"1"}, {"e": "first"}, b"r")
    assert [line.message for line in joined.log] == ["rank 0: here", "rank 1: here"]
    assert (joined.started_ns, joined.duration_ns) == (3, 9)
    clash = union([one, Done(states={"k": b"2"})])
    assert "state of k: ranks 0 and 1" in clash.message
