"""What tests of the log share: a small log, disks made of bytes, and one way to look at all a log holds."""

from types import SimpleNamespace

import pytest

from storage.disk import MemoryDisk
from storage.errors import Corruption
from storage.log import Log

IDENTITY = 0x1234_5678_9ABC_DEF0
SEGMENT_BYTES = 1536


def disk_of(files):
    disk = MemoryDisk()
    for directory in ("log", "quarantine"):
        disk.make_directory(directory)
    for name, data in files.items():
        file = disk.open(name, create=True)
        file.pwritev([data], 0)
        file.fdatasync()
    for directory in ("log", "quarantine"):
        disk.sync_directory(directory)
    return disk


def files_of(disk, directory="log"):
    names = [f"{directory}/{name}" for name in disk.list(directory)]
    return {name: disk.open(name).pread(10**7, 0) for name in names}


def records_of(log):
    """All a log holds, as (index, kind, timestamp, metadata, payload); payload None if it cannot be read."""
    found = []
    for frame in log.frames(index=log.recovery.end_index + 1 if not log.last_index else 1):
        try:
            payload = bytes(log.read(frame.address, 0, frame.payload_length))
        except Corruption:
            payload = None
        found.append((frame.index, frame.kind, frame.timestamp, frame.metadata, payload))
    return found


def record(index):
    """A record for an index: empty payloads, empty metadata, payload of several buffers, all sizes modulo 8."""
    payload = [b"", b"p" * (index * 13 % 90), bytes(range(index * 7 % 60))][index % 3]
    return index, index % 256, 1000 + index, b"m" * (index * 5 % 23), payload


def append(log, index):
    _, kind, timestamp, metadata, payload = record(index)
    assert log.last_index + 1 == index
    half = len(payload) // 2
    return log.append(
        kind, timestamp, metadata, [payload[:half], payload[half:]] if payload else ()
    )


@pytest.fixture
def small():
    """A closed log of fourteen records in three segments: its files, its records, and where each frame is."""
    disk = MemoryDisk()
    log = Log.create(disk, IDENTITY, segment_bytes=SEGMENT_BYTES)
    for index in range(1, 15):
        append(log, index)
    frames = list(log.frames())
    log.close()
    files = files_of(disk)
    assert len(files) == 3
    return SimpleNamespace(files=files, records=[record(i) for i in range(1, 15)], frames=frames)


@pytest.fixture
def tools(tools_of):
    return tools_of


@pytest.fixture(scope="session")
def tools_of():
    """`tools`, for tests that take many examples."""
    return SimpleNamespace(
        IDENTITY=IDENTITY,
        SEGMENT_BYTES=SEGMENT_BYTES,
        disk_of=disk_of,
        files_of=files_of,
        records_of=records_of,
        record=record,
        append=append,
    )
