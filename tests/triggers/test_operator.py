"""What people may ask of triggers does what it says, and a mistake in the asking is answered with the remedy."""

from __future__ import annotations

import json

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from storage import record
from triggers.engine import Options
from triggers.operator import BadCommand
from triggers.testing import Cascade

SCRIPT = """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def work(event, ctx):
    if ctx.get("broken"):
        raise ValueError("it is broken")
    ctx.append("log", f"{event.path} v{event.version}\\n".encode())
"""


def idle(cascade: Cascade) -> None:
    trio.run(cascade.run_until_idle)


@pytest.fixture
def cascade() -> Cascade:
    cascade = Cascade()
    cascade.script("work.py", SCRIPT, base="farm")
    idle(cascade)
    return cascade


def event_names(cascade: Cascade) -> list[str]:
    return [letter.event.id for letter in cascade.failed]


def log(cascade: Cascade) -> list[str]:
    return (cascade.get("farm/log") or b"").decode().splitlines()


def test_a_dead_letter_is_done_again_on_request_also_after_a_restart(cascade):
    cascade.put("farm/broken", "")
    for name in "abc":
        cascade.put(f"farm/in/{name}", "")
    idle(cascade)
    first, second, third = event_names(cascade)
    cascade.delete("farm/broken")
    for name in "d":
        cascade.put(f"farm/in/{name}", "")
    idle(cascade)
    # The events' own cut still holds the file, so the script must be mended instead.
    cascade.script("work.py", SCRIPT.replace('ctx.get("broken")', "False"), base="farm")
    idle(cascade)
    cascade.operator.command(f"retry {first}")
    idle(cascade)
    assert log(cascade) == ["in/d v1", "in/a v1"]
    cascade.operator.command(f"retry {second}")
    cascade.restart()
    idle(cascade)
    assert log(cascade) == ["in/d v1", "in/a v1", "in/b v1"]
    cascade.operator.command(f"drop work.py:work/{third.rpartition('/')[2]}")
    assert cascade.failed == []
    cascade.restart()
    idle(cascade)
    assert len(log(cascade)) == 3
    with pytest.raises(BadCommand, match="not among the dead letters"):
        cascade.operator.command(f"retry {first}")


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_dead_letter_is_done_again_as_it_was(cascade, is_restarted):
    old = SCRIPT.replace('ctx.get("broken")', 'ctx.get("broken", at="latest")')
    cascade.script("work.py", old, base="farm")
    idle(cascade)
    cascade.put("farm/broken", "")
    for name in "ab":
        cascade.put(f"farm/in/{name}", "")
    idle(cascade)
    first, second = event_names(cascade)
    cascade.delete("farm/broken")
    cascade.script("work.py", old.replace("v{event.version}", "by the newest"), base="farm")
    idle(cascade)
    cascade.operator.command(f"retry --as-was {first}")
    cascade.operator.command(f"retry {second}")
    if is_restarted:
        cascade.restart()
    idle(cascade)
    assert sorted(log(cascade)) == ["in/a v1", "in/b by the newest"]
    assert cascade.failed == []


def test_pause_skip_and_resume(cascade):
    cascade.operator.command("pause work.py")
    for name in "ab":
        cascade.put(f"farm/in/{name}", "")
    idle(cascade)
    assert log(cascade) == []
    follower = cascade.operator.binding("farm/work.py:work")
    first = follower.queue.oldest()
    cascade.operator.command(f"skip {first.event.id}")
    cascade.operator.command("resume work.py:work")
    idle(cascade)
    assert log(cascade) == ["in/b v1"]
    (status,) = cascade.operator.status()["bases"][0]["bindings"]
    assert (status["done"], status["skipped"], status["pending"]) == (1, 1, 0)


