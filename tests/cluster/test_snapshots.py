"""Goal: a volatile shard loses nothing as long as one member has it, whatever happens while another is filled by a snapshot; and
begins another life when nobody does.

Method: nodes in one process on a clock that jumps; logs that keep few heads, snapshots in small pieces; nodes killed at the very moment.
"""

import errno

import pytest
import trio

from storage import snapshot
from storage.member import member as driver
from storage.member.memory import MemoryLog
from storage.record import SELF, Commit, Create, Reserve, encode
from storage.replication import Epoch
from storage.sequencer import Rejected
from storage.snapshot import LIFE_INDICES
from tests.cluster.test_faces import NAMES, faces_of
from tests.cluster.world import PATIENCE, Proposer

HEADS = 20
FILES = 12
FIRST = 100


@pytest.fixture
def in_volatile(in_world, monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "HEADS_KEPT", HEADS)
    monkeypatch.setattr(driver, "HELD_NS", 0)
    monkeypatch.setattr(snapshot, "PIECE_BYTES", 1000)

    def run(scenario):
        async def main(world):
            world.nursery.start_soon(keep_up, world)
            await start(world, tmp_path)
            await world.wait_members()
            world.restart = lambda *names: start(world, tmp_path, *names)
            await scenario(world)

        in_world(main, durability="memory", volatile=True)

    return run


async def start(world, directory, *names):
    for name in names or NAMES:
        faces = world.options["faces"] = faces_of(world, directory, name)
        faces.is_volatile = lambda shard: True
        await world.start(name)


async def keep_up(world):
    """What `Faces.follow` does in a thread of its own."""
    while True:
        for node in list(world.nodes.values()):
            with node.faces.exclusive() as found:
                for face in found.values():
                    face.catch_up()
                node.faces._let_go()
        await trio.sleep(0.05)


def body(file, turn):
    return b"%d of %d " % (turn, file) * 40


class Writer:
    """Makes files and writes them again, by records."""

    def __init__(self, world):
        self.world = world
        self.begin()
        self.turns = dict.fromkeys(range(FILES), 0)

    def begin(self):
        leader = self.world.leader()
        self.proposer = Proposer(leader)
        base = leader.members[0].log.base
        self.proposer.line.follow(base)

    async def say(self, record, payload=()):
        proposer = self.proposer
        proposer.number += 1
        proposer.line.submit(proposer.number, encode(record), payload)
        await proposer.wait()

    async def make(self):
        for file in range(FILES):
            await self.say(Create(1, b"f%d" % file, FIRST + file, 0o100644, 0, 0))

    async def write(self, rounds):
        for _ in range(rounds):
            for file in range(FILES):
                turn = self.turns[file] = self.turns[file] + 1
                data = body(file, turn)
                extents = [(0, len(data), SELF, 0)]
                await self.say(Commit(FIRST + file, len(data), 0, extents, turn, turn), [data])


async def shows(world, name, turns, seconds=30):
    """Until a node's face shows what was written last, every byte of it."""
    with trio.fail_after(seconds):
        while not _shows(world, name, turns):
            await trio.sleep(0.05)


def _shows(world, name, turns):
    with world.nodes[name].faces.exclusive() as found:
        face = found.get(0)
        if face is None:
            return False
        for file, turn in turns.items():
            attributes = face.namespace.attributes(FIRST + file)
            if attributes is None or attributes.content < turn:
                return False
            assert bytes(face.read(FIRST + file, attributes, None, 0, 10**6)) == body(file, turn)
    return True


def logs(world):
    return {name: node.members[0].log for name, node in world.nodes.items()}


