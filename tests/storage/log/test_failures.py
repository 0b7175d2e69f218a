"""Goal: a disk that refuses leaves the log usable or says that it is not; nothing half done is ever found.

Method: an error, or a short write, at every call of a workload; and each row of the states in `storage.log.writer`.
"""

import errno
import os
from random import Random

import pytest

from storage.disk import MemoryDisk, RealDisk
from storage.log import Log


class Fault:
    """Fails the n-th matching call, once, or every one from then on."""

    def __init__(self, code, calls, nth=1, *, lasting=False):
        self.code, self.calls, self.left, self.lasting = code, calls, nth, lasting
        self.hits = 0

    def __call__(self, call, name):
        if call not in self.calls:
            return
        self.left -= 1
        if self.left == 0 or (self.lasting and self.left < 0):
            self.hits += 1
            raise OSError(self.code, os.strerror(self.code), name)


@pytest.fixture
def log(tools):
    disk = MemoryDisk()
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
    for index in (1, 2, 3):
        tools.append(log, index)
    log.disk = disk
    return log


def check_whole(log, tools, count):
    assert tools.records_of(log) == [tools.record(i) for i in range(1, count + 1)]
    again = Log.open(log.disk, tools.IDENTITY)
    assert tools.records_of(again) == [tools.record(i) for i in range(1, count + 1)]
    return again


def test_a_failed_append_is_not_in_the_log_and_the_next_takes_its_place(log, tools):
    end = log.end_address
    log.disk.before = Fault(errno.ENOSPC, {"pwritev"})
    with pytest.raises(OSError, match="No space"):
        tools.append(log, 4)
    assert (log.last_index, log.end_address) == (3, end)
    check_whole(log, tools, 3)
    assert tools.append(log, 4) == end
    log.close()
    check_whole(log, tools, 4)


@pytest.mark.parametrize("reached", [0, 1, 30, 56, 57, 90])
def test_a_partial_write_is_never_found(log, tools, reached):
    end = log.end_address
    calls = iter([reached, "fail"])

    def interfere(call, name):
        if call == "pwritev":
            step = next(calls, None)
            if step == "fail":
                raise OSError(errno.ENOSPC, "full")
            return step
        return None

    log.disk.before = interfere
    with pytest.raises(OSError, match=r"full|no bytes|no reason"):
        log.append(1, 1, b"m" * 10, [b"x" * 20 + bytes(40)])
    log.disk.before = None
    again = Log.open(log.disk.crash(10**6), tools.IDENTITY, read_only=True)
    assert again.last_index == 3
    assert tools.append(log, 4) == end
    log.close()
    assert check_whole(log, tools, 4).recovery.durable_lost == 0


def test_a_short_write_is_finished(log, tools):
    limits = iter([10, 50, 1])
    log.disk.before = lambda call, name: next(limits, None) if call == "pwritev" else None
    tools.append(log, 4)
    log.disk.before = None
    check_whole(log, tools, 4)


def test_an_append_that_cannot_be_erased_stops_the_log(log, tools):
    log.disk.before = Fault(errno.EIO, {"pwritev"}, lasting=True)
    with pytest.raises(OSError, match="Input"):
        tools.append(log, 4)
    log.disk.before = None
    for call in (lambda: tools.append(log, 4), log.sync):
        with pytest.raises(OSError, match="until it is opened again") as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert tools.records_of(log) == [tools.record(i) for i in (1, 2, 3)]
    log.close()
    check_whole(log, tools, 3)


@pytest.mark.parametrize("call", ["fdatasync", "sync_directory"])
def test_after_a_failed_sync_nothing_is_promised_any_more(log, tools, call):
    for index in range(4, 12):
        tools.append(log, index)
    log.disk.before = Fault(errno.EIO, {call})
    with pytest.raises(OSError, match="Input"):
        log.sync()
    assert log.durable_index == 0
    for retry in (log.sync, lambda: tools.append(log, 12)):
        with pytest.raises(OSError, match=r"a sync failed .* until it is opened again"):
            retry()
    assert len(tools.records_of(log)) == 11  # Reading goes on.
    log.close()
    log.close()
    check_whole(log, tools, 11)


def test_a_mark_that_cannot_be_written_is_no_failure(log, tools):
    log.disk.before = Fault(errno.EIO, {"pwritev"})
    assert log.sync() == 3
    assert log.disk.before.hits == 1
    log.disk.before = None
    check_whole(log, tools, 3)


