"""The checkers themselves: each takes a history that is right, and refuses one that is wrong in just its own way.

Method: histories by hand; linearizability also against a search through all orders, on many small made-up histories.
"""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from tests.simulation.cluster.checkers.agreement import Agreement, Committed
from tests.simulation.cluster.checkers.cuts import Cuts
from tests.simulation.cluster.checkers.durability import Durability
from tests.simulation.cluster.checkers.frontier import Frontier
from tests.simulation.cluster.checkers.gaps import Gaps
from tests.simulation.cluster.checkers.immutability import Immutability
from tests.simulation.cluster.checkers.linearizability import Call, Linearizability, explanation
from tests.simulation.cluster.checkers.progress import Progress
from tests.simulation.cluster.checkers.requests import Requests
from tests.simulation.cluster.checkers.violation import Violation
from tests.simulation.cluster.registers import (
    NOTHING,
    Change,
    Registers,
    State,
    after,
    decode,
    encode,
)


def record(index: int, epoch: int = 1, timestamp: int | None = None, number: int = 1) -> Committed:
    return Committed(index, epoch, index * 10 if timestamp is None else timestamp, 7, number, b"x")


# --- the state machine ------------------------------------------------------------------------------------------


def test_registers_remember_every_value():
    registers = Registers()
    assert registers.apply(10, Change("put", "a", 5)) == State(5, 1)
    assert registers.apply(20, Change("put-if", "a", 6, expected=7)) == State(5, 1)
    assert registers.apply(30, Change("put-if", "a", 6, expected=1)) == State(6, 2)
    assert registers.apply(40, Change("get", "a")) == State(6, 2)
    assert [registers.at("a", at) for at in (9, 10, 29, 30, 99)] == [
        NOTHING, State(5, 1), State(5, 1), State(6, 2), State(6, 2)
    ]  # fmt: skip
    assert registers.at("b") == NOTHING


def test_a_change_survives_its_encoding():
    change = Change("put-if", "a1", 5, 2)
    assert decode(encode(change)) == change


# --- agreement ----------------------------------------------------------------------------------------------------


def test_agreement_of_equal_logs():
    agreement = Agreement(0)
    for who in ("a", "b"):
        for index in (1, 2, 3):
            agreement.committed(who, record(index))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(record(2, number=9), id="another record"),
        pytest.param(record(2, epoch=2), id="another epoch"),
        pytest.param(record(3, timestamp=20), id="time stands still"),
        pytest.param(record(3, epoch=0), id="epoch goes back"),
        pytest.param(record(0, timestamp=11), id="time goes back in front"),
    ],
)
def test_disagreement(other: Committed):
    agreement = Agreement(0)
    agreement.committed("a", record(1))
    agreement.committed("a", record(2))
    with pytest.raises(Violation, match="agreement"):
        agreement.committed("b", other)


# --- gaps ---------------------------------------------------------------------------------------------------------


def test_a_follower_gets_all():
    gaps = Gaps(0)
    for index in (1, 2, 3):
        gaps.followed("a", index)
    gaps.followed("b", 1)


@pytest.mark.parametrize("index", [1, 2, 4])
def test_a_follower_gets_too_much_or_too_little(index: int):
    gaps = Gaps(0)
    gaps.followed("a", 1)
    gaps.followed("a", 2)
    with pytest.raises(Violation, match="gaps"):
        gaps.followed("a", index)


# --- durability ---------------------------------------------------------------------------------------------------


def test_durable_everywhere():
    durability = Durability(0)
    durability.committed(record(1), {"a": True, "b": True})
    durability.committed(record(1), {"a": True, "b": False})  # Looked at when it was first known.
    durability.remain("a", [record(1), record(2)])


def test_acknowledged_and_not_held():
    with pytest.raises(Violation, match="b may yet lose it"):
        Durability(0).committed(record(1), {"a": True, "b": False})


@pytest.mark.parametrize("log", [[], [record(1, epoch=2)]])
def test_acknowledged_and_lost(log: list[Committed]):
    durability = Durability(0)
    durability.committed(record(1), {"a": True})
    with pytest.raises(Violation, match="durability"):
        durability.remain("a", log)


