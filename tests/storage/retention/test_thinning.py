"""What a policy lets go is gone, what it keeps reads as ever, and a frame is dead only when nothing shows it.

Method: short histories with a clock that is set, for each rule of SEMANTICS 7; then random histories of every kind of
change, against a twin that remembers every byte, with the frames of the log counted afresh from all rows there are.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import extents, record
from storage.errors import Reason
from storage.extents import DirtyMap
from storage.limits import CHUNK_BYTES
from storage.namespace import PURGED, ROOT
from storage.namespace.keys import BUDGET_XATTR
from storage.retention import HOLD
from storage.retention.policy import parse

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def hourly(world, name: bytes, count: int, directory: int = ROOT) -> int:
    """A file with a version every 20 minutes, from the start on."""
    inode = world.make(name, directory)
    for number in range(count):
        world.write(inode, b"%d" % number)
        world.pass_time(HOUR // 3)
    return inode


def test_without_a_policy_everything_is_kept(world):
    hourly(world, b"f", 12)
    world.pass_time(1000 * DAY)
    assert world.retention.run() == {}
    assert not world.retention.step()
    assert world.kept(b"f") == list(range(1, 13))


def test_the_last_version_before_each_boundary_is_kept(world):
    hourly(world, b"f", 12)
    world.policy(b"hour:7d")
    world.retention.run()
    # Three an hour, the first on the hour itself, which that boundary shows; the hybrid clock adds microseconds.
    shown = [n for n in world.kept(b"f") if n != 12]
    boundaries = [world.start + hour * HOUR for hour in range(1, 4)]
    expected = sorted({n for n in range(1, 12) for b in boundaries if holds(world, n, b)})
    assert shown == expected
    assert len(shown) == 3
    assert world.versions(b"f")[12] == b"11"


def holds(world, number: int, at: int) -> bool:
    start = world.space.version(ROOT, b"f", number).timestamp
    return start <= at < world.space.version(ROOT, b"f", number + 1).timestamp


def test_the_policy_applies_to_what_was_before_it_and_again_as_time_goes_by(world):
    hourly(world, b"f", 12)
    world.policy(b"all:2h")
    world.retention.run()
    assert world.kept(b"f")[0] > 5
    world.pass_time(DAY)
    assert world.retention.step()
    while world.retention.step():
        pass
    assert world.kept(b"f") == [12]


def test_the_nearest_directory_decides(world):
    a, b = world.mkdir(b"a"), world.mkdir(b"b")
    below = world.mkdir(b"below", a)
    world.policy(b"all:1s")
    world.policy(b"all:forever", a)
    for directory in (below, b):
        hourly(world, b"f", 6, directory)
    world.retention.run()
    assert world.kept(b"f", below) == [1, 2, 3, 4, 5, 6]
    assert world.kept(b"f", b) == [6]


def test_a_tree_may_be_as_deep_as_it_likes(world):
    world.policy(b"all:1s")
    directory = ROOT
    for _ in range(1500):
        directory = world.mkdir(b"d", directory)
    inode = hourly(world, b"f", 2, directory)
    world.pass_time(DAY)
    world.do(record.SetXattr(ROOT, HOLD, b"why"))
    assert world.retention.is_held(inode)
    world.retention.run()
    assert world.kept(b"f", directory) == [1, 2]
    world.do(record.SetXattr(ROOT, HOLD, None))
    assert not world.retention.is_held(inode)
    world.do(record.SetXattr(ROOT, BUDGET_XATTR, b"0"))
    world.retention.run()
    assert world.kept(b"f", directory) == [2]


def test_a_text_nobody_understands_lets_nothing_go(world):
    hourly(world, b"f", 6)
    world.policy(b"whatever")
    world.retention.run()
    assert len(world.kept(b"f")) == 6


def test_min_and_max(world):
    hourly(world, b"f", 9)
    world.policy(b"all:1s;min=3")
    world.retention.run()
    assert world.kept(b"f") == [7, 8, 9]
    hourly(world, b"g", 9)
    world.policy(b"all:forever;max=4")
    world.retention.run()
    assert world.kept(b"g") == [6, 7, 8, 9]


def test_what_a_label_shows_is_kept_also_when_it_moved_away_since(world):
    top, other = world.mkdir(b"top"), world.mkdir(b"other")
    sub = world.mkdir(b"sub", top)
    inode = hourly(world, b"f", 3, sub)
    world.do(record.Label(top, b"l", world.space.attributes(inode).content_timestamp))
    for _ in range(3):
        world.write(inode, b"later")
    world.do(record.Rename(top, b"sub", other, b"sub"))
    world.policy(b"all:1s")
    world.pass_time(DAY)
    world.retention.run()
    assert world.kept(b"f", sub) == [3, 6]
    world.do(record.Unlabel(top, b"l"))
    world.retention.run()
    assert world.kept(b"f", sub) == [6]


@pytest.mark.parametrize("where", ["file", "directory", "root"])
def test_a_hold_keeps_everything_at_and_below(world, where):
    sub = world.mkdir(b"sub")
    inode = hourly(world, b"f", 6, sub)
    held = {"file": inode, "directory": sub, "root": ROOT}[where]
    world.do(record.SetXattr(held, HOLD, b"case 7"))
    world.policy(b"all:1s")
    world.pass_time(DAY)
    world.retention.run()
    assert len(world.kept(b"f", sub)) == 6
    world.do(record.SetXattr(held, HOLD, None))
    world.retention.run()
    assert world.kept(b"f", sub) == [6]


def test_what_is_open_is_kept(world):
    inode = hourly(world, b"f", 6)
    world.policy(b"all:1s")
    world.pinned |= {(inode, 2), (inode, 4)}
    world.retention.run()
    assert world.kept(b"f") == [2, 4, 6]


def test_deleted_names_and_saves_by_rename_are_thinned_too(world):
    for number in range(6):
        inode = world.make(b"new")
        world.write(inode, b"%d" % number)
        world.do(record.Rename(ROOT, b"new", ROOT, b"f"))
        world.pass_time(HOUR)
    hourly(world, b"gone", 4)
    world.do(record.Unlink(ROOT, b"gone"))
    world.policy(b"all:1s;min=2")
    world.pass_time(DAY)
    world.retention.run()
    # `min` is for names that exist.
    assert world.kept(b"f") == [5, 6]
    assert world.kept(b"gone") == []
    assert world.versions(b"f")[6] == b"5"


def test_a_file_of_two_names_goes_only_where_both_let_it_go(world):
    a, b = world.mkdir(b"a"), world.mkdir(b"b")
    inode = world.make(b"f", a)
    world.do(record.Link(b, b"g", inode))
    for number in range(6):
        world.write(inode, b"%d" % number)
        world.pass_time(HOUR)
    world.policy(b"all:1s", a)
    world.retention.run()
    assert len(world.kept(b"f", a)) == 6
    world.policy(b"all:1s", b)
    world.retention.run()
    assert world.kept(b"f", a) == world.kept(b"g", b) == [6]


def test_numbers_and_records_stay(world):
    hourly(world, b"f", 6)
    world.policy(b"all:1s")
    world.retention.run()
    inode = world.space.binding(ROOT, b"f").inode
    assert world.space.head(ROOT, b"f") == 6
    assert [world.space.version(ROOT, b"f", n).number for n in range(1, 7)] == list(range(1, 7))
    world.write(inode, b"next")
    assert world.space.head(ROOT, b"f") == 7
    assert world.space.counters.pruned_contents == 5


def test_the_newest_content_of_a_name_cannot_be_pruned(world):
    inode = hourly(world, b"f", 3)
    for contents in ([(3, 3)], [(2, 3)], [(0, 1)], [(4, 4)], [(2, 1)]):
        assert world.shard.propose(record.Prune(inode, contents)).reason is Reason.MALFORMED
    assert world.shard.propose(record.Prune(999, [(1, 1)])).reason is Reason.ABSENT
    assert world.kept(b"f") == [1, 2, 3]


def test_purged_stays_purged(world):
    inode = hourly(world, b"f", 4)
    world.do(record.Prune(inode, [(2, 2)], purged=True))
    world.do(record.Prune(inode, [(1, 3)]))
    assert world.space.content_state(inode, 2) == PURGED
    assert world.kept(b"f") == [4]


def test_names_that_came_and_went_are_forgotten(world):
    kept = world.make(b"kept")
    world.write(kept, b"x")
    world.pass_time(90 * SECOND)
    for name in (b"kept", b"moved", b"removed"):
        inode = world.make(name) if name != b"kept" else kept
        world.write(inode, b"y" * 100)
        world.pass_time(SECOND)
        if name == b"moved":
            world.do(record.Rename(ROOT, name, ROOT, b"here"))
        else:
            world.do(record.Unlink(ROOT, name))
    world.policy(b"all:forever;ephemeral=60s")
    world.retention.run()
    assert world.space.known(ROOT, b"removed")  # Not yet: it went a moment ago.
    world.pass_time(61 * SECOND)
    before = world.space.frames
    tallies = world.retention.run()
    assert tallies["ephemeral"].versions == 2
    assert not world.space.known(ROOT, b"removed")
    assert not world.space.known(ROOT, b"moved")
    assert world.space.attributes(inode) is None
    assert world.kept(b"kept") == [1, 2]
    assert world.versions(b"here") == {1: b"y" * 100}
    assert before is world.space.frames
    assert len(world.dead()) == 1


def test_a_labelled_name_is_not_ephemeral(world):
    inode = world.make(b"tmp")
    world.write(inode, b"y")
    world.do(record.Label(ROOT, b"l", world.space.attributes(inode).content_timestamp))
    world.do(record.Unlink(ROOT, b"tmp"))
    world.policy(b"all:1s;ephemeral=60s")
    world.pass_time(DAY)
    world.retention.run()
    assert world.versions(b"tmp") == {1: b"y"}


def test_a_dry_pass_says_what_the_real_one_does(world):
    hourly(world, b"f", 30)
    world.policy(b"all:1h,hour:7d;min=2")
    before = world.shard.log.last_index
    dry = world.retention.run(dry=True)
    assert world.shard.log.last_index == before
    assert len(world.kept(b"f")) == 30
    assert world.retention.run() == dry
    assert dry["pruned"].versions == 30 - len(world.kept(b"f"))
    assert dry["pruned"].bytes > 0


def test_pressure_thins_to_min_and_no_further(world):
    inode = hourly(world, b"f", 9)
    world.policy(b"all:forever;min=2")
    world.do(record.Label(ROOT, b"l", world.space.content_timestamp(inode, 3)))
    world.retention.run(pressed=True)
    assert world.kept(b"f") == [3, 8, 9]


def test_a_long_history_is_swept_in_steps_while_it_grows(world):
    inode = world.make(b"f")
    for number in range(700):
        world.write(inode, b"%03d" % number, at=3 * (number % 50), keep=None)
        world.pass_time(SECOND)
    world.policy(b"all:60s;min=2")
    expected = world.versions(b"f")
    steps = 0
    while world.retention.step():
        steps += 1
        if steps % 2:
            world.write(inode, b"new", at=0, keep=None)
    assert steps >= 8
    found = {n: data for n, data in world.versions(b"f").items() if data is not None and n <= 700}
    assert found == {n: expected[n] for n in found}
    assert 1 not in found
    assert 700 in found
    check_frames(world)


def test_a_sweep_spares_what_is_written_to_an_open_file_without_a_name(world):
    inode, count = world.make(b"f"), 40

    def session(value: int) -> None:
        dirty = DirtyMap()
        for chunk in range(count):
            dirty.write(chunk * CHUNK_BYTES, bytes((value,)) * 10)
        size = count * CHUNK_BYTES
        assert world.shard.commit(inode, dirty, size, None, 0, 0).reason is None
        world.pass_time(SECOND)

    for value in (1, 2, 3):
        session(value)
    world.do(record.Unlink(ROOT, b"f"))
    world.do(record.Prune(inode, [(1, 2)]))
    assert world.shard.sweep(10)
    session(4)
    while world.shard.sweep(10):
        pass
    attributes = world.space.attributes(inode)
    for chunk in range(count):
        data = world.shard.read(inode, attributes, None, chunk * CHUNK_BYTES, 10)
        assert bytes(data) == b"\4" * 10
    check_frames(world)


def test_a_sweep_takes_steps_also_to_find_out_what_is_still_shown(world):
    inode = world.make(b"f")
    for number in range(50):
        world.write(inode, b"%d" % number)
        world.pass_time(SECOND)
    world.do(record.Prune(inode, [(1, 40)]))
    for _ in range(4):
        assert world.shard.sweep(10)
        assert not world.dead()
    while world.shard.sweep(10):
        pass
    assert len(world.dead()) == 40
    assert world.kept(b"f") == list(range(41, 51))


def test_a_name_that_came_and_went_stays_while_somebody_is_to_read_it(world):
    world.policy(b"all:1s;ephemeral=60s")
    wanted = world.clock.now_us
    world.pass_time(SECOND)
    inode = world.make(b"tmp")
    world.write(inode, b"y")
    world.pass_time(SECOND)
    world.do(record.Unlink(ROOT, b"tmp"))
    world.pass_time(DAY)
    world.retention.wanted_since = lambda: wanted
    assert set(world.retention.run()) == {"wanted"}
    assert world.versions(b"tmp") == {1: b"y"}
    world.retention.wanted_since = lambda: None
    assert set(world.retention.run()) == {"ephemeral"}
    assert not world.space.known(ROOT, b"tmp")


# --- random histories -------------------------------------------------------------------------------------------------


def referred(world) -> set[int]:
    """The addresses in every row of pieces there is."""
    found = set()
    for key, row in world.table.scan(b"C", b"D"):
        found |= {piece[2] for piece in extents.unpack(row[8:])}
        assert key
    for _, row in world.table.scan(b"c", b"d"):
        if row[:1] == b"\1":
            found |= {piece[2] for piece in extents.unpack(row[1:])}
    return found


def check_frames(world, *, exactly: bool = False) -> None:
    """Dead frames are in no row; `exactly`: and all others with a payload are, once there is nothing to sweep."""
    rows, dead = referred(world), world.dead()
    assert not rows & dead
    if exactly:
        frames = {f.address for f in world.shard.log.frames() if f.payload_length}
        assert frames - rows == dead


STEP = st.tuples(
    st.sampled_from(
        [
            "write",
            "lay",
            "append",
            "cut",
            "save",
            "remove",
            "link",
            "copy",
            "swap",
            "wait",
            "label",
            "big",
        ]
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 40),
)
NAMES = (b"a", b"b", b"c")


def take(world, step: tuple[str, int, int, int], count: int) -> None:
    kind, one, two, number = step
    name, other = NAMES[one], NAMES[two]
    binding = world.space.binding(ROOT, name)
    if kind == "wait":
        world.pass_time(number * HOUR // 4)
        return
    if kind == "label":
        world.shard.propose(record.Label(ROOT, b"l%d" % count, world.clock.now_us))
        return
    if kind == "save":
        inode = world.make(b"tmp")
        world.write(inode, b"saved %d" % count)
        world.do(record.Rename(ROOT, b"tmp", ROOT, name))
        return
    inode = binding.inode if binding is not None else world.make(name)
    if kind == "write":
        world.write(inode, b"written %d" % count)
    elif kind == "lay":
        world.write(inode, b"laid %d" % count, at=7 * number, keep=None)
    elif kind == "append":
        world.write(inode, b"+%d" % count, at=world.space.attributes(inode).size, keep=None)
    elif kind == "big":
        data = b"%08d" % count * (extents.CHUNK_BYTES // 16)
        world.write(inode, data, at=extents.CHUNK_BYTES - number, keep=None)
    elif kind == "cut":
        world.write(inode, b"", keep=min(number, world.space.attributes(inode).size))
    elif kind == "remove":
        world.do(record.Unlink(ROOT, name))
    elif kind == "link":
        world.shard.propose(record.Link(ROOT, other, inode))
    elif kind == "swap":
        if world.space.binding(ROOT, other) is not None:
            world.do(record.Rename(ROOT, name, ROOT, other, 2))
    elif kind == "copy" and (target := world.space.binding(ROOT, other)) is not None:
        attributes = world.space.attributes(inode)
        shared = [
            (chunk * extents.CHUNK_BYTES + start, length, address, offset)
            for chunk, pieces in world.space.chunks(inode, attributes.generation)
            for start, length, address, offset in pieces
        ]
        world.do(record.Commit(target.inode, attributes.size, 0, shared, 0, 0))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(STEP, min_size=5, max_size=40),
    st.sampled_from([b"all:1s", b"hour:7d;min=2", b"all:2h,hour:2d;max=3", b"all:1s;ephemeral=1h"]),
)
def test_every_history_keeps_what_it_should_and_lets_go_of_the_rest(make_world, steps, text):
    world = make_world()
    world.policy(text)
    for count, step in enumerate(steps):
        take(world, step, count)
        if count % 7 == 6:
            world.retention.run()
            check_frames(world)
    before = {name: world.versions(name) for name in (*NAMES, b"tmp")}
    life = {name: lives(world, name) for name in before}
    labels = [at for _, _, at in world.space.all_labels()]
    world.retention.run()
    policy = parse(text)
    for name, versions in before.items():
        after = world.versions(name)
        for number, data in versions.items():
            start, end = life[name][number]
            if after.get(number) is not None:
                assert after[number] == data
            elif data is not None and number in after:
                assert end is not None
                assert not any(start <= at < end for at in labels)
                assert (
                    policy.why_kept(world.clock.now_us, start, end, 1 << 30) is None
                    or policy.versions_max
                )
    check_frames(world)
    kept = {name: world.versions(name) for name in before}
    world.reopen()
    assert {name: world.versions(name) for name in before} == kept
    while world.shard.sweep(50):
        pass
    assert {name: world.versions(name) for name in before} == kept
    check_frames(world)


def turns_of(world, name: bytes) -> set[int]:
    """When the name came to mean something else."""
    key = ROOT.to_bytes(8, "big") + name + b"\0"
    past = [k for k, _ in world.table.scan(b"e" + key, b"e" + key + b"\xff" * 9)]
    turns = {2**64 - 1 - int.from_bytes(k[-8:], "big") for k in past}
    live = world.table.get(b"E" + key)
    return turns | ({int.from_bytes(live[:8], "big")} if live is not None else set())


def lives(world, name: bytes) -> dict[int, tuple[int, int | None]]:
    """From when to when each version was what the name meant.

    A name may come to mean a file that was never closed, which is no version but ends the one before.
    """
    head = world.space.head(ROOT, name)
    starts = {n: world.space.version(ROOT, name, n).timestamp for n in range(1, head + 1)}
    turns = {*starts.values()} | turns_of(world, name)
    return {
        n: (start, min((at for at in turns if at > start), default=None))
        for n, start in starts.items()
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=5, max_size=30))
def test_without_cuts_and_copies_into_the_same_place_no_frame_is_forgotten(make_world, steps):
    world = make_world()
    for count, step in enumerate(steps):
        if step[0] not in ("cut", "copy", "label"):
            take(world, step, count)
    for name in NAMES:
        if world.space.binding(ROOT, name) is not None:
            world.do(record.Unlink(ROOT, name))
    world.policy(b"all:1s;min=0")
    world.pass_time(DAY)
    world.retention.run()
    check_frames(world, exactly=True)
    assert not referred(world)
