"""The rules of numbering, refusal and counting, by hand (SEMANTICS 1 and 5).

Method: one record after another, a microsecond apart, and every number looked at; a table of every refusal, each on a
namespace where it must leave no trace. Random histories are in `test_namespace_twin`.
"""

from __future__ import annotations

import pytest

from storage import limits
from storage.attributes import DIRECTORY, REGULAR, SYMLINK
from storage.binding import CREATED, LINKED, MOVED, REMOVED
from storage.errors import Reason
from storage.namespace import ROOT, Namespace
from storage.record import (
    SELF,
    Batch,
    Commit,
    Create,
    CreateUnnamed,
    Drop,
    Label,
    Link,
    Record,
    Rename,
    SetAttributes,
    SetXattr,
    Unlabel,
    Unlink,
    Write,
)
from storage.table import MemoryTable

NOREPLACE, EXCHANGE = 1, 2


class World:
    """A namespace, and a clock that ticks with every record."""

    def __init__(self, *, keep_past: bool = True) -> None:
        self.table = MemoryTable()
        self.space = Namespace(self.table, keep_past=keep_past)
        self.t = 0
        self.do(Create(0, b"", ROOT, 0o755, 0, 0))

    def do(self, record: Record) -> int:
        """Apply, expecting success; the timestamp."""
        self.t += 1
        assert self.space.apply(self.t, 8 * self.t, record).reason is None
        return self.t

    def make(self, name: bytes, kind: int = REGULAR, parent: int = ROOT) -> int:
        inode = self.space.counters.next_inode
        self.do(Create(parent, name, inode, kind | 0o644, 0, 0))
        return inode

    def write(self, inode: int, size: int = 10) -> int:
        return self.do(Commit(inode, size, 0, [(0, size, SELF, 0)] if size else [], 0, 0))

    def rows(self) -> list[tuple[bytes, bytes]]:
        return list(self.table.scan(b"\0", b"\xff" * 9))

    def story(self, name: bytes, parent: int = ROOT) -> list[tuple[int, int, int]]:
        """(timestamp, inode, content) of each version; (timestamp, 0, cause) of a tombstone."""
        found = []
        for number in range(1, self.space.head(parent, name) + 1):
            version = self.space.version(parent, name, number)
            if version is None:
                continue
            assert version.number == number
            if version.tombstone is not None:
                found.append((version.timestamp, 0, version.tombstone.cause))
            else:
                of = version.binding
                found.append((version.timestamp, of.inode, of.base + number - of.first))
        return found


@pytest.fixture
def world() -> World:
    return World()


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_every_commit_is_a_version_and_making_a_file_is_none(world) -> None:
    f = world.make(b"f")
    assert world.space.head(ROOT, b"f") == 0
    assert world.space.version(ROOT, b"f", 1) is None
    assert world.space.known(ROOT, b"f")
    one, two = world.write(f), world.write(f)
    assert world.story(b"f") == [(one, f, 1), (two, f, 2)]
    assert world.space.binding(ROOT, b"f").cause == CREATED


@pytest.mark.parametrize("kind", [DIRECTORY, SYMLINK, 0o010000, 0o140000])
def test_what_has_no_content_is_version_one_when_made(world, kind) -> None:
    n = world.make(b"n", kind)
    assert world.story(b"n") == [(world.t, n, 1)]


def test_removing_takes_a_number_and_making_again_counts_on(world) -> None:
    f = world.make(b"f")
    one = world.write(f)
    end = world.do(Unlink(ROOT, b"f"))
    g = world.make(b"f")
    assert world.space.head(ROOT, b"f") == 2
    three = world.write(g)
    assert world.story(b"f") == [(one, f, 1), (end, 0, REMOVED), (three, g, 1)]


def test_a_file_never_committed_leaves_only_its_tombstone(world) -> None:
    world.make(b"f")
    end = world.do(Unlink(ROOT, b"f"))
    assert world.story(b"f") == [(end, 0, REMOVED)]


