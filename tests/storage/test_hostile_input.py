"""A data directory that somebody made up: refused with a reason, or served; never an exception that says nothing.

Method: hypothesis for the description, for whole segments, and for records whose checksums are right and whose words
make no sense: what a bug in another version, or an enemy who knows the format, could have written.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage import record
from storage.disk import MemoryDisk
from storage.errors import Corruption, Unusable
from storage.inspection import inspect
from storage.log import Log
from storage.namespace import ROOT
from storage.store import LocalStore
from storage.superblock import Superblock
from tests.simulation.index import SimulatedIndex
from tests.simulation.world import WallClock

IDENTITY = 7
SEGMENT_BYTES = 16_384
NUMBERS = st.one_of(
    st.integers(0, 5),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([2**48, 2**63, 2**64 - 1, -1]),
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        NUMBERS,
        st.binary(max_size=300),
        st.text(max_size=20),
        st.floats(),
    ),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


def opened(disk: MemoryDisk) -> LocalStore:
    return LocalStore.open_on(
        disk,
        SimulatedIndex(Random(1)),
        WallClock(),
        Random(1),
        boot_id="b",
        segment_bytes=SEGMENT_BYTES,
    )


def store_with(*metadata: bytes, payload: bytes = b"payload" * 20) -> MemoryDisk:
    """A data directory whose log holds a root, a file, and records of any bytes with right checksums."""
    disk = MemoryDisk()
    Log.create(disk, IDENTITY, segment_bytes=SEGMENT_BYTES).close()
    Superblock(1, f"{IDENTITY:016x}", SEGMENT_BYTES).write(disk)
    log = Log.open(disk, IDENTITY)
    log.append(1, 1000, record.encode(record.Create(0, b"", ROOT, 0o755, 0, 0)))
    log.append(1, 1001, record.encode(record.Create(ROOT, b"f", 2, 0o100644, 0, 0)))
    for number, words in enumerate(metadata):
        log.append(1, 1002 + number, words, [payload])
    log.close()
    return disk


def look_at_everything(store: LocalStore) -> None:
    """Whatever the records made: questions are answered, or refused as damage."""
    with contextlib.suppress(Corruption):
        for name, binding in store.children(ROOT):
            for number in range(1, min(store.head(ROOT, name), 50) + 1):
                store.version(ROOT, name, number)
            attributes = store.attributes(binding.inode)
            if attributes is not None:
                store.read(binding.inode, attributes, None, 0, 1000)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), ANYTHING.map(lambda x: msgspec.json.encode(_plain(x)))))
@example(b"[" * 50_000)
@example(b'{"format":1,"identity":"' + b"f" * 17 + b'","segment_bytes":4096}')
@example(b'{"format":1,"identity":"0x7","segment_bytes":-8}')
@example(b'{"format":1,"identity":"7","segment_bytes":18446744073709551616}')
def test_any_description(text: bytes) -> None:
    disk = store_with()
    file = disk.open("cascadefs.json")
    file.truncate(0)
    file.pwritev([text], 0)
    with contextlib.suppress(Unusable):
        opened(disk).close()
    found = inspect(disk, None, boot_id="b")
    assert found.records == 2


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=3000), st.integers(0, SEGMENT_BYTES - 1))
def test_any_bytes_in_a_segment(junk: bytes, offset: int) -> None:
    disk = store_with(record.encode(record.SetAttributes(2, mode=0o600)))
    disk.open("log/0000000000000000.seg").pwritev([junk[: SEGMENT_BYTES - offset]], offset)
    try:
        store = opened(disk)
    except Unusable:
        return
    look_at_everything(store)
    store.close()


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(ANYTHING, max_size=8)), min_size=1, max_size=4)
)
@example([(8, [2, 10, None, [(0, 10, 0, 2**40)], 0, 0])])
@example([(8, [2, 2**62, None, [(2**62 - 5, 5, 0, 0)], 0, 0])])
@example([(8, [2, 10, -5, [(-5, 10, 2**64 - 1, 0)], 0, 0])])
@example([(1, [2**70, b"x", 3, 0, 0, 0])])
@example([(1, [1, b"a/b", 1, 0o040755, 0, 0]), (4, [1, b"a/b", 1, b"a/b", 3])])
@example([(5, [2, 2**40, 2**40, -1, 2**80, -(2**80)])])
@example([(11, [[(11, [[]])]])])
def test_any_record_with_right_checksums(words: list[tuple[int, list[object]]]) -> None:
    metadata = []
    for tag, fields in words:
        with contextlib.suppress(OverflowError, msgspec.ValidationError):
            metadata.append(msgspec.msgpack.encode([tag, *fields]))
    disk = store_with(*metadata)
    try:
        store = opened(disk)
    except Corruption:
        inspect(disk, None, boot_id="b")
        return
    look_at_everything(store)
    store.close()


def test_a_record_that_makes_no_sense_is_named() -> None:
    disk = store_with(b"\xff\xff")
    with pytest.raises(Corruption, match="record 3 of the log cannot be read"):
        opened(disk)
    disk = store_with(msgspec.msgpack.encode([1, -5, b"x", 3, 0, 0, 0]))
    with pytest.raises(Corruption, match="record 3 of the log makes no sense"):
        opened(disk)
    found = inspect(disk, None, boot_id="b")
    assert "record 3" in found.damage[0].what


def test_a_directory_where_a_file_should_be(tmp_path: Path) -> None:
    for name in ("cascadefs.json", "log", "index"):
        data = tmp_path / f"with {name}"
        data.mkdir()
        if name == "cascadefs.json":
            (data / name).mkdir()
        else:
            (data / name).write_text("a file")
        with pytest.raises((OSError, Unusable)) as caught:
            LocalStore.open(data, WallClock(), Random(1), boot_id="b")
        assert len(str(caught.value)) > 10
