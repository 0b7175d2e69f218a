"""Goal: of two who want the same lock one has it, whatever becomes of connections, leaders and mounts; and in the end everybody has had it.

Method: arbiters of three nodes and claimants of three mounts, with messages passed by hand: first the stories one by one, then chance
cuts connections, moves leaders, and stops mounts for longer than a lease. Believed by two at once, one of them must be a mount that nobody
has heard for a lease.
"""

import errno
import itertools
from random import Random

import pytest

from storage import wire
from storage.limits import LOCK_LEASE_NS
from storage.locks import EXCLUSIVE, LAST, NONE, SHARED, TRY, WAIT, Arbiter, Claimant

STEP_NS = 100 * 10**6
SHARD = 5


class Wire:
    """A connection between a mount and a node, each way in order."""

    def __init__(self, mount, node):
        self.mount, self.node = mount, node
        self.up, self.down = [], []


class World:
    """Nodes 0 to 2, of which one leads; mounts that ask."""

    def __init__(self, mounts=3, epoch=1):
        self.now_ns = 10**9
        self.epoch, self.leader, self.index = epoch, 0, 7
        self.is_sure = True
        self.nodes = {f"n{number}": Arbiter(SHARD) for number in range(3)}
        sessions = itertools.count(100)
        self.mounts = [Claimant(SHARD, lambda: next(sessions)) for _ in range(mounts)]
        self.wires = [None] * mounts
        self.old = []
        self.cut, self.stopped, self.deaf = set(), set(), set()
        self.answers = [{} for _ in range(mounts)]
        self.tell_leader()

    @property
    def arbiter(self):
        return self.nodes[f"n{self.leader}"]

    def tell_leader(self):
        others = [name for name in self.nodes if name != f"n{self.leader}"]
        for name, node in self.nodes.items():
            if name == f"n{self.leader}":
                node.lead(self.now_ns, self.epoch, others)
            else:
                node.follow()

    def elect(self, leader, *, is_new=False):
        """A new epoch; `is_new`: of a process that has just started."""
        self.leader, self.epoch = leader, self.epoch + 1
        if is_new:
            self.nodes[f"n{leader}"] = Arbiter(SHARD)
        for mount in range(len(self.mounts)):
            self.disconnect(mount)
        self.tell_leader()

    def disconnect(self, mount):
        if self.wires[mount] is not None:
            self.old.append(self.wires[mount])
            self.wires[mount] = None
            self.mounts[mount].connect(self.now_ns, None)

    def step(self, steps=1):
        for _ in range(steps):
            self.now_ns += STEP_NS
            for (
                wired
            ) in self.old:  # What was on its way when it broke comes late, then the end of it.
                self.hear(wired)
                for node in self.nodes.values():
                    node.gone(wired)
            self.old.clear()
            for number, mount in enumerate(self.mounts):
                if number in self.stopped:
                    continue
                if self.wires[number] is None and number not in self.cut:
                    self.wires[number] = Wire(number, f"n{self.leader}")
                    mount.connect(self.now_ns, self.wires[number])
                mount.tick(self.now_ns)
            for _ in range(4):
                self.carry()

    def carry(self):
        for number, mount in enumerate(self.mounts):
            if number in self.stopped:
                continue
            out, done = mount.take()
            wired = self.wires[number]
            if wired is not None:
                wired.up += out
                self.hear(wired)
            for request, answer in done:
                self.answers[number][request] = answer
        for name, node in self.nodes.items():
            leads = name == f"n{self.leader}" and self.is_sure
            node.advance(self.now_ns, self.index if leads else None)
            answers, notices = node.take()
            for peer, message in answers:
                peer.down.append(message)
            for other, message in notices:
                if other not in self.deaf:
                    node.hear_known(other, self.nodes[other].hear_holders(message))
        for number, mount in enumerate(self.mounts):
            wired = self.wires[number]
            if wired is None or number in self.stopped:
                continue
            down, wired.down = wired.down, []
            for message in down:
                if isinstance(message, wire.LocksKept):
                    mount.hear_kept(self.now_ns, wired, message)
                else:
                    mount.hear_answer(wired, message)

    def hear(self, wired):
        node = self.nodes[wired.node]
        calls = {
            wire.Lock: node.ask,
            wire.ClaimLocks: node.claim,
            wire.KeepLocks: node.keep,
            wire.CancelLock: node.cancel,
        }
        up, wired.up = wired.up, []
        for message in up:
            calls[type(message)](wired, message)

    def ask(self, mount, mode, manner=WAIT, owner=1, inode=1, start=0, end=LAST, *, whole=False):
        return self.mounts[mount].ask(
            inode, owner, whole=whole, mode=mode, manner=manner, start=start, end=end
        )

    def lock(self, *arguments, steps=5, **options):
        """The errno of the answer, None if there is none yet."""
        request = self.ask(*arguments, **options)
        self.step(steps)
        answer = self.answers[arguments[0]].get(request)
        return None if answer is None else answer.errno

    def check(self):
        """No two believe in what excludes the other, but for who was not heard for a lease."""
        believed = [
            (whole, (number, owner), exclusive, start, end)
            for number, mount in enumerate(self.mounts)
            if self.now_ns - mount._vouched_ns < LOCK_LEASE_NS - 2 * STEP_NS
            for (_, whole, owner), spans in mount._held.items()
            for start, end, exclusive in spans
            if not any((it.owner, it.whole) == (owner, whole) for it in mount._pending.values())
        ]
        for one, two in itertools.combinations(believed, 2):
            if one[0] == two[0] and one[1] != two[1] and (one[2] or two[2]):
                assert one[4] < two[3] or two[4] < one[3], (one, two)


