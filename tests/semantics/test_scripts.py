"""SEMANTICS 9 and 10 where triggers are on: what a `.cascade` is then, and what `from` says."""

from __future__ import annotations

import json
import random

import pytest
import trio

from cascadefs.filesystem.scripts import SERVED, Scripts
from triggers.engine import Engine, Options
from triggers.loading import Loading
from triggers.operator import Operator
from triggers.runner.inproc import InprocRunner

SCRIPT = """
from cascadefs.triggers import watch

@watch("in/*", emit="out/")
def copy(event, ctx):
    ctx.emit(event.name, bytes(event.data))
"""


class Stage:
    """A tree with an engine that is driven by hand."""

    def __init__(self, tree):
        self.tree = tree
        self.engine = Engine(tree.store, tree.clock, random.Random(1), Options(workers=1))
        self.runner = InprocRunner(tree.clock.now_ns, tree.clock.now_ns)
        self.loading = Loading(self.engine)
        self.engine.open()
        tree.fs.control.scripts = Scripts(tree.store, Operator(self.engine, self.runner.kill))

    async def run(self):
        for _ in range(10):
            self.engine.pump()
            for job in self.loading.jobs():
                self.loading.loaded(job, await self.runner.load(job.found.script))
            for started in self.engine.start():
                self.engine.finish(started, await self.runner.run(started.run, started.cut))


@pytest.fixture
def stage(tree):
    stage = Stage(tree)
    tree.mkdir("farm")
    tree.mkdir("farm/.cascade")
    tree.mkdir("farm/.cascade/watch")
    tree.mkdir("farm/in")
    tree.put("farm/.cascade/watch/copy.py", SCRIPT)
    trio.run(stage.run)
    return stage


@pytest.mark.local_store
def test_a_control_directory_can_be_made_anywhere_and_is_stored(stage):
    tree = stage.tree
    assert tree.ls("farm") == [".cascade", "in"]
    assert tree.ls("farm/.cascade") == ["watch"]
    assert tree.versions("farm/.cascade/watch/copy.py") == ["v1.py"]
    assert tree.errno("put", "farm/in/.cascade", "x") == "EPERM"
    assert tree.errno("symlink", "x", "farm/in/.cascade") == "EPERM"


@pytest.mark.local_store
def test_what_is_served_in_it_is_never_listed_and_nobody_can_make_it(stage):
    tree = stage.tree
    for name in sorted(SERVED):
        assert tree.exists(f"farm/.cascade/{name.decode()}")
        assert not tree.exists(f"farm/{name.decode()}")
        assert tree.errno("mkdir", f"farm/.cascade/{name.decode()}") in ("EEXIST", "EPERM")
        assert tree.errno("rename", "farm/in", f"farm/.cascade/{name.decode()}") == "EPERM"
        assert tree.errno("unlink", f"farm/.cascade/{name.decode()}") in ("ENOENT", "EROFS")
    assert "copy.py:copy" in tree.cat("farm/.cascade/status").decode()
    assert json.loads(tree.cat("farm/.cascade/status.json"))["bases"][0]["path"] == "farm"
    assert tree.ls("farm/.cascade") == ["watch"]
    tree.mkdir("status")  # elsewhere the name is anybody's
    assert tree.ls("farm/.cascade/failed") == ["copy.py:copy"]


@pytest.mark.local_store
def test_from_says_which_run_wrote_a_version(stage):
    tree = stage.tree
    tree.put("farm/in/a", "one")
    trio.run(stage.run)
    assert tree.cat("farm/out/a") == b"one"
    said = json.loads(tree.cascade("farm/out/a", "from"))
    assert said["triggers"] == ["in/a@v1"]
    assert said["outputs"] == ["out/a@v1"]
    assert said["base"] == "farm"
    assert tree.cat(f"farm/{said['script']}").decode() == SCRIPT
    tree.put("farm/in/a", "two")
    trio.run(stage.run)
    assert json.loads(tree.cascade("farm/out/a@v1", "from"))["triggers"] == ["in/a@v1"]
    assert json.loads(tree.cascade("farm/out/a", "from"))["triggers"] == ["in/a@v2"]
    assert tree.cascade("farm/in/a", "from") is None
    tree.put("farm/out/a", "by hand")
    assert tree.cascade("farm/out/a", "from") is None


@pytest.mark.local_store
def test_a_stream_is_ready_when_there_is_more_than_was_read(stage):
    tree = stage.tree
    file = tree.open("farm/.cascade/events")
    handle = file.handle
    woken = []
    assert tree.fs.poll(handle, lambda: woken.append("first"))
    told = tree.fs.read(handle, 0, 1 << 20)
    assert tree.stat("farm/.cascade/events").size == len(told)
    assert not tree.fs.poll(handle, lambda: woken.append("second"))
    assert not tree.fs.poll(handle)
    assert woken == []
    tree.put("farm/in/a", "one")
    trio.run(stage.run)
    assert woken == ["second"], "once, and the newest call has taken the place of the one before"
    assert tree.fs.poll(handle)
    assert tree.fs.read(handle, len(told), 1 << 20).count(b"\n") == 3
    assert not tree.fs.poll(handle, lambda: woken.append("third"))
    tree.close(file)
    tree.put("farm/in/a", "two")
    trio.run(stage.run)
    assert woken == ["second"], "nobody waits any more"
