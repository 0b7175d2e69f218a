"""Three spellings come to one record, and every mistake in them is named with what would do."""

from __future__ import annotations

import pytest

from triggers import header
from triggers.binding import KEYS, BadBinding, Binding, decode, encode, validate


def test_all_keys_at_once():
    table = {
        "watch": ["a/*", "re:(?P<cow>[0-9]+)/.*", "!a/x"], "kinds": ["delete", "write"], "settle": "250ms",
        "from_": "start", "collapse": "latest", "self": True, "emit": "out/", "key": "group:cow",
        "order": "none", "dispatch": "all", "concurrency": 3, "inflight": 8, "batch": 32, "wait": "5ms",
        "timeout": 1.5, "attempts": 7, "backoff": "1 s", "on_fail": "block", "hops": 2, "loop": True,
        "rate": "100/min", "cut_wait": "2s", "max_lag": "2d", "runtime": "asyncio", "sandbox": "normal",
        "memory": "512MiB",
    }  # fmt: skip
    binding = validate(table, script="s.py", handler="f")
    assert binding == Binding(
        "s.py:f", "s.py", "f", ("a/*", "re:(?P<cow>[0-9]+)/.*", "!a/x"), ("write", "delete"), 250, "start",
        True, True, "out", "group:cow", "none", "all", 3, 8, 32, 5, 1500, 7, 1000, "block", 2, True,
        (100, 60_000), 2000, 2 * 86_400_000, "asyncio", "normal", 512 * 2**20,
    )  # fmt: skip
    assert decode(encode(binding)) == binding


def test_only_watch_is_needed():
    assert validate({"watch": "a"}, script="thumbs.sh") == Binding(
        "thumbs.sh", "thumbs.sh", None, ("a",)
    )


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"wach": "a"}, "did you mean 'watch'"),
        ({"watch": "a", "retries": 3}, "there is no key 'retries'"),
        ({}, "'watch' is missing"),
        ({"watch": []}, "a pattern, or a list"),
        ({"watch": "/a"}, "leave the leading '/' out"),
        ({"watch": "a", "timeout": "5 parsecs"}, '"5s", "250ms"'),
        ({"watch": "a", "timeout": True}, '"5s", "250ms"'),
        ({"watch": "a", "timeout": 0}, "timeout is 0"),
        ({"watch": "a", "attempts": 0}, "a whole number from 1"),
        ({"watch": "a", "rate": "fast"}, '"10/s"'),
        ({"watch": "a", "memory": "-1"}, '"512MiB"'),
        ({"watch": "a", "kinds": ["created"]}, '"write", "move", "delete"'),
        ({"watch": "a", "emit": "../up"}, "a directory below"),
        ({"watch": "a", "key": "group:cow"}, "no re: pattern has a group 'cow'"),
        ({"watch": "a", "batch": 2}, "an executable takes one event"),
        ({"watch": "a", "wait": 1}, "say batch = 32"),
        ({"watch": "a", "gang": 4}, "gang needs a Python handler"),
        ({"watch": "a", "gang": 0}, "a whole number from 1"),
        ({"watch": "a", "gpu": "yes"}, "how many devices"),
        ({"watch": "a", "gpu": -1}, "how many devices"),
        ({"watch": "a", "key": "dir", "order": "affinity"}, "leave key out"),
        ({"watch": "a", "key": "cow"}, '"path", "dir", "affinity"'),
        ({"watch": "a", "settle": "soon"}, '"5s", "250ms"'),
        ({"watch": "a", "loop": "yes"}, "true or false"),
    ],
)
def test_a_mistake_is_named(table, says):
    with pytest.raises(BadBinding, match=says):
        validate(table, script="s")


@pytest.mark.parametrize(
    ("table", "says"),
    [({"inflight": 2}, "leave inflight"), ({"sandbox": "inproc"}, "leave sandbox")],
)
def test_a_gang_has_a_worker_for_each_rank(table, says):
    assert validate({"watch": "a", "gang": 4}, script="s", handler="f").gang == 4
    with pytest.raises(BadBinding, match=says):
        validate({"watch": "a", "gang": 4} | table, script="s", handler="f")


def test_no_key_is_forgotten():
    fields = set(Binding.__struct_fields__) - {"name", "script", "handler"}
    assert {field for field, _ in KEYS.values()} == fields


SCRIPT = b"""#!/bin/sh
# /// script
# [tool.cascadefs]
# watch = "*.jpg"
# timeout = "5s"
# ///
convert - -resize 64x64 "$CASCADE_OUT/$CASCADE_NAME"
"""


def test_a_header_is_read_without_running_anything():
    assert header.read(SCRIPT) == [{"watch": "*.jpg", "timeout": "5s"}]
    assert header.read(SCRIPT.replace(b"\n", b"\r\n")) == [{"watch": "*.jpg", "timeout": "5s"}]
    assert header.read(b"#!/bin/sh\necho\n") == []
    assert header.read(b'# /// script\n# dependencies = ["numpy"]\n# ///\n') == []
    two = SCRIPT.replace(b"[tool.cascadefs]", b"[[tool.cascadefs]]")
    assert header.read(two) == [{"watch": "*.jpg", "timeout": "5s"}]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (SCRIPT + SCRIPT, "two blocks"),
        (SCRIPT.replace(b'"5s"', b"5s"), "no TOML"),
        (SCRIPT.replace(b"# [tool.cascadefs]\n", b"# [tool]\n# cascadefs = 1\n"), "is no table"),
    ],
)
def test_a_header_with_a_mistake_is_named(source, says):
    with pytest.raises(header.BadHeader, match=says):
        header.read(source)


def test_a_side_car_may_leave_the_table_s_name_out():
    assert header.read_sidecar(b'watch = "a"\n') == [{"watch": "a"}]
    assert header.read_sidecar(b'[tool.cascadefs]\nwatch = "a"\n') == [{"watch": "a"}]
    with pytest.raises(header.BadHeader, match="there is no table"):
        header.read_sidecar(b"")
    with pytest.raises(header.BadHeader, match="not UTF-8"):
        header.read_sidecar(b"\xff")
