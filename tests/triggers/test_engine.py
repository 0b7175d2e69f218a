"""From a commit to a committed run: what fires, in which order, once, and what happens when it fails.

Method: scripts run in this process over a store in memory with a clock that stands still. No mount, worker or disk.
"""

from __future__ import annotations

import array
import errno
import json
from random import Random

import pytest
import trio

from storage import record
from storage.limits import CHUNK_BYTES
from triggers.commitment import LARGE
from triggers.testing import Cascade, Crash

COPY = """
from cascadefs.triggers import watch

@watch("in/**", emit="out/")
def copy(event, ctx):
    ctx.emit(event.name, bytes(event.data or b""))
"""

TRACE = """
from cascadefs.triggers import watch

@watch({options})
def trace(event, ctx):
    line = f"{{event.kind}} {{event.path}} v{{event.version}} {{event.hops}}\\n"
    ctx.append("trace", line.encode())
"""


def trace(options: str) -> str:
    return TRACE.format(options=options)


@pytest.fixture
def cascade() -> Cascade:
    return Cascade()


def idle(cascade: Cascade) -> None:
    trio.run(cascade.run_until_idle)


def traced(cascade: Cascade) -> list[str]:
    return (cascade.get("trace") or b"").decode().splitlines()


# --- registration -----------------------------------------------------------------------------------------------------


def test_a_script_fires_for_what_is_committed_after_it(cascade):
    cascade.put("in/old", "old")
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/new", "new")
    idle(cascade)
    assert cascade.problems == {}
    assert cascade.files("out") == ["new"]
    assert cascade.get("out/new") == b"new"


def test_from_start_fires_for_all_there_ever_was(cascade):
    cascade.put("in/a", "1")
    cascade.put("in/a", "2")
    cascade.delete("in/a")
    cascade.script("t.py", trace('"in/*", from_="start", kinds=["write", "delete"]'))
    idle(cascade)
    assert traced(cascade) == ["write in/a v1 0", "write in/a v2 0", "delete in/a v3 0"]


def test_a_script_with_a_mistake_changes_nothing_and_says_what(cascade):
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.script("copy.py", COPY.replace("emit=", "emti="))
    idle(cascade)
    assert "'emti'; did you mean 'emit'?" in cascade.problems["copy.py"]
    cascade.put("in/a", "a")
    idle(cascade)
    assert cascade.get("out/a") == b"a"  # the version before is still active
    cascade.script("copy.py", COPY.replace("event.name", "event.name + '2'"))
    idle(cascade)
    assert cascade.problems == {}
    cascade.put("in/b", "b")
    idle(cascade)
    assert cascade.get("out/b2") == b"b"


def test_of_two_bindings_one_of_which_is_wrong_neither_is_registered(cascade):
    source = trace('"in/*"') + '\n@watch("in/*", attempts=0)\ndef other(event, ctx): pass\n'
    cascade.script("t.py", source)
    idle(cascade)
    assert "attempts is 0" in cascade.problems["t.py"]
    cascade.put("in/a", "a")
    idle(cascade)
    assert traced(cascade) == []


def test_a_script_that_raises_shows_its_traceback(cascade):
    cascade.script("t.py", "import nothing_such\n")
    idle(cascade)
    assert "nothing_such" in cascade.problems["t.py"]
    (base,) = cascade.engine.registry.bases.values()
    assert "Traceback" in base.problems[b"t.py"].traceback


def test_a_script_taken_away_is_done_with_what_is_pending_and_then_silent(cascade):
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/a", "a")
    cascade.engine.pump()
    cascade.delete(".cascade/watch/copy.py")
    idle(cascade)
    cascade.put("in/b", "b")
    idle(cascade)
    assert cascade.files("out") == ["a"]


def test_events_before_an_activation_keep_the_old_script(cascade):
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/a", "a")
    cascade.script("copy.py", COPY.replace("event.name", "event.name + '2'"))
    cascade.engine.pump()  # the event is queued, the new script found
    idle(cascade)
    cascade.put("in/b", "b")
    idle(cascade)
    assert cascade.files("out") == ["a", "b2"]


def test_a_version_nobody_needs_any_more_is_retired(cascade, monkeypatch):
    retired = []
    retire = cascade.runner.retire

    async def note(script_id):
        retired.append(script_id)
        await retire(script_id)

    monkeypatch.setattr(cascade.runner, "retire", note)
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/a", "a")
    idle(cascade)
    (first,) = cascade.engine.registry.followers()
    old = first.newest.script_id
    assert retired == []
    cascade.put("in/b", "b")
    cascade.script("copy.py", COPY + "#")
    idle(cascade)
    cascade.put("in/c", "c")
    idle(cascade)
    assert retired == [old]
    assert cascade.files("out") == ["a", "b", "c"]