def test_on_all_disks_but_one():
    with pytest.raises(Violation, match="b may yet lose it"):
        Durability(0).on_disks("a", 3, {"a": True, "b": False})


# --- immutability -------------------------------------------------------------------------------------------------


def test_the_past_changes():
    immutability = Immutability(0)
    immutability.read("a", "x", 10, State(1, 1))
    immutability.read("b", "x", 10, State(1, 1))
    immutability.read("b", "x", 11, State(2, 2))
    with pytest.raises(Violation, match="x@10"):
        immutability.read("b", "x", 10, State(2, 2))


# --- frontier -----------------------------------------------------------------------------------------------------


def test_a_frontier_that_keeps_its_word():
    frontier = Frontier(0)
    frontier.committed(1, 10)
    frontier.published("a", 15, 1)
    frontier.published("b", 12, 1)
    frontier.committed(2, 16)
    frontier.published("b", 12, 1)
    frontier.published("a", 16, 2)
    frontier.published("a", 20, 2)


def test_a_frontier_goes_back():
    frontier = Frontier(0)
    frontier.published("a", 15, 0)
    frontier.published("b", 12, 0)
    with pytest.raises(Violation, match="goes back"):
        frontier.published("a", 14, 0)


@pytest.mark.parametrize("timestamp", [14, 15])
def test_a_commit_below_a_frontier(timestamp: int):
    frontier = Frontier(0)
    frontier.committed(1, 10)
    frontier.published("a", 15, 1)
    with pytest.raises(Violation, match="below"):
        frontier.committed(2, timestamp)


def test_a_frontier_above_a_commit_it_does_not_know():
    frontier = Frontier(0)
    frontier.committed(1, 10)
    frontier.committed(2, 14)
    with pytest.raises(Violation, match="2 was committed at 14"):
        frontier.published("a", 14, 1)


# --- exactly once -------------------------------------------------------------------------------------------------


def test_requests_in_order():
    requests = Requests(0)
    for index, (client, number) in enumerate([(1, 1), (2, 1), (1, 2)], 1):
        requests.committed(index, client, number)


@pytest.mark.parametrize(("number", "what"), [(1, "twice"), (3, "follows 1")])
def test_requests_out_of_order(number: int, what: str):
    requests = Requests(0)
    requests.committed(1, 1, 1)
    with pytest.raises(Violation, match=what):
        requests.committed(2, 1, number)


# --- progress -----------------------------------------------------------------------------------------------------


def test_who_waits_too_long():
    progress = Progress(100)
    progress.began("a", 10, "a put")
    progress.began("b", 10, "a put")
    progress.ended("b")
    progress.check(200, healed_ns=150)  # Faults excuse.
    assert not progress.at_rest()
    with pytest.raises(Violation, match="a waits for a put"):
        progress.check(251, healed_ns=150)
    progress.ended("a")
    progress.check(251, healed_ns=150)
    assert progress.at_rest()


# --- consistent cuts ----------------------------------------------------------------------------------------------


@pytest.fixture
def ticks() -> Cuts:
    """Three names, two whole ticks, the third begun."""
    cuts = Cuts(3)
    for timestamp, (tick, position) in enumerate(
        [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)], 1
    ):
        cuts.written(position, tick, timestamp * 10)
    return cuts


def test_a_cut_is_consistent(ticks: Cuts):
    ticks.read("a", 5, [0, 0, 0])
    ticks.read("a", 45, [2, 1, 1])
    ticks.read("a", 60, [2, 2, 2])
    ticks.read("a", 99, [3, 2, 2])
    ticks.read("a", 99, [3, 3, 2])  # Committed, and its writer does not know yet.
    assert ticks.ends() == [30, 60]


@pytest.mark.parametrize(
    ("timestamp", "values"),
    [
        pytest.param(45, [1, 2, 1], id="effect without cause"),
        pytest.param(45, [3, 1, 1], id="two ticks"),
        pytest.param(45, [1, 1, 1], id="too old"),
        pytest.param(60, [3, 2, 2], id="too new"),
    ],
)
def test_a_cut_is_not_consistent(ticks: Cuts, timestamp: int, values: list[int]):
    with pytest.raises(Violation, match="cuts"):
        ticks.read("a", timestamp, values)