@pytest.mark.parametrize("call", ["create", "truncate", "preallocate", "pwritev"])
@pytest.mark.parametrize("undo", [True, False])
def test_no_space_shows_at_the_roll_over_and_passes(log, tools, call, undo):
    fault = Fault(errno.ENOSPC, {call}, lasting=True)

    def interfere(what, name):
        if name.endswith("1.seg"):
            fault(what, name)
            if what == "unlink" and not undo:
                raise OSError(errno.EIO, "stuck")

    log.disk.before = interfere
    refused = None
    while not refused:
        index = log.last_index + 1
        try:
            tools.append(log, index)
        except OSError as error:
            refused = error
    assert refused.errno == errno.ENOSPC
    assert log.last_index == index - 1
    begun = (
        log.end_address >= tools.SEGMENT_BYTES
    )  # By a record without a payload, which needs no room reserved.
    assert begun == (call == "preallocate")
    assert tools.record(index)[4] or not begun
    left = ["0000000000000001.seg"] if begun or (not undo and call != "create") else []
    assert log.disk.list("log") == ["0000000000000000.seg", *left]
    assert Log.open(log.disk.crash(10**6), tools.IDENTITY).last_index == index - 1
    log.disk.before = None
    tools.append(log, index)
    log.close()
    check_whole(log, tools, index)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call_of_a_workload(tools, code):
    def work(log, promised):
        """Append twenty records, retrying each once, and sync now and then."""
        for index in range(1, 21):
            for attempt in (1, 2):
                try:
                    tools.append(log, index)
                    break
                except OSError:
                    if attempt == 2:
                        return
            if index % 4 == 0:
                try:
                    promised.append(log.sync())
                except OSError:
                    return

    calls = {"open", "create", "truncate", "preallocate", "pwritev", "fdatasync", "sync_directory"}
    nth = 0
    while True:
        nth += 1
        disk = MemoryDisk()
        log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)
        disk.before = fault = Fault(code, calls, nth)
        promised = [0]
        work(log, promised)
        disk.before = None
        appended = log.last_index
        expected = [tools.record(i) for i in range(1, appended + 1)]
        assert tools.records_of(log) == expected
        for twin in (disk.crash(10**6), disk.crash(), disk.crash(random=Random(nth))):
            again = Log.open(twin, tools.IDENTITY)
            assert promised[-1] <= again.last_index <= appended
            assert tools.records_of(again) == expected[: again.last_index]
        if not fault.hits:
            break
    assert nth > 35


@pytest.mark.slow
def test_errors_while_opening_change_no_answer(tools, small):
    data = bytearray(small.files["log/0000000000000001.seg"])
    data[1024 + 8] ^= 1
    files = small.files | {"log/0000000000000001.seg": bytes(data)}
    hits = 1
    nth = 0
    while hits:
        nth += 1
        disk = tools.disk_of(files)
        calls = {"open", "pread", "rename", "pwritev", "fdatasync", "sync_directory", "truncate"}
        disk.before = fault = Fault(errno.EIO, calls, nth)
        try:
            log = Log.open(disk, tools.IDENTITY, keep_prefix=True)
        except OSError:
            disk.before = None
            log = Log.open(disk, tools.IDENTITY, keep_prefix=True)
        disk.before = None
        hits = fault.hits
        assert tools.records_of(log) == small.records[: log.last_index]
        assert log.last_index == next(f.index for f in small.frames if f.address >= 1536) - 1
    assert nth > 20


def fill(log, tools):
    while True:
        tools.append(log, log.last_index + 1)


def test_a_real_disk_without_space(tmp_path, tools, monkeypatch):
    disk = RealDisk(tmp_path)
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="No space"):
            fill(log, tools)
    kept = log.last_index
    assert tools.record(kept + 1)[4]
    # Records without a payload go on: removing is one, and otherwise a full disk would stay full.
    assert disk.list("log") == ["0000000000000000.seg", "0000000000000001.seg"]
    assert (tmp_path / "log/0000000000000001.seg").stat().st_size < tools.SEGMENT_BYTES
    tools.append(log, kept + 1)
    assert (tmp_path / "log/0000000000000001.seg").stat().st_size == tools.SEGMENT_BYTES
    log.close()
    log = Log.open(disk, tools.IDENTITY)
    assert log.last_index == kept + 1
    assert log.recovery.sentences == ()


def test_a_log_that_was_closed_on_a_full_disk_opens_on_one(tmp_path, tools, monkeypatch):
    disk = RealDisk(tmp_path)
    log = Log.create(disk, tools.IDENTITY, segment_bytes=tools.SEGMENT_BYTES)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="No space"):
            fill(log, tools)
        kept = [tools.record(n) for n in range(1, log.last_index + 1)]
        for _ in range(40):  # Over the end of that segment, too.
            log.append(1, log.last_timestamp + 1, b"m" * 10)
        log.close()
        log = Log.open(disk, tools.IDENTITY)
        assert tools.records_of(log)[: len(kept)] == kept
        with pytest.raises(OSError, match="No space"):
            log.append(1, log.last_timestamp + 1, b"", [b"payload"])
        log.append(1, log.last_timestamp + 1, b"last")
        log.close()
    log = Log.open(disk, tools.IDENTITY)
    log.append(1, log.last_timestamp + 1, b"", [b"payload"])
    assert bytes(log.read(log.last_address, 0, 7)) == b"payload"
