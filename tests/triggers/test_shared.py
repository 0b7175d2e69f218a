"""Goal: engines that take over from each other, and a store that others change too, leave what one engine alone would.

Method: stores over faces of orders in memory (`storage.cluster.loopback`), each as if on a node of its own, with one clock that
stands still. At each numbered point of one engine another takes over, does all there is to do, and the first goes on as if
nothing had happened; or somebody writes what a run is about to write.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time

import pytest
import trio

from storage import record
from storage.clock import HybridClock
from storage.cluster.face import Face
from storage.cluster.loopback import Order
from storage.cluster.store import ClusterStore
from storage.cluster.view import ShardView
from storage.distant import DistantLog
from storage.errors import Reason, Refused
from storage.namespace import ROOT
from storage.stream import Committed
from storage.table import MemoryTable
from triggers.engine import Deposed, Engine, Options
from triggers.loading import Loading
from triggers.onlooker import Onlooker
from triggers.operator import BadCommand, Operator
from triggers.testing import Cascade, ManualClock

clients = itertools.count(1)

CHAIN = """
from cascadefs.triggers import watch

@watch("in/*", attempts=2, backoff="1s")
def fold(event, ctx):
    if event.name == "bad":
        raise ValueError("bad")
    ctx.state["seen"] = ctx.state.get("seen", "") + event.text() + str(event.version)
    ctx.put(f"folded/{event.name}", ctx.state["seen"])

@watch("folded/*")
def keep(event, ctx):
    ctx.append("ledger", f"{event.name} {event.text()}\\n".encode())
"""

APPEND = """
from cascadefs.triggers import watch

@watch("in/*")
def log(event, ctx):
    ctx.append("log", event.text() + "\\n")
    ctx.put("new/deep/" + event.name, event.text())
"""

COUNT = """
from cascadefs.triggers import watch

@watch("in/*", attempts=5)
def count(event, ctx):
    found = ctx.get("count")
    said = int(found.text()) if found else 0
    ctx.put_if("count", str(said + 1), expect=found.version if found else 0)
"""

ACROSS = """
from cascadefs.triggers import watch

@watch("in/*", attempts=1)
def across(event, ctx):
    ctx.put("far/out", event.text())