@pytest.mark.parametrize(("position", "tick", "timestamp"), [(1, 3, 70), (1, 4, 80)])
def test_stamps_against_causality(ticks: Cuts, position: int, tick: int, timestamp: int):
    with pytest.raises(Violation, match="cuts"):
        ticks.written(position, tick, timestamp)


# --- linearizability ----------------------------------------------------------------------------------------------


def put(value: int, invoked: int, returned: int | None, version: int | None) -> Call:
    answer = None if version is None else State(value, version)
    return Call("w", invoked, returned, Change("put", "x", value), answer)


def get(invoked: int, returned: int, value: int, version: int) -> Call:
    return Call("r", invoked, returned, Change("get", "x"), State(value, version))


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([], id="nothing"),
        pytest.param([get(0, 1, 0, 0), put(5, 2, 3, 1), get(4, 5, 5, 1)], id="one after another"),
        pytest.param([put(5, 0, 9, 1), get(1, 2, 0, 0), get(3, 4, 5, 1)], id="overlapping"),
        pytest.param([put(5, 0, None, None), get(1, 2, 0, 0), get(3, 4, 5, 1)], id="unheard, done"),
        pytest.param([put(5, 0, None, None), get(1, 2, 0, 0)], id="unheard, never done"),
        pytest.param([put(5, 0, 9, 2), put(6, 0, 9, 1), get(1, 2, 0, 0)], id="the other way round"),
    ],
)
def test_linearizable(calls: list[Call]):
    order = explanation(calls)
    assert order is not None
    assert {call for call in calls if call.returned is not None} <= set(order)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([put(5, 0, 1, 1), get(2, 3, 0, 0)], id="stale"),
        pytest.param([put(5, 0, 9, 1), get(1, 2, 5, 1), get(3, 4, 0, 0)], id="back and forth"),
        pytest.param([get(0, 1, 5, 1), put(5, 2, 3, 1)], id="from the future"),
        pytest.param([put(5, 0, 1, 1), put(6, 2, 3, 1)], id="a lost update"),
        pytest.param([put(5, 0, None, None), get(1, 2, 5, 2)], id="done twice"),
    ],
)
def test_not_linearizable(calls: list[Call]):
    assert explanation(calls) is None
    checker = Linearizability(0)
    for call in calls:
        checker.called(call)
    with pytest.raises(Violation, match="no order explains x"):
        checker.check()


def explained_by_trying(calls: list[Call]) -> bool:
    """All orders of all sets of calls that contain those that were heard."""
    heard = {at for at, call in enumerate(calls) if call.returned is not None}
    for size in range(len(heard), len(calls) + 1):
        for order in permutations(range(len(calls)), size):
            if not heard <= set(order):
                continue
            chosen = [calls[at] for at in order]
            in_time = all(
                later.returned is None or later.returned >= earlier.invoked
                for at, earlier in enumerate(chosen)
                for later in chosen[at + 1 :]
            )
            state, right = NOTHING, True
            for call in chosen:
                state = after(state, call.change)
                right = right and call.answer in (None, state)
            if in_time and right:
                return True
    return False


def made_up(random: Random) -> list[Call]:
    """A small history, plausible enough to be linearizable about as often as not."""
    calls = []
    for value in range(1, random.randrange(2, 6)):
        invoked = random.randrange(12)
        change = random.choice((
            Change("put", "x", value),
            Change("put-if", "x", value, random.randrange(3)),
            Change("get", "x"),
        ))  # fmt: skip
        if random.random() < 0.25:
            calls.append(Call(f"c{value}", invoked, None, change, None))
            continue
        answer = State(random.randrange(value + 1), random.randrange(value + 1))
        if change.kind == "put":
            answer = State(value, random.randrange(1, 4))
        calls.append(Call(f"c{value}", invoked, invoked + random.randrange(6), change, answer))
    return calls


def test_the_search_finds_what_trying_everything_finds():
    random = Random(5)
    verdicts = []
    for _ in range(1500):
        calls = made_up(random)
        verdicts.append(explained_by_trying(calls))
        assert (explanation(calls) is not None) == verdicts[-1], calls
    assert 100 < sum(verdicts) < 1400
