"""Goal: history is let go on all replicas alike and gives its space back on each, whoever leads, and nothing else is lost.

Method: nodes in one process with indexes in a directory of the test, on a clock that jumps; files made by records. Logs are
looked at as they are, tables by the faces.
"""

import shutil

import trio

from cascadefs.node.keeping import Grace
from storage.namespace import KEPT
from storage.namespace.questions import PRUNED, PURGED
from storage.record import SELF, Commit, Create, Prune, SetXattr, Write, encode
from storage.scrub import Scrub
from tests.cluster.test_faces import NAMES, start, stop
from tests.cluster.world import SEGMENT_BYTES, Proposer

FILE = 100
LARGE = 250_000
SECOND_US = 1_000_000
GRACE = Grace(open_us=10 * SECOND_US, shared_us=20 * SECOND_US, staged_us=100 * SECOND_US)
POLICY = b"all:10s;min=2"


class Writer(Proposer):
    """Proposes records of one file in the root."""

    def put(self, record, payload=b""):
        self.number += 1
        self.line.submit(self.number, encode(record), (payload,) if payload else ())
        return self.number

    async def make(self):
        self.put(Create(1, b"f", FILE, 0o100644, 0, 0))
        self.save(b"first")
        await self.wait()

    def save(self, data):
        self.put(Commit(FILE, len(data), 0, [(0, len(data), SELF, 0)], 0, 0), data)

    def name(self, *addresses):
        """A content of whole frames."""
        extents = [(LARGE * place, LARGE, at, 0) for place, at in enumerate(addresses)]
        self.put(Commit(FILE, LARGE * len(addresses), 0, extents, 0, 0))

    async def stage(self, data):
        number = self.put(Write(FILE, 0), data)
        await self.wait()
        return next(record.address for record in self.own() if record.number == number)

    async def fill(self, count):
        """More versions than fit a segment."""
        for number in range(count):
            self.save(bytes([number % 250 + 1]) * LARGE)
            await self.wait()


def states(node):
    with node.faces.exclusive() as faces:
        faces[0].catch_up()
        space = faces[0].namespace
        return [space.content_state(FILE, n) for n in range(1, space.attributes(FILE).content + 1)]


def content(node):
    with node.faces.exclusive() as faces:
        faces[0].catch_up()
        attributes = faces[0].namespace.attributes(FILE)
        return bytes(faces[0].read(FILE, attributes, None, 0, attributes.size))


def taken(node):
    return node.members[0].log.taken_bytes


async def until(condition, seconds=600):
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.5)


async def begin(world, directory):
    world.options.setdefault("grace", GRACE)
    await start(world, directory)
    await world.wait_members()
    writer = Writer(world.leader())
    await writer.make()
    return writer