def test_saving_by_rename_appends_to_the_name(world) -> None:
    old = world.make(b"f")
    one = world.write(old)
    new = world.make(b"f.tmp")
    written = world.write(new)
    over = world.do(Rename(ROOT, b"f.tmp", ROOT, b"f"))
    assert world.story(b"f") == [(one, old, 1), (over, new, 1)]
    assert world.story(b"f.tmp") == [(written, new, 1), (over, 0, MOVED)]
    binding = world.space.binding(ROOT, b"f")
    assert (binding.cause, binding.origin_directory, binding.origin_name) == (
        MOVED,
        ROOT,
        b"f.tmp",
    )
    dead = world.space.version(ROOT, b"f.tmp", 2).tombstone
    assert (dead.moved_directory, dead.moved_name) == (ROOT, b"f")
    assert world.space.attributes(old).nlink == 0
    three = world.write(new)
    assert world.story(b"f")[2] == (three, new, 2)


def test_a_rename_of_what_was_never_committed_makes_a_version_when_it_is(world) -> None:
    f = world.make(b"f")
    end = world.do(Rename(ROOT, b"f", ROOT, b"g"))
    assert world.story(b"f") == [(end, 0, MOVED)]
    assert world.story(b"g") == []
    one = world.write(f)
    assert world.story(b"g") == [(one, f, 1)]


def test_an_uncommitted_file_over_a_name_leaves_its_head_where_it_was(world) -> None:
    f = world.make(b"f")
    one = world.write(f)
    world.make(b"g")
    world.do(Rename(ROOT, b"g", ROOT, b"f"))
    assert world.space.head(ROOT, b"f") == 1
    assert world.story(b"f") == [(one, f, 1)]


def test_a_commit_is_a_version_of_each_name_bound_then(world) -> None:
    f = world.make(b"a")
    one = world.write(f)
    linked = world.do(Link(ROOT, b"b", f))
    two = world.write(f)
    end = world.do(Unlink(ROOT, b"a"))
    three = world.write(f)
    assert world.story(b"a") == [(one, f, 1), (two, f, 2), (end, 0, REMOVED)]
    assert world.story(b"b") == [(linked, f, 1), (two, f, 2), (three, f, 3)]
    assert world.space.binding(ROOT, b"b").cause == LINKED
    assert world.space.attributes(f).nlink == 1


def test_two_names_of_one_file_renamed_onto_each_other_stay_as_they_are(world) -> None:
    f = world.make(b"a")
    world.do(Link(ROOT, b"b", f))
    before = world.rows()
    for flags in (0, EXCHANGE):
        world.do(Rename(ROOT, b"a", ROOT, b"b", flags))
        world.do(Rename(ROOT, b"a", ROOT, b"a", flags))
    assert world.rows() == before


def test_exchange_takes_a_number_of_each_name(world) -> None:
    f, g = world.make(b"f"), world.make(b"g")
    one, two = world.write(f), world.write(g)
    t = world.do(Rename(ROOT, b"f", ROOT, b"g", EXCHANGE))
    assert world.story(b"f") == [(one, f, 1), (t, g, 1)]
    assert world.story(b"g") == [(two, g, 1), (t, f, 1)]
    assert world.space.binding_at(ROOT, b"f", t - 1).inode == f


def test_a_directory_moved_keeps_the_histories_inside(world) -> None:
    d = world.make(b"d", DIRECTORY)
    f = world.make(b"f", parent=d)
    one = world.write(f)
    world.do(Rename(ROOT, b"d", ROOT, b"e"))
    assert world.space.binding(ROOT, b"e").inode == d
    assert world.story(b"f", parent=d) == [(one, f, 1)]


def test_a_past_binding_ends_where_the_next_begins(world) -> None:
    """Content that an inode got after a name had left it is not a version of that name."""
    f = world.make(b"a")
    world.write(f)
    world.do(Link(ROOT, b"keep", f))
    world.do(Unlink(ROOT, b"a"))
    world.write(f)
    world.write(f)
    g = world.make(b"a")
    three = world.write(g)
    assert [v[1] for v in world.story(b"a")] == [f, 0, g]
    assert world.story(b"a")[2] == (three, g, 1)
    assert world.space.version(ROOT, b"a", 4) is None


# --- directories ------------------------------------------------------------------------------------------------------


def nlinks(world: World, *inodes: int) -> list[int]:
    return [world.space.attributes(inode).nlink for inode in inodes]


