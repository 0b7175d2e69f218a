"""Goal: who is granted a lock is told when what was committed before is seen, and never while the kernel may still believe otherwise.

Method: a store that is as far as the test says, a notifier that forgets when the test says; changes of others as the file system notes them.
"""

import errno
import threading

import pytest

from cascadefs.kernel.granting import Granting
from storage.limits import RECORD_INODE_MAX

NODE = 7


class Others:
    def __init__(self):
        self.has_heard = False
        self.stale = []
        self.changes = {}

    def take(self):
        self.has_heard = False
        return self.stale

    def changed_since_locked(self, number):
        return self.changes.get(number, 0)

    def has_forgotten(self, number, change):
        if self.changes.get(number) == change:
            del self.changes[number]

    def is_unseen(self, number):
        return False


class Filesystem:
    def __init__(self):
        self.others = Others()


class Store:
    def __init__(self, index):
        self.index = index
        self.failure = None

    def has_reached(self, node, index):
        return self.index >= index

    def reach(self, node, index):
        if self.failure is not None:
            raise self.failure
        self.index = max(self.index, index)


class Mount:
    def __init__(self):
        self.filesystem, self.store, self.lock = Filesystem(), Store(5), threading.Lock()
        self.aside, self.forgetting, self.told = [], [], []
        self.is_served = True
        self.granting = Granting(
            self.filesystem,
            self.store,
            self.lock,
            lambda stale, node, after: self.forgetting.append((stale, node, after)),
            self.put_aside,
            lambda error: errno.EIO,
        )

    def put_aside(self, call):
        self.aside.append(call)
        return self.is_served

    def grant(self, index=5, node=NODE):
        self.granting.granted(node, index, self.told.append)


@pytest.fixture
def mount():
    return Mount()


def test_where_all_is_seen_it_is_told_at_once(mount):
    mount.grant()
    mount.grant(99, RECORD_INODE_MAX + 1)  # The past does not change.
    assert mount.told == [0, 0]
    assert not mount.aside


def test_what_is_not_applied_yet_is_waited_for_apart(mount):
    mount.grant(9)
    assert not mount.told
    mount.aside.pop()()
    assert mount.store.index == 9
    assert not mount.told
    ((stale, node, after),) = mount.forgetting
    assert (stale, node) == ([], NODE)
    after()
    assert mount.told == [0]


def test_nobody_waits_for_who_has_the_file_system(mount):
    with mount.lock:
        mount.grant()
    assert not mount.told
    mount.aside.pop()()
    mount.forgetting.pop()[2]()
    assert mount.told == [0]


def test_of_two_the_second_is_not_told_before_the_kernel_has_forgotten(mount):
    mount.filesystem.others.changes[NODE] = 3
    mount.grant()
    mount.aside.pop()()
    stale, _, first = mount.forgetting.pop()
    assert stale == [(NODE, None)]
    mount.grant()
    assert not mount.told
    assert len(mount.aside) == 1
    first()
    assert mount.told == [0]
    mount.grant()
    assert mount.told == [0, 0]


def test_what_others_change_meanwhile_is_forgotten_for_the_next(mount):
    mount.filesystem.others.changes[NODE] = 3
    mount.grant()
    mount.aside.pop()()
    mount.filesystem.others.changes[NODE] = 4
    mount.forgetting.pop()[2]()
    mount.grant()
    assert len(mount.aside) == 1


def test_what_cannot_be_seen_is_said(mount):
    mount.store.failure = OSError(errno.EIO, "the cluster is away")
    mount.grant(9)
    mount.aside.pop()()
    assert mount.told == [errno.EIO]
    mount.is_served = False
    mount.grant(9)
    assert mount.told == [errno.EIO, errno.EIO]