def test_one_after_the_other_and_what_was_committed_before():
    world = World()
    assert world.lock(0, EXCLUSIVE) == 0
    assert world.lock(1, EXCLUSIVE, TRY) == errno.EAGAIN
    waiting = world.ask(1, EXCLUSIVE)
    world.step(30)
    assert waiting not in world.answers[1]
    world.index = 12
    assert world.lock(0, NONE) == 0
    assert world.answers[1][waiting].index == 12
    assert world.lock(0, SHARED, TRY, whole=True) == 0


def test_who_is_in_the_way_is_told():
    world = World()
    world.lock(0, EXCLUSIVE, start=3, end=9, owner=77)
    request = world.ask(1, SHARED, 0)
    world.step()
    assert world.answers[1][request].conflict == (0, 77, EXCLUSIVE, 3, 9)
    request = world.ask(0, SHARED, 0, owner=78)
    world.step()
    session = world.mounts[0]._session
    assert world.answers[0][request].conflict == (session, 77, EXCLUSIVE, 3, 9)


def test_who_waits_and_is_interrupted_has_nothing():
    world = World()
    world.lock(0, EXCLUSIVE)
    waiting = world.ask(1, EXCLUSIVE)
    world.step()
    world.mounts[1].cancel(waiting)
    world.step()
    assert world.answers[1][waiting].errno == errno.EINTR
    world.lock(0, NONE)
    assert world.lock(2, EXCLUSIVE, TRY) == 0