def test_lib_is_part_of_the_script(cascade):
    cascade.put(".cascade/watch/lib/words.py", "SUFFIX = '.1'\n")
    cascade.script(
        "copy.py",
        "from lib.words import SUFFIX\n" + COPY.replace("event.name", "event.name + SUFFIX"),
    )
    idle(cascade)
    cascade.put("in/a", "a")
    idle(cascade)
    cascade.put(".cascade/watch/lib/words.py", "SUFFIX = '.2'\n")
    idle(cascade)
    cascade.put("in/a", "a")
    idle(cascade)
    assert cascade.problems == {}
    assert cascade.files("out") == ["a.1", "a.2"]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_script_others_can_write_is_refused(cascade, mode):
    cascade.script("copy.py", COPY, mode=mode)
    idle(cascade)
    assert "chmod go-w" in cascade.problems["copy.py"]


@pytest.mark.parametrize("folder", [".cascade", ".cascade/watch"])
def test_a_folder_others_can_write_is_refused_until_it_is_mended(cascade, folder):
    cascade.script("copy.py", COPY)
    inode = cascade.store.binding(*cascade._parent(folder)).inode
    cascade.store.propose(record.SetAttributes(inode, mode=0o777))
    idle(cascade)
    assert "chmod go-w" in cascade.problems["copy.py"]
    cascade.store.propose(record.SetAttributes(inode, mode=0o755))
    idle(cascade)
    assert cascade.problems == {}
    cascade.put("in/a", "a")
    idle(cascade)
    assert cascade.files("out") == ["a"]


def test_scripts_moved_in_with_their_folder_are_noticed_and_moved_out_too(cascade):
    cascade.script("copy.py", COPY, base="prepared")
    idle(cascade)
    cascade.put("farm/in/x", "")
    cascade.rename("prepared/.cascade", "farm/.cascade")
    idle(cascade)
    cascade.put("farm/in/a", "a")
    cascade.put("prepared/in/a", "a")
    idle(cascade)
    assert cascade.files() == ["farm/in/a", "farm/in/x", "farm/out/a", "prepared/in/a"]
    cascade.rename("farm/.cascade/watch", "farm/.cascade/off")
    idle(cascade)
    cascade.put("farm/in/b", "b")
    idle(cascade)
    assert cascade.files("farm/out") == ["a"]


def test_a_base_sees_its_own_subtree_and_may_be_moved(cascade):
    cascade.script("copy.py", COPY, base="farm")
    idle(cascade)
    cascade.put("in/a", "not below")
    cascade.put("farm/in/a", "below")
    idle(cascade)
    cascade.rename("farm", "ranch")
    cascade.put("ranch/in/b", "below")
    idle(cascade)
    assert cascade.files() == ["in/a", "ranch/in/a", "ranch/in/b", "ranch/out/a", "ranch/out/b"]


# --- what fires -------------------------------------------------------------------------------------------------------


def test_a_hundred_quick_overwrites_are_a_hundred_runs_in_order(cascade):
    cascade.script("t.py", trace('"in/*"'))
    idle(cascade)
    for number in range(100):
        cascade.put("in/a", str(number))
    idle(cascade)
    assert traced(cascade) == [f"write in/a v{number} 0" for number in range(1, 101)]


def test_moves_links_and_deletions(cascade):
    cascade.script("t.py", trace('"in/**", kinds=["write", "move", "delete"]'))
    idle(cascade)
    cascade.put("elsewhere", "x")
    cascade.rename("elsewhere", "in/came")
    cascade.link("in/came", "in/linked")
    cascade.put("in/came", "y")
    cascade.rename("in/came", "in/renamed")
    cascade.rename("in/renamed", "gone")
    cascade.delete("in/linked")
    idle(cascade)
    assert sorted(traced(cascade)) == sorted(
        [
            "move in/came v1 0",
            "write in/linked v1 0",
            "write in/came v2 0",
            "write in/linked v2 0",
            "move in/renamed v1 0",
            "delete in/renamed v2 0",
            "delete in/linked v3 0",
        ]
    )  # of one name in order, which the versions show; of two names in any


def test_a_directory_that_moves_in_moves_all_its_files_in(cascade):
    cascade.script("t.py", trace('"in/**", kinds=["move", "delete"]'))
    idle(cascade)
    cascade.put("new/a", "1")
    cascade.put("new/sub/b", "2")
    cascade.put("new/sub/b", "3")
    cascade.rename("new", "in")
    idle(cascade)
    assert sorted(traced(cascade)) == ["move in/a v1 0", "move in/sub/b v2 0"]
    cascade.rename("in", "out")
    idle(cascade)
    assert sorted(traced(cascade))[:2] == ["delete in/a v1 0", "delete in/sub/b v2 0"]


def test_saving_by_rename_fires_once_for_the_final_name(cascade):
    cascade.script("t.py", trace('"in/*.txt"'))
    idle(cascade)
    for number in range(3):
        cascade.put("in/a.txt.tmp", str(number))
        cascade.rename("in/a.txt.tmp", "in/a.txt")
    idle(cascade)
    assert traced(cascade) == [f"move in/a.txt v{n} 0" for n in (1, 2, 3)]


