"""Goal: a script means the same wherever it runs. Method: one suite over every runner of modules."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import run_of, script
from triggers.handler.effects import encode
from triggers.run import Add, Append, Delete, Done, Failed, LoadFailed, Put
from triggers.runner.inproc import InprocRunner
from triggers.runner.pool import open_pool

SOURCE = """
from cascadefs.triggers import watch
from lib.scale import scaled

@watch("plain/*", emit="out/", timeout="5s")
def plain(event, ctx):
    print("seen", event.path)
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    model = ctx.get("model")
    assert ctx.get("model", version=1).text() == "one"
    assert ctx.get("model", version=3) is None
    total = int(event.array("int32").sum())
    ctx.emit(event.stem, {"sum": scaled(total), "n": ctx.state["n"], "model": model.version})
    ctx.put("big", bytes(event.data) * 2)
    ctx.append("log", b"x")
    ctx.delete("gone")
    ctx.log("done", total=total)
    return f"{len(ctx.list('model*'))} {len(ctx.history('model'))} {ctx.stat('model').size} {ctx.get('none')}"

@watch("trio/*", emit="out/")
async def in_trio(event, ctx):
    import trio
    await trio.lowlevel.checkpoint()
    await coroutine(event, ctx)

@watch("asyncio/*", runtime="asyncio", emit="out/")
async def in_asyncio(event, ctx):
    import asyncio
    await asyncio.sleep(0)
    await coroutine(event, ctx)

async def coroutine(event, ctx):
    print("seen", event.path)
    model = await ctx.get("model")
    latest = await ctx.get("model", at="latest")
    versions = await ctx.history("model")
    names = await ctx.list("model*")
    await ctx.emit(event.stem, [model.version, latest.version, len(versions), names])

@watch("errors/*")
def errors(event, ctx):
    for path in ("secret", "directory/"):
        try:
            ctx.get(path)
        except (PermissionError, IsADirectoryError) as error:
            ctx.log(f"{type(error).__name__}: {error}")

@watch("raise/*")
def raises(event, ctx):
    ctx.put("x", b"never")
    print("before")
    raise KeyError("here")

@watch("again/*")
def again(event, ctx):
    ctx.retry(after=2)

@watch("never/*")
def never(event, ctx):
    ctx.reject("no cow")

@watch("batch/*", batch=8)
def batch(events, ctx):
    for event in events:
        event.state["seen"] = event.version
        if bytes(event.data) == b"bad":
            event.fail("bad")
    ctx.put("count", str(len(events)))

@watch("gpu/*")
def model(event, ctx):
    first = ctx.gpu("model")
    ctx.put("same", str(first is ctx.gpu("model")) + str(first.sum()))

@watch("ahead/*")
def ahead(event, ctx):
    ctx.put("own", b"mine")
    paths = (path for path in [*ctx.list("part/*"), "none", "own"])
    seen = []
    for batch in ctx.prefetch(paths, batch=3, ahead=1):
        seen += [None if file is None else [file.path, file.version, file.text()] for file in batch]
    for file in ctx.prefetch(["secret", "model", "part/1"], ahead=3):
        break  # what else was asked for is nobody's
    ctx.put("seen", seen)

@watch("ahead-trio/*")
async def ahead_in_trio(event, ctx):
    ctx.put("seen", [None if file is None else file.text() async for file in ctx.prefetch(some_paths(), ahead=30)])

def some_paths():
    return [f"part/{number}" for number in range(40)]

@watch("vector/*")
def vector(event, ctx):
    first = ctx.pull("w", [3, 0, 3, 900_000], dtype="int32")
    ctx.add("w", [1, 1, 2], [10, 20, 30], dtype="int32")
    ctx.add("w", 0, [5], dtype="int32")
    mine = ctx.pull("w", range(4), dtype="int32")
    now = ctx.pull("w2", [[0], [1]], dtype="int32", at="latest")
    try:
        ctx.pull("nothing", 0)
    except FileNotFoundError as error:
        ctx.log(str(error))
    ctx.put("pulled", [first, mine, now])