"""


class View(ShardView):
    """Of a face whose log is an order in memory."""

    def __init__(self, store, face, order):
        super().__init__(store, face)
        self._order = order

    def committed(self, address=0, after=0):
        for one in self._order.records[: self._face.applied_index]:
            if one.address >= address and one.timestamp > after:
                yield Committed(one.timestamp, one.address, record.decode(one.metadata))

    def committed_at(self, address):
        return next(one for one in self.committed() if one.address == address)

    def address_of_time(self, timestamp):
        return 0


class Cluster:
    """Orders that places share."""

    def __init__(self, shards=1):
        self.clock = ManualClock()
        self.orders = [Order(shard, self.clock) for shard in range(shards)]
        root = record.Create(0, b"", ROOT, 0o40755, 1000, 1000)
        self.orders[0].append(record.encode(root))

    def store(self, choose=lambda path: None):
        hybrid = HybridClock()
        faces = []
        for order in self.orders:
            sequencer = order.sequencer(next(clients))
            faces.append(
                Face(
                    sequencer, DistantLog(sequencer), MemoryTable(), self.clock,
                    steady_ns=time.monotonic_ns, hybrid=hybrid,
                )
            )  # fmt: skip
            faces[-1].recover()
        return ClusterStore(faces, self.clock, hybrid, choose=choose)


class Place(Cascade):
    """A node: a face of each shard, and the engine of one, from `lead` on."""

    def __init__(self, cluster, shard=0, at_point=None, choose=lambda path: None):
        self.cluster, self.shard, self.at_point = cluster, shard, at_point
        self.choose = choose
        super().__init__()

    def _open(self):
        self.clock = self.cluster.clock
        whole = self.cluster.store(self.choose)
        face = whole.faces[self.shard]
        self.whole = whole
        self.store = View(whole, face, self.cluster.orders[self.shard])
        self.runner = self._make_runner(self.clock)
        options = Options(
            workers=1, may_inproc=lambda _: True, node="test", shard=self.shard, is_shared=True
        )
        self.engine = Engine(self.store, self.clock, random.Random(0), options, point=self._passed)
        self.loading = Loading(self.engine)
        self.operator = Operator(self.engine, self.runner.kill)

    def _passed(self, name):
        self.points.append(name)
        if self.at_point is not None:
            self.at_point(self, name)

    def lead(self):
        self.whole.catch_up()
        self.engine.open()

    def idle(self):
        self.whole.catch_up()
        trio.run(self.run_until_idle)

    def outcome(self):
        return {
            "files": {path: self.versions(path) for path in self.files()},
            "dead": [(letter.event.path, letter.attempts) for letter in self.failed],
        }


def elsewhere(do):
    """In a thread, because here a loop runs."""
    failed = []

    def run():
        try:
            do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def story(take_over_at):
    """Some versions of some files, with an engine, and at a point another one that takes over."""
    cluster = Cluster()
    other = Place(cluster)
    took_over = []

    def at_point(place, _name):
        if len(place.points) == take_over_at:
            took_over.append(place)
            elsewhere(lambda: (other.lead(), other.idle()))

    first = Place(cluster, at_point=at_point)
    first.lead()
    steps = [
        lambda place: place.script("c.py", CHAIN),
        lambda place: [place.put("in/a", "x"), place.put("in/bad", ""), place.put("in/a", "y")],
        lambda place: place.put("in/b", "z"),
    ]
    deposed = False
    for step in steps:
        place = other if took_over else first
        place.whole.catch_up()
        step(place)
        try:
            first.idle() if not deposed else None
        except Deposed:
            deposed = True
        if took_over:
            other.idle()
    last = other if took_over else first
    last.whole.catch_up()
    return first, last, deposed


def test_an_engine_that_goes_on_when_another_has_taken_over_changes_nothing():
    whole, _, _ = story(None)
    expected = whole.outcome()
    assert whole.get("folded/a") == b"x1y2"
    assert whole.get("ledger") == b"a x1\na x1y2\nb z1\n"
    assert expected["dead"] == [("in/bad", 2)]
    assert len(whole.points) > 30
    ended = 0
    for point in range(1, len(whole.points) + 1):
        _, last, deposed = story(point)
        assert last.outcome() == expected, f"taken over at {point}: {whole.points[point - 1]}"
        ended += deposed
    assert ended > len(whole.points) // 2


def meddling(source, meddle, before=1):
    """A run whose plan somebody spoils: what `meddle` does comes between the plan and the record."""
    cluster = Cluster()
    other = Place(cluster)
    left = [before]

    def at_point(place, name):
        if name == "effects staged" and left[0]:
            left[0] -= 1
            other.whole.catch_up()
            meddle(other)

    place = Place(cluster, at_point=at_point)
    place.lead()
    place.script("s.py", source)
    place.idle()
    return place


@pytest.mark.parametrize("times", [1, 3])
def test_what_somebody_writes_before_the_record_is_planned_around(times):
    turn = itertools.count()
    place = meddling(APPEND, lambda other: other.put("log", f"theirs {next(turn)}\n"), times)
    place.put("in/a", "mine")
    place.idle()
    assert place.get("log") == f"theirs {times - 1}\nmine\n".encode()
    assert place.get("new/deep/a") == b"mine"
    assert place.failed == []
    (follower,) = place.engine.registry.followers()
    assert place.store.deliveries.consumer(*follower.key).retries == 0
    assert place.points.count("effects staged") == times + 1


def test_a_directory_that_somebody_makes_first_is_used():
    place = meddling(APPEND, lambda other: other.put("new/deep/theirs", "x"))
    place.put("in/a", "mine")
    place.idle()
    assert place.files("new/deep") == ["a", "theirs"]


def test_a_file_that_somebody_removes_first_is_made_again():
    place = meddling(APPEND, lambda other: other.delete("log"))
    place.put("log", "old\n")
    place.put("in/a", "mine")
    place.idle()
    assert place.get("log") == b"mine\n"


def test_a_put_if_that_loses_runs_again():
    place = meddling(COUNT, lambda other: other.put("count", "41"))
    place.put("in/a", "")
    place.idle()
    assert place.get("count") == b"42"
    assert place.failed == []


def test_somebody_who_is_always_faster_makes_a_run_fail_and_be_tried_again(monkeypatch):
    monkeypatch.setattr("triggers.commitment.PLANS_MAX", 2)
    turn = itertools.count()
    place = meddling(APPEND, lambda other: other.put("log", f"{next(turn)}\n"), before=2)
    place.put("in/a", "mine")
    place.idle()
    assert place.get("log") == b"1\nmine\n"
    (follower,) = place.engine.registry.followers()
    assert place.store.deliveries.consumer(*follower.key).retries == 1


def far(path):
    """Directories called `far` live in shard 0, those called `farm` in shard 1."""
    return {b"far": 0, b"farm": 1}.get(path.rpartition(b"/")[2])


def make(place, path, home):
    """A directory that lives in a shard."""
    directory, name = place._parent(path)
    inode = place.whole.face_of(home << 40).allocate_inode()
    made = record.Create(directory, name, inode, 0o40755, 1000, 1000)
    assert place.whole.propose(made).reason is None


def test_a_shard_runs_the_scripts_that_live_in_it_for_what_lives_in_it():
    cluster = Cluster(shards=2)
    here, above = Place(cluster, shard=1), Place(cluster, shard=0)
    make(here, "farm", 1)
    for place in (here, above):
        place.lead()
    here.script("log.py", APPEND, base="farm")
    above.whole.catch_up()
    above.script("all.py", APPEND.replace('"in/*"', '"**/in/*", "in/*"'))
    for place in (above, here):
        place.idle()
    here.put("farm/in/a", "there")
    above.put("in/b", "above")
    for place in (above, here):
        place.idle()
        place.whole.catch_up()
    assert here.get("farm/log") == b"there\n"
    assert here.get("log") == b"above\n", "what lives in another shard is none of the root's"
    (run,) = [one for one in here.store.deliveries.consumers() if one[1] != b"."]
    assert run[1] == b"log.py:log"
    assert run[2].done == 1
    again = Place(cluster, shard=1)
    again.lead()
    again.put("farm/in/a", "later")
    again.idle()
    assert again.get("farm/log") == b"there\nlater\n"
    with pytest.raises(Deposed):
        here.idle()


def test_effects_in_another_shard_are_refused_by_name_of_both():
    cluster = Cluster(shards=2)
    place = Place(cluster, shard=1)
    make(place, "farm", 1)
    make(place, "farm/far", 0)
    place.lead()
    place.script("a.py", ACROSS, base="farm")
    place.idle()
    place.put("farm/in/a", "x")
    place.idle()
    (letter,) = place.failed
    assert letter.message.startswith("far/out: lives in shard 0, and the run is in shard 1")
    assert place.files("farm/far") == []


def test_an_onlooker_tells_what_failed_and_has_it_done_again():
    cluster = Cluster()
    place = Place(cluster)
    place.lead()
    place.script(
        "c.py", CHAIN.replace('event.name == "bad"', 'ctx.get("mended", at="latest") is None')
    )
    place.idle()
    place.put("in/a", "x")
    place.put("in/b", "y")
    place.idle()
    store = cluster.store()
    store.view = lambda shard: ShardView(store, store.faces[shard])
    onlooker = Onlooker(store)
    fold, keep = sorted(onlooker.followers(ROOT))
    assert (fold.text, keep.text) == ("c.py:fold", "c.py:keep")
    (first, letter), (second, _) = onlooker.letters(fold)
    assert letter.event.path == "in/a"
    said = onlooker.status()
    assert json.dumps(said)
    (base,) = said["bases"]
    assert [one["failed"] for one in base["bindings"]] == [2, 0]
    assert "failed 2" in onlooker.status_text(ROOT)
    with pytest.raises(BadCommand):
        onlooker.command("retry c.py:fold/1.0")
    for line in ("pause c.py:fold", "kill x", f"skip c.py:fold/{first}"):
        with pytest.raises(Refused) as refused:
            onlooker.command(line)
        assert refused.value.reason is Reason.UNSUPPORTED
    onlooker.command(f"drop c.py:fold/{second}")
    place.whole.catch_up()
    place.put("mended", "")
    store.catch_up()
    onlooker.command(f"retry c.py:fold/{first}")
    assert onlooker.letters(fold) == []
    place.idle()
    assert place.get("folded/a") == b"x1"
    assert place.get("folded/b") is None
    assert place.get("ledger") == b"a x1\n"


def test_a_retry_that_nobody_heard_of_is_done_by_who_leads_next():
    cluster = Cluster()
    place = Place(cluster)
    place.lead()
    place.script(
        "c.py", CHAIN.replace('event.name == "bad"', 'ctx.get("mended", at="latest") is None')
    )
    place.idle()
    place.put("in/a", "x")
    place.idle()
    place.put("mended", "")
    store = cluster.store()
    onlooker = Onlooker(store)
    (fold,) = [one for one in onlooker.followers(ROOT) if one.text == "c.py:fold"]
    ((name, _),) = onlooker.letters(fold)
    onlooker.command(f"retry c.py:fold/{name}")
    after = Place(cluster)
    after.lead()
    after.idle()
    assert after.get("folded/a") == b"x1"


def test_what_an_older_engine_activates_late_is_put_right():
    cluster = Cluster()
    older, newer = Place(cluster), Place(cluster)
    older.lead()
    older.script("s.py", APPEND)
    older.idle()
    (known,) = older.engine.registry.followers()
    row = older.store.deliveries.definitions(*known.key)[0][1]
    newer.lead()
    newer.script("s.py", APPEND.replace("log", "journal"))
    newer.idle()
    late = record.Activate(ROOT, b"s.py", [(known.name, row, 0, 0)])
    older.whole.catch_up()
    assert older.whole.propose(late).reason is None
    newer.idle()
    newer.put("in/a", "x")
    newer.idle()
    assert newer.get("journal") == b"x\n"
    assert newer.get("log") is None