def test_link_counts_of_directories(world) -> None:
    d, e = world.make(b"d", DIRECTORY), world.make(b"e", DIRECTORY)
    assert nlinks(world, ROOT, d, e) == [4, 2, 2]
    x = world.make(b"x", DIRECTORY, d)
    y = world.make(b"y", DIRECTORY, e)
    assert nlinks(world, ROOT, d, e) == [4, 3, 3]
    world.do(Rename(d, b"x", e, b"y"))  # onto an empty one
    assert nlinks(world, ROOT, d, e, x, y) == [4, 2, 3, 2, 0]
    f = world.make(b"f", parent=d)
    world.do(Rename(e, b"y", d, b"f", EXCHANGE))  # with a file
    assert nlinks(world, ROOT, d, e, x, f) == [4, 3, 2, 2, 1]
    assert world.space.attributes(x).parent == d
    world.do(Rename(ROOT, b"d", ROOT, b"e", EXCHANGE))
    assert nlinks(world, ROOT, d, e) == [4, 3, 2]
    world.do(Rename(ROOT, b"d", ROOT, b"z"))
    assert nlinks(world, ROOT, d, e) == [4, 3, 2]
    world.do(Unlink(e, b"y"))
    world.do(Unlink(ROOT, b"z", directory=True))
    assert nlinks(world, ROOT, e) == [3, 0]


def test_below(world) -> None:
    d = world.make(b"d", DIRECTORY)
    x = world.make(b"x", DIRECTORY, d)
    assert world.space.is_below(x, d)
    assert world.space.is_below(x, ROOT)
    assert world.space.is_below(d, d)
    assert not world.space.is_below(d, x)
    assert not world.space.is_below(ROOT, d)


def test_directories_deep_and_names_at_their_limit(world) -> None:
    at = ROOT
    long = b"n" * limits.NAME_BYTES_MAX
    for _ in range(50):
        at = world.make(long, DIRECTORY, at)
    assert world.space.is_below(at, ROOT)
    assert [name for name, _ in world.space.children(ROOT)] == [long]


def test_a_listing_goes_on_behind_a_name(world) -> None:
    for name in (b"a", b"b", b"b\xff", b"c"):
        world.make(name)
    world.do(Unlink(ROOT, b"c"))
    assert [n for n, _ in world.space.children(ROOT, b"b")] == [b"b\xff"]
    assert [n for n, _ in world.space.children_at(ROOT, world.t - 1, b"b")] == [b"b\xff", b"c"]
    assert [n for n, _, _ in world.space.deleted(ROOT)] == [b"c"]
    assert list(world.space.deleted(ROOT, b"c")) == []


# --- refusals ---------------------------------------------------------------------------------------------------------

LONG = b"n" * (limits.NAME_BYTES_MAX + 1)
D, F, GONE, E, FULL, NONE = 2, 3, 4, 5, 6, 99


def furnished() -> World:
    """D: an empty directory `d`; F: a file `f`; GONE: a removed directory; E in D as `e`, FULL in ROOT as `full`."""
    world = World()
    world.make(b"d", DIRECTORY)
    world.make(b"f")
    world.make(b"gone", DIRECTORY)
    world.make(b"e", DIRECTORY, D)
    world.make(b"full", DIRECTORY)
    world.make(b"inside", parent=FULL)
    world.make(b"s", SYMLINK)
    world.do(Unlink(ROOT, b"gone", directory=True))
    world.make(b"dead")
    world.do(Unlink(ROOT, b"dead"))
    world.do(SetXattr(F, b"user.a", b"1"))
    world.do(Label(ROOT, b"l", 5))
    return world


