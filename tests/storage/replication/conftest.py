"""What tests of replication share: a shard of a few members whose logs are lists, and messages passed by hand.

Nothing is random but what a test draws. A `Node` is a driver as small as it can be: it does what `Ready` says, in order, and
checks on the way what a driver relies on. A `Shard` carries messages, keeps time, and plays the authority.
"""

import struct
from collections import Counter, deque

import pytest

from storage.replication import (
    RECORD_KIND,
    Epoch,
    Holdings,
    Note,
    Options,
    Replica,
    Role,
    Verdict,
    join,
    split,
)
from storage.replication.lineage import Lineage

MS = 1_000_000
SECOND = 1000 * MS
ENVELOPE = struct.Struct("<QQ")


class Node:
    """One member: a log that is a list, and a replica."""

    def __init__(self, shard, name, *, in_sync=False):
        self.shard = shard
        self.name = name
        self.log = []
        self.durable = 0
        self.committed = 0  # Of which the state machine knows; never undone.
        self.note = Note(0, in_sync)
        self.skew_ns = 0
        self.keeps_notes = True
        self.syncs = True
        self.full = False  # Its disk.
        self.sync_owed = False
        self.unkept = None
        self.sync_count = 0
        self.start()

    def start(self, epoch=None):
        lineage = Lineage()
        for frame in self.log:
            lineage.extend(frame.epoch, frame.index)
        last = self.log[-1] if self.log else None
        self.replica = Replica(
            self.name,
            Holdings(
                last_index=len(self.log),
                last_timestamp=last.timestamp if last else 0,
                durable_index=self.durable,
                commit_index=self.committed,
                lineage=lineage.entries(),
                requests=tuple(
                    (frame.index, *ENVELOPE.unpack_from(frame.metadata))
                    for frame in self.log[self.committed :]
                    if frame.kind == RECORD_KIND
                ),
                note=self.note,
            ),
            epoch,
            self.shard.now_ns,
            self.wall_ns,
            options=self.shard.options,
            last_number=self.last_applied,
        )

    @property
    def wall_ns(self):
        return 1_700_000_000 * SECOND + self.shard.now_ns + self.skew_ns

    def last_applied(self, client):
        """As the state machine would say."""
        numbers = [n for c, n, _ in self.records(self.committed) if c == client]
        return numbers[-1] if numbers else 0

    def records(self, until=None):
        """(client, number, record) of the log, in order."""
        return [
            (*ENVELOPE.unpack_from(frame.metadata), frame.metadata[16:])
            for frame in self.log[:until]
            if frame.kind == RECORD_KIND
        ]

    def work(self):
        """Do what is ready; answers whether there was anything."""
        did = False
        while (ready := self.replica.ready()) is not None:
            did = True
            if ready.note is not None:
                self.unkept = ready.note
                if self.keeps_notes:
                    self.keep()
            if ready.cut is not None:
                assert ready.cut >= self.committed
                del self.log[ready.cut :]
                self.durable = min(self.durable, ready.cut)
            if ready.append and self.full:
                self.replica.fail("No space left on device")
                continue
            if ready.append:
                assert ready.append[0].index == len(self.log) + 1
                assert not self.log or ready.append[0].timestamp > self.log[-1].timestamp
                self.log += ready.append
                self.replica.appended(len(self.log))
            if ready.sync:
                self.sync_owed = True
            if self.sync_owed and self.syncs:
                self.sync()
            for target, message in ready.send:
                self.shard.post(self.name, target, message)
            for want in ready.wanted:
                assert want.last_index <= len(self.log)
                size, frames = 0, []
                for frame in self.log[want.first_index - 1 : want.last_index]:
                    if frames and size + frame.size_bytes > want.bytes_max:
                        break
                    size += frame.size_bytes
                    frames.append(frame)
                self.replica.supply(want.member, frames)
            assert self.committed <= ready.commit_index <= len(self.log)
            self.committed = ready.commit_index
            self.shard.published(self, ready)
        return did

    def keep(self):
        if self.unkept is not None:
            self.note, self.unkept = self.unkept, None
            self.replica.kept(self.note)

    def sync(self):
        self.sync_owed = False
        self.sync_count += 1
        self.durable = len(self.log)
        self.replica.persisted(self.durable)

    def propose(self, number, client=7, **more):
        return self.replica.propose(
            self.shard.now_ns, client, number, b"record %d" % number, **more
        )


