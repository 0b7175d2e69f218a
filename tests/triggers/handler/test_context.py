"""Goal: a handler sees its event, the cut and its own staged writes, and nothing it says is lost or swallowed.

Method: `Invocation` over a cut that is a dictionary, without any runner.
"""

from __future__ import annotations

import datetime

import msgspec
import numpy as np
import pytest

from tests.triggers.cuts import DictCut
from triggers.handler.blob import array
from triggers.handler.context import Services
from triggers.handler.copies import Copies
from triggers.handler.device import DeviceCache
from triggers.handler.effects import encode
from triggers.handler.invocation import Invocation, failure
from triggers.run import Add, Append, Content, Delete, Done, Failed, Put, PutIf, Run, Script

SCRIPT = Script("s", "", "s.py", "module", {}, 1000, 1000)


class Clock:
    def __init__(self):
        self.now_ns = 1_000

    def __call__(self):
        return self.now_ns


def npy(values: np.ndarray) -> bytes:
    return bytes(encode("x.npy", values))


@pytest.fixture
def cut():
    return DictCut({"a": [b"one", b"two", b"three"], "d/b": [b"bb"], "d/c": [b"cc"]}, timestamp=2)


@pytest.fixture
def invoke(cut):
    def invoke(*events, **fields):
        events = events or (cut.event("a"),)
        clock = Clock()
        device = DeviceCache(np, 1 << 20)
        services = Services(clock, clock, lambda: device, Copies())
        fields = {"is_batch": len(events) > 1, "emit": "out/"} | fields
        run = Run("r~1", SCRIPT, "f", "s.f", list(events), 2, **fields)
        made = Invocation(run, fields.pop("cut", cut), services, is_async=False)
        made.clock, made.services = clock, services
        return made

    return invoke


# --- the event --------------------------------------------------------------------------------------------------------


def test_the_event_says_what_happened(cut, invoke):
    at = 1_767_602_130_000_007
    event = cut.event("d/b", uid=7, node="n", groups={"cow": "12"}, previous=0, hops=3)
    event = msgspec.structs.replace(event, timestamp=at, path="d/e/x.tar.gz")
    seen, _ = invoke(event).arguments
    assert (seen.dir, seen.name, seen.stem) == ("d/e", "x.tar.gz", "x.tar")
    assert (seen.match, seen.writer.uid, seen.writer.node, seen.hops) == ({"cow": "12"}, 7, "n", 3)
    assert seen.time == datetime.datetime(2026, 1, 5, 8, 35, 30, 7, datetime.UTC)
    assert seen.ref == "d/e/x.tar.gz@v1"
    plain, _ = invoke(msgspec.structs.replace(event, path=".bashrc")).arguments
    assert (plain.dir, plain.name, plain.stem) == ("", ".bashrc", ".bashrc")


def test_data_is_the_stored_memory_itself_and_cannot_be_written(cut, invoke):
    stored = bytearray(np.arange(4, dtype="float32").tobytes())
    cut.files_["f"] = [stored]
    made = invoke(cut.event("f"))
    event, _ = made.arguments
    numbers = event.array("float32", (2, 2))
    assert np.shares_memory(numbers, np.frombuffer(stored, "uint8"))
    assert numbers.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 1
    with pytest.raises(TypeError):
        event.data[0] = 1
    assert np.from_dlpack(event).shape == (16,)
    assert (made.services.copies.count, made.services.copies.size_bytes) == (0, 0)


def test_content_in_pieces_is_joined_by_one_counted_copy(cut, invoke):
    content = Content("a", 1, 1, 4, [memoryview(b"ab"), memoryview(b"cd")], (1, 1))
    cut.event_content = lambda event: content
    made = invoke()
    event, _ = made.arguments
    assert bytes(event.data) == bytes(event.data) == b"abcd"
    assert (made.services.copies.count, made.services.copies.size_bytes) == (1, 4)


def test_a_delete_has_no_bytes(cut, invoke):
    event, _ = invoke(cut.event("a", kind="delete")).arguments
    assert bytes(event.data) == b""


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npy_file_is_the_array_in_it(order):
    values = np.asarray(np.arange(6, dtype="<f4").reshape(2, 3), order=order)
    stored = memoryview(npy(values))
    found = array(stored, "float32", (2, 3))
    assert found.tolist() == values.tolist()
    assert np.shares_memory(found, np.frombuffer(stored, "uint8"))
    with pytest.raises(ValueError, match="holds float32, not float64"):
        array(stored, "float64")
    with pytest.raises(ValueError, match=r"shape \(2, 3\), not \(3, 2\)"):
        array(stored, shape=(3, 2))


