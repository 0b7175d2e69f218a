"""The small parts by themselves: lineage, sessions, messages as bytes.

Method: properties against the dumbest twin: whole logs compared frame by frame, a dictionary built anew, bytes flipped.
"""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.replication import (
    Ack,
    Append,
    Ask,
    Broken,
    Fenced,
    Frame,
    Inquire,
    Malformed,
    Report,
    join,
    split,
)
from storage.replication.lineage import KEPT_MAX, Lineage, decode
from storage.replication.sessions import Sessions

naturals = st.integers(0, 2**63 - 1)


def lineage_of(log):
    lineage = Lineage()
    for index, epoch in enumerate(log, 1):
        lineage.extend(epoch, index)
    return lineage


@st.composite
def histories(draw):
    """Logs as epochs make them: a leader extends its own, the others are cut to it or left behind."""
    logs = [[], [], []]
    for epoch in range(1, draw(st.integers(1, 8))):
        leader = draw(st.integers(0, 2))
        logs[leader] = logs[leader] + [epoch] * draw(st.integers(1, 4))
        for follower in draw(st.sets(st.integers(0, 2))):
            common = next(
                (
                    at
                    for at, pair in enumerate(zip(logs[leader], logs[follower], strict=False))
                    if pair[0] != pair[1]
                ),
                min(len(logs[leader]), len(logs[follower])),
            )
            until = draw(st.integers(common, len(logs[leader])))
            if until > common:
                logs[follower] = logs[leader][:until]
    return logs


@given(histories())
def test_two_logs_agree_as_far_as_their_epochs_do(logs):
    for mine in logs:
        for theirs in logs:
            expected = 0
            for a, b in zip(mine, theirs, strict=False):
                if a != b:
                    break
                expected += 1
            found = lineage_of(mine).common(len(mine), lineage_of(theirs).entries(), len(theirs))
            assert found == expected


@given(st.lists(st.integers(1, 3), max_size=30), st.integers(0, 40))
def test_a_cut_lineage_is_that_of_the_shorter_log(steps, length):
    log = []
    for step in steps:
        log.append((log[-1] if log else 1) + step // 2)
    lineage = lineage_of(log)
    lineage.cut(min(length, len(log)))
    assert lineage.entries() == lineage_of(log[:length]).entries()
    for index, epoch in enumerate(log[:length], 1):
        assert lineage.epoch_at(index) == epoch
    assert decode(lineage.encode()) == lineage.entries()


def test_a_lineage_forgets_the_oldest_and_says_so():
    lineage = Lineage((epoch, epoch * 10) for epoch in range(1, KEPT_MAX + 11))
    assert len(lineage.entries()) == KEPT_MAX
    assert lineage.epoch_at(50) == 0
    assert lineage.epoch_at(115) == 11
    assert lineage.common(20_000, ((3, 30),), 35) == 0
    assert lineage.last_epoch == KEPT_MAX + 10


@given(st.lists(st.one_of(st.integers(1, 4), st.floats(0, 1)), max_size=60))
def test_sessions_are_those_of_the_log_that_is_left(steps):
    sessions = Sessions(lambda client: 0)
    log = []
    committed = 0
    for step in steps:
        if isinstance(step, int):
            log.append((step, sessions.last(step) + 1))
            sessions.extend(len(log), *log[-1])
        elif step < 0.5:
            committed += int((len(log) - committed) * step * 2)
            sessions.commit(committed)
        else:
            del log[committed + int((len(log) - committed) * (step - 0.5) * 2) :]
            sessions.cut(len(log))
        for client in range(1, 5):
            assert sessions.last(client) == max((n for c, n in log if c == client), default=0)


def test_of_very_many_clients_the_state_machine_is_asked(monkeypatch):
    monkeypatch.setattr("storage.replication.sessions.SESSIONS_MAX", 10)
    asked = []
    sessions = Sessions(lambda client: asked.append(client) or 5)
    for client in range(20):
        sessions.extend(client + 1, client, 6)
    assert sessions.last(19) == 6
    assert asked == []
    assert sessions.last(0) == 5
    sessions.cut(0)
    assert sessions.last(19) == 5


frames = st.builds(
    lambda head, payload, metadata: Frame(
        *head, metadata, tuple(payload), len(metadata) + sum(map(len, payload))
    ),
    st.tuples(naturals, naturals, naturals, st.integers(0, 255)),
    st.lists(st.binary(max_size=20), max_size=3),
    st.binary(max_size=20),
)
messages = st.one_of(
    st.builds(
        Append,
        *[naturals] * 8,
        st.booleans(),
        st.lists(frames, max_size=4).map(tuple),
    ),
    st.builds(Ack, *[naturals] * 4),
    st.builds(Inquire, naturals),
    st.builds(
        Report,
        naturals,
        naturals,
        st.lists(st.tuples(naturals, naturals)).map(tuple),
        st.booleans(),
    ),
    st.builds(Ask, naturals, naturals),
    st.builds(Fenced, naturals),
    st.builds(Broken, naturals, st.text()),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message):
    head, parts = split(message)
    assert join(head, [memoryview(part) for part in parts]) == message


@given(messages, st.data())
def test_damaged_messages_are_refused_or_are_other_messages(message, data):
    head, parts = split(message)
    damaged = bytearray(head)
    at = data.draw(st.integers(0, len(head) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    for candidate in (damaged, head[:at], data.draw(st.binary(max_size=40))):
        with contextlib.suppress(Malformed):
            split(join(bytes(candidate), [memoryview(part) for part in parts]))


def test_parts_must_be_those_spoken_of():
    head, parts = split(
        Append(1, 0, 0, 0, 0, 0, 0, 0, True, (Frame(1, 1, 1, 2, b"m", (b"one", b"two"), 7),))
    )
    for wrong in (parts[:1], [], [*parts, b"three"]):
        with pytest.raises(Malformed, match="part"):
            join(head, [memoryview(part) for part in wrong])
    with pytest.raises(Malformed, match="parts"):
        join(split(Fenced(1))[0], [memoryview(b"x")])
    with pytest.raises(Malformed):
        join(msgspec.msgpack.encode((1, 1, -1, 0, 0)))
