"""Goal: locks of ranges are those of fcntl(2) and flock(2), whatever is asked in whatever order.

Method: a map of bytes as the twin, for small files and many owners; who waits is told by the twin's own queue. Then rings.
"""

from random import Random

import pytest

from storage.locks.spans import EXCLUSIVE, NONE, SHARED, Span, assign
from storage.locks.table import LockTable, Verdict, Wanted

BYTES = 12


class Bytes:
    """Who holds each byte how: a dict of modes by (inode, whole, owner), byte by byte; and a queue."""

    def __init__(self):
        self.modes = {}
        self.queue = []

    def of(self, wanted):
        return self.modes.setdefault((wanted.inode, wanted.whole, wanted.owner), [NONE] * BYTES)

    def is_free(self, wanted):
        return not any(
            inode == wanted.inode
            and whole == wanted.whole
            and owner != wanted.owner
            and EXCLUSIVE in (wanted.mode, mode)
            and mode != NONE
            for (inode, whole, owner), modes in self.modes.items()
            for mode in modes[wanted.start : wanted.end + 1]
        )

    def put(self, wanted):
        self.of(wanted)[wanted.start : wanted.end + 1] = [wanted.mode] * (
            wanted.end + 1 - wanted.start
        )

    def serve(self):
        granted = []
        while free := [(t, w) for t, w in self.queue if self.is_free(w)]:
            # In the order of the queue, from its start again: as often as somebody can have something.
            ticket, wanted = free[0]
            self.queue.remove((ticket, wanted))
            self.put(wanted)
            granted.append(ticket)
        return granted

    def lock(self, ticket, wanted, waits):
        if self.is_free(wanted):
            self.put(wanted)
            return Verdict.GRANTED
        if wanted.whole and self.of(wanted)[0] not in (NONE, wanted.mode):
            self.put(wanted._replace(mode=NONE))
        if waits:
            self.queue.append((ticket, wanted))
        return Verdict.WAITS if waits else Verdict.BUSY

    def held(self, session):
        found = []
        for (inode, whole, owner), modes in self.modes.items():
            if owner[0] != session:
                continue
            spans = []
            for at, mode in enumerate(modes):
                if mode != NONE:
                    spans = assign(spans, at, at, mode)
            found += [(inode, owner[1], whole, span) for span in spans]
        return sorted(found)


@pytest.mark.parametrize("seed", range(12))
def test_as_a_map_of_bytes(seed):
    random = Random(seed)
    table, twin = LockTable(), Bytes()
    for request in range(200):
        whole = random.random() < 0.3
        start = 0 if whole else random.randrange(BYTES)
        end = BYTES - 1 if whole else random.randrange(start, BYTES)
        owner = (random.randrange(1, 4), random.randrange(3))
        mode = random.choice((NONE, SHARED, EXCLUSIVE))
        wanted = Wanted(random.randrange(2), owner, whole, mode, start, end)
        ticket = (owner[0], request)
        if random.random() < 0.05 and twin.queue:
            ticket, _ = random.choice(twin.queue)
            assert table.cancel(ticket)
            twin.queue = [entry for entry in twin.queue if entry[0] != ticket]
        elif random.random() < 0.03:
            granted = table.drop(owner[0])
            twin.queue = [entry for entry in twin.queue if entry[0][0] != owner[0]]
            twin.modes = {key: it for key, it in twin.modes.items() if key[2][0] != owner[0]}
            assert sorted(granted) == sorted(twin.serve())
        elif mode == NONE:
            granted = table.unlock(wanted)
            twin.put(wanted)
            assert sorted(granted) == sorted(twin.serve())
        elif any(other.owner == owner for _, other in twin.queue):
            pass  # A process that waits asks nothing else here: so no ring is closed (the test below).
        else:
            waits = random.random() < 0.6
            conflict = table.conflict(wanted)
            is_free = twin.is_free(wanted)
            assert (conflict is None) == is_free
            before = [*twin.queue]
            verdict, granted = table.lock(ticket, wanted, waits=waits)
            if verdict is Verdict.DEADLOCK:
                assert waits
                assert not is_free
                continue
            assert twin.lock(ticket, wanted, waits) is verdict
            served = twin.serve()
            assert sorted(granted) == sorted(served), before
        for session in range(1, 4):
            assert sorted(table.held(session)) == twin.held(session)
            waiting = sum(ticket[0] == session for ticket, _ in twin.queue)
            assert table.count(session) == len(twin.held(session)) + waiting
    for session in range(1, 4):
        table.drop(session)
    assert not table._files
    assert not table._waits
    assert not table._counts


def wanted(owner, mode, start=0, end=0, inode=1, *, whole=False):
    return Wanted(inode, (owner, 1), whole, mode, start, end)


def test_neighbours_are_joined_and_the_middle_is_cut_out():
    spans = assign([], 0, 9, EXCLUSIVE)
    assert assign(spans, 10, 19, EXCLUSIVE) == [Span(0, 19, True)]
    assert assign(spans, 3, 5, NONE) == [Span(0, 2, True), Span(6, 9, True)]
    assert assign(spans, 3, 5, SHARED) == [Span(0, 2, True), Span(3, 5, False), Span(6, 9, True)]


def test_who_came_first_is_served_first():
    table = LockTable()
    table.lock((1, 1), wanted(1, EXCLUSIVE), waits=False)
    for session in (2, 3, 4):
        assert table.lock((session, 1), wanted(session, EXCLUSIVE), waits=True)[0] is Verdict.WAITS
    assert table.unlock(wanted(1, NONE)) == [(2, 1)]
    assert table.unlock(wanted(2, NONE)) == [(3, 1)]


def test_a_ring_of_three_is_refused_and_one_of_flock_is_not_noticed():
    table = LockTable()
    for session in (1, 2, 3):
        table.lock((session, 1), wanted(session, EXCLUSIVE, session, session), waits=False)
        table.lock((session, 2), wanted(session, EXCLUSIVE, inode=session, whole=True), waits=False)
    for session, other, verdict in (
        (1, 2, Verdict.WAITS),
        (2, 3, Verdict.WAITS),
        (3, 1, Verdict.DEADLOCK),
    ):
        asked = wanted(session, SHARED, other, other)
        assert table.lock((session, 3), asked, waits=True)[0] is verdict
    for session, other in ((1, 2), (2, 3), (3, 1)):
        asked = wanted(session, EXCLUSIVE, inode=other, whole=True)
        assert table.lock((session, 4), asked, waits=True)[0] is Verdict.WAITS


def test_flock_that_is_refused_another_mode_has_given_up_the_first():
    table = LockTable()
    for session in (1, 2):
        table.lock((session, 1), wanted(session, SHARED, whole=True), waits=False)
    verdict, _ = table.lock((1, 2), wanted(1, EXCLUSIVE, whole=True), waits=False)
    assert verdict is Verdict.BUSY
    assert table.held(1) == []
    assert table.lock((2, 2), wanted(2, EXCLUSIVE, whole=True), waits=False)[0] is Verdict.GRANTED