def test_collapse_runs_the_newest_and_records_the_others_as_skipped(cascade):
    cascade.script("t.py", trace('"in/*", collapse="latest"'))
    idle(cascade)
    for number in range(10):
        cascade.put("in/a", str(number))
    idle(cascade)
    assert traced(cascade) == ["write in/a v10 0"]
    (consumer,) = (c for _, name, c in cascade.store.deliveries.consumers() if name != b".")
    assert (consumer.done, consumer.skipped) == (1, 9)


def test_settle_waits_for_quiet(cascade):
    cascade.script("t.py", trace('"in/*", settle="2s"'))
    idle(cascade)
    before = cascade.clock.value_ns
    for number in range(3):
        cascade.put("in/a", str(number))
    idle(cascade)
    assert traced(cascade) == ["write in/a v3 0"]
    assert cascade.clock.value_ns - before > 1.99e9


def test_nothing_below_dot_cascade_fires(cascade):
    cascade.script("t.py", trace('"**"'))
    idle(cascade)
    cascade.put(".cascade/watch/notes.txt", "x")
    cascade.put("sub/.cascade/watch/notes.txt", "x")
    idle(cascade)
    assert traced(cascade) == []


def test_a_binding_does_not_see_its_own_writes_unless_it_asks(cascade):
    cascade.script("t.py", trace('"**"'))
    idle(cascade)
    cascade.put("a", "1")
    idle(cascade)
    assert traced(cascade) == ["write a v1 0"]


# --- exactly once, one cut --------------------------------------------------------------------------------------------


def test_reads_are_on_the_cut_of_the_event(cascade):
    cascade.script(
        "read.py",
        """
from cascadefs.triggers import watch

@watch("in/*")
def read(event, ctx):
    ctx.put("saw/" + event.name, bytes(ctx.get("model").data) + b" " + bytes(event.data))
""",
    )
    cascade.put("model", "m1")
    idle(cascade)
    cascade.put("in/a", "1")
    cascade.put("model", "m2")
    cascade.put("in/a", "2")
    cascade.put("model", "m3")
    idle(cascade)
    assert cascade.versions("saw/a") == [b"m1 1", b"m2 2"]
    why = cascade.why("saw/a")
    assert why.triggers == ["in/a@v2"]
    assert why.reads == ["model@v2"]
    assert why.outputs == ["saw/a@v2"]


EVERY_READ = """
from cascadefs.triggers import watch

@watch("in/*")
def read(event, ctx):
    stat = lambda path: (one := ctx.stat(path)) and (one.version, one.size)
    model = ctx.get("model")
    ctx.put("saw/" + event.name, {
        "get": [model.text(), model.version, ctx.get("late") is None, ctx.get("gone") is None],
        "get of a version": [(one := ctx.get("model", version=n)) and one.text() for n in (1, 2, 3)],
        "stat": [stat("model"), stat("late"), stat("gone")],
        "list": ctx.list("**"),
        "history": [one.version for one in ctx.history("model")],
        "pull": ctx.pull("numbers", [0, 1], dtype="int32").tolist(),
        "tensor": ctx.tensor("numbers", dtype="int32", shape=(2,))[:].tolist(),
        "table": ctx.table("{model,late,gone}").arrow.select(["path", "version"]).to_pylist(),
        "prefetch": [one and one.text() for one in ctx.prefetch(["model", "late", "gone"])],
    })
"""


def seen_by_runs(between):
    """What runs read that are due while the tree changes on; `between` is what happens after each change."""
    cascade = Cascade()
    cascade.script("read.py", EVERY_READ)
    cascade.put("gone", "g")
    cascade.put("model", "m1")
    cascade.put("numbers", array.array("i", [1, 2]).tobytes())
    idle(cascade)
    cascade.put("in/a", "1")
    between(cascade)
    cascade.put("model", "m2, longer")
    cascade.put("numbers", array.array("i", [3, 4]).tobytes())
    cascade.delete("gone")
    cascade.put("in/b", "2")
    between(cascade)
    cascade.put("late", "l")
    cascade.put("model", "m3")
    cascade.rename("numbers", "elsewhere")
    cascade.put("numbers", array.array("i", [5, 6]).tobytes())
    idle(cascade)
    assert not cascade.failed, cascade.failed[0].traceback
    seen = [json.loads(cascade.get(f"saw/{name}")) for name in "ab"]
    for one in seen:
        one["list"] = [path for path in one["list"] if not path.startswith("saw/")]
    return seen


def test_every_read_is_on_the_cut_however_late_the_run_is():
    """A run that begins at once and one that begins when everything has changed read the same."""
    at_once, late = seen_by_runs(idle), seen_by_runs(lambda cascade: None)
    assert late == at_once
    assert [one["get"] for one in late] == [["m1", 1, True, False], ["m2, longer", 2, True, True]]
    assert [one["stat"] for one in late] == [[[1, 2], None, [1, 1]], [[2, 10], None, None]]
    assert [one["pull"] for one in late] == [[1, 2], [3, 4]]
    assert [one["tensor"] for one in late] == [[[1, 2]], [[1, 2], [3, 4]]]


