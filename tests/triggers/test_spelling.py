"""Names that are no UTF-8 pass through everything that a run leaves; no two texts are ever spelt alike."""

from __future__ import annotations

import json

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from triggers.provenance import as_json
from triggers.spelling import Decoder, encode, meant, spelt
from triggers.testing import Cascade

ODD = st.sampled_from("a\udcff\ud800\udfff\U0010f000\U0010f7ff\U0010f800\U0010f801ä/")
TEXTS = st.text(ODD) | st.text(st.characters())

NAME = "a\udcff"

SCRIPT = """
from cascadefs.triggers import watch

@watch("in/**", emit="out/", attempts=1)
def work(event, ctx):
    if event.dir != "in":
        raise ValueError(event.path)
    ctx.get("in/" + event.name)
    ctx.state["count"] = ctx.state.get("count", 0) + 1
    ctx.state["last"] = event.path
    ctx.log(event.path)
    print("seen")
    ctx.emit(event.name, f"{ctx.state['count']}".encode())
"""


def idle(cascade: Cascade) -> None:
    trio.run(cascade.run_until_idle)


@given(TEXTS, TEXTS)
def test_spelling_is_undone_and_never_the_same_for_two(one, other):
    spelt(one).encode()
    assert meant(spelt(one)) == one
    assert (spelt(one) == spelt(other)) == (one == other)


class _Some(msgspec.Struct):
    text: str
    names: dict[str, list[str]]
    data: bytes


@given(TEXTS, TEXTS)
def test_a_value_comes_back_as_it_was(one, other):
    value = _Some(one, {other: [one, other]}, b"\xff")
    assert Decoder[_Some](_Some).decode(encode(value)) == value


def test_what_has_plain_names_is_plain_msgpack():
    value = _Some("ä", {"b": []}, b"")
    assert encode(value) == msgspec.msgpack.encode(value)


@pytest.mark.parametrize("script", ["work.py", "w\udcff.py"])
def test_a_name_that_is_no_utf8_fires_is_remembered_and_told(script):
    cascade = Cascade()
    cascade.script(script, SCRIPT, base=f"farm{NAME}")
    idle(cascade)
    assert cascade.problems == {}
    for text in ("1", "2"):
        cascade.put(f"farm{NAME}/in/{NAME}", text)
        idle(cascade)
        cascade.restart()
    assert cascade.versions(f"farm{NAME}/out/{NAME}") == [b"1", b"2"]
    known = cascade.why(f"farm{NAME}/out/{NAME}")
    assert known is not None
    assert known.triggers == [f"in/{NAME}@v2"]
    assert known.reads == [f"in/{NAME}@v2"]
    assert known.outputs == [f"out/{NAME}@v2"]
    assert json.loads(as_json(known))["base"] == f"farm{NAME}"


def test_states_of_names_alike_are_kept_apart():
    cascade = Cascade()
    cascade.script("work.py", SCRIPT)
    idle(cascade)
    for name in (NAME, spelt(NAME), NAME):
        cascade.put(f"in/{name}", "x")
    idle(cascade)
    assert cascade.get(f"out/{NAME}") == b"2"
    assert cascade.get(f"out/{spelt(NAME)}") == b"1"


def test_a_dead_letter_about_such_a_name_is_told_and_done_again():
    cascade = Cascade()
    cascade.script(f"{NAME}.py", SCRIPT)
    idle(cascade)
    cascade.put(f"in/{NAME}/b", "x")
    idle(cascade)
    (letter,) = cascade.failed
    assert letter.event.path == f"in/{NAME}/b"
    assert NAME in letter.message
    (told,) = cascade.operator.status()["bases"]
    assert told["bindings"][0]["name"] == f"{NAME}.py:work"
    json.dumps(told)
    assert "\\\\udcff" in cascade.operator.metrics()
    lines = [
        json.loads(line) for line in cascade.engine.report.events.read(0, 1 << 20).splitlines()
    ]
    assert {line["path"] for line in lines if "path" in line} == {f"in/{NAME}/b"}
    cascade.restart()
    cascade.script(f"{NAME}.py", SCRIPT.replace('!= "in"', '== "x"'))
    idle(cascade)
    cascade.operator.command(f"retry {letter.event.id}")
    idle(cascade)
    assert cascade.failed == []
    assert cascade.get("out/b") == b"1"


def test_an_effect_on_what_can_be_no_name_is_a_failure_of_the_run():
    cascade = Cascade()
    cascade.script("bad.py", SCRIPT.replace("ctx.emit(event.name,", "ctx.emit('\\ud800',"))
    idle(cascade)
    cascade.put("in/a", "x")
    idle(cascade)
    (letter,) = cascade.failed
    assert "no name of a file" in letter.message