def test_what_is_held_is_bounded_by_what_lives(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(10)
        await trio.sleep(10)
        once = {name: log.taken_bytes for name, log in logs(world).items()}
        await writer.write(30)
        await trio.sleep(10)
        for name, log in logs(world).items():
            assert isinstance(log, MemoryLog)
            assert log.taken_bytes < once[name] + 500
            assert log.payload_bytes == sum(len(body(f, t)) for f, t in writer.turns.items())
            assert log.heads_count <= HEADS + 1
            assert log.base_index > 300
            await shows(world, name, writer.turns)
        assert not any(disk.list("") for disk in world.disks.values()), "nothing is on a disk"

    in_volatile(scenario)


def test_a_member_that_comes_back_is_filled_by_a_snapshot_and_then_leads(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(8)
        gone = world.epoch().leader
        await world.kill(gone)
        await world.restart(gone)
        await world.wait_members()
        log = world.nodes[gone].members[0].log
        assert log.base_index > 50, "it did not get all heads"
        await shows(world, gone, writer.turns)
        for name in NAMES:
            if name != gone:
                await world.kill(name)
                await world.wait_members(*world.nodes)
        assert world.epoch().leader == gone
        assert not world.epoch().forced
        writer.begin()
        await writer.write(1)
        await shows(world, gone, writer.turns)

    in_volatile(scenario)


@pytest.mark.parametrize("when", [1, 4])
def test_the_leader_goes_while_it_gives_a_snapshot(in_volatile, monkeypatch, when):
    asked = []
    piece = snapshot.Snapshotted.piece

    def counted(self, at, *, payloads):
        asked.append(at)
        return piece(self, at, payloads=payloads)

    monkeypatch.setattr(snapshot.Snapshotted, "piece", counted)

    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(8)
        leader = world.epoch().leader
        back = next(name for name in NAMES if name != leader)
        await world.kill(back)
        await world.wait_members(*world.nodes)
        asked.clear()
        await world.restart(back)
        with trio.fail_after(60):
            while len(asked) < when:
                await trio.sleep(0.0001)
        await world.kill(leader)
        await world.wait_members(*world.nodes)
        await shows(world, back, writer.turns)
        await world.restart(leader)
        await world.wait_members()
        await shows(world, leader, writer.turns)

    in_volatile(scenario)


def test_who_is_filled_goes_in_the_midst_of_it(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(8)
        leader = world.epoch().leader
        back = next(name for name in NAMES if name != leader)
        for pause_s in (0.0, 0.3, 1.0):
            await world.kill(back)
            await world.restart(back)
            await trio.sleep(pause_s)
        await writer.write(2)
        await world.wait_members()
        await shows(world, back, writer.turns)

    in_volatile(scenario)


def test_when_all_are_gone_another_life_begins(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(3)
        before = {name: log.last_index for name, log in logs(world).items()}
        ended = max(log.end_address for log in logs(world).values())
        for name in NAMES:
            await world.kill(name)
        await world.restart(*NAMES)
        epoch = await world.wait_members()
        for log in logs(world).values():
            assert log.last_index > LIFE_INDICES > max(before.values())
            assert log.end_address > ended
        for name in NAMES:
            with world.nodes[name].faces.exclusive() as found:
                assert found[0].namespace.attributes(FIRST) is None
                assert found[0].namespace.counters.next_inode > 2**28
        assert epoch.epoch > 1
        writer = Writer(world)
        await writer.make()
        await writer.write(1)
        for name in NAMES:
            await shows(world, name, writer.turns)

    in_volatile(scenario)


def test_a_forced_epoch_begins_empty_even_where_something_was_left_and_once(
    in_volatile, monkeypatch
):
    begun = []
    begin_life = MemoryLog.begin_life

    def counted(*arguments):
        begun.append(arguments)
        return begin_life(*arguments)

    monkeypatch.setattr(MemoryLog, "begin_life", counted)

    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        epoch = world.epoch()
        left = next(name for name in NAMES if name != epoch.leader)
        seat = world.nodes[left]._seats[0]
        assert seat.member.log.last_index
        forced = Epoch(epoch.epoch + 5, left, (left,), forced=True)
        assert not seat.may_adopt(forced)
        with trio.fail_after(20):
            while not seat.may_adopt(forced):
                await trio.lowlevel.checkpoint()
        assert seat.member.log.base_index == forced.number * LIFE_INDICES
        await trio.sleep(0.01)
        assert len(begun) == 1, "what came to be in this life would be lost"

    in_volatile(scenario)


def test_one_that_comes_back_alone_waits_for_the_others_before_it_begins_empty(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        for name in NAMES:
            await world.kill(name)
        killed_s = trio.current_time()
        await world.restart("n1")
        await world.wait_members("n1")
        assert trio.current_time() - killed_s >= PATIENCE.detached_ns / 1e9
        assert world.nodes["n1"].members[0].log.base_index >= LIFE_INDICES

    in_volatile(scenario)


def test_who_was_cut_off_while_all_others_lost_it_follows_the_new_life(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(2)
        cut = next(name for name in NAMES if name != world.epoch().leader)
        others = [name for name in NAMES if name != cut]
        told = []
        world.cut_off(cut)
        with world.nodes[cut].faces.exclusive() as found:
            found[0].begin(Reserve(0), (), told.append)
            found[0].on_anew.append(lambda face: told.append(face.namespace.shard))
        for name in others:
            await world.kill(name)
        await world.restart(*others)
        await world.wait_members(*others)
        assert not told
        assert _shows(world, cut, writer.turns), "what it has it has, as long as nobody tells it"
        world.mend()
        await world.wait_members()
        writer = Writer(world)
        await writer.make()
        await writer.write(1)
        await shows(world, cut, writer.turns)
        assert told[1:] == [0]
        assert told[0].errno == errno.ESTALE, "nobody knows what became of it"

    in_volatile(scenario)


def test_what_is_too_much_for_memory_is_refused_until_there_is_less(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(1)
        for node in world.nodes.values():
            node.volatile_bytes_max = 10_000
        await trio.sleep(2)
        line = writer.proposer.line
        proposer = writer.proposer
        proposer.number += 1
        proposer.line.submit(proposer.number, encode(Reserve(0)), ())
        await proposer.wait()
        line.submit(proposer.number + 1, encode(Reserve(0)), [b"bytes"])
        await trio.sleep(1)
        await trio.sleep(1)
        with pytest.raises(Rejected) as refused:
            line.take(0)
        assert refused.value.errno == errno.ENOSPC
        assert "memory for volatile pools" in str(refused.value)
        for node in world.nodes.values():
            node.volatile_bytes_max = 10**9
        await trio.sleep(2)
        await writer.write(1)
        await shows(world, "n1", writer.turns)

    in_volatile(scenario)


def test_a_table_that_failed_for_a_moment_counts_what_lives_anew(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(2)
        name = next(name for name in NAMES if name != world.epoch().leader)
        await shows(world, name, writer.turns)
        with world.nodes[name].faces.exclusive() as found:
            space = found[0].namespace

            def fail(*_):
                del space.apply
                raise MemoryError("for a moment")

            space.apply = fail
        await writer.write(3)
        await shows(world, name, writer.turns)
        await trio.sleep(10)
        held = {name: log.payload_bytes for name, log in logs(world).items()}
        lives = sum(len(body(file, turn)) for file, turn in writer.turns.items())
        assert held == dict.fromkeys(NAMES, lives)

    in_volatile(scenario)


def test_a_node_that_holds_the_shard_no_more_holds_nothing_of_it(in_volatile):
    async def scenario(world):
        writer = Writer(world)
        await writer.make()
        await writer.write(5)
        left = next(name for name in NAMES if name != world.epoch().leader)
        world.nodes[left]._seats[0]._is_wanted = lambda: False
        with trio.fail_after(20):
            while world.nodes[left].members[0].log.payload_bytes:
                await trio.sleep(0.01)
        world.nodes[left]._seats[0]._is_wanted = lambda: True
        await writer.write(3)
        await world.wait_members()
        await shows(world, left, writer.turns)

    in_volatile(scenario)
