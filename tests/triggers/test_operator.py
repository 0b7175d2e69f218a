"""What people may ask of triggers does what it says, and a mistake in the asking is answered with the remedy."""

from __future__ import annotations

import json

import pytest
import trio

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


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "say retry"),
        ("frobnicate x", "say retry"),
        ("pause nothing", "there is no binding nothing"),
        ("retry nonsense", "is no event"),
        ("retry work.py/12.0", "not among the dead letters"),
        ("skip work.py/12.0", "is not waiting"),
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
    for line in metrics.splitlines():
        assert line.startswith("# ") or line.rpartition(" ")[2].replace(".", "").isdigit()


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
