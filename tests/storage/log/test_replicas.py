"""Goal: a log can be made and kept the same as another's, and what is dropped from it never comes back.

Method: two logs on memory disks; every cut of a log tried with the power going at every call of it, and what is left,
torn or reordered, grown again with other records; bytes compared.
"""

from random import Random

import pytest

from storage.codec import BLOCK_BYTES, SLOT_OFFSETS
from storage.disk import MemoryDisk
from storage.errors import Corruption
from storage.log import Log


class PowerCut(BaseException):
    """Not an error that anything should catch."""


def grow(log, tools, count):
    for index in range(log.last_index + 1, log.last_index + count + 1):
        tools.append(log, index)


def made(tools, count=0, *, shard=3):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, shard=shard, segment_bytes=tools.SEGMENT_BYTES)
    grow(log, tools, count)
    return disk, log


def other(log, index, epoch):
    """A record that no `tools.record` is."""
    log.epoch = epoch
    return log.append(
        2, 5000 + index, b"other" * (index % 7), [bytes([index]) * (index * 11 % 200)]
    )


def copy_frames(source, target):
    for frame in source.frames(index=target.last_index + 1):
        payload = source.payload(frame)
        target.adopt(frame, None if payload is None else [payload])


def bodies(disk):
    """Segments without what may differ: their headers, which hold the durable mark."""
    names = [f"log/{name}" for name in disk.list("log")]
    return {name: disk.open(name).pread(10**7, BLOCK_BYTES) for name in names}


def test_an_adopted_log_is_the_same_to_the_byte(tools):
    source_disk, source = made(tools, 9)
    for index in range(10, 40):
        other(source, index, 2 + index // 10)
    target_disk, target = made(tools)
    copy_frames(source, target)
    assert bodies(source_disk) == bodies(target_disk)
    assert [f.address for f in source.frames()] == [f.address for f in target.frames()]
    assert len(bodies(source_disk)) > 3
    for number in range(len(bodies(source_disk))):
        name = f"log/{number:016x}.seg"
        blocks = [disk.open(name).pread(80, SLOT_OFFSETS[0]) for disk in (source_disk, target_disk)]
        assert blocks[0][:64] == blocks[1][:64]
    target.close()
    again = Log.open(target_disk, tools.IDENTITY)
    assert (again.shard, again.last_index, again.last_checksum) == (3, 39, source.last_checksum)


def test_addresses_follow_a_source_that_began_a_segment_early(tools):
    """A failed append leaves its new segment; what comes next goes there though it had fitted before."""
    disk, source = made(tools, 2)
    end = source.end_address
    room = tools.SEGMENT_BYTES - end
    disk.before = lambda call, name: _refuse_data(disk, call)
    with pytest.raises(OSError, match="no"):
        source.append(1, 1, b"", [b"x" * room])
    disk.before = None
    source.append(1, 2, b"small")
    assert source.last_address == tools.SEGMENT_BYTES + BLOCK_BYTES
    target_disk, target = made(tools)
    copy_frames(source, target)
    assert target.last_address == source.last_address
    assert Log.open(target_disk, tools.IDENTITY).last_index == 3


def _refuse_data(disk, call):
    if call == "pwritev":
        disk.refused = getattr(disk, "refused", 0) + 1
        if disk.refused == 2:  # The first is the header of the new segment.
            raise OSError("no")


def test_a_record_that_does_not_follow_is_not_adopted(tools):
    _, source = made(tools, 6)
    frames = list(source.frames())
    _, target = made(tools)

    def adopt(frame, payload=None):
        own = source.payload(frames[frame.index - 1])
        target.adopt(frame, [own if payload is None else payload])

    adopt(frames[0])
    for wrong in (frames[0], frames[2], frames[1]._replace(address=frames[1].address + 8)):
        with pytest.raises(Corruption):
            adopt(wrong)
    for wrong in (
        frames[1]._replace(checksum=1),
        frames[1]._replace(timestamp=7),
        frames[1]._replace(metadata=b"else"),
    ):
        with pytest.raises(Corruption, match="arrived as something else"):
            adopt(wrong)
    with pytest.raises(Corruption):
        adopt(frames[1], b"another payload")
    assert target.last_index == 1
    for frame in frames[1:]:
        adopt(frame)
    assert target.last_checksum == source.last_checksum


@pytest.mark.parametrize("keep", range(15))
def test_a_cut_log_is_as_if_it_had_never_held_the_rest(tools, keep):
    disk, log = made(tools, 14)
    if keep % 2:
        log.sync()
    log.truncate_after(keep)
    assert (log.last_index, log.durable_index <= keep) == (keep, True)
    _, twin = made(tools, keep)
    assert (log.end_address, log.last_checksum, log.last_timestamp, log.last_address) == (
        twin.end_address,
        twin.last_checksum,
        twin.last_timestamp,
        twin.last_address,
    )
    for index in range(keep + 1, 20):
        other(log, index, 5)
        other(twin, index, 5)
    log.sync()
    assert list(log.frames()) == list(twin.frames())
    for index, frame in enumerate(log.frames(), 1):
        if index > keep:
            assert log.read(frame.address, 0, frame.payload_length) == bytes([index]) * (
                index * 11 % 200
            )
    found = Log.open(disk.crash(), tools.IDENTITY)
    assert found.recovery.sentences == ()
    assert found.last_index == 19


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1, 4, 5, 8, 13])
@pytest.mark.parametrize("synced", [0, 6, 14])
def test_power_going_at_any_call_of_a_cut(tools, keep, synced):
    """Before it returns the log ends somewhere between; once it returned nothing of the rest is ever seen again."""

    def prepared():
        disk, log = made(tools, synced)
        log.sync()
        grow(log, tools, 14 - synced)
        return disk, log

    disk, log = prepared()
    before = sum(disk.calls.values())
    log.truncate_after(keep)
    calls = sum(disk.calls.values()) - before
    cuts = 0
    for at in range(1, calls + 2):
        disk, log = prepared()
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        disk.before = cut
        try:
            log.truncate_after(keep)
        except PowerCut:
            cuts += 1
        disk.before = None
        done = at > calls
        images = [disk.crash(), disk.crash(10**6)]
        images += [disk.crash(changes) for changes in range(disk.pending)]
        images += [disk.crash(random=Random(seed)) for seed in range(6)]
        for image in images:
            found = Log.open(image, tools.IDENTITY)
            assert not found.recovery.broken
            assert found.recovery.durable_lost == 0
            assert min(synced, keep) <= found.last_index <= (keep if done else 14)
            assert tools.records_of(found) == [
                tools.record(i) for i in range(1, found.last_index + 1)
            ]
            found.truncate_after(min(keep, found.last_index))
            for index in range(found.last_index + 1, 17):
                other(found, index, 7)
            found.sync()
            again = Log.open(image.crash(random=Random(at)), tools.IDENTITY)
            assert again.last_index == 16
            assert {f.epoch for f in again.frames(index=keep + 1)} == {7}
    assert cuts == calls


