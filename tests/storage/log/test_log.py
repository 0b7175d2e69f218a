"""Goal: a log gives back what was appended, across segments, openings and threads, at the cost it promises.

Method: examples of each call, counts of the disk's calls, and a list as twin under Hypothesis.
"""

import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.disk import MemoryDisk, RealDisk
from storage.errors import Corruption, Unusable
from storage.limits import PAYLOAD_BYTES_MAX
from storage.log import Log
from storage.log import segments as segments_module

IDENTITY = 77


@pytest.fixture(params=["real", "memory"])
def disk(request, tmp_path):
    return RealDisk(tmp_path / "data") if request.param == "real" else MemoryDisk()


def test_a_new_log_is_empty_and_durable():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=2048)
    assert (log.last_index, log.durable_index, log.last_timestamp, log.end_address) == (
        0,
        0,
        0,
        1024,
    )
    assert list(log.frames()) == []
    assert disk.list("log") == ["0000000000000000.seg"]
    again = Log.open(disk.crash(), IDENTITY)
    assert again.last_index == 0
    assert not again.recovery.torn
    assert again.recovery.sentences == ()


def test_records_come_back(disk):
    log = Log.create(disk, IDENTITY, shard=3, segment_bytes=4096)
    first = log.append(1, 10, b"meta", [b"pay", bytearray(b"lo"), memoryview(b"ad")])
    second = log.append(2, 11, b"")
    assert log.last_index == 2
    assert log.durable_index == 0
    frame = log.frame(first)
    assert (frame.kind, frame.epoch, frame.index, frame.timestamp) == (1, 1, 1, 10)
    assert (frame.metadata, frame.payload_length, frame.address) == (b"meta", 7, first)
    assert log.next_address(frame) == second
    assert log.next_address(log.frame(second)) == log.end_address
    assert log.read(first, 0, 7) == b"payload"
    assert log.read(first, 2, 3) == b"ylo"
    assert log.read(second, 0, 0) == b""
    log.close()
    again = Log.open(disk, IDENTITY)
    assert [frame.index for frame in again.frames()] == [1, 2]
    assert (again.last_index, again.durable_index, again.last_timestamp) == (2, 2, 11)
    assert (again.last_address, again.shard) == (second, 3)
    again.close()


def test_frames_never_cross_a_segment_and_addresses_go_on(disk):
    log = Log.create(disk, IDENTITY, segment_bytes=2048)
    addresses = [log.append(1, i, b"m", [bytes([i]) * 300]) for i in range(20)]
    for address, frame in zip(addresses, log.frames(), strict=True):
        assert frame.address == address
        assert address % 8 == 0
        assert 1024 <= address % 2048 <= 2040 - frame.size_bytes
    assert [log.read(a, 0, 300)[0] for a in addresses] == list(range(20))
    for index in range(1, 21):
        assert [f.index for f in log.frames(index=index)] == list(range(index, 21))
        assert [f.index for f in log.frames(addresses[index - 1])] == list(range(index, 21))
    assert list(log.frames(index=21)) == []
    assert list(log.frames(log.end_address)) == []
    log.close()


def test_an_address_that_was_once_the_end_leads_on_after_a_roll_over():
    log = Log.create(MemoryDisk(), IDENTITY, segment_bytes=2048)
    log.append(1, 1, b"", [b"x" * 300])
    middle = log.end_address
    log.append(1, 2, b"", [b"x" * 300])
    ends = [middle, log.end_address]
    log.append(1, 3, b"", [b"x" * 500])  # In the next segment.
    log.append(1, 4, b"", [b"x" * 500])
    assert [[f.index for f in log.frames(end)] for end in ends] == [[2, 3, 4], [3, 4]]
    for wrong in (middle + 8, middle - 8, log.end_address + 8):
        with pytest.raises(Corruption, match="segment"):
            list(log.frames(wrong))


def test_an_iterator_sees_what_is_appended_meanwhile():
    log = Log.create(MemoryDisk(), IDENTITY, segment_bytes=2048)
    log.append(1, 1, b"")
    seen = []
    for frame in log.frames():
        seen.append(frame.index)
        if frame.index < 50:
            log.append(1, 1, b"x" * 100)
    assert seen == list(range(1, 51))