@pytest.mark.parametrize("is_new", [False, True], ids=["a member", "one that has just started"])
def test_a_new_leader_is_told_who_holds_what_before_it_grants_anything(is_new):
    world = World()
    assert world.lock(0, EXCLUSIVE) == 0
    world.cut.add(0)
    world.elect(1, is_new=is_new)
    assert world.lock(1, EXCLUSIVE, TRY, steps=20) is None  # It waits for who held something.
    world.cut.clear()
    world.step(5)
    request = max(world.answers[1], default=0)
    if is_new:  # It cannot know who else there is.
        assert request == 0
        world.step(LOCK_LEASE_NS // STEP_NS)
    assert world.answers[1][1].errno == errno.EAGAIN
    assert world.lock(0, NONE) == 0


def test_where_nobody_held_anything_nobody_waits():
    world = World(epoch=1)
    world.step(3)
    world.elect(1)
    assert world.lock(0, EXCLUSIVE, steps=3) == 0


def test_a_leader_that_goes_on_in_the_next_epoch_forgets_nothing():
    world = World()
    world.lock(0, EXCLUSIVE)
    for is_new_epoch in (True, False):
        world.arbiter.follow()  # For a moment it does not lead.
        if is_new_epoch:
            world.elect(0)
        else:
            world.tell_leader()
        assert world.lock(1, EXCLUSIVE, TRY, steps=3) == errno.EAGAIN


def test_nobody_is_granted_anything_that_the_members_would_not_expect():
    world = World()
    world.deaf.add("n2")
    assert world.lock(0, EXCLUSIVE, steps=20) is None
    world.deaf.clear()
    world.step(15)
    assert world.answers[0][1].errno == 0


def test_a_leader_that_may_be_none_any_more_grants_nothing():
    world = World()
    world.lock(0, EXCLUSIVE)
    waiting = world.ask(1, EXCLUSIVE)
    world.step()
    world.is_sure = False
    assert world.lock(0, NONE) == 0
    world.step(5)
    assert waiting not in world.answers[1]
    world.is_sure = True
    world.step()
    assert world.answers[1][waiting].errno == 0


def test_a_mount_that_is_cut_off_for_long_has_lost_and_hears_of_it():
    world = World()
    world.lock(0, EXCLUSIVE, whole=True)
    waiting = world.ask(1, EXCLUSIVE, whole=True)
    world.cut.add(0)
    world.disconnect(0)
    world.step(LOCK_LEASE_NS // STEP_NS - 10)
    assert waiting not in world.answers[1]
    world.step(20)
    assert world.answers[1][waiting].errno == 0
    world.cut.clear()
    world.step(10)
    assert world.mounts[0].losses == 1
    assert world.lock(0, SHARED, TRY, whole=True) == errno.EIO
    assert world.lock(0, NONE, whole=True) == errno.EIO
    assert world.lock(0, SHARED, TRY, whole=True) == errno.EAGAIN


def test_a_leader_that_stood_still_holds_it_against_nobody():
    world = World()
    world.lock(0, EXCLUSIVE)
    world.step(5)
    world.stopped.add(0)  # What it has said before is not read yet.
    world.now_ns += 10 * LOCK_LEASE_NS
    world.step(5)
    assert world.arbiter.dropped == []
    assert world.lock(1, EXCLUSIVE, TRY) == errno.EAGAIN


def test_a_mount_claims_nothing_that_nobody_has_vouched_for_within_the_lease():
    """Leaders in between may have given it away, and be gone."""
    world = World()
    assert world.lock(0, EXCLUSIVE) == 0
    world.cut.add(0)
    world.elect(1, is_new=True)
    world.step(LOCK_LEASE_NS // STEP_NS + 5)
    assert world.lock(1, EXCLUSIVE) == 0
    world.elect(2, is_new=True)
    world.cut.clear()
    world.step(5)
    assert world.mounts[0].losses == 1
    assert world.mounts[1].losses == 0
    assert world.lock(0, SHARED, TRY) == errno.EIO


def test_a_mount_has_so_many_locks_and_no_more(monkeypatch):
    monkeypatch.setattr("storage.locks.arbiter.LOCKS_PER_SESSION_MAX", 3)
    world = World()
    for byte in (0, 2, 4):
        assert world.lock(0, EXCLUSIVE, start=byte, end=byte) == 0
    assert world.lock(0, EXCLUSIVE, start=6, end=6) == errno.ENOLCK
    assert world.lock(1, EXCLUSIVE, start=6, end=6) == 0
    assert world.lock(0, NONE) == 0
    assert world.lock(0, SHARED, start=0, end=5) == 0


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens(seed):
    random = Random(seed)
    world = World(epoch=random.choice((1, 4)))
    busy = {}
    for _ in range(400):
        for mount in range(3):
            for owner in (1, 2):
                request = busy.get((mount, owner))
                if request is not None and request not in world.answers[mount]:
                    if random.random() < 0.02:
                        world.mounts[mount].cancel(request)
                    continue
                whole = random.random() < 0.4
                start = 0 if whole else random.randrange(6)
                end = LAST if whole or random.random() < 0.3 else random.randrange(start, 6)
                mode = random.choice((NONE, NONE, SHARED, EXCLUSIVE))
                manner = random.choice((TRY, WAIT, WAIT))
                busy[mount, owner] = world.ask(
                    mount, mode, manner, owner, 1, start, end, whole=whole
                )
        chance = random.random()
        if chance < 0.04:
            world.disconnect(random.randrange(3))
        elif chance < 0.06:
            world.elect(random.randrange(3), is_new=random.random() < 0.3)
        elif chance < 0.08:
            world.cut.add(random.randrange(3))
        elif chance < 0.10:
            world.stopped.add(random.randrange(3))
        elif chance < 0.16:
            world.cut.clear()
            world.stopped.clear()
        elif chance < 0.18:
            world.is_sure = not world.is_sure
        for mount in world.cut:
            world.disconnect(mount)
        world.step(random.choice((1, 1, 1, 5, 20)))
        world.check()
    world.cut.clear()
    world.stopped.clear()
    world.is_sure = True
    for _ in range(
        8
    ):  # Everybody gives everything back, again and again, for who waited has something then.
        for mount, owner, whole in itertools.product(range(3), (1, 2), (True, False)):
            world.ask(mount, NONE, TRY, owner, whole=whole)
        world.step(LOCK_LEASE_NS // STEP_NS)
    for (mount, _), request in busy.items():
        assert request in world.answers[mount]
    assert not any(mount._held for mount in world.mounts)
    assert world.arbiter.status()["waiting"] == 0