DEAD_FILE = 9
REFUSALS = [
    (Create(0, b"", ROOT, 0o755, 0, 0), Reason.EXISTS),
    (Create(NONE, b"n", 50, REGULAR, 0, 0), Reason.ABSENT),
    (Create(GONE, b"n", 50, REGULAR, 0, 0), Reason.ABSENT),
    (Create(F, b"n", 50, REGULAR, 0, 0), Reason.NOT_A_DIRECTORY),
    (Create(ROOT, LONG, 50, REGULAR, 0, 0), Reason.NAME_TOO_LONG),
    (Create(ROOT, b"f", 50, REGULAR, 0, 0), Reason.EXISTS),
    (Create(ROOT, b"d", 50, DIRECTORY, 0, 0), Reason.EXISTS),
    (Link(NONE, b"n", F), Reason.ABSENT),
    (Link(GONE, b"n", F), Reason.ABSENT),
    (Link(ROOT, b"n", NONE), Reason.ABSENT),
    (Link(ROOT, b"n", DEAD_FILE), Reason.ABSENT),
    (Link(ROOT, b"n", D), Reason.NOT_PERMITTED),
    (Link(ROOT, LONG, F), Reason.NAME_TOO_LONG),
    (Link(ROOT, b"d", F), Reason.EXISTS),
    (Unlink(ROOT, b"n"), Reason.ABSENT),
    (Unlink(NONE, b"n"), Reason.ABSENT),
    (Unlink(ROOT, LONG * 3), Reason.ABSENT),
    (Unlink(ROOT, b"d"), Reason.IS_A_DIRECTORY),
    (Unlink(ROOT, b"f", directory=True), Reason.NOT_A_DIRECTORY),
    (Unlink(ROOT, b"full", directory=True), Reason.NOT_EMPTY),
    (Rename(ROOT, b"n", ROOT, b"m"), Reason.ABSENT),
    (Rename(ROOT, b"f", NONE, b"m"), Reason.ABSENT),
    (Rename(ROOT, b"f", GONE, b"m"), Reason.ABSENT),
    (Rename(ROOT, b"f", ROOT, LONG), Reason.NAME_TOO_LONG),
    (Rename(ROOT, b"d", D, b"m"), Reason.MALFORMED),
    (Rename(ROOT, b"d", E, b"m"), Reason.MALFORMED),
    (Rename(ROOT, b"f", ROOT, b"d", NOREPLACE), Reason.EXISTS),
    (Rename(ROOT, b"f", ROOT, b"f", NOREPLACE), Reason.EXISTS),
    (Rename(ROOT, b"f", ROOT, b"d"), Reason.IS_A_DIRECTORY),
    (Rename(ROOT, b"d", ROOT, b"f"), Reason.NOT_A_DIRECTORY),
    (Rename(D, b"e", ROOT, b"full"), Reason.NOT_EMPTY),
    (Rename(D, b"e", ROOT, b"d"), Reason.NOT_EMPTY),
    (Rename(ROOT, b"f", ROOT, b"m", EXCHANGE), Reason.ABSENT),
    (Rename(D, b"e", ROOT, b"d", EXCHANGE), Reason.MALFORMED),
    (Rename(ROOT, b"d", D, b"e", EXCHANGE), Reason.MALFORMED),
    (SetAttributes(NONE, mode=0), Reason.ABSENT),
    (SetAttributes(F, mtime_ns=limits.TIME_NS_MAX + 1), Reason.MALFORMED),
    (SetAttributes(F, atime_ns=limits.TIME_NS_MIN - 1), Reason.MALFORMED),
    (SetXattr(NONE, b"user.a", b""), Reason.ABSENT),
    (SetXattr(F, LONG, b""), Reason.NAME_TOO_LONG),
    (SetXattr(F, b"user.b", b"v" * 65_537), Reason.ARGUMENT_TOO_LARGE),
    (SetXattr(F, b"user.a", b"", 1), Reason.ATTRIBUTE_EXISTS),
    (SetXattr(F, b"user.b", b"", 2), Reason.NO_SUCH_ATTRIBUTE),
    (SetXattr(F, b"user.b", None), Reason.NO_SUCH_ATTRIBUTE),
    (Commit(NONE, 0, None, [], 0, 0), Reason.ABSENT),
    (Commit(D, 0, None, [], 0, 0), Reason.MALFORMED),
    (Commit(8, 0, None, [], 0, 0), Reason.MALFORMED),
    (Commit(F, limits.FILE_BYTES_MAX + 1, None, [], 0, 0), Reason.TOO_LARGE),
    (Label(NONE, b"m", 1), Reason.ABSENT),
    (Label(F, b"m", 1), Reason.ABSENT),
    (Label(GONE, b"m", 1), Reason.ABSENT),
    (Label(ROOT, LONG * 3, 1), Reason.NAME_TOO_LONG),
    (Label(ROOT, b"l", 1), Reason.EXISTS),
    (Unlabel(ROOT, b"m"), Reason.ABSENT),
    (Unlabel(ROOT, LONG * 3), Reason.ABSENT),
    (Batch([Unlink(ROOT, b"n")]), Reason.ABSENT),
]