def test_state_is_what_the_keys_previous_run_left(cascade):
    cascade.script(
        "count.py",
        """
from cascadefs.triggers import watch

@watch("in/*")
def count(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.put("count/" + event.name, str(ctx.state["n"]))
""",
    )
    idle(cascade)
    for name in ("a", "b", "a", "a"):
        cascade.put(f"in/{name}", "x")
    idle(cascade)
    assert cascade.versions("count/a") == [b"1", b"2", b"3"]
    cascade.restart()
    cascade.put("in/a", "x")
    idle(cascade)
    assert cascade.get("count/a") == b"4"
    assert cascade.get("count/b") == b"1"


def test_a_state_that_is_too_large_fails_the_run(cascade):
    cascade.script(
        "s.py",
        """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def keep(event, ctx):
    ctx.state["x"] = "x" * (1 << 20)
""",
    )
    idle(cascade)
    cascade.put("in/a", "")
    idle(cascade)
    assert [letter.message for letter in cascade.failed] == ["state: larger than 1 MiB; use a file"]


def test_a_chain_counts_hops_and_keeps_its_root(cascade):
    cascade.script("one.py", COPY)
    cascade.script("two.py", COPY.replace("in/**", "out/**").replace('out/"', 'end/"'))
    idle(cascade)
    cascade.put("in/a", "x")
    idle(cascade)
    assert cascade.problems == {}
    first, second = cascade.why("out/a"), cascade.why("end/a")
    assert (first.hops, second.hops) == (0, 1)
    assert second.root == first.root
    assert second.triggers == ["out/a@v1"]


def test_a_batch_is_as_far_from_programs_as_the_farthest_of_its_events(cascade):
    """Or a loop that a program feeds as well would never end."""
    cascade.script(
        "both.py",
        """
from cascadefs.triggers import watch

@watch("in/*", emit="mid/")
def first(event, ctx):
    ctx.emit(event.name, b"")

@watch("mid/*", batch=2, wait="1h", key="dir")
def second(events, ctx):
    ctx.put("out", ",".join(event.name for event in events))
""",
    )
    idle(cascade)
    cascade.put("mid/a", "of a program")
    cascade.put("in/b", "")
    idle(cascade)
    assert cascade.get("out") == b"a,b"
    assert cascade.why("mid/b").hops == 0
    assert cascade.why("out").hops == 1
    assert cascade.why("out").root == cascade.why("mid/b").root


def test_a_loop_ends_in_the_dead_letters(cascade):
    cascade.script(
        "loop.py",
        """
from cascadefs.triggers import watch

@watch("a/*", emit="a/", self=True, hops=5)
def again(event, ctx):
    ctx.emit(event.name, b"x")
""",
    )
    idle(cascade)
    cascade.put("a/x", "x")
    idle(cascade)
    assert cascade.version("a/x") == 7
    (letter,) = cascade.failed
    assert letter.kind == "hops"
    assert "does it feed itself" in letter.message
    (base,) = cascade.engine.registry.bases.values()
    assert "again" in base.warnings[0]


def test_what_lies_too_deep_is_a_dead_letter_that_can_be_told(cascade):
    cascade.script("copy.py", COPY)
    idle(cascade)
    deep = "/".join(["in", *["d" * 250] * 70])
    length = len(deep) + 2
    cascade.put(f"{deep}/x", "x")
    cascade.put(f"{deep}/y", "y")
    cascade.rename(f"{deep}/y", "in/y")
    idle(cascade)
    assert cascade.get("out/y") == b"y"
    assert {letter.kind for letter in cascade.failed} == {"path"}
    first, second = (letter.event for letter in cascade.failed)
    assert first.path_characters == length
    assert first.path != second.path
    assert first.path.startswith(f"{deep[:900]}")
    assert len(first.path) < 1100
    assert f"its path has {length} characters; 16384 are the most" in cascade.failed[0].message


def test_put_if_runs_again_at_a_newer_cut(cascade):
    cascade.script(
        "cas.py",
        """
from cascadefs.triggers import watch

@watch("in/*", attempts=9)
def add(event, ctx):
    old = ctx.get("total")
    value = int(old.text()) if old else 0
    ctx.put_if("total", str(value + int(bytes(event.data))), expect=old.version if old else 0)
""",
    )
    idle(cascade)
    for number in (1, 2, 3, 4):
        cascade.put(f"in/{number}", str(number))
    idle(cascade)
    assert cascade.get("total") == b"10"
    assert cascade.version("total") == 4
    assert cascade.failed == []


