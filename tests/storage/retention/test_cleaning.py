"""Segments are written again when that is worth it; what is kept reads as before, and after losing the index too.

Method: histories that die in known places, the bytes won and written counted against the disk; the machine cut off at
every call of pass, sweep and cleaner together.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest

from storage import record
from storage.namespace import ROOT

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def disk_bytes(world) -> int:
    return sum(world.disk.open(f"log/{name}").size() for name in world.disk.list("log"))


def overwritten(world, count: int, size: int) -> int:
    """A file written anew so many times, a minute apart."""
    inode = world.make(b"f")
    for number in range(count):
        world.write(inode, bytes([number % 256]) * size)
        world.pass_time(60 * SECOND)
    return inode


@pytest.mark.parametrize("size", [200, 4096, 100_000])
def test_bytes_of_pruned_versions_come_back_whatever_their_size(make_world, size):
    world = make_world(1 << 20)
    count = 6_000_000 // (size + 300)
    overwritten(world, min(count, 9000), size)
    world.policy(b"all:1s;min=2")
    world.shard.log.sync()
    before, kept = disk_bytes(world), world.kept(b"f")[-2:]
    world.retention.run()
    assert world.kept(b"f") == kept
    versions = world.versions(b"f")
    world.retention.clean()
    cleaning = world.retention.cleaning
    after = disk_bytes(world)
    assert after == before - cleaning.bytes_won
    assert cleaning.segments > 0
    assert cleaning.bytes_written <= 2 * cleaning.bytes_won
    payload = len(versions) * size
    assert before - after > 0.5 * (payload - 2 * size) - 2 * world.segment_bytes
    assert world.versions(b"f") == versions
    world.retention.clean()
    assert disk_bytes(world) == after
    world.reopen()
    assert world.versions(b"f") == versions


def test_without_anything_dead_nothing_is_written(world):
    overwritten(world, 50, 100_000)
    world.shard.log.sync()
    world.retention.clean()
    assert world.retention.cleaning.segments == 0


def test_frames_a_draft_refers_to_are_spared(make_world):
    world = make_world(1 << 20)
    inode = overwritten(world, 40, 100_000)
    world.policy(b"all:1s")
    first = world.space.attributes_at(inode, world.space.content_timestamp(inode, 1))[1]
    stamp = world.space.content_timestamp(inode, 1)
    ((_, length, address, _),) = world.space.pieces(inode, first.generation, 0, stamp)
    world.retention.run()
    assert address in world.dead()
    world.shard.log.sync()
    world.retention.in_use = lambda: {address}
    world.retention.clean()
    assert bytes(world.shard.log.read(address, 0, length)) == b"\0" * length
    other = world.make(b"g")
    world.do(record.Commit(other, length, None, [(0, length, address, 0)], 0, 0))
    assert address not in world.dead()
    assert world.versions(b"g") == {1: b"\0" * length}


def test_what_was_staged_for_a_draft_that_died_with_its_process_comes_back(make_world):
    world = make_world(1 << 20)
    inode = world.make(b"f")
    for _ in range(12):
        world.shard.stage(inode, 0, b"s" * 250_000)
    world.shard.log.sync()
    world.retention.clean()
    assert world.retention.cleaning.segments == 0  # Somebody may be about to commit it.
    world.reopen()
    world.retention.clean()
    assert world.retention.cleaning.bytes_won > 1_500_000


def test_what_no_draft_refers_to_any_more_comes_back_while_we_run(make_world):
    world = make_world(1 << 20)
    inode = world.make(b"f")
    staged = [world.shard.stage(inode, 0, b"s" * 250_000)[0][2] for _ in range(12)]
    world.shard.log.sync()
    drafts = set(staged)
    world.retention.in_use = lambda: drafts
    world.retention.clean()
    assert world.retention.cleaning.segments == 0
    # All but one are discarded, and that is committed afterwards.
    drafts = {staged[5]}
    world.retention.clean()
    assert world.retention.cleaning.bytes_won > 1_500_000
    world.do(record.Commit(inode, 250_000, None, [(0, 250_000, staged[5], 0)], 0, 0))
    assert world.versions(b"f") == {1: b"s" * 250_000}
    world.reopen()
    assert world.versions(b"f") == {1: b"s" * 250_000}


class PowerCut(BaseException):
    """Not an error that anything should catch."""


def history(world) -> None:
    for number in range(24):
        name = b"f" if number % 3 else b"g"
        binding = world.space.binding(ROOT, name)
        inode = binding.inode if binding is not None else world.make(name)
        world.write(inode, b"%02d" % number * 150)
        world.pass_time(HOUR)
    world.policy(b"all:1s;min=2")
    world.do(record.Label(ROOT, b"l", world.clock.now_us - 10 * HOUR))
    world.shard.log.sync()


def let_go(world) -> None:
    world.retention.run()
    world.retention.clean(pressed=True)
    world.shard.log.sync()


@pytest.mark.slow
def test_the_power_goes_at_every_call_of_the_whole_pass(make_world, monkeypatch):
    monkeypatch.setattr("storage.retention.cleaning.WORTH_BYTES_MIN", 64)
    world = make_world(1536)
    history(world)
    whole = {name: world.versions(name) for name in (b"f", b"g")}
    before = sum(world.disk.calls.values())
    let_go(world)
    assert world.retention.cleaning.segments > 3
    kept = {name: world.kept(name) for name in (b"f", b"g")}
    calls = sum(world.disk.calls.values()) - before
    for at in range(1, calls + 1, 3):
        world = make_world(1536)
        history(world)
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        world.disk.before = cut
        with suppress(PowerCut):
            let_go(world)
        world.disk.before = None
        for twin in (world.disk.crash(), world.disk.crash(random=Random(at))):
            world.disk = twin
            world.open()
            for name, versions in whole.items():
                found = world.versions(name)
                assert found.keys() == versions.keys()
                assert all(data in (None, versions[n]) for n, data in found.items())
                assert set(kept[name]) <= {n for n, data in found.items() if data is not None}
            let_go(world)
            assert {name: world.kept(name) for name in whole} == kept