@pytest.mark.parametrize("cut_at", [7, 9, 40])
def test_a_damaged_npy_header_is_a_value_error(cut_at):
    with pytest.raises(ValueError, match="header"):
        array(memoryview(npy(np.zeros(3)))[:cut_at])


def test_a_npy_file_of_objects_is_refused():
    import io

    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="unpickling runs code"):
        array(memoryview(file.getvalue()))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reads_are_at_the_cut_unless_latest_is_asked_for(invoke):
    _, ctx = invoke().arguments
    assert ctx.get("a").text() == "two"
    assert ctx.get("a").ref == "a@v2"
    assert ctx.get("a", at="latest").text() == "three"
    assert ctx.get("nothing") is None
    assert ctx.get("a", version=1).text() == "one"
    assert ctx.get("a", version=3) is None  # it is newer than the cut
    assert ctx.list("d/*") == ["d/b", "d/c"]
    assert [stat.version for stat in ctx.history("a", limit=1)] == [2]
    assert ctx.stat("a").size == 3
    with pytest.raises(ValueError, match='write "cut" or "latest"'):
        ctx.get("a", at="lastest")


def test_own_staged_writes_are_seen_in_order(cut, invoke):
    cut.files_["v"] = [np.array([1, 2], "<i4").tobytes()]
    made = invoke()
    _, ctx = made.arguments
    ctx.put("a", {"x": [1]}, mode=0o600)
    assert ctx.get("a").json() == {"x": [1]}
    assert ctx.get("a", at="latest").version == 0
    assert (ctx.stat("a").size, ctx.stat("a").mode) == (9, 0o600)
    ctx.delete("d/b")
    ctx.put("d/new", "text")
    assert ctx.get("d/b") is None
    assert ctx.stat("d/b") is None
    assert ctx.list("d/*") == ["d/c", "d/new"]
    ctx.append("d/c", "dd")
    ctx.append("fresh", b"1")
    assert bytes(ctx.get("d/c").data) == b"ccdd"
    assert bytes(ctx.get("fresh").data) == b"1"
    ctx.add("v", 1, [10, 20], dtype="int32")
    assert ctx.get("v").array("int32").tolist() == [1, 12, 20]
    ctx.put_if("a", b"z", expect=2)
    assert ctx.get("a").text() == "z"
    ctx.emit("deep/name", b"e")
    outcome = made.done(None)
    assert outcome.effects == [
        Put("a", b'{"x":[1]}', 0o600),
        Delete("d/b"),
        Put("d/new", b"text"),
        Append("d/c", b"dd"),
        Append("fresh", b"1"),
        Add("v", 1, np.array([10, 20], "<i4").tobytes(), "int32"),
        PutIf("a", b"z", 2),
        Put("out/deep/name", b"e"),
    ]


def test_an_append_reads_nothing_of_what_it_appends_to(cut, invoke):
    made = invoke()
    _, ctx = made.arguments
    ctx.append("a", "x")
    ctx.add("v", 0, [1.0])
    assert cut.reads == []
    assert ctx.get("a").text() == "twox"
    ctx.delete("a")
    ctx.append("a", "fresh")
    assert ctx.get("a").text() == "fresh"


def test_what_is_staged_does_not_change_afterwards(invoke):
    made = invoke()
    _, ctx = made.arguments
    growing, numbers = bytearray(b"ab"), np.zeros(2)
    ctx.put("x", growing)
    ctx.put("y", numbers)
    growing += b"c"
    numbers[:] = 1
    assert [bytes(effect.data) for effect in made.done(None).effects] == [b"ab", bytes(16)]


def test_emit_without_a_directory_says_what_to_write(invoke):
    _, ctx = invoke(emit=None).arguments
    with pytest.raises(ValueError, match="emit="):
        ctx.emit("x", b"")