@pytest.mark.parametrize(("record", "reason"), REFUSALS)
def test_a_refusal_says_why_and_leaves_no_trace(record, reason) -> None:
    world = furnished()
    before, counters = world.rows(), world.space.counters.pack()
    assert world.space.apply(world.t + 1, 8, record).reason is reason
    assert world.rows() == before
    assert world.space.counters.pack() == counters


def test_too_many_links(monkeypatch) -> None:
    world = World()
    monkeypatch.setattr("storage.namespace.names.LINKS_MAX", 3)
    f = world.make(b"f")
    world.do(Link(ROOT, b"g", f))
    world.do(Link(ROOT, b"h", f))
    before = world.rows()
    assert world.space.apply(99, 8, Link(ROOT, b"i", f)).reason is Reason.TOO_MANY_LINKS
    world.make(b"d", DIRECTORY)  # the root has three links then
    before = world.rows()
    full = Create(ROOT, b"e", 50, DIRECTORY, 0, 0)
    assert world.space.apply(99, 8, full).reason is Reason.TOO_MANY_LINKS
    assert world.rows() == before


# --- content ----------------------------------------------------------------------------------------------------------


def test_cut_and_grown_again_shows_a_hole(world) -> None:
    f = world.make(b"f")
    world.write(f, 100)
    world.do(Commit(f, 80, 30, [(60, 5, SELF, 0)], 0, 0))
    address = 8 * world.t
    assert world.space.pieces(f, 0, 0) == [(0, 30, address - 8, 0), (60, 5, address, 0)]
    found = world.space.attributes(f)
    assert (found.size, found.stored, found.content) == (80, 35, 2)
    world.do(Commit(f, 90, 1000, [], 0, 0))  # a cut behind the end cuts nothing
    assert world.space.attributes(f).stored == 35
    world.do(Commit(f, 10, None, [], 0, 0))  # shorter is cut, whether it says so or not
    world.do(Commit(f, 50, None, [], 0, 0))
    assert world.space.attributes(f).stored == 10


def test_to_nothing_and_back_is_another_generation(world) -> None:
    f = world.make(b"f")
    t = world.write(f, 100)
    world.do(Commit(f, 0, 0, [], 0, 0))
    assert world.space.attributes(f).stored == 0
    assert list(world.space.chunks(f, world.space.attributes(f).generation)) == []
    then = world.space.attributes_at(f, t)[1]
    assert [p[1] for p in world.space.pieces(f, then.generation, 0, t)] == [100]


def test_bytes_may_be_shared_between_files(world) -> None:
    f, g = world.make(b"f"), world.make(b"g")
    world.write(f, 100)
    shared = world.space.pieces(f, world.space.attributes(f).generation, 0)[0]
    world.do(Commit(g, 60, None, [(10, 50, shared[2], 5)], 0, 0))
    assert world.space.pieces(g, 0, 0) == [(10, 50, shared[2], 5)]


def test_staged_bytes_change_nothing(world) -> None:
    f = world.make(b"f")
    before = world.rows()
    at = 8 * world.do(Write(f, 0))
    counted = (b"R" + at.to_bytes(8, "big"), bytes(4))
    assert world.rows() == sorted([*before, counted])


