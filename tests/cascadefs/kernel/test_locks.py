"""Goal: each request about locks is answered once, when the cluster has decided; and what closes a descriptor gives back what it should.

Method: handlers called as the door calls them, with a cluster that decides when the test says so.
"""

import errno
import fcntl
import threading

import pytest

from cascadefs.kernel.locks import Locks
from cascadefs.kernel.protocol import LOCK, LOCK_REPLY, NO_REPLY, NUMBER
from storage.locks import EXCLUSIVE, LAST, NONE, SHARED
from storage.wire import LockAnswer

NODE, HANDLE, OWNER = 5, 7, 2**63
WHOLE = 1


class Cluster:
    """Decides nothing by itself."""

    def __init__(self, events):
        self.events = events
        self.asked = []
        self.held = set()

    def ask(self, inode, owner, done, *, whole, mode, manner, start=0, end=LAST):
        del manner
        self.events.append(("ask", inode, owner, whole, mode, start, end))
        self.asked.append(done)
        if mode != NONE:
            self.held.add((inode, owner, whole))
        return 0, len(self.asked)

    def cancel(self, ticket):
        self.events.append(("cancel", ticket[1]))

    def has(self, inode, owner, *, whole):
        return (inode, owner, whole) in self.held

    def forget(self, inode, owner):
        pass

    def answer(self, number, error_number=0, conflict=None):
        self.asked[number - 1](LockAnswer(number, 0, 9, error_number, 3, conflict))


class Filesystem:
    def __init__(self, events):
        self.events = events
        self.failure = None

    def save(self, handle):
        self.events.append(("save", handle))
        if self.failure is not None:
            raise self.failure


class Door:
    """What is around the handlers."""

    def __init__(self):
        self.events, self.replies, self.granted = [], {}, []
        self.cluster, self.filesystem = Cluster(self.events), Filesystem(self.events)
        self.locks = Locks(
            self.filesystem,
            self.cluster,
            self.reply,
            lambda node, index, done: self.granted.append((node, index, done)),
        )

    def reply(self, unique, result):
        assert unique not in self.replies
        self.replies[unique] = result

    def set(self, unique, kind, *, whole=False, owner=OWNER, handle=HANDLE, start=0, end=LAST):
        body = LOCK.pack(handle, owner, start, end, kind, 77, WHOLE if whole else 0, 0)
        return self.locks.setlkw(NODE, memoryview(body), (0, 0, unique, NODE, 0, 0, 77, 0, 0))

    def interrupt(self, unique):
        self.locks.interrupt(
            0, memoryview(NUMBER.pack(unique)), (0, 0, unique | 1, 0, 0, 0, 0, 0, 0)
        )


@pytest.fixture
def door():
    return Door()


def test_granted_is_answered_when_what_was_committed_is_seen(door):
    assert door.set(2, fcntl.F_WRLCK, start=3, end=9) == NO_REPLY
    assert door.events == [("ask", NODE, OWNER, False, EXCLUSIVE, 3, 9)]
    assert not door.replies
    door.cluster.answer(1)
    assert not door.replies
    ((node, index, done),) = door.granted
    assert (node, index) == (NODE, 3)
    done(0)
    assert door.replies == {2: None}