def test_what_cannot_become_a_file_is_named(invoke):
    _, ctx = invoke().arguments
    with pytest.raises(TypeError, match="put x: object"):
        ctx.put("x", object())
    with pytest.raises(TypeError, match="Python objects"):
        ctx.put("x", np.array([{}], dtype=object))


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_only_changed_state_is_handed_back(cut, invoke):
    kept = msgspec.msgpack.encode({"n": 1})
    made = invoke(cut.event("a"), cut.event("d/b"), states={"a": kept, "d/b": kept})
    (first, second), ctx = made.arguments
    first.state["n"] += 1
    assert second.state["n"] == 1
    with pytest.raises(ValueError, match=r"2 keys; use event\.state"):
        _ = ctx.state
    assert made.done(None).states == {"a": msgspec.msgpack.encode({"n": 2})}


def test_state_that_cannot_be_kept_fails_the_run(invoke):
    made = invoke()
    made.context.state["x"] = object()
    outcome = made.done(None)
    assert isinstance(outcome, Failed)
    assert "state" in outcome.message


def test_a_batch_marks_single_events_and_a_single_event_fails(cut, invoke):
    made = invoke(cut.event("a"), cut.event("d/b"))
    made.arguments[0][1].fail("dark")
    outcome = made.done(None)
    assert isinstance(outcome, Done)
    assert outcome.failed == {"d/b@v1": "dark"}
    made = invoke()
    made.arguments[0].fail("dark")
    assert isinstance(made.done(None), Failed)


# --- saying and ending ------------------------------------------------------------------------------------------------


def test_lines_carry_time_level_and_fields_and_have_a_bound(invoke):
    made = invoke()
    _, ctx = made.arguments
    ctx.log("seen", cow=12)
    ctx.metric("loss", 0.5)
    with ctx.span("work"):
        made.clock.now_ns += 5_000
    assert [(line.level, line.message) for line in ctx.lines] == [
        ("info", 'seen {"cow":12}'),
        ("metric", "loss 0.5"),
        ("span", "work 5"),
    ]
    for _ in range(2000):
        ctx.log("x")
    assert len(ctx.lines) == 1001
    assert "not kept" in ctx.lines[-1].message


def test_names_that_are_no_utf_8_can_be_put_and_logged(invoke):
    made = invoke()
    _, ctx = made.arguments
    ctx.put("x", {"path": "a\udc80"})
    ctx.log("seen", path="a\udc80", other=b"?")
    assert made.done(None).effects == [Put("x", b'{"path": "a\\udc80"}')]
    assert [line.message for line in ctx.lines] == ['seen {"path": "a\\udc80", "other": "b\'?\'"}']


def test_time_left_is_known(invoke):
    made = invoke(timeout_ms=2_000)
    _, ctx = made.arguments
    made.clock.now_ns += 500_000_000
    assert ctx.deadline == 1.5
    assert not ctx.cancelled
    made.clock.now_ns += 2_000_000_000
    assert ctx.deadline == 0
    assert ctx.cancelled


def test_no_except_swallows_retry_and_reject(invoke):
    _, ctx = invoke().arguments
    for end, meaning in (
        (lambda: ctx.retry(after=1.5), ("retry", "the handler asks for another try", 1500)),
        (lambda: ctx.reject("bad cow"), ("reject", "bad cow", None)),
    ):
        with pytest.raises(BaseException, check=lambda e: not isinstance(e, Exception)) as caught:
            end()
        assert failure(BaseExceptionGroup("nursery", [caught.value])) == meaning


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x\ny"), "exception"),
        (MemoryError(), "memory"),
        (SystemExit(3), "exit"),
    ],
)
def test_what_an_exception_means(error, kind):
    assert failure(error)[0] == kind
    assert "\n" not in failure(error)[1]


def test_what_is_printed_is_kept_from_the_end(invoke):
    made = invoke()
    for number in range(30_000):
        made.print(f"{number:07}\n")
    assert len(made.done(None).output) == 64 * 1024
    assert made.done(None).output.endswith(b"0029999\n")


# --- the device -------------------------------------------------------------------------------------------------------


def test_gpu_gives_the_file_at_the_cut_and_reads_it_once(cut, invoke):
    cut.files_["m.npy"] = [npy(np.ones(3)), npy(np.zeros(3))]
    _, ctx = invoke().arguments
    first = ctx.gpu("m.npy")
    assert first is ctx.gpu("m.npy")
    assert first.tolist() == [0, 0, 0]
    assert ctx.xp is np
    with pytest.raises(FileNotFoundError, match="no none at the cut"):
        ctx.gpu("none")
