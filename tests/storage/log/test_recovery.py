"""Goal: whatever byte of a log is lost or flipped, no wrong byte is served, all in front is, and the report names it.

Method: a small log, cut at every length and flipped in every byte; then each row of FORMAT, "Recovery cases".
"""

import pytest

from storage.codec import BLOCK_BYTES, Slot, encode_block
from storage.errors import Corruption, Unusable
from storage.log import Log

SEGMENTS = [f"log/{number:016x}.seg" for number in range(3)]


def owner(small, tools, number, offset):
    """The position in the list of the frame that a byte is part of; None for headers, padding and empty space."""
    for position, frame in enumerate(small.frames):
        start = frame.address - number * tools.SEGMENT_BYTES
        if start <= offset < start + 56 + len(frame.metadata) + frame.payload_length:
            return position
    return None


def check_goes_on(disk, log, tools, kept):
    """A log opened for writing takes the next record, and shows what it showed before when opened again."""
    index = log.last_index + 1
    assert index == len(kept) + 1
    tools.append(log, index)
    log.close()
    again = Log.open(disk, tools.IDENTITY)
    assert not again.recovery.torn
    assert again.recovery.durable_lost == 0
    assert tools.records_of(again) == [*kept, tools.record(index)]


def check_damage(small, tools, files, number, offset, first_lost, *, whole_after):
    """Open files damaged so that the record at a position cannot be trusted, in every mode.

    How many intact records are behind the damage decides between a torn tail and damage in the middle.
    """
    prefix = small.records[:first_lost]
    place = f"segment {number:016x}, offset"
    reader = Log.open(tools.disk_of(files), tools.IDENTITY, read_only=True)
    assert tools.records_of(reader) == prefix
    assert place in " ".join(reader.recovery.sentences)
    assert reader.recovery.frames_after_damage == whole_after
    assert reader.recovery.durable_lost == len(small.records) - first_lost
    assert (number, offset) in [(d.segment, d.offset) for d in reader.recovery.damage]
    disk = tools.disk_of(files)
    if whole_after:
        with pytest.raises(Unusable, match="--recover") as caught:
            Log.open(disk, tools.IDENTITY)
        assert place in str(caught.value)
        assert f"{whole_after} intact records" in str(caught.value)
        assert tools.files_of(disk) == files
    log = Log.open(disk, tools.IDENTITY, keep_prefix=bool(whole_after))
    assert log.recovery.torn is not log.recovery.broken
    assert tools.records_of(log) == prefix
    if log.recovery.bytes_dropped:
        assert disk.list("quarantine")
    check_goes_on(disk, log, tools, prefix)


def offset_of(small, tools, position):
    return divmod(small.frames[position].address, tools.SEGMENT_BYTES)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.slow
def test_a_bit_flipped_in_every_byte(small, tools, number):
    count = len(small.records)
    for offset in range(tools.SEGMENT_BYTES):
        data = bytearray(small.files[SEGMENTS[number]])
        data[offset] ^= 1 << offset * 5 % 8
        files = small.files | {SEGMENTS[number]: bytes(data)}
        hit = owner(small, tools, number, offset)
        frame = small.frames[hit] if hit is not None else None
        in_payload = frame and offset >= frame.address % tools.SEGMENT_BYTES + 56 + len(
            frame.metadata
        )
        if frame is not None and not in_payload:
            at = offset_of(small, tools, hit)
            check_damage(small, tools, files, *at, hit, whole_after=count - hit - 1)
            continue
        disk = tools.disk_of(files)
        log = Log.open(disk, tools.IDENTITY)
        expected = list(small.records)
        if in_payload:
            expected[hit] = (*expected[hit][:4], None)
            with pytest.raises(
                Corruption, match=f"segment {number:016x}, offset {at_of(frame, tools)}"
            ):
                log.read(frame.address, 0, 1)
        assert tools.records_of(log) == expected
        # Bytes no record depends on may go unnamed: padding, and what is behind the last frame of a full segment.
        named = bool(log.recovery.sentences)
        if offset in range(80) or offset in range(512, 592):
            assert named
            assert not Log.open(disk, tools.IDENTITY).recovery.sentences  # Repaired.
        elif frame is None and number == 2 and offset >= BLOCK_BYTES:
            end = log.recovery.end_address % tools.SEGMENT_BYTES
            assert log.recovery.torn is named is (offset >= end)
            assert log.recovery.bytes_dropped == max(0, offset + 1 - end)
        elif in_payload and hit == count - 1:
            assert named
            assert log.recovery.damage
        check_goes_on(disk, log, tools, expected)


