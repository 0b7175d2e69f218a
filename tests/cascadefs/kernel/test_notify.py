"""Goal: what the kernel is told to forget arrives in order, and what it makes wait for one shard keeps no other waiting.

Method: a device that holds up what it is told about a node until told to go on; requests that let others have the file system.
"""

import threading

import pytest

from cascadefs.kernel import notification
from cascadefs.kernel.dispatch import Dispatch
from cascadefs.kernel.handler import Kind
from cascadefs.kernel.notify import LANES_MAX, Notifier
from cascadefs.kernel.protocol import NO_REPLY, Opcode
from cascadefs.kernel.turnstile import Turnstile
from storage.cluster.turns import Turns
from storage.limits import INODES_PER_SHARD, RECORD_INODE_MAX

LIMIT_S = 30
HEADER = (40, 0, 2, 0, 0, 0, 0, 0, 0)


def in_shard(shard, number):
    return shard * INODES_PER_SHARD + number


class Device:
    def __init__(self):
        self.sent = []
        self.holds = {}
        self.told = threading.Condition()

    def send(self, message):
        gate = self.holds.get(message)
        if gate is not None:
            assert gate.wait(LIMIT_S)
        with self.told:
            self.sent.append(message)
            self.told.notify_all()

    def wait(self, count):
        with self.told:
            assert self.told.wait_for(lambda: len(self.sent) >= count, LIMIT_S)
            return list(self.sent)


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def notifier(device):
    made = Notifier(device.send)
    made.start()
    yield made
    for gate in device.holds.values():
        gate.set()
    assert made.stop()


def test_a_shard_that_is_stuck_keeps_nothing_of_others_from_being_forgotten(device, notifier):
    stuck = notification.invalidate_node(in_shard(1, 7))
    device.holds[stuck] = gate = threading.Event()
    notifier.put([(in_shard(1, 7), None), (in_shard(1, 8), b"behind it")])
    others = [(in_shard(shard, 7), name) for shard in (0, 2, 3) for name in (b"a", b"b", None)]
    others.append((RECORD_INODE_MAX + 5, None))
    notifier.put(others)
    assert len(device.wait(len(others))) == len(others)
    assert stuck not in device.sent
    woken = notification.poll(99)
    notifier.wake(99)
    gate.set()
    sent = device.wait(len(others) + 3)
    behind = notification.invalidate_entry(in_shard(1, 8), b"behind it")
    assert sent[-3:] == [stuck, behind, woken], "who polls finds nothing that should be forgotten"
    for shard in (0, 2, 3):
        of_shard = [
            notification.invalidate_entry(in_shard(shard, 7), b"a"),
            notification.invalidate_entry(in_shard(shard, 7), b"b"),
            notification.invalidate_node(in_shard(shard, 7)),
        ]
        assert [message for message in sent if message in of_shard] == of_shard


def test_who_is_told_in_his_turn_is_told_behind_what_was_put_before(device, notifier):
    node = in_shard(1, 7)
    earlier = notification.invalidate_entry(in_shard(1, 8), b"earlier")
    device.holds[earlier] = gate = threading.Event()
    told = threading.Event()
    notifier.put([(in_shard(1, 8), b"earlier"), (node, None)])
    notifier.put_behind([(in_shard(2, 9), None)], node, told.set)
    device.wait(1)
    assert not told.is_set()
    gate.set()
    assert told.wait(LIMIT_S)
    assert notification.invalidate_node(node) in device.sent


def test_there_is_a_bound_and_what_was_put_before_the_start_is_sent(device):
    notifier = Notifier(device.send)
    for shard in range(3 * LANES_MAX):
        notifier.put([(in_shard(shard, 1), None)])
    notifier.start()
    assert len(device.wait(3 * LANES_MAX)) == 3 * LANES_MAX
    assert len(notifier._lanes) == LANES_MAX
    assert notifier.stop()


def test_where_there_can_be_no_more_threads_it_is_sent_all_the_same(device, notifier, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    notifier.put([(in_shard(1, 1), None)])
    notifier.put([(in_shard(2, 1), None)], done.set)
    assert done.wait(LIMIT_S)
    assert len(device.wait(2)) == 2


def test_who_waits_for_the_kernel_to_forget_waits_only_for_what_his_request_changed():
    """Another request has the file system while this one waits, and leaves a directory to be forgotten that somebody holds."""
    left, revealed, turnstile = [], [], Turnstile()

    def take():
        taken = left.copy()
        left.clear()
        return taken

    dispatch = Dispatch(
        turnstile,
        lambda unique, result: None,
        lambda: None,
        take,
        lambda *told: revealed.append(told),
    )
    turns = Turns(turnstile.lock, always=True)
    turns.on_rest, turns.on_back = dispatch.rest, dispatch.back

    def handle(node, body, header):
        left.append((node, None))
        turns.apart(lambda: left.append((1, b"another's")))
        left.append((node, b"own"))
        return None

    dispatch.enter({Opcode.SETXATTR: (handle, Kind.REVEALS)})
    left.append((2, b"from before"))
    assert dispatch.table[Opcode.SETXATTR](5, memoryview(b""), HEADER) == NO_REPLY
    ((node, unique, result, own, others),) = revealed
    assert (node, unique, result) == (5, 2, None)
    assert own == [(5, None), (5, b"own")]
    assert others == [(2, b"from before"), (1, b"another's")]