def test_add_needs_no_comparison(cascade):
    cascade.script(
        "sum.py",
        """
from cascadefs.triggers import watch
import array
import errno

@watch("in/*")
def add(event, ctx):
    ctx.add("vector", int(event.name), array.array("f", [1.0, 2.0]))
""",
    )
    idle(cascade)
    for _ in range(3):
        for name in ("0", "1"):
            cascade.put(f"in/{name}", "x")
    idle(cascade)
    assert cascade.failed == []
    vector = array.array("f")
    vector.frombytes(cascade.get("vector"))
    assert list(vector) == [3.0, 9.0, 6.0]


# --- failure ----------------------------------------------------------------------------------------------------------

FAILS = """
from cascadefs.triggers import watch

@watch("in/*", attempts=3{options})
def fails(event, ctx):
    print("trying", event.attempt)
    if event.name == "bad":
        ctx.put("never", b"x")
        raise ValueError("no good")
    ctx.put("good/" + event.name, bytes(event.data))
"""


def test_a_poison_version_is_tried_and_put_away_and_its_key_goes_on(cascade):
    cascade.script("f.py", FAILS.format(options=""))
    idle(cascade)
    before = cascade.clock.value_ns
    cascade.put("in/bad", "1")
    cascade.put("in/fine", "2")
    idle(cascade)
    (letter,) = cascade.failed
    assert (letter.attempts, letter.kind, letter.event.path) == (3, "exception", "in/bad")
    assert "no good" in letter.message
    assert "ValueError" in letter.traceback
    assert b"trying 3" in letter.output
    assert cascade.files() == ["good/fine", "in/bad", "in/fine"]
    assert cascade.clock.value_ns - before > 0.08 * 5 * 1e9  # 0.1 s and then 0.4 s, less the jitter


def test_attempts_survive_a_restart(cascade):
    cascade.script("f.py", FAILS.format(options=""))
    idle(cascade)
    cascade.put("in/bad", "1")

    async def once():
        while not cascade.points.count("attempt noted"):
            cascade.engine.pump()
            for started in cascade.engine.start():
                result = await cascade.runner.run(started.run, started.cut)
                cascade.engine.finish(started, result)

    trio.run(once)
    cascade.restart()
    idle(cascade)
    (letter,) = cascade.failed
    assert letter.attempts == 3
    assert b"trying 3" in letter.output
    assert cascade.points.count("attempt noted") == 2


def test_reject_is_a_dead_letter_at_once_and_retry_waits_as_long_as_told(cascade):
    cascade.script(
        "r.py",
        """
from cascadefs.triggers import watch

@watch("in/*")
def decide(event, ctx):
    if event.name == "never":
        ctx.reject("not mine")
    if event.attempt == 1:
        ctx.retry(after=90)
    ctx.put("done/" + event.name, b"")
""",
    )
    idle(cascade)
    before = cascade.clock.value_ns
    cascade.put("in/never", "")
    cascade.put("in/later", "")
    idle(cascade)
    (letter,) = cascade.failed
    assert (letter.kind, letter.attempts) == ("reject", 1)
    assert "not mine" in letter.message
    assert cascade.files("done") == ["later"]
    assert 89.9 < (cascade.clock.value_ns - before) / 1e9 < 91


def test_a_batch_is_halved_and_marked_ones_are_tried_alone(cascade):
    cascade.script(
        "b.py",
        """
from cascadefs.triggers import watch

@watch("in/*", batch=8, attempts=2)
def many(events, ctx):
    for event in events:
        if event.name == "poison":
            raise ValueError("bad")
        if event.name == "marked":
            event.fail("not this")
        else:
            ctx.put("out/" + event.name, b"x")
    ctx.put("sizes/" + "-".join(e.name for e in events), str(len(events)))
""",
    )
    idle(cascade)
    for name in ("a", "b", "marked", "c", "poison", "d", "e", "f"):
        cascade.put(f"in/{name}", "")
    idle(cascade)
    assert {letter.event.path: letter.message for letter in cascade.failed}.keys() == {
        "in/marked",
        "in/poison",
    }
    assert cascade.files("out") == ["a", "b", "c", "d", "e", "f"]
    assert all(cascade.version(f"out/{name}") == 1 for name in "abcdef")


def test_on_fail_block_holds_the_key(cascade):
    cascade.script("f.py", FAILS.format(options=', on_fail="block", key="dir"'))
    idle(cascade)
    cascade.put("in/bad", "1")
    cascade.put("in/fine", "2")
    idle(cascade)
    assert cascade.failed == []
    assert cascade.files() == ["in/bad", "in/fine"]
    (follower,) = cascade.engine.registry.followers()
    assert [pending.event.path for pending in follower.queue.blocked()] == ["in/bad"]


def test_an_effect_that_is_not_allowed_fails_the_run(cascade):
    cascade.script(
        "w.py",
        """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def write(event, ctx):
    ctx.put(event.data.tobytes().decode(), b"x")
""",
    )
    idle(cascade)
    for path in ("../up", "/abs", ".cascade/watch/x.py", "in", "in/a/b"):
        cascade.put("in/a", path)
    idle(cascade)
    assert len(cascade.failed) == 5
    assert cascade.files() == ["in/a"]