def test_a_replay_runs_all_events_of_a_time_once_more_and_ends(cascade):
    cascade.put("farm/in/a", "1")
    idle(cascade)
    since = cascade.store.now()
    cascade.put("farm/in/a", "2")
    cascade.put("farm/in/b", "1")
    idle(cascade)
    until = cascade.store.now()
    cascade.put("farm/in/a", "3")
    idle(cascade)
    before = log(cascade)
    cascade.operator.command(f"replay work.py from {since} to {until}")
    idle(cascade)
    assert log(cascade)[len(before) :] == ["in/a v2", "in/b v1"]
    cascade.put("farm/in/a", "4")
    idle(cascade)
    assert log(cascade)[len(before) + 2 :] == ["in/a v4"]
    cascade.restart()
    idle(cascade)
    assert len(log(cascade)) == len(before) + 3


def test_a_replay_of_single_events(cascade):
    for number in range(4):
        cascade.put("farm/in/a", str(number))
        cascade.put("farm/in/b", str(number))
    idle(cascade)
    told = [json.loads(line) for line in cascade.engine.report.events.whole().splitlines()]
    places = {
        f"{line['path']} v{line['version']}": line["id"].rpartition("/")[2]
        for line in told
        if line["event"] == "event"
    }
    before = log(cascade)
    wanted = ["in/b v2", "in/a v4"]
    cascade.operator.command(f"replay work.py events {' '.join(places[event] for event in wanted)}")
    idle(cascade)
    assert log(cascade)[len(before) :] == wanted
    names = [one.text for one in cascade.engine.registry.followers()]
    assert names == ["work.py:work"], "a replay that has ended is known no more"
    cascade.restart()
    assert [one.text for one in cascade.engine.registry.followers()] == names
    assert len(log(cascade)) == len(before) + 2


def test_a_replay_does_not_fire_on_what_its_binding_wrote(cascade):
    source = SCRIPT.replace('"in/*"', '"in/*", "log"')
    cascade.script("work.py", source, base="farm")
    idle(cascade)
    since = cascade.store.now()
    cascade.put("farm/in/a", "")
    idle(cascade)
    assert log(cascade) == ["in/a v1"]
    cascade.operator.command(f"replay work.py from {since} to now")
    idle(cascade)
    assert log(cascade) == ["in/a v1", "in/a v1"]


MAKES_TWO = """
from cascadefs.triggers import watch

@watch("in/*", batch=3, wait="1s")
def make(events, ctx):
    model = ctx.get("model").data.tobytes()
    for event in events:
        ctx.put(f"out/{event.name}", model + event.data.tobytes())
    ctx.put("out/count", b"%d" % len(events))
"""


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_file_is_made_again_as_its_run_made_it(cascade, is_restarted):
    cascade.script("make.py", MAKES_TWO, base="farm")
    idle(cascade)
    cascade.put("farm/model", "m1 ")
    for name in "abc":
        cascade.put(f"farm/in/{name}", name)
    idle(cascade)
    assert cascade.get("farm/out/b") == b"m1 b"
    assert cascade.get("farm/out/count") == b"3"
    directory, name = cascade._parent("farm/out/b")
    wrote = cascade.store.version(directory, name, 1).timestamp
    cascade.put("farm/model", "m2 ")
    cascade.script("make.py", MAKES_TWO.replace("model +", "b'new ' +"), base="farm")
    idle(cascade)
    cascade.delete("farm/out/b")
    cascade.delete("farm/out/count")
    base = cascade._directory(["farm"])
    cascade.operator.command(f"remake out/b of {wrote}", base)
    if is_restarted:
        cascade.restart()
    idle(cascade)
    assert cascade.get("farm/out/b") == b"m1 b"
    assert cascade.version("farm/out/count") == 2, "deleted, and not asked for"
    assert cascade.version("farm/out/a") == 1
    assert cascade.why("farm/out/b").triggers == ["in/a@v1", "in/b@v1", "in/c@v1"]
    with pytest.raises(BadCommand, match="wrote log"):
        cascade.operator.command(f"remake x of {_written(cascade, 'farm/log')}")
    with pytest.raises(BadCommand, match="no run wrote"):
        cascade.operator.command(f"remake out/b of {wrote}", base + 1)


