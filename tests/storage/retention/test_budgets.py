"""Over its budget a directory's history loses its oldest contents, those nothing protects, until it fits.

Method: short histories of known sizes, the bytes held counted by hand; then random ones, the counts compared with a
reading of every content's pieces there are.
"""

from __future__ import annotations

from random import Random

import pytest

from storage import record
from storage.errors import Reason
from storage.namespace import KEPT, ROOT
from storage.namespace.keys import BUDGET_XATTR
from storage.retention import HOLD, budgets

SECOND = 1_000_000


def budget(world, text: bytes | None, directory: int = ROOT) -> None:
    world.do(record.SetXattr(directory, BUDGET_XATTR, text))


def rewritten(world, name: bytes, count: int, directory: int = ROOT, size: int = 1000) -> int:
    """A file written anew so many times, a second apart."""
    inode = world.make(name, directory)
    for number in range(count):
        world.write(inode, bytes([number + 1]) * size)
        world.pass_time(SECOND)
    return inode


def held(world, directory: int = ROOT) -> int:
    return world.retention.history_bytes(directory)


def work(world) -> None:
    while world.retention.step():
        pass


def test_the_oldest_go_until_the_rest_fits(world):
    rewritten(world, b"f", 6)
    assert world.retention.run() == {}
    assert world.retention.history_bytes(ROOT) == 0
    budget(world, b"3500")
    assert world.retention.run()["budget"] == (2, 2000)
    assert world.kept(b"f") == [3, 4, 5, 6]
    assert held(world) == 3000
    assert world.retention.run() == {}
    budget(world, b"0")
    world.retention.run()
    assert world.kept(b"f") == [6]
    assert held(world) == 0


def test_the_oldest_of_all_files_below_go_first(world):
    top, other = world.mkdir(b"top"), world.mkdir(b"other")
    sub = world.mkdir(b"sub", top)
    for name, directory in ((b"a", sub), (b"b", top), (b"c", other)):
        rewritten(world, name, 3, directory)
    budget(world, b"2K", top)
    world.retention.run()
    assert world.kept(b"a", sub) == [3]
    assert world.kept(b"b", top) == [1, 2, 3]
    assert world.kept(b"c", other) == [1, 2, 3]


def test_a_dry_round_says_what_would_go_and_changes_nothing(world):
    rewritten(world, b"f", 6)
    budget(world, b"1000")
    assert world.retention.run(dry=True)["budget"] == (4, 4000)
    assert world.kept(b"f") == [1, 2, 3, 4, 5, 6]
    # What a policy lets go is not counted again.
    world.policy(b"all:forever;max=4")
    found = world.retention.run(dry=True)
    assert found["pruned"].versions == 2
    assert found["budget"] == (2, 2000)
    assert world.retention.run()["budget"] == (2, 2000)
    assert world.kept(b"f") == [5, 6]


def test_labels_holds_open_files_and_min_stay(world):
    inode = rewritten(world, b"f", 6)
    held_one = rewritten(world, b"held", 3)
    world.do(record.SetXattr(held_one, HOLD, b"case 7"))
    world.do(record.Label(ROOT, b"l", world.space.content_timestamp(inode, 2)))
    world.pinned.add((inode, 3))
    world.policy(b"all:forever;min=2")
    budget(world, b"0")
    world.retention.run()
    assert world.kept(b"f") == [2, 3, 5, 6]
    assert world.kept(b"held") == [1, 2, 3]
    world.pinned.clear()
    world.do(record.Unlabel(ROOT, b"l"))
    world.retention.run()
    assert world.kept(b"f") == [5, 6]
    assert held(world) == 3000


def test_what_somebody_is_still_to_read_stays(world):
    inode = rewritten(world, b"f", 4)
    since = world.space.content_timestamp(inode, 2)
    budget(world, b"0")
    world.retention.wanted_since = lambda: since
    world.retention.run()
    assert world.kept(b"f") == [2, 3, 4]


def test_what_only_grew_holds_nothing_and_stays(world):
    inode = world.make(b"log")
    for number in range(20):
        world.write(inode, b"%04d" % number, at=4 * number, keep=None)
        world.pass_time(SECOND)
    rewritten(world, b"f", 3)
    budget(world, b"0")
    assert world.retention.run()["budget"] == (2, 2000)
    assert world.kept(b"log") == list(range(1, 21))
    # Cut at last, all of them have to go for their bytes to be free, and count for one.
    world.write(inode, b"")
    assert world.retention.run()["budget"] == (20, 80)
    assert world.kept(b"log") == [21]


def test_what_a_restore_brought_back_is_no_history(world):
    inode = rewritten(world, b"f", 3)
    first = world.space.content_timestamp(inode, 1)
    generation = world.space.attributes_at(inode, first)[1].generation
    ((_, pieces),) = world.space.chunks(inode, generation, first)
    ((_, length, address, offset),) = pieces
    extents = [(0, length, address, offset)]
    world.do(record.Commit(inode, length, 0, extents, 0, 0))
    budget(world, b"0")
    assert world.retention.run()["budget"] == (2, 2000)
    assert world.kept(b"f") == [1, 4]
    assert world.versions(b"f")[4] == world.versions(b"f")[1]


