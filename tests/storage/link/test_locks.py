"""Goal: whoever asks for a lock is told once, whatever becomes of the link.

Method: a connection that only notes what is said; the calls of the link's thread made by hand.
"""

import errno
from random import Random

import pytest
import trio

from storage import wire
from storage.limits import RECORD_INODE_MAX
from storage.link.locks import Locks, shard_of
from storage.locks import EXCLUSIVE, NONE, TRY, WAIT

INODE = 2 * 2**40 + 7
SHARD = 2


class Connection:
    def __init__(self):
        self.said = []
        self.closed = None
        self.is_full = False

    def send_nowait(self, buffers):
        if self.is_full:
            raise trio.WouldBlock
        self.said.append(wire.decode(memoryview(b"".join(buffers)))[0])

    def close(self, why):
        self.closed = why


class Mount:
    def __init__(self):
        self.locks = Locks(Random(1), lambda call, shard: call(shard))
        self.told = []
        self.leader = Connection()

    def ask(self, mode=EXCLUSIVE, manner=WAIT):
        return self.locks.ask(INODE, 5, self.told.append, whole=True, mode=mode, manner=manner)

    def attend(self, connection, *, epoch=1, knows=True, now_s=1.0):
        self.locks.attend(SHARD, connection, epoch, knows=knows, now_s=now_s)

    def attach(self, connection, now_s=1.0):
        claim = connection.said[-1]
        assert isinstance(claim, wire.ClaimLocks)
        kept = wire.LocksKept(SHARD, claim.session, claim.attempt, True)
        self.locks.hear(connection, kept, now_s)
        return claim

    def answer(self, connection, error_number=0):
        asked = connection.said[-1]
        assert isinstance(asked, wire.Lock)
        answer = wire.LockAnswer(asked.request, SHARD, asked.session, error_number, 9)
        self.locks.hear(connection, answer, 1.0)


@pytest.fixture
def mount():
    return Mount()


def test_a_lock_is_asked_for_behind_a_claim_and_claimed_from_the_next_leader(mount):
    mount.ask()
    assert not mount.leader.said
    mount.attend(mount.leader)
    assert mount.attach(mount.leader).locks == []
    mount.answer(mount.leader)
    assert [(answer.errno, answer.index) for answer in mount.told] == [(0, 9)]
    assert mount.locks.has(INODE, 5, whole=True)
    assert not mount.locks.has(INODE, 5, whole=False)
    other = Connection()
    mount.attend(None)
    mount.attend(other, epoch=2)
    assert mount.attach(other).locks == [(INODE, 5, True, True, 0, 2**63 - 1)]


def test_a_leader_that_does_not_know_of_locks_is_not_asked(mount):
    mount.attend(mount.leader, knows=False)
    mount.ask()
    assert [answer.errno for answer in mount.told] == [errno.ENOLCK]
    assert not mount.leader.said


def test_who_waits_when_the_link_ends_is_told(mount):
    mount.ask()
    mount.locks.close()
    mount.locks.close()
    mount.ask(NONE, TRY)
    assert [answer.errno for answer in mount.told] == [errno.EIO, errno.EIO]


def test_nothing_is_said_for_who_was_told_that_nobody_waits_any_more(mount):
    mount.ask(NONE, TRY)
    mount.attend(mount.leader)
    mount.attach(mount.leader)
    mount.locks.close()
    said = len(mount.leader.said)
    mount.ask()
    assert [answer.errno for answer in mount.told] == [errno.EIO, errno.EIO]
    assert len(mount.leader.said) == said


def test_who_waits_for_no_leader_can_be_interrupted(mount):
    ticket = mount.ask()
    mount.locks.cancel(ticket)
    assert [answer.errno for answer in mount.told] == [errno.EINTR]
    mount.locks.cancel(ticket)
    assert len(mount.told) == 1


def test_a_connection_that_takes_nothing_is_left(mount):
    mount.leader.is_full = True
    mount.ask()
    mount.attend(mount.leader)
    assert mount.leader.closed
    assert not mount.told


def test_the_past_is_locked_in_the_first_shard():
    assert shard_of(INODE) == SHARD
    assert shard_of(RECORD_INODE_MAX + 12345) == 0