def test_what_the_owner_may_not_read_or_write_fails(cascade):
    cascade.script(
        "w.py",
        """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def write(event, ctx):
    if event.name == "read":
        ctx.get("secret")
    ctx.put("locked/x", b"x")
""",
    )
    cascade.uid = 7
    cascade.put("secret", "s", mode=0o600)
    cascade.put("locked/y", "s")
    cascade.uid = 1000
    idle(cascade)
    cascade.put("in/read", "")
    cascade.put("in/write", "")
    idle(cascade)
    assert [letter.message for letter in cascade.failed] == [
        "PermissionError: secret: user 1000 may not read it",
        "locked/x: user 1000 may not make it",
    ]


def test_rate_holds_back_and_drops_nothing(cascade):
    cascade.script("t.py", trace('"in/*", rate="2/s"'))
    idle(cascade)
    before = cascade.clock.value_ns
    for number in range(10):
        cascade.put(f"in/{number}", "")
    idle(cascade)
    assert len(traced(cascade)) == 10
    assert 3.9e9 < cascade.clock.value_ns - before < 4.3e9


# --- restart ----------------------------------------------------------------------------------------------------------


def test_what_was_not_done_is_done_after_a_restart_and_nothing_twice(cascade):
    cascade.script("t.py", trace('"in/*"'))
    idle(cascade)
    for number in range(5):
        cascade.put("in/a", str(number))
    cascade.restart()
    for number in range(5):
        cascade.put("in/a", str(number))
    idle(cascade)
    cascade.restart()
    idle(cascade)
    assert traced(cascade) == [f"write in/a v{number} 0" for number in range(1, 11)]


def test_what_was_done_out_of_order_is_not_done_again_however_far_back_the_search_begins(
    cascade, monkeypatch
):
    """The search for scripts has no mark yet and reads the log a few records at a time, behind those who know theirs."""
    monkeypatch.setattr("triggers.intake.PUMP_RECORDS", 3)
    source = trace('"in/*", attempts=1, on_fail="block"')
    cascade.script("t.py", source.replace("    line", "    assert event.name != 'b'\n    line"))
    idle(cascade)
    for number in range(10):
        for name in "bac":
            cascade.put(f"in/{name}", str(number))
    idle(cascade)
    before = traced(cascade)
    assert len(before) == 20
    cascade.restart()
    idle(cascade)
    assert traced(cascade) == before
    follower = cascade.operator.binding("t.py")
    assert len(follower.queue) == 10
    assert not follower.known_done


def test_a_zombies_record_is_refused(cascade):
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/a", "a")
    cascade.engine.pump()
    (started,) = cascade.engine.start()
    result = trio.run(cascade.runner.run, started.run, started.cut)
    zombie = cascade.engine
    cascade.restart()
    idle(cascade)
    assert cascade.version("out/a") == 1
    vars(zombie.store).update(vars(cascade.store))  # the old engine reaches the same log
    zombie.finish(started, result)
    assert cascade.version("out/a") == 1
    events = [json.loads(line) for line in zombie.report.events.whole().splitlines()]
    assert "refused" in events[-1]["message"]


CRASHING = """
from cascadefs.triggers import watch

@watch("in/*", attempts=2)
def first(event, ctx):
    if event.name == "bad":
        raise ValueError
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.append("folded/" + event.name, bytes(event.data) + str(ctx.state["n"]).encode() + b" ")

@watch("folded/*")
def second(event, ctx):
    ctx.put("end/" + event.name, bytes(event.data))
"""


def crashing(crash_at: int | None) -> Cascade:
    """The same story, with a crash somewhere in it."""
    cascade = Cascade(crash_at=crash_at)
    steps = [
        lambda: cascade.script("c.py", CRASHING),
        lambda: [cascade.put("in/a", "x"), cascade.put("in/bad", ""), cascade.put("in/a", "y")],
        lambda: cascade.put("in/b", "z"),
    ]
    for step in steps:
        step()
        try:
            idle(cascade)
        except Crash:
            cascade.restart()
            idle(cascade)
    return cascade


def test_a_crash_at_any_point_changes_nothing():
    whole = crashing(None)
    points = len(whole.points)
    assert points > 30
    assert whole.get("folded/a") == b"x1 y2 "

    def outcome(cascade: Cascade) -> dict[str, object]:
        return {
            "files": {path: cascade.versions(path) for path in cascade.files()},
            "dead": [(letter.event.path, letter.attempts) for letter in cascade.failed],
        }

    expected = outcome(whole)
    for crash_at in range(1, points + 1):
        crashed = crashing(crash_at)
        assert outcome(crashed) == expected, f"crash at {crash_at}: {whole.points[crash_at - 1]}"


