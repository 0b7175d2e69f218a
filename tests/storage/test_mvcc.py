"""A `VersionedMap` remembers what a list of snapshots would, and finds it without walking history.

Method: random changes on a map and on a dumb twin (a copy of a dict per timestamp), compared at
every timestamp by every reading, on both tables; then a table that counts the rows it hands out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.mvcc import TIMESTAMP_MAX, Row, VersionedMap
from storage.table import LmdbTable, MemoryTable, Table

if TYPE_CHECKING:
    from pathlib import Path

LIVE, PAST = b"L", b"P"

MakeTable = Callable[[], Table]


@pytest.fixture(params=["memory", "lmdb"])
def make_table(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTable:
    if request.param == "memory":
        return MemoryTable
    numbers = itertools.count()
    return lambda: LmdbTable(tmp_path / f"table{next(numbers)}")


def make_map(keep_past: bool = True) -> VersionedMap:
    return VersionedMap(MemoryTable(), LIVE, PAST, keep_past)


# Examples.


def test_a_life() -> None:
    rows = make_map()
    assert not rows.known(b"k\0")
    assert rows.tombstone(b"k\0") is None
    rows.put(b"k\0", 10, b"one")
    rows.put(b"k\0", 20, b"two")
    rows.delete(b"k\0", 30, b"gone")
    assert rows.get(b"k\0") is None
    assert rows.get_row(b"k\0") is None
    assert rows.tombstone(b"k\0") == (30, b"gone")
    rows.put(b"k\0", 40, b"again")
    assert rows.tombstone(b"k\0") is None
    assert rows.get(b"k\0") == b"again"
    assert rows.get_row(b"k\0") == (40, b"again")
    assert [rows.at(b"k\0", timestamp) for timestamp in (9, 10, 19, 20, 29, 30, 39, 40)] == [
        None,
        (10, b"one"),
        (10, b"one"),
        (20, b"two"),
        (20, b"two"),
        None,
        None,
        (40, b"again"),
    ]
    assert rows.at_row(b"k\0", 9) is None
    assert rows.at_row(b"k\0", 35) == Row(30, None, b"gone")
    assert rows.at(b"k\0", TIMESTAMP_MAX) == (40, b"again")
    assert list(rows.history(b"k\0")) == [
        Row(40, b"again", None),
        Row(30, None, b"gone"),
        Row(20, b"two", None),
        Row(10, b"one", None),
    ]
    assert [row.timestamp for row in rows.history(b"k\0", before=30)] == [20, 10]
    assert list(rows.history(b"k\0", before=0)) == []


def test_one_timestamp_leaves_one_row() -> None:
    rows = make_map()
    rows.put(b"k\0", 1, b"first")
    rows.put(b"k\0", 2, b"a")
    rows.put(b"k\0", 2, b"b")
    rows.delete(b"k\0", 2, b"gone")
    assert list(rows.history(b"k\0")) == [Row(2, None, b"gone"), Row(1, b"first", None)]
    rows.put(b"k\0", 2, b"c")
    assert list(rows.history(b"k\0")) == [Row(2, b"c", None), Row(1, b"first", None)]
    assert rows.at(b"k\0", 2) == (2, b"c")


def test_replace_is_put_without_the_get() -> None:
    one, other = make_map(), make_map()
    for timestamp in (1, 2, 2, 3):
        one.put(b"k\0", timestamp, b"v%d" % timestamp)
        other.replace(b"k\0", timestamp, b"v%d" % timestamp, other.get_row(b"k\0"))
    assert list(one.history(b"k\0")) == list(other.history(b"k\0"))


def test_the_ends_of_time() -> None:
    rows = make_map()
    rows.put(b"k\0", 0, b"zero")
    rows.put(b"k\0", TIMESTAMP_MAX, b"last")
    assert rows.at(b"k\0", 0) == (0, b"zero")
    assert rows.at(b"k\0", TIMESTAMP_MAX - 1) == (0, b"zero")
    assert rows.at(b"k\0", TIMESTAMP_MAX) == (TIMESTAMP_MAX, b"last")
    assert rows.prune(b"k\0", 0) == 0
    assert rows.prune(b"k\0", TIMESTAMP_MAX) == 1


def test_a_key_and_prefix_of_all_ones() -> None:
    rows = make_map()
    for key in (b"\xfe\xff", b"\xff\x00", b"\xff\xfe", b"\xff\xff"):
        rows.put(key, 1, b"old")
        rows.put(key, 2, b"new")
    for scan in (rows.scan, lambda *given: rows.scan_at(given[0], 1, *given[1:])):
        assert [row[0] for row in scan(b"\xff")] == [b"\xff\x00", b"\xff\xfe", b"\xff\xff"]
        assert [row[0] for row in scan(b"\xff", b"\xff\xfe")] == [b"\xff\xff"]
        assert [row[0] for row in scan(b"\xff\xff")] == [b"\xff\xff"]
        assert list(scan(b"\xff", b"\xff\xff")) == []


def test_two_maps_in_one_table_do_not_meet() -> None:
    table = MemoryTable()
    one, other = VersionedMap(table, b"A", b"B"), VersionedMap(table, b"C", b"\xfe")
    for timestamp in (1, 2):
        one.put(b"k\0", timestamp, b"one")
        other.put(b"k\0", timestamp, b"other")
    one.delete(b"k\0", 3)
    assert list(one.scan(b"")) == []
    assert list(one.scan_dead(b"")) == [(b"k\0", 3, b"")]
    assert list(other.scan(b"")) == [(b"k\0", 2, b"other")]
    assert list(other.scan_dead(b"")) == []


def test_what_only_a_bug_can_ask_for() -> None:
    rows = make_map()
    with pytest.raises(AssertionError):
        rows.delete(b"k\0", 1)
    rows.put(b"k\0", 5, b"v")
    with pytest.raises(AssertionError):
        rows.put(b"k\0", 4, b"v")
    with pytest.raises(AssertionError):
        rows.delete(b"k\0", 4)
    rows.delete(b"k\0", 5)
    with pytest.raises(AssertionError):
        rows.put(b"k\0", 4, b"v")
    with pytest.raises(AssertionError):
        rows.put(b"k\0", TIMESTAMP_MAX + 1, b"v")
    for live, past in ((b"A", b"A"), (b"", b"B"), (b"A", b"BB"), (b"\xff", b"A"), (b"A", b"\xff")):
        with pytest.raises(AssertionError):
            VersionedMap(MemoryTable(), live, past)


def test_a_map_without_a_past() -> None:
    rows = make_map(keep_past=False)
    rows.put(b"k\0", 1, b"one")
    rows.put(b"k\0", 2, b"two")
    assert list(rows.history(b"k\0")) == [Row(2, b"two", None)]
    assert rows.at(b"k\0", 1) is None
    assert rows.at(b"k\0", 2) == (2, b"two")
    for timestamp in (3, 5, 5, 7):
        rows.delete(b"k\0", timestamp, b"gone %d" % timestamp)
        assert list(rows.history(b"k\0")) == [Row(timestamp, None, b"gone %d" % timestamp)]
        assert rows.tombstone(b"k\0") == (timestamp, b"gone %d" % timestamp)
        assert list(rows.scan_dead(b"")) == [(b"k\0", timestamp, b"gone %d" % timestamp)]
        assert rows.at(b"k\0", 9) is None
        assert rows.known(b"k\0")
        rows.put(b"k\0", timestamp, b"again")
    assert list(rows.scan_at(b"", 6)) == []
    assert list(rows.scan_at(b"", 7)) == [(b"k\0", 7, b"again")]
    assert list(rows.scan_dead(b"")) == []


# The twin.

KEYS = [b"a\0", b"aa\0", b"ab\0", b"b\0", b"\xff\0"]
PREFIXES = [b"", b"a", b"ab", b"b", b"c", b"\xff"]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "replace", "delete", "prune"]),
        st.sampled_from(KEYS),
        st.sampled_from([0, 0, 1, 2]),
        st.binary(max_size=2),
    ),
    max_size=30,
)


class Twin:
    """For each key and each timestamp that changed it, the row then; the last change wins."""

    def __init__(self) -> None:
        self.rows: dict[bytes, dict[int, Row]] = {key: {} for key in KEYS}

    def change(self, key: bytes, row: Row) -> None:
        self.rows[key][row.timestamp] = row

    def history(self, key: bytes) -> list[Row]:
        return [self.rows[key][timestamp] for timestamp in sorted(self.rows[key], reverse=True)]

    def at_row(self, key: bytes, timestamp: int) -> Row | None:
        return next((row for row in self.history(key) if row.timestamp <= timestamp), None)

    def scan_at(self, timestamp: int) -> Iterator[tuple[bytes, int, bytes]]:
        for key in sorted(KEYS):
            row = self.at_row(key, timestamp)
            if row is not None and row.value is not None:
                yield key, row.timestamp, row.value

    def scan_dead(self) -> Iterator[tuple[bytes, int, bytes]]:
        for key in sorted(KEYS):
            row = self.at_row(key, TIMESTAMP_MAX)
            if row is not None and row.tombstone is not None:
                yield key, row.timestamp, row.tombstone

    def prune(self, key: bytes, timestamp: int) -> int:
        holding = self.at_row(key, timestamp)
        old = [at for at in self.rows[key] if holding is not None and at < holding.timestamp]
        for at in old:
            del self.rows[key][at]
        return len(old)


def check_same(rows: VersionedMap, twin: Twin, now: int) -> None:
    """Every reading, at every timestamp, with every prefix, resumed after every key."""
    times = [*range(now + 2), TIMESTAMP_MAX]
    for key in KEYS:
        history = twin.history(key)
        newest = history[0] if history else None
        assert list(rows.history(key)) == history
        assert rows.known(key) == (newest is not None)
        live = newest is not None and newest.value is not None
        assert (rows.get_row(key) is not None) == live
        assert (rows.tombstone(key) is not None) == (newest is not None and not live)
        for time in times:
            row = twin.at_row(key, time)
            assert rows.at_row(key, time) == row
            value = None if row is None or row.value is None else (row.timestamp, row.value)
            assert rows.at(key, time) == value
            before = [row for row in history if row.timestamp < time]
            assert list(rows.history(key, before=time)) == before
    for prefix, after in itertools.product(PREFIXES, [b"", *KEYS]):

        def within(
            every: Iterator[tuple[bytes, int, bytes]], prefix: bytes = prefix, after: bytes = after
        ) -> list[tuple[bytes, int, bytes]]:
            return [row for row in every if row[0].startswith(prefix) and row[0] > after]

        assert list(rows.scan(prefix, after)) == within(twin.scan_at(TIMESTAMP_MAX))
        assert list(rows.scan_dead(prefix, after)) == within(twin.scan_dead())
        for time in times:
            assert list(rows.scan_at(prefix, time, after)) == within(twin.scan_at(time))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_a_map_remembers_what_snapshots_would(
    make_table: MakeTable, steps: list[tuple[str, bytes, int, bytes]]
) -> None:
    table = make_table()
    rows, twin, now = VersionedMap(table, LIVE, PAST), Twin(), 0
    for verb, key, passed, value in steps:
        now += passed
        match verb:
            case "prune":
                time = max(0, now - len(value))
                assert rows.prune(key, time) == twin.prune(key, time)
            case "delete":
                if rows.get(key) is None:
                    continue
                rows.delete(key, now, value)
                twin.change(key, Row(now, None, value))
            case "replace":
                rows.replace(key, now, value, rows.get_row(key))
                twin.change(key, Row(now, value, None))
            case _:
                rows.put(key, now, value)
                twin.change(key, Row(now, value, None))
    check_same(rows, twin, now)
    table.commit()
    check_same(rows, twin, now)
    table.close()


# What it costs.


class CountingTable(MemoryTable):
    """Counts the rows asked for, one by one or in scans."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = 0

    def get(self, key: bytes) -> bytes | None:
        self.touched += 1
        return super().get(key)

    def first(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        self.touched += 1
        return next(super().scan(start, stop), None)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, stop):
            self.touched += 1
            yield row