def test_counters_count_what_has_a_name(world) -> None:
    def counted() -> tuple[int, int]:
        return world.space.counters.live_inodes, world.space.counters.live_bytes

    assert counted() == (1, 0)
    f = world.make(b"f")
    world.do(Create(ROOT, b"s", 20, SYMLINK | 0o777, 0, 0, 0, b"target"))
    assert counted() == (3, 6)
    assert world.space.target(20) == b"target"
    world.write(f, 100)
    world.do(Link(ROOT, b"g", f))
    world.do(Commit(f, 40, None, [], 0, 0))
    assert counted() == (3, 46)
    world.do(Unlink(ROOT, b"s"))
    world.do(Unlink(ROOT, b"f"))
    assert counted() == (2, 40)
    world.do(Unlink(ROOT, b"g"))
    world.write(f, 70)  # still open somewhere
    assert counted() == (1, 0)
    assert world.space.counters.next_inode == 21


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_moment_and_one_line_of_the_journal(world) -> None:
    d, e = world.make(b"d", DIRECTORY), world.make(b"e", DIRECTORY)
    parts = [
        Create(d, b"x", 50, REGULAR, 0, 0),
        Commit(50, 5, None, [(0, 5, SELF, 0)], 0, 0),
        SetAttributes(50, mode=0o600),
        Create(e, b"y", 51, REGULAR, 0, 0),
        Commit(51, 5, None, [(0, 5, SELF, 0)], 0, 0),
        SetXattr(d, b"user.a", b"1"),
    ]
    t = world.do(Batch(parts))
    assert next(world.space.journal()) == (t, [d, e, ROOT])
    assert world.story(b"x", d) == [(t, 50, 1)]
    assert world.space.attributes_at(50, t - 1) is None
    assert world.space.attributes_at(50, t)[1].mode == REGULAR | 0o600
    world.do(Unlink(d, b"x"))
    assert next(world.space.journal()) == (world.t, [d])


def test_a_batch_that_is_refused_in_the_middle_is_nothing(world) -> None:
    before = world.space.counters.pack()
    parts = [Create(ROOT, b"x", 50, DIRECTORY, 0, 0), Unlink(ROOT, b"n"), Unlink(ROOT, b"x", True)]
    assert world.space.apply(9, 8, Batch(parts)).reason is Reason.ABSENT
    assert world.space.binding(ROOT, b"x") is None
    assert world.space.attributes(50) is None
    assert not world.space.known(ROOT, b"x")
    assert next(world.space.journal(), (0, []))[0] != 9
    assert world.space.counters.pack() == before


def test_numbers_within_one_moment(world) -> None:
    f = world.make(b"f")
    one = world.write(f)
    t = world.do(
        Batch(
            [
                Unlink(ROOT, b"f"),
                Create(ROOT, b"f", 50, REGULAR, 0, 0),
                Commit(50, 1, None, [], 0, 0),
            ]
        )
    )
    assert world.story(b"f") == [(one, f, 1), (t, 0, REMOVED), (t, 50, 1)]
    assert world.space.binding_at(ROOT, b"f", t).inode == 50
    assert world.space.binding_at(ROOT, b"f", t - 1).inode == f


def test_a_rename_within_a_directory_is_one_line_with_one_name(world) -> None:
    world.make(b"f")
    t = world.do(Rename(ROOT, b"f", ROOT, b"g"))
    assert next(world.space.journal()) == (t, [ROOT])


# --- without a past ---------------------------------------------------------------------------------------------------


def test_without_a_past_what_is_forgotten_leaves_no_row_but_its_number() -> None:
    world = World(keep_past=False)
    empty = world.rows()
    for _ in range(3):
        d = world.make(b"d", DIRECTORY)
        f = world.make(b"f", parent=d)
        world.write(f, 400_000)
        world.do(Commit(f, 100, None, [], 0, 0))
        world.do(SetXattr(f, b"user.a", b"1"))
        world.do(SetXattr(f, b"user.b", b"1"))
        world.do(SetXattr(f, b"user.b", None))
        world.do(Label(d, b"l", 1))
        world.do(Label(d, b"m", 1))
        world.do(Unlabel(d, b"m"))
        world.do(Create(d, b"s", world.space.counters.next_inode, SYMLINK, 0, 0, 0, b"t"))
        s = world.space.counters.next_inode - 1
        world.do(Unlink(d, b"f"))
        world.do(Unlink(d, b"s"))
        world.do(Unlink(ROOT, b"d", directory=True))
        for inode in (f, s, d):
            world.space.forget(world.t, inode)
            assert world.space.attributes(inode) is None
        left = world.rows()
        assert len(left) == len(empty) + 1  # d's tombstone
    assert world.space.head(ROOT, b"d") == 6
    assert world.space.counters.live_inodes == 1
    assert world.space.counters.live_bytes == 0