def at_of(frame, tools):
    return frame.address % tools.SEGMENT_BYTES


@pytest.mark.parametrize("number", range(3))
@pytest.mark.slow
def test_a_segment_cut_at_every_length(small, tools, number):
    count = len(small.records)
    for length in range(tools.SEGMENT_BYTES):
        files = small.files | {SEGMENTS[number]: small.files[SEGMENTS[number]][:length]}
        lost = [
            position
            for position, frame in enumerate(small.frames)
            if frame.address // tools.SEGMENT_BYTES == number
            and at_of(frame, tools) + 56 + len(frame.metadata) > length
        ]
        cut_payload = [
            position
            for position, frame in enumerate(small.frames)
            if frame.address // tools.SEGMENT_BYTES == number
            and at_of(frame, tools) + 56 + len(frame.metadata)
            <= length
            < at_of(frame, tools) + 56 + len(frame.metadata) + frame.payload_length
        ]
        disk = tools.disk_of(files)
        if lost and number == 0 and length < 80:
            with pytest.raises(Unusable, match="first segment"):  # Nothing is left to begin with.
                Log.open(disk, tools.IDENTITY, keep_prefix=True)
            continue
        if lost:
            whole_after = count - 1 - lost[-1]
            prefix = [*small.records[: lost[0]]]
            if cut_payload:
                assert cut_payload == [lost[0] - 1]
                prefix[-1] = (*prefix[-1][:4], None)
            reader = Log.open(disk, tools.IDENTITY, read_only=True)
            assert tools.records_of(reader) == prefix
            # The last segment's mark is in its second header copy; cut that off and a short file is all that tells.
            mark_lost = number == 2 and length < 592
            assert reader.recovery.durable_lost == (0 if mark_lost else len(lost) + whole_after)
            assert (
                f"Segment {number:016x} of shard 0, offset {length}" in said(reader) or length < 80
            )
            assert reader.recovery.sentences or length < 80
            if whole_after:
                with pytest.raises(Unusable, match=f"{whole_after} intact records"):
                    Log.open(disk, tools.IDENTITY)
            log = Log.open(disk, tools.IDENTITY, keep_prefix=True)
            assert log.recovery.torn or log.recovery.broken or mark_lost
            assert tools.records_of(log) == prefix
            check_goes_on(disk, log, tools, prefix)
        else:
            log = Log.open(disk, tools.IDENTITY)
            expected = [
                (*r[:4], None) if position in cut_payload else r
                for position, r in enumerate(small.records)
            ]
            assert tools.records_of(log) == expected
            check_goes_on(disk, log, tools, expected)


def said(log):
    return " ".join(log.recovery.sentences)


def unsynced(tools, count=6):
    """A log whose process died before any sync: frames in segments 0 and on, no mark."""
    from storage.disk import MemoryDisk

    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    for index in range(1, count + 1):
        tools.append(log, index)
    return log, tools.files_of(disk), list(log.frames())