def _written(cascade, path):
    directory, name = cascade._parent(path)
    return cascade.store.version(directory, name, cascade.store.head(directory, name)).timestamp


def test_a_binding_that_is_behind_its_history_is_stalled(cascade):
    cascade.operator.command("pause work.py")
    for name in "ab":
        cascade.put(f"farm/in/{name}", name)
    idle(cascade)

    def status():
        (base,) = cascade.operator.status()["bases"]
        return base["bindings"][0]

    assert status()["state"] == "paused"
    assert cascade.engine.lag.wanted_since() is not None
    cascade.clock.value_ns += 25 * 3600 * 10**9
    idle(cascade)
    assert status()["state"] == "paused, stalled"
    assert status()["stalled"]["reachable"] == "in/a@v1"
    assert status()["stalled"]["lost"] == 0
    binding = cascade.store.binding(*cascade._parent("farm/in/a"))
    cascade.put("farm/in/a", "newer")
    cascade._propose(record.Prune(binding.inode, [(1, 1)]))
    assert status()["stalled"]["reachable"] == "in/b@v1"
    assert status()["stalled"]["lost"] == 1
    assert "the oldest that can be read is in/b@v1" in cascade.operator.status_text()
    idle(cascade)
    told = cascade.engine.report.events.whole()
    assert told.count(b'"stalled"') == 1, "once"
    cascade.operator.command("resume work.py")
    idle(cascade)
    assert status()["state"] == "active"
    assert status()["stalled"] is None
    assert [letter.event.path for letter in cascade.failed] == []
    assert log(cascade) == ["in/a v1", "in/b v1", "in/a v2"], (
        "the handler did not ask for the bytes"
    )


def test_old_events_of_a_new_binding_do_not_stall_it(cascade):
    cascade.put("farm/in/a", "")
    cascade.clock.value_ns += 48 * 3600 * 10**9
    cascade.script("from.py", SCRIPT.replace("attempts=1", 'from_="start"'), base="farm")
    cascade.engine.pump()
    (job,) = cascade.loading.jobs()
    cascade.loading.loaded(job, trio.run(cascade.runner.load, job.found.script))
    cascade.engine.pump()
    follower = cascade.operator.binding("from.py:work")
    assert follower.queue.oldest().event.path == "in/a"
    assert cascade.engine.lag.stalled(follower) is None


def test_a_script_that_needs_a_gpu_is_active_only_where_there_is_one():
    there = 0
    cascade = Cascade(
        options=Options(workers=1, cuda_devices=lambda: there, may_inproc=lambda _: True)
    )
    cascade.script("work.py", SCRIPT.replace("attempts=1", "gpu=True"))
    idle(cascade)
    assert "this node has 0 CUDA devices" in cascade.problems["work.py"]
    there = 1
    cascade.restart()
    idle(cascade)
    assert cascade.problems == {}
    cascade.script("work.py", SCRIPT.replace("attempts=1", "gpu=2"))
    idle(cascade)
    assert "gpu = 2, and this node has 1 CUDA devices" in cascade.problems["work.py"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "say retry"),
        ("frobnicate x", "say retry"),
        ("pause nothing", "there is no binding nothing"),
        ("retry nonsense", "is no event"),
        ("retry work.py/12.0", "not among the dead letters"),
        ("skip work.py/12.0", "is not waiting"),
        ("retry --as-was work.py/12.0", "not among the dead letters"),
        ("replay work.py events 12", "is no event"),
        ("replay nothing events 12.0", "there is no binding nothing"),
        ("remake log of 2020-01-01", "no run wrote a file at 1577836800000000"),
        ("remake log of yesterday", "is no time"),
        ("remake log", "say retry"),
        ("kill 1", "no run 1 is under way"),
        ("retry work.py/99999999999999999999999.0", "is no event"),
        ("retry work.py/²¹.0", "is no event"),
        ("replay work.py from yesterday to now", "is no time"),
        ("replay work.py from 2030-01-01 to 2020-01-01", "earlier to the later"),
    ],
)
def test_a_mistake_is_answered_with_the_remedy(cascade, line, says):
    with pytest.raises(BadCommand, match=says):
        cascade.operator.command(line)


