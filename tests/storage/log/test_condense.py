"""A condensed segment reads as the segment it was, dead payloads aside, and no crash while making one loses anything.

Method: small logs, every choice of dead frames, compared record by record with what was appended; the disk cut off or
refusing at every one of its calls; damage to the file as to any other segment.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.disk import MemoryDisk
from storage.errors import Corruption
from storage.log import Log

COUNT = 40


def grown(tools, count: int = COUNT) -> tuple[MemoryDisk, Log, list[int]]:
    """A log over several segments, synced, and the addresses of its frames."""
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    addresses = [tools.append(log, index) for index in range(1, count + 1)]
    log.sync()
    return disk, log, addresses


def expected(tools, dead: set[int], addresses: list[int]) -> list[tuple]:
    """The records, those with a dead payload without it, if that is long enough to be worth a gap."""
    found = []
    for index, address in enumerate(addresses, start=1):
        one = tools.record(index)
        fixed = 56 + len(one[3])
        gap = (fixed + len(one[4]) + 7) // 8 * 8 - fixed
        found.append((*one[:4], None) if address in dead and one[4] and gap > 8 else one)
    return found


def dead_of(log: Log, addresses: list[int], choose) -> set[int]:
    sealed = {number * log.segment_bytes for number in log.sealed()}
    return {
        a for a in addresses if a // log.segment_bytes * log.segment_bytes in sealed and choose(a)
    }


def condense_all(log: Log, dead: set[int]) -> list:
    return [log.condense(number, frozenset(dead), 1) for number in log.sealed()]


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(st.sets(st.integers(1, COUNT)), min_size=1, max_size=3))
def test_whatever_is_dead_every_other_record_reads_as_before(tools_of, rounds):
    tools = tools_of
    disk, log, addresses = grown(tools)
    dead: set[int] = set()
    for indexes in rounds:
        dead |= dead_of(log, addresses, lambda a, of=indexes: addresses.index(a) + 1 in of)
        done = [one for one in condense_all(log, dead) if one is not None]
        assert all(one.bytes_won > 0 for one in done)
        assert acceptable(tools, log, dead, addresses)
        for number in log.sealed():
            name = f"log/{number:016x}.seg"
            assert disk.open(name).size() == log.segment_size(number)
    before = tools.records_of(log)
    log.close()
    again = Log.open(disk, tools.IDENTITY)
    assert again.recovery.sentences == ()
    assert tools.records_of(again) == before
    assert [frame.address for frame in again.frames()] == addresses
    for index in range(COUNT + 1, COUNT + 4):
        tools.append(again, index)
    assert again.last_index == COUNT + 3


def test_a_read_only_log_and_one_opened_from_the_middle_read_it_too(tools):
    disk, log, addresses = grown(tools)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    condense_all(log, dead)
    log.close()
    log = Log.open(
        disk, tools.IDENTITY, read_only=True, from_address=addresses[10], expected_index=11
    )
    assert log.recovery.resumed
    assert [f.index for f in log.frames(addresses[4])] == list(range(5, COUNT + 1))
    assert next(log.frames(index=7)).address == addresses[6]


def test_large_payloads_are_slices_of_the_condensed_file(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=1 << 20)
    addresses = [log.append(1, n, b"", [bytes([n]) * 100_000]) for n in range(1, 30)]
    log.sync()
    view = log.read(addresses[2], 0, 100_000)
    (number,) = [n for n in log.sealed() if n == 0]
    done = log.condense(number, frozenset(addresses[1:6:2]), 1)
    assert done.bytes_won > 300_000
    assert log.condense(number, frozenset(addresses[1:6:2]), 1) is None
    assert bytes(view) == b"\3" * 100_000  # The old file is still mapped for who reads it.
    for n in (1, 3, 5, 7):
        assert bytes(log.read(addresses[n - 1], 10, 80_000)) == bytes([n]) * 80_000
    for n in (2, 4, 6):
        with pytest.raises(Corruption, match="let go"):
            log.read(addresses[n - 1], 0, 10)


def test_a_read_while_files_are_exchanged_keeps_no_old_one(tools, monkeypatch):
    _, log, addresses = grown(tools)
    segments = log._reader.segments
    files, maps = segments._files, segments._maps

    def reading_beside(recent):
        forget = recent.forget

        def forgetting(number):
            segments.slice(number, 1024, 8)  # What another thread may do at any moment.
            forget(number)
            if recent is files:
                segments.slice(number, 1024, 8)

        monkeypatch.setattr(recent, "forget", forgetting)

    reading_beside(files)
    reading_beside(maps)
    segments.slice(1, 1024, 8)
    condense_all(log, dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1))
    file, _ = maps.get(1)
    assert file is segments.file(1)
    assert segments.condensed(1) is file


def test_what_is_not_worth_it_is_not_done(tools):
    _, log, addresses = grown(tools)
    before = tools.records_of(log)
    assert log.condense(0, frozenset(), 1 << 20) is None
    assert log.condense(0, frozenset(addresses[:2]), 1 << 20) is None
    assert tools.records_of(log) == before


def test_a_damaged_segment_is_left_alone(tools):
    disk, log, addresses = grown(tools)
    disk.rot("log/0000000000000000.seg", addresses[2] + 20, 0xFF)
    log = Log.open(disk, tools.IDENTITY, from_address=addresses[20], expected_index=21)
    assert log.condense(0, frozenset(addresses[:2]), 1) is None


def test_a_damaged_table_fails_reads_of_that_segment_only(tools):
    disk, log, addresses = grown(tools)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    condense_all(log, dead)
    size = log.segment_size(0)
    log.close()
    disk.rot("log/0000000000000000.seg", size - 50, 0xFF)
    log = Log.open(disk, tools.IDENTITY, from_address=addresses[30], expected_index=31)
    with pytest.raises(Corruption, match="table of what was left out"):
        log.read(addresses[2], 0, 1)
    assert log.read(addresses[29], 0, 0) == b""


def test_a_header_damaged_in_both_copies_is_written_again_as_what_it_is(tools):
    disk, log, addresses = grown(tools)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    condense_all(log, dead)
    log.close()
    for offset in (0, 512):
        disk.rot("log/0000000000000001.seg", offset + 3, 0xFF)
    log = Log.open(disk, tools.IDENTITY)
    assert any("both copies" in sentence for sentence in log.recovery.sentences)
    assert tools.records_of(log) == expected(tools, dead, addresses)
    log.close()
    log = Log.open(disk, tools.IDENTITY)
    assert log.recovery.sentences == ()
    assert disk.open("log/0000000000000001.seg").pread(1, 16) == b"\2"


def test_a_condensed_segment_that_is_the_last_again_is_made_whole(tools):
    disk, log, addresses = grown(tools)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    condense_all(log, dead)
    last = log.sealed()[-1]
    kept = [a for a in addresses if a // log.segment_bytes <= last]
    log.close()
    disk.unlink(f"log/{last + 1:016x}.seg")
    log = Log.open(disk, tools.IDENTITY)
    assert log.last_index == len(kept)
    assert log.segment_size(last) == log.segment_bytes
    for index in range(len(kept) + 1, len(kept) + 20):
        tools.append(log, index)
    found = tools.records_of(log)
    # In the segment made whole the dead payloads are zeros, which is as good as gone.
    assert [one[:4] for one in found] == [tools.record(i)[:4] for i in range(1, log.last_index + 1)]
    assert found[len(kept) :] == [tools.record(i) for i in range(len(kept) + 1, len(kept) + 20)]


class PowerCut(BaseException):
    """Not an error that anything should catch."""


@pytest.mark.slow
def test_a_power_cut_while_a_condensed_segment_is_made_whole_loses_nothing(tools):
    def last_once_more() -> tuple[MemoryDisk, int]:
        disk, log, addresses = grown(tools, 25)
        condense_all(log, dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1))
        last = log.sealed()[-1]
        log.close()
        disk.unlink(f"log/{last + 1:016x}.seg")
        disk.sync_directory("log")
        return disk, sum(a // log.segment_bytes <= last for a in addresses)

    disk, kept = last_once_more()
    before = sum(disk.calls.values())
    assert Log.open(disk, tools.IDENTITY).last_index == kept
    for at in range(1, sum(disk.calls.values()) - before + 1):
        disk, kept = last_once_more()
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        disk.before = cut
        with suppress(PowerCut):
            Log.open(disk, tools.IDENTITY)
        disk.before = None
        for twin in (disk, disk.crash(), disk.crash(random=Random(at))):
            assert Log.open(twin, tools.IDENTITY).last_index == kept


def test_a_short_last_segment_that_ends_like_a_condensed_one_is_none(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    disk.capacity_bytes = tools.SEGMENT_BYTES + 1400
    while log.end_address < tools.SEGMENT_BYTES:  # The last segment of a full disk grows.
        log.append(1, 1000, b"m" * 80)
    address = log.append(1, 1000, b"condense" * 5)
    log.sync()
    raw = disk.open("log/0000000000000001.seg")
    assert raw.pread(8, raw.size() - 8) == b"condense"
    assert log.frame(address).metadata.endswith(b"condense")
    again = Log.open(disk.crash(), tools.IDENTITY)
    assert again.last_index == log.last_index


def acceptable(tools, log: Log, dead: set[int], addresses: list[int]) -> bool:
    """Every record is there; a dead payload may be."""
    found = tools.records_of(log)
    whole = [tools.record(index) for index in range(1, len(addresses) + 1)]
    without = expected(tools, dead, addresses)
    return len(found) == len(whole) and all(
        a in (b, c) for a, b, c in zip(found, whole, without, strict=True)
    )


@pytest.mark.slow
def test_a_power_cut_at_every_call_of_the_cleaner_loses_nothing(tools):
    disk, log, addresses = grown(tools, 25)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    before = sum(disk.calls.values())
    condense_all(log, dead)
    calls = sum(disk.calls.values()) - before
    tried = 0
    for at in range(1, calls + 1):
        disk, log, addresses = grown(tools, 25)
        left = at

        def cut(call, name):
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        disk.before = cut
        with suppress(PowerCut):
            condense_all(log, dead)
        disk.before = None
        twins = [disk, disk.crash(), *(disk.crash(random=Random(at * 7 + k)) for k in range(3))]
        for twin in twins:
            again = Log.open(twin, tools.IDENTITY)
            assert not again.recovery.broken
            assert again.recovery.durable_lost == 0
            assert acceptable(tools, again, dead, addresses)
            condense_all(again, dead)
            assert tools.records_of(again) == expected(tools, dead, addresses)
            tried += 1
    assert tried > 100


@pytest.mark.slow
def test_a_disk_that_refuses_any_call_leaves_the_segment_as_it_was(tools):
    disk, log, addresses = grown(tools, 25)
    dead = dead_of(log, addresses, lambda a: addresses.index(a) % 3 == 1)
    before = dict(disk.calls)
    condense_all(log, dead)
    writing = {"pwritev", "fdatasync", "rename", "truncate", "sync_directory", "open"}
    counts = {c: disk.calls[c] - before.get(c, 0) for c in writing if c in disk.calls}
    tried = 0
    for call, count in counts.items():
        for at in range(1, count + 1):
            disk, log, addresses = grown(tools, 25)
            left = at

            def refuse(now, name, call=call):
                nonlocal left
                left -= now == call
                if left == 0 and now == call:
                    left = -(10**9)
                    raise OSError(errno.ENOSPC, "no space")

            sealed = log.sealed()
            disk.before = refuse
            for number in sealed:
                with suppress(OSError):
                    log.condense(number, frozenset(dead), 1)
            disk.before = None
            assert acceptable(tools, log, dead, addresses)
            again = Log.open(disk, tools.IDENTITY)
            assert acceptable(tools, again, dead, addresses)
            tried += 1
    assert tried > 20
