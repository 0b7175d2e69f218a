"""Every table keeps the contract of `Table`.

Method: one suite, run by each implementation; examples for each promise, then a property against a
dumb twin, a dict that is copied at each commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.limits import KEY_BYTES_MAX
from storage.table import LmdbTable, MemoryTable, Table

if TYPE_CHECKING:
    from pathlib import Path

END = b"\xff" * 4

MakeTable = Callable[[], Table]


@pytest.fixture(params=["memory", "lmdb"])
def make_table(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTable:
    if request.param == "memory":
        return MemoryTable
    numbers = itertools.count()
    return lambda: LmdbTable(tmp_path / f"table{next(numbers)}")


@pytest.fixture
def table(make_table: MakeTable) -> Table:
    return make_table()


def fill(table: Table, *keys: bytes) -> None:
    for key in keys:
        table.put(key, b"value of " + key)


def keys(table: Table, start: bytes = b"", stop: bytes = END) -> list[bytes]:
    return [key for key, _ in table.scan(start, stop)]


def test_what_was_put_is_got_before_and_after_commit(table: Table) -> None:
    table.put(b"a", b"1")
    assert table.get(b"a") == b"1"
    table.commit()
    assert table.get(b"a") == b"1"
    table.put(b"a", b"2")
    assert table.get(b"a") == b"2"
    assert table.get(b"b") is None


def test_noted_changes_are_undone_and_others_stay(table: Table) -> None:
    fill(table, b"a", b"b", b"gone")
    table.commit()
    table.put(b"b", b"unpublished")
    table.delete(b"gone")
    table.note()
    for value in (b"1", b"2"):
        table.put(b"a", value)
        table.put(b"new", value)
        table.delete(b"b")
        table.put(b"gone", value)
    table.undo()
    assert dict(table.scan(b"", END)) == {b"a": b"value of a", b"b": b"unpublished"}
    table.note()
    table.put(b"c", b"kept")
    table.keep()
    table.put(b"d", b"not noted")
    table.commit()
    assert keys(table) == [b"a", b"b", b"c", b"d"]
    table.note()
    table.abandon()
    fill(table, b"e")
    assert keys(table) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("end", ["keep", "undo"])
@pytest.mark.parametrize("asks", [False, True])
def test_noted_changes_are_seen_by_every_question(table: Table, asks: bool, end: str) -> None:
    fill(table, b"a", b"b", b"d")
    before = dict(table.scan(b"", END))
    table.note()
    table.put(b"a", b"1")
    table.put(b"c", b"1")
    table.delete(b"b")
    assert [table.get(key) for key in (b"a", b"b", b"c", b"d")] == [
        b"1", None, b"1", b"value of d",
    ]  # fmt: skip
    if asks:
        assert table.first(b"b", END) == (b"c", b"1")
        assert table.last(b"", b"d") == (b"c", b"1")
        assert keys(table) == [b"a", b"c", b"d"]
        assert table.row_count() == 3
    table.put(b"c", b"2")
    table.put(b"b", b"again")
    table.delete(b"d")
    after = {b"a": b"1", b"b": b"again", b"c": b"2"}
    if asks:
        assert dict(table.scan(b"", END)) == after
    getattr(table, end)()
    assert dict(table.scan(b"", END)) == (after if end == "keep" else before)
    table.commit()
    assert dict(table.scan(b"", END)) == (after if end == "keep" else before)


def test_an_empty_value_is_a_value(table: Table) -> None:
    table.put(b"a", b"")
    assert table.get(b"a") == b""
    assert table.first(b"", END) == (b"a", b"")


def test_values_of_many_pages(table: Table) -> None:
    value = bytes(range(256)) * 1024
    table.put(b"a", value)
    table.commit()
    assert table.get(b"a") == value


def test_the_longest_key(table: Table) -> None:
    key = b"k" * KEY_BYTES_MAX
    table.put(key, b"1")
    table.commit()
    assert table.get(key) == b"1"
    assert table.first(key, key + b"\0") == (key, b"1")
    assert table.first(key + b"\0", END) is None
    table.delete(key)
    assert table.get(key) is None


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_BYTES_MAX + 1)])
def test_keys_out_of_bounds_are_bugs(table: Table, key: bytes) -> None:
    with pytest.raises(AssertionError):
        table.put(key, b"")
    with pytest.raises(AssertionError):
        table.delete(key)


def test_deleting_what_is_absent_does_nothing(table: Table) -> None:
    table.delete(b"a")
    fill(table, b"b")
    table.delete(b"a")
    table.delete(b"c")
    assert keys(table) == [b"b"]
    table.delete(b"b")
    assert keys(table) == []


@pytest.mark.parametrize("committed", [False, True])
def test_ranges_are_half_open_and_compare_unsigned_bytes(table: Table, committed: bool) -> None:
    fill(table, b"\x7f", b"a\0", b"\x80", b"a", b"b", b"\0")
    if committed:
        table.commit()
    assert keys(table) == [b"\0", b"a", b"a\0", b"b", b"\x7f", b"\x80"]
    assert keys(table, b"a", b"b") == [b"a", b"a\0"]
    assert keys(table, b"a\0", b"\x7f") == [b"a\0", b"b"]
    assert table.first(b"a", b"b") == (b"a", b"value of a")
    assert table.first(b"a\0\0", b"b") is None
    assert table.last(b"a", b"b") == (b"a\0", b"value of a\0")
    assert table.last(b"", b"\0") is None
    assert table.last(b"", END) == (b"\x80", b"value of \x80")
    assert table.last(b"\x80\0", END) is None


def test_an_empty_or_inverted_range_holds_nothing(table: Table) -> None:
    for _ in range(2):
        for start, stop in ((b"a", b"a"), (b"c", b"a"), (b"", b""), (b"b", b"b")):
            assert table.first(start, stop) is None
            assert table.last(start, stop) is None
            assert keys(table, start, stop) == []
        fill(table, b"a", b"b", b"c")


def test_other_reads_do_not_disturb_a_scan(table: Table) -> None:
    fill(table, b"a", b"b", b"c", b"d")
    seen = []
    for key, _ in table.scan(b"", END):
        seen.append(key)
        assert table.first(b"", END) is not None
        assert table.last(b"", END) is not None
        assert table.get(b"a") is not None
        assert keys(table, b"c") == [b"c", b"d"]
    assert seen == [b"a", b"b", b"c", b"d"]


def test_rows_are_counted(table: Table) -> None:
    assert table.row_count() == 0
    fill(table, b"a", b"b", b"b")
    assert table.row_count() == 2
    table.commit()
    table.delete(b"a")
    assert table.row_count() == 1
    table.abandon()
    assert table.row_count() == 2


def test_a_row_outlives_later_writes(table: Table) -> None:
    fill(table, b"a")
    row = table.first(b"", END)
    rows = list(table.scan(b"", END))
    for number in range(1000):
        table.put(b"a%d" % number, bytes(100))
    table.delete(b"a")
    table.commit()
    assert row == (b"a", b"value of a")
    assert rows == [row]


def test_reads_between_writes_see_them(table: Table) -> None:
    for number in range(50):
        key = b"%03d" % number
        assert table.last(b"", END) == ((b"%03d" % (number - 1), b"v") if number else None)
        table.put(key, b"v")
        if number % 3 == 0:
            table.commit()
        assert table.first(key, END) == (key, b"v")


def test_abandon_forgets_to_the_last_commit(table: Table) -> None:
    fill(table, b"kept", b"changed", b"deleted", b"deleted and made")
    table.commit()
    before = list(table.scan(b"", END))
    table.put(b"changed", b"1")
    table.put(b"changed", b"2")
    table.delete(b"deleted")
    table.delete(b"deleted and made")
    table.put(b"deleted and made", b"3")
    table.put(b"made", b"4")
    table.put(b"made and deleted", b"5")
    table.delete(b"made and deleted")
    table.abandon()
    assert list(table.scan(b"", END)) == before
    table.abandon()
    table.commit()
    assert list(table.scan(b"", END)) == before


def test_commit_and_sync_without_changes(table: Table) -> None:
    table.commit()
    table.sync()
    fill(table, b"a")
    table.sync()
    table.abandon()
    assert keys(table) == [b"a"]


def test_close_twice(table: Table) -> None:
    fill(table, b"a")
    table.close()
    table.close()


KEYS = st.lists(st.sampled_from(b"\x00a\xff"), min_size=1, max_size=3).map(bytes)
BOUNDS = st.lists(st.sampled_from(b"\x00a\xff"), max_size=4).map(bytes)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=3)),
        st.tuples(st.just("put"), KEYS, st.just(bytes(5000))),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(st.just("read"), BOUNDS, BOUNDS),
        st.tuples(st.sampled_from(["commit", "abandon"]), st.just(b""), st.just(b"")),
    ),
    max_size=40,
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_a_table_is_a_sorted_dict(
    make_table: MakeTable, steps: list[tuple[str, bytes, bytes]]
) -> None:
    table = make_table()
    now: dict[bytes, bytes] = {}
    committed: dict[bytes, bytes] = {}
    for verb, one, other in steps:
        match verb:
            case "put":
                table.put(one, other)
                now[one] = other
            case "delete":
                table.delete(one)
                now.pop(one, None)
            case "commit":
                table.commit()
                committed = dict(now)
            case "abandon":
                table.abandon()
                now = dict(committed)
            case "read":
                within = [(key, now[key]) for key in sorted(now) if one <= key < other]
                assert list(table.scan(one, other)) == within
                assert table.first(one, other) == (within[0] if within else None)
                assert table.last(one, other) == (within[-1] if within else None)
        for key in (one,) if one else ():
            assert table.get(key) == now.get(key)
    assert list(table.scan(b"", END)) == sorted(now.items())
    table.close()
