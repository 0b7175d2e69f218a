"""Goal: the real disk and the one in memory keep one contract, and a crash leaves what the contract allows.

Method: one suite over both; then crashes of the memory disk, whole prefixes and torn, against what was synced.
"""

import errno
import os
from random import Random

import pytest

from storage.disk import MemoryDisk, RealDisk


@pytest.fixture(params=["real", "memory"])
def disk(request, tmp_path):
    return RealDisk(tmp_path / "data") if request.param == "real" else MemoryDisk()


def test_bytes_written_are_bytes_read(disk):
    file = disk.open("a", create=True)
    assert file.pwritev([b"one", bytearray(b"two"), memoryview(b"three")], 2) == 11
    assert file.size() == 13
    assert file.pread(100, 0) == b"\0\0onetwothree"
    assert file.pread(3, 5) == b"two"
    assert file.pread(3, 13) == b""
    file.fdatasync()


def test_two_openings_share_a_file_and_one_is_read_only(disk):
    writer = disk.open("a", create=True)
    reader = disk.open("a", write=False)
    writer.pwritev([b"seen"], 0)
    assert reader.pread(4, 0) == b"seen"
    with pytest.raises(OSError, match="descriptor") as caught:
        reader.pwritev([b"no"], 0)
    assert caught.value.errno == errno.EBADF


def test_preallocation_shows_zeros_and_never_shrinks(disk):
    file = disk.open("a", create=True)
    file.pwritev([b"xy"], 0)
    file.preallocate(4096)
    assert file.pread(5000, 0) == b"xy" + bytes(4094)
    file.preallocate(10)
    assert file.size() == 4096


def test_data_ranges_leave_out_nothing_but_zeros(disk):
    file = disk.open("a", create=True)
    assert not file.data_ranges(0)
    file.preallocate(1 << 20)
    file.pwritev([b"x"], 100)
    file.pwritev([b"x" * 9000], 700_000)
    for offset in (0, 101, 700_000, 705_000, 708_999, 709_000, 1 << 20):
        left = bytearray(file.pread(1 << 20, offset))
        last = offset
        for start, end in file.data_ranges(offset):
            assert last <= start < end <= 1 << 20
            left[start - offset : end - offset] = bytes(end - start)
            last = end
        assert not any(left)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_knows_no_holes_is_all_data(tmp_path, monkeypatch, code):
    file = RealDisk(tmp_path).open("a", create=True)
    file.preallocate(4096)

    def refuse(*_):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "lseek", refuse)
    if code == errno.EINVAL:
        assert file.data_ranges(8) == [(8, 4096)]
    else:
        with pytest.raises(OSError, match="no"):
            file.data_ranges(8)


def test_truncation_cuts_and_growth_shows_zeros(disk):
    file = disk.open("a", create=True)
    file.pwritev([b"abcdef"], 0)
    file.truncate(3)
    file.truncate(5)
    assert file.pread(9, 0) == b"abc\0\0"


def test_a_map_is_read_only_shows_later_writes_and_outlives_the_file(disk):
    file = disk.open("a", create=True)
    assert len(file.map()) == 0
    file.preallocate(4096)
    view = file.map()
    file.pwritev([b"later"], 8)
    assert view.readonly
    part = view[8:13]
    file.close()
    disk.unlink("a")
    del file, view
    assert bytes(part) == b"later"


def test_names(disk):
    assert disk.list("log") == []
    with pytest.raises(FileNotFoundError):
        disk.open("log/a", create=True)
    disk.make_directory("log")
    disk.make_directory("log")
    disk.open("log/b", create=True).pwritev([b"b"], 0)
    disk.open("log/a", create=True)
    assert disk.list("log") == ["a", "b"]
    assert disk.list(".") == ["log"]
    disk.rename("log/b", "log/a")
    assert disk.list("log") == ["a"]
    assert disk.open("log/a").pread(9, 0) == b"b"
    disk.unlink("log/a")
    disk.sync_directory("log")
    for absent in (lambda: disk.open("log/a"), lambda: disk.unlink("log/a")):
        with pytest.raises(FileNotFoundError):
            absent()
    with pytest.raises(FileNotFoundError):
        disk.rename("log/a", "log/c")


def test_closing_twice_is_harmless_and_a_closed_file_refuses(disk):
    file = disk.open("a", create=True)
    file.close()
    file.close()
    with pytest.raises(OSError, match="descriptor"):
        file.pread(1, 0)