def test_status_for_people_and_for_programs(cascade):
    cascade.put("farm/in/a", "")
    cascade.script("broken.py", "raise RuntimeError('oh')", base="farm")
    idle(cascade)
    text = cascade.operator.status_text()
    assert "/farm" in text
    assert "work.py:work" in text
    assert "done 1" in text
    assert "broken.py: not active: " in text
    assert json.loads(json.dumps(cascade.operator.status()))["bases"][0]["path"] == "farm"
    metrics = cascade.operator.metrics()
    assert (
        'cascadefs_trigger_done_total{base="farm",binding="work.py:work"} 1' in metrics.splitlines()
    )
    assert (
        'cascadefs_trigger_run_seconds{base="farm",binding="work.py:work",quantile="0.5"}'
        in metrics
    )


def test_metrics_are_read_by_the_parser_of_prometheus(cascade):
    """Whatever directories and scripts are called."""
    odd = 'f"a\\r\nm'
    cascade.script("work's.py", SCRIPT, base=odd)
    idle(cascade)
    cascade.put(f"{odd}/in/a", "")
    idle(cascade)
    samples = [
        sample
        for family in text_string_to_metric_families(cascade.operator.metrics())
        for sample in family.samples
    ]
    assert {sample.labels["base"] for sample in samples} == {"farm", odd}
    done = {
        (one.labels["base"], one.labels["binding"]): one.value
        for one in samples
        if one.name == "cascadefs_trigger_done_total"
    }
    assert done == {("farm", "work.py:work"): 0, (odd, "work's.py:work"): 1}


def test_the_stream_of_events_is_numbered_lines(cascade):
    cascade.put("farm/in/a", "")
    idle(cascade)
    lines = [json.loads(line) for line in cascade.engine.report.events.whole().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["event"] for line in lines] == ["reload", "event", "start", "done"]


def test_what_made_a_file_can_be_asked(cascade):
    cascade.put("farm/in/a", "")
    idle(cascade)
    why = cascade.why("farm/log")
    assert why.binding == "work.py:work"
    assert why.triggers == ["in/a@v1"]
    assert why.outputs == ["log@v1"]
    assert cascade.why("farm/in/a") is None


def test_in_a_directory_only_its_own_bindings_can_be_meant(cascade):
    cascade.script("work.py", SCRIPT, base="other farm")
    cascade.script("with space.py", SCRIPT, base="other farm")
    idle(cascade)
    bases = {
        cascade.engine.base_path(one, cascade.store.now()): one
        for one in cascade.engine.registry.bases
    }
    with pytest.raises(
        BadCommand, match=r"may be farm/work.py:work, other farm/work.py:work; say which"
    ):
        cascade.operator.command("pause work.py")
    cascade.operator.command("pause work.py", bases["other farm"])
    cascade.operator.command("pause with space.py:work", bases["other farm"])
    cascade.operator.command("resume other farm/with space.py:work")
    with pytest.raises(BadCommand, match="there is no binding"):
        cascade.operator.command("pause other farm/work.py:work", bases["farm"])
    paused = [one.queue.paused for one in cascade.engine.registry.followers()]
    assert sorted(paused) == [False, False, True]
    cascade.put("other farm/in/a", "")
    idle(cascade)
    told = cascade.operator.events(bases["farm"]).whole()
    assert b"other" not in told
    assert b"in/a" in cascade.operator.events(bases["other farm"]).whole()
    assert b"in/a" in cascade.operator.events(1).whole()
