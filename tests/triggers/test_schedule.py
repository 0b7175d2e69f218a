"""Everybody gets the same share of the workers, and nobody who has something to run waits for ever."""

from __future__ import annotations

from triggers.schedule import Schedule


def test_a_storm_does_not_starve_the_others():
    schedule = Schedule()
    for who in "abc":
        schedule.add(who)
    schedule.add("a")
    started = []

    def start(who):
        started.append(who)
        return True

    for _ in range(90):
        assert schedule.next(start) is not None
    assert {who: started.count(who) for who in "abc"} == {"a": 30, "b": 30, "c": 30}


def test_shares_are_of_time_and_not_of_runs():
    schedule = Schedule()
    costs = {"cheap": 10.0, "dear": 100.0}
    for who, cost in costs.items():
        schedule.add(who)
        for _ in range(50):
            schedule.ran(who, cost)
    spent = dict.fromkeys(costs, 0.0)
    for _ in range(1100):
        who = schedule.next(lambda _: True)
        spent[who] += costs[who]
    assert 0.9 < spent["cheap"] / spent["dear"] < 1.1


def test_whoever_has_nothing_is_passed_over_and_saves_nothing():
    schedule = Schedule()
    assert schedule.next(lambda _: True) is None
    for who in "ab":
        schedule.add(who)
    assert schedule.next(lambda _: False) is None
    assert [schedule.next(lambda who: who == "b") for _ in range(20)] == ["b"] * 20
    schedule.remove("b")
    schedule.remove("b")
    assert schedule.next(lambda _: True) == "a"


def test_whoever_has_nothing_at_all_is_asked_no_more_until_it_is_added_again():
    schedule = Schedule()
    for number in range(1000):
        schedule.add(number)
    schedule.ran(7, 100.0)
    asked = []

    def start(who):
        asked.append(who)
        return True if who == 500 else None

    assert schedule.next(start) == 500
    assert len(asked) <= 1000
    asked.clear()
    for _ in range(300):
        assert schedule.next(start) == 500
    assert asked.count(500) == 300
    assert set(schedule) == {500}
    asked.clear()
    assert schedule.next(start) == 500
    assert asked == [500]
    schedule.add(7)
    assert set(schedule) == {500, 7}
    schedule.remove(7)
    schedule.remove(500)
    assert schedule.next(start) is None