def test_a_real_file_closes_with_its_last_reference(tmp_path):
    disk = RealDisk(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        disk.open("a", create=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_preallocation_falls_back_where_the_file_system_cannot(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = RealDisk(tmp_path).open("a", create=True)
    file.preallocate(4096)
    assert file.size() == 4096


def test_no_space_at_preallocation_is_not_hidden(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="no"):
        RealDisk(tmp_path).open("a", create=True).preallocate(4096)


def started():
    disk = MemoryDisk()
    disk.make_directory("log")
    file = disk.open("log/a", create=True)
    file.pwritev([b"synced"], 0)
    file.fdatasync()
    disk.sync_directory("log")
    assert disk.pending == 0
    return disk, file


def content(disk, name="log/a"):
    return disk.open(name).pread(10**6, 0)


def test_a_crash_keeps_what_was_synced_and_nothing_else():
    disk, file = started()
    file.pwritev([b"SYNC"], 0)
    disk.open("log/b", create=True).fdatasync()
    twin = disk.crash()
    assert content(twin) == b"synced"
    assert twin.list("log") == ["a"]  # The bytes of b are durable, its name is not.
    assert content(disk) == b"SYNCed"  # The disk itself goes on.


def test_a_crash_may_keep_any_prefix_and_tear_the_next_write():
    disk, file = started()
    file.pwritev([b"12"], 0)
    file.pwritev([b"34"], 2)
    disk.rename("log/a", "log/b")
    assert disk.pending == 3
    assert content(disk.crash(1)) == b"12nced"
    assert content(disk.crash(1, 1)) == b"123ced"
    assert content(disk.crash(2)) == b"1234ed"
    assert content(disk.crash(3), "log/b") == b"1234ed"


def test_a_crash_without_order_keeps_whole_sectors_of_any_write():
    disk, file = started()
    file.pwritev([b"x" * 2048], 256)
    seen = set()
    for seed in range(600):
        data = content(disk.crash(random=Random(seed))).ljust(2304, b"\0")
        assert data.startswith(b"synced")
        sectors = [data[256:512]] + [data[at : at + 512] for at in range(512, 2304, 512)]
        assert all(set(sector) in ({0}, {120}) for sector in sectors)
        seen.add(tuple(sector[0] for sector in sectors))
    assert len(seen) == 2**5


def test_calls_are_counted_and_may_fail_or_be_cut_short():
    disk, file = started()
    assert disk.calls["pwritev"] == 1

    def interfere(call, name):
        if call == "fdatasync":
            raise OSError(errno.EIO, "broken", name)
        return 3

    disk.before = interfere
    assert file.pwritev([b"abcdef"], 0) == 3
    with pytest.raises(OSError, match="broken"):
        file.fdatasync()
    assert content(disk.crash()) == b"synced"


def test_a_sync_that_fails_forgets_bytes_and_goes_on_showing_them():
    """As the kernel does: the next sync succeeds without them."""
    disk = MemoryDisk()
    file = disk.open("a", create=True)
    file.pwritev([b"kept"], 0)
    file.fdatasync()
    disk.sync_directory(".")
    file.pwritev([b"lost"], 4)
    failing = {"fdatasync"}

    def refuse(call, name):
        if call in failing:
            failing.remove(call)
            raise OSError(errno.EIO, "no")

    disk.before = refuse
    with pytest.raises(OSError, match="no"):
        file.fdatasync()
    file.fdatasync()
    assert file.pread(8, 0) == b"keptlost"
    assert disk.crash().open("a").pread(8, 0) == b"kept"
    file.pwritev([b"lost"], 4)
    file.fdatasync()
    assert disk.crash().open("a").pread(8, 0) == b"keptlost"


def test_a_sync_covers_what_was_written_before_it_began():
    disk = MemoryDisk()
    file = disk.open("a", create=True)
    disk.sync_directory(".")
    file.pwritev([b"before"], 0)
    disk.before = lambda call, name: (
        file.pwritev([b"beside"], 6) and None if call == "fdatasync" else None
    )
    file.fdatasync()
    disk.before = None
    assert disk.crash().open("a").pread(20, 0) == b"before"
    assert disk.crash(10).open("a").pread(20, 0) == b"beforebeside"


def test_a_small_disk_is_full_in_the_end():
    disk = MemoryDisk()
    disk.capacity_bytes = 100
    first, second = disk.open("a", create=True), disk.open("b", create=True)
    first.preallocate(60)
    assert second.pwritev([b"x" * 80], 0) == 40  # As write(2): what fits.
    for call in (lambda: second.pwritev([b"x"], 40), lambda: first.preallocate(61)):
        with pytest.raises(OSError, match="No space") as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
    assert first.pwritev([b"y" * 60], 0) == 60, "inside what is reserved there is room"
    disk.unlink("b")
    first.preallocate(100)


def test_bits_rot_for_programs_and_on_the_platter():
    disk = MemoryDisk()
    file = disk.open("a", create=True)
    file.pwritev([b"abc"], 0)
    file.fdatasync()
    disk.sync_directory(".")
    disk.rot("a", 1, 0x20)
    assert file.pread(3, 0) == b"aBc"
    assert disk.crash().open("a").pread(3, 0) == b"aBc"
