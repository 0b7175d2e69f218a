"""Goal: what a script registers is what it wrote, and its modules are its own. Method: import small scripts from memory."""

from __future__ import annotations

import sys

import pytest

from cascadefs.triggers import watch
from triggers.handler.importer import ScriptImporter
from triggers.handler.invocation import shown
from triggers.run import Script


def script(source: str, id: str = "v1", name: str = "identify.py", **lib: str) -> Script:
    files = {name: source.encode()} | {f"lib/{k}.py": v.encode() for k, v in lib.items()}
    return Script(id, "farm", name, "module", files, 1000, 1000)


@pytest.fixture
def collect():
    importers = []

    def collect(*arguments, **lib):
        importers.append(ScriptImporter(script(*arguments, **lib)))
        return importers[-1].collect()

    yield collect
    for importer in importers:
        importer.forget()


def test_a_table_is_the_keywords_as_written_in_the_order_of_the_calls(collect):
    collector = collect("""
from cascadefs.triggers import watch

@watch("frames/*.npy", "!frames/x*", emit="cows/", timeout="5s", kinds=("write", "move"))
@watch("again/*")
def identify(event, ctx): ...

@watch(watch=["a"], attempts=1)
async def other(event, ctx): ...
""")
    assert collector.tables == [
        {"watch": ["again/*"], "handler": "identify"},
        {
            "watch": ["frames/*.npy", "!frames/x*"],
            "emit": "cows/",
            "timeout": "5s",
            "kinds": ["write", "move"],
            "handler": "identify",
        },
        {"watch": ["a"], "attempts": 1, "handler": "other"},
    ]
    assert set(collector.handlers) == {"identify", "other"}


def test_initialize_registers_computed_patterns_and_functions_of_one_name_get_numbers(collect):
    collector = collect("""
def initialize(ctx):
    for cow in ("a", "b"):
        def see(event, ctx, cow=cow):
            return cow
        ctx.watch(f"cows/{cow}/*", handler=see, key="dir")
    @ctx.watch("*.txt")
    def text(event, ctx): return "text"
""")
    assert [(t["watch"], t["handler"]) for t in collector.tables] == [
        (["cows/a/*"], "see"),
        (["cows/b/*"], "see#2"),
        (["*.txt"], "text"),
    ]
    assert [handler(None, None) for handler in collector.handlers.values()] == ["a", "b", "text"]


def test_a_script_that_raises_registers_nothing_and_leaves_no_module(collect):
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError) as caught:
        collect("""
from cascadefs.triggers import watch
from lib.a import b
@watch("x")
def f(event, ctx): ...
def initialize(ctx):
    1 / 0
""", a="b = 1")  # fmt: skip
    assert {name for name in set(sys.modules) - before if name.startswith("_cascade")} == set()
    text = shown(caught.value)
    assert 'File "farm/.cascade/watch/identify.py", line 7, in initialize\n    1 / 0' in text
    assert "importer.py" not in text  # how it came to be called is no news


def test_lib_is_the_scripts_own_even_beside_another_version(collect):
    source = """
import lib.numbers as n
import lib.numbers
from lib import numbers
from lib.numbers import ONE
from dataclasses import dataclass
def late():
    from lib import later
    return later.VALUE
def value(event, ctx): return n.ONE, lib.numbers.ONE, numbers.ONE, ONE, n.twice(), late()
def initialize(ctx): ctx.watch("x", handler=value)
"""
    lib = {"base": "K = 2", "later": "VALUE = __name__.rpartition('.')[2]"}
    numbers = "from __future__ import annotations\nfrom . import base\nONE = {}\ndef twice(): return base.K * ONE"
    first = collect(source, "v1", numbers=numbers.format(1), **lib)
    second = collect(source, "v2", numbers=numbers.format(5), **lib)
    assert first.handlers["value"](None, None) == (1, 1, 1, 1, 2, "later")
    assert second.handlers["value"](None, None) == (5, 5, 5, 5, 10, "later")
    assert not any(name == "lib" or name.startswith("lib.") for name in sys.modules)


def test_a_script_may_have_any_name(collect):
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert collect(source, "v3", "my.script-2.py").tables == []
    assert collect(source, "v4", "json.py").tables == []
    assert sys.modules["json"].__name__ == "json"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("@watch\ndef f(event, ctx): ...", r'write @watch\("frames'),
        ("watch('a')(3)", "3 is no function"),
        (
            "@watch('a', timeout=object())\ndef f(event, ctx): ...",
            "timeout=<object .*> is a object",
        ),
    ],
)
def test_misuse_is_named_with_its_remedy(collect, source, complaint):
    with pytest.raises(TypeError, match=complaint):
        collect(f"from cascadefs.triggers import watch\n{source}")


def test_without_a_loader_watch_hands_the_function_back():
    @watch("a", timeout="5s")
    def handler(event, ctx):
        return event

    assert handler(3, None) == 3
