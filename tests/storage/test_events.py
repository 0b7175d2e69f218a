"""Event times: the version a look-up gives is the one that a list of all versions gives (SEMANTICS 3).

Method: random histories of names (commits with and without an event time, renames, exchanges, links, removals), and
after each step every name asked at random event times, among all and among what was known at some timestamp; the answer
comes from a twin that looks at every version. What a look-up costs is counted in rows, not in seconds.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.attributes import REGULAR
from storage.errors import Reason
from storage.namespace import ROOT, Namespace
from storage.record import (
    SELF,
    Batch,
    Commit,
    Create,
    Drop,
    Event,
    Expect,
    Link,
    Rename,
    Unlink,
)
from storage.table import MemoryTable

NAMES = (b"f", b"g", b"h")
MAX = 2**64 - 1


class World:
    """A namespace, a clock, and what was said of every content."""

    def __init__(self, *, keep_past: bool = True) -> None:
        self.table = MemoryTable()
        self.space = Namespace(self.table, keep_past=keep_past)
        self.t = 10
        self.said: dict[tuple[int, int], int] = {}
        self.do(Create(0, b"", ROOT, 0o755, 0, 0))

    def do(self, record) -> Reason | None:
        self.t += 10
        return self.space.apply(self.t, 8 * self.t, record).reason

    def commit(self, name: bytes, event_us: int | None = None) -> None:
        binding = self.space.binding(ROOT, name)
        if binding is None:
            inode = self.space.counters.next_inode
            assert self.do(Create(ROOT, name, inode, REGULAR | 0o644, 0, 0)) is None
        else:
            inode = binding.inode
        commit = Commit(inode, 1, 0, [(0, 1, SELF, 0)], 0, 0)
        if event_us is None:
            assert self.do(commit) is None
            return
        assert self.do(Batch([commit, Event(inode, event_us)])) is None
        attributes = self.space.attributes(inode)
        self.said[inode, attributes.content] = event_us

    def versions(self, name: bytes) -> list[tuple[int, int, int]]:
        """(event time, number, timestamp) of every version, tombstones at their own time."""
        found = []
        for number in range(1, self.space.head(ROOT, name) + 1):
            version = self.space.version(ROOT, name, number)
            if version is None:
                continue
            said = None
            if version.binding is not None:
                content = version.binding.base + number - version.binding.first
                said = self.said.get((version.binding.inode, content))
            assert self.space.events.event_of(ROOT, name, number) == said
            event_us = version.timestamp if said is None else said
            found.append((event_us, number, version.timestamp))
        return found

    def check(self, name: bytes, event_us: int, known: int | None) -> None:
        candidates = [
            (event, number)
            for event, number, timestamp in self.versions(name)
            if event <= event_us and (known is None or timestamp <= known)
        ]
        expected = max(candidates)[1] if candidates else None
        assert self.space.events.version_by_event(ROOT, name, event_us, known) == expected


names = st.sampled_from(NAMES)
times = st.integers(-3, 40).map(lambda n: n * 7) | st.sampled_from(
    [-(2**62), 2**62, 2**40, 2**40 + 1, 2**40 + 256, 2**40 + 70_000]
)
steps = st.one_of(
    st.tuples(st.just("commit"), names, st.none() | times),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("exchange"), names, names),
    st.tuples(st.just("link"), names, names),
    st.tuples(st.just("unlink"), names, st.none()),
)


@given(st.lists(steps, max_size=25), st.lists(st.tuples(times, st.none() | times), min_size=1))
def test_a_look_up_gives_what_a_list_of_all_versions_gives(history, questions) -> None:
    world = World()
    for verb, name, other in history:
        binding = world.space.binding(ROOT, name)
        if verb == "commit":
            world.commit(name, other)
        elif binding is None:
            continue
        elif verb == "rename":
            world.do(Rename(ROOT, name, ROOT, other))
        elif verb == "exchange":
            world.do(Rename(ROOT, name, ROOT, other, 2))
        elif verb == "link":
            world.do(Link(ROOT, other, binding.inode))
        else:
            assert world.do(Unlink(ROOT, name)) is None
    for event_us, known in questions:
        for name in NAMES:
            world.check(name, event_us, known)
    for name in NAMES:  # At, and just before, every event time and timestamp there is.
        found = world.versions(name)
        for moment in sorted({moment for event, _, stamp in found for moment in (event, stamp)}):
            world.check(name, moment, None)
            world.check(name, moment - 1, None)
            for _, _, stamp in found[::3]:
                world.check(name, moment, stamp)


class Counted(MemoryTable):
    """Counts the rows it hands out."""

    rows = 0

    def get(self, key):
        self.rows += 1
        return super().get(key)

    def first(self, start, stop):
        self.rows += 1
        return super().first(start, stop)

    def scan(self, start, stop):
        for row in super().scan(start, stop):
            self.rows += 1
            yield row


@pytest.mark.parametrize("count", [100, 3000])
def test_a_look_up_costs_the_same_however_long_the_history_is(count: int) -> None:
    world = World()
    world.table = Counted()
    world.space = Namespace(world.table)
    world.do(Create(0, b"", ROOT, 0o755, 0, 0))
    rng = random.Random(1)
    base = 1_795_255_200_000_000
    for n in range(count):
        world.commit(b"f", base + n * 60_000_000 + rng.randrange(5))
        world.commit(b"f", base - rng.randrange(10**12))
    costs = []
    middle = world.space.version(ROOT, b"f", count).timestamp
    for event_us, known in (
        (base + count * 10**8, None),
        (base - 5 * 10**11, None),
        (base + count * 10**8, middle),  # Half of what happened before was committed after.
        (base - 5 * 10**11, middle),
    ):
        world.table.rows = 0
        assert world.space.events.version_by_event(ROOT, b"f", event_us, known) is not None
        costs.append(world.table.rows)
    assert max(costs[:2]) < 30
    assert max(costs[2:]) < 30 + 8 * 256


def test_files_without_an_event_time_have_no_rows_of_it() -> None:
    world = World()
    for _ in range(3):
        world.commit(b"f")
    world.do(Rename(ROOT, b"f", ROOT, b"g"))
    assert not world.space.events.any
    assert [row for row in world.table.scan(b"\0", b"\xff" * 9) if row[0][:1] in b"GW"] == []
    world.commit(b"g", 5)
    assert world.space.events.any
    assert Namespace(world.table).events.any, "found again when the table is opened"


def test_without_a_past_nothing_is_noted() -> None:
    world = World(keep_past=False)
    world.commit(b"f", 5)
    assert [row for row in world.table.scan(b"\0", b"\xff" * 9) if row[0][:1] in b"GW"] == []


def test_what_cannot_have_an_event_time_is_refused() -> None:
    world = World()
    assert world.do(Create(ROOT, b"f", 2, REGULAR | 0o644, 0, 0)) is None
    assert world.do(Batch([Event(99, 5)])) is Reason.ABSENT
    assert world.do(Batch([Event(2, 5)])) is Reason.MALFORMED
    world.commit(b"f")
    assert world.do(Batch([Event(2, 2**63)])) is Reason.MALFORMED


def test_a_dropped_name_leaves_no_trace() -> None:
    world = World()
    world.commit(b"f", 5)
    inode = world.space.binding(ROOT, b"f").inode
    assert world.do(Unlink(ROOT, b"f")) is None
    assert world.do(Drop(ROOT, b"f", [inode])) is None
    assert [row for row in world.table.scan(b"\0", b"\xff" * 9) if row[0][:1] in b"GW"] == []


# --- conditions -----------------------------------------------------------------------------------------------------


def write(world: World, expect: Expect, inode: int) -> Reason | None:
    return world.do(Batch([expect, Commit(inode, 1, 0, [(0, 1, SELF, 0)], 0, 0)]))


def test_a_condition_that_does_not_hold_refuses_the_whole_batch() -> None:
    world = World()
    world.commit(b"f")
    assert write(world, Expect(ROOT, b"f", 1, 2), 2) is None
    before = list(world.table.scan(b"\0", b"\xff" * 9))
    for stale in (
        Expect(ROOT, b"f", 1, 2),
        Expect(ROOT, b"f", 3, 2),
        Expect(ROOT, b"f", 2, 3),
        Expect(ROOT, b"f", 0, 0),
        Expect(ROOT, b"g", 1, 2),
    ):
        assert write(world, stale, 2) is Reason.CONDITION_FAILED
    assert list(world.table.scan(b"\0", b"\xff" * 9)) == before
    assert write(world, Expect(ROOT, b"f", 2, 2), 2) is None


def test_a_name_may_be_expected_not_to_exist() -> None:
    world = World()
    create = [Create(ROOT, b"f", 2, REGULAR | 0o644, 0, 0), Commit(2, 0, None, [], 0, 0)]
    assert world.do(Batch([Expect(ROOT, b"f", 1, 0), *create])) is Reason.CONDITION_FAILED
    assert world.do(Batch([Expect(ROOT, b"f", 0, 0), *create])) is None
    assert world.do(Batch([Expect(ROOT, b"f", 0, 0), *create])) is Reason.CONDITION_FAILED
    assert world.do(Unlink(ROOT, b"f")) is None
    again = [Create(ROOT, b"f", 3, REGULAR | 0o644, 0, 0), Commit(3, 0, None, [], 0, 0)]
    assert world.do(Batch([Expect(ROOT, b"f", 1, 0), *again])) is Reason.CONDITION_FAILED
    assert world.do(Batch([Expect(ROOT, b"f", 2, 0), *again])) is None
    assert world.space.head(ROOT, b"f") == 3


def test_a_file_that_was_never_closed_is_another_one_though_the_head_is_the_same() -> None:
    world = World()
    world.commit(b"f")
    world.do(Create(ROOT, b"new", 3, REGULAR | 0o644, 0, 0))
    world.do(Rename(ROOT, b"new", ROOT, b"f"))
    assert world.space.head(ROOT, b"f") == 1
    assert write(world, Expect(ROOT, b"f", 1, 2), 2) is Reason.CONDITION_FAILED
    assert write(world, Expect(ROOT, b"f", 1, 3), 3) is None