@pytest.mark.parametrize("part", ["head", "payload"])
def test_a_torn_tail_is_dropped_and_counted(tools, part):
    _, files, frames = unsynced(tools, 4)
    last = frames[-1]
    data = bytearray(files[SEGMENTS[0]])
    data[last.address + (20 if part == "head" else 56 + len(last.metadata))] ^= 1
    disk = tools.disk_of({SEGMENTS[0]: bytes(data)})
    log = Log.open(disk, tools.IDENTITY)
    found = log.recovery
    assert (found.torn, found.broken, found.end_index, found.durable_lost) == (True, False, 3, 0)
    assert found.bytes_dropped == len(bytes(data).rstrip(b"\0")) - last.address
    assert found.end_address == last.address
    assert f"{found.bytes_dropped} bytes" in " ".join(found.sentences)
    assert (
        disk.list("quarantine") == []
    )  # It was never promised to anyone, and nothing intact is in it.
    check_goes_on(disk, log, tools, [tools.record(i) for i in (1, 2, 3)])


@pytest.mark.parametrize("part", ["head", "payload"])
def test_a_hole_in_what_was_never_synced_is_a_tear_and_what_is_intact_behind_is_set_aside(
    tools, part
):
    _, files, frames = unsynced(tools, 6)
    hole = frames[1]
    data = bytearray(files[SEGMENTS[0]])
    data[hole.address + (20 if part == "head" else 56 + len(hole.metadata))] ^= 1
    disk = tools.disk_of(files | {SEGMENTS[0]: bytes(data)})
    log = Log.open(disk, tools.IDENTITY)
    assert log.recovery.torn
    assert log.recovery.frames_after_damage == 4
    assert log.recovery.damage == ()
    aside = tools.files_of(disk, "quarantine")
    assert aside[f"quarantine/{0:016x}.{hole.address:08x}.tail"] == bytes(
        data[hole.address :]
    ).rstrip(b"\0")
    check_goes_on(disk, log, tools, [tools.record(1)])


def test_quarantine_never_overwrites(small, tools):
    data = bytearray(small.files[SEGMENTS[1]])
    data[BLOCK_BYTES + 3] ^= 1
    files = small.files | {SEGMENTS[1]: bytes(data)}
    disk = tools.disk_of(files | {f"quarantine/{2:016x}.seg": b"earlier"})
    Log.open(disk, tools.IDENTITY, keep_prefix=True).close()
    aside = tools.files_of(disk, "quarantine")
    assert aside[f"quarantine/{2:016x}.seg"] == b"earlier"
    assert aside[f"quarantine/{2:016x}.seg.2"] == files[SEGMENTS[2]]
    assert disk.list("log") == ["0000000000000000.seg", "0000000000000001.seg"]


def test_a_missing_segment_is_named(small, tools):
    files = {name: data for name, data in small.files.items() if name != SEGMENTS[1]}
    disk = tools.disk_of(files)
    with pytest.raises(Unusable, match=f"{SEGMENTS[1]} is missing"):
        Log.open(disk, tools.IDENTITY)
    kept = sum(frame.address < tools.SEGMENT_BYTES for frame in small.frames)
    reader = Log.open(disk, tools.IDENTITY, read_only=True)
    assert tools.records_of(reader) == small.records[:kept]
    log = Log.open(disk, tools.IDENTITY, keep_prefix=True)
    check_goes_on(disk, log, tools, small.records[:kept])