def test_without_a_past_what_still_has_a_name_is_not_forgotten() -> None:
    world = World(keep_past=False)
    f = world.make(b"f")
    world.space.forget(9, f)
    assert world.space.attributes(f) is not None
    world.space.forget(9, NONE)


def test_without_a_past_a_frame_is_let_go_with_its_last_piece() -> None:
    world = World(keep_past=False)
    f, g = world.make(b"f"), world.make(b"g")
    world.write(f, 100)
    first = 8 * world.t
    world.do(Commit(g, 10, None, [(0, 10, first, 0)], 0, 0))
    world.write(f, 100)
    assert world.space.released == []
    assert world.space.refers(first)
    world.do(Commit(g, 0, None, [], 0, 0))
    assert world.space.released == [first]
    assert not world.space.refers(first)


# --- files without a name ---------------------------------------------------------------------------------------------


def unnamed(world) -> int:
    inode = world.space.counters.next_inode
    world.do(CreateUnnamed(inode, REGULAR | 0o600, 1, 2))
    return inode


def test_a_first_name_counts_on_from_what_the_name_was(world) -> None:
    f = world.make(b"f")
    world.write(f)
    world.do(Unlink(ROOT, b"f"))
    inode = unnamed(world)
    content = Commit(inode, 10, 0, [(0, 10, SELF, 0)], 0, 0)
    t = world.do(Batch([Link(ROOT, b"f", inode), content]))
    assert world.story(b"f")[2:] == [(t, inode, 1)]
    assert world.space.head(ROOT, b"f") == 3
    assert world.space.attributes(inode).nlink == 1
    assert world.space.unnamed() == []


def test_a_file_without_a_name_counts_for_nothing_until_it_has_one(world) -> None:
    before = (world.space.counters.live_inodes, world.space.counters.live_bytes)
    inode = unnamed(world)
    assert world.space.unnamed() == [inode]
    assert (world.space.counters.live_inodes, world.space.counters.live_bytes) == before
    world.do(Batch([Link(ROOT, b"f", inode), Commit(inode, 10, 0, [], 0, 0)]))
    assert world.space.counters.live_inodes == before[0] + 1
    assert world.space.counters.live_bytes == before[1] + 10
    world.do(Unlink(ROOT, b"f"))
    assert (world.space.counters.live_inodes, world.space.counters.live_bytes) == before
    refused = world.space.apply(world.t + 1, 0, Link(ROOT, b"g", inode))
    assert refused.reason is Reason.ABSENT, "it had a name, and was removed"


def test_a_link_that_is_refused_leaves_the_file_without_name_and_content(world) -> None:
    world.make(b"f")
    inode = unnamed(world)
    content = Commit(inode, 10, 0, [(0, 10, SELF, 0)], 0, 0)
    before = world.rows()
    refused = world.space.apply(world.t + 1, 0, Batch([Link(ROOT, b"f", inode), content]))
    assert refused.reason is Reason.EXISTS
    assert world.rows() == before


@pytest.mark.parametrize("keep_past", [True, False])
def test_a_file_never_named_is_dropped_without_a_trace(keep_past) -> None:
    world = World(keep_past=keep_past)
    world.space.sweep.step(100)
    before = {key for key, _ in world.rows()}
    inode = unnamed(world)
    world.do(SetXattr(inode, b"user.x", b"y"))
    world.do(SetAttributes(inode, mode=0o644))
    if keep_past:
        world.do(Drop(0, b"", [inode]))
        while world.space.sweep.step(100):
            pass
    else:
        world.space.forget(world.t + 1, inode)
    left = {key for key, _ in world.rows()} - before
    assert {key[:1] for key in left} <= {b"J"}, "the journal alone says that something happened"


def test_the_same_number_is_not_made_twice(world) -> None:
    inode = unnamed(world)
    again = world.space.apply(world.t + 1, 0, CreateUnnamed(inode, REGULAR, 0, 0))
    assert again.reason is Reason.MALFORMED
    directory = world.space.apply(world.t + 2, 0, CreateUnnamed(inode + 1, DIRECTORY, 0, 0))
    assert directory.reason is Reason.MALFORMED
