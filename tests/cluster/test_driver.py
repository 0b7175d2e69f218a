"""Goal: what the driver of a replica does around the core loses nothing and waits for nobody in vain, whatever fails beside it.

Method: nodes in one process, broken at the very place; then what clients and logs say.
"""

import errno

import msgspec
import pytest
import trio

import storage.log
from cascadefs.node.seat import Ground, Seat
from storage import wire
from storage.codec import BLOCK_BYTES, HEAD_BYTES
from storage.disk import MemoryDisk
from storage.errors import Corruption
from storage.log import Log
from storage.member import NoteFile
from storage.record import Create, encode
from storage.replication import Epoch, Note, Options
from storage.sequencer import PLAIN, START
from storage.transport import Role
from tests.cluster.test_faces import NAMES, faces_of, make, seen, start, stop
from tests.cluster.world import IDENTITY, Proposer, TrioClock, steady_ns

BOOT = b"b" * 16


async def fail_leader(world):
    """The leader's log takes nothing more until it was opened again; all are members in the end."""
    epoch = world.epoch()
    world.leader().members[0].fail("a test")
    with trio.fail_after(60):
        while world.epoch().leader == epoch.leader:
            await trio.sleep(0.1)
    await world.wait_members()
    return epoch.leader


def test_a_leader_whose_log_was_opened_again_knows_how_far_its_clients_are(in_world, tmp_path):
    async def scenario(world):
        await start(world, tmp_path)
        await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 10)
        for name in NAMES:
            await seen(world, name, count=10)
        failed = {await fail_leader(world)}
        while world.epoch().leader not in failed:
            failed.add(await fail_leader(world))
        await make(proposer, 5)
        assert len(await seen(world, world.epoch().leader, count=15)) == 15
        await world.wait_same()

    in_world(scenario)


def seat_on(disk):
    ground = Ground(
        "n1", IDENTITY, 2**20, BOOT, TrioClock(), steady_ns, lambda *message: None, lambda: None, lambda: True
    )  # fmt: skip
    return Seat(ground, 0, disk, Options(durable=True), START, lambda: 0, lambda client: 0)


def test_a_log_is_not_cut_before_it_is_kept_that_it_lacks_something(monkeypatch):
    """A crash between the two would leave a log that looks whole beside a note that says it is."""
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=2**20)
    addresses = [log.append(PLAIN, number, b"m", [b"p" * 100]) for number in range(1, 21)]
    log.close()
    NoteFile(disk, BOOT).keep(Note(5, True), durable=True)
    disk.open(f"log/{0:016x}.seg").pwritev([bytes(HEAD_BYTES)], addresses[9])

    class PowerCut(Exception):
        pass

    def cut(reader, end):
        raise PowerCut

    epoch = Epoch(1, "n2", ("n1", "n2"))
    with monkeypatch.context() as patch:
        patch.setattr(storage.log, "repair", cut)
        with pytest.raises(PowerCut):
            seat_on(disk)._open_through(None, epoch)
    assert NoteFile(disk.crash(), BOOT).found == Note(5, False)
    opened, notes, _ = seat_on(disk)._open_through(None, epoch)
    assert (opened.last_index, notes.found) == (9, Note(5, False))


def test_damage_behind_which_a_table_goes_on_is_filled_again(in_world, tmp_path):
    """The start looks at what the table lacks alone, and at where epochs begin."""

    async def scenario(world):
        await start(world, tmp_path)
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 20)
        victim = next(name for name in NAMES if name != epoch.leader)
        await seen(world, victim, count=20)
        await stop(world, victim, "stop")
        disk = world.disk(victim)
        disk.open(f"log/{disk.list('log')[0]}").pwritev([bytes(HEAD_BYTES)], BLOCK_BYTES)
        await make(proposer, 5)
        await start(world, tmp_path, victim)
        await world.wait_members()
        await world.wait_same()
        assert len(await seen(world, victim, count=25)) == 25

    in_world(scenario)