def test_a_policy_thins_all_replicas_alike_and_every_log_shrinks(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        writer.put(SetXattr(1, b"user.cascade.retention", POLICY))
        await writer.fill(75)
        nodes = list(world.nodes.values())
        before = taken(nodes[0])
        await until(lambda: all(taken(node) < before / 2 for node in nodes))
        await world.wait_members()
        last = content(nodes[0])
        assert last == bytes([75]) * LARGE
        for node in nodes:
            found = states(node)
            assert found[:-2] == [PRUNED] * 74
            assert found[-2:] == [KEPT] * 2
            assert content(node) == last
            log = node.members[0].log
            scrub = Scrub(log)
            while scrub.step(10**9, 10**6):
                pass
            assert not scrub.damage
            assert node.mender.status(0)["mended"] == 0
            assert node.keeper.status(0)["segments_condensed"] >= 1
            assert not node.keeper.status(0)["trouble"]
        prunes = [node.keeper.status(0)["passes"] for node in nodes]
        assert sum(1 for passes in prunes if passes) == 1, "one decides"
        tables = [sorted(frame.address for frame in node.members[0].log.frames()) for node in nodes]
        assert tables[0] == tables[1] == tables[2]

    in_world(scenario)


def test_nothing_is_thinned_without_a_policy_and_nothing_young_with_one(in_world, tmp_path):
    async def scenario(world):
        world.options["grace"] = Grace(open_us=150 * SECOND_US)
        writer = await begin(world, tmp_path)
        await writer.fill(3)
        await trio.sleep(70)
        assert set(states(world.leader())) == {KEPT}
        writer.put(SetXattr(1, b"user.cascade.retention", b"all:10s"))
        await writer.wait()
        await trio.sleep(65)
        assert set(states(world.leader())) == {KEPT}, "somebody may have it open"
        await trio.sleep(100)
        assert states(world.leader())[:-1] == [PRUNED] * 3

    in_world(scenario)


def test_a_wiped_node_is_filled_from_condensed_logs_and_is_as_small(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        writer.put(SetXattr(1, b"user.cascade.retention", POLICY))
        await writer.fill(75)
        nodes = world.nodes
        before = taken(world.leader())
        await until(lambda: all(taken(node) < before / 2 for node in nodes.values()))
        victim = next(name for name in NAMES if nodes[name] is not world.leader())
        await stop(world, victim, "kill")
        world.wipe(victim)
        shutil.rmtree(tmp_path / victim)
        await start(world, tmp_path, victim)
        await world.wait_members()
        await until(lambda: taken(nodes[victim]) < before / 2)
        assert states(nodes[victim]) == states(world.leader())
        assert content(nodes[victim]) == bytes([75]) * LARGE
        assert nodes[victim].mender.status(0)["damaged"] == 0

    in_world(scenario)


def test_a_change_of_leader_in_the_middle_of_a_pass(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        for _ in range(600):
            writer.save(b"x" * 100)
        await writer.wait()
        writer.put(SetXattr(1, b"user.cascade.retention", POLICY))
        await writer.wait()
        first = world.epoch().leader

        def is_under_way():
            return bool(world.nodes[first].keeper.status(0).get("busy"))

        with trio.fail_after(600):
            while not is_under_way():
                await trio.sleep(0.01)
        await stop(world, first, "kill")
        rest = [name for name in NAMES if name != first]
        await world.wait_members(*rest)
        await until(lambda: states(world.leader())[:-2] == [PRUNED] * 599)
        await start(world, tmp_path, first)
        await world.wait_members()
        for node in world.nodes.values():
            await until(lambda node=node: states(node)[:-2] == [PRUNED] * 599)
            assert states(node)[-2:] == [KEPT] * 2

    in_world(scenario)


def test_drafts_survive_whatever_is_let_go_around_them(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        writer.put(SetXattr(1, b"user.cascade.retention", POLICY))
        staged = await writer.stage(b"draft" * (LARGE // 5))
        await writer.fill(75)
        nodes = list(world.nodes.values())
        before = taken(nodes[0])
        await until(lambda: all(taken(node) < before / 2 for node in nodes))
        writer.name(staged)
        await writer.wait()
        for node in nodes:
            assert content(node) == b"draft" * (LARGE // 5)

    in_world(scenario)


def test_what_was_staged_and_never_named_goes_when_nobody_can_name_it_any_more(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        for _ in range(75):
            await writer.stage(b"s" * LARGE)
        nodes = list(world.nodes.values())
        await writer.fill(
            75
        )  # Whole segments only are known to be old: it takes a later one to say so.
        logs = [node.members[0].log for node in nodes]
        await trio.sleep(70)
        assert [log.segment_size(0) for log in logs] == [SEGMENT_BYTES] * 3
        await trio.sleep(150)
        assert all(log.segment_size(0) < SEGMENT_BYTES / 10 for log in logs)
        assert [log.segment_size(1) for log in logs] == [SEGMENT_BYTES] * 3
        assert content(nodes[0]) == bytes([75]) * LARGE

    in_world(scenario)


def test_a_payload_shared_within_the_time_a_draft_lives_is_there(in_world, tmp_path):
    async def scenario(world):
        writer = await begin(world, tmp_path)
        shared = await writer.stage(b"share" * (LARGE // 5))
        writer.name(shared)
        await writer.fill(75)
        writer.put(Prune(FILE, [(2, 76)], True))
        await writer.wait()
        await trio.sleep(12)
        nodes = list(world.nodes.values())
        assert states(nodes[0])[1:-1] == [PURGED] * 75
        writer.name(shared)  # As a copy from before the purge does, saved after it.
        await writer.wait()
        before = taken(nodes[0])
        await until(lambda: all(taken(node) < before / 2 for node in nodes))
        await trio.sleep(60)
        for node in nodes:
            assert content(node) == b"share" * (LARGE // 5)

    in_world(scenario)