def test_a_queue_that_is_full_leaves_the_rest_in_the_log(cascade, monkeypatch):
    monkeypatch.setattr("triggers.follower.QUEUE_EVENTS_MAX", 5)
    cascade.script("t.py", trace('"in/*", key="dir"'))
    cascade.script("copy.py", COPY)
    idle(cascade)
    for number in range(40):
        cascade.put("in/a", str(number))
    cascade.engine.pump()
    assert all(len(one.queue) <= 6 for one in cascade.engine.registry.followers())
    idle(cascade)
    assert traced(cascade) == [f"write in/a v{number} 0" for number in range(1, 41)]
    cascade.put("in/a", "x")
    idle(cascade)
    assert len(traced(cascade)) == 41
    assert cascade.version("out/a") == 41


def test_more_told_than_can_be_kept_is_read_from_the_log(cascade, monkeypatch):
    monkeypatch.setattr("triggers.intake.FEED_RECORDS_MAX", 3)
    cascade.script("t.py", trace('"in/*"'))
    idle(cascade)
    for number in range(20):
        cascade.put("in/a", str(number))
    idle(cascade)
    cascade.put("in/a", "x")
    idle(cascade)
    assert traced(cascade) == [f"write in/a v{number} 0" for number in range(1, 22)]


def test_an_executable_s_header_is_read_without_running_it(cascade):
    cascade.script("x.sh", '#!/bin/sh\n# /// script\n# [tool.cascadefs]\n# watch = "in/*"\n# ///\n')
    cascade.script("none.sh", "#!/bin/sh\necho\n")
    cascade.script(
        "plain.sh",
        '#!/bin/sh\n# /// script\n# [tool.cascadefs]\n# watch = "in/*"\n# ///\n',
        mode=0o644,
    )
    cascade.script("detect", "\x7fELF")
    cascade.put(".cascade/watch/detect.toml", 'watch = "in/*"\ntimeout = "1s"\n')
    idle(cascade)
    assert {one.text for one in cascade.engine.registry.followers()} == {"x.sh", "detect"}
    assert "says nowhere what to watch" in cascade.problems["none.sh"]
    assert "chmod u+x" in cascade.problems["plain.sh"]


def test_a_quota_is_kept_by_scripts_too(cascade):
    cascade.script("copy.py", COPY.replace('emit="out/"', 'emit="out/", attempts=1'))
    cascade.put("out/first", "1234")
    directory = cascade.store.binding(1, b"out").inode
    cascade.store.propose(record.SetXattr(directory, b"user.cascade.quota", b"10"))
    idle(cascade)
    cascade.put("in/fits", "123456")
    idle(cascade)
    cascade.put("in/not", "1")
    idle(cascade)
    assert cascade.files("out") == ["first", "fits"]
    assert ["over quota" in letter.message for letter in cascade.failed] == [True]


def test_changes_are_what_a_plain_walk_of_the_tree_sees(cascade):
    """Random changes; what fired, against what a watcher would find by comparing all names before and after."""

    cascade.script(
        "t.py",
        trace('"**", kinds=["write", "move", "delete"]'),
    )
    idle(cascade)
    dice = Random(3)
    expected: list[tuple[str, str]] = []
    names = ["d/a", "d/b", "e/a", "e/c", "e/f/g"]
    for step in range(120):
        there = [name for name in names if name in cascade.files()]
        action = dice.choice(["put", "put", "delete", "rename", "link", "directory"])
        if action == "put":
            name = dice.choice(names)
            cascade.put(name, str(step))
            inode = cascade.store.binding(*cascade._parent(name)).inode
            for other in cascade.files():
                found = cascade.store.binding(*cascade._parent(other))
                if found.inode == inode:
                    expected.append(("write", other))
        elif action == "delete" and there:
            name = dice.choice(there)
            cascade.delete(name)
            expected.append(("delete", name))
        elif action == "rename" and there:
            source, target = dice.choice(there), dice.choice(names)
            one = cascade.store.binding(*cascade._parent(source)).inode
            two = cascade.store.binding(*cascade._parent(target))
            if source != target and (two is None or two.inode != one):
                cascade.rename(source, target)
                expected.append(("move", target))
        elif action == "link" and there:
            source, target = dice.choice(there), dice.choice(names)
            if target not in cascade.files():
                cascade.link(source, target)
                expected.append(("write", target))
        elif action == "directory" and any(name.startswith("e/") for name in there):
            moved = cascade.files("e")
            cascade.rename("e", "other")
            expected += [("move", f"other/{name}") for name in moved]
            cascade.rename("other", "e")
            expected += [("move", f"e/{name}") for name in moved]
    idle(cascade)
    fired = [tuple(line.split()[:2]) for line in traced(cascade)]
    assert sorted(fired) == sorted(expected)