def test_a_sector_that_cannot_be_read_costs_a_follower_and_not_the_node(in_world):
    async def scenario(world):
        await world.start()
        epoch = await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.propose(10)
        await proposer.wait()
        member = world.nodes[epoch.leader].members[0]
        member.tail.drop_after(0)

        def frames(*arguments, **options):
            raise OSError(errno.EIO, "a sector")

        member.log.frames = frames
        observer = await world.observer(epoch.leader)
        await observer.say(wire.Hello())
        await observer.say(wire.Subscribe(0, 0, 0, 0))
        await observer.until(lambda: observer.of(Exception))
        assert not world.ended[epoch.leader].is_set()
        del member.log.frames
        observer = await world.observer(epoch.leader)
        await observer.say(wire.Hello())
        await observer.say(wire.Subscribe(0, 0, 0, 0))
        await observer.until(lambda: len(observer.records()) >= 10)

    in_world(scenario)


def test_a_call_that_fails_in_no_known_way_costs_its_answer_and_not_the_node(in_world):
    async def call(peer, arguments, parts):
        raise ZeroDivisionError

    async def scenario(world):
        world.options["call"] = call
        await world.start()
        await world.wait_members()
        program = await world.observer("n1", role=Role.CLIENT)
        await program.say(wire.Call(4, "call", msgspec.Raw(b"\xc0")))
        await program.until(lambda: program.of(wire.Answer))
        assert program.of(wire.Answer)[0].errno == errno.EIO
        assert not world.ended["n1"].is_set()

    in_world(scenario)


def test_a_face_that_could_not_be_brought_up_is_tried_again(in_world, tmp_path):
    async def scenario(world):
        for name in NAMES:
            faces = world.options["faces"] = faces_of(world, tmp_path, name)
            if name == "n1":
                attach, left = faces.attach, [1]

                def failing(line, attach=attach, left=left, faces=faces):
                    if left:
                        left.pop()
                        faces._tables.pop(line.shard)[0].close()
                        raise Corruption("nobody has it whole (yet)")
                    return attach(line)

                faces.attach = failing
            await world.start(name)
        await world.wait_members()
        proposer = Proposer(world.leader())
        await make(proposer, 3)
        assert len(await seen(world, "n1", count=3)) == 3

    in_world(scenario)


def test_a_table_that_knows_of_more_than_the_log_came_to_hold_is_made_again(in_world, tmp_path):
    """As after an epoch that was forced: what the tables had applied last is gone, and something else stands there."""

    async def scenario(world):
        await start(world, tmp_path)
        await world.wait_members()
        await make(Proposer(world.leader()), 20)
        for name in NAMES:
            await seen(world, name, count=20)
        for name in NAMES:
            await stop(world, name, "stop")
        for name in NAMES:
            log = Log.open(world.disk(name), IDENTITY)
            log.truncate_after(log.last_index - 5)
            log.close()
        await start(world, tmp_path)
        await world.wait_members()
        proposer = Proposer(world.leader())
        proposer.line.client = (
            4711  # The nodes' random numbers begin again, and this is nobody from before.
        )
        for number in range(1, 11):
            record = Create(1, b"new%d" % number, 200 + number, 0o100644, 0, 0)
            proposer.line.submit(number, encode(record), ())
        await proposer.wait(10)
        expected = {b"f%d" % n for n in range(1, 16)} | {b"new%d" % n for n in range(1, 11)}
        for name in NAMES:
            assert set(await seen(world, name, count=25)) == expected

    in_world(scenario)


def test_proposals_that_fit_no_message_together_go_one_by_one(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(next(n for n in world.nodes.values() if n is not world.leader()))
        for number in (1, 2, 3):
            proposer.line.submit(number, b"m" * (8 * 2**20), ())
        await proposer.wait(3)
        assert [record.number for record in proposer.own()] == [1, 2, 3]
        await world.wait_same()

    in_world(scenario)


def test_what_is_no_record_comes_into_no_log(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        member = world.leader().members[0]
        before = member.log.last_index
        mount = await world.observer(world.leader().name)
        await mount.say(wire.Hello())
        await mount.say(wire.Propose(0, 77, [(1, 0, b"\x91\x7f")]))
        await mount.until(lambda: mount.of(Exception))
        assert "no record" in mount.of(wire.Refusal)[0].why
        assert member.log.last_index == before

    in_world(scenario)