def test_a_log_of_another_store_is_refused(small, tools):
    with pytest.raises(Unusable, match="belongs to store 123456789abcdef0"):
        Log.open(tools.disk_of(small.files), 5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_segment_of_another_store_among_ours_is_refused(small, tools, number):
    slot = Slot(99, 0, 1, number, tools.SEGMENT_BYTES, small_first(small, tools, number), 0)
    foreign = encode_block(slot).ljust(tools.SEGMENT_BYTES, b"\0")
    disk = tools.disk_of(small.files | {SEGMENTS[number]: foreign})
    with pytest.raises(Unusable, match=f"{SEGMENTS[number]} belongs to another store"):
        Log.open(disk, tools.IDENTITY)
    if number:
        log = Log.open(disk, tools.IDENTITY, keep_prefix=True)
        kept = log.last_index
        assert kept == small_first(small, tools, number) - 1
        assert f"{number:016x}.seg" in disk.list("quarantine")
        check_goes_on(disk, log, tools, small.records[:kept])


def small_first(small, tools, number):
    return next(f.index for f in small.frames if f.address // tools.SEGMENT_BYTES == number)


def test_frames_of_another_shard_of_the_same_store_are_not_records(small, tools):
    slot = Slot(tools.IDENTITY, 1, 1, 0, tools.SEGMENT_BYTES, 1, 0)
    frames = small.files[SEGMENTS[0]][BLOCK_BYTES:]
    log = Log.open(tools.disk_of({SEGMENTS[0]: encode_block(slot) + frames}), tools.IDENTITY)
    assert (log.shard, log.last_index) == (1, 0)


def test_a_segment_under_another_number_is_refused(small, tools):
    disk = tools.disk_of(small.files | {SEGMENTS[1]: small.files[SEGMENTS[2]]})
    with pytest.raises(Unusable, match="another store, shard or place"):
        Log.open(disk, tools.IDENTITY)


@pytest.mark.parametrize("number", [0, 2])
def test_an_unknown_format_version_is_refused_in_every_mode(small, tools, number):
    from xxhash import xxh3_64_intdigest

    data = bytearray(small.files[SEGMENTS[number]])
    for offset in (0, 512):
        data[offset + 16] = 3
        digest = xxh3_64_intdigest(bytes(data[offset : offset + 72]))
        data[offset + 72 : offset + 80] = digest.to_bytes(8, "little")
    disk = tools.disk_of(small.files | {SEGMENTS[number]: bytes(data)})
    for mode in ({}, {"read_only": True}, {"keep_prefix": True}):
        with pytest.raises(Unusable, match="version 3"):
            Log.open(disk, tools.IDENTITY, **mode)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_header_lost_in_both_copies_is_rebuilt_from_the_frames(small, tools, number):
    data = bytes(BLOCK_BYTES) + small.files[SEGMENTS[number]][BLOCK_BYTES:]
    disk = tools.disk_of(small.files | {SEGMENTS[number]: data})
    log = Log.open(disk, tools.IDENTITY)
    assert tools.records_of(log) == small.records
    assert any("both copies" in sentence for sentence in log.recovery.sentences)
    assert next(log.frames(index=7)).index == 7
    check_goes_on(disk, log, tools, small.records)


def test_without_any_header_the_log_is_refused(small, tools):
    files = {name: bytes(BLOCK_BYTES) + data[BLOCK_BYTES:] for name, data in small.files.items()}
    with pytest.raises(Unusable, match=r"no segment .* readable header"):
        Log.open(tools.disk_of(files), tools.IDENTITY)


def test_damage_in_the_middle_is_not_hidden_by_starting_behind_it(small, tools):
    data = bytearray(small.files[SEGMENTS[0]])
    data[small.frames[1].address + 9] ^= 1
    disk = tools.disk_of(small.files | {SEGMENTS[0]: bytes(data)})
    last = small.frames[-1]
    log = Log.open(disk, tools.IDENTITY, from_address=last.address, expected_index=last.index)
    assert log.recovery.resumed
    assert [f.index for f in log.frames(index=9)] == list(range(9, 15))
    seen = []
    with pytest.raises(Corruption, match="segment 0000000000000000"):
        seen.extend(frame.index for frame in log.frames())
    with pytest.raises(Corruption):
        list(log.frames(index=3))


def test_an_older_segment_put_back_behind_newer_ones_is_refused(small, tools):
    slot = Slot(tools.IDENTITY, 0, 1, 3, tools.SEGMENT_BYTES, 5, 4)
    stale = encode_block(slot).ljust(tools.SEGMENT_BYTES, b"\0")
    disk = tools.disk_of(small.files | {f"log/{3:016x}.seg": stale})
    with pytest.raises(Unusable, match="begin with records before it"):
        Log.open(disk, tools.IDENTITY)


def test_files_with_other_names_are_none_of_ours(small, tools):
    disk = tools.disk_of(
        small.files | {"log/notes": b"x", "log/12.seg": b"", "log/000000000000000G.seg": b""}
    )
    assert Log.open(disk, tools.IDENTITY).last_index == 14
    assert "notes" in disk.list("log")