@pytest.mark.parametrize("kind", [record.Finish, record.Attempt, record.Activate, record.Advance])
def test_a_full_disk_holds_runs_up_and_loses_nothing(cascade, monkeypatch, kind):
    """Every other record of a kind is refused by the disk for a while."""
    propose = cascade.store.propose
    left = [6]

    def full(proposal, payload=()):
        if isinstance(proposal, kind) and left[0]:
            left[0] -= 1
            if left[0] % 2:
                raise OSError(errno.ENOSPC, "no space left")
        return propose(proposal, payload)

    monkeypatch.setattr(cascade.store, "propose", full)
    monkeypatch.setattr("triggers.marks.ADVANCE_RECORDS", 3)
    for attempt in range(4):
        cascade.script("t.py", trace('"in/*", attempts=9') + "#" * attempt)
        idle(cascade)
    cascade.script("f.py", FAILS.format(options=""))
    idle(cascade)
    for name in ("a", "bad", "a"):
        cascade.put(f"in/{name}", "")
    idle(cascade)
    for number in range(4):
        cascade.script("f.py", FAILS.format(options="") + "#" * number)
        idle(cascade)
    assert sorted(traced(cascade)) == ["write in/a v1 0", "write in/a v2 0", "write in/bad v1 0"]
    assert [letter.event.path for letter in cascade.failed] == ["in/bad"]
    assert cascade.versions("good/a") == [b"", b""]
    assert all(not one.queue.running for one in cascade.engine.registry.followers())


# --- cost -------------------------------------------------------------------------------------------------------------


def test_bindings_that_a_commit_does_not_concern_cost_it_nothing(cascade, monkeypatch):
    """Steps, not time: with a thousand bindings nobody is asked but the one that matches."""
    functions = "\n".join(
        f'@watch("d{n}/*")\ndef h{n}(e, c): c.put("log{n}", "x")' for n in range(1000)
    )
    cascade.script("many.py", f"from cascadefs.triggers import watch\n{functions}\n")
    idle(cascade)
    assert cascade.problems == {}
    followers = list(cascade.engine.registry.followers())
    assert len(followers) == 1000
    asked = []
    for follower in followers:
        take, next_ms = follower.queue.take, follower.queue.next_ms
        number = follower.text.rpartition("h")[2]
        monkeypatch.setattr(
            follower.queue, "take", lambda now, n=number, f=take: asked.append(n) or f(now)
        )
        monkeypatch.setattr(
            follower.queue, "next_ms", lambda now, n=number, f=next_ms: asked.append(n) or f(now)
        )
    monkeypatch.setattr(
        cascade.engine.registry, "followers", lambda: pytest.fail("all bindings were looked at")
    )
    cascade.put("d7/a", "x")
    cascade.put("elsewhere", "x")
    idle(cascade)
    assert cascade.get("log7") == b"x"
    assert set(asked) == {"7"}
    assert cascade.engine.registry.behind == {}


def test_what_waits_is_not_looked_through_at_every_turn(cascade, monkeypatch):
    cascade.script("t.py", trace('"in/*"'))
    idle(cascade)
    (follower,) = cascade.engine.registry.followers()
    follower.queue.paused = True
    for number in range(50):
        cascade.put(f"in/{number}", "")
    looks = []
    events = follower.queue.events
    monkeypatch.setattr(follower.queue, "events", lambda: looks.append(1) or events())
    cascade.script("t.py", trace('"in/*"') + "# another")
    idle(cascade)
    before = len(looks)
    for _ in range(100):
        assert cascade.engine.repertoire.take_unused() == []
    assert len(looks) == before
    follower.queue.paused = False
    idle(cascade)
    assert len(traced(cascade)) == 50
    assert len(looks) - before <= 3
    assert not cascade.engine.repertoire.scripts, (
        "the old version is told, and the new one never ran"
    )


@pytest.mark.parametrize(
    "does",
    [
        'for number in range(20): ctx.get("b/" * 500_000 + str(number))',
        'ctx.put("/".join(["d" * 250] * 35_000), b"")',
    ],
)
def test_what_one_record_cannot_hold_is_the_runs_failure_and_nobody_elses(cascade, does):
    cascade.script("large.py", f"""
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def large(event, ctx):
    {does}
""")  # fmt: skip
    cascade.script("copy.py", COPY)
    idle(cascade)
    cascade.put("in/x", "x")
    idle(cascade)
    assert [letter.message for letter in cascade.failed] == [LARGE]
    assert cascade.get("out/x") == b"x"


def test_a_handler_in_this_process_sees_the_memory_of_the_log(cascade):
    """TRIGGERS 12: what lies in one piece is not copied; what lies in several is joined by one copy, and counted."""
    cascade.script(
        "look.py", 'from cascadefs.triggers import watch\n'
        '@watch("in/*", emit="out/")\ndef look(event, ctx):\n'
        '    ctx.emit(event.name, f"{type(event.data.obj).__name__} {event.data.readonly}")\n',
    )  # fmt: skip
    idle(cascade)
    for size, seen, copies in (
        (CHUNK_BYTES, b"bytearray True", (0, 0)),  # the mapping of a segment, which is memory here
        (2 * CHUNK_BYTES, b"bytes True", (1, 2 * CHUNK_BYTES)),
    ):
        cascade.put("in/a", bytes(range(256)) * (size // 256))
        idle(cascade)
        assert cascade.get("out/a") == seen
        assert cascade.runner.copies.taken() == copies