def test_what_is_appended_behind_a_cut_never_brings_back_what_was_cut(tools):
    """The same lengths and places: a lost write shows what lies under it."""
    for seed in range(40):
        disk, log = made(tools, 14)
        log.sync()
        log.truncate_after(3)
        for index in range(4, 9):
            _, kind, timestamp, metadata, payload = tools.record(index)
            log.epoch = 9
            log.append(kind, timestamp + 1, metadata, [payload] if payload else ())
        found = Log.open(disk.crash(random=Random(seed)), tools.IDENTITY)
        assert found.recovery.durable_lost == 0
        assert not found.recovery.broken
        assert all(frame.epoch == 9 for frame in found.frames(index=4))


def test_a_cut_that_the_disk_refused_takes_nothing_more_until_it_is_opened_again(tools):
    disk, log = made(tools, 14)
    log.sync()
    before = sum(disk.calls.values())
    log.truncate_after(2)
    calls = sum(disk.calls.values()) - before
    refused = 0
    for at in range(1, calls + 1):
        disk, log = made(tools, 14)
        log.sync()
        left = at

        def refuse(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(5, "no")

        disk.before = refuse
        try:
            log.truncate_after(2)
        except OSError:
            refused += 1
        disk.before = None
        if left <= 0 and log.last_index != 2:
            again = Log.open(disk, tools.IDENTITY)
            again.truncate_after(2)
            log = again
        other(log, 3, 4)
        log.sync()
        assert Log.open(disk.crash(), tools.IDENTITY).last_index == 3
    assert refused > 5


def test_epochs_are_found_and_kept(tools):
    disk, log = made(tools)
    assert log.epochs() == []
    expected = []
    for index in range(1, 60):
        epoch = 1 + index // 13
        other(log, index, epoch)
        if not expected or expected[-1][1] != epoch:
            expected.append((index, epoch))
        assert log.epochs() == expected
    log.truncate_after(30)
    kept = [run for run in expected if run[0] <= 30]
    assert log.epochs() == kept
    other(log, 31, 9)
    assert log.epochs() == [*kept, (31, 9)]
    log.close()
    assert Log.open(disk, tools.IDENTITY).epochs() == [*kept, (31, 9)]


def test_a_damaged_record_is_put_back_from_another_log(tools):
    _, source = made(tools, 14)
    disk, log = made(tools, 14)
    log.sync()
    frames = list(log.frames())
    for frame in frames[:-1]:
        number, offset = divmod(frame.address, tools.SEGMENT_BYTES)
        for at in range(offset, offset + 56 + len(frame.metadata) + frame.payload_length, 9):
            disk.rot(f"log/{number:016x}.seg", at, 0x40)
            log.put_back(frame.address, source.raw(frame.address))
            assert log.frame(frame.address) == frame
            assert log.verify(frame)
    image = Log.open(disk.crash(), tools.IDENTITY)
    assert tools.records_of(image) == [tools.record(i) for i in range(1, 15)]
    for wrong in (b"", source.raw(frames[1].address), source.raw(frames[2].address) + b"x"):
        with pytest.raises(Corruption):
            log.put_back(frames[2].address, wrong)


def test_what_the_source_has_condensed_is_adopted_without_its_payload(tools):
    source_disk, source = made(tools)
    for index in range(1, 12):
        source.append(1, index, b"m", [bytes([index]) * 300])
    source.sync()
    dead = frozenset(f.address for f in source.frames() if f.index in (1, 2, 5))
    for number in source.sealed():
        source.condense(number, dead, 1)
    target_disk, target = made(tools)
    copy_frames(source, target)
    target.sync()
    assert target.left_out == dead
    assert all(target.verify(frame) for frame in target.frames())
    for number in target.sealed():
        target.condense(number, frozenset(), 1)
    assert target.left_out == set()
    assert bodies(target_disk) == bodies(source_disk)
    again = Log.open(target_disk, tools.IDENTITY)
    assert [f.address for f in again.frames()] == [f.address for f in source.frames()]
    assert again.payload(again.frame(min(dead))) is None
    with pytest.raises(Corruption, match="let go"):
        again.raw(min(dead))
    again.truncate_after(1)  # Back into a condensed segment: it is written to again.
    other(again, 2, 3)
    again.sync()
    assert Log.open(target_disk.crash(), tools.IDENTITY).last_index == 2