@watch("vector-trio/*")
async def vector_in_trio(event, ctx):
    ctx.put("pulled", (await ctx.pull("w", [3, 0], dtype="int32")).tolist())

@watch("cube/*")
def cube(event, ctx):
    import numpy as np
    frames = ctx.tensor("cam/*.npy")
    part = frames[1:3, ..., 0]
    mean = ctx.sql(
        "select avg(json_extract(text_of(path, version), '$.fat')::double) as mean from versions where path = $p",
        "fat/*", until=2, p="fat/7.json",
    )
    rows = ctx.table("fat/*", 1, 1).arrow.to_pylist()
    ctx.put("cube", [len(frames), part.tolist(), frames.opened, mean.arrow["mean"][0].as_py(), mean.opened,
        [row["fat"] for row in rows], frames.to_xarray("y", "x").dims, float(np.from_dlpack(frames).sum())])

@watch("cube-trio/*")
async def cube_in_trio(event, ctx):
    answer = await ctx.sql("select count(*) as n from versions", "fat/*")
    rows = await ctx.table("fat/*")
    ctx.put("cube", [answer.arrow["n"][0].as_py(), len(rows), len(ctx.tensor("cam/*"))])

@watch("parts/*")
def parts(event, ctx):
    ctx.put("own", b"staged")
    with ctx.open("own") as own, ctx.open(event.path, version=1) as file:
        file.seek(-3, 2)
        end = file.read().decode()
        file.seek(5_000_000)
        middle = file.read(1).decode()
        ctx.put("seen", [own.read(3).decode(), end, middle, file.seek(0, 2), file.read().decode()])
    for read in (lambda: event.data, lambda: ctx.get(event.path), lambda: ctx.open("none")):
        try:
            ctx.log(str(len(read())))
        except OSError as error:
            ctx.log(str(error))

@watch("late/*")
async def late(event, ctx):
    import trio
    await trio.sleep_forever()