class Shard:
    """Some nodes, the messages between them, the time, and what the authority holds."""

    def __init__(self, names="abc", **options):
        self.options = Options(**options)
        self.now_ns = 5 * SECOND
        self.queue = deque()
        self.sent = Counter()
        self.cut_off = set()  # Names nobody can talk to; or pairs (from, to).
        self.lost = lambda source, target, message: False
        self.epoch = None
        self.nodes = {}
        self.history = {}  # What was committed, by index: must be one thing for ever.
        self.frontier = 0  # The greatest ever published, anywhere.
        self.frontier_index = 0
        for name in names:
            self.nodes[name] = Node(self, name, in_sync=True)

    def __getitem__(self, name):
        return self.nodes[name]

    def published(self, node, ready):
        """A node tells the world: what was told before must still be so."""
        for index in range(1, ready.commit_index + 1):
            frame = node.log[index - 1]
            fact = (frame.epoch, frame.timestamp, frame.metadata)
            if index not in self.history:
                assert frame.timestamp > self.frontier, "committed below a published frontier"
            assert self.history.setdefault(index, fact) == fact
        if ready.frontier.timestamp_us > self.frontier:
            self.frontier = ready.frontier.timestamp_us
        frontier = ready.frontier
        for index, (_, timestamp, _) in self.history.items():
            assert timestamp > frontier.timestamp_us or index <= frontier.index

    def post(self, source, target, message):
        self.sent[type(message).__name__] += 1
        if self.lost(source, target, message):
            return
        head, parts = split(message)  # As if it had been on a wire.
        self.queue.append((source, target, join(head, [memoryview(part) for part in parts])))

    def reachable(self, source, target):
        return not self.cut_off & {source, target, (source, target)} and target in self.nodes

    def deliver(self):
        source, target, message = self.queue.popleft()
        if self.reachable(source, target):
            self.nodes[target].replica.step(self.now_ns, source, message)

    def settle(self):
        """Until nothing is left to do at this moment."""
        for _ in range(10_000):
            busy = [node.work() for node in list(self.nodes.values())]
            if not self.queue and not any(busy):
                return
            while self.queue:
                self.deliver()
        raise AssertionError("they never stop talking")

    def tick(self, ms=50):
        self.now_ns += ms * MS
        for node in self.nodes.values():
            node.replica.tick(self.now_ns, node.wall_ns)
        self.settle()

    def run(self, ms):
        for _ in range(0, ms, 50):
            self.tick()

    def elect(self, leader, members=None, told=None):
        """The authority takes the next epoch, and some are told."""
        number = self.epoch.number + 1 if self.epoch else 1
        self.epoch = Epoch(number, leader, tuple(members or self.nodes))
        for name in self.nodes if told is None else told:
            self.nodes[name].replica.adopt(self.now_ns, self.epoch)
        self.settle()

    def leads(self, name):
        return self.nodes[name].replica.role is Role.LEADER

    def write(self, name, first, last=None, client=7):
        """Numbers first to last, each proposed by itself, all before anything is sent."""
        for number in range(first, (last or first) + 1):
            assert self.nodes[name].propose(number, client) is Verdict.TAKEN

    def same_logs(self, *names):
        logs = [self.nodes[name].log for name in names or self.nodes]
        return all(log == logs[0] for log in logs)


@pytest.fixture(scope="session")
def make_shard():
    return Shard


@pytest.fixture
def shard():
    made = Shard()
    made.elect("a")
    return made