def test_large_payloads_are_slices_of_a_mapping_and_small_ones_bytes(disk):
    log = Log.create(disk, IDENTITY, segment_bytes=2**20)
    content = bytes(range(256)) * (PAYLOAD_BYTES_MAX // 256)
    addresses = [log.append(1, 1, b"m" * 5000, [content]) for _ in range(8)]
    view = log.read(addresses[0], 1000, 65536)
    assert isinstance(view, memoryview)
    assert view.readonly
    for address in addresses:  # The first segment's mapping may go; the view stays.
        assert log.read(address, 0, PAYLOAD_BYTES_MAX) == content
        small = log.read(address, 3, 65535)
        assert isinstance(small, bytes)
        assert small == content[3 : 3 + 65535]
    log.close()
    assert view == content[1000 : 1000 + 65536]


def test_a_range_outside_the_payload_is_refused_before_and_after_the_first_touch():
    log = Log.create(MemoryDisk(), IDENTITY, segment_bytes=4096)
    address = log.append(1, 1, b"", [b"12345"])
    for _ in range(2):
        with pytest.raises(Corruption, match="payload of 5"):
            log.read(address, 3, 3)
        assert log.read(address, 3, 2) == b"45"


@pytest.mark.parametrize("wrong", [0, 1016, 1032, 2**40, 1025])
def test_an_address_without_a_record_is_corruption_that_says_where(wrong):
    log = Log.create(MemoryDisk(), IDENTITY, segment_bytes=4096, shard=4)
    log.append(1, 1, b"", [b"12345"])
    for call in (lambda: log.read(wrong, 0, 1), lambda: log.frame(wrong)):
        with pytest.raises(
            Corruption, match=f"shard 4, segment 0*[0-9a-f]+, offset {wrong % 4096}"
        ):
            call()


def test_a_payload_is_verified_once_by_reading_it_whole(monkeypatch):
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=4096)
    address = log.append(1, 1, b"", [b"12345678"])
    assert log.read(address, 0, 1) == b"1"
    disk.open("log/0000000000000000.seg").pwritev([b"?"], address + 56)
    assert log.read(address, 1, 2) == b"23"  # Remembered as good.
    fresh = Log.open(disk, IDENTITY, read_only=True)
    with pytest.raises(Corruption, match="payload of record 1"):
        fresh.read(address, 1, 2)
    assert fresh.recovery.torn  # Nothing says that record 1 was ever synced.


def test_open_files_and_mappings_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(segments_module, "OPEN_FILES_MAX", 3)
    monkeypatch.setattr(segments_module, "MAPPED_BYTES_MAX", 2 * 2**18)
    log = Log.create(RealDisk(tmp_path), IDENTITY, segment_bytes=2**18)
    addresses = [log.append(1, i, b"", [bytes([i]) * 200_000]) for i in range(12)]
    log.sync()
    for _ in range(2):
        for number, address in enumerate(addresses):
            assert log.read(address, 0, 70_000) == bytes([number]) * 70_000
            assert log.read(address, 7, 2) == bytes([number]) * 2
    assert len(log._reader.segments._files) <= 3
    assert len(log._reader.segments._maps) <= 2
    log.close()


def test_one_append_is_one_write_and_no_sync():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=1 << 16)
    before = dict(disk.calls)
    for _ in range(10):
        log.append(1, 1, b"meta", [b"a" * 100, b"b" * 101])
    changed = {
        call: n - before.get(call, 0) for call, n in disk.calls.items() if n != before.get(call)
    }
    assert changed == {"pwritev": 10}


def test_more_buffers_than_the_system_takes_are_joined(tmp_path):
    log = Log.create(RealDisk(tmp_path), IDENTITY, segment_bytes=1 << 16)
    address = log.append(1, 1, b"", [b"ab"] * 3000)
    assert log.read(address, 0, 6000) == b"ab" * 3000
    log.close()


def test_a_sync_covers_all_segments_written_and_their_names():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=2048)
    for i in range(10):
        log.append(1, i, b"", [b"x" * 400])
    assert log.sync() == 10
    assert log.durable_index == 10
    assert log.syncs == 1
    assert Log.open(disk.crash(), IDENTITY).last_index == 10
    before = dict(disk.calls)
    assert log.sync() == 10  # Nothing new: no call at all.
    assert disk.calls == before
    log.append(1, 11, b"")
    assert log.sync() == 11
    assert disk.calls["fdatasync"] == before["fdatasync"] + 1
    assert disk.calls["sync_directory"] == before["sync_directory"]


