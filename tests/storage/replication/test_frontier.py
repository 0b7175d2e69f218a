"""Promises about time: the frontier rises everywhere, never goes back, and nothing is ever committed below it.

Goal: what consistent cuts stand on. Method: three members with clocks that disagree; `Shard.published` checks every commit
against every frontier published before, by anybody.
"""

from storage.replication import Verdict
from storage.replication.frontier import Bound, Candidates

SECOND = 1_000_000_000


def test_an_idle_shard_publishes_all_the_same(shard):
    shard.run(1000)
    first = shard["c"].replica.frontier
    shard.run(1000)
    lag_us = shard["c"].wall_ns // 1000 - shard["c"].replica.frontier.timestamp_us
    assert shard["c"].replica.frontier > first
    assert lag_us <= 600_000
    assert shard["c"].replica.frontier.index == 1


def test_who_asks_has_it_within_a_few_messages(shard):
    shard.run(1000)
    shard.now_ns += 10_000_000
    for node in shard.nodes.values():
        node.replica.tick(shard.now_ns, node.wall_ns)
    wanted_us = shard["b"].wall_ns // 1000
    shard["b"].replica.ask(shard.now_ns, wanted_us)
    shard.settle()
    assert {node.replica.frontier.timestamp_us >= wanted_us for node in shard.nodes.values()} == {
        True
    }


def test_asking_beyond_the_leaders_clock_waits_for_it(shard):
    shard.run(1000)
    wanted_us = shard["b"].wall_ns // 1000 + 300_000
    shard["b"].replica.ask(shard.now_ns, wanted_us)
    shard.settle()
    assert shard["b"].replica.frontier.timestamp_us < wanted_us
    shard.run(300)
    assert shard["b"].replica.frontier.timestamp_us >= wanted_us
    shard["b"].replica.ask(shard.now_ns, wanted_us + 10**12)  # Nobody waits for that,
    shard.tick(10)
    assert shard["a"].replica.frontier.timestamp_us < wanted_us + 10**6
    near_us = shard["c"].wall_ns // 1000
    shard["c"].replica.ask(shard.now_ns, near_us)  # and somebody for this.
    shard.settle()
    assert shard["c"].replica.frontier.timestamp_us >= near_us


def test_a_stamp_ahead_of_the_wall_clock_is_reached_at_once(shard):
    seen = shard["a"].wall_ns // 1000 + 20_000_000
    assert shard["a"].propose(1, after_us=seen) is Verdict.TAKEN
    shard.settle()
    shard["c"].replica.ask(shard.now_ns, shard["c"].log[-1].timestamp)
    shard.settle()
    assert shard["c"].replica.frontier.timestamp_us >= shard["c"].log[-1].timestamp


def test_it_waits_for_the_slowest_member(shard):
    shard.run(1000)
    shard.cut_off.add(("a", "c"))
    shard.run(1000)
    stuck = shard["b"].replica.frontier
    shard.run(1000)
    assert shard["b"].replica.frontier == stuck


def test_a_leader_whose_clock_is_behind_stamps_above_what_was_promised(shard):
    shard["b"].skew_ns = -3600 * SECOND
    shard.run(1000)
    published = shard["c"].replica.frontier.timestamp_us
    shard.cut_off.add("a")
    shard.elect("b", "bc", told="bc")
    shard.write("b", 1)
    shard.settle()
    assert shard["b"].log[-1].timestamp > published
    assert shard["c"].committed == 3


def test_promises_outlive_a_restart_of_all(shard):
    for node in shard.nodes.values():
        node.keeps_notes = True
    shard.run(5000)
    published = shard["c"].replica.frontier.timestamp_us
    for node in shard.nodes.values():
        node.skew_ns = -3600 * SECOND
        node.start(shard.epoch)
    shard.elect("c")
    shard.write("c", 1)
    shard.settle()
    assert published < shard["c"].log[-1].timestamp <= published + 3_000_000
    assert shard["a"].committed == len(shard["a"].log)


def test_nothing_is_promised_that_is_not_kept(shard):
    shard["b"].keeps_notes = False
    shard.run(10_000)
    stuck = shard["a"].replica.frontier
    assert stuck.timestamp_us <= shard["b"].note.bound_us
    shard["b"].keep()
    shard.run(1000)
    assert shard["a"].replica.frontier > stuck


def test_a_jump_of_the_wall_clock_never_takes_time_back(shard):
    stamps = []
    for number, skew in enumerate((0, 20, -3000, -3000, 5), 1):
        shard["a"].skew_ns = skew * SECOND
        shard.tick()
        shard.write("a", number)
        shard.settle()
        stamps.append(shard["b"].log[-1].timestamp)
    assert stamps == sorted(set(stamps))
    assert stamps[1] - stamps[0] > 19_000_000


def test_a_record_is_stamped_after_what_its_author_saw(shard):
    seen = shard["a"].wall_ns // 1000 + 20_000_000
    assert shard["a"].propose(1, after_us=seen) is Verdict.TAKEN
    shard.settle()
    assert shard["b"].log[-1].timestamp > seen
    assert shard["a"].propose(2, after_us=seen + 3600_000_000) is Verdict.AHEAD
    assert shard["a"].propose(2, after_us=seen) is Verdict.TAKEN


def test_a_frontier_names_an_index_below_which_all_is_committed(shard):
    shard.cut_off.add(("c", "a"))
    shard.write("a", 1)
    shard.run(300)
    assert shard["a"].replica.frontier.index <= 1
    shard.cut_off.clear()
    shard.run(800)
    assert shard["b"].replica.frontier.index == 2
    assert shard["b"].replica.frontier.timestamp_us > shard["b"].log[1].timestamp


def test_a_bound_is_written_half_as_often_as_it_reaches():
    bound = Bound(0, ahead_us=1000)
    wanted = {bound.wanted_us}
    for now in range(0, 100_000, 100):
        bound.note(now)
        bound.kept(bound.wanted_us)
        wanted.add(bound.wanted_us)
        assert bound.noted_us == now
    assert len(wanted) <= 100_000 / 500 + 2


def test_candidates_are_bounded_and_still_move():
    candidates = Candidates()
    for now in range(1, 1000):
        candidates.put(now, now)
    assert candidates.take(1, 1000) == (1, 1)
    assert candidates.take(500, 1000) == (63, 63)
    assert candidates.take(999, 998) is None  # Noted by all, and a frame below it is not committed.
    assert candidates.take(999, 999) == (999, 999)