"""
SCRIPT = script(SOURCE, scale="def scaled(x): return 10 * x")
NUMBERS = np.arange(5000, dtype="<i4").tobytes()


@pytest.fixture(params=["inproc", "threads", "pool"])
async def runner(request, settings):
    clocks = time.time_ns, time.monotonic_ns
    if request.param == "pool":
        async with open_pool(settings, *clocks) as pool:
            yield pool
    else:
        inproc = InprocRunner(*clocks, in_threads=request.param == "threads")
        yield inproc
        await inproc.close()


@pytest.fixture
def cut():
    cut = DictCut({"model": [b"one", b"two!", b"three"], "secret": [b"s"]}, timestamp=2)
    cut.forbidden = {"secret"}
    for path in ("plain/1.npy", "trio/1.npy", "asyncio/1.npy"):
        cut.files_[path] = [NUMBERS]
    for path in ("errors/1", "raise/1", "again/1", "never/1", "gpu/1", "late/1"):
        cut.files_[path] = [b""]
    return cut


async def test_every_runner_says_and_does_the_same(runner, cut):
    tables = await runner.load(SCRIPT)
    assert tables[0] == {
        "watch": ["plain/*"],
        "emit": "out/",
        "timeout": "5s",
        "handler": "plain",
    }
    assert len(tables) == 17

    async def go(handler, path, **fields):
        return await runner.run(run_of(SCRIPT, handler, cut.event(path), **fields), cut)

    done = await go("plain", "plain/1.npy", emit="out/", states={"plain/1.npy": b"\x81\xa1n\x04"})
    assert isinstance(done, Done), done
    wanted = b'{"sum":%d,"n":5,"model":2}' % (10 * sum(range(5000)))
    assert done.effects == [
        Put("out/1", wanted),
        Put("big", NUMBERS * 2),
        Append("log", b"x"),
        Delete("gone"),
    ]
    assert done.states == {"plain/1.npy": b"\x81\xa1n\x05"}
    assert done.output == b"seen plain/1.npy\n"
    assert [line.message for line in done.log] == [f'done {{"total":{sum(range(5000))}}}']
    assert done.result == b"1 2 4 None"
    assert done.started_ns > 0

    for handler, path, runtime in (
        ("in_trio", "trio/1.npy", "trio"),
        ("in_asyncio", "asyncio/1.npy", "asyncio"),
    ):
        done = await go(handler, path, runtime=runtime, emit="out/")
        assert isinstance(done, Done), done
        assert done.effects == [Put("out/1", b'[2,3,2,["model"]]')]
        assert done.output == f"seen {path}\n".encode()

    done = await go("errors", "errors/1")
    assert [line.message for line in done.log] == [
        "PermissionError: secret: not for this user",
        "IsADirectoryError: directory/ is a directory",
    ]

    cut.files_["never/\udcff"] = [b"x"]  # a name that is no UTF-8
    failed = await go("never", "never/\udcff")
    assert (failed.kind, failed.message) == ("reject", "no cow")

    failed = await go("raises", "raise/1")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.message) == ("exception", "KeyError: 'here'")
    assert failed.traceback.startswith("Traceback")
    assert '.cascade/watch/s.py", line' in failed.traceback
    assert 'raise KeyError("here")' in failed.traceback
    assert failed.output == b"before\n"

    failed = await go("again", "again/1")
    assert (failed.kind, failed.after_ms) == ("retry", 2000)
    failed = await go("never", "never/1")
    assert (failed.kind, failed.message) == ("reject", "no cow")
    failed = await go("nobody", "never/1")
    assert failed.kind == "load"
    failed = await go("late", "late/1", timeout_ms=20)
    assert failed.kind == "timeout"

    done = await go("model", "gpu/1")
    assert done.effects == [Put("same", b"True%d" % sum(b"two!"))]


async def test_files_ahead_are_those_that_get_gives_one_by_one(runner, cut):
    await runner.load(SCRIPT)
    cut.files_["ahead/1"] = [b""]
    for number in range(40):
        cut.files_[f"part/{number}"] = [b"old", f"{number}".encode() * 20_000, b"too new"]
    for _ in range(2):  # what one run leaves unread does not come to the next
        done = await runner.run(run_of(SCRIPT, "ahead", cut.event("ahead/1")), cut)
        assert isinstance(done, Failed)
        assert "PermissionError: secret" in done.message
    cut.forbidden = set()
    done = await runner.run(run_of(SCRIPT, "ahead", cut.event("ahead/1")), cut)
    assert isinstance(done, Done), done
    seen = msgspec.json.decode(done.effects[-1].data)
    assert [one and one[0] for one in seen] == [*sorted(cut.files("part/*")), None, "own"]
    assert seen[0] == ["part/0", 2, "0" * 20_000]
    assert seen[-1] == ["own", 0, "mine"]
    done = await runner.run(run_of(SCRIPT, "ahead_in_trio", cut.event("ahead/1")), cut)
    assert isinstance(done, Done), done
    assert msgspec.json.decode(done.effects[0].data) == [f"{n}" * 20_000 for n in range(40)]


async def test_what_is_too_long_to_be_handed_over_is_read_in_parts(runner, cut, monkeypatch):
    await runner.load(SCRIPT)
    long = bytes(5_000_000) + b"x" + bytes(3_000_000) + b"end"
    cut.files_["parts/1"] = [long]
    done = await runner.run(run_of(SCRIPT, "parts", cut.event("parts/1")), cut)
    assert isinstance(done, Done), done
    assert msgspec.json.decode(done.effects[1].data) == ["sta", "end", "x", len(long), ""]
    absent = "open: there is no none at the cut"
    assert [line.message for line in done.log] == [str(len(long))] * 2 + [absent]

    monkeypatch.setattr("triggers.run.CONTENT_BYTES_MAX", 5 << 20)
    cut.files_["parts/2"] = [long + b"end"]
    done = await runner.run(run_of(SCRIPT, "parts", cut.event("parts/2"), id="r~2"), cut)
    assert isinstance(done, Done), done
    assert msgspec.json.decode(done.effects[1].data)[1:3] == ["end", "x"]
    for line in done.log[:2]:
        assert "parts/2@v1 has 8000007 bytes" in line.message
        assert "ctx.open" in line.message
    if isinstance(runner, InprocRunner):
        return  # which is in the daemon, whatever a binding asks for
    more = run_of(SCRIPT, "parts", cut.event("parts/2"), id="r~3", memory_bytes=1 << 30)
    done = await runner.run(more, cut)
    assert [line.message for line in done.log] == ["8000007"] * 2 + [absent]


async def test_numbers_in_a_file_are_looked_at_and_added_to(runner, cut):
    await runner.load(SCRIPT)
    cut.files_["vector/1"] = [b""]
    cut.files_["w"] = [b"", np.array([1, 2, 3, 4], "<i4").tobytes(), b"too new"]
    cut.files_["w2"] = [b"", b"", np.array([8, 9], "<i4").tobytes()]
    done = await runner.run(run_of(SCRIPT, "vector", cut.event("vector/1")), cut)
    assert isinstance(done, Done), done
    *adds, pulled = done.effects
    assert msgspec.json.decode(pulled.data) == [[4, 1, 4, 0], [6, 32, 33, 4], [[8], [9]]]
    assert [type(add) for add in adds] == [Add, Add]
    assert np.frombuffer(adds[0].indices, "<i8").tolist() == [1, 1, 2]
    assert [line.message for line in done.log] == ["pull: there is no nothing at the cut"]
    done = await runner.run(run_of(SCRIPT, "vector_in_trio", cut.event("vector/1")), cut)
    assert msgspec.json.decode(done.effects[0].data) == [4, 1]


async def test_versions_are_an_array_and_a_table(runner, cut):
    await runner.load(SCRIPT)
    cut.files_["cube/1"] = [b""]
    frames = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    cut.files_["cam/a.npy"] = [encode("a.npy", frame) for frame in frames[::2]] + [b"too new"]
    cut.files_["cam/b.npy"] = [encode("b.npy", frame) for frame in frames[1::2]]
    cut.files_ |= {
        f"fat/{cow}.json": [b'{"fat": %d}' % cow, b'{"fat": 4}', b"too new"] for cow in (7, 8)
    }
    done = await runner.run(run_of(SCRIPT, "cube", cut.event("cube/1"), memory_bytes=2 << 30), cut)
    assert isinstance(done, Done), (done.message, done.traceback)
    assert msgspec.json.decode(done.effects[0].data) == [
        4, frames[1:3, ..., 0].tolist(), 2, 5.5, 2, [7, 8], ["time", "y", "x"], float(frames.sum())
    ]  # fmt: skip
    done = await runner.run(
        run_of(SCRIPT, "cube_in_trio", cut.event("cube/1"), memory_bytes=2 << 30), cut
    )
    assert isinstance(done, Done), (done.message, done.traceback)
    assert msgspec.json.decode(done.effects[0].data) == [4, 4, 4]


async def test_a_batch_reads_each_version_and_marks_single_ones(runner, cut):
    cut.files_["batch/1"] = [b"good", b"bad", b"g"]
    await runner.load(SCRIPT)
    events = [cut.event("batch/1", n, key=f"k{n}") for n in (1, 2, 3)]
    done = await runner.run(run_of(SCRIPT, "batch", *events, is_batch=True), cut)
    assert isinstance(done, Done), done
    assert done.failed == {"batch/1@v2": "bad"}
    assert done.states == {f"k{n}": b"\x81\xa4seen%c" % n for n in (1, 2, 3)}
    assert done.effects == [Put("count", b"3")]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import nonsuch", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("from lib import missing", "ImportError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
async def test_a_script_that_does_not_load_says_where(runner, cut, source, complaint):
    with pytest.raises(LoadFailed, match=complaint) as caught:
        await runner.load(script(source, id="broken", scale=""))
    assert "s.py" in caught.value.traceback or complaint == "SystemExit"
    failed = await runner.run(run_of(script(source, id="broken"), "f", cut.event("late/1")), cut)
    assert failed.kind == "load"