def test_callers_that_wait_while_a_sync_runs_share_the_next():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=1 << 16)
    running, go_on = threading.Event(), threading.Event()

    def interfere(call, name):
        if call == "fdatasync":
            running.set()
            assert go_on.wait(10)

    log.append(1, 1, b"")
    disk.before = interfere
    threads = [threading.Thread(target=log.sync)]
    threads[0].start()
    assert running.wait(10)
    for i in range(20):  # All appended after the first sync began.
        log.append(1, i, b"")
        threads.append(threading.Thread(target=log.sync))
        threads[-1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert log.durable_index == 21
    assert log.syncs == 2


def test_appends_syncs_and_readers_on_their_threads(tmp_path):
    log = Log.create(RealDisk(tmp_path), IDENTITY, segment_bytes=1 << 14)
    done = threading.Event()
    troubles = []

    def watch(work):
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            troubles.append(error)

    def check_frames():
        last = log.last_index
        indexes = [frame.index for frame in log.frames(index=max(1, last - 40))]
        assert indexes == list(range(max(1, last - 40), max(1, last - 40) + len(indexes)))
        assert not indexes or indexes[-1] >= last

    def check_sync():
        target = log.last_index
        assert log.sync() >= target

    threads = [threading.Thread(target=watch, args=(w,)) for w in (check_frames, check_sync)]
    for thread in threads:
        thread.start()
    addresses = [log.append(1, i, b"m", [i.to_bytes(2, "big") * 300]) for i in range(2000)]
    done.set()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert all(
        log.read(address, 0, 2) == i.to_bytes(2, "big") for i, address in enumerate(addresses)
    )
    log.close()
    assert Log.open(RealDisk(tmp_path), IDENTITY).durable_index == 2000


def test_opening_from_a_known_record_reads_only_what_is_behind_it():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=4096)
    for i in range(200):
        log.append(1, i, b"m" * 50, [b"x" * 100])
    known = {"from_address": log.last_address, "expected_index": 200, "checksum": log.last_checksum}
    log.append(1, 201, b"")
    log.close()
    disk.calls.clear()
    log = Log.open(disk, IDENTITY, **known)
    assert log.recovery.resumed
    assert log.last_index == 201
    assert disk.calls["pread"] < 20
    assert [f.index for f in log.frames(known["from_address"])] == [200, 201]
    assert [f.index for f in log.frames(index=3)][:2] == [3, 4]
    for wrong in ({"from_address": 8}, {"expected_index": 199}, {"checksum": 1}):
        again = Log.open(disk, IDENTITY, **(known | wrong))
        assert not again.recovery.resumed
        assert again.last_index == 201


def test_a_read_only_log_changes_nothing_and_reads_what_is_appended_later():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=4096)
    log.append(1, 1, b"")
    before = dict(disk.calls)
    reader = Log.open(disk, IDENTITY, read_only=True)
    assert (reader.last_index, reader.durable_index) == (1, 0)
    assert reader.last_address == log.last_address
    assert [f.index for f in reader.frames()] == [1]
    changed = {call for call, count in disk.calls.items() if count != before.get(call)}
    assert changed <= {"open", "pread", "data_ranges"}
    later = log.append(1, 2, b"", [b"later"])
    assert reader.read(later, 0, 5) == b"later"
    reader.close()
    with pytest.raises(AssertionError):
        reader.append(1, 1, b"")


def test_what_was_appended_survives_the_end_of_the_process(tmp_path):
    child = """if True:
        import os, signal, sys
        from storage.disk import RealDisk
        from storage.log import Log
        log = Log.create(RealDisk(sys.argv[1]), 77, segment_bytes=4096)
        for i in range(50):
            log.append(1, i, b"m", [b"x" * i * 7])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    log = Log.open(RealDisk(tmp_path), IDENTITY)
    assert log.recovery.sentences == ()
    assert log.durable_index == 50
    for i, frame in enumerate(log.frames()):
        assert log.read(frame.address, 0, frame.payload_length) == b"x" * i * 7


def test_the_epoch_is_stamped_and_survives():
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=2048)
    log.append(1, 1, b"")
    log.epoch = 4
    address = log.append(1, 2, b"")
    assert log.frame(address).epoch == 4
    log.close()
    assert Log.open(disk, IDENTITY).epoch == 4


def test_creating_over_a_log_and_opening_none_are_refused():
    disk = MemoryDisk()
    with pytest.raises(Unusable, match="holds no log"):
        Log.open(disk, IDENTITY)
    Log.create(disk, IDENTITY).close()
    with pytest.raises(Unusable, match="already"):
        Log.create(disk, IDENTITY)


SMALL = st.binary(max_size=60)


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 255), SMALL, st.lists(SMALL, max_size=3)),
            st.tuples(st.sampled_from(["reopen", "kill", "sync", "resume"])),
        ),
        max_size=40,
    )
)
def test_a_log_is_a_list(steps):
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=1536)
    twin = []
    for step in steps:
        match step:
            case ("append", kind, metadata, payload):
                address = log.append(kind, len(twin), metadata, payload)
                twin.append((len(twin) + 1, kind, metadata, b"".join(payload), address))
            case ("sync",):
                assert log.sync() == len(twin)
            case ("reopen",):
                log.close()
                log = Log.open(disk, IDENTITY)
            case ("kill",):  # The process dies: what was appended is in the kernel.
                log = Log.open(disk, IDENTITY)
            case ("resume",):
                log = Log.open(disk, IDENTITY, from_address=log.last_address)
        assert log.last_index == len(twin)
    found = [
        (f.index, f.kind, f.metadata, log.read(f.address, 0, f.payload_length), f.address)
        for f in log.frames()
    ]
    assert found == twin
    assert not log.recovery.torn
    for index, _, _, payload, address in twin:
        middle = len(payload) // 2
        assert log.read(address, middle, len(payload) - middle) == payload[middle:]
        assert next(log.frames(index=index)).address == address