def test_answered_before_the_asking_returns(door):
    ask = door.cluster.ask

    def refuse(*arguments, **options):
        ticket = ask(*arguments, **options)
        door.cluster.answer(ticket[1], errno.EIO)
        return ticket

    door.cluster.ask = refuse  # As a link does that has ended.
    asking = threading.Thread(target=door.set, args=(2, fcntl.F_WRLCK), daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()
    assert door.replies == {2: -errno.EIO}
    door.interrupt(2)
    assert [event for event in door.events if event[0] == "cancel"] == []


def test_what_cannot_be_shown_is_given_back(door):
    door.set(2, fcntl.F_RDLCK, whole=True)
    door.cluster.answer(1)
    door.granted[0][2](errno.EIO)
    assert door.replies == {2: -errno.EIO}
    assert door.events[-1] == ("ask", NODE, OWNER, True, NONE, 0, LAST)


def test_refused_is_answered_at_once(door):
    door.set(2, fcntl.F_RDLCK, whole=True)
    assert door.events[0][4] == SHARED
    door.cluster.answer(1, errno.EAGAIN)
    assert door.replies == {2: -errno.EAGAIN}
    assert not door.granted


def test_a_signal_ends_the_waiting_whenever_it_comes(door):
    door.set(2, fcntl.F_WRLCK)
    door.interrupt(2)
    assert door.events[-1] == ("cancel", 1)
    door.cluster.answer(1, errno.EINTR)
    door.interrupt(4)  # Another reader has the request in its hands.
    door.set(4, fcntl.F_WRLCK)
    assert door.events[-1] == ("cancel", 2)
    door.cluster.answer(2)  # It was granted before it heard of that.
    door.granted[0][2](0)
    assert door.replies == {2: -errno.EINTR, 4: None}
    door.interrupt(2)
    assert door.events[-1] != ("cancel", 1)


def test_giving_back_commits_before(door):
    door.set(2, fcntl.F_WRLCK)
    door.set(4, fcntl.F_UNLCK)
    assert door.events[1:] == [("save", HANDLE), ("ask", NODE, OWNER, False, NONE, 0, LAST)]
    door.cluster.answer(2)
    assert door.replies == {4: None}


def test_what_cannot_be_committed_is_given_back_and_said(door):
    door.set(2, fcntl.F_WRLCK)
    door.filesystem.failure = OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError, match="full"):
        door.set(4, fcntl.F_UNLCK)
    assert door.events[-1] == ("ask", NODE, OWNER, False, NONE, 0, LAST)
    door.cluster.answer(2)
    assert not door.replies, "the dispatcher answers what was raised"


def test_closing_any_descriptor_gives_back_what_the_process_has(door):
    assert door.locks.flushed(NODE, 8, OWNER, 2) is None
    door.set(4, fcntl.F_WRLCK)
    assert door.locks.flushed(NODE, 8, OWNER + 1, 6) is None, "another process has none"
    assert door.locks.flushed(NODE, 8, OWNER, 8) == NO_REPLY
    assert door.events[-2:] == [("save", 8), ("ask", NODE, OWNER, False, NONE, 0, LAST)]
    door.cluster.answer(2)
    assert door.replies == {8: None}
    count = len(door.events)
    door.locks.released(NODE, HANDLE, None)
    assert len(door.events) == count, (
        "nothing of it is left to give back, though it may have a lock again"
    )


def test_many_who_inherit_a_descriptor_and_end_leave_nothing_behind(door):
    for number in range(1, 101):
        door.set(2 * number, fcntl.F_WRLCK, owner=number)
        door.cluster.held.clear()  # Given back, and then the process ends.
        assert door.locks.flushed(NODE, HANDLE, number, 1000 + number) is None
    assert not door.locks._processes
    assert not any(door.locks._owners.values())


def test_the_last_descriptor_gives_back_what_the_open_file_has(door):
    door.set(2, fcntl.F_WRLCK, owner=11)  # F_OFD_SETLK: no FLUSH speaks of this owner.
    door.set(4, fcntl.F_WRLCK, owner=12, whole=True)
    door.locks.released(NODE, HANDLE, 12)
    assert sorted(door.events[-2:]) == [
        ("ask", NODE, 11, False, NONE, 0, LAST),
        ("ask", NODE, 12, True, NONE, 0, LAST),
    ]


@pytest.mark.parametrize(("session", "process"), [(9, 77), (0, 0)], ids=["here", "elsewhere"])
def test_who_is_in_the_way(door, session, process):
    door.set(2, fcntl.F_WRLCK, start=3, end=9)
    body = LOCK.pack(HANDLE, OWNER + 1, 0, LAST, fcntl.F_RDLCK, 0, 0, 0)
    header = (0, 0, 4, NODE, 0, 0, 77, 0, 0)
    assert door.locks.getlk(NODE, memoryview(body), header) == NO_REPLY
    door.cluster.answer(2, conflict=(session, OWNER, EXCLUSIVE, 3, 9))
    assert LOCK_REPLY.unpack(door.replies[4]) == (3, 9, fcntl.F_WRLCK, process)
    assert door.locks.getlk(NODE, memoryview(body), (0, 0, 6, NODE, 0, 0, 77, 0, 0)) == NO_REPLY
    door.cluster.answer(3)
    assert LOCK_REPLY.unpack(door.replies[6])[2] == fcntl.F_UNLCK