KEYS_COUNTED = 10


def costs(changes: int) -> dict[str, int]:
    """Rows touched by each reading of a map whose every key has changed so often, one then died."""
    table = CountingTable()
    rows = VersionedMap(table, LIVE, PAST)
    keys = [b"%02d" % number for number in range(KEYS_COUNTED)]
    for timestamp in range(changes):
        for key in keys:
            rows.put(key, timestamp, b"v")
    rows.delete(keys[5], changes)
    half = changes // 2
    readings: dict[str, Callable[[], object]] = {
        "get": lambda: rows.get(keys[0]),
        "at the oldest": lambda: rows.at(keys[0], 0),
        "at half": lambda: rows.at(keys[0], half),
        "known": lambda: rows.known(keys[5]),
        "tombstone": lambda: rows.tombstone(keys[5]),
        "scan": lambda: list(rows.scan(b"")),
        "scan_at the oldest": lambda: list(rows.scan_at(b"", 0)),
        "scan_at half": lambda: list(rows.scan_at(b"", half)),
        "scan_at now": lambda: list(rows.scan_at(b"", changes)),
        "scan_dead": lambda: list(rows.scan_dead(b"")),
        "put": lambda: rows.put(keys[0], changes + 1, b"v"),
    }
    counts = {}
    for name, reading in readings.items():
        table.touched = 0
        reading()
        counts[name] = table.touched
    return counts


def test_no_reading_costs_more_for_a_longer_history() -> None:
    assert costs(changes=10) == costs(changes=1000)


def test_what_each_reading_touches() -> None:
    counts = costs(changes=100)
    assert counts["get"] == 1
    assert counts["put"] == 1
    assert counts["at half"] == 2
    assert counts["scan"] == KEYS_COUNTED - 1
    # Live rows, then a seek to each key with a past and the end of them, and one into each past.
    assert counts["scan_at half"] <= 3 * KEYS_COUNTED + 1
    assert counts["scan_at now"] <= 2 * KEYS_COUNTED + 1