def test_deleted_and_renamed_files_count_where_they_were_last(world):
    top, other = world.mkdir(b"top"), world.mkdir(b"other")
    rewritten(world, b"gone", 2, top)
    rewritten(world, b"moved", 3, other)
    world.do(record.Unlink(top, b"gone"))
    world.do(record.Rename(other, b"moved", top, b"here"))
    budget(world, b"2000", top)
    world.retention.run()
    assert held(world, top) == 2000
    assert world.kept(b"gone", top) == []
    assert world.kept(b"moved", other) == [1, 2, 3]
    budget(world, b"0", top)
    world.retention.run()
    assert world.kept(b"moved", other) == [3]


def test_the_inner_budget_is_met_first_and_counts_for_the_outer(world):
    top = world.mkdir(b"top")
    rewritten(world, b"old", 4)
    rewritten(world, b"new", 6, top)
    budget(world, b"5000")
    budget(world, b"2000", top)
    assert world.retention.run()["budget"] == (3, 3000)
    assert world.kept(b"old") == [1, 2, 3, 4]
    assert (held(world), held(world, top)) == (5000, 2000)


def test_more_than_one_round_can_is_let_go_of_in_the_next(world, monkeypatch):
    monkeypatch.setattr(budgets, "CANDIDATES_MAX", 3)
    rewritten(world, b"f", 10)
    budget(world, b"1000")
    work(world)
    assert world.kept(b"f") == [9, 10]
    assert world.retention.status()["passes"] == 3


def test_the_bytes_come_back_from_the_log(make_world):
    world = make_world(1 << 20)
    rewritten(world, b"f", 60, size=100_000)
    world.shard.log.sync()
    budget(world, b"300K")
    world.retention.run()
    before = world.shard.log.taken_bytes
    world.retention.clean()
    assert before - world.shard.log.taken_bytes == world.retention.cleaning.bytes_won > 3_000_000
    assert len(world.kept(b"f")) == 4
    kept, taken = world.versions(b"f"), world.shard.log.taken_bytes
    world.reopen()
    assert world.versions(b"f") == kept
    assert world.shard.log.taken_bytes == taken


def test_a_budget_is_a_number_of_bytes_of_a_directory(world):
    inode = world.make(b"f")
    for target, text in ((ROOT, b"much"), (ROOT, b""), (inode, b"1K")):
        said = world.shard.propose(record.SetXattr(target, BUDGET_XATTR, text))
        assert said.reason is Reason.MALFORMED
    assert not world.space.has_budgets()
    budget(world, b"1K")
    assert world.space.has_budgets()
    assert world.space.has_policies()
    world.policy(b"all:forever")
    budget(world, None)
    assert not world.space.has_budgets()
    assert world.space.has_policies()


def counted(world, inode: int) -> int:
    """Bytes that only past contents show, by reading all of them: each byte of a frame once."""
    space, attributes = world.space, world.space.attributes(inode)
    shown: set[tuple[int, int]] = set()
    live: set[tuple[int, int]] = set()
    stamps = [
        (t, generation)
        for _, t, state, generation in space.contents(inode, 0, attributes.content)
        if state == KEPT
    ]
    for timestamp, generation in [*stamps, (None, attributes.generation)]:
        found = live if timestamp is None else shown
        for _, pieces in space.chunks(inode, generation, timestamp):
            for _, length, address, offset in pieces:
                found |= {(address, offset + byte) for byte in range(length)}
    return len(shown - live)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_a_reading_of_everything(world, seed):
    random = Random(seed)
    inode = world.make(b"f")
    budget(world, b"1T")
    for number in range(40):
        at, length = random.randrange(300), random.randrange(1, 120)
        keep = random.choice([None, None, None, 0, random.randrange(200)])
        world.write(inode, bytes([number + 1]) * length, at, keep=keep)
        world.pass_time(SECOND)
    world.retention.run()
    assert held(world) == counted(world, inode)
    limit = held(world) // 2
    budget(world, b"%d" % limit)
    world.retention.run()
    assert held(world) == counted(world, inode) <= limit
    kept = world.kept(b"f")
    world.retention.run()
    assert world.kept(b"f") == kept


def test_a_log_that_takes_no_record_leaves_the_rest_to_the_next_round(world, monkeypatch):
    for name in (b"a", b"b"):
        rewritten(world, name, 3)
    budget(world, b"0")
    refused = []

    def propose(one):
        if isinstance(one, record.Prune) and not refused:
            refused.append(one)
            raise OSError(28, "no space")
        return type(world.shard).propose(world.shard, one)

    monkeypatch.setattr(world.shard, "propose", propose)
    with pytest.raises(OSError, match="no space"):
        work(world)
    work(world)
    assert world.retention.history_bytes(ROOT) is None
    world.pass_time(61 * SECOND)
    work(world)
    assert (world.kept(b"a"), world.kept(b"b")) == ([3], [3])
    assert held(world) == 0


def test_bytes_a_label_keeps_are_not_taken_for_won_for_good(world):
    inode = world.make(b"f")
    world.write(inode, b"x" * 1000)
    world.do(record.Label(ROOT, b"l", world.space.content_timestamp(inode, 1)))
    for number in range(4):
        world.pass_time(SECOND)
        world.write(inode, b"%d" % number, at=1000 + number, keep=None)
    rewritten(world, b"g", 3)
    world.write(inode, b"")
    budget(world, b"2000")
    world.retention.run()
    world.retention.run()
    assert world.kept(b"f")[0] == 1
    assert held(world) <= 2000
    assert held(world) == counted(world, inode) + 1000 * (len(world.kept(b"g")) - 1)
