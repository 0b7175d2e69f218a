"""Goal: after a power cut at any moment, everything synced is there and the log is a prefix of what was appended.

Method: a workload on the memory disk; crash images of every prefix of its unsynced changes, with the next write torn
at several lengths, and of arbitrary reorderings; recovery itself cut at every one of its calls.
"""

from contextlib import suppress
from random import Random

import pytest

from storage.disk import MemoryDisk
from storage.log import Log


def check(disk, tools, appended, durable):
    """Open what a crash left; answers the log."""
    log = Log.open(disk, tools.IDENTITY)
    assert not log.recovery.broken
    assert log.recovery.durable_lost == 0
    assert durable <= log.last_index <= appended
    assert tools.records_of(log) == [tools.record(i) for i in range(1, log.last_index + 1)]
    return log


def grow(log, tools, count):
    for index in range(log.last_index + 1, log.last_index + count + 1):
        tools.append(log, index)


@pytest.mark.slow
def test_every_prefix_of_the_unsynced_changes_with_the_next_write_torn(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    tried = 0
    for sync in (False, True, False):
        grow(log, tools, 9)
        if sync:
            log.sync()
        for changes in range(disk.pending + 1):
            for torn in (0, 1, 8, 17, 55, 56, 60, 80, 100, 600):
                twin = disk.crash(changes, torn)
                again = check(twin, tools, log.last_index, log.durable_index)
                if torn == 60:
                    grow(again, tools, 2)
                    again.close()
                    assert (
                        check(twin, tools, again.last_index, again.last_index).recovery.sentences
                        == ()
                    )
                tried += 1
    assert tried > 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_any_reordering_of_the_unsynced_changes_and_life_after_it(tools, seed):
    random = Random(seed)
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    for _ in range(8):  # Eight power cuts, one after the other.
        for _ in range(random.randrange(4)):
            grow(log, tools, random.randrange(8))
            if random.random() < 0.5:
                log.sync()
        twins = [disk.crash(random=Random(random.random())) for _ in range(4)]
        for twin in twins:
            again = check(twin, tools, log.last_index, log.durable_index)
        disk, log = twins[-1], again
        assert log.durable_index == log.last_index
        assert check(
            disk.crash(), tools, log.last_index, log.last_index
        )  # Opening made it durable.


class PowerCut(BaseException):
    """Not an error that anything should catch."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reordered", "damaged"])
def test_recovery_cut_short_at_any_call_ends_the_same_when_tried_again(tools, what):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    grow(log, tools, 7)
    log.sync()
    hole = log.end_address
    grow(log, tools, 12)
    if what == "damaged":
        log.close()
    files = tools.files_of(disk)
    number, offset = divmod(hole, tools.SEGMENT_BYTES)
    name = f"log/{number:016x}.seg"
    files[name] = files[name][:offset] + b"?" + files[name][offset + 1 :]

    def opened(disk):
        return Log.open(disk, tools.IDENTITY, keep_prefix=what == "damaged")

    whole = tools.disk_of(files)
    assert opened(whole).last_index == 7
    calls = sum(whole.calls.values())
    cuts = 0
    for at in range(1, calls + 1):
        disk = tools.disk_of(files)
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        disk.before = cut
        try:
            opened(disk)
        except PowerCut:
            cuts += 1
        disk.before = None
        for twin in (disk, disk.crash(), disk.crash(random=Random(at))):
            again = opened(twin)
            assert again.last_index == 7
            tools.append(again, 8)
            again.close()
            again = Log.open(twin, tools.IDENTITY)
            assert tools.records_of(again) == [tools.record(i) for i in range(1, 9)]
            aside = b"".join(tools.files_of(twin, "quarantine").values())
            assert b"m" * 11 in aside  # What was moved aside is there, whatever happened.
    assert cuts > 20


def test_what_is_set_aside_is_durable_before_the_log_is_cut(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    hole = log.end_address
    grow(log, tools, 14)
    files = tools.files_of(disk)
    files[f"log/{0:016x}.seg"] = files[f"log/{0:016x}.seg"].replace(b"\xcaFR\x01", b"\xcaFR?", 1)
    disk = tools.disk_of(files)
    assert Log.open(disk, tools.IDENTITY).last_index == 0
    aside = tools.files_of(disk.crash(), "quarantine")
    assert aside[f"quarantine/{0:016x}.{hole:08x}.tail"]
    assert aside == tools.files_of(disk, "quarantine")
    assert len(aside) == len(files)


def test_no_mark_stays_above_an_end_that_recovery_set_back(tools, small):
    """Else the next power cut, an ordinary one, would look like damage."""
    files = {name: bytearray(data) for name, data in small.files.items()}
    files[f"log/{0:016x}.seg"][3] ^= 1  # A header that has to be written again.
    number, offset = divmod(small.frames[-1].address, tools.SEGMENT_BYTES)
    files[f"log/{number:016x}.seg"][offset] ^= 1  # The last record, durable and lost.
    disk = tools.disk_of({name: bytes(data) for name, data in files.items()})
    log = Log.open(disk, tools.IDENTITY)
    assert (log.last_index, log.recovery.durable_lost) == (13, 1)
    grow(log, tools, 1)
    check(disk.crash(0, 40), tools, 14, 13)


def test_a_crash_while_a_log_is_made_leaves_none_or_a_whole_one(tools):
    whole = MemoryDisk()
    Log.create(whole, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    for at in range(1, sum(whole.calls.values()) + 1):
        disk = MemoryDisk()
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        disk.before = cut
        with suppress(PowerCut):
            Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
        disk.before = None
        for twin in (disk.crash(), disk.crash(100), disk.crash(random=Random(at))):
            if twin.list("log") in ([], ["0000000000000000.seg.new"]):
                log = Log.create(twin, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
            else:
                log = Log.open(twin, tools.IDENTITY)
            grow(log, tools, 3)
            log.close()
            assert Log.open(twin, tools.IDENTITY).last_index == 3


@pytest.mark.parametrize("synced", range(20))
def test_opening_makes_durable_what_an_earlier_process_left_in_front_of_the_known_record(
    tools, synced
):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    grow(log, tools, synced)
    log.sync()
    grow(log, tools, 20 - synced)  # Never synced; the process dies.
    again = Log.open(
        disk, tools.IDENTITY, from_address=log.last_address, checksum=log.last_checksum
    )
    assert again.recovery.resumed
    assert again.durable_index == 20
    check(disk.crash(), tools, 20, 20)


def test_opening_makes_the_name_of_an_empty_segment_durable(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    log.append(1, 1, b"", [b"x" * 400])
    log.sync()

    def refuse(call, name):
        if call == "pwritev" and disk.calls[call] > before + 1:
            raise OSError("no")

    before, disk.before = disk.calls["pwritev"], refuse
    with pytest.raises(OSError, match="no"):
        log.append(1, 1, b"", [b"x" * 400])
    disk.before = None
    assert len(disk.list("log")) == 2
    again = Log.open(disk, tools.IDENTITY)
    again.append(1, 2, b"")
    again.sync()
    assert Log.open(disk.crash(), tools.IDENTITY).last_index == 2


def test_a_known_record_does_not_hide_a_hole_that_a_power_cut_left_in_front_of_it(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    grow(log, tools, 3)
    log.sync()
    hole = log.end_address
    grow(log, tools, 9)
    files = tools.files_of(disk)
    name = f"log/{0:016x}.seg"
    files[name] = files[name][:hole] + bytes(8) + files[name][hole + 8 :]
    again = Log.open(
        tools.disk_of(files),
        tools.IDENTITY,
        from_address=log.last_address,
        expected_index=12,
        checksum=log.last_checksum,
    )
    assert not again.recovery.resumed
    assert again.recovery.torn
    assert again.last_index == 3
